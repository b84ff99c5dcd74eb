"""What type checkers and editors know of the public names, without running anything."""

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from convbert.pipelines import tasks


def pyright() -> list[str]:
    """The command, where it is installed."""
    if importlib.util.find_spec("pyright"):
        return [sys.executable, "-m", "pyright"]
    return [found] if (found := shutil.which("pyright")) else []


@pytest.mark.slow
@pytest.mark.skipif(not pyright(), reason="pyright is not installed")
def test_pyright_finds_the_types_of_the_public_names():
    command = [*pyright(), "--pythonpath", sys.executable, "--pythonversion", "3.10", "--outputjson"]
    done = subprocess.run([*command, "tests/typing_examples.py"], cwd=ROOT, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] == 1
    assert not [f"{each['range']['start']['line'] + 1}: {each['message']}" for each in found["generalDiagnostics"]]


def overloads() -> dict[str, str]:
    """Each name of a task, and the class that the signatures of `pipeline` promise for it."""
    found = {}
    for node in ast.parse(Path(tasks.__file__).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == "pipeline" and node.decorator_list:
            names = [part.value for part in ast.walk(node.args.args[0].annotation) if isinstance(part, ast.Constant)]
            found |= dict.fromkeys(names, ast.unparse(node.returns))
    return found


def test_every_task_and_alias_has_the_class_of_its_pipeline():
    kinds = {name: kind.__name__ for name, kind in tasks.TASKS.items()}
    assert overloads() == kinds | {alias: kinds[task] for alias, task in tasks.ALIASES.items()}


def test_every_call_says_what_it_returns():
    assert all(kind.__call__.__annotations__.get("return") is not None for kind in tasks.TASKS.values())


def test_the_package_says_that_it_has_types():
    assert (ROOT / "convbert/py.typed").is_file()
