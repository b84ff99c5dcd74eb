"""A process is killed at every file operation of every kind of save, and others read meanwhile: never a mix."""

import json
import os
import re
import shutil
import signal
import sys
import traceback
import warnings
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from convbert import ConvBertConfig, ConvBertForSequenceClassification, ConvBertTokenizer
from convbert.atomic import atomic_folder
from convbert.export import check_request
from convbert.files import replace_file
from convbert.training.loop import fit
from convbert.training.optim import Recipe
from convbert.weights import WEIGHT_PATTERNS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked, so that each kill is cheap")

SIZES = dict(vocab_size=40, hidden_size=8, embedding_size=8, num_attention_heads=2, intermediate_size=16)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CHANGES = "os.rename os.remove os.rmdir os.mkdir os.link os.symlink os.truncate os.chmod".split()


@cache
def model(name: str) -> ConvBertForSequenceClassification:
    """A model whose labels and weights both say `name`."""
    torch.manual_seed(0)
    config = ConvBertConfig(**SIZES, num_hidden_layers=1, id2label={0: f"{name}-no", 1: f"{name}-yes"})
    made = ConvBertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(len(name))
    return made


@cache
def tokenizer(name: str) -> ConvBertTokenizer:
    return ConvBertTokenizer([*SPECIAL, name], model_max_length=len(name))


