"""Keras models against PyTorch's, from the same folders; and what users of Keras do with a model."""

import os
import subprocess
import sys

import numpy as np
import pytest
import reference_models as reference
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
CASES = [  # all shapes of the encoder, and for the heads one after the other; the rest is slow
    pytest.param(kind, head, padding, marks=() if head == "Model" or i % len(SHAPES[kind]) == n else pytest.mark.slow)
    for i, (kind, head) in enumerate(CLASSES)
    for n, padding in enumerate(SHAPES[kind])
]


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
    values = {**rates, **SHAPES[kind]["holes"], "num_hidden_layers": 2 if kind == "albert" else 1}
    theirs, ours = make_pair(tmp_path, kind, head, **values)
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
        if len(config.head_kinds) == 1:
            compare(ours(ids.numpy(), head_mask=heads[:, 0].numpy()), theirs(ids, head_mask=heads[:, 0]))
    as_tuple = ours(ids.tolist(), return_dict=False)
    np.testing.assert_array_equal(as_tuple[0], ours(tf.constant(ids.numpy())).last_hidden_state)


def test_users_write_their_own_call(generator, tmp_path):
    """A subclass may take `**inputs`; it is still called with a dictionary, and gives a tuple on request."""

    class Doubled(models.TFConvBertModel):
        def call(self, input_ids=None, **inputs):
            output = super().call(input_ids, **inputs)
            output.last_hidden_state = 2 * output.last_hidden_state
            return output

    ours = make_pair(tmp_path, "convbert")[1]
    theirs = Doubled.from_pretrained(tmp_path)
    ids = make_inputs("convbert", "Model", ours.config, generator)["input_ids"].numpy()
    expected = 2 * ours(ids).last_hidden_state
    np.testing.assert_allclose(theirs({"input_ids": ids}, return_dict=False)[0], expected, rtol=1e-6)
    np.testing.assert_allclose(theirs.predict(ids, verbose=0)["last_hidden_state"], expected, 0, 1e-5)


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
    again = type(ours).from_pretrained(tmp_path / "keras", from_pt=True)  # as users of transformers type
    assert again.config == ours.config and not again.load_report.fresh


@pytest.mark.parametrize("name", sorted(set(reference.folders("tf_model.h5"))))
def test_outputs_are_those_of_transformers(name, tmp_path):
    """Of its TensorFlow classes, from the files that they wrote."""
    kind = getattr(models, reference.class_name(name))
    legacy = {"conv_padding": "legacy"} if "ConvBert" in name else {}
    model = kind.from_pretrained(reference.unpack(name, tmp_path), **legacy)
    text, labels = reference.arguments(name)
    reference.compare(model(text, **labels, output_hidden_states=True, output_attentions=True), name)


# -- a Keras model


@pytest.fixture(scope="module")
def texts():
    """Eight texts, padded, as numpy, and a class for each."""
    random = np.random.default_rng(0)
    mask = np.ones((8, 6), dtype="int64")
    mask[:3, 4:] = 0
    return {"input_ids": random.integers(1, 97, (8, 6)) * mask, "attention_mask": mask}, random.integers(0, 3, 8)


def small(name="TFConvBertForSequenceClassification", seed=0, **values):
    """One narrow layer."""
    keras.utils.set_random_seed(seed)
    kind = getattr(models, name)
    sizes = dict(vocab_size=97, hidden_size=16, num_attention_heads=4, intermediate_size=24, num_hidden_layers=1)
    return kind(kind.config_class(**sizes, max_position_embeddings=40, num_labels=3), **values)


