"""What is shipped, what an import loads, and what must not be in the repository."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from conftest import ROOT

import convbert

PACKAGE = ROOT / "convbert"
EXTRAS = (
    "accelerate",
    "anywidget",
    "datasets",
    "fastapi",
    "flax",
    "ipywidgets",
    "jax",
    "keras",
    "matplotlib",
    "onnx",
    "pandas",
    "ray",
    "sentencepiece",
    "tensorflow",
    "torchmetrics",
    "triton",
)


def run(code: str) -> str:
    """What a fresh Python prints, run away from the checkout's own folder."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.anchor, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded(code: str) -> set[str]:
    """The top-level modules that are loaded after `code`."""
    return set(json.loads(run(f"{code}\nimport json, sys\nprint(json.dumps([m.split('.')[0] for m in sys.modules]))")))


def settings() -> dict[str, str]:
    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(ini["DEFAULT"])


# -- public names


def test_version_is_the_one_in_settings():
    assert convbert.__version__ == settings()["version"]


@pytest.mark.parametrize("name", convbert.__all__)
def test_public_name_resolves(name):
    assert callable(getattr(convbert, name))


def test_public_names_are_listed_everywhere():
    assert convbert.__all__ == sorted(convbert._homes)
    assert set(convbert.__all__) <= set(dir(convbert))
    seen_by_editors = re.search(r"^if TYPE_CHECKING:.*?^$", (PACKAGE / "__init__.py").read_text(), re.M | re.S)[0]
    classes, functions = r"(?:Albert|Auto|ConvBert|DistilBert|Electra)\w+|Plan", "bundled|finetune|pipeline|pretrain"
    names = rf"\b(?:{classes}|{functions}|(?:undo_)?speed_up)\b"
    assert set(re.findall(names, seen_by_editors)) == set(convbert.__all__)


def test_names_of_the_views_are_listed_everywhere():
    """Editors read the imports and `__all__`; Python looks a name up in the table of modules."""
    tree = ast.parse((PACKAGE / "visualize/__init__.py").read_text(encoding="utf-8"))
    seen = {a.name: node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for a in node.names}
    table = convbert.visualize._MODULE_OF
    assert {name: home for name, home in seen.items() if home not in ("importlib", "typing")} == table
    assert convbert.visualize.__all__ == sorted(table)


def test_what_a_first_hour_needs_is_found_and_loaded_when_used():
    names = {"AutoModel", "Plan", "finetune", "pipeline", "pretrain", "visualize"}
    code = "import sys, convbert\nprint(*dir(convbert))\nassert 'torch' not in sys.modules"
    assert names <= set(run(code).split())
    used = "import convbert\nprint(callable(convbert.finetune), convbert.Plan.__name__, *dir(convbert.visualize))"
    assert {"True", "Plan", "head_view"} <= set(run(used).split())


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="ConvBertModle.*ConvBertModel"):
        convbert.ConvBertModle  # noqa: B018
    with pytest.raises(ImportError, match="ConvBertModle"):
        from convbert import ConvBertModle  # noqa: F401


# -- what an import loads


def test_import_loads_no_heavy_package():
    assert not loaded("import convbert") & {"torch", "numpy", "tokenizers", "huggingface_hub", "transformers", *EXTRAS}


@pytest.mark.parametrize("module", ["hub", "config", "loading", "outputs", "families.registry", "tokenizers.classes"])
def test_text_side_needs_no_torch(module):
    assert not loaded(f"import convbert.{module}") & {"torch", "transformers", *EXTRAS}


def test_model_side_needs_no_extra():
    everything = "import convbert\nfor name in convbert.__all__: getattr(convbert, name)"
    assert not loaded(everything) & {"huggingface_hub", "transformers", *EXTRAS} - loaded("import torch")


