"""A fifth family from outside: in under 60 lines its models equal transformers', and its folders load by name."""

import json
from pathlib import Path

import pytest
import torch
from bert_family import BERT, CLASSES
from family_pairs import close, compare_gradients, scalar, transformers

import convbert
from convbert import modeling
from convbert.checkpoints import LoadReport
from convbert.families.registry import FAMILIES

SIZES = dict(
    vocab_size=61, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=30, num_labels=2,
    max_position_embeddings=24,
)  # fmt: skip


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """What a family of the package has: a line in the registry, and its classes beside the others."""
    monkeypatch.setitem(FAMILIES, "bert", BERT)
    for name, cls in CLASSES.items():
        monkeypatch.setattr(modeling, name, cls, raising=False)


def batch(name, generator):
    rows = (2, 3, 11) if name.endswith("MultipleChoice") else (3, 11)
    ids, mask = torch.randint(1, 61, rows, generator=generator), torch.ones(rows, dtype=torch.long)
    mask[0, ..., 7:] = 0
    types = torch.randint(0, 2, rows, generator=generator)
    asked = {
        "BertForMaskedLM": {"labels": torch.where(mask.bool(), ids, -100)},
        "BertForNextSentencePrediction": {"labels": torch.tensor([0, 1, 1])},
        "BertForPreTraining": {
            "labels": torch.where(mask.bool(), ids, -100),
            "next_sentence_label": torch.tensor([0, 1, 1]),
        },
        "BertForQuestionAnswering": dict(
            start_positions=torch.tensor([1, 2, 9]), end_positions=torch.tensor([3, 2, 10])
        ),
        "BertForMultipleChoice": {"labels": torch.tensor([2, 0])},
        "BertForSequenceClassification": {"labels": torch.tensor([0, 1, 1])},
    }
    return dict(input_ids=ids * mask, attention_mask=mask, token_type_ids=types, **asked.get(name, {}))


@pytest.mark.parametrize("name", CLASSES)
def test_bert_equals_transformers(name, tmp_path, generator):
    torch.manual_seed(0)
    theirs = getattr(transformers, name)(transformers.BertConfig(**SIZES)).eval()
    for p in theirs.parameters():
        p.data.normal_(0, 0.2)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = getattr(convbert, f"AutoModel{name.removeprefix('Bert').removeprefix('Model')}", CLASSES[name])
    ours = ours.from_pretrained(tmp_path / "theirs")
    assert type(ours) is CLASSES[name] and ours.load_report == LoadReport()
    inputs = batch(name, generator)
    mask = inputs["attention_mask"]
    outputs = ours(**inputs), theirs(**inputs)
    for mine, other in zip(*outputs, strict=True):
        mine, other = outputs[0][mine], outputs[1][other]  # sop_logits are their seq_relationship_logits
        per_token = mine.shape[:2] == mask.shape and mine.dim() > 1
        close(*((x[mask.bool()] for x in (mine, other)) if per_token else (mine, other)), name)
    for output in outputs:
        scalar(output, mask).backward()
    compare_gradients(ours, theirs)
    ours.save_pretrained(tmp_path / "ours")
    again, info = getattr(transformers, name).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert (
        not any(info.values()) and json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"] == "bert"
    )
    close(again.eval()(**inputs)[0], outputs[1][0], "loaded again")


def test_what_it_costs():
    """Lines that are not empty."""
    lines = (Path(__file__).parent / "bert_family.py").read_text(encoding="utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) < 60
