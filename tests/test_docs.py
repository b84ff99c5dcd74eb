"""The pages of the site, checked as far as that goes without Quarto: what a page is made of, links, pictures, size."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from shutil import copytree, ignore_patterns
from urllib.parse import unquote

import pytest
import yaml
from conftest import ROOT
from nbdev.config import get_config, nbpath2html

NBS = ROOT / "nbs"
NOTEBOOKS = sorted(path for path in NBS.rglob("*.ipynb") if not re.search(r"/[._]", path.relative_to(ROOT).as_posix()))
NAMES = [path.relative_to(NBS).as_posix() for path in NOTEBOOKS]
PROC = """
from nbdev.serve import proc_nbs

if __name__ == "__main__":
    proc_nbs(n_workers=1, force=True)
"""


def cells(path: Path, kind: str = "") -> list[dict]:
    """The cells of a notebook, with their text in one piece."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in found if not kind or cell["cell_type"] == kind]


def sidebar_targets(entry) -> list[str]:
    """Every page that the sidebar names, in its order."""
    if isinstance(entry, str):
        return [entry]
    if isinstance(entry, list):
        return [target for item in entry for target in sidebar_targets(item)]
    return [*filter(None, [entry.get("href")]), *sidebar_targets(entry.get("contents", []))]


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """The folder of staged pages, made in a copy: this runs every import and export cell and documents every symbol."""
    pytest.importorskip("triton", reason="the page of the fused kernels imports Triton, and it is not installed")
    copy = tmp_path_factory.mktemp("docs") / "repository"
    copytree(ROOT, copy, ignore=ignore_patterns(".*", "_proc", "_docs", "build", "dist", "venv", "runs", "__pycache__"))
    (copy / "proc.py").write_text(PROC)
    env = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "proc.py"], cwd=copy, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return copy / "_proc"


# -- the site


def test_every_page_is_made_and_has_a_title(pages):
    untitled = []
    for name in NAMES:
        front = re.match(r"---\n(.*?)\n---", cells(pages / name)[0]["source"], re.S)
        if not (front and yaml.safe_load(front[1]).get("title")):
            untitled.append(name)
    assert not untitled


def test_no_directive_is_left_on_a_page(pages):
    """nbdev takes its own directives out; one that is misspelt would stand on the page."""
    known = {"echo", "output", "eval", "include", "warning", "error", "code-fold", "label", "fig-cap", "fig-alt"}
    left = [
        (name, directive)
        for name in NAMES
        for cell in cells(pages / name, "code")
        for directive in re.findall(r"^#\|\s*([\w-]+)", cell["source"], re.M)
        if directive not in known
    ]
    assert not left


def test_sidebar_lists_each_notebook_once():
    listed = sidebar_targets(yaml.safe_load((NBS / "sidebar.yml").read_text())["website"]["sidebar"])
    assert sorted(listed) == sorted(NAMES)


def test_page_names_do_not_collide():
    names = Counter(nbpath2html(Path(name)).as_posix() for name in NAMES)
    assert not [name for name, count in names.items() if count > 1]


def test_links_and_pictures_exist(pages):
    site = {nbpath2html(Path(name)).as_posix() for name in NAMES}
    base = get_config(ROOT).doc_url.rstrip("/") + "/"
    broken = []
    for name in NAMES:
        text = "\n\n".join(cell["source"] for cell in cells(pages / name, "markdown"))
        for target in links(text):
            absolute = target.startswith(base)
            path = os.path.normpath(target.removeprefix(base) if absolute else Path(name).parent / target)
            on_disk = not absolute and not path.startswith("..") and (NBS / path).exists()
            if not (on_disk or path in site or path == "."):
                broken.append((name, target))
    assert not broken


def links(markdown: str) -> set[str]:
    """The targets in our own site that a text links to or shows, without their anchors."""
    prose = re.sub(r"^(```|~~~).*?^\1|`[^`\n]*`(?!\])", "", markdown, flags=re.M | re.S)
    found = re.findall(r"\]\(<?([^)\s>]+)", prose) + re.findall(r"(?:src|href)=[\"']([^\"']+)", prose)
    own = get_config(ROOT).doc_url
    found = [unquote(target.split("#")[0]) for target in found]
    return {target for target in found if target and (target.startswith(own) or not re.match(r"[a-z]+:|//", target))}


def test_site_settings_are_up_to_date(tmp_path):
    """nbs/nbdev.yml is made from pyproject.toml."""
    copytree(ROOT / "nbs", tmp_path / "nbs", ignore=ignore_patterns("*.ipynb"))
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    code = "from nbdev.quarto import refresh_quarto_yml as f; f()"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    for name in ("nbdev.yml", "_quarto.yml"):
        assert (tmp_path / "nbs" / name).read_text() == (NBS / name).read_text()


def test_texts_link_to_files_that_exist():
    broken = []
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for target in links((ROOT / name).read_text(encoding="utf-8")):
            if not target.startswith("http") and not (ROOT / target).exists():
                broken.append((name, target))
    assert not broken


# -- the style of a notebook (docstrings, line length and imports are ruff's)


@pytest.fixture(params=NOTEBOOKS, ids=NAMES)
def notebook(request) -> Path:
    return request.param


def test_notebook_opens_with_title_and_line(notebook):
    """nbdev drops whatever else stands in the first cell."""
    first, *_ = cells(notebook)
    assert first["cell_type"] == "markdown"
    title, *rest = [line for line in first["source"].splitlines() if line.strip()]
    assert title.startswith("# ")
    assert rest and rest[0].startswith("> ")
    assert all(line.startswith("- ") for line in rest[1:])


def test_notebook_is_one_idea_long(notebook):
    assert len(cells(notebook)) <= 60


def test_export_cells_are_short(notebook):
    exports = [cell["source"] for cell in cells(notebook, "code") if re.match(r"#\|\s*export", cell["source"])]
    lines = [source.splitlines() for source in exports]
    assert not [f"{len(cell)} lines: {cell[1]}" for cell in lines if len(cell) > 40]


def test_notebook_keeps_no_error_and_no_large_picture(notebook):
    outputs = [output for cell in cells(notebook, "code") for output in cell["outputs"]]
    assert not [output["ename"] for output in outputs if output["output_type"] == "error"]
    png = ["".join(output.get("data", {}).get("image/png", "")) for output in outputs]
    assert not [len(data) for data in png if len(data) * 3 / 4 > 50_000]


def test_outputs_name_no_place_on_a_disk(notebook):
    shown = json.dumps([cell["outputs"] for cell in cells(notebook, "code")])
    assert not re.findall(r"/(?:home|Users|root|tmp|var)/\S{3,40}", shown)
