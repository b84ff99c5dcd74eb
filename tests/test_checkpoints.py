"""Weights on disk: every layout is read, every fault is named, saving is all or nothing; and transformers agrees."""

import json
import os
import pickle
import random
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch
from hub_server import HubServer, point_at
from safetensors.torch import load_file, save_file

from convbert import modeling
from convbert.checkpoints import LoadReport, from_disk, to_disk
from convbert.families.convbert import CONVBERT_KEYS, ConvBertConfig
from convbert.key_map import KeyMap
from convbert.modeling import ConvBertForMaskedLM, ConvBertForSequenceClassification, ConvBertModel
from convbert.shards import parse_size, plan_shards
from convbert.torch_loading import choose_dtype
from convbert.weights import read_state, write_state

SMALL = dict(
    vocab_size=61,
    hidden_size=16,
    embedding_size=8,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=24,
    max_position_embeddings=20,
    conv_kernel_size=3,
)
HEADS = [
    "ConvBertModel",
    "ConvBertForMaskedLM",
    "ConvBertForSequenceClassification",
    "ConvBertForMultipleChoice",
    "ConvBertForTokenClassification",
    "ConvBertForQuestionAnswering",
]


def config(**changes) -> ConvBertConfig:
    return ConvBertConfig(**{**SMALL, **changes})


def model(kind=ConvBertForMaskedLM, seed=0, **changes):
    torch.manual_seed(seed)
    made = kind(config(**changes)).eval()
    for parameter in made.parameters():
        parameter.data.normal_(0, 0.3)
    return made


def same_parameters(a, b) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def silently(load, *args, **options):
    """Load, and let every warning be an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load(*args, **options)


def as_bin(folder: Path, **options) -> Path:
    """Turn a folder's safetensors into the older layout."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin", **options)
    (folder / "model.safetensors").unlink()
    return folder


