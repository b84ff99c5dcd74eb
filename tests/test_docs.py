"""The pages of the site, checked as far as that goes without Quarto: what a page is made of, links and pictures."""

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
from finish_site import PACKAGES
from nbdev.config import get_config, nbpath2html
from notebooks import cells, notebooks
from page_checks import PHONE, faults_of, serving
from preview import make_preview

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


@pytest.fixture(scope="module")
def preview(pages, tmp_path_factory) -> Path:
    """The staged pages as HTML, by pandoc."""
    pytest.importorskip("pypandoc", reason="pandoc makes HTML of the pages: pip install pypandoc-binary")
    target = tmp_path_factory.mktemp("preview")
    make_preview(pages, target)
    return target


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
    known |= {*get_config(ROOT).tst_flags.split()}  # which tests heed; Quarto takes no notice
    left = [
        (name, directive)
        for name in NAMES
        for cell in cells(pages / name, "code")
        for directive in re.findall(r"^#\|\s*([\w-]+)", cell["source"], re.M)
        if directive not in known
    ]
    assert not left


def test_no_cell_tells_when_it_was_run(pages):
    """Quarto would hide the headings that such a cell makes from the table of contents."""
    told = [(name, cell["number"]) for name in NAMES for cell in cells(pages / name) if "execution" in cell["metadata"]]
    assert not told


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


def test_anchors_exist(preview):
    """Every link of a page to a place on this or another page finds it."""
    html = {path.relative_to(preview).as_posix(): path.read_text(encoding="utf-8") for path in html_pages(preview)}
    places = {name: {*re.findall(r"""\bid=["']([^"']+)""", text)} for name, text in html.items()}
    base = get_config(ROOT).doc_url.rstrip("/") + "/"
    broken = []
    for name, text in html.items():
        for target, anchor in re.findall(r'href="([^"#]*)#([^"]+)"', text):
            absolute = target.startswith(base)
            path = os.path.normpath(target.removeprefix(base) if absolute else Path(name).parent / target)
            page = path if target else name
            if page in places and unquote(anchor) not in places[page]:
                broken.append((name, f"{target}#{anchor}"))
    assert not broken


def html_pages(preview: Path) -> list[Path]:
    """The pages of notebooks, without those that they show in frames."""
    return [preview / nbpath2html(Path(name)) for name in NAMES]


def test_signatures_name_classes_as_their_authors_do(preview):
    odd = re.compile(r"__main__\.\w+|NoneType=None|^def [A-Z]\w*\(", re.M)
    found = [(path.name, what) for path in html_pages(preview) for what in odd.findall(path.read_text("utf-8"))]
    assert not [each for each in found if each[0] != "pages.html"]  # the page about it


@pytest.mark.long
@pytest.mark.slow
def test_pages_fit_a_phone_and_can_be_read_in_both_schemes(preview, chromium):
    """No page is too wide for 420 pixels, too faint, without words for a picture, loud, or in need of another host."""
    if not PACKAGES.exists():
        pytest.skip("themes and MathJax come from npm: npm ci --prefix tools/site")
    context = chromium.new_context(viewport=PHONE)
    with serving(preview) as address:
        names = [path.relative_to(preview).as_posix() for path in html_pages(preview)]
        assert not [fault for name in names for fault in faults_of(context, address, name)]


def test_frames_follow_the_scheme_and_the_height_of_what_they_show(preview, chromium):
    page = chromium.new_page(viewport=PHONE, color_scheme="null")  # otherwise playwright has its way in frames
    with serving(preview) as address:
        page.goto(address + "visualize/views.html")
        frame = page.locator("iframe").first
        frame.scroll_into_view_if_needed()
        inside = frame.element_handle().content_frame()
        inside.wait_for_selector(".cv")
        for scheme in ("dark", "light"):
            page.evaluate(f"show('{scheme}')")
            inside.wait_for_function(f"matchMedia('(prefers-color-scheme: {scheme})').matches")
        inside.wait_for_function("document.documentElement.scrollHeight <= innerHeight")
    page.close()


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
    html = site["format"]["html"]
    themes = [file for files in html["theme"].values() for file in files if file.endswith(".scss")]
    named = [*site["metadata-files"], *site["project"]["resources"], html["css"], html["include-after-body"], *themes]
    assert not [name for name in named if not (pages / name).exists()]
    assert [tool["href"] for tool in site["website"]["navbar"]["tools"]] == [made["website"]["repo-url"]]


def test_pages_load_the_mathjax_that_is_served_with_them():
    site = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    pinned = json.loads((ROOT / "tools/site/package.json").read_text(encoding="utf-8"))["dependencies"]["mathjax"]
    assert f"/mathjax@{pinned}/" in site["format"]["html"]["html-math-method"]["url"]


def test_texts_link_to_files_that_exist():
    broken = []
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for target in links((ROOT / name).read_text(encoding="utf-8")):
            if not target.startswith("http") and not (ROOT / target).exists():
                broken.append((name, target))
    assert not broken