def from_logits():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def test_losses_of_keras_and_of_the_model_agree(texts):
    """With `y` or labels among the inputs, in one array or by `tf.data`."""
    (x, y), model = texts, small()
    inside = {**x, "labels": y}
    model.compile(loss=from_logits(), metrics=["accuracy"])
    expected = model.evaluate(x, y, verbose=0)
    model.compile(metrics=["accuracy"])
    for data in ((x, y), (inside,), (tf.data.Dataset.from_tensor_slices((x, y)).batch(4),)):
        np.testing.assert_allclose(model.evaluate(*data, verbose=0), expected, atol=1e-5)
    np.testing.assert_allclose(model(x, labels=y).loss, expected[0], atol=1e-5)
    output = model.predict(inside, batch_size=3, verbose=0)  # the last batch is smaller
    assert type(output.logits) is np.ndarray and [*output] == ["logits"]
    np.testing.assert_allclose(output.logits, model(x).logits, atol=1e-5)


@pytest.mark.parametrize("policy", ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)])
def test_training_learns(policy, texts):
    x, y = texts
    model = small(dtype=policy)
    model.compile(keras.optimizers.Adam(0.01))
    losses = model.fit(x, y, epochs=25, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
def test_steps_compiled_by_xla(texts):
    (x, y), model = texts, small()
    model.compile("sgd", jit_compile=True)
    np.testing.assert_allclose(model.test_on_batch(x, y), model(x, labels=y).loss, atol=1e-5)
    assert model.train_on_batch(x, y) > model.train_on_batch(x, y)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16", "float16"])
def test_number_types(policy, texts):
    """Scores in the type that is computed in, losses in float32; both finite, a row of nothing but padding included."""
    x, y = texts
    mask = x["attention_mask"] * (np.arange(8) > 0)[:, None]
    expected, model = small("TFConvBertForMaskedLM"), small("TFConvBertForMaskedLM", dtype=policy)
    output = model(x["input_ids"], mask, labels=x["input_ids"], output_hidden_states=True)
    assert output.logits.dtype == output.hidden_states[0].dtype == policy.removeprefix("mixed_")
    assert output.loss.dtype == "float32" and np.isfinite(np.asarray(output.logits, "float32")).all()
    np.testing.assert_allclose(output.loss, expected(x["input_ids"], mask, labels=x["input_ids"]).loss, atol=0.02)


def test_two_targets(texts):
    x, y = texts
    model = small("TFDistilBertForQuestionAnswering")
    own = []
    model.compile()
    for targets in ((y, y), {"start_positions": y, "end_positions": y}):
        own.append(model.evaluate(x, targets, verbose=0))
    asked = {"start_positions": y, "end_positions": y}
    np.testing.assert_allclose(own, model(x, **asked).loss, atol=1e-5)
    model.compile(loss={"start_logits": from_logits(), "end_logits": from_logits()})
    assert len(model.evaluate(x, {"start_logits": y, "end_logits": y}, verbose=0)) == 3


def test_a_keras_file_keeps_everything(texts, tmp_path):
    (x, y), model = texts, small()
    model.compile("adam", metrics=["accuracy"])
    model.train_on_batch(x, y)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    again, other = keras.saving.load_model(tmp_path / "model.keras"), small(seed=1)
    other.load_weights(tmp_path / "model.weights.h5")
    assert again.config == model.config and again.optimizer.iterations == 1
    for each in (again, other):
        np.testing.assert_array_equal(each(x).logits, model(x).logits)
    np.testing.assert_allclose(again.evaluate(x, y, verbose=0), model.evaluate(x, y, verbose=0), atol=1e-6)


def test_a_keras_file_in_a_new_process(tmp_path):
    """The package alone is imported, and none of its classes."""
    small().save(tmp_path / "model.keras")
    load = "import sys, keras, convbert.keras; keras.saving.load_model(sys.argv[1])"
    subprocess.run([sys.executable, "-c", load, str(tmp_path / "model.keras")], check=True)


def test_a_saved_model_serves_any_size(texts, tmp_path):
    x, model = texts[0], small("TFElectraForMultipleChoice")
    model.export(tmp_path / "choices", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "choices")
    for shape in ((2, 4, 6), (3, 2, 5)):
        batch = {name: np.resize(value, shape).astype("int32") for name, value in x.items()}
        batch["token_type_ids"] = 0 * batch["input_ids"]
        np.testing.assert_allclose(loaded.serve(batch)["logits"], model(batch).logits, atol=1e-5)


def test_part_of_a_functional_model(texts, tmp_path):
    x, encoder = texts[0], small("TFAlbertModel")
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in x}
    model = keras.Model(inputs, keras.layers.Dense(2)(encoder(inputs).pooler_output))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x), model(x))
    np.testing.assert_allclose(model.predict(x, verbose=0), model(x), atol=1e-5)


