"""The models in Flax NNX against ours in PyTorch: outputs, losses, gradients, folders; and JAX's transformations."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import reference_models as reference
import torch
from family_pairs import make_inputs, scalar

from convbert import DistilBertConfig, modeling
from convbert.checkpoints import LoadReport
from convbert.families.registry import FAMILIES

jax = pytest.importorskip("jax", reason='the Flax models need pip install "convbert[flax]"')
nnx = pytest.importorskip("flax.nnx", reason='the Flax models need pip install "convbert[flax]"')

import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

import convbert.flax as flax_side  # noqa: E402
from convbert.flax.variables import get_weights, named_params, set_weights  # noqa: E402

jax.config.update("jax_disable_most_optimizations", True)  # compiling takes longer here than running does

BASE = dict(
    vocab_size=97,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=24,
    max_position_embeddings=40,
    num_labels=3,
)
SHAPES = {
    "convbert": {
        "plain": dict(embedding_size=16),
        "groups": dict(embedding_size=8, num_groups=4, conv_kernel_size=5, hidden_act="gelu_new"),
        "original": dict(embedding_size=16, head_size_rule="original", head_ratio=4, summary_type="mean"),
        "legacy": dict(embedding_size=8, conv_padding="legacy", conv_kernel_size=3),
        "wide": dict(embedding_size=16, conv_kernel_size=21, type_vocab_size=3, summary_type="last"),
    },
    "electra": {
        "plain": dict(embedding_size=16),
        "factorised": dict(embedding_size=8, hidden_act="relu"),
        "types": dict(embedding_size=8, type_vocab_size=5, hidden_act="gelu_new"),
        "no projection": dict(embedding_size=8, summary_use_proj=False, summary_type="mean"),
    },
    "albert": {
        "plain": dict(embedding_size=8),
        "same width": dict(embedding_size=16, hidden_act="relu"),
        "two groups": dict(embedding_size=8, num_hidden_groups=2, type_vocab_size=3),
        "inner": dict(embedding_size=8, num_hidden_groups=2, inner_group_num=2, hidden_act="silu"),
    },
    "distilbert": {
        "plain": {},
        "sinusoidal": dict(sinusoidal_pos_embds=True),
        "relu": dict(hidden_act="relu", pad_token_id=None),
    },
}
CLASSES = [(kind, head) for kind, family in FAMILIES.items() for head in family.heads]
CASES = [(kind, head, shape) for kind, head in CLASSES for shape in SHAPES[kind]]
QUICK = [
    (kind, head, shape) for kind, head, shape in CASES if shape == "plain" or (kind, head) == ("convbert", "Model")
]
PADDINGS = "right", "left", "holes", "none"
NO_DROPOUT = "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "qa_dropout"
NO_DROPOUT += "seq_classif_dropout", "summary_last_dropout"


def make_pair(kind, head, seed=0, **values):
    """The same model twice, with weights that are large enough for everything to matter."""
    family = FAMILIES[kind]
    dropout = {name: 0.0 for name in NO_DROPOUT if name in family.config.__dataclass_fields__}
    two = {"num_labels": 2} if head in ("ForQuestionAnswering", "ForPreTraining") else {}
    config = family.config(**{**BASE, **dropout, **values, **two})
    torch.manual_seed(seed)
    theirs = getattr(modeling, family.prefix + head)(config).eval()
    for p in theirs.parameters():
        p.data.normal_(0, 0.2)
    ours = getattr(flax_side, f"Flax{family.prefix}{head}")(config)
    set_weights(ours, {name: x.numpy() for name, x in theirs.state_dict().items()})
    ours.eval()
    return theirs, ours


def numpy(inputs):
    return {name: x.numpy() if isinstance(x, torch.Tensor) else x for name, x in inputs.items()}


def close(ours, theirs, name, tolerance=2e-5):
    theirs = theirs.detach().numpy()
    scale = max(1.0, np.abs(theirs).max())
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=tolerance, rtol=0, err_msg=name)


def compare(ours, theirs, mask):
    """All fields of an output; attention maps at real tokens."""
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        if not isinstance(value, tuple):
            close(ours[name], value, name)
            continue
        assert len(ours[name]) == len(value)
        for i, (a, b) in enumerate(zip(ours[name], value, strict=True)):
            if name in ("attentions", "conv_kernels"):
                a, b = np.asarray(a).swapaxes(1, 2)[mask], b.transpose(1, 2)[torch.from_numpy(mask)]
            close(a, b, f"{name}[{i}]")


def slow_unless(quick, cases):
    """All cases, those that need not run each time marked."""
    return [pytest.param(*case, marks=[] if case in quick else [pytest.mark.slow]) for case in cases]


@pytest.mark.parametrize(("kind", "head", "shape"), slow_unless(QUICK, CASES))
def test_outputs(kind, head, shape, generator):
    theirs, ours = make_pair(kind, head, **SHAPES[kind][shape])
    padding = PADDINGS[CASES.index((kind, head, shape)) % len(PADDINGS)]
    inputs = make_inputs(kind, head, ours.config, generator, padding=padding)
    wanted = dict(output_hidden_states=True, output_attentions=True)
    mask = inputs["attention_mask"].flatten(0, -2).bool().numpy()
    with torch.inference_mode():
        compare(ours(**numpy(inputs)), theirs(**inputs), mask)
        compare(ours(**numpy(inputs), **wanted), theirs(**inputs, **wanted), mask)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_inputs_of_an_encoder(kind, padding, generator):
    theirs, ours = make_pair(kind, "Model", **SHAPES[kind]["plain"])
    inputs = make_inputs(kind, "Model", ours.config, generator, padding=padding)
    heads = len(ours.config.layer_order), len(ours.config.head_kinds), ours.config.num_heads
    E = ours.config.embedding_size
    others = [
        {"head_mask": torch.rand(heads, generator=generator)},
        {"position_ids": torch.randint(40, (3, 17), generator=generator)},
        {"inputs_embeds": torch.randn(3, 17, E, generator=generator), "input_ids": None},
    ]
    mask = inputs["attention_mask"].bool().numpy()
    with torch.inference_mode():
        for other in others:
            compare(ours(**numpy(inputs | other)), theirs(**inputs | other), mask)
        as_tuple = ours(**numpy(inputs), return_dict=False)
        close(as_tuple[0], theirs(**inputs, return_dict=False)[0], "tuple")


@nnx.jit
@nnx.grad
def gradients_of(model, inputs):
    output = model(**inputs)
    if output.get("loss") is not None:
        return output.loss
    pooled, mask = output.get("pooler_output"), inputs["attention_mask"][..., None]
    return jnp.square(output.last_hidden_state * mask).mean() + (0 if pooled is None else jnp.square(pooled).mean())


@pytest.mark.parametrize(("kind", "head"), slow_unless([case for case in CLASSES if case[0] == "convbert"], CLASSES))
def test_gradients(kind, head, generator):
    shapes = list(SHAPES[kind])
    theirs, ours = make_pair(kind, head, **SHAPES[kind][shapes[len(head) % len(shapes)]])
    theirs.train(), ours.train()
    inputs = make_inputs(kind, head, ours.config, generator)
    scalar(theirs(**inputs), inputs["attention_mask"]).backward()
    found = gradients_of(ours, numpy(inputs))
    gradients = {name: np.asarray(g[...].T if turned else g[...]) for name, (g, turned) in named_params(found).items()}
    for name, p in theirs.named_parameters():
        close(gradients[name], torch.zeros_like(p) if p.grad is None else p.grad, name, 1e-4)


PROBLEMS = {
    "regression": {"num_labels": 1},
    "multi_label_classification": {},
    "single_label_classification": {},
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_kinds_of_labels(problem, generator):
    theirs, ours = make_pair("distilbert", "ForSequenceClassification", problem_type=problem, **PROBLEMS[problem])
    inputs = make_inputs("distilbert", "ForSequenceClassification", ours.config, generator)
    compare(ours(**numpy(inputs)), theirs(**inputs), None)
    ours.config = ours.config.replace(problem_type=None)
    theirs.config = theirs.config.replace(problem_type=None)
    compare(ours(**numpy(inputs)), theirs(**inputs), None)


# -- folders


@pytest.mark.parametrize(("kind", "head"), CLASSES)
def test_folders_go_both_ways(kind, head, tmp_path):
    theirs, ours = make_pair(kind, head, **SHAPES[kind][list(SHAPES[kind])[-1]])
    theirs.save_pretrained(tmp_path / "torch")
    read = type(ours).from_pretrained(tmp_path / "torch")
    read.save_pretrained(tmp_path / "flax")
    again = type(theirs).from_pretrained(tmp_path / "flax")
    for name, x in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], x), name
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("torch", "flax")]
    assert configs[0] == configs[1]


def test_what_does_not_fit_is_told_by_name(tmp_path):
    theirs, _ = make_pair("distilbert", "ForMaskedLM")
    theirs.save_pretrained(tmp_path)
    with pytest.warns(UserWarning) as told:
        model = flax_side.FlaxDistilBertForTokenClassification.from_pretrained(tmp_path)
    with pytest.warns(UserWarning) as expected:
        reference = modeling.DistilBertForTokenClassification.from_pretrained(tmp_path)
    assert set(model.load_report.missing) == {"classifier.bias", "classifier.weight"}
    assert model.load_report.unexpected == reference.load_report.unexpected
    assert str(told[0].message).splitlines()[2:] == str(expected[0].message).splitlines()[2:]
    assert 0 < np.std(model.classifier.kernel) < 0.1  # drawn at random
    with pytest.raises(ValueError, match="embeddings.word.weight: shape"):
        flax_side.FlaxDistilBertModel.from_pretrained(tmp_path, vocab_size=99)
    grown = flax_side.FlaxDistilBertModel.from_pretrained(tmp_path, vocab_size=99, ignore_mismatched_sizes=True)
    assert grown.encoder.embeddings.word.embedding.shape == (99, 16)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_on_disk(dtype, tmp_path):
    theirs, ours = make_pair("convbert", "ForMaskedLM", embedding_size=16)
    theirs.to(getattr(torch, dtype)).save_pretrained(tmp_path)
    same = type(ours).from_pretrained(tmp_path, dtype="auto")
    assert {x.dtype.name for x in get_weights(same).values()} == {dtype}
    assert {x.dtype.name for x in get_weights(type(ours).from_pretrained(tmp_path)).values()} == {"float32"}
    same.save_pretrained(tmp_path / "again")
    again = modeling.ConvBertForMaskedLM.from_pretrained(tmp_path / "again", dtype="auto")
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in theirs.state_dict().items())


@pytest.mark.parametrize("name", reference.folders(".msgpack"))
def test_old_files_of_flax(name, tmp_path):
    """Outputs are those that transformers' Flax classes computed."""
    model = getattr(flax_side, reference.class_name(name)).from_pretrained(reference.unpack(name, tmp_path))
    assert model.load_report == LoadReport()
    text, labels = reference.arguments(name)
    compared = nnx.jit(lambda model, inputs: model(**inputs, output_hidden_states=True, output_attentions=True))
    reference.compare(compared(model, {**text, **labels}), name)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import numpy as np