def as_sharded_bin(folder: Path) -> Path:
    """Two `.bin` shards and their index, as transformers wrote them."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    places = {key: names[i % 2] for i, key in enumerate(state)}
    for name in names:
        torch.save({key: state[key] for key in state if places[key] == name}, folder / name)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def saved(tmp_path) -> Path:
    """A folder with a masked language model."""
    model().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


# -- names ------------------------------------------------------------------------------------------------------------

PUBLISHED = """
embeddings.word_embeddings.weight embeddings.position_embeddings.weight embeddings.token_type_embeddings.weight
embeddings.LayerNorm.weight embeddings.LayerNorm.bias embeddings_project.weight embeddings_project.bias
""".split()
PUBLISHED_LAYER = """
attention.self.query.weight attention.self.query.bias attention.self.key.weight attention.self.key.bias
attention.self.value.weight attention.self.value.bias
attention.self.key_conv_attn_layer.depthwise.weight attention.self.key_conv_attn_layer.pointwise.weight
attention.self.key_conv_attn_layer.bias
attention.self.conv_kernel_layer.weight attention.self.conv_kernel_layer.bias
attention.self.conv_out_layer.weight attention.self.conv_out_layer.bias
attention.output.dense.weight attention.output.dense.bias
attention.output.LayerNorm.weight attention.output.LayerNorm.bias
intermediate.dense.weight intermediate.dense.bias output.dense.weight output.dense.bias
output.LayerNorm.weight output.LayerNorm.bias
""".split()
PUBLISHED_HEADS = {
    "ConvBertModel": "",
    "ConvBertForMaskedLM": "generator_predictions.dense.weight generator_predictions.dense.bias "
    "generator_predictions.LayerNorm.weight generator_predictions.LayerNorm.bias generator_lm_head.bias",
    "ConvBertForSequenceClassification": "classifier.dense.weight classifier.dense.bias "
    "classifier.out_proj.weight classifier.out_proj.bias",
    "ConvBertForMultipleChoice": "classifier.weight classifier.bias",
    "ConvBertForTokenClassification": "classifier.weight classifier.bias",
    "ConvBertForQuestionAnswering": "qa_outputs.weight qa_outputs.bias",
}


@pytest.mark.parametrize("name", HEADS)
def test_published_names(name):
    """The names of the checkpoints on the hub, written out: a slip in the key map cannot hide in a round trip."""
    base = PUBLISHED + [f"encoder.layer.{i}.{part}" for i in range(2) for part in PUBLISHED_LAYER]
    prefix = "" if name == "ConvBertModel" else "convbert."
    expected = {prefix + part for part in base} | set(PUBLISHED_HEADS[name].split())
    disk = model(getattr(modeling, name)).key_map.to_disk(model(getattr(modeling, name)).state_dict())
    assert set(disk) == expected


def test_shapes_on_disk():
    disk = to_disk(CONVBERT_KEYS, model(ConvBertModel).state_dict())
    layer = "encoder.layer.1.attention.self."
    assert disk[layer + "query.weight"].shape == disk[layer + "conv_out_layer.weight"].shape == (8, 16)
    assert disk[layer + "key_conv_attn_layer.depthwise.weight"].shape == (16, 1, 3)
    assert disk[layer + "key_conv_attn_layer.pointwise.weight"].shape == (8, 16, 1)
    assert disk[layer + "key_conv_attn_layer.bias"].shape == (8, 1)


def test_rows_are_stacked_in_order():
    made = model(ConvBertModel)
    disk = to_disk(CONVBERT_KEYS, made.state_dict())
    names = [f"encoder.layer.0.attention.self.{part}.bias" for part in ("query", "key", "value", "conv_out_layer")]
    assert torch.equal(torch.cat([disk[name] for name in names]), made.encoder.layers[0].mixer.qkv_proj.bias)


def test_there_and_back_for_any_order_and_prefix():
    made = model()
    disk = to_disk(CONVBERT_KEYS, made.state_dict())
    for rename in (lambda n: n, lambda n: n.removeprefix("convbert.")):
        shuffled = {rename(name): disk[name] for name in random.Random(0).sample(sorted(disk), len(disk))}
        state, report = from_disk(CONVBERT_KEYS, shuffled, made.state_dict())
        assert report == LoadReport()
        assert all(torch.equal(state[name], value) for name, value in made.state_dict().items())


def test_old_layer_norm_names():
    made = model()
    disk = to_disk(CONVBERT_KEYS, made.state_dict())
    old = {n.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): t for n, t in disk.items()}
    assert len(set(old) - set(disk)) == 12
    state, report = from_disk(CONVBERT_KEYS, old, made.state_dict())
    assert report == LoadReport() and torch.equal(state["predictions.norm.bias"], made.predictions.norm.bias)


def test_position_ids_are_passed_over():
    made = model()
    disk = to_disk(CONVBERT_KEYS, made.state_dict()) | {"convbert.embeddings.position_ids": torch.arange(20)[None]}
    assert from_disk(CONVBERT_KEYS, disk, made.state_dict())[1] == LoadReport()


def test_half_of_a_fused_parameter_is_not_enough():
    """An ELECTRA has query, key and value but no convolution: the whole is missing, and its parts are left over."""
    made = model(ConvBertModel)
    disk = {n: t for n, t in to_disk(CONVBERT_KEYS, made.state_dict()).items() if "0.attention.self.conv_out" not in n}
    state, report = from_disk(CONVBERT_KEYS, disk, made.state_dict())
    project = ["encoder.layers.0.mixer.qkv_proj.weight", "encoder.layers.0.mixer.qkv_proj.bias"]
    assert list(report.missing) == project and not set(project) & set(state)
    assert len(report.unexpected) == 6 and "encoder.layer.0.attention.self.query.bias" in report.unexpected


def test_report_reads_well():
    report = LoadReport(missing=("a.0.w", "a.1.w", "b"), unexpected=("c",))
    assert str(report) == (
        "Not in the checkpoint, so freshly initialised (train before use): a.*.w (2 times), b.\n"
        "In the checkpoint, but without use in this model: c."
    )
    assert str(LoadReport()) == "All parameters were loaded and all tensors were used."


# -- tied tensors -----------------------------------------------------------------------------------------------------

WORDS, LM_HEAD = "convbert.embeddings.word_embeddings.weight", "generator_lm_head.weight"


def test_tied_tensors_stored_twice(saved):
    state = read_state(saved)
    write_state(saved, state | {LM_HEAD: state[WORDS].clone()})
    assert same_parameters(silently(ConvBertForMaskedLM.from_pretrained, saved), model())


def test_tied_tensors_stored_under_the_other_name(saved):
    state = read_state(saved)
    write_state(saved, {LM_HEAD if name == WORDS else name: tensor for name, tensor in state.items()})
    assert same_parameters(silently(ConvBertForMaskedLM.from_pretrained, saved), model())


def test_tied_tensors_that_differ(saved):
    state = read_state(saved)
    write_state(saved, state | {LM_HEAD: state[WORDS] + 1})
    with pytest.raises(ValueError, match=rf"{LM_HEAD} and {WORDS} differ"):
        ConvBertForMaskedLM.from_pretrained(saved)
    with pytest.warns(UserWarning, match="without use in this model: .*generator_predictions"):
        ConvBertModel.from_pretrained(saved)  # has no such head, so there is nothing to contradict


def test_tied_tensors_with_nan(saved):
    state = read_state(saved)
    state[WORDS][3, 2] = float("nan")
    write_state(saved, state | {LM_HEAD: state[WORDS].clone()})
    with pytest.raises(ValueError, match=r"not a number, or infinite: encoder.embeddings.word.weight \(1 of"):
        ConvBertForMaskedLM.from_pretrained(saved)  # not: two tensors that differ


# -- layouts ----------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "safetensors": lambda folder: folder,
    "safetensors, sharded": lambda folder: model().save_pretrained(folder, max_shard_size="3KB") or folder,
    "bin": as_bin,
    "bin before torch 1.6": lambda folder: as_bin(folder, _use_new_zipfile_serialization=False),
    "bin, sharded": as_sharded_bin,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads(saved, layout):
    LAYOUTS[layout](saved)
    loaded = silently(ConvBertForMaskedLM.from_pretrained, saved)
    assert same_parameters(loaded, model()) and loaded.load_report == LoadReport()
    assert not loaded.training and all(p.requires_grad for p in loaded.parameters())


def test_safetensors_before_bin(saved):
    torch.save({"not": torch.ones(1)}, saved / "pytorch_model.bin")
    silently(ConvBertForMaskedLM.from_pretrained, saved)


def test_no_pickle_when_told(saved):
    read_state(saved, allow_pickle=False)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is a pickle, and allow_pickle=False"):
        read_state(as_bin(saved), allow_pickle=False)


def test_no_weights(tmp_path):
    (tmp_path / "rust_model.ot").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"has no weights; one of model\.safetensors"):
        read_state(tmp_path)


def test_a_published_layout_through_the_hub(saved, tmp_path, monkeypatch):
    """config.json, pytorch_model.bin and vocab.txt are all that the public repositories have."""
    as_bin(saved)
    (saved / "vocab.txt").write_text("[PAD]\n")
    with HubServer({"someone/conv-bert": saved}) as server:
        point_at(monkeypatch, server.url, tmp_path / "cache")
        loaded = silently(ConvBertForMaskedLM.from_pretrained, "someone/conv-bert")
        assert sorted(server.downloads()) == ["config.json", "pytorch_model.bin", "vocab.txt"]
    assert same_parameters(loaded, model())
    offline = silently(ConvBertForMaskedLM.from_pretrained, "someone/conv-bert", local_files_only=True)
    assert same_parameters(offline, model())


# -- number types, devices, overrides ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_float32_unless_asked(tmp_path, kind):
    model().to(kind).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(kind).removeprefix("torch.")
    types = {None: torch.float32, "auto": kind, "bfloat16": torch.bfloat16, torch.float16: torch.float16}
    for dtype, expected in types.items():
        loaded = silently(ConvBertForMaskedLM.from_pretrained, tmp_path, dtype=dtype)
        assert {p.dtype for p in loaded.parameters()} == {expected}


def test_auto_with_several_types_on_disk():
    kinds = {"a": torch.ones(1, dtype=torch.bfloat16), "b": torch.ones(1, dtype=torch.float16), "c": torch.arange(2)}
    assert choose_dtype("auto", kinds) == torch.float32
    assert choose_dtype("auto", {}) == torch.float32


@pytest.mark.parametrize("dtype", ["int8", "half precision", torch.int64, 16, "nn"])
def test_no_such_number_type(saved, dtype):
    with pytest.raises(ValueError, match="dtype=.* must be None, 'auto', 'float32'"):
        ConvBertForMaskedLM.from_pretrained(saved, dtype=dtype)


def test_fresh_parameters_have_the_type_of_the_others(saved):
    with pytest.warns(UserWarning, match="freshly initialised"):
        loaded = ConvBertForSequenceClassification.from_pretrained(saved, dtype="float16")
    assert {p.dtype for p in loaded.parameters()} == {torch.float16}


def test_a_model_that_was_never_loaded_has_no_report():
    assert model().load_report is None


def test_device(saved):
    loaded = ConvBertForMaskedLM.from_pretrained(saved, device="cpu")
    assert {p.device.type for p in loaded.parameters()} == {"cpu"}
    if torch.cuda.is_available():
        loaded = ConvBertForMaskedLM.from_pretrained(saved, device="cuda")
        assert {t.device.type for t in loaded.state_dict().values()} == {"cuda"}


def test_config_overrides(saved):
    loaded = ConvBertForMaskedLM.from_pretrained(saved, conv_padding="legacy", hidden_dropout_prob=0.4)
    assert loaded.config.conv_padding == "legacy" and loaded.config.hidden_dropout_prob == 0.4
    with pytest.raises(TypeError, match="no field 'hidden_droput_prob'.*hidden_dropout_prob"):
        ConvBertForMaskedLM.from_pretrained(saved, hidden_droput_prob=0.4)


def test_a_loaded_model_does_not_follow_its_file(saved):
    """The file is mapped while it is read; what is loaded must not change when somebody overwrites it."""
    for layout in (lambda folder: folder, as_bin):
        loaded = ConvBertForMaskedLM.from_pretrained(layout(saved))
        for file in saved.iterdir():
            with open(file, "r+b") as handle:  # the same file, not a new one in its place
                handle.write(bytes(file.stat().st_size))
        assert same_parameters(loaded, model())
        model().save_pretrained(saved)


def test_loading_draws_no_random_numbers(saved):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    ConvBertForMaskedLM.from_pretrained(saved)
    assert torch.equal(torch.get_rng_state(), before)


# -- base and heads ---------------------------------------------------------------------------------------------------


def test_base_to_head_to_base(tmp_path):
    base = model(ConvBertModel)
    base.save_pretrained(tmp_path / "base")
    with pytest.warns(UserWarning) as heard:
        head = ConvBertForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    assert len(heard) == 1 and heard[0].filename == __file__
    text = str(heard[0].message)
    assert "ConvBertForSequenceClassification" in text and "classifier.out_proj.weight" in text
    assert "without use" not in text and set(head.load_report.fresh) == set(head.load_report.missing) != set()
    head.save_pretrained(tmp_path / "head")
    assert same_parameters(silently(type(head).from_pretrained, tmp_path / "head"), head)
    with pytest.warns(UserWarning, match="without use in this model: classifier") as heard:
        again = ConvBertModel.from_pretrained(tmp_path / "head")
    assert len(heard) == 1 and not again.load_report.fresh
    assert same_parameters(again, base)


def test_fresh_parameters_are_those_of_a_new_model(saved):
    torch.manual_seed(5)
    new = ConvBertForSequenceClassification(config())
    torch.manual_seed(5)
    with pytest.warns(UserWarning):
        loaded = ConvBertForSequenceClassification.from_pretrained(saved)
    assert torch.equal(loaded.classifier.dense.weight, new.classifier.dense.weight)
    assert torch.equal(loaded.classifier.out_proj.bias, torch.zeros(2))


def test_another_number_of_labels(tmp_path):
    made = model(ConvBertForSequenceClassification, num_labels=3)
    made.save_pretrained(tmp_path)
    with pytest.raises(ValueError) as caught:
        ConvBertForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    text = str(caught.value)
    assert str(tmp_path) in text and "classifier.out_proj.weight" in text and "ignore_mismatched_sizes" in text
    assert "(3, 16)" in text and "(5, 16)" in text and "classifier.out_proj.bias" in text
    with pytest.warns(UserWarning, match=r"so freshly initialised too: classifier\.out_proj\.weight: shape \(3, 16\)"):
        loaded = ConvBertForSequenceClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert loaded.load_report.fresh == ("classifier.out_proj.weight", "classifier.out_proj.bias")
    assert torch.equal(loaded.classifier.dense.weight, made.classifier.dense.weight)


def test_fused_blocks_of_another_shape(saved):
    state = read_state(saved)
    name = "convbert.encoder.layer.1.attention.self.value.weight"
    write_state(saved, state | {name: torch.zeros(4, 16)})
    with pytest.raises(
        ValueError, match=r"layers\.1\.mixer\.qkv_proj\.weight: shape \(4, 16\) .*value\.weight\), \(8, 16\)"
    ):
        ConvBertForMaskedLM.from_pretrained(saved)


def test_a_config_of_another_size(saved):
    """Everything is of another shape: the message stays readable, and says how much more there is."""
    with pytest.raises(ValueError, match=r"word\.weight: shape \(61, 8\) on disk .*; and \d+ more\. Change the config"):
        ConvBertForMaskedLM.from_pretrained(saved, hidden_size=32, embedding_size=16, intermediate_size=48)


def test_another_family(saved):
    write_state(saved, {"bert.encoder.layer.0.output.dense.weight": torch.ones(2), "cls.bias": torch.ones(2)})
    with pytest.raises(ValueError, match=r"no parameter of the encoder is in it; it holds bert\.encoder.*cls\.bias"):
        ConvBertForMaskedLM.from_pretrained(saved)
    write_state(saved, {})
    with pytest.raises(ValueError, match="no parameter of the encoder is in it; it holds nothing"):
        ConvBertForMaskedLM.from_pretrained(saved)
    model(vocab_size=9, hidden_size=32).save_pretrained(saved)
    with pytest.raises(ValueError, match="no parameter of the encoder is in it"):
        wrong = {name: torch.zeros(1) for name in read_state(saved)}
        write_state(saved, wrong)
        ConvBertForMaskedLM.from_pretrained(saved, ignore_mismatched_sizes=True)


# -- files that are not what they should be ---------------------------------------------------------------------------

FILES = {"model.safetensors": lambda folder: folder, "pytorch_model.bin": as_bin}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 425\n"
CONTENTS = {
    "empty": (b"", "it is empty"),
    "garbage": (random.Random(1).randbytes(3000), "it is cut short, damaged, or of another format"),
    "zeros": (bytes(3000), "it is cut short, damaged, or of another format"),
    "web page": (b"\n<!DOCTYPE html>\n<html><title>Sign in</title>", "it is a web page"),
    "lfs pointer": (LFS, "it is a git-lfs pointer.*git lfs pull"),
    "short text": (b"x", "it is cut short, damaged, or of another format"),
    "json": (b'{"error": "Repository not found"}', "it is cut short, damaged, or of another format"),
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("file", FILES)
def test_not_weights_at_all(saved, file, content):
    data, expected = CONTENTS[content]
    FILES[file](saved)
    (saved / file).write_bytes(data)
    with pytest.raises(ValueError, match=rf"cannot read .*saved/{file}: {expected}") as caught:
        ConvBertForMaskedLM.from_pretrained(saved)
    assert "weights_only" not in str(caught.value)  # torch's advice to switch the protection off


@pytest.mark.parametrize("layout", ["safetensors", "bin", "bin before torch 1.6"])
def test_cut_anywhere(saved, layout):
    LAYOUTS[layout](saved)
    path = next(path for path in saved.iterdir() if path.name.startswith(("model", "pytorch")))
    data = path.read_bytes()
    for size in [1, 3, 8, 9, 100, *random.Random(0).sample(range(1, len(data)), 25), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=rf"cannot read .*{path.name}: "):
            read_state(saved)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("layout", ["safetensors", "bin", "bin before torch 1.6"])
def test_damaged_bytes_never_crash(saved, layout):
    """A flipped byte among the numbers cannot be seen; elsewhere the file loads or is refused in our words."""
    LAYOUTS[layout](saved)
    path = next(path for path in saved.iterdir() if path.name.startswith(("model", "pytorch")))
    data, dice = path.read_bytes(), random.Random(2)
    for _ in range(60):
        broken = bytearray(data)
        broken[dice.randrange(1500)] = dice.randrange(256)
        path.write_bytes(broken)
        try:
            state = read_state(saved)
        except ValueError as error:
            assert path.name in str(error)
        else:
            assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())


class Program:
    """What a hostile pickle does when it is loaded by the letter."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def hostile(how: str, path: Path, trace: Path):
    content = {"bert.weight": torch.ones(2), "extra": Program(str(trace))}
    if how == "raw pickle":
        path.write_bytes(pickle.dumps(content["extra"], protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "new format")


@pytest.mark.parametrize("how", ["new format", "old format", "raw pickle"])
def test_code_in_a_pickle_is_not_run(tmp_path, saved, how):
    trace, path = tmp_path / "it-ran", as_bin(saved) / "pytorch_model.bin"
    hostile(how, path, trace)
    with pytest.raises(ValueError, match=r"refused to read .*pytorch_model\.bin: .* code \(\S+\).*Nothing was run"):
        ConvBertForMaskedLM.from_pretrained(saved)
    assert not trace.exists()
    if how != "raw pickle":
        torch.load(path, weights_only=False)
        assert trace.exists()  # it would have


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_of_a_newer_protocol_is_not_run(tmp_path, saved):
    (as_bin(saved) / "pytorch_model.bin").write_bytes(pickle.dumps(Program(str(tmp_path / "it-ran")), protocol=5))
    with pytest.raises(ValueError, match=r"cannot read .*pytorch_model\.bin") as caught:
        read_state(saved)
    assert not (tmp_path / "it-ran").exists() and "weights_only" not in str(caught.value)


@pytest.mark.parametrize(
    "content, expected",
    [
        ([torch.ones(1)], "holds a list, not a table"),
        (torch.ones(1), "holds a Tensor, not a table"),
        ({"state_dict": {"a": torch.ones(1)}}, "it holds a dict under 'state_dict'"),
        ({"a": torch.ones(1), "epoch": 3}, "it holds a int under 'epoch'"),
        ({3: torch.ones(1)}, "it holds a Tensor under 3"),
    ],
)
def test_a_pickle_of_something_else(saved, content, expected):
    torch.save(content, as_bin(saved) / "pytorch_model.bin")
    with pytest.raises(ValueError, match=rf"pytorch_model\.bin .*{expected}"):
        ConvBertForMaskedLM.from_pretrained(saved)


def test_a_whole_module_in_a_pickle(saved):
    torch.save(torch.nn.Linear(2, 2), as_bin(saved) / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"holds code \(torch\.nn\.modules\.linear\.Linear\)"):
        read_state(saved)


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_numbers_without_a_fraction(saved, kind):
    state = read_state(saved)
    write_state(saved, state | {WORDS: state[WORDS].to(kind)})
    with pytest.raises(ValueError, match=rf"cannot load .*saved: {WORDS} holds {kind} numbers; a floating-point"):
        ConvBertForMaskedLM.from_pretrained(saved)


@pytest.mark.parametrize("shape", [(0, 8), (61, 0), (), (61,), (61, 8, 1), (8, 61)])
def test_wrong_shapes(saved, shape):
    write_state(saved, read_state(saved) | {WORDS: torch.zeros(shape)})
    with pytest.raises(ValueError) as caught:
        ConvBertForMaskedLM.from_pretrained(saved)
    text = str(caught.value)
    assert "encoder.embeddings.word.weight" in text and WORDS in text and f"shape {shape} on disk" in text


def test_nan_is_refused(saved):
    state = read_state(saved)
    state[WORDS][0, 0], state[WORDS][0, 1] = float("nan"), float("inf")
    write_state(saved, state)
    with pytest.raises(ValueError, match=r"cannot load .*not a number, or infinite: encoder.*weight \(2 of"):
        ConvBertForMaskedLM.from_pretrained(saved)


def test_a_folder_in_place_of_a_file(saved):
    (saved / "model.safetensors").unlink()
    (saved / "model.safetensors").mkdir()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is a folder or a broken link"):
        read_state(saved)


def test_a_broken_link(saved):
    (saved / "model.safetensors").unlink()
    (saved / "model.safetensors").symlink_to(saved / "gone")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is a folder or a broken link"):
        read_state(saved)


# -- shards -----------------------------------------------------------------------------------------------------------

INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(tmp_path) -> Path:
    model().save_pretrained(tmp_path / "saved", max_shard_size="3KB")
    return tmp_path / "saved"


def edit(path: Path, change):
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    "shard",
    ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "", "a\\b.safetensors", "C:x", None, 3, ["x"]],
)
def test_shard_outside_the_folder(sharded, tmp_path, shard):
    save_file({WORDS: torch.zeros(61, 8)}, tmp_path / "secret.safetensors")
    edit(sharded / INDEX, lambda index: index["weight_map"].update({WORDS: shard}))
    with pytest.raises(ValueError, match=rf"{INDEX} (names the shard .* file in the same folder|is no index)"):
        read_state(sharded)