def read_model(folder: Path, dead: bool = True) -> str:
    """Which model a folder holds: its labels, and all its weights, must say so; a dead save may be spoken of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if dead:
            warnings.filterwarnings("ignore", "a save to .* was cut short: the model before it is read")
        loaded = ConvBertForSequenceClassification.from_pretrained(folder)
    (name,) = {label.split("-")[0] for label in loaded.config.id2label.values()}
    assert {value.item() for p in loaded.parameters() for value in p.flatten()} == {float(len(name))}
    return name


def read_tokenizer(folder: Path) -> str:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a save to .* was cut short: the model before it is read")
        loaded = ConvBertTokenizer.from_pretrained(folder)
    name = loaded.convert_ids_to_tokens(len(SPECIAL))
    assert loaded.model_max_length == len(name)
    return name


def read_both(folder: Path) -> str:
    (name,) = {read_model(folder), read_tokenizer(folder), json.loads((folder / "notes.json").read_text())["name"]}
    return name


def save_both(name: str, folder: Path):
    """A model, its tokenizer and something else in one step, as fine-tuning leaves them."""
    with atomic_folder(folder, replaces=WEIGHT_PATTERNS) as staged:
        model(name).save_pretrained(staged)
        tokenizer(name).save_pretrained(staged)
        (staged / "notes.json").write_text(json.dumps({"name": name}))


def shards(size: str):
    return lambda name, folder: model(name).save_pretrained(folder, max_shard_size=size)


single = shards("5GB")
SAVES = {  # how the old model came there, how the new one comes, and how both are read
    "single over single": (single, single, read_model),
    "shards over shards": (shards("9KB"), shards("9KB"), read_model),
    "fewer shards": (shards("7KB"), shards("12KB"), read_model),
    "shards over single": (single, shards("9KB"), read_model),
    "single over shards": (shards("9KB"), single, read_model),
    "tokenizer": (*[lambda name, folder: tokenizer(name).save_pretrained(folder)] * 2, read_tokenizer),
}


def run_killed(at: int, work, *arguments, **options) -> bool:
    """Do `work` in a process that dies at its file operation number `at`; whether it came to its end."""
    assert at < 1000
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    seen = 0

    def count(event: str, given: tuple):
        nonlocal seen
        writes = event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES or event == "os.fsync" or writes:
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)

    fsync = os.fsync
    os.fsync = lambda handle: (count("os.fsync", ()), fsync(handle))  # the one without an audit event
    sys.addaudithook(count)
    try:
        work(*arguments, **options)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def hidden(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.name.startswith(".") or path.name.endswith(".part")]


@pytest.mark.parametrize("kind", SAVES)
def test_killed_anywhere_a_save_leaves_the_old_or_the_new(tmp_path, kind):
    old, new, read = SAVES[kind]
    old("old", tmp_path / "old")
    found, done, at, step = [], False, 0, 5 if "shard" in kind and kind != "shards over shards" else 1
    while not done:
        at += step  # the steps of all kinds are the same: one of them is walked with shards, operation by operation
        folder = shutil.copytree(tmp_path / "old", tmp_path / f"{at}" / "model")
        done = run_killed(at, new, "newer", folder)
        before = sorted(folder.rglob("*"))
        found.append(read(folder))
        assert sorted(folder.rglob("*")) == before  # a reader writes nothing
        if at % 3 == 0 or done:
            new("third time", folder)
            assert read(folder) == "third time" and hidden(tmp_path / f"{at}") == []
    assert at > 20 and found == sorted(found, reverse=True) and set(found) == {"old", "newer"}


def killed_halfway(folder: Path, new) -> Path:
    """A folder in which files of two models lie, for the process that put them there died."""
    single("old", folder)
    for at in range(1, 1000):
        run_killed(at, new, "newer", folder)
        if (folder / ".saving" / "old").is_dir() and not (folder / ".saving" / "new" / "model.safetensors").exists():
            return folder
    raise AssertionError("no save was killed halfway")


def test_a_save_that_recovers_may_be_killed_anywhere_too(tmp_path):
    """A second process dies while it puts the old model back, at each of its operations."""
    half = killed_halfway(tmp_path / "half", single)
    done, at = False, 0
    while not done:
        at += 2
        folder = shutil.copytree(half, tmp_path / f"{at}" / "half")
        done = run_killed(at, single, "third time", folder)
        assert read_model(folder) in (("third time",) if done else ("old", "third time"))
    assert at > 20 and hidden(tmp_path / f"{at}") == []


def test_model_tokenizer_and_notes_are_one_save(tmp_path):
    done, at, found = False, 0, set()
    while not done:
        at += 9  # the steps are looked at one by one above
        folder = tmp_path / f"{at}" / "model"
        save_both("old", folder)
        done = run_killed(at, save_both, "newer", folder)
        found |= {read_model(folder) + " " + read_tokenizer(folder)}
    assert found == {"old old", "newer newer"}


def test_a_new_folder_is_there_whole_or_not_at_all(tmp_path):
    done, at = False, 0
    while not done:
        at += 1
        folder = tmp_path / f"{at}" / "deep" / "model"
        done = run_killed(at, single, "newer", folder)
        with suppress(FileNotFoundError, ValueError):
            assert read_model(folder) == "newer"
        single("third time", folder)
        assert read_model(folder) == "third time" and hidden(tmp_path / f"{at}") == []
    assert at > 8


def test_a_graph_can_be_exported_again_where_an_export_was_killed(tmp_path):
    run_killed(6, single, "newer", tmp_path)
    assert hidden(tmp_path) != []
    check_request(tmp_path, "float32", "server")
    single("old", tmp_path)
    with pytest.raises(FileExistsError, match="is there already"):
        check_request(tmp_path, "float32", "server")


# -- who reads meanwhile ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [("5GB", "5GB"), ("500B", "500B"), ("5GB", "500B")])
def test_readers_of_a_folder_that_is_saved_over_all_the_time(tmp_path, sizes):
    single("old", tmp_path)
    child = os.fork()
    if not child:
        for _ in range(20):
            for name, size in zip(("newer", "old"), sizes, strict=True):
                shards(size)(name, tmp_path)
        os._exit(0)
    seen = set()
    try:
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            try:
                seen.add(read_model(tmp_path, dead=False))
            except OSError as error:  # it may be told
                assert "was saved over each time it was read" in str(error)
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    assert seen <= {"old", "newer"} and seen and read_model(tmp_path) == "old" and hidden(tmp_path) == []


def test_a_reader_that_has_begun_when_a_save_comes(tmp_path):
    """The config is read, then another model is saved, then come the weights."""
    shards("500B")("old", tmp_path)
    child = os.fork()
    if not child:
        saved = []

        def save(event, arguments):
            if event == "open" and str(arguments[0]).endswith("index.json") and not saved:
                saved.append(True)
                shards("500B")("newer", tmp_path)

        sys.addaudithook(save)
        with suppress(BaseException):
            os._exit(0 if read_model(tmp_path) == "newer" and saved else 2)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_folder_that_cannot_be_written_to_is_read_after_a_kill(tmp_path):
    folder = killed_halfway(tmp_path / "model", single)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert read_model(folder) == "old"
    finally:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_save_under_way_is_not_taken_for_a_dead_one(tmp_path):
    with atomic_folder(tmp_path / "model") as first:
        (first / "first.txt").write_text("mine")
        single("old", tmp_path / "model")
        assert first.is_dir()
        with atomic_folder(tmp_path / "model") as second:
            (second / "notes.txt").write_text("mine")
            single("newer", tmp_path / "model")
            assert second.is_dir()
    assert read_model(tmp_path / "model") == "newer" and (tmp_path / "model" / "notes.txt").read_text() == "mine"


def test_two_processes_save_to_one_folder(tmp_path):
    single("old", tmp_path)
    children = []
    for name in ("newer", "third time"):
        if not (child := os.fork()):
            for _ in range(10):
                single(name, tmp_path)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert read_model(tmp_path) in ("newer", "third time") and hidden(tmp_path) == []


def test_a_mark_from_a_foreign_archive_deletes_nothing_outside(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    folder = tmp_path / "model"
    single("old", folder)
    (folder / ".saving" / "old").mkdir(parents=True)
    about = (tmp_path / "mine.txt").stat()
    for names in (["../mine.txt", str(tmp_path / "mine.txt")], 3, ["\0"], []):
        (folder / ".saving" / "old").mkdir(parents=True, exist_ok=True)
        stamps = dict.fromkeys(names, [about.st_mtime_ns, about.st_size]) if isinstance(names, list) else names
        (folder / ".saving" / "fresh.json").write_text(json.dumps({"old": {}, "new": stamps}))
        with pytest.warns(UserWarning, match="config.json, model.safetensors came later and stayed"):
            single("newer", folder)
        assert read_model(folder) == "newer" and (tmp_path / "mine.txt").read_text() == "mine"


# -- who else writes --------------------------------------------------------------------------------------------------


def replace_files(source: Path, folder: Path):
    """As Rust's safetensors and careful programs write: a new file under the old name."""
    for file in source.iterdir():
        os.replace(shutil.copyfile(file, folder / f"{file.name}.tmp"), folder / file.name)