from convbert import ConvBertTokenizerFast, FlaxConvBertForMaskedLM
model = FlaxConvBertForMaskedLM.from_pretrained("convbert-tiny")
tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
logits = model(**tokenizer(["Light [MASK] in straight lines."], return_tensors="np")).logits
model.save_pretrained(sys.argv[1])
np.save(sys.argv[1] + "/logits.npy", logits)
"""


def test_without_torch(tmp_path):
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(tmp_path)], check=True)
    model = modeling.ConvBertForMaskedLM.from_pretrained(tmp_path)
    bundled = modeling.ConvBertForMaskedLM.from_pretrained("convbert-tiny")
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in bundled.state_dict().items())
    from convbert import ConvBertTokenizerFast

    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    batch = tokenizer(["Light [MASK] in straight lines."], return_tensors="pt")
    close(np.load(tmp_path / "logits.npy"), model(**batch).logits, "logits", 1e-5)


WITHOUT_FLAX = """
import sys
sys.modules["flax"] = None
import convbert
try:
    convbert.FlaxConvBertModel
except ImportError as error:
    assert 'pip install "convbert[flax]"' in str(error), error
else:
    raise SystemExit("no error")
"""


def test_a_missing_library_is_named():
    subprocess.run([sys.executable, "-c", WITHOUT_FLAX], check=True)


# -- bad input


@pytest.fixture(scope="module")
def small():
    return make_pair("distilbert", "ForSequenceClassification")[1]


BAD = {
    "ids outside": (dict(input_ids=[[2, 97]]), "token id 97 is outside the vocabulary of vocab_size=97"),
    "a negative id": (dict(input_ids=[[2, -1]]), "token id -1"),
    "an id beyond 32 bits": (dict(input_ids=[[2, 2**33]]), f"token id {2**33}"),
    "too long": (dict(input_ids=[[2] * 41]), "41 tokens are longer than"),
    "one row": (dict(input_ids=[2, 3]), "must be \\(batch, tokens\\)"),
    "ragged rows": (dict(input_ids=[[2, 3], [2]]), "padding=True"),
    "another mask": (dict(input_ids=[[2, 3]], attention_mask=[[1]]), "attention_mask has shape \\(1, 1\\)"),
    "token types": (dict(input_ids=[[2, 3]], token_type_ids=[[0, 1]]), "has no token types"),
    "a position": (dict(input_ids=[[2, 3]], position_ids=[[0, 40]]), "position 40 is outside"),
    "nothing": ({}, "exactly one of input_ids and inputs_embeds"),
    "a label": (dict(input_ids=[[2, 3]], labels=[3]), "label 3 is outside"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, small):
    inputs, said = BAD[case]
    with pytest.raises(ValueError, match=said):
        small(**inputs)


def test_bad_folders(tmp_path):
    theirs, _ = make_pair("distilbert", "Model")
    folder = tmp_path / "distilbert"
    theirs.save_pretrained(folder)
    with pytest.raises(ValueError, match="model_type='distilbert' is of another family"):
        flax_side.FlaxElectraModel.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="cannot read"):
        flax_side.FlaxDistilBertModel.from_pretrained(folder)
    (folder / "model.safetensors").rename(folder / "flax_model.msgpack")
    with pytest.raises(ValueError, match="flax_model.msgpack: it is cut short, damaged"):
        flax_side.FlaxDistilBertModel.from_pretrained(folder)
    (folder / "flax_model.msgpack").unlink()
    with pytest.raises(FileNotFoundError, match="has no weights"):
        flax_side.FlaxDistilBertModel.from_pretrained(folder)
    torch.save({"embeddings.word_embeddings.weight": print}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="refused to read"):
        flax_side.FlaxDistilBertModel.from_pretrained(folder)
    with pytest.raises(ValueError, match="dtype='int8'"):
        flax_side.FlaxConvBertModel.from_pretrained("convbert-tiny", dtype="int8")
    with pytest.raises(TypeError, match="must be a DistilBertConfig"):
        flax_side.FlaxDistilBertModel("distilbert")


PICKLE_WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from convbert import FlaxDistilBertModel
try:
    FlaxDistilBertModel.from_pretrained(sys.argv[1])
except ValueError as error:
    assert "pip install torch" in str(error), error
else:
    raise SystemExit("no error")
"""


