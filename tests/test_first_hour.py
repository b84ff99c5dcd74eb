"""The first hour of a user in a real JupyterLab: the shell, pipelines, views, a restart, a page, a fine-tuned model.

`CONVBERT_SCREENSHOTS=FOLDER` keeps pictures of every step, in light and in dark.
"""

import re
import shutil
import string
import subprocess
import sys

import pytest

for name in ("anywidget", "datasets", "jupyterlab", "nbformat", "psutil", "seqeval"):
    pytest.importorskip(name, reason="the first hour needs all that `pip install convbert[notebook,dev]` brings")
expect = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser of these tests").expect

from lab import DEADLINE, SHOWN, write_notebook  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.long]
in_light_and_dark = pytest.mark.parametrize("theme", ["light", "dark"])


# -- the shell, and every pipeline -------------------------------------------------------------------------------------


def test_the_first_line_of_the_readme(open_book):
    """Five answers, and not a word of any library."""
    lines = open_book("!convbert fill-mask 'The ship sailed across the [MASK].'").run(0).splitlines()
    assert len(lines) == 5
    assert all(re.match(r"0\.\d+ .*the ship sailed across the \w+\.$", line) for line in lines), lines


ASKED = {
    "fill-mask": ("'He knocked at the [MASK] and waited for an answer.'", "door"),
    "text-classification": ("'A fine film, and a moving one.'", "positive"),
    "token-classification": ("'The zookeeper drove home.'", "VERB"),
    "question-answering": ("question='Who sailed home?', context='The old man sailed home at dawn.'", "man"),
    "multiple-choice": ("'The ship left the harbour.', ['It sailed.', 'It ate.']", "It sailed."),
    "feature-extraction": ("'The ship sailed at dawn.'", "Features of shape"),
}


@in_light_and_dark
def test_every_pipeline(open_book, theme):
    """What a pipeline is, and its answer; nothing is red."""
    calls = [f"pipeline({task!r})({words})" for task, (words, _) in ASKED.items()]
    book = open_book("from convbert import pipeline\npipeline('fill-mask')", *calls, theme=theme)
    book.run(0)
    expect(book.output(0)).to_contain_text("not for:")
    for cell, (task, (_, answer)) in enumerate(ASKED.items(), 1):
        book.run(cell)
        expect(book.output(cell), task).to_contain_text(answer)
    expect(book.page.locator(f"{SHOWN} [data-mime-type*=stderr], {SHOWN} [data-mime-type*=error]")).to_have_count(0)


def test_a_task_without_a_model_says_what_to_do(open_book):
    book = open_book("from convbert import pipeline", "pipeline('zero-shot-classification')")
    book.run(0)
    book.start(1)
    expect(book.output(1)).to_contain_text("name one that was trained for it")


# -- every view, with the mouse and with every key --------------------------------------------------------------------

TEXT = "He opened the [MASK] and read the letter twice."
TOKENS, CELLS, HEADS, WORDS, FIELD = "[role=option]", ".cv-cell", ".cv-head", ".cv-chip[role]", ".cv-field"
STAGE_KEYS = "ArrowRight End Home ArrowRight ArrowLeft Shift+ArrowRight ArrowDown ArrowUp a c Escape Enter"
PRESSED = {  # where the keys of a view are pressed, and in which order each of them does something
    "head_view": {TOKENS: STAGE_KEYS},
    "split_view": {CELLS: "ArrowRight ArrowDown ArrowUp ArrowLeft End Home Enter", TOKENS: STAGE_KEYS},
    "knockout_view": {FIELD: "x Enter", HEADS: "ArrowRight ArrowDown ArrowUp ArrowLeft End Home Space Escape"},
    "mask_explorer": {
        FIELD: "x Enter",
        WORDS: "ArrowRight ArrowLeft Enter",
        HEADS: "End Home ArrowDown ArrowUp Enter Escape",
    },
}
CAPS = {"←": "ArrowLeft", "→": "ArrowRight", "↑": "ArrowUp", "↓": "ArrowDown", "Esc": "Escape"}
LOOK = """(view) => {
  const all = [...view.querySelectorAll("*")];
  const typed = [...view.querySelectorAll("input")].map(({ checked, value }) => [checked, value]);
  return `${all.indexOf(document.activeElement)} ${typed} ${view.innerHTML}`;
}"""
DIFFERS = f"([view, before]) => ({LOOK})(view) !== before"