def test_any_mask_and_any_array(texts):
    x, model = {name: value.copy() for name, value in texts[0].items()}, small()
    expected = model(x).logits
    for kind in ("bool", "int8", "uint8", "int32", "float32"):
        given = dict(input_ids=x["input_ids"].tolist(), attention_mask=tf.constant(x["attention_mask"].astype(kind)))
        np.testing.assert_array_equal(model(**given).logits, expected)
    x["attention_mask"][:, 0] = 0  # padding comes first
    expected = model(x).logits
    for other in (0.5, 1 + np.arange(6) % 2):  # whatever is not zero is a real token
        np.testing.assert_array_equal(model(x["input_ids"], x["attention_mask"] * other).logits, expected)
    in_graph = tf.function(lambda ids, mask: model(ids, mask, output_attentions=True))(*x.values())
    assert type(in_graph) is type(model(x)) and len(in_graph.attentions) == 1
    np.testing.assert_allclose(in_graph.logits, expected, atol=1e-5)


def test_dropout_is_seeded(texts):
    x = texts[0]
    first, second = (small(seed=3)(x, training=True).logits for _ in range(2))
    np.testing.assert_array_equal(first, second)
    model = small(seed=3)
    assert np.abs(model(x, training=True).logits - model(x, training=True).logits).max() > 0
    np.testing.assert_array_equal(model(x).logits, model(x, training=False).logits)
    model.encoder.layers[0].mixer.weights_dropout.rate = 0.9  # of attention weights
    rate = model.config.hidden_dropout_prob
    assert rate == model.encoder.layers[0].mixer_dropout.rate == model.encoder.embeddings.dropout.rate


def test_frozen_layers_stay(texts):
    (x, y), model = texts, small()
    model.encoder.trainable = False
    before = [w.numpy() for w in model.encoder.weights]
    model.compile("sgd")
    model.fit(x, y, verbose=0)
    assert {v.path.split("/")[1] for v in model.trainable_weights} == {"classifier"}
    for old, new in zip(before, model.encoder.weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_names_are_those_of_keras():
    names = {v.path.split("/", 1)[1] for v in small().weights}
    wanted = "encoder/embeddings/word/embeddings", "encoder/embeddings/norm/gamma", "encoder/layers.0/mixer_norm/beta"
    assert names >= {*wanted, "encoder/layers.0/mixer/qkv_proj/kernel", "classifier/out_proj/bias"}


# -- bad input

BAD = {
    "ids outside": (dict(input_ids=[[2, 97]]), "token id 97 is outside the vocabulary of vocab_size=97"),
    "a negative id": (dict(input_ids=[[2, -1]]), "token id -1"),
    "an id beyond 32 bits": (dict(input_ids=[[2, 2**33]]), f"token id {2**33}"),
    "too long": (dict(input_ids=[[2] * 41]), "41 tokens are longer than"),
    "one row": (dict(input_ids=[2, 3]), r"must be \(batch, tokens\)"),
    "ragged rows": (dict(input_ids=[[2, 3], [2]]), "padding=True"),
    "another mask": (dict(input_ids=[[2, 3]], attention_mask=[[1]]), r"attention_mask has shape \(1, 1\)"),
    "token types": (dict(input_ids=[[2, 3]], token_type_ids=[[0, 1]]), "has no token types"),
    "a position": (dict(input_ids=[[2, 3]], position_ids=[[0, 40]]), "position 40 is outside"),
    "nothing": ({}, "exactly one of input_ids and inputs_embeds"),
    "a label": (dict(input_ids=[[2, 3]], labels=[3]), "label 3 is outside"),
}


@pytest.fixture(scope="module")
def classifier():
    return small("TFDistilBertForSequenceClassification")


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, classifier):
    inputs, said = BAD[case]
    with pytest.raises(ValueError, match=said):
        classifier(**inputs)