def test_missing_shard(sharded):
    first = sorted(sharded.glob("model-*"))[0]
    first.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{first.name} is missing; {INDEX} names it"):
        ConvBertForMaskedLM.from_pretrained(sharded)


def test_shard_without_a_promised_tensor(sharded):
    edit(sharded / INDEX, lambda index: index["weight_map"].update({"extra": sorted(sharded.glob("model-*"))[0].name}))
    with pytest.raises(ValueError, match=rf"lacks 'extra', which {INDEX} says"):
        read_state(sharded)


def test_a_tensor_comes_from_the_shard_that_the_index_names(sharded):
    """A stale copy of a tensor in another shard is not mixed in."""
    places = json.loads((sharded / INDEX).read_text())["weight_map"]
    other = next(sharded / file for file in places.values() if file != places[WORDS])
    save_file({**load_file(other), WORDS: torch.zeros(61, 8)}, other)
    assert same_parameters(silently(ConvBertForMaskedLM.from_pretrained, sharded), model())


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "{}", '{"weight_map": 3}', '{"weight_map": ["a"]}', '{"weight_map": null}']
)
def test_broken_index(sharded, text):
    (sharded / INDEX).write_text(text)
    with pytest.raises(ValueError, match=rf"{INDEX} is no index of shards"):
        read_state(sharded)


