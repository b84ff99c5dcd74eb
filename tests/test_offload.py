"""Weights that accelerate keeps elsewhere and fetches layer by layer: every head answers as it did."""

import copy

import pytest
import torch
from test_gradients import HEADS, batch, make
from torch import nn
from torch.nn.parallel import scatter_gather
from torch.testing import assert_close

from convbert import ConvBertTokenizerFast, pipeline
from convbert.pipelines.tasks import DEFAULT_MODELS

accelerate = pytest.importorskip("accelerate", reason="accelerate moves the weights")

PARTS = {"encoder.embeddings": "cpu", "encoder.layers": "disk", "predictions": "disk", "classifier": "disk"}
WAYS = {
    "cpu": lambda model, folder: accelerate.cpu_offload(model, torch.device("cpu")),
    "cpu with buffers": lambda model, folder: accelerate.cpu_offload(model, torch.device("cpu"), offload_buffers=True),
    "disk": lambda model, folder: accelerate.disk_offload(model, folder, torch.device("cpu")),
    "some of it on disk": lambda model, folder: accelerate.dispatch_model(
        model, {k: v for k, v in PARTS.items() if k.startswith("encoder") or hasattr(model, k)}
        | ({"qa_outputs": "disk"} if hasattr(model, "qa_outputs") else {}), main_device="cpu", offload_dir=folder
    ),
    "words on disk": lambda model, folder: accelerate.dispatch_model(
        model, {"encoder.embeddings": "disk", "encoder.layers": "cpu"}
        | {name: "cpu" for name, _ in model.named_children() if name != "encoder"},
        main_device="cpu", offload_dir=folder,
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("head", HEADS)
def test_every_head(head, way, tmp_path):
    model, given = make(head).eval(), batch((6, 2, 4), choices=head == "ForMultipleChoice")
    types = {**given, "token_type_ids": torch.ones_like(given["input_ids"])}
    alone = {"input_ids": given["input_ids"], "output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        expected = [model(**each) for each in (given, types, alone)]
        moved = WAYS[way](model, str(tmp_path))
        assert any(p.is_meta for p in moved.parameters())
        for each, before in zip((given, types, alone), expected, strict=True):
            after = moved(**each)
            assert list(after) == list(before)
            for name in before:
                assert_close(after[name], before[name], atol=1e-6, rtol=1e-5)
        assert any(p.is_meta for p in moved.parameters()), "the weights were put away again"


def test_masked_words_and_their_loss(tmp_path):
    model, given = make().eval(), batch((6, 2, 4))
    more = {**given, "labels": given["input_ids"].where(given["attention_mask"] > 0, -100)}
    places = {**given, "predict_at": torch.tensor([[0, 1]] * 3)}
    with torch.no_grad():
        expected = model(**more), model(**places)
        moved = accelerate.disk_offload(model, str(tmp_path), torch.device("cpu"))
        for each, before in zip((more, places), expected, strict=True):
            for name in before:
                assert_close(moved(**each)[name], before[name], atol=1e-6, rtol=1e-5)


ASK = {
    "fill-mask": "The [MASK] sailed.",
    "feature-extraction": "The ship sailed.",
    "text-classification": "A quiet, beautiful film.",
    "token-classification": "The ship sailed.",
    "question-answering": {"question": "What sailed?", "context": "The ship sailed."},
    "multiple-choice": {"question": "What sailed?", "choices": ["the ship", "the sea"]},
}


@pytest.mark.parametrize("task", ASK)
def test_every_pipeline(task, tmp_path):
    plain = pipeline(task, device="cpu")
    moved = accelerate.cpu_offload(copy.deepcopy(plain.model), torch.device("cpu"))
    tokenizer = ConvBertTokenizerFast.from_pretrained(DEFAULT_MODELS[task])
    found, expected = pipeline(task, moved, tokenizer=tokenizer)(ASK[task]), plain(ASK[task])
    if task == "feature-extraction":
        assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-5, rtol=1e-5)
    else:
        assert str(found) == str(expected)


# -- outputs that torch puts together


@pytest.mark.parametrize("head", HEADS)
def test_outputs_survive_the_gather_of_data_parallel(head, monkeypatch):
    """The walk through the outputs is torch's; only its copy between GPUs is done by `cat`, which CPUs have."""

    class Joined:
        @staticmethod
        def apply(target, dim, *parts):
            return torch.cat([part.view(1) if part.dim() == 0 else part for part in parts], dim)

    monkeypatch.setattr(scatter_gather, "Gather", Joined)
    model, given = make(head).eval(), batch((6, 2, 4, 5), choices=head == "ForMultipleChoice")
    given |= dict(output_hidden_states=True, output_attentions=True)
    halves = [{k: v[part] if torch.is_tensor(v) else v for k, v in given.items()} for part in (slice(2), slice(2, 4))]
    with torch.no_grad():
        whole, parts = model(**given), [nn.DataParallel(model)(**half) for half in halves]
    joined = scatter_gather.gather(parts, "cpu")
    assert type(joined) is type(whole) and list(joined) == list(whole)
    for name in whole:
        assert_close(joined[name], whole[name], atol=1e-5, rtol=1e-5)
        assert joined[name] is getattr(joined, name)