def test_a_pickle_without_torch(tmp_path):
    theirs, _ = make_pair("distilbert", "Model")
    theirs.config.save_pretrained(tmp_path)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    subprocess.run([sys.executable, "-c", PICKLE_WITHOUT_TORCH, str(tmp_path)], check=True)


# -- what JAX does with a model


@pytest.fixture(scope="module")
def tagger():
    """A small model and a batch for it."""
    _, model = make_pair("convbert", "ForTokenClassification", embedding_size=8, num_hidden_layers=1)
    inputs = make_inputs("convbert", "ForTokenClassification", model.config, torch.Generator().manual_seed(0))
    return model, numpy(inputs)


def test_jit(tagger):
    model, inputs = tagger
    expected = model(**inputs, output_attentions=True)
    got = nnx.jit(lambda model, inputs: model(**inputs, output_attentions=True))(model, inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, expected)
    assert type(got) is type(expected)


def test_ids_outside_are_not_a_number_when_nobody_can_look(tagger):
    model, _ = tagger
    logits = nnx.jit(lambda model, ids: model(ids).logits)(model, jnp.array([[2, 97], [2, 3]]))
    assert jnp.isnan(logits[0]).any() and jnp.isfinite(logits[1]).all()


def test_pure_form_under_vmap_and_grad(tagger):
    """Gradients of each example, by `jax.vmap` over `jax.grad` of the split model."""
    model, inputs = tagger
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, example):
        return nnx.merge(graphdef, params, rest)(**{name: x[None] for name, x in example.items()}).loss

    each = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, inputs)
    one = jax.jit(jax.grad(loss))(params, {name: x[1] for name, x in inputs.items()})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, atol=1e-5), each, one)