def test_broken_shard_is_named(sharded):
    path = sorted(sharded.glob("model-*"))[1]
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=rf"cannot read .*{path.name}: it is cut short"):
        ConvBertForMaskedLM.from_pretrained(sharded)


def test_index_of_bin_shards_is_no_way_around(tmp_path, saved):
    """A safetensors index that names a pickle: it is read as safetensors, so nothing runs."""
    hostile("new format", saved / "evil.bin", tmp_path / "it-ran")
    (saved / "model.safetensors").unlink()
    (saved / INDEX).write_text(json.dumps({"weight_map": {"a": "evil.bin"}}))
    with pytest.raises(ValueError, match=r"cannot read .*evil\.bin"):
        read_state(saved)
    assert not (tmp_path / "it-ran").exists()


def test_plan_shards():
    assert plan_shards({"a": 2, "b": 2, "c": 2}, 4) == [["a", "b"], ["c"]]
    assert plan_shards({"a": 9, "b": 1}, 4) == [["a"], ["b"]]
    assert plan_shards({"a": 4}, 4) == [["a"]]
    assert plan_shards({}, 4) == [[]]


@pytest.mark.parametrize(
    "size, expected", [("5GB", 5e9), ("1.5 mb", 1.5e6), (10, 10), ("10", 10), ("2KB", 2000), ("7B", 7)]
)
def test_parse_size(size, expected):
    assert parse_size(size) == expected


