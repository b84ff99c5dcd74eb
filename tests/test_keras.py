"""Keras models against PyTorch's, from the same folders; and what users of Keras do with a model."""


import numpy as np
import pytest
import torch
from family_pairs import BASE, make_inputs, scalar

from convbert import modeling
from convbert.config_checks import PROBABILITIES
from convbert.families.registry import FAMILIES

keras = pytest.importorskip("keras", reason='pip install "convbert[tf]"')
tf = pytest.importorskip("tensorflow", reason='pip install "convbert[tf]"')

from convbert import keras as models  # noqa: E402
from convbert.keras.variables import is_transposed, named_variables  # noqa: E402
from convbert.weights import read_state  # noqa: E402

CLASSES = [(kind, head) for kind, family in FAMILIES.items() for head in family.heads]
SHAPES = {
    "convbert": {
        "right": {},
        "left": dict(embedding_size=16, num_groups=2, conv_kernel_size=5, hidden_act="relu", summary_type="mean"),
        "holes": dict(head_ratio=1, conv_kernel_size=11, hidden_act="gelu_new", summary_type="last"),
        "legacy": dict(head_size_rule="original", conv_padding="legacy", conv_kernel_size=3, num_groups=4),
    },
    "electra": {
        "right": dict(embedding_size=48),
        "left": dict(embedding_size=16, hidden_act="mish", summary_type="last"),
        "holes": dict(embedding_size=16, type_vocab_size=5, summary_use_proj=False),
    },
    "albert": {
        "right": dict(embedding_size=16),
        "left": dict(embedding_size=48, hidden_act="silu"),
        "holes": dict(embedding_size=16, num_hidden_groups=2, inner_group_num=2, num_hidden_layers=3),
    },
    "distilbert": {"right": {}, "left": dict(sinusoidal_pos_embds=True), "holes": dict(hidden_act="quick_gelu")},
}
CASES = [(*each, padding) for each in CLASSES for padding in SHAPES[each[0]]]


def make_pair(folder, kind, head="Model", **values):
    """PyTorch's model, whose weights are large enough for everything to matter, and Keras's from its folder."""
    family = FAMILIES[kind]
    labels = {"num_labels": 2} if head in ("ForQuestionAnswering", "ForPreTraining") else {}
    torch.manual_seed(0)
    config = family.config(**{**BASE, "num_hidden_layers": 2, **labels, **values})
    theirs = getattr(modeling, family.prefix + head)(config).eval()
    for p in theirs.parameters():
        p.data.normal_(0, 0.2)
    theirs.save_pretrained(folder)
    return theirs, getattr(models, f"TF{family.prefix}{head}").from_pretrained(folder)


def as_numpy(inputs):
    return {name: x.numpy() for name, x in inputs.items()}


def flat(output):
    """Every tensor of an output by its name."""
    parts = {name: x if isinstance(x, tuple) else (x,) for name, x in output.items()}
    return {f"{name}[{i}]": x for name, part in parts.items() for i, x in enumerate(part)}


def compare(ours, theirs, tolerance=2e-5):
    """All fields, to a tolerance of the largest number where that is above 1."""
    ours, theirs = flat(ours), flat(theirs)
    assert [*ours] == [*theirs]
    for name, b in theirs.items():
        b = b.detach().numpy()
        scale = max(1.0, np.abs(b).max())
        np.testing.assert_allclose(np.asarray(ours[name]) / scale, b / scale, 0, tolerance, err_msg=name)


@pytest.mark.parametrize(("kind", "head", "padding"), CASES)
def test_outputs_equal_pytorch(kind, head, padding, generator, tmp_path):
    theirs, ours = make_pair(tmp_path, kind, head, **SHAPES[kind][padding])
    inputs = make_inputs(kind, head, theirs.config, generator, padding=padding)
    with torch.no_grad():
        for shown in ({}, {"output_hidden_states": True, "output_attentions": True}):
            compare(ours(**as_numpy(inputs), **shown), theirs(**inputs, **shown))