# -- what is shipped


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, list[str]]:
    """The file names in the wheel and in the source archive, built in a copy without the network."""
    folder = tmp_path_factory.mktemp("built")
    made = (".*", "_proc", "_docs", "build", "dist", "*.egg-info", "__pycache__", "venv", "runs")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*made))
    hooks = "from setuptools import build_meta as b; print(b.build_wheel('..')); print(b.build_sdist('..'))"
    done = subprocess.run([sys.executable, "-c", hooks], cwd=folder / "source", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    (wheel,), (archive,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        names, metadata = file.namelist(), {}
        for name in names:
            if ".dist-info/" in name:
                metadata[Path(name).name] = file.read(name).decode()
    with tarfile.open(archive) as file:
        sources = [name.partition("/")[2] for name in file.getnames()]
    return {"wheel": names, "sdist": sources, **metadata}


def shipped() -> list[str]:
    """Every module and model file that must be in wheel and source archive."""
    models = [PACKAGE / "py.typed", *(path for path in (PACKAGE / "models").rglob("*") if path.is_file())]
    assert models[1:], "convbert/models holds no bundled model"
    return [path.relative_to(ROOT).as_posix() for path in [*PACKAGE.rglob("*.py"), *models]]


def test_wheel_and_sdist_hold_modules_and_models(built):
    assert set(shipped()) <= set(built["wheel"])
    assert {*shipped(), "settings.ini", "setup.py", "LICENSE", "README.md"} <= set(built["sdist"])


def test_wheel_holds_nothing_else(built):
    tops = {name.split("/")[0] for name in built["wheel"]}
    assert tops == {"convbert", f"convbert-{convbert.__version__}.dist-info"}
    assert not [name for name in built["wheel"] + built["sdist"] if name.endswith((".ipynb", ".pyc"))]
    assert not [name for name in built["sdist"] if name.startswith(("nbs/", "tests/"))]


def test_wheel_names_its_entry_points(built):
    assert "[console_scripts]\nconvbert = convbert.cli:main" in built["entry_points.txt"]
    assert "[nbdev]\nconvbert = convbert._modidx:d" in built["entry_points.txt"]


def test_wheel_says_what_it_needs(built):
    lines = built["METADATA"].splitlines()
    assert f"Version: {convbert.__version__}" in lines and "Requires-Python: >=3.10" in lines
    assert "License-Expression: Apache-2.0" in lines
    needed = re.findall(r"^Requires-Dist: ([\w.-]+)[^;\n]*$", built["METADATA"], re.M)
    assert set(needed) == {
        "torch",
        "tokenizers",
        "safetensors",
        "huggingface_hub",
        "numpy",
        "tqdm",
        "typing_extensions",
    }
    extras = {line.partition(": ")[2] for line in lines if line.startswith("Provides-Extra")}
    assert extras == {"albert", "dev", "docs", "flax", "notebook", "onnx", "serve", "tf", "train", "widgets"}


def test_command_is_there():
    from convbert import cli

    assert callable(cli.main)


def test_every_module_has_its_notebook():
    modules = [path for path in PACKAGE.rglob("*.py") if not path.name.startswith("_")]
    named = {path: re.search(r"File to edit: (\S+\.ipynb)", path.read_text(encoding="utf-8")) for path in modules}
    assert not [path for path, match in named.items() if match is None or not (path.parent / match[1]).exists()]


def test_what_pipelines_and_the_command_line_import_is_required():
    code = "import sys, convbert.cli, convbert.pipelines.tasks, convbert.modeling\n"
    code += "print(*(m.__file__ for name, m in sys.modules.items() if name.startswith('convbert')), sep='\\n')"
    files = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    nodes = [node for file in files for node in ast.parse(Path(file).read_text(encoding="utf-8")).body]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    required = {re.match(r"[\w.-]+", line)[0] for line in settings()["requirements"].split()}
    assert {name.partition(".")[0] for name in names} - {*sys.stdlib_module_names, "convbert"} <= required


def test_requirements_are_pinned():
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    keys = ("", "dev_", "train_", "widgets_", "onnx_", "serve_")
    wanted = [line for key in keys for line in settings()[f"{key}requirements"].split()]
    assert not [line for line in wanted if re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") not in pins]
    assert not [version for version in pins.values() if "+" in version]


# -- what the repository must not name


def test_nothing_tracked_names_this_machine():
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout, so nothing is tracked")
    home = re.compile(r"/(?:home|Users)/[a-z][\w.-]*/|/roo[t]/")
    words = [*package_hosts(), *([f"{ROOT.parent}/"] if len(ROOT.parts) > 2 and ROOT.parent != Path("/tmp") else [])]
    found = []
    for name in filter(None, listing.stdout.split("\0")):
        if not (ROOT / name).is_file():
            continue
        text = (ROOT / name).read_bytes().decode("utf-8", errors="ignore")
        found += [(name, hit) for hit in [*home.findall(text), *(word for word in words if word in text)]]
    assert not found


def package_hosts() -> set[str]:
    """The hosts that pip asks for packages here, other than the public index."""
    listing = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    urls = listing + " ".join(value for key, value in os.environ.items() if key.startswith(("PIP_", "UV_")))
    return set(re.findall(r"https?://(?:[^/@\s'\"]*@)?([^/:\s'\"]+)", urls)) - {"pypi.org", "files.pythonhosted.org"}