def write_into(source: Path, folder: Path):
    """As `open(path, "w")` does: the same file, under all its names, with other bytes."""
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())


def deaths(folder: Path, old, new, step=1):
    """A save of `newer` over `old` that is killed at every operation, as far as readers are sent elsewhere then."""
    for at in range(10, 1000, step):  # before the tenth it is still writing
        shutil.rmtree(folder, ignore_errors=True)
        old("old", folder)
        done = run_killed(at, new, "newer", folder)
        if (folder / ".saving" / "old").is_dir():
            yield at
        if done:
            return


def save_words(folder: Path):
    """The next save: of a tokenizer, which leaves the model alone; it may say what it left as it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "a save to .* was cut short: .* came later and stayed")
        tokenizer("words").save_pretrained(folder)


@pytest.mark.parametrize("write", [replace_files, write_into])
@pytest.mark.parametrize("new", [single, save_both, shards("9KB")], ids=["single", "both", "shards"])
def test_what_another_library_writes_after_a_kill_is_not_hidden_and_stays(tmp_path, write, new):
    folder, count = tmp_path / "model", 0
    single("the latest", tmp_path / "latest")
    for _ in deaths(folder, single, new, step=1 if new is single else 4):
        write(tmp_path / "latest", folder)
        with pytest.raises(OSError, match=r"was cut short, and .*model\.safetensors fit nothing.*remove .*\.saving"):
            read_model(folder)
        save_words(folder)
        assert read_model(folder, dead=False) == "the latest" and hidden(tmp_path) == []
        assert read_tokenizer(folder) == "words"
        count += 1
    assert count > 2


def test_newer_shards_are_not_hidden_by_the_single_file_that_a_dead_save_dropped(tmp_path):
    folder, count = tmp_path / "model", 0
    shards("7KB")("the latest", tmp_path / "latest")
    for _ in deaths(folder, single, shards("9KB")):
        if not (folder / "model.safetensors").exists():
            replace_files(tmp_path / "latest", folder)
            save_words(folder)
            assert read_model(folder, dead=False) == "the latest"
            count += 1
    assert count


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt"])
def test_one_file_that_came_after_a_kill_is_named_and_stays(tmp_path, name):
    folder = killed_halfway(tmp_path / "model", single)
    single("the latest", tmp_path / "latest")
    tokenizer("the latest").save_pretrained(tmp_path / "latest")
    shutil.copyfile(tmp_path / "latest" / name, folder / name)
    with pytest.raises(OSError, match=f"{folder} was cut short, and {name} fit nothing that it noted"):
        read_model(folder)
    with pytest.warns(UserWarning, match=f"was cut short: {name} came later and stayed"):
        save_notes(folder)
    assert (folder / name).read_bytes() == (tmp_path / "latest" / name).read_bytes()
    single("old", tmp_path / "old")
    for other in {"config.json", "model.safetensors"} - {name}:
        assert (folder / other).read_bytes() == (tmp_path / "old" / other).read_bytes()


def save_notes(folder: Path):
    with atomic_folder(folder) as staged:
        (staged / "notes.json").write_text("{}")


def test_either_way_out_of_a_refusal_works(tmp_path):
    single("the latest", tmp_path / "latest")
    for way in ("as it is", "back"):
        folder = killed_halfway(tmp_path / way, single)
        replace_files(tmp_path / "latest", folder)
        if way == "back":
            replace_files(folder / ".saving" / "old", folder)
        shutil.rmtree(folder / ".saving")
        assert read_model(folder) == {"as it is": "the latest", "back": "old"}[way]


@pytest.mark.parametrize("loss", ["no times", "no record", "broken record"])
def test_where_nothing_tells_whose_files_these_are_nothing_is_changed(tmp_path, loss):
    """A copy without its times, or a mark without its `fresh.json`."""
    half = killed_halfway(tmp_path / "half", single)
    folder = shutil.copytree(half, tmp_path / "model", copy_function=shutil.copyfile) if loss == "no times" else half
    if loss == "no record":
        (folder / ".saving" / "fresh.json").unlink()
    if loss == "broken record":
        (folder / ".saving" / "fresh.json").write_text('{"old": 3, "new": {"\\u0000": [1]}')
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
    for act in (read_model, save_words):
        with pytest.raises(OSError, match=r"was cut short.*remove .*\.saving;") as caught:
            act(folder)
        assert "permission" not in str(caught.value)
    left = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
    assert left == before


def test_the_model_before_a_dead_save_is_read_with_a_word(tmp_path):
    folder = killed_halfway(tmp_path / "model", single)
    with pytest.warns(UserWarning, match=f"a save to {folder} was cut short: the model before it is read") as said:
        ConvBertForSequenceClassification.from_pretrained(folder)
    assert len(said) == 1


@pytest.mark.parametrize("make", [Path.touch, lambda mark: mark.symlink_to("nowhere")], ids=["file", "link"])
def test_a_file_that_has_the_place_of_the_mark_is_named(tmp_path, make):
    single("old", tmp_path / "model")
    make(mark := tmp_path / "model" / ".saving")
    with pytest.raises(OSError, match=rf"{mark} is no folder, and a save needs one of that name: remove it"):
        single("newer", tmp_path / "model")
    assert read_model(tmp_path / "model") == "old" and hidden(tmp_path) == [str(mark)]


@pytest.mark.parametrize(
    "name", ["n" * 240, "n" * 255, "ä" * 127, "語" * 85], ids=["240", "255", "two bytes", "three bytes"]
)
def test_folders_with_the_longest_names(tmp_path, name):
    folder = tmp_path / name
    for model_name in ("old", "newer"):
        single(model_name, folder)
        assert read_model(folder) == model_name and hidden(tmp_path) == []
    for at in (4, 12, 24):
        run_killed(at, single, "third time", folder)
        assert hidden(tmp_path) != []
        single("newer", folder)
        assert read_model(folder) == "newer" and hidden(tmp_path) == []


def test_a_file_with_the_longest_name(tmp_path):
    for name in ("n" * 255, "語" * 85):
        with replace_file(tmp_path / name) as beside:
            beside.write_text("text")
        assert (tmp_path / name).read_text() == "text"


# -- training ---------------------------------------------------------------------------------------------------------

RECIPE = Recipe(
    steps=6,
    evaluate_every=2,
    save_every=2,
    warmup=0,
    watch="score",
    compile=False,
    precision="float32",
    optimizer="adamw",
)


def train(folder: Path) -> torch.Tensor:
    torch.manual_seed(0)
    layer = torch.nn.Linear(2, 2)
    made = Loss(layer)
    fit(made, batch, RECIPE, folder, lambda m: {"score": -m.layer.weight.abs().sum().item()})
    return layer.weight.detach().clone()


class Loss(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, input_ids):
        return type("Output", (), {"loss": self.layer(input_ids).square().mean()})


def batch(step: int) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randn(4, 2, generator=torch.Generator().manual_seed(step))}


def test_a_run_killed_at_any_file_operation_ends_with_the_same_weights(tmp_path):
    pytest.importorskip("accelerate")
    whole = train(tmp_path / "whole")
    done, at = False, 0
    while not done:
        at += 2
        done = run_killed(at, train, tmp_path / f"{at}")
        assert torch.equal(train(tmp_path / f"{at}"), whole)
        names = {re.sub(r"-\d+", "-N", path.name) for path in (tmp_path / f"{at}").iterdir()}
        assert names == {"best.safetensors", "checkpoint.pt", "checkpoint-N.pt", "log.jsonl"}
    assert at > 12


def test_checkpoints_are_on_the_disk_before_they_get_their_names(tmp_path):
    """Seen from the system: what is renamed to a checkpoint was fsynced before."""
    pytest.importorskip("accelerate")
    read, write = os.pipe()
    child = os.fork()
    if not child:
        fsync = os.fsync

        def note(text):
            os.write(write, f"{text}\n".encode())

        os.fsync = lambda handle: (note("fsync " + os.readlink(f"/proc/self/fd/{handle}")), fsync(handle))
        sys.addaudithook(lambda e, a: note(f"rename {a[0]} {a[1]}") if e == "os.rename" else None)
        train(tmp_path)
        os._exit(0)
    os.close(write)
    said = os.fdopen(read).read().splitlines()
    assert os.waitpid(child, 0)[1] == 0
    renames = [(i, *line.split()[1:]) for i, line in enumerate(said) if re.match("rename.*(pt|safetensors)$", line)]
    names = {re.sub(r"-\d+", "-N", Path(to).name) for _, _, to in renames}
    assert names == {"checkpoint.pt", "checkpoint-N.pt", "best.safetensors"}
    for i, source, _ in renames:
        assert f"fsync {source}" in said[:i] and f"fsync {tmp_path}" in said[i:]


def test_the_second_run_in_a_folder_is_refused_and_told_whose_it_is(tmp_path):
    pytest.importorskip("accelerate")
    (ready, started), (wait, _) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:

        def pause(step):
            if step == 3:
                os.write(started, b"x")
                os.read(wait, 1)
            return batch(step)

        fit(Loss(torch.nn.Linear(2, 2)), pause, replace(RECIPE, watch=None), tmp_path)
        os._exit(0)
    os.read(ready, 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OSError, match=f"is in use: process {child} trains in it"):
        train(tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    fit(Loss(torch.nn.Linear(2, 2)), batch, replace(RECIPE, watch=None), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", "checkpoint-4.pt", "log.jsonl"}


def test_damaged_best_weights_are_named(tmp_path):
    pytest.importorskip("accelerate")
    train(tmp_path)
    for damaged in (b"", b"garbage", bytes(100)):
        (tmp_path / "best.safetensors").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"best\.safetensors cannot be read"):
            train(tmp_path)