def test_only_params_are_trained(tagger):
    model, inputs = tagger
    model = nnx.clone(model)
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, inputs):
        loss, gradients = nnx.value_and_grad(lambda model: model(**inputs).loss)(model)
        optimizer.update(model, gradients)
        return loss, gradients

    losses = []
    for _ in range(12):
        loss, gradients = step(model, optimizer, inputs)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert {type(x) for x in jax.tree.leaves(gradients, is_leaf=lambda x: isinstance(x, nnx.Variable))} == {nnx.Param}


def test_dropout_by_rngs():
    config = DistilBertConfig(**{**BASE, "hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5})
    model = flax_side.FlaxDistilBertModel(config, rngs=nnx.Rngs(0, dropout=1))
    ids = np.array([[2, 7, 9, 3]])
    run = nnx.jit(lambda model: model(ids).last_hidden_state)
    first, second = run(model), run(model)
    assert not np.allclose(first, second)
    nnx.reseed(model, dropout=1)
    again = run(model)
    nnx.reseed(model, dropout=1)
    np.testing.assert_array_equal(run(model), again)
    model.eval()
    np.testing.assert_array_equal(run(model), run(model))


@pytest.mark.parametrize("kept", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_bfloat16(tagger, kept):
    model, inputs = tagger
    half = type(model)(model.config, dtype=jnp.bfloat16, param_dtype=kept)
    set_weights(half, get_weights(model))
    half.eval()
    run = nnx.jit(lambda model, inputs: model(**inputs))
    output, exact = run(half, inputs), run(model, inputs)
    assert output.logits.dtype == jnp.bfloat16 and output.loss.dtype == jnp.float32
    scale = np.abs(exact.logits).max()
    np.testing.assert_allclose(output.logits.astype("f4") / scale, exact.logits / scale, atol=0.05)
    nothing = run(half, inputs | {"attention_mask": 0 * inputs["attention_mask"]})
    assert jnp.isfinite(nothing.logits).all()
    gradients = gradients_of(half, inputs)
    assert {x.dtype.name for x in jax.tree.leaves(gradients)} == {kept}
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradients))


def test_compute_type_of_a_model_that_there_is(tagger):
    model = nnx.clone(tagger[0])
    model.set_attributes(dtype=jnp.bfloat16)
    output = model(tagger[1]["input_ids"])
    assert output.logits.dtype == jnp.bfloat16 and model.classifier.kernel.dtype == jnp.float32


SHARDED = """
import sys
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec as P
from convbert import FlaxConvBertForTokenClassification

assert jax.device_count() == 4
model = FlaxConvBertForTokenClassification.from_pretrained(sys.argv[1])
inputs = dict(np.load(sys.argv[2]))
mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
by_row = {"up", "qkv_proj", "span_pointwise"}  # their outputs are split, and the next layer's inputs


def place(path, x):
    names = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
    split = P(None, "model") if by_row & {*names} else P("model") if {"down", "output"} & {*names} else P()
    return jax.device_put(x, NamedSharding(mesh, split if x.ndim == 2 else P()))


nnx.update(model, jax.tree_util.tree_map_with_path(place, nnx.state(model)))
batch = {name: jax.device_put(x, NamedSharding(mesh, P("data"))) for name, x in inputs.items()}
step = nnx.jit(nnx.value_and_grad(lambda model, batch: model(**batch).loss))
loss, gradients = step(model, batch)
kernel = model.encoder.layers[0].feed_forward.up.kernel[...]
assert len({str(shard.index) for shard in kernel.addressable_shards}) == 2
logits = nnx.jit(lambda model, batch: model(**batch).logits)(model, batch)
assert len({str(shard.index) for shard in logits.addressable_shards}) >= 2
up = gradients["encoder"]["layers"][0]["feed_forward"]["up"]["kernel"][...]
np.savez(sys.argv[3], loss=loss, logits=logits, up=up)
"""


@pytest.mark.slow
def test_four_devices(tagger, tmp_path):
    """Rows of the batch over one axis of a mesh, features of the layers over the other."""
    model, inputs = tagger
    inputs = {name: np.concatenate([x, x[:1]]) for name, x in inputs.items()}  # four rows
    expected = model(**inputs)
    gradients = gradients_of(model, inputs)
    model.save_pretrained(tmp_path)
    np.savez(tmp_path / "inputs.npz", **inputs)
    files = [str(tmp_path), str(tmp_path / "inputs.npz"), str(tmp_path / "outputs.npz")]
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run([sys.executable, "-c", SHARDED, *files], check=True, env={**os.environ, **flags})
    got = np.load(files[2])
    np.testing.assert_allclose(got["logits"], expected.logits, atol=1e-5)
    np.testing.assert_allclose(got["loss"], expected.loss, atol=1e-5)
    up = gradients["encoder"]["layers"][0]["feed_forward"]["up"]["kernel"][...]
    np.testing.assert_allclose(got["up"], up, atol=1e-5)