@pytest.mark.parametrize("size", [0, -1, "", "GB", "5 apples", None, True, "5GiB", "0MB", "nan", "inf"])
def test_sizes_that_mean_nothing(size, tmp_path):
    with pytest.raises(ValueError, match=r"max_shard_size=.* must be a positive number"):
        model().save_pretrained(tmp_path / "new", max_shard_size=size)
    assert not (tmp_path / "new").exists()


# -- saving -----------------------------------------------------------------------------------------------------------


def test_what_is_written(tmp_path):
    model().save_pretrained(tmp_path / "a" / "b")
    folder = tmp_path / "a" / "b"
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    written = json.loads((folder / "config.json").read_text())
    assert (written["architectures"], written["model_type"]) == (["ConvBertForMaskedLM"], "convbert")
    assert written["dtype"] == "float32"
    umask = os.umask(0)
    os.umask(umask)
    assert all(path.stat().st_mode & 0o777 == 0o666 & ~umask for path in folder.iterdir())


def test_unknown_keys_of_a_config_survive(saved):
    path = saved / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "torch_dtype": "float16", "our_note": {"a": [1]}}))
    ConvBertForMaskedLM.from_pretrained(saved).save_pretrained(saved)
    written = json.loads(path.read_text())
    assert written["our_note"] == {"a": [1]} and written["dtype"] == "float32" and "torch_dtype" not in written