def show(view: str, *words: str) -> str:
    arguments = ", ".join(map(repr, ("convbert-tiny", *words)))
    return f"from convbert.visualize import {view}\nview = {view}({arguments})\nview"


def press(book, key: str) -> None:
    """Press a key, which changes something in the view."""
    before = book.view.evaluate(LOOK)
    book.page.keyboard.press(key)
    book.page.wait_for_function(DIFFERS, arg=[book.view.element_handle(), before])


def settled(book) -> None:
    """Wait until all that was asked is answered."""
    expect(book.view.locator(f"{TOKENS}, {HEADS}, {CELLS}").first).to_be_visible()
    expect(book.view.locator(".cv-progress:visible, [aria-busy=true]:visible")).to_have_count(0)


@in_light_and_dark
@pytest.mark.parametrize("view", PRESSED)
def test_every_view(open_book, view, theme):
    """What its list of keys names does something; letters stay in it; its files are saved."""
    book = open_book(show(view, TEXT), theme=theme)
    book.run(0)
    settled(book)
    book.desk.take_picture(f"{view}-{theme}-opened")
    book.view.get_by_role("button", name="Keys").click()
    caps = [CAPS.get(cap, cap) for cap in book.view.locator(".cv-keylist kbd").all_inner_texts()]
    book.view.get_by_role("button", name="Keys").click()
    for place, keys in PRESSED[view].items():
        book.view.locator(f"{place}:visible").first.focus()
        for key in keys.split():
            press(book, key)
            settled(book)
    pressed = {part for keys in PRESSED[view].values() for key in keys.split() for part in key.split("+")}
    assert set(caps) - {"?"} <= pressed
    for letter in string.ascii_letters:
        book.page.keyboard.press(letter)
    assert book.count_cells() == 2
    point(book, view)
    save_all(book)


def point(book, view: str) -> None:
    """With the mouse: point at something, which is read out, and choose it, which is drawn."""
    place = list(PRESSED[view])[-1] if view != "split_view" else CELLS
    target = book.view.locator(f"{place}:visible").nth(3)
    for act in (target.hover, target.click):
        before = book.view.evaluate(LOOK)
        act()
        book.page.wait_for_function(DIFFERS, arg=[book.view.element_handle(), before])
        settled(book)


def save_all(book) -> None:
    """Pictures, the page and the numbers."""
    folder, page = book.desk.lab.pictures, book.page
    for kind in ("SVG", "PNG", "HTML"):
        with page.expect_download() as download:
            book.view.get_by_role("button", name=kind, exact=True).click()
        path = folder / f"{book.name}.{kind.lower()}"
        download.value.save_as(path)
        assert path.stat().st_size > 2000
    book.desk.context.grant_permissions(["clipboard-read", "clipboard-write"])
    book.view.get_by_role("button", name="Copy numbers").click()
    expect(book.view.locator(".cv-tool-said")).to_have_text("Copied")
    assert "\t" in page.evaluate("navigator.clipboard.readText()")


# -- a kernel that is restarted, a notebook that is opened again, a page that is made of one ---------------------------

STILL = "figure[class^=cv-still]"
VIEWS = [show(view, TEXT) for view in PRESSED]