@pytest.mark.parametrize(("kind", "head"), CLASSES)
def test_gradients_equal_pytorch(kind, head, generator, tmp_path):
    """Of the loss, or of all features, for every weight under its name, in a step of training without dropout."""
    rates = {name: 0.0 for name in vars(FAMILIES[kind].config()) if name in PROBABILITIES}
    theirs, ours = make_pair(tmp_path, kind, head, **rates, **SHAPES[kind]["holes"])
    inputs = make_inputs(kind, head, theirs.config, generator)
    mask, variables = inputs["attention_mask"], named_variables(ours)
    scalar(theirs(**inputs), mask).backward()
    with tf.GradientTape() as tape:
        output = ours(**as_numpy(inputs), training=True)
        features = [x for x in (output.get("last_hidden_state"), output.get("pooler_output")) if x is not None]
        loss = sum(tf.reduce_mean(tf.square(x)) for x in features) if output.loss is None else output.loss
    gradients = tape.gradient(loss, [v.value for v in variables.values()])
    found = dict(theirs.named_parameters())
    assert {*found} == {*variables}
    for (name, variable), gradient in zip(variables.items(), gradients, strict=True):
        expected = found[name].grad
        expected = np.zeros(found[name].shape) if expected is None else expected.numpy()
        got = np.zeros(variable.shape) if gradient is None else np.asarray(tf.convert_to_tensor(gradient))
        got = got.T if is_transposed(variable) else got
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(got / scale, expected / scale, 0, 1e-4, err_msg=name)


@pytest.mark.parametrize("kind", FAMILIES)
def test_other_inputs_equal_pytorch(kind, generator, tmp_path):
    """Embeddings instead of ids, positions, factors for heads, no mask at all, a tuple."""
    theirs, ours = make_pair(tmp_path, kind)
    config, ids = theirs.config, make_inputs(kind, "Model", theirs.config, generator)["input_ids"]
    heads = torch.rand(len(config.layer_order), len(config.head_kinds), config.num_heads, generator=generator)
    words = torch.randn(*ids.shape, config.embedding_size, generator=generator)
    places = torch.randint(0, BASE["max_position_embeddings"], ids.shape, generator=generator)
    with torch.no_grad():
        for given in ({"input_ids": ids}, {"inputs_embeds": words}, {"input_ids": ids, "position_ids": places}):
            compare(ours(as_numpy({**given, "head_mask": heads})), theirs(**given, head_mask=heads))
    as_tuple = ours(ids.tolist(), return_dict=False)
    np.testing.assert_array_equal(as_tuple[0], ours(tf.constant(ids.numpy())).last_hidden_state)


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        (None, np.array([0, 2, 1])),
        (None, np.ones((3, 3), "float32")),
        ("regression", np.array([[0.5, 1, -2]] * 3, "float32")),
        ("multi_label_classification", np.array([[0, 1, 1]] * 3)),
    ],
)
def test_problem_types(problem, labels, generator, tmp_path):
    theirs, ours = make_pair(tmp_path, "electra", "ForSequenceClassification", problem_type=problem, embedding_size=16)
    ids = make_inputs("electra", "Model", theirs.config, generator)["input_ids"]
    compare(ours(ids.numpy(), labels=labels), theirs(ids, labels=torch.tensor(labels)))


def test_scores_at_chosen_positions(generator, tmp_path):
    theirs, ours = make_pair(tmp_path, "albert", "ForPreTraining", embedding_size=16)
    given = {**make_inputs("albert", "Model", theirs.config, generator), "predict_at": torch.tensor([[1, 3]] * 3)}
    given["labels"] = torch.tensor([[5, -100], [6, 7], [-100, -100]])
    compare(ours(as_numpy(given)), theirs(**given))


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_folder_comes_back_bit_by_bit(kind, tmp_path):
    _, ours = make_pair(tmp_path / "torch", kind, "ForMaskedLM")
    ours.save_pretrained(tmp_path / "keras")
    before, after = (read_state(tmp_path / name, framework="np") for name in ("torch", "keras"))
    assert {*before} == {*after}
    for name, x in before.items():
        assert x.dtype == after[name].dtype and x.tobytes() == after[name].tobytes(), name
    again = type(ours).from_pretrained(tmp_path / "keras")
    assert again.config == ours.config and not again.load_report.fresh
