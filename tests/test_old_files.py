"""Files of transformers' TensorFlow classes: their numbers in our models, and what is refused in them."""

import json
import os

import numpy as np
import pytest
import reference_models as reference
import torch
from safetensors.numpy import save_file

import convbert
from convbert.checkpoints import LoadReport, from_disk

h5py = pytest.importorskip("h5py")
from convbert.foreign_names import torch_name  # noqa: E402
from convbert.h5_files import read_h5  # noqa: E402

FOLDERS = reference.folders(".h5")


def weights_of(folder):
    """The file to read in a folder."""
    return next(folder / name for name in ("tf_model.h5", "tf_model.h5.index.json") if (folder / name).exists())


def load(folder):
    """Our model of a folder, of which nothing is missing and nothing left over."""
    kind = getattr(convbert, reference.class_name(folder.name).removeprefix("TF"))
    legacy = {"conv_padding": "legacy"} if "ConvBert" in folder.name else {}
    model = kind(kind.config_class.from_pretrained(folder).replace(**legacy)).eval()
    state, report = from_disk(kind.key_map.for_config(model.config), read_h5(weights_of(folder)), model.state_dict())
    assert report == LoadReport()
    model.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    return model


@pytest.mark.parametrize("name", FOLDERS)
def test_outputs_are_those_of_tensorflow(tmp_path, name):
    model = load(reference.unpack(name, tmp_path))
    text, labels = reference.arguments(name)
    batch = {key: torch.tensor(value).long() for key, value in {**text, **labels}.items()}
    with torch.inference_mode():
        reference.compare(model(**batch, output_hidden_states=True, output_attentions=True), name)


def test_shards_hold_what_one_file_holds(tmp_path):
    name = "TFConvBertForMaskedLM"
    whole, parts = (reference.unpack(folder, tmp_path) for folder in (name, f"{name}-shards"))
    assert len(list(parts.glob("tf_model-*.h5"))) == 2
    one, other = (read_h5(weights_of(folder)) for folder in (whole, parts))
    assert one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", reference.folders(".safetensors"))
def test_safetensors_of_tensorflow(tmp_path, name):
    kind = getattr(convbert, reference.class_name(name).removeprefix("TF"))
    model = kind.from_pretrained(reference.unpack(name, tmp_path), conv_padding="legacy")
    assert model.load_report == LoadReport()
    text, labels = reference.arguments(name)
    with torch.inference_mode():
        batch = {key: torch.tensor(value).long() for key, value in {**text, **labels}.items()}
        reference.compare(model(**batch, output_hidden_states=True, output_attentions=True), name)


def test_safetensors_of_flax(tmp_path):
    pytest.importorskip("flax", reason='msgpack files need pip install "convbert[flax]"')
    from convbert.msgpack_files import read_tree

    folder = reference.unpack("FlaxDistilBertForMaskedLM", tmp_path)
    before = convbert.DistilBertForMaskedLM.from_pretrained(folder)
    tree = {key.replace("/", "."): np.array(x) for key, x in read_tree(folder / "flax_model.msgpack").items()}
    save_file(tree, folder / "model.safetensors", metadata={"format": "flax"})
    after = convbert.DistilBertForMaskedLM.from_pretrained(folder)
    assert before.load_report == after.load_report == LoadReport()
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


def test_names_of_every_kind():
    assert torch_name("albert/encoder/albert_layer_groups_._0/albert_layers_._1/ffn/kernel:0") == (
        "albert.encoder.albert_layer_groups.0.albert_layers.1.ffn.weight"
    )
    assert torch_name("distilbert/embeddings/position_embeddings/embeddings:0") == (
        "distilbert.embeddings.position_embeddings.weight"
    )
    assert torch_name("generator_lm_head/bias:0") == "generator_lm_head.bias"


@pytest.fixture
def path(tmp_path):
    """A folder's file, whole and good."""
    return reference.unpack("TFConvBertForTokenClassification", tmp_path) / "tf_model.h5"


