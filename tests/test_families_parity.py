"""ELECTRA, ALBERT and DistilBERT against transformers: outputs, losses and gradients over small configurations."""

import pytest
import torch
from family_pairs import (
    BASE,
    CLASSES,
    KINDS,
    WHOLE_TEXT,
    close,
    compare,
    compare_gradients,
    make_inputs,
    make_pair,
    random_values,
    scalar,
)

from convbert.families.registry import FAMILIES
from convbert.layers.batch_layout import token_positions

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
        "relu": dict(hidden_act="relu"),
    },
}
TOKEN_CLASSES = [(kind, head) for kind, head in CLASSES if head not in WHOLE_TEXT]
RANDOM = [(kind, seed) for kind in KINDS for seed in range(40)]


def check(theirs, ours, inputs, head, skip=(), gradients=True):
    """Outputs, loss and gradients of one batch."""
    expected, got = theirs(**inputs), ours(**inputs)
    mask = inputs["attention_mask"]
    compare(got, expected, mask, head, skip)
    if gradients:
        for output in (expected, got):
            scalar(output, mask).backward()
        compare_gradients(ours, theirs)


@pytest.mark.parametrize(("kind", "head", "shape"), [(*c, shape) for c in CLASSES for shape in SHAPES[c[0]]])
def test_outputs_and_gradients(kind, head, shape, generator):
    theirs, ours = make_pair(kind, head, **SHAPES[kind][shape])
    check(theirs, ours, make_inputs(kind, head, ours.config, generator), head)


@pytest.mark.parametrize(("kind", "seed"), RANDOM)
def test_random_configurations(kind, seed):
    """Heads take turns; every other model is in training mode, and every third batch has holes in its mask."""
    heads, generator = FAMILIES[kind].heads, torch.Generator().manual_seed(seed)
    head, problem = heads[seed % len(heads)], {}
    if head == "ForSequenceClassification":
        types = ("regression", "multi_label_classification", "single_label_classification", None)
        problem = {"problem_type": types[seed // len(heads) % 4]}
    theirs, ours = make_pair(kind, head, seed, **random_values(kind, seed), **problem)
    theirs.train(seed % 2 == 1), ours.train(seed % 2 == 1)
    inputs = make_inputs(kind, head, ours.config, generator, padding=["right", "holes", "none"][seed % 3])
    check(theirs, ours, inputs, head)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_embeddings_and_each_layer(kind, seed, generator):
    """Where a whole model differs, this says which part does."""
    theirs, ours = make_pair(kind, "Model", seed, **random_values(kind, seed))
    inputs = make_inputs(kind, "Model", ours.config, generator, padding="none")
    del inputs["attention_mask"]
    x = ours.encoder.embeddings(**inputs)
    given = theirs(**inputs, output_hidden_states=True).hidden_states
    close(x, given[0], "embeddings")
    for step, number in enumerate(ours.config.layer_order):
        x, _ = ours.encoder.layers[number](given[step])
        close(x, given[step + 1], f"step {step}, layer {number}")


@pytest.mark.parametrize(("kind", "head"), TOKEN_CLASSES)
def test_padding_on_the_left(kind, head, generator):
    """Positions count from a text's first token; transformers is told so."""
    theirs, ours = make_pair(kind, head)
    inputs = make_inputs(kind, head, ours.config, generator, padding="left")
    places = {"position_ids": token_positions(inputs["attention_mask"])}
    expected, got, told = theirs(**inputs, **places), ours(**inputs), ours(**inputs, **places)
    skip = ("pooler_output", "sop_logits", "loss") if kind == "albert" else ()  # theirs read the first column, a pad
    for output in (got, told):
        compare(output, expected, inputs["attention_mask"], head, skip)


@pytest.mark.parametrize(("kind", "head"), CLASSES)
def test_hidden_states_and_attention_maps(kind, head, generator):
    more = dict(num_hidden_groups=2, inner_group_num=2, embedding_size=16) if kind == "albert" else {}
    theirs, ours = make_pair(kind, head, **more)
    inputs = make_inputs(kind, head, ours.config, generator)
    for shown in (("hidden_states",), ("attentions",), ("hidden_states", "attentions")):
        asked = {f"output_{name}": True for name in shown}
        expected, got = theirs(**inputs, **asked), ours(**inputs, **asked)
        compare(got, expected, inputs["attention_mask"], head)
        assert {*shown} <= {*got} and "conv_kernels" not in got


@pytest.mark.parametrize(("kind", "head"), CLASSES)
def test_embeddings_and_positions_as_inputs(kind, head, generator):
    theirs, ours = make_pair(kind, head)
    inputs = make_inputs(kind, head, ours.config, generator, padding="holes")
    ids = inputs.pop("input_ids")
    if (kind, head) != ("distilbert", "ForMultipleChoice"):  # of which transformers' flattens all inputs but this
        inputs["position_ids"] = torch.randint(0, BASE["max_position_embeddings"], ids.shape, generator=generator)
    words = torch.randn(*ids.shape, ours.config.embedding_size, generator=generator)
    given = [words.clone().requires_grad_(), words.clone().requires_grad_()]
    outputs = [model(**inputs, inputs_embeds=x) for model, x in zip((ours, theirs), given, strict=True)]
    compare(*outputs, inputs["attention_mask"], head)
    for output in outputs:
        scalar(output, inputs["attention_mask"]).backward()
    close(given[0].grad, given[1].grad, "inputs_embeds")
    compare_gradients(ours, theirs)


@pytest.mark.parametrize(("kind", "head"), CLASSES)
def test_nothing_but_ids(kind, head, generator):
    theirs, ours = make_pair(kind, head)
    ids = make_inputs(kind, head, ours.config, generator, padding="none")["input_ids"]
    with torch.no_grad():
        compare(ours(ids), theirs(ids), torch.ones_like(ids), head)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("problem", "count"),
    [("regression", 1), ("regression", 3), ("multi_label_classification", 4), (None, 1), (None, 3), ("", 4)],
)
def test_problem_types(kind, problem, count, generator):
    """The type is told by the configuration, or by the labels: here numbers, ids, and zeros and ones."""
    theirs, ours = make_pair(kind, "ForSequenceClassification", num_labels=count, problem_type=problem or None)
    inputs = make_inputs(kind, "ForSequenceClassification", ours.config, generator)
    if problem == "":
        inputs["labels"] = torch.ones(3, count)
    if problem is None and count == 1:
        inputs["labels"] = torch.randn(3)
    check(theirs, ours, inputs, "ForSequenceClassification")


@pytest.mark.parametrize("summary", ["last", "mean"])
def test_summaries_of_electra(summary, generator):
    """Without padding: transformers would count it in."""
    theirs, ours = make_pair("electra", "ForMultipleChoice", summary_type=summary, embedding_size=16)
    check(theirs, ours, make_inputs("electra", "ForMultipleChoice", ours.config, generator, padding="none"),
          "ForMultipleChoice")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_answers_beyond_the_text(kind, generator):
    theirs, ours = make_pair(kind, "ForQuestionAnswering")
    inputs = make_inputs(kind, "ForQuestionAnswering", ours.config, generator)
    for start, end in (([17, 99, 3], [18, 4, 17]), ([-1, 2, 3], [-5, 2, 16]), ([[1], [2], [3]], [[1], [2], [50]])):
        asked = dict(start_positions=torch.tensor(start), end_positions=torch.tensor(end))
        check(theirs, ours, {**inputs, **asked}, "ForQuestionAnswering", gradients=False)