def test_shards_are_no_larger_than_asked(sharded):
    places = json.loads((sharded / INDEX).read_text())["weight_map"]
    for file in set(places.values()):
        tensors = load_file(sharded / file)
        assert sum(t.nbytes for t in tensors.values()) <= 3000 or len(tensors) == 1
    assert json.loads((sharded / INDEX).read_text())["metadata"]["total_size"] == sum(
        tensor.nbytes for tensor in read_state(sharded).values()
    )


@pytest.mark.parametrize("new", ["5GB", "3KB"])
@pytest.mark.parametrize("old", LAYOUTS)
def test_saving_over_another_layout(saved, old, new):
    LAYOUTS[old](saved)
    (saved / "tf_model.h5").write_text("another copy of the old weights")
    for name in ("vocab.txt", "model.fp16.safetensors"):
        (saved / name).write_text("mine")
    fresh = model(seed=1)
    fresh.save_pretrained(saved, max_shard_size=new)
    assert same_parameters(silently(ConvBertForMaskedLM.from_pretrained, saved), fresh)
    weights = {path.name for path in saved.iterdir()} - {"config.json", "vocab.txt", "model.fp16.safetensors"}
    if new == "5GB":
        assert weights == {"model.safetensors"}
    else:
        places = json.loads((saved / INDEX).read_text())["weight_map"]
        assert weights == {INDEX, *places.values()}
    assert (saved / "vocab.txt").read_text() == "mine"


def test_fewer_shards_than_before(sharded):
    before = len(list(sharded.glob("model-*")))
    model().save_pretrained(sharded, max_shard_size="8KB")
    assert 1 < len(list(sharded.glob("model-*"))) < before
    assert same_parameters(silently(ConvBertForMaskedLM.from_pretrained, sharded), model())


def test_tensors_that_share_memory_or_are_not_contiguous(tmp_path):
    whole = torch.arange(24.0).view(4, 6)
    state = {
        "whole": whole,
        "same": whole,
        "rows": whole[1:3],
        "turned": whole.T,
        "spread": whole[:, ::2],
        "one": whole[0, 0],
        "many": whole[0, 0].expand(5),
        "none": whole[:0],
        "grad": torch.nn.Parameter(whole[2:]),
    }
    write_state(tmp_path, state)
    back = read_state(tmp_path)
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    assert (tmp_path / "model.safetensors").stat().st_size < 1500  # a row does not bring the whole along