def test_bad_data(classifier):
    """`fit` and `predict` look at arrays before a graph hides them."""
    for inputs, said in (
        ({"input_ids": np.full((2, 3), 97)}, "token id 97"),
        ({"input_ids": np.ones((2, 41))}, "41 tokens"),
    ):
        with pytest.raises(ValueError, match=said):
            classifier.predict(inputs)
        with pytest.raises(ValueError, match=said):
            classifier.fit(inputs, np.ones(2))
    classifier.compile()
    with pytest.raises(ValueError, match="takes labels"):
        classifier.fit({"input_ids": np.ones((2, 3), dtype="int32")}, verbose=0)
    with pytest.raises(ValueError, match="sample weights need a loss"):
        classifier.fit(
            {"input_ids": np.ones((2, 3), dtype="int32")}, np.ones(2, "int32"), sample_weight=np.ones(2), verbose=0
        )


def test_bad_folders(tmp_path):
    small("TFDistilBertModel").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model_type='distilbert' is of another family"):
        models.TFElectraModel.from_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"classifier\.dense\.weight"):
        models.TFDistilBertForSequenceClassification.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"embeddings\.word\.weight: shape \(97, 16\)"):
        models.TFDistilBertModel.from_pretrained(tmp_path, vocab_size=50)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="cannot read"):
        models.TFDistilBertModel.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": print}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="refused to read"):
        models.TFDistilBertModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="mixed_bfloat16"):
        models.TFConvBertModel.from_pretrained("convbert-tiny", dtype="int8")
    with pytest.raises(TypeError, match="must be a DistilBertConfig"):
        models.TFDistilBertModel("distilbert")


# -- other processes

WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("no torch here", name="torch")

sys.meta_path.insert(0, NoTorch())
import keras
import numpy as np
from convbert.keras import TFConvBertForMaskedLM

model = TFConvBertForMaskedLM.from_pretrained(sys.argv[1])
ids = np.load(sys.argv[1] + "/ids.npy")
np.save(sys.argv[2] + "/logits.npy", model.predict({"input_ids": ids, "labels": ids}, verbose=0).logits)
model.save_pretrained(sys.argv[2])
if keras.backend.backend() == "jax":
    model.compile(keras.optimizers.Adam(0.01))
    losses = model.fit({"input_ids": ids}, ids, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < losses[0], losses
"""


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_without_torch(backend, tmp_path):
    """Loads, answers and saves where torch cannot be imported; on JAX it trains, too."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=97, hidden_size=16, num_attention_heads=4, intermediate_size=24, num_hidden_layers=1)
    theirs = modeling.ConvBertForMaskedLM(modeling.CONVBERT.config(**sizes, initializer_range=0.2)).eval()
    theirs.save_pretrained(tmp_path / "before")
    ids = np.random.default_rng(0).integers(1, 97, (4, 9))
    np.save(tmp_path / "before" / "ids.npy", ids)
    command = [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path / "before"), str(tmp_path / "after")]
    (tmp_path / "after").mkdir()
    subprocess.run(command, check=True, env={**os.environ, "KERAS_BACKEND": backend})
    compare({"logits": np.load(tmp_path / "after" / "logits.npy")}, {"logits": theirs(torch.tensor(ids)).logits})
    again = modeling.ConvBertForMaskedLM.from_pretrained(tmp_path / "after")
    for name, x in theirs.state_dict().items():
        assert torch.equal(x, again.state_dict()[name]), name