@pytest.mark.parametrize("size", [1, 8, 100, 2000, 50_000, -1])
def test_cut_short(path, size):
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"cannot read .*tf_model\.h5: it is cut short, damaged, or of another format"):
        read_h5(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        (b"<!doctype html><html></html>", "it is a web page"),
        (bytes(5000), "of another format"),
    ],
)
def test_something_else(path, content, message):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_h5(path)


def test_not_a_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder"):
        read_h5(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_h5(tmp_path / "tf_model.h5")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a pipe"):
        read_h5(tmp_path / "pipe")


@pytest.mark.parametrize("bytes_changed", range(3))
def test_damaged_in_the_middle(path, bytes_changed):
    draw = np.random.RandomState(bytes_changed)
    for _ in range(40):
        data = bytearray(path.read_bytes())
        for place in draw.randint(0, 4000, 20):  # where the names are
            data[place] = draw.randint(256)
        damaged = path.with_name("damaged.h5")
        damaged.write_bytes(data)
        try:
            read_h5(damaged)
        except ValueError as error:
            assert "damaged.h5" in str(error)


def external_link(file, secret):
    file["a/kernel:0"] = h5py.ExternalLink(secret, "/x")


def soft_link(file, secret):
    file["a/bias:0"] = np.ones(3, "f4")
    file["a/kernel:0"] = h5py.SoftLink("/a/bias:0")


def external_storage(file, secret):
    file.create_dataset("a/kernel:0", (4,), "f4", external=[(secret, 0, 16)])


def virtual(file, secret):
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource(secret, "x", (3,))
    file.create_virtual_dataset("a/kernel:0", layout)


def compressed(file, secret):
    file.create_dataset("a/kernel:0", data=np.zeros(10**6, "f4"), compression="gzip")


def never_written(file, secret):
    file.create_dataset("a/kernel:0", (10**6, 10**6), "f4")


def object_reference(file, secret):
    file["a/bias:0"] = np.ones(3, "f4")
    file.create_dataset("a/kernel:0", data=file["a/bias:0"].ref, dtype=h5py.ref_dtype)


def text(file, secret):
    file["a/kernel:0"] = ["code"]


def many_names(file, secret):
    file["a/0"] = np.ones(1000, "f4")
    for number in range(1, 100):
        file[f"a/{number}"] = file["a/0"]


def circle(file, secret):
    file["a/kernel:0"] = np.ones((2, 3), "f4")
    file["a/b"] = file["a"]


REFUSED = {
    external_link: "is a link to '/x' in '/",
    soft_link: "is a link to '/a/bias:0' in 'itself'",
    external_storage: "are in other files",
    virtual: "are in other files",
    compressed: "which the file does not hold as they are",
    never_written: "which the file does not hold as they are",
    object_reference: "instead of numbers",
    text: "instead of numbers",
    many_names: "unpacked it is larger than the file",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_refused(tmp_path, make):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.ones(3, "f4")
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        make(file, str(tmp_path / "secret.h5"))
    with pytest.raises(ValueError, match=f"refused to read .*{REFUSED[make]}"):
        read_h5(tmp_path / "tf_model.h5")


def test_a_group_inside_itself_ends(tmp_path):
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        circle(file, "")
    assert [array.shape for array in read_h5(tmp_path / "tf_model.h5").values()] == [(3, 2)]


def test_index_of_missing_and_of_foreign_shards(tmp_path):
    folder = reference.unpack("TFConvBertForMaskedLM-shards", tmp_path)
    index = weights_of(folder)
    listed = json.loads(index.read_text())
    (folder / "tf_model-00002-of-00002.h5").unlink()
    with pytest.raises(FileNotFoundError, match=r"tf_model-00002-of-00002\.h5 is missing"):
        read_h5(index)
    name = next(iter(listed["weight_map"]))
    index.write_text(json.dumps({"weight_map": {name: "../secret.h5"}}))
    with pytest.raises(ValueError, match="must be a file in the same folder"):
        read_h5(index)
    index.write_text(json.dumps({"weight_map": {"tf_model/nothing/kernel:0": listed["weight_map"][name]}}))
    with pytest.raises(ValueError, match="lacks 'tf_model/nothing/kernel:0'"):
        read_h5(index)
