"""The same small model twice: transformers' and ours, with the same weights; and batches to compare them on."""

import random

import pytest
import torch
from torch.testing import assert_close

from convbert import modeling
from convbert.checkpoints import from_disk
from convbert.families.registry import FAMILIES

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
KINDS = "electra", "albert", "distilbert"
CLASSES = [(kind, head) for kind in KINDS for head in FAMILIES[kind].heads]
WHOLE_TEXT = "ForSequenceClassification", "ForMultipleChoice"  # one answer for a text, not for each token
PER_TOKEN = "last_hidden_state", "logits", "start_logits", "end_logits", "prediction_logits"
PER_TEXT = "loss", "pooler_output", "sop_logits"


def config_of(kind, **values):
    """A configuration of transformers, under its own names for the fields."""
    family = FAMILIES[kind]
    names = {field: alias for alias, field in family.config.aliases.items()}
    values = {names.get(name, name): value for name, value in {**BASE, **values}.items()}
    return getattr(transformers, f"{family.prefix}Config")(**values, attn_implementation="eager")


def make_pair(kind, head, seed=0, std=0.2, **values):
    """Both models, in evaluation mode, with equal weights that are large enough for everything to matter."""
    family = FAMILIES[kind]
    if head in ("ForQuestionAnswering", "ForPreTraining"):
        values["num_labels"] = 2
    theirs_config = config_of(kind, **values)
    torch.manual_seed(seed)
    theirs = getattr(transformers, family.prefix + head)(theirs_config).eval()
    for p in theirs.parameters():
        p.data.normal_(0, std)
    ours = getattr(modeling, family.prefix + head)(family.config.from_dict(theirs_config.to_dict())).eval()
    loaded, report = from_disk(ours.key_map.for_config(ours.config), theirs.state_dict(), ours.state_dict())
    assert not (report.missing or report.unexpected or report.mismatched), report
    ours.load_state_dict(loaded)
    return theirs, ours


def make_mask(rows, padding, generator):
    """`rows` ending in T: ones, with zeros on the right, on the left, or in holes behind the first token."""
    mask, T = torch.ones(rows, dtype=torch.long), rows[-1]
    if padding == "right":
        mask[0, ..., T - 5 :], mask[1, ..., T - 1 :] = 0, 0
    if padding == "left":
        mask[0, ..., :5], mask[1, ..., :1] = 0, 0
    if padding == "holes":
        mask[..., 1:] = (torch.rand(rows, generator=generator) < 0.7).long()[..., 1:]
        mask[0, ..., 8] = 1
    return mask


def make_labels(kind, head, config, ids, mask, generator):
    """What the head is asked, under the names of its arguments."""
    rows, B = tuple(ids.shape), len(ids)
    some = (torch.rand(rows, generator=generator) < 0.3) & mask.bool()
    some[0, ..., 8] = True  # at least one token is asked for
    words = torch.where(some, ids, -100)
    classes = {"labels": torch.randint(config.num_labels, (B,), generator=generator)}
    if config.problem_type == "regression":
        classes = {"labels": torch.randn(B, config.num_labels, generator=generator)}
    if config.problem_type == "multi_label_classification":
        classes = {"labels": (torch.rand(B, config.num_labels, generator=generator) < 0.5).float()}
    tags = torch.randint(config.num_labels, rows, generator=generator).where(mask.bool(), -100)
    if kind == "albert" and head == "ForPreTraining":
        return {"labels": words, "sentence_order_label": torch.tensor([0, 1, 1])}
    return {
        "ForMaskedLM": {"labels": words},
        "ForSequenceClassification": classes,
        "ForMultipleChoice": {"labels": torch.tensor([3, 0, 2])},
        "ForTokenClassification": {"labels": tags},
        "ForQuestionAnswering": dict(start_positions=torch.tensor([1, 4, 99]), end_positions=torch.tensor([3, 4, 7])),
        "ForPreTraining": {"labels": torch.randint(0, 2, rows, generator=generator)},
    }.get(head, {})


def make_inputs(kind, head, config, generator, T=17, padding="right"):
    """A batch for both models, labels included."""
    rows = (3, 4, T) if head == "ForMultipleChoice" else (3, T)
    ids, mask = (
        torch.randint(1, config.vocab_size, rows, generator=generator),
        make_mask(rows, padding, generator),
    )
    inputs = dict(input_ids=ids * mask, attention_mask=mask)
    if config.type_vocab_size:
        inputs["token_type_ids"] = torch.randint(0, config.type_vocab_size, rows, generator=generator)
    return {**inputs, **make_labels(kind, head, config, ids, mask, generator)}


