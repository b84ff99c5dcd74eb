"""Files that are damaged, of another kind, or made to do harm: they load, or are refused in words that name them."""

import copy
import json
import os
import random
import re
import resource
import signal
import struct
import warnings
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from convbert import ConvBertConfig, ConvBertForSequenceClassification, ConvBertTokenizer
from convbert.serving import OnnxModel
from convbert.tokenizers.truncation import leading_text
from convbert.training.evaluation import EvaluationResult
from convbert.training.finetuning import find_result
from convbert.training.reports import write_card
from convbert.training.runs import read_checkpoint
from convbert.weights import read_state

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes and limits on memory")

SIZES = dict(vocab_size=40, hidden_size=8, embedding_size=8, num_attention_heads=2, intermediate_size=16)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VALUES = (None, [], {}, [1], {"a": 1}, "", "x", "7", -1, 0, 3, True, 10**400, 1e308, 0.5, float("nan"), float("inf"))
BYTES = {
    "empty": b"",
    "garbage": random.Random(0).randbytes(3000),
    "zeros": bytes(3000),
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "UTF-16": '{"model_type": "convbert"}'.encode("utf-16"),
    "a web page": b"<!doctype html><html></html>",
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\n",
    "null": b"null",
    "deep": b"[" * 10**5,
    "deep objects": b'{"a":' * 50000 + b"1" + b"}" * 50000,
    "less deep": b'{"a":' * 300 + b"1" + b"}" * 300,
    "a number of many digits": b'{"vocab_size": ' + b"9" * 10**5 + b"}",
}


def read_tokenizer(folder: Path):
    ConvBertTokenizer.from_pretrained(folder)(["ab c [MASK]", ""], verbose=False)


def read_graph(folder: Path):
    OnnxModel(folder)(torch.tensor([[2, 5, 3]]))


