"""Names to folders: local, bundled, and a hub that works, refuses, breaks, or is gone. The hub is a real server."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
from hub_server import HubServer, point_at

from convbert import hub
from convbert.atomic import atomic_folder
from convbert.files import weight_files
from convbert.hub import ModelNotFoundError, bundled, resolve
from convbert.validation import suggest

CONFIG = json.dumps({"model_type": "convbert"})
FULL = {
    "config.json": CONFIG,
    "vocab.txt": "[PAD]\n",
    "model.safetensors": "s" * 2000,
    "pytorch_model.bin": "b" * 2000,
    "tf_model.h5": "t" * 2000,
    "README.md": "# card",
}
BIN_ONLY = {name: FULL[name] for name in ("config.json", "pytorch_model.bin", "vocab.txt")}


def make(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(hub, "_warned", set())


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def served(tmp_path, cache, monkeypatch):
    repos = {
        "who/full": make(tmp_path / "full", FULL),
        "who/bin": make(tmp_path / "bin", BIN_ONLY),
    }
    with HubServer(repos) as server:
        point_at(monkeypatch, server.url, cache)
        yield server


# -- without a network ------------------------------------------------------------------------------------------------


def test_import_is_light():
    heavy = "'torch', 'huggingface_hub', 'tokenizers'"
    code = f"import sys, convbert.hub; print([m for m in ({heavy}) if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_suggest():
    assert suggest("convbert-tinny", ["convbert-tiny", "convbert-base"]) == (
        "Did you mean 'convbert-tiny' or 'convbert-base'?"
    )
    assert suggest("zzz", ["a", "b"]) == "Choose from 'a', 'b'."
    assert suggest("zzz", iter(())) == ""


def test_local_folder(tmp_path, monkeypatch):
    folder = make(tmp_path / "owner" / "name", BIN_ONLY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(folder) == resolve(str(folder)) == folder
    assert resolve("owner/name").resolve() == folder  # a folder that exists comes before a hub id
    assert resolve("~/owner/name") == folder
    with pytest.raises(ValueError, match="revision='v1' has no meaning for the folder"):
        resolve(folder, revision="v1")


def test_bundled_name(tmp_path, monkeypatch):
    make(tmp_path / "models", {"convbert-tiny/config.json": CONFIG, "notes/readme.txt": ""})
    monkeypatch.setattr(hub, "_models_folder", lambda: tmp_path / "models")
    assert "convbert-tiny" in bundled()
    assert resolve("convbert-tiny") == tmp_path / "models" / "convbert-tiny"
    with pytest.raises(ModelNotFoundError, match=r"Did you mean 'convbert-tiny'\?.*'\./my-model'.*'owner/name'"):
        resolve("convbert-tinny")


WRONG_NAMES = [
    "nothing",
    "./no/folder",
    "/no/folder",
    "a/b/c",
    "",
    " ",
    ".hidden/x",
    "a\\b",
    "x" * 5000,
    "~nobody/x",
    "a\0b",
]


@pytest.mark.parametrize("name", [*WRONG_NAMES, Path("x/y")])
def test_unknown_name(name):
    with pytest.raises(ModelNotFoundError, match="'owner/name'") as caught:
        resolve(name)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, OSError)
    assert repr(str(name)) in str(caught.value)


def test_a_file_is_not_a_folder(tmp_path):
    file = make(tmp_path, BIN_ONLY) / "pytorch_model.bin"
    with pytest.raises(ModelNotFoundError, match="is a file: give the folder that holds it"):
        resolve(file)


@pytest.mark.parametrize("name", [None, 3, b"who/full", ["who/full"]])
def test_name_of_wrong_type(name):
    with pytest.raises(TypeError, match="must be text or a path"):
        resolve(name)


# -- a hub that works -------------------------------------------------------------------------------------------------


def test_downloads_one_copy_of_the_weights_once(served):
    folder = resolve("who/full")
    assert listing(folder) == ["config.json", "model.safetensors", "vocab.txt"]
    assert (folder / "model.safetensors").read_text() == FULL["model.safetensors"]
    assert sorted(served.downloads()) == ["config.json", "model.safetensors", "vocab.txt"]
    served.log.clear()
    assert resolve("who/full") == folder
    assert served.log == ["GET /api/models/who/full"]  # "is it still the same?", and nothing else


def test_bin_only_layout(served):
    assert listing(resolve("who/bin")) == ["config.json", "pytorch_model.bin", "vocab.txt"]


def test_without_weights(served):
    assert listing(resolve("who/full", weights=False)) == ["config.json", "vocab.txt"]
    assert listing(resolve("who/full")) == ["config.json", "model.safetensors", "vocab.txt"]


@pytest.mark.parametrize("stem, ending", [("model", "safetensors"), ("pytorch_model", "bin")])
def test_sharded(served, tmp_path, stem, ending):
    shards = [f"{stem}-0000{i}-of-00002.{ending}" for i in (1, 2)]
    index = f"{stem}.{ending}.index.json"
    others = ["model.fp16.safetensors", "pytorch_model.bin"] if stem == "model" else []
    files = {name: name for name in ["config.json", *shards, index, *others]}
    served.repos["who/sharded"] = {"main": make(tmp_path / "sharded", files)}
    assert listing(resolve("who/sharded")) == sorted(["config.json", *shards, index])


def test_no_weights_that_we_read(served, tmp_path):
    served.repos["who/tf"] = {"main": make(tmp_path / "tf", {"config.json": CONFIG, "rust_model.ot": "t"})}
    with pytest.raises(FileNotFoundError, match=r"'who/tf' has no weights that we read.*rust_model\.ot"):
        resolve("who/tf")
    assert listing(resolve("who/tf", weights=False)) == ["config.json"]


def test_revisions(served, tmp_path):
    served.repos["who/full"]["refs/pr/1"] = make(tmp_path / "pr", {**FULL, "config.json": '{"pr": 1}'})
    served.repos["who/full"]["v1"] = make(tmp_path / "v1", {**FULL, "config.json": '{"v": 1}'})
    main, tag, pull = (resolve("who/full", revision=r) for r in (None, "v1", "refs/pr/1"))
    assert [json.loads((f / "config.json").read_text()) for f in (tag, pull)] == [{"v": 1}, {"pr": 1}]
    assert resolve("who/full", revision=tag.name) == tag  # a commit is a revision too
    assert resolve("who/full", revision="v1", local_files_only=True) == tag
    assert resolve("who/full", local_files_only=True) == main
    with pytest.raises(ModelNotFoundError, match="'who/full' on http.* has no revision 'v2'"):
        resolve("who/full", revision="v2")


def test_a_new_commit_is_fetched(served, tmp_path):
    old = resolve("who/full")
    served.repos["who/full"]["main"] = make(tmp_path / "newer", {**FULL, "vocab.txt": "[PAD]\n[UNK]\n"})
    new = resolve("who/full")
    assert new != old and (new / "vocab.txt").read_text() == "[PAD]\n[UNK]\n"
    assert served.downloads().count("model.safetensors") == 1  # unchanged content is linked, not sent again


def test_cache_dir_and_home(served, tmp_path, monkeypatch):
    assert resolve("who/full", cache_dir=tmp_path / "mine").is_relative_to(tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    inside = resolve("who/bin", cache_dir="~/other")
    assert inside.is_relative_to(tmp_path / "other")
    assert resolve("who/bin", cache_dir="~/other", local_files_only=True) == inside


def test_private_repository(served):
    served.tokens["who/full"] = "hf_secret"
    with pytest.raises(ModelNotFoundError, match="no folder 'who/full' here and no repository.*token=") as caught:
        resolve("who/full")
    assert "hf_secret" not in str(caught.value)
    with pytest.raises(PermissionError, match="refused access.*check token="):
        resolve("who/full", token="hf_wrong")
    assert listing(resolve("who/full", token="hf_secret"))


# -- a hub that refuses, breaks, or is gone ---------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\nX-Injected: yes", "\x00", " ", "\u20ac"])
@pytest.mark.parametrize("way", ["argument", "environment", "file"])
def test_a_token_that_no_header_can_carry_is_never_shown(served, tmp_path, monkeypatch, way, end):
    secret = "hf_" + "s3cr3t" * 5
    token = {"argument": secret + end, "environment": None, "file": None}[way]
    code = """
        import sys, traceback
        from convbert.hub import resolve
        try:
            resolve("me/model", cache_dir=sys.argv[1], token=eval(sys.argv[2]))
        except Exception:
            traceback.print_exc()
    """
    inside = secret[:9] + end + secret[9:]  # what surrounds a token there is stripped
    env = {k: v for k, v in os.environ.items() if k != "HF_TOKEN"} | {"HF_HOME": str(tmp_path / "home")}
    if way == "environment":
        if "\x00" in end:
            pytest.skip("no environment can hold it")
        env["HF_TOKEN"] = inside
    if way == "file":
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "token").write_text(inside, encoding="utf-8")
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "cache"), repr(token)]
    said = subprocess.run(command, env=env, capture_output=True, text=True).stderr
    assert secret not in said and "s3cr3t" not in said
    if way == "argument" or end in ("\x00", " ", "\u20ac"):
        assert "the access token holds a line break, a space or another character" in said


def test_no_such_repository(served):
    with pytest.raises(ModelNotFoundError, match="no folder 'who/nobody' here and no repository 'who/nobody' on http"):
        resolve("who/nobody")


@pytest.mark.parametrize("name", ["who/a--b", "who/a..b", "who/" + "x" * 200, "who/ends-"])
def test_no_valid_hub_id(served, name):
    with pytest.raises(ModelNotFoundError, match="is no valid hub id"):
        resolve(name)
    assert served.log == []


def test_gated(served):
    folder = resolve("who/full")
    served.gated.update(served.repos)
    with pytest.raises(PermissionError, match="'who/bin' on http.* is gated: accept its terms"):
        resolve("who/bin")
    assert resolve("who/full") == folder  # what was fetched before stays readable


def test_transfer_of_half_a_file(served, cache):
    served.short.add("model.safetensors")
    with pytest.raises(OSError, match="the download of 'who/full' broke off.*try again"):
        resolve("who/full")
    assert not list(cache.rglob("model.safetensors")) and not list(cache.rglob("*.incomplete"))
    served.short.clear()
    assert (resolve("who/full") / "model.safetensors").read_text() == FULL["model.safetensors"]


def test_transfer_cut_in_the_middle_is_resumed(served):
    served.cut.add("model.safetensors")
    assert (resolve("who/full") / "model.safetensors").read_text() == FULL["model.safetensors"]
    assert served.cut == set() and served.downloads().count("model.safetensors") == 2


def test_an_interrupted_download_is_not_taken_for_a_model(served):
    served.short.add("model.safetensors")
    with pytest.raises(OSError):
        resolve("who/full")
    served.stop()
    with pytest.raises(OSError, match=r"cannot load 'who/full'.*has no weights"):
        resolve("who/full")


@pytest.mark.parametrize("how", ["gone", 500, 503, "html"])
def test_cached_copy_when_the_hub_does_not_answer(served, how, monkeypatch):
    folder = resolve("who/full")
    if how == "gone":
        served.stop()
    elif how == "html":  # a login page of a hotel: status 200, and no hub behind it
        monkeypatch.setattr(served._http.RequestHandlerClass, "info", lambda self, *_: self.answer(200, b"<html>"))
    else:
        served.down = how
    with pytest.warns(UserWarning, match="cannot be reached.*using the cached copy of 'who/full'"):
        assert resolve("who/full") == folder
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve("who/full") == folder  # said once
    with pytest.raises(OSError, match="cannot load 'who/bin': http.* cannot be reached.*nothing of it is cached"):
        resolve("who/bin")


def test_offline_by_wish(served, cache, monkeypatch):
    folder = resolve("who/full")
    served.log.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve("who/full", local_files_only=True) == folder
        point_at(monkeypatch, served.url, cache, offline=True)
        assert resolve("who/full") == folder
        with pytest.raises(OSError, match="'who/bin': the hub is switched off, and nothing of it is cached"):
            resolve("who/bin")
    assert served.log == []


def test_offline_with_only_a_config(served):
    folder = resolve("who/full", weights=False)
    assert resolve("who/full", weights=False, local_files_only=True) == folder
    with pytest.raises(OSError, match="cached copy .* has no weights"):
        resolve("who/full", local_files_only=True)


def test_environment_variables(served, tmp_path):
    """What users set before they start Python: the endpoint, the home of the cache, offline mode."""
    code = "from convbert.hub import resolve; print(resolve('who/full'))"
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {"HF_ENDPOINT": served.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    first = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert first.returncode == 0 and first.stdout.strip().startswith(str(tmp_path / "home" / "hub")), first.stderr
    served.stop()
    env["HF_HUB_OFFLINE"] = "1"
    second = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (second.stdout, second.stderr) == (first.stdout, "")


# -- writing a folder -------------------------------------------------------------------------------------------------


def test_new_folder_with_its_parents(tmp_path):
    with atomic_folder(tmp_path / "a" / "b" / "model") as staged:
        make(staged, {"config.json": "{}", "sub/x.txt": "x"})
        assert not (tmp_path / "a" / "b" / "model").exists()
    assert listing(tmp_path / "a" / "b") == ["model", "model/config.json", "model/sub", "model/sub/x.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "a" / "b" / "model").stat().st_mode & 0o777 == 0o777 & ~umask


def test_over_an_existing_folder(tmp_path):
    old = {"config.json": "old", "README.md": "mine", "model-1.bin": "1", "model-2.bin": "2"}
    model = make(tmp_path / "model", old)
    with atomic_folder(model, replaces=["model-*.bin"]) as staged:
        make(staged, {"config.json": "new", "model-1.bin": "one"})
        assert (model / "config.json").read_text() == "old"
    assert listing(model) == ["README.md", "config.json", "model-1.bin"]
    assert [(model / n).read_text() for n in listing(model)] == ["mine", "new", "one"]


@pytest.mark.parametrize("error", [RuntimeError("model"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_an_error_changes_nothing(tmp_path, error):
    model = make(tmp_path / "model", {"config.json": "old"})
    for target in (model, tmp_path / "new" / "deep" / "model"):
        with pytest.raises(type(error)):
            with atomic_folder(target) as staged:
                make(staged, {"config.json": "new"})
                raise error
    assert listing(tmp_path) == ["model", "model/config.json"]
    assert (model / "config.json").read_text() == "old"


def test_an_error_while_renaming_is_undone(tmp_path):
    model = make(tmp_path / "model", {"a.bin": "old", "stale.bin": "s", "config.json/is-a-folder": "x"})
    with pytest.raises(OSError, match="could not save to"):
        with atomic_folder(model, replaces=["stale*"]) as staged:
            make(staged, {"a.bin": "new", "b.bin": "new", "config.json": "new"})
    assert listing(model) == ["a.bin", "config.json", "config.json/is-a-folder", "stale.bin"]
    assert (model / "a.bin").read_text() == "old"


def test_no_folder_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="has no name"), atomic_folder(""):
        pass
    assert listing(tmp_path) == []


def test_descriptions_follow_what_they_describe(tmp_path, monkeypatch):
    """Killed between two renames, a folder must not describe weights that are not there yet."""
    model, order, replace = make(tmp_path / "model", {"config.json": "old"}), [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).suffix), replace(a, b)))
    with atomic_folder(model) as staged:
        make(
            staged, {"config.json": "{}", "model.safetensors.index.json": "{}", "model-1.safetensors": "", "z.bin": ""}
        )
    assert order == [".bin", ".safetensors", ".json", ".json"] or order == [".safetensors", ".bin", ".json", ".json"]


def test_below_a_file(tmp_path):
    make(tmp_path, {"file": "text"})
    for target in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(OSError, match=r"could not save to .*file.*Something else stands in the way"):
            with atomic_folder(target) as staged:
                make(staged, {"config.json": "{}"})
    assert listing(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "text"


def test_read_only_place():
    with pytest.raises(OSError, match=r"could not save to /proc/convbert.*cannot be written to"):
        with atomic_folder("/proc/convbert/model") as staged:
            make(staged, {"config.json": "{}"})


SMALL_DISK = """
    import resource, signal, sys
    from convbert.atomic import atomic_folder
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    with atomic_folder(sys.argv[1]) as staged:
        (staged / "config.json").write_text("new")
        (staged / "model.safetensors").write_bytes(bytes(5000))
"""
KILLED = """
    import signal, sys
    from convbert.atomic import atomic_folder
    with atomic_folder(sys.argv[1]) as staged:
        (staged / "config.json").write_text("new")
        print("writing", flush=True)
        signal.pause()
"""


def test_no_room(tmp_path):
    model = make(tmp_path / "model", {"config.json": "old"})
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SMALL_DISK), str(model)], capture_output=True, text=True
    )
    assert f"could not save to {model}" in run.stderr and "There is no room: free some space" in run.stderr
    assert listing(tmp_path) == ["model", "model/config.json"] and (model / "config.json").read_text() == "old"


def test_killed_in_the_middle(tmp_path):
    model = make(tmp_path / "model", {"config.json": "old"})
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(model)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert (model / "config.json").read_text() == "old"
    assert weight_files(os.listdir(model)) == []


def test_link_to_a_folder_stays_a_link(tmp_path):
    real = make(tmp_path / "real", {"config.json": "old"})
    (tmp_path / "link").symlink_to(real)
    with atomic_folder(tmp_path / "link") as staged:
        make(staged, {"config.json": "new"})
    assert (tmp_path / "link").is_symlink() and (real / "config.json").read_text() == "new"
