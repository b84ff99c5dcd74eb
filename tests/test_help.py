"""What a user sees at the cursor: `?` and Shift+Tab explain each parameter, and the examples that they show run."""

import inspect
import re
from importlib import import_module

import pytest
from conftest import ROOT
from IPython.core.interactiveshell import InteractiveShell
from nbdev.process import NBProcessor
from notebooks import notebooks

import convbert
from convbert import docstrings
from convbert.pages import PageRenderer
from convbert.pipelines.tasks import DEFAULT_MODELS, TASKS

EXTRAS = ("accelerate", "datasets", "matplotlib", "ipywidgets", "anywidget", "onnx", "onnxscript", "transformers")
FILES = {  # what examples read
    "reviews.csv": "text,label\n" + "".join(f"Film {i} is fine.,good\nFilm {i} is dull.,bad\n" for i in range(50)),
    "articles.txt": "\n\n".join(["The ship sailed across the sea to the old harbour. " * 20] * 400),
}


def marked() -> dict[str, object]:
    """What the cells with `#| help` define, by module and name: functions, classes and their methods."""
    found = {}
    for path in notebooks():
        if "#| help" not in path.read_text(encoding="utf-8"):
            continue
        cells = [cell for cell in NBProcessor(path).nb.cells if cell.cell_type == "code"]
        name = next(cell.directives_["default_exp"] for cell in cells if "default_exp" in cell.directives_)
        module = import_module(f"convbert.{name}")
        for cell in cells:
            if {"help", "export"} <= {*cell.directives_}:
                for top in re.findall(r"^(?:def|class) (\w+)", cell.source, re.M):
                    value = getattr(module, top)
                    found[f"{name}.{top}"] = value
                    own = vars(value) if inspect.isclass(value) else {}
                    found |= {f"{name}.{top}.{k}": getattr(value, k) for k, v in own.items() if callable(v)}
                    found |= {f"{name}.{top}.{k}": getattr(value, k) for k, v in own.items() if type(v) is classmethod}
    return {name: value for name, value in found.items() if "Examples" in docstrings.sections(value.__doc__)}


MARKED = marked()
CALLABLES = {name: value for name, value in MARKED.items() if inspect.isroutine(value)}
EXAMPLES = {docstrings.sections(value.__doc__)["Examples"]: name for name, value in MARKED.items()}


def test_what_people_call_is_marked():
    calls = {f"pipelines.{kind.__module__.rpartition('.')[2]}.{kind.__name__}.__call__" for kind in TASKS.values()}
    front = "tasks.pipeline"
    training = {
        "training.finetuning.finetune",
        "training.pretraining.run.pretrain",
        "training.pretraining.run.evaluate",
    }
    others = {"export.export", "speedup.speed_up", "ablation.make_head_mask", "tokenizers.base.CallMixin.__call__"}
    loading = {
        f"{where}.from_pretrained" for where in ("loading.PretrainedMixin", "tokenizers.pretrained.PretrainedMixin")
    }
    views = {f"{value.__module__.removeprefix('convbert.')}.{name}" for name, value in visualizations().items()}
    assert {*calls, f"pipelines.{front}", *training, *others, *loading, *views} <= {*MARKED}


def visualizations() -> dict[str, object]:
    """The functions that draw, show or measure heads."""
    found = {name: getattr(convbert.visualize, name) for name in convbert.visualize.__all__}
    return {name: value for name, value in found.items() if inspect.isfunction(value)}


@pytest.mark.parametrize("name", CALLABLES)
def test_every_parameter_is_explained_with_its_default(name):
    told = docstrings.explanations(CALLABLES[name])
    for parameter in inspect.signature(CALLABLES[name]).parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            assert re.search(rf"^\*+{parameter.name}\b.*\n    \S", inspect.getdoc(CALLABLES[name]), re.M)
            continue
        text, default = told[parameter.name]
        assert text, f"{parameter.name} is not explained"
        assert bool(default) == (parameter.default is not parameter.empty), parameter.name


@pytest.mark.parametrize("task", DEFAULT_MODELS)
def test_question_mark_and_shift_tab_on_a_pipeline(task):
    shell = InteractiveShell.instance()
    shell.user_ns["answer"] = convbert.pipeline(task)
    shown = shell.object_inspect_mime("answer")["text/plain"]
    for part in ("Signature", "batch_tokens : int, default 8192", "most tokens in flight", "Examples"):
        assert part in re.sub(r"\x1b\[[\d;]*m", "", shown)


@pytest.mark.parametrize(
    "name", ["pipeline", "finetune", "pretrain", "visualize.head_view", "ConvBertModel.from_pretrained"]
)
def test_question_mark_and_shift_tab_on_a_name(name):
    shell = InteractiveShell.instance()
    shell.user_ns["convbert"] = convbert
    shown = re.sub(r"\x1b\[[\d;]*m", "", shell.object_inspect_mime(f"convbert.{name}")["text/plain"])
    assert all(part in shown for part in ("Signature", "Parameters", ", default None", "Examples"))


def test_options_of_a_tokenizer_and_of_fine_tuning_are_explained_one_by_one():
    tokenizer = docstrings.explanations(convbert.ConvBertTokenizerFast.__call__)
    assert tokenizer["stride"] == ("tokens that a piece shares with the one before it", "0")
    assert docstrings.explanations(convbert.finetune)["epochs"] == ("passes over the rows", "3.0")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=EXAMPLES.values())
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_example_runs(example, tmp_path, monkeypatch):
    for package in EXTRAS:
        pytest.importorskip(package, reason="examples use the extras, and this one is not installed")
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    exec(compile(example, EXAMPLES[example], "exec"), {"__name__": "example"})


def test_pages_show_parameters_once():
    for value in CALLABLES.values():
        page = PageRenderer(value)._repr_markdown_()
        assert not docstrings.HEADING.search(page) and inspect.getdoc(value).splitlines()[0] in page


def test_site_uses_the_renderer():
    assert 'renderer = "convbert.pages.PageRenderer"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