@in_light_and_dark
def test_a_restarted_kernel_is_said(open_book, theme):
    book = open_book(show("head_view", TEXT), theme=theme)
    book.run(0)
    gone, still = book.view.locator(".cv-gone"), book.page.locator(f"{SHOWN} {STILL}")
    expect(book.view.locator(".cv-arc[d^=M]").first).to_be_attached()
    expect(gone).to_be_hidden()
    expect(still).to_have_count(1)
    expect(still).to_be_hidden()
    book.page.evaluate("jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    expect(gone).to_be_visible()
    expect(gone).to_contain_text("run the cell again")
    book.desk.take_picture(f"restarted-{theme}")
    book.run(0)
    expect(gone).to_be_hidden()


@in_light_and_dark
def test_a_notebook_opened_again_shows_pictures(open_book, theme):
    book = open_book(*VIEWS, theme=theme)
    for cell in range(len(VIEWS)):
        book.run(cell)
    book.page.evaluate("jupyterapp.shell.currentWidget.context.save()")
    page, root = book.page, book.desk.lab.root
    again = f"again-{theme}.ipynb"  # another name: this one has a kernel
    shutil.copy(root / page.evaluate("jupyterapp.shell.currentWidget.context.path"), root / again)
    book.desk.open(theme)
    page.evaluate("(path) => jupyterapp.commands.execute('docmanager:open', { path })", again)
    stills = page.locator(STILL)
    expect(stills).to_have_count(len(VIEWS))
    for still in stills.all():
        still.scroll_into_view_if_needed()
        expect(still).to_contain_text("To bring it to life, run the cell.")
        expect(still).to_be_visible()
        assert still.locator("img").evaluate("image => image.naturalWidth") > 300
    expect(page.locator(":text('model not found'):visible")).to_have_count(0)
    book.desk.wrong = [wrong for wrong in book.desk.wrong if "model not found" not in wrong]  # JupyterLab says so, too


def test_nbconvert_shows_pictures(lab, chromium):
    """`jupyter nbconvert --execute --to html`, opened where there is no network."""
    path = lab.folder / "converted.ipynb"
    write_notebook(path, VIEWS)
    command = [sys.executable, "-m", "nbconvert", "--execute", "--to", "html", "--log-level", "ERROR", str(path)]
    subprocess.run(command, env=lab.environment(), check=True, timeout=DEADLINE)
    context = chromium.new_context(offline=True)
    page = context.new_page()
    page.goto(path.with_suffix(".html").as_uri())
    expect(page.locator(f"{STILL} img")).to_have_count(len(VIEWS))
    for image in page.locator(f"{STILL} img").all():
        expect(image).to_be_visible()
        assert image.evaluate("image => image.complete && image.naturalWidth") > 300
    page.screenshot(path=lab.pictures / "nbconvert.png", full_page=True)
    context.close()


# -- a model of one's own ---------------------------------------------------------------------------------------------

FINETUNE = """
from convbert import finetune, pipeline

days = "monday tuesday wednesday thursday friday saturday sunday morning evening night week year".split()
rows = [{"text": f"a {word} {day}", "label": word} for word in ("fine", "grey") for day in days]
finetune("convbert-tiny", rows, "text-classification", "weather", epochs=20, batch_size=4, learning_rate=1e-3)
"""


def test_fine_tuning_is_interrupted_and_goes_on(open_book):
    """The button that stops a kernel is the notebook's Ctrl-C."""
    book = open_book(FINETUNE, "pipeline('text-classification', 'weather')('a fine hour')")
    said, bar = book.output(0), re.compile(r"[1-9]\d*/\d+")
    book.start(0)
    expect(said).to_contain_text(bar)
    book.press("interrupt-kernel")
    expect(said).to_contain_text("the same call resumes from")
    expect(said).not_to_contain_text("Traceback")
    book.desk.take_picture("interrupted")
    stopped = int(re.search(r"stopped after step (\d+)", said.inner_text())[1])
    book.start(0)
    expect(said).to_contain_text(bar)
    assert int(bar.search(said.inner_text())[0].split("/")[0]) >= stopped
    expect(said).to_contain_text("saved in weather")
    expect(said.locator("table").first).to_contain_text("accuracy")
    assert (book.desk.lab.root / "weather" / "README.md").exists()
    book.run(1)
    expect(book.output(1)).to_contain_text("fine")