def test_saving_below_a_file(saved):
    before = (saved / "config.json").read_bytes()
    with pytest.raises(OSError, match=r"could not save to .*config\.json/new.*Something else stands in the way"):
        model().save_pretrained(saved / "config.json" / "new")
    assert (saved / "config.json").read_bytes() == before


def test_saving_where_nothing_can_be_written():
    with pytest.raises(OSError, match=r"could not save to /proc/model.*cannot be written to"):
        model().save_pretrained("/proc/model")


def test_a_folder_stands_where_the_weights_should_go(saved):
    """The last of the renames fails, and the first ones are taken back."""
    before = {path.name: path.read_bytes() for path in saved.iterdir() if path.name == "config.json"}
    (saved / "model.safetensors").unlink()
    (saved / "model.safetensors").mkdir()
    with pytest.raises(OSError, match="could not save to"):
        model(seed=1).save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir() if path.is_file()} == before
    assert (saved / "model.safetensors").is_dir()


PREPARE = """
    import resource, sys, torch
    from convbert.families.convbert import ConvBertConfig
    from convbert.modeling import ConvBertModel
    def made(seed):
        torch.manual_seed(seed)
        return ConvBertModel(ConvBertConfig(vocab_size=20000, hidden_size=64, embedding_size=64, num_attention_heads=4))
"""
SMALL_DISK = """
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    for size in ("5GB", "500KB"):
        try:
            made(1).save_pretrained(sys.argv[1], max_shard_size=size)
        except OSError as error:
            print(error)
"""


def test_a_full_disk(saved):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    code = textwrap.dedent(PREPARE) + textwrap.dedent(SMALL_DISK)
    run = subprocess.run([sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=True)
    whole, sharded = run.stdout.splitlines()
    for line in (whole, sharded):
        assert line.startswith(f"[Errno 27] could not save to {saved}: ") and "free some space" in line
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


# -- transformers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformers():
    found = pytest.importorskip("transformers", reason="the reference is not installed")
    found.logging.set_verbosity_error()
    return found


def theirs(transformers, name, **more):
    torch.manual_seed(0)
    settings = transformers.ConvBertConfig(**SMALL, num_labels=2, pad_token_id=0, **more)
    made = getattr(transformers, name)(settings).eval()
    for parameter in made.parameters():
        parameter.data.normal_(0, 0.3)
    return made


def answers(made, name):
    """What a head says to a batch without pads, on which the two agree about padding."""
    shape = (2, 3, 9) if name == "ConvBertForMultipleChoice" else (2, 9)
    ids = torch.randint(1, 61, shape, generator=torch.Generator().manual_seed(0))
    kinds = torch.arange(9).gt(4).long().expand(shape)
    with torch.no_grad():
        output = made(input_ids=ids, attention_mask=torch.ones_like(ids), token_type_ids=kinds)
    fields = ("last_hidden_state", "logits", "start_logits", "end_logits")
    return [value for value in (getattr(output, field, None) for field in fields) if value is not None]


def assert_same_answers(a, b, name):
    for ours, expected in zip(answers(a, name), answers(b, name), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


THEIR_LAYOUTS = {
    "safetensors": lambda made, folder: made.save_pretrained(folder),
    "safetensors, sharded": lambda made, folder: made.save_pretrained(folder, max_shard_size="3KB"),
    "bin": lambda made, folder: (made.save_pretrained(folder), old_layout(made, folder)),
    "bin, sharded": lambda made, folder: (made.save_pretrained(folder), as_sharded_bin(folder)),
}


def old_layout(made, folder):
    """What transformers wrote before version 5: the whole `state_dict`, tied tensors twice, shared in memory."""
    (folder / "model.safetensors").unlink()
    torch.save(made.state_dict(), folder / "pytorch_model.bin")


@pytest.mark.parametrize("layout", THEIR_LAYOUTS)
@pytest.mark.parametrize("name", HEADS)
def test_their_folder_loads_here(transformers, tmp_path, name, layout):
    made = theirs(transformers, name)
    THEIR_LAYOUTS[layout](made, tmp_path)
    loaded = silently(getattr(modeling, name).from_pretrained, tmp_path)
    assert loaded.load_report == LoadReport()
    assert_same_answers(loaded, made, name)


@pytest.mark.parametrize("layout", ["safetensors", "safetensors, sharded", "bin", "bin, sharded"])
@pytest.mark.parametrize("name", HEADS)
def test_our_folder_loads_there(transformers, tmp_path, name, layout):
    made = model(getattr(modeling, name))
    made.save_pretrained(tmp_path, max_shard_size="3KB" if layout == "safetensors, sharded" else "5GB")
    if layout.startswith("bin"):
        LAYOUTS[layout](tmp_path)
    loaded, info = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    problems = {key: value for key, value in info.items() if value}
    assert not problems and next(loaded.parameters()).dtype == torch.float32
    assert_same_answers(made, loaded.eval(), name)


@pytest.mark.parametrize("more", [{}, *({"summary_type": kind} for kind in ("first", "last", "mean"))])
def test_what_a_choice_is_judged_by_stays_in_both_directions(transformers, tmp_path, more):
    """Their default is the last token, ours the first: a folder says which, and both heed it."""
    name = "ConvBertForMultipleChoice"
    made = theirs(transformers, name, **more)
    made.save_pretrained(tmp_path / "theirs")
    loaded = silently(modeling.ConvBertForMultipleChoice.from_pretrained, tmp_path / "theirs")
    assert_same_answers(loaded, made, name)
    loaded.save_pretrained(tmp_path / "ours")
    assert_same_answers(loaded, getattr(transformers, name).from_pretrained(tmp_path / "ours").eval(), name)
    again = silently(modeling.ConvBertForMultipleChoice.from_pretrained, tmp_path / "ours")
    assert_same_answers(again, made, name)


@pytest.mark.parametrize(
    "more", [{"summary_type": "cls_index"}, {"summary_use_proj": True}, {"summary_activation": "tanh"}]
)
def test_a_summary_that_we_have_not_is_refused_by_name(transformers, tmp_path, more):
    made = theirs(transformers, "ConvBertForMultipleChoice", **more)
    made.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="multiple choice reads the first or last token.*" + next(iter(more))):
        modeling.ConvBertForMultipleChoice.from_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        modeling.ConvBertForMaskedLM.from_pretrained(tmp_path)  # no other head minds


@pytest.mark.parametrize("kind", ["last", "mean"])
def test_the_last_token_is_a_real_one(kind):
    made = model(modeling.ConvBertForMultipleChoice, summary_type=kind)
    ids = torch.randint(1, 61, (1, 2, 9), generator=torch.Generator().manual_seed(0))
    alone = made(ids).logits
    for before, after in ((0, 4), (3, 0), (2, 2)):
        padded = torch.nn.functional.pad(ids, (before, after))
        torch.testing.assert_close(made(padded, (padded > 0).long()).logits, alone, atol=1e-5, rtol=1e-5)


def test_question_answering_has_two_labels_on_disk(transformers, tmp_path):
    made = model(modeling.ConvBertForQuestionAnswering, num_labels=3)
    made.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path).eval()
    assert_same_answers(made, loaded, "ConvBertForQuestionAnswering")