def scalar(output, mask):
    """A number to differentiate: the loss, or a mean over what stands at real tokens."""
    if output.get("loss") is not None:
        return output.loss
    main = output.last_hidden_state if "last_hidden_state" in output else next(iter(output.values()))
    pooled = output.get("pooler_output")
    return (main * mask[..., None]).square().mean() + (0 if pooled is None else pooled.square().mean())


def close(a, b, name, **how):
    """Equal to 1e-5, of the largest number where that is above 1."""
    scale = max(1.0, b.abs().max().item())
    assert_close(a / scale, b / scale, **{"atol": 1e-5, "rtol": 1e-5, **how}, msg=lambda said: f"{name}: {said}")


def compare(ours, theirs, mask, head, skip=()):
    """All fields of an output, at real tokens."""
    real = mask.reshape(-1, mask.shape[-1]).bool()
    for name in (*PER_TOKEN, *PER_TEXT):
        a, b = getattr(ours, name, None), getattr(theirs, name, None)
        assert (a is None) == (b is None), name
        if a is None or name in skip:
            continue
        if name in PER_TOKEN and head not in WHOLE_TEXT:
            a, b = a[mask.bool()], b[mask.bool()]
        close(a, b, name)
    for name in ("hidden_states", "attentions"):
        a, b = ours.get(name), theirs.get(name)
        assert (a is None) == (b is None) and (a is None or len(a) == len(b)), name
        for i, (mine, other) in enumerate(zip(a or (), b or (), strict=True)):
            rows = (lambda x: x.transpose(1, 2)[real]) if name == "attentions" else (lambda x: x[real])
            close(rows(mine), rows(other), f"{name}[{i}]")


def compare_gradients(ours, theirs):
    """The gradient of every parameter, under our names."""
    found = theirs.named_parameters(remove_duplicate=False)
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in found}
    expected, report = from_disk(ours.key_map.for_config(ours.config), found, dict(ours.named_parameters()))
    assert not report.missing
    for name, p in ours.named_parameters():
        close(torch.zeros_like(p) if p.grad is None else p.grad, expected[name], name, rtol=1e-4)


def random_values(kind, seed):
    """The fields of a small random configuration."""
    draw = random.Random(f"{kind} {seed}")
    heads, layers = draw.choice([1, 2, 3, 4]), draw.choice([1, 2, 3, 4])
    values = dict(
        vocab_size=draw.randint(60, 120),
        num_attention_heads=heads,
        hidden_size=heads * draw.choice([4, 6, 10]),
        num_hidden_layers=layers,
        intermediate_size=draw.randint(5, 70),
        max_position_embeddings=draw.randint(17, 40),
        hidden_act=draw.choice(["gelu", "relu", "gelu_new", "silu", "tanh", "gelu_pytorch_tanh", "gelu_fast", "mish"]),
        pad_token_id=draw.choice([0, 0, 5, None]),
        num_labels=draw.choice([2, 3, 5]),
    )
    zero = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    if kind == "distilbert":
        return {
            **values,
            **zero,
            "sinusoidal_pos_embds": draw.random() < 0.3,
            "qa_dropout": 0,
            "seq_classif_dropout": 0,
        }
    values |= dict(
        embedding_size=draw.choice([values["hidden_size"], 8, 13, 50]),
        type_vocab_size=draw.choice([1, 2, 2, 5]),
        layer_norm_eps=draw.choice([1e-12, 1e-5, 1e-3]),
    )
    if kind == "albert":
        groups = draw.choice([g for g in (1, 2, 3) if g <= layers])
        inner = draw.choice([1, 1, 2, 3])
        return {**values, **zero, "num_hidden_groups": groups, "inner_group_num": inner, "classifier_dropout": 0.0}
    summary = {"summary_use_proj": draw.random() < 0.7, "summary_activation": draw.choice(["gelu", "relu", ""])}
    dropout = {"classifier_dropout": draw.choice([None, 0.0]), "summary_last_dropout": 0.0}
    return {**values, **zero, **summary, **dropout}