READ = {
    "config.json": ConvBertForSequenceClassification.from_pretrained,
    "model.safetensors": ConvBertForSequenceClassification.from_pretrained,
    "pytorch_model.bin": ConvBertForSequenceClassification.from_pretrained,
    "model.safetensors.index.json": ConvBertForSequenceClassification.from_pretrained,
    "tokenizer.json": read_tokenizer,
    "tokenizer_config.json": read_tokenizer,
    "special_tokens_map.json": read_tokenizer,
    "added_tokens.json": read_tokenizer,
    "vocab.txt": read_tokenizer,
    "model.onnx": read_graph,
    "checkpoint.pt": lambda folder: read_checkpoint(folder / "checkpoint.pt"),
    "training.json": lambda folder: find_result(folder, {"task": "fill-mask"}),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> dict[str, bytes]:
    """One good file of each kind."""
    folder = tmp_path_factory.mktemp("sound")
    torch.manual_seed(0)
    model = ConvBertForSequenceClassification(ConvBertConfig(**SIZES, num_hidden_layers=1, id2label={0: "a", 1: "b"}))
    model.save_pretrained(folder, max_shard_size="9KB")
    model.save_pretrained(folder / "whole")
    torch.save(read_state(folder), folder / "pytorch_model.bin")
    ConvBertTokenizer([*SPECIAL, *"abc"], never_split=["a"]).save_pretrained(folder)
    (folder / "added_tokens.json").write_text('{"<new>": 8}')
    state = dict(model={}, optimizers=[], facts={}, plan=[3, None], step=1, log=[{"step": 1}])
    torch.save(state, folder / "checkpoint.pt")
    told = dict(facts={"task": "fill-mask"}, scores={"f1": 1.0}, baseline={"f1": 0.5}, rule="the most frequent", log=[])
    (folder / "training.json").write_text(json.dumps(told))
    (folder / "model.safetensors").write_bytes((folder / "whole" / "model.safetensors").read_bytes())
    with suppress(ImportError):
        import onnx

        ints = onnx.TensorProto.INT64
        names = ("input_ids", "attention_mask", "token_type_ids")
        given = [onnx.helper.make_tensor_value_info(name, ints, ["b", "t"]) for name in names]
        gives = [onnx.helper.make_tensor_value_info("tokens", ints, ["b", "t"])]
        nodes = [onnx.helper.make_node("Identity", ["input_ids"], ["tokens"])]
        graph = onnx.helper.make_graph(nodes, "g", given, gives)
        made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
        (folder / "model.onnx").write_bytes(made.SerializeToString())
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def lay(folder: Path, sound: dict[str, bytes], name: str) -> Path:
    """A folder in which `name` is the file that is read of several that would do; all are sound."""
    folder.mkdir(exist_ok=True)
    shards = [file for file in sound if file.startswith("model-")]
    weights = {"model.safetensors.index.json": shards, "pytorch_model.bin": [], "model.safetensors": []}
    rivals = {"model.safetensors", *weights, *shards, "model.onnx", "added_tokens.json"} - {
        name,
        *weights.get(name, []),
    }
    rivals |= {"tokenizer.json"} if name in ("vocab.txt", "special_tokens_map.json") else set()
    if name not in weights and name != "model.onnx":
        rivals -= {"model.safetensors"}
    for path in folder.iterdir():
        path.rmdir() if path.is_dir() else path.unlink()
    for file, content in sound.items():
        if file not in rivals:
            (folder / file).write_bytes(content)
    return folder


@contextmanager
def within_reason():
    """Nothing hangs: a reader that waits for a pipe is interrupted, and that is no answer."""

    def fail(*_):
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def load_outcome(folder: Path, name: str) -> str | None:
    """What is wrong with how the file is read: None when it loads, or is refused in words that name it."""
    try:
        with warnings.catch_warnings(), within_reason():
            warnings.simplefilter("ignore")
            READ[name](folder)
    except (ValueError, OSError) as error:
        said = str(error)
        if isinstance(error, UnicodeError) or not (name in said or str(folder) in said) or len(said) > 3000:
            return f"{type(error).__name__}: {said:.300}"
    except BaseException as error:
        return f"{type(error).__name__}: {error!s:.300}"
    return None


def places(values, path=()):
    """Every place in a JSON file where a value stands; of long tables the first ones."""
    yield path
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in list(inner)[:40]:
        yield from places(value, (*path, key))


def changed(values, path, new):
    values = copy.deepcopy(values)
    if not path:
        return new
    at = values
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = new
    return values


def json_cases(sound: dict[str, bytes]):
    """(file, what was done, its new content) for each value of each JSON file replaced by each kind of value."""
    for name in READ:
        if name.endswith(".json"):
            values = json.loads(sound[name])
            for path in places(values):
                for new in VALUES:
                    yield name, f"{path} = {new!r:.40}", json.dumps(changed(values, path, new)).encode()


def byte_cases(sound: dict[str, bytes]):
    """(file, what was done, its new content) for every kind of file."""
    for name in READ:
        if name not in sound:
            continue
        whole = sound[name]
        for what, content in BYTES.items():
            yield name, what, content
        for share in (0.01, 0.3, 0.9):
            yield name, f"cut at {share}", whole[: int(len(whole) * share)]
        yield name, "a byte less", whole[:-1]
        yield name, "a mark before", b"\xef\xbb\xbf" + whole
        dice = random.Random(0)
        for i in range(4):
            damaged = bytearray(whole)
            damaged[dice.randrange(min(400, len(whole)))] = dice.randrange(256)
            yield name, f"damaged {i}", bytes(damaged)


def sample(cases, most: int):
    cases = list(cases)
    wanted = int(os.environ.get("CONVBERT_HOSTILE_CASES", most))  # a larger number is a larger sweep
    return random.Random(0).sample(cases, min(wanted, len(cases)))


@pytest.mark.parametrize(("cases", "most"), [(json_cases, 180), (byte_cases, 120)])
def test_what_is_wrong_is_said(sound, tmp_path, cases, most):
    wrong = []
    for name, what, content in sorted(sample(cases(sound), most)):
        folder = lay(tmp_path / "model", sound, name)
        (folder / name).write_bytes(content)
        if said := load_outcome(folder, name):
            wrong.append(f"{name}, {what}: {said}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", READ)
def test_what_is_no_file(sound, tmp_path, name):
    if name not in sound:
        pytest.skip("needs onnx")
    makers = dict(pipe=os.mkfifo, folder=os.mkdir, device=lambda path: os.symlink("/dev/zero", path))
    for kind, make in makers.items():
        folder = lay(tmp_path / "model", sound, name)
        (folder / name).unlink()
        make(folder / name)
        assert (kind, load_outcome(folder, name)) == (kind, None)


def test_a_pipe_in_the_place_of_a_shard(sound, tmp_path):
    folder = lay(tmp_path / "model", sound, "model.safetensors.index.json")
    shard = min(folder.glob("model-*"))
    shard.unlink()
    os.mkfifo(shard)
    assert load_outcome(folder, "model.safetensors.index.json") is None


# -- files that exhaust -----------------------------------------------------------------------------------------------


def fits(work, *arguments, most: int = 2**30) -> str:
    """What a process says in which `work` may have so many bytes more than now."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        said = "nothing"
        try:
            with open("/proc/self/statm") as pages:
                now = int(pages.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now + most, now + most))
            work(*arguments)
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode()[:4000])
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as answer:
        return answer.read()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_labels": 10**8, "id2label": None, "label2id": None}, "num_labels=100000000 must be at most"),
        ({"num_hidden_layers": 10**5}, "num_hidden_layers=100000 must be at most"),
        ({"vocab_size": 2 * 10**9}, "GB are free: look at vocab_size=2000000000"),
        ({"hidden_size": 2**31 - 2, "intermediate_size": 2**31 - 2}, "GB are free: look at"),
        ({"max_position_embeddings": 2 * 10**9}, "max_position_embeddings=2000000000"),
        ({"type_vocab_size": 2 * 10**9}, "type_vocab_size=2000000000"),
        ({"conv_kernel_size": 10**9 + 1}, "GB are free"),
    ],
)
def test_sizes_without_measure(sound, tmp_path, change, said):
    folder = lay(tmp_path / "model", sound, "model.safetensors")
    (folder / "config.json").write_text(json.dumps(json.loads(sound["config.json"]) | change))
    assert said in fits(ConvBertForSequenceClassification.from_pretrained, folder)


def test_a_model_without_weights_that_no_machine_can_hold():
    with pytest.raises(ValueError, match="needs at least .* GB are free"):
        ConvBertForSequenceClassification(ConvBertConfig(vocab_size=2 * 10**9))


def test_tensors_that_stand_for_more_than_is_stored(sound, tmp_path):
    folder = lay(tmp_path / "model", sound, "pytorch_model.bin")
    state = torch.load(folder / "pytorch_model.bin")
    name = "convbert.embeddings.word_embeddings.weight"
    for value in (torch.zeros(1).expand(10**12, 8), torch.zeros(40, 8).to_sparse(), torch.empty(40, 8, device="meta")):
        torch.save(state | {name: value}, folder / "pytorch_model.bin")
        said = fits(read_state, folder)
        assert said.startswith("ValueError: refused to read") and name in said, said


def test_archives_that_are_larger_inside(sound, tmp_path):
    folder = lay(tmp_path / "model", sound, "pytorch_model.bin")
    for name, read in (("pytorch_model.bin", read_state), ("checkpoint.pt", READ["checkpoint.pt"])):
        with zipfile.ZipFile(folder / name) as old:
            entries = {entry.filename: old.read(entry) for entry in old.infolist()}
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as bomb:
            for entry, content in entries.items():
                bomb.writestr(entry, bytes(2**28) if entry.endswith("data/0") else content)
        said = fits(read, folder)
        assert said.startswith("ValueError: refused to read") and "never does" in said, said


def test_a_header_that_promises_too_much(sound, tmp_path):
    folder = lay(tmp_path / "model", sound, "model.safetensors")
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(100))
    assert "ValueError: cannot read" in fits(read_state, folder)


def test_files_without_measure(sound, tmp_path):
    for name in ("config.json", "tokenizer.json", "vocab.txt", "model.safetensors.index.json"):
        folder = lay(tmp_path / "model", sound, name)
        os.truncate(folder / name, 2**40)  # takes no room on the disk
        said = fits(READ[name], folder)
        assert said.startswith("ValueError") and f"{name} has 1099511627776 bytes" in said, said


def test_a_vocabulary_of_a_million_lines_loads(sound, tmp_path):
    folder = lay(tmp_path / "model", sound, "vocab.txt")
    words = [*SPECIAL, "a", *(f"w{i}" for i in range(10**6))]
    (folder / "vocab.txt").write_text("\n".join(words))
    assert fits(read_tokenizer, folder) == "nothing"


@pytest.mark.parametrize("letters", ["x-", ".", "中", "[MASK]", "x\u0301.", "##"])
def test_a_megabyte_without_spaces_is_read_as_far_as_it_is_kept(letters):
    tokenizer = ConvBertTokenizer([*SPECIAL, "x", "##x", ".", "-", "中", "#"], model_max_length=128)
    long = letters * (10**6 // len(letters))
    assert len(leading_text(tokenizer.backend_tokenizer, long, 128)) < 10**4
    options = dict(truncation=True, return_offsets_mapping=True, return_special_tokens_mask=True)
    short, cut = tokenizer(long[:2000], **options), tokenizer(long, **options)
    assert cut == short and cut.n_truncated == 1 and cut.tokens() == short.tokens()


def test_one_word_of_a_megabyte_is_one_token():
    tokenizer = ConvBertTokenizer([*SPECIAL, "x", "##x"], model_max_length=128)
    assert tokenizer("x" * 10**6, truncation=True)["input_ids"] == [2, 1, 3]


# -- names that become Markdown ---------------------------------------------------------------------------------------


def test_a_card_shows_names_as_they_are_written():
    bad = "<img src=x onerror=alert(1)>|\n# no `[x](javascript:1)` **"
    judgement = EvaluationResult([bad], [bad], [0.5], {bad: 0.5}, {bad: 0.1}, bad)
    card = write_card({"task": "text-classification", bad: bad, "labels": [bad]}, judgement, [f"{bad}.png"])
    assert not re.search(r"<img|^# no|\*\*|`\[x\]|\[x\]\(", card, re.M)
    assert "&lt;img src=x onerror=alert(1)&gt;&#124; # no &#96;&#91;x&#93;" in card
    rows = [line for line in card.splitlines() if "onerror" in line and line.startswith("|")]
    assert {line.count("|") for line in rows} == {3, 4} and len(rows) == 4
