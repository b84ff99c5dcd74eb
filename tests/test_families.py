"""ELECTRA, ALBERT and DistilBERT against transformers: outputs, losses and gradients over small configurations."""

import pytest
import torch

from convbert import modeling
from convbert.checkpoints import from_disk
from convbert.families.registry import FAMILIES
from convbert.input_checks import check_inputs  # noqa: F401

transformers = pytest.importorskip(
    "transformers", reason="the reference is not installed: pip install transformers==5.23.0"
)

BASE = dict(
    vocab_size=97,
    hidden_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=96,
    max_position_embeddings=40,
    num_labels=3,
    pad_token_id=0,
)
SHAPES = {
    "electra": {
        "plain": dict(embedding_size=48, type_vocab_size=2),
        "factorised": dict(embedding_size=16, hidden_act="relu"),
        "types": dict(embedding_size=16, type_vocab_size=5, hidden_act="gelu_new"),
        "no projection": dict(embedding_size=16, summary_use_proj=False),
    },
    "albert": {
        "plain": dict(embedding_size=16),
        "same width": dict(embedding_size=48, hidden_act="relu"),
        "two groups": dict(embedding_size=16, num_hidden_groups=2, type_vocab_size=3),
        "inner": dict(embedding_size=16, num_hidden_groups=2, inner_group_num=2, hidden_act="silu"),
    },
    "distilbert": {
        "plain": {},
        "sinusoidal": dict(sinusoidal_pos_embds=True),
        "relu": dict(activation="relu"),
    },
}
THEIR_NAMES = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
}
CASES = [(kind, head, shape) for kind in SHAPES for head in FAMILIES[kind].heads for shape in SHAPES[kind]]


def make_pair(kind, head, seed=0, **shape):
    family = FAMILIES[kind]
    values = {**BASE, **shape}
    if head in ("ForQuestionAnswering", "ForPreTraining"):
        values["num_labels"] = 2
    name = family.prefix + head
    torch.manual_seed(seed)
    theirs_values = {THEIR_NAMES.get(k, k): v for k, v in values.items()} if kind == "distilbert" else values
    theirs_config = getattr(transformers, f"{family.prefix}Config")(**theirs_values, attn_implementation="eager")
    theirs = getattr(transformers, name)(theirs_config).eval()
    for p in theirs.parameters():
        p.data.normal_(0, 0.2)
    ours = getattr(modeling, name)(family.config.from_dict(theirs_config.to_dict())).eval()
    loaded, report = from_disk(ours.key_map.for_config(ours.config), theirs.state_dict(), ours.state_dict())
    assert not (report.missing or report.unexpected or report.mismatched), report
    ours.load_state_dict(loaded)
    return theirs, ours


def make_inputs(kind, head, config, generator, T=17):
    B = 3
    rows = (B, 4, T) if head == "ForMultipleChoice" else (B, T)
    ids = torch.randint(1, BASE["vocab_size"], rows, generator=generator)
    mask = torch.ones(rows, dtype=torch.long)
    mask[0, ..., T - 5 :], mask[1, ..., T - 1 :] = 0, 0
    inputs = dict(input_ids=ids * mask, attention_mask=mask)
    if config.type_vocab_size:
        inputs["token_type_ids"] = torch.randint(0, config.type_vocab_size, rows, generator=generator)
    tokens = torch.where(torch.rand(rows, generator=generator) < 0.3, ids, -100).where(mask.bool(), -100)
    labels = {
        "ForMaskedLM": dict(labels=tokens),
        "ForSequenceClassification": dict(labels=torch.tensor([0, 2, 1])),
        "ForMultipleChoice": dict(labels=torch.tensor([3, 0, 2])),
        "ForTokenClassification": dict(labels=torch.randint(0, 3, rows, generator=generator).where(mask.bool(), -100)),
        "ForQuestionAnswering": dict(start_positions=torch.tensor([1, 4, 99]), end_positions=torch.tensor([3, 4, 7])),
        "ForPreTraining": dict(labels=torch.randint(0, 2, rows, generator=generator)),
    }
    if kind == "albert" and head == "ForPreTraining":
        return {**inputs, "labels": tokens, "sentence_order_label": torch.tensor([0, 1, 1])}
    return {**inputs, **labels.get(head, {})}


PER_TOKEN = ("last_hidden_state", "logits", "start_logits", "end_logits", "prediction_logits")
PER_TEXT = ("loss", "pooler_output", "sop_logits")


def compare(ours, theirs, mask, per_token):
    for name in (*PER_TOKEN, *PER_TEXT):
        a, b = getattr(ours, name, None), getattr(theirs, name, None)
        assert (a is None) == (b is None), name
        if a is not None:
            if name in PER_TOKEN and per_token:
                a, b = a[mask.bool()], b[mask.bool()]
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(("kind", "head", "shape"), CASES)
def test_outputs_and_gradients_equal_transformers(kind, head, shape, generator):
    theirs, ours = make_pair(kind, head, **SHAPES[kind][shape])
    inputs = make_inputs(kind, head, ours.config, generator)
    expected, got = theirs(**inputs), ours(**inputs)
    per_token = head not in ("ForSequenceClassification", "ForMultipleChoice")
    compare(got, expected, inputs["attention_mask"], per_token)
    real = inputs["attention_mask"][..., None]
    for output in (expected, got):
        loss = (
            output.loss
            if getattr(output, "loss", None) is not None
            else (output.last_hidden_state * real).square().mean()
        )
        loss.backward()
    theirs_grads = {
        n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in theirs.named_parameters(remove_duplicate=False)
    }
    disk, report = from_disk(ours.key_map.for_config(ours.config), theirs_grads, dict(ours.named_parameters()))
    assert not report.missing
    for parameter, p in ours.named_parameters():
        given = torch.zeros_like(p) if p.grad is None else p.grad
        scale = max(1.0, disk[parameter].abs().max().item())
        torch.testing.assert_close(
            given / scale, disk[parameter] / scale, atol=1e-5, rtol=1e-4, msg=lambda m, n=parameter: f"{n}: {m}"
        )
