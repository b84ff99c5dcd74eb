"""The pages of the site, checked as far as that goes without Quarto: what a page is made of, links and pictures."""

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
from notebooks import cells, notebooks

NAMES = [path.relative_to(ROOT / "nbs").as_posix() for path in notebooks()]
STAGE = """
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
from tools.pages import write_pages

if __name__ == "__main__":
    write_pages()
    refresh_quarto_yml()
    proc_nbs(n_workers=1, force=True)
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """The folder of staged pages, made in a copy: this runs every import and export cell and documents every symbol."""
    pytest.importorskip("triton", reason="the page of the fused kernels imports Triton, and it is not installed")
    copy = tmp_path_factory.mktemp("docs") / "repository"
    copytree(ROOT, copy, ignore=ignore_patterns(".*", "_proc", "_docs", "build", "dist", "venv", "runs", "__pycache__"))
    (copy / "stage.py").write_text(STAGE)
    env = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "stage.py"], cwd=copy, env=env, capture_output=True, text=True)
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
            on_disk = not absolute and not path.startswith("..") and (pages / path).exists()
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


def test_settings_of_the_site_are_staged_beside_its_pages(pages):
    """Those at the top of the repository, and what nbdev makes of pyproject.toml."""
    settings = (pages / "_quarto.yml").read_text(encoding="utf-8")
    assert settings == (ROOT / "_quarto.yml").read_text(encoding="utf-8")
    site, made = yaml.safe_load(settings), yaml.safe_load((pages / "nbdev.yml").read_text(encoding="utf-8"))
    named = [*site["metadata-files"], *site["project"]["resources"], site["format"]["html"]["css"]]
    assert not [name for name in named if not (pages / name).exists()]
    assert [tool["href"] for tool in site["website"]["navbar"]["tools"]] == [made["website"]["repo-url"]]


def test_texts_link_to_files_that_exist():
    broken = []
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for target in links((ROOT / name).read_text(encoding="utf-8")):
            if not target.startswith("http") and not (ROOT / target).exists():
                broken.append((name, target))
    assert not broken
