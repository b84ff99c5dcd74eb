"""Bars in a notebook, run by a real kernel: a widget where ipywidgets is installed, plain text where it is not."""

import subprocess
import sys

import pytest

nbformat = pytest.importorskip("nbformat", reason="the notebooks of these tests are written with it")
nbclient = pytest.importorskip("nbclient", reason="the notebooks of these tests are run by it")
pytest.importorskip("ipykernel", reason="the notebooks of these tests need a kernel")

WITHOUT_WIDGETS = 'import sys; sys.modules["ipywidgets"] = None'  # what an import finds where it is not installed
COUNT = "from convbert.progress import tqdm\nfor _ in tqdm(range(3)): pass"
ASK_HUB = "import convbert.hub\ntry: convbert.hub.resolve('nobody/nothing')\nexcept OSError: pass\n"
DOWNLOAD = ASK_HUB + "import huggingface_hub.utils.tqdm\n" + COUNT.replace("convbert.progress", "tqdm.auto")


def outputs(monkeypatch, *cells: str) -> tuple[str, set[str]]:
    """What a notebook of these cells writes, and the types of what it shows."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(notebook, timeout=120)
    client.create_kernel_manager().kernel_spec.argv[0] = sys.executable
    client.execute()
    found = [output for cell in notebook.cells for output in cell.outputs]
    written = "".join(output.text for output in found if output.output_type == "stream")
    return written, {kind for output in found for kind in output.get("data", {})}


@pytest.mark.parametrize("use", [COUNT, DOWNLOAD], ids=["bar", "hub"])
def test_text_without_a_warning_where_ipywidgets_is_missing(monkeypatch, use):
    written, shown = outputs(monkeypatch, WITHOUT_WIDGETS, use)
    assert "3/3" in written and "IProgress" not in written and "Warning" not in written
    assert not shown


def test_no_bar_where_there_is_no_console():
    work = "assert [*tqdm('ab', delay=0)] == ['a', 'b']; log_once(ProcessGroup(), 'a line')"
    imports = "import sys; from convbert.progress import tqdm"
    imports += "; from convbert.training.distributed import ProcessGroup, log_once"
    subprocess.run([sys.executable, "-c", f"{imports}; sys.stderr = sys.stdout = None; {work}"], check=True)


def test_a_widget_where_ipywidgets_is_installed(monkeypatch):
    pytest.importorskip("ipywidgets", reason="the bar of a notebook is one of its widgets")
    written, shown = outputs(monkeypatch, COUNT)
    assert "application/vnd.jupyter.widget-view+json" in shown
    assert not written