def test_other_labels_than_the_folder_has(tmp_path):
    model(modeling.ConvBertForSequenceClassification, num_labels=3).save_pretrained(tmp_path)
    names = {0: "a", 1: "b", 2: "c", 3: "d"}
    for change in (dict(id2label=names), dict(num_labels=4), dict(label2id={name: i for i, name in names.items()})):
        assert ConvBertConfig.from_pretrained(tmp_path, **change).num_labels == 4
    with pytest.raises(ValueError, match="ignore_mismatched_sizes=True"):
        modeling.ConvBertForSequenceClassification.from_pretrained(tmp_path, id2label=names)


def test_their_half_precision_loads_here(transformers, tmp_path):
    made = theirs(transformers, "ConvBertForMaskedLM")
    made.to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = silently(ConvBertForMaskedLM.from_pretrained, tmp_path)
    assert_same_answers(loaded, made.float(), "ConvBertForMaskedLM")


def test_our_half_precision_loads_there(transformers, tmp_path):
    made = model().to(torch.bfloat16)
    made.save_pretrained(tmp_path)
    loaded = transformers.ConvBertForMaskedLM.from_pretrained(tmp_path)
    assert next(loaded.parameters()).dtype == torch.bfloat16  # they believe the "dtype" of the config
    assert_same_answers(made.float(), loaded.float().eval(), "ConvBertForMaskedLM")


def test_there_and_back_again(transformers, tmp_path):
    made = model(ConvBertForSequenceClassification, num_labels=4)
    made.save_pretrained(tmp_path / "ours")
    transformers.ConvBertForSequenceClassification.from_pretrained(tmp_path / "ours").save_pretrained(
        tmp_path / "theirs"
    )
    loaded = silently(ConvBertForSequenceClassification.from_pretrained, tmp_path / "theirs")
    assert same_parameters(loaded, made) and loaded.config.conv_padding == made.config.conv_padding


def test_their_discriminator_through_the_hub(transformers, tmp_path, monkeypatch):
    """The public weights are bare encoders in a `.bin`: the masked-LM head is new, and that is said."""
    made = theirs(transformers, "ConvBertModel")
    made.save_pretrained(tmp_path / "repo")
    old_layout(made, tmp_path / "repo")
    (tmp_path / "repo" / "vocab.txt").write_text("[PAD]\n")
    with HubServer({"someone/conv-bert-small": tmp_path / "repo"}) as server:
        point_at(monkeypatch, server.url, tmp_path / "cache")
        assert_same_answers(silently(ConvBertModel.from_pretrained, "someone/conv-bert-small"), made, "ConvBertModel")
        with pytest.warns(UserWarning, match="someone/conv-bert-small.*\n.*freshly initialised.*predictions.bias"):
            head = ConvBertForMaskedLM.from_pretrained("someone/conv-bert-small")
    assert all(name.startswith("predictions.") for name in head.load_report.fresh) and len(head.load_report.fresh) == 5


def test_the_key_map_is_one_for_the_family():
    assert isinstance(CONVBERT_KEYS, KeyMap)
    assert {
        getattr(modeling, name).key_map for name in HEADS if getattr(modeling, name).key_map is not CONVBERT_KEYS
    } == set()
