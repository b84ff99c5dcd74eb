"""The live views in a real JupyterLab: they draw, a change in Python moves them, and a click comes back to Python."""

import os
import re
import string

import pytest
from conftest import ROOT

pytest.importorskip("anywidget", reason='the views need pip install "convbert[widgets]"')
pytest.importorskip("jupyterlab", reason="these tests start a JupyterLab")
pytest.importorskip("nbformat", reason="the notebooks of these tests are written with it")
expect = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser of these tests").expect
pytest.importorskip("psutil", reason="the kernels are found with it when they must end (accelerate brings it)")

from lab import SHOWN, Book, Desk  # noqa: E402

pytestmark = pytest.mark.slow


# -- the views --------------------------------------------------------------------------------------------------------

SHAPES = "paths => paths.map((path) => path.getAttribute('d'))"
COLOURS = """(view) => {
  const style = (selector, name) => getComputedStyle(selector ? view.querySelector(selector) : view)[name];
  const drawn = [style(".cv-arcs path", "stroke"), style(".cv-bars path", "fill")];
  return [style("", "backgroundColor"), ...drawn, style("", "colorScheme")];
}"""
CHANGE_THEME = "(theme) => jupyterapp.commands.execute('apputils:change-theme', { theme })"
TEXT = "The ship sailed across the sea to the old harbour."
TOKENS = 15  # of it, with [CLS] and [SEP]; 2 is "ship", 7 is "sea"
MASKED = "He opened the [MASK] and read the letter twice."


def show(view: str, text: str = TEXT) -> str:
    return f"""
    from convbert.visualize import {view}

    view = {view}("convbert-tiny", "{text}")
    view
    """


def test_head_view(open_book):
    weights = "view.split.attention[view.layer].mean(0)[view.token].sort(descending=True).values[:5].tolist()"
    book = open_book(
        show("head_view"),
        "view.token = 7",
        "print(view.layer, view.token, view.answered)",
        f"print([f'{{weight:.4f}}' for weight in {weights}])",
    )
    book.run(0)
    tokens, arcs, stage = (book.view.locator(name) for name in ("[role=option]", ".cv-arcs path[d^=M]", ".cv-stage"))
    looks = book.view.get_by_role("table").filter(has_text="sea looks at").locator("td:nth-child(2)")
    expect(tokens).to_have_count(TOKENS)
    expect(arcs).not_to_have_count(0)
    expect(looks).to_have_count(0)
    before = arcs.evaluate_all(SHAPES)

    book.run(1)
    expect(tokens.nth(7)).to_have_attribute("aria-selected", "true")
    expect(looks).to_have_count(5)
    assert str(looks.all_inner_texts()) == book.run(3).strip()
    assert arcs.evaluate_all(SHAPES) != before

    book.view.get_by_role("group", name="Layer").get_by_text("3", exact=True).click()
    expect(book.view.locator(".cv-far")).to_contain_text("layer 3")
    expect(stage).to_have_attribute("aria-busy", "false")
    expect(stage).to_have_css("opacity", "1")
    assert str(looks.all_inner_texts()) == book.run(3).strip()
    tokens.nth(2).click()
    book.expect(2, "3 2 [3]")


def test_split_view(open_book):
    book = open_book(show("split_view"), "view.layer, view.token = 1, 4", "print(view.layer, view.token)")
    book.run(0)
    cells, stage = book.view.get_by_role("gridcell"), book.view.locator(".cv-stage")
    caption, clicked = stage.locator(".cv-far"), cells.nth(3 * TOKENS + 5)
    expect(cells).to_have_count(4 * TOKENS)
    expect(stage).to_be_hidden()

    book.run(1)
    expect(cells.nth(TOKENS + 4)).to_have_class(re.compile("cv-open"))
    expect(caption).to_contain_text("layer 1")

    clicked.click()
    expect(caption).to_contain_text("layer 3")
    book.expect(2, "3 5")
    clicked.press("Escape")
    expect(stage).to_be_hidden()
    book.expect(2, "-1 -1")


def test_knockout_view(open_book):
    book = open_book(
        show("knockout_view", MASKED),
        "view.silenced = [('conv', 2, 2)]",
        "print(view.silenced)",
        "print([f'{after:.4f}' for _, _, after in view.changes[0]])",
    )
    book.run(0)
    heads, pressed = book.view.locator("button[data-key]"), book.view.locator("[aria-pressed=true]")
    numbers, said = book.view.locator("td.cv-figure:last-child"), book.view.locator(".cv-said")
    expect(heads).not_to_have_count(0)
    expect(pressed).to_have_count(0)

    book.run(1)
    expect(pressed).to_have_attribute("aria-label", re.compile("^silence convolution head 2 of layer 2:"))
    expect(said).to_contain_text("Without convolution head 2 of layer 2:")
    assert str(numbers.all_inner_texts()) == book.run(3).strip()

    book.view.get_by_role("button", name="silence attention head 0 of layer 3:").click()
    expect(said).to_contain_text("Without attention head 0 of layer 3 and convolution head 2 of layer 2:")
    book.expect(2, "[['attention', 3, 0], ['conv', 2, 2]]")
    assert str(numbers.all_inner_texts()) == book.run(3).strip()


def test_mask_explorer(open_book):
    book = open_book(
        show("mask_explorer"),
        "view.place = 2",
        "print(view.place, view.head)",
        "print(view.text)",
        "print([f'{score:.4f}' for score in view.scores])",
    )
    book.run(0)
    words, numbers = book.view.get_by_role("table"), book.view.locator("tr:not(.cv-true) td.cv-figure")
    expect(words).to_contain_text("In place of")

    book.run(1)
    expect(words).to_contain_text("In place of “ship”")
    expect(numbers).not_to_have_count(0)
    assert set(numbers.all_inner_texts()) <= set(re.findall(r"[\d.]+", book.run(4)))

    book.view.get_by_role("button", name="sea", exact=True).click()
    expect(words).to_contain_text("In place of “sea”")
    book.view.get_by_role("button", name="attention head 2 of layer 1:").click()
    expect(book.view.locator("[aria-pressed=true][data-key]")).to_have_attribute("data-key", "attention 1 2")
    book.expect(2, "7 ['attention', 1, 2]")

    field = book.view.get_by_role("textbox")
    field.press("End")
    field.press_sequentially(" Abba added a [MASK].")  # the notebook, too, has a use for these letters
    field.press("Enter")
    expect(words).to_contain_text("Behind the mask")
    book.expect(3, f"{TEXT} Abba added a [MASK].")
    assert book.count_cells() == 6


# -- keys -------------------------------------------------------------------------------------------------------------

NAMED = """ArrowLeft ArrowRight ArrowUp ArrowDown Home End PageUp PageDown Enter Space Delete Backspace F1 F2
    Shift+ArrowDown Shift+Enter Control+Enter Alt+Enter Control+b Escape"""
KEYS = [*string.ascii_letters, *string.digits, *string.punctuation, *NAMED.split()]
DRAWN = ".cv-column", ".cv-cell", ".cv-head"
PLACES = *DRAWN, ".cv-tool", ".cv-chip[role]", ".cv-choices input", ".cv-field", ".cv-action"
RECORD = """() => {
  window.executed ??= [];
  window.recorder ??= (_, { id }) => executed.push(id);
  jupyterapp.commands.commandExecuted.connect(recorder);
  executed.length = 0;
}"""


@pytest.mark.parametrize("view", ["head_view", "split_view", "knockout_view", "mask_explorer"])
def test_no_key_in_a_view_is_a_command(open_book, view):
    """In a notebook `b` makes a new cell and `d d` deletes one: not so while anything in a view has the focus."""
    book = open_book(show(view, MASKED))
    book.run(0)
    expect(book.view.locator(", ".join(DRAWN)).first).to_be_visible()
    spots = {place: book.view.locator(f"{place}:visible").first for place in PLACES}
    presses = {place: spot.focus for place, spot in spots.items() if spot.count()}
    presses["words"] = book.view.locator("p:visible").first.click  # what is not a control
    assert len(presses) >= 3
    for place, focus in presses.items():
        focus()
        book.page.evaluate(RECORD)
        for key in KEYS:
            if not (place == ".cv-tool" and key in ("Enter", "Space")):  # a download
                book.page.keyboard.press(key)
        assert book.page.evaluate("executed") == [], f"at {place}"
        assert book.view.evaluate("view => view.contains(document.activeElement)"), f"at {place}"
    book.page.locator(".jp-Notebook .jp-InputPrompt").first.click()
    book.page.keyboard.press("j")
    assert book.page.evaluate("executed") == ["notebook:move-cursor-down"], "a click elsewhere gives keys back to it"
    assert book.count_cells() == 2


def test_keys_of_a_view(open_book):
    state = "print(view.layer, view.token, view.attention_head, view.conv_head)"
    book = open_book(show("head_view"), state)
    book.run(0)
    tokens = book.view.get_by_role("option")
    tokens.first.press("ArrowRight")
    expect(tokens.first).to_have_attribute("aria-selected", "true")
    for key in ("ArrowRight", "ArrowDown", "a", "c", "c", "?"):
        book.page.keyboard.press(key)
    expect(tokens.nth(1)).to_be_focused()
    expect(book.view.locator(".cv-far")).to_contain_text("layer 1")
    expect(book.view.locator(".cv-keylist")).to_contain_text("another attention head")
    book.expect(1, "1 1 0 1")


# -- texts of all kinds, and what is taken out of a view ---------------------------------------------------------------

PAIR = "The old man sat by the sea.", "Was his ship coming home?"
CHINESE = "船驶过大海 🚢 to the old harbour 👩‍🚀."


@pytest.mark.parametrize("view", ["head_view", "split_view"])
@pytest.mark.parametrize("texts", [PAIR, (CHINESE,)], ids=["pair", "chinese"])
def test_other_texts(open_book, view, texts):
    arguments = ", ".join(repr(text) for text in texts)
    code = f"from convbert.visualize import {view}\nview = {view}('convbert-tiny', {arguments}, layer=1)\nview"
    book = open_book(
        code, "print([s or t for s, t in zip(view.sources, view.tokens)] if '[UNK]' in view.tokens else [])"
    )
    book.run(0)
    expect(book.view.locator(".cv-arc[d^=M]").first).to_be_attached()
    words = book.view.get_by_role("option")
    words.nth(2).click()
    expect(book.view.locator(".cv-pointed").last).to_contain_text("Token 2")
    if len(texts) > 1:
        book.view.get_by_role("radio", name="A → B").check()
        expect(book.view.locator(".cv-second")).to_have_count(1)
    else:
        assert "船" in words.all_inner_texts() and "🚢" in words.all_inner_texts()


def test_texts_typed_in_other_scripts(open_book):
    text = f"{CHINESE.removesuffix('.')} [MASK]."
    book = open_book(show("knockout_view", MASKED), "print(view.texts)", show("mask_explorer"), "print(view.text)")
    for cell in (0, 2):
        book.run(cell)
        view = book.page.locator(f"{SHOWN} .cv").last
        field = view.get_by_role("textbox")
        field.fill(text)
        field.press("Enter")
        expect(view.locator(".cv-answers caption")).to_contain_text("mask")
        expect(view.locator(".cv-sentence, .cv-chips")).to_contain_text("船")
        expect(view.locator(".cv-progress:visible, [aria-busy=true]")).to_have_count(0)
        book.expect(cell + 1, str([text]) if cell == 0 else text)


def test_a_page_is_saved(open_book, chromium, tmp_path):
    book = open_book(show("knockout_view", MASKED))
    book.run(0)
    with book.page.expect_download() as download:
        book.view.get_by_role("button", name="HTML").click()
    download.value.save_as(tmp_path / "saved.html")
    context = chromium.new_context(offline=True)
    page = context.new_page()
    page.goto((tmp_path / "saved.html").as_uri())
    page.get_by_role("button", name="silence attention head 0 of layer 3:").click()
    expect(page.locator(".cv-said")).to_contain_text("Without attention head 0 of layer 3")
    context.close()


# -- what a slow tab, another kernel or none makes of a view ----------------------------------------------------------

SLOW = """(() => {
  const make = URL.createObjectURL;
  const wait = "await new Promise((done) => setTimeout(done, 2500));";
  URL.createObjectURL = (blob) => make(blob.type === "text/javascript" ? new Blob([wait, blob], blob) : blob);
})()"""
ROWS = {"knockout_view": 5, "mask_explorer": 8}
CHANGES = {
    "knockout_view": ("view.silenced = [('conv', 2, 2)]", "Without convolution head 2 of layer 2"),
    "mask_explorer": ("view.place = 2", "In place of “opened”"),
}


def test_a_module_that_loads_late(lab, chromium):
    """anywidget drops what Python says to a model whose module takes over two seconds; a view hears it all the same."""
    desk = Desk(lab, chromium)
    desk.page.add_init_script(SLOW)
    desk.open("light")
    for view, rows in ROWS.items():
        change, changed = CHANGES[view]
        book = Book(desk, f"late-{view}", (show(view, MASKED), change))
        book.run(0)
        expect(book.view.locator(".cv-answers tbody tr")).to_have_count(rows)
        expect(book.view.locator(".cv-progress:visible, [aria-busy=true]")).to_have_count(0)
        book.run(1)
        expect(book.view).to_contain_text(changed)
        book.close()
    desk.context.close()


@pytest.mark.long
def test_throttled_openings(lab, chromium):
    """A tab whose processor is shared by many: `CONVBERT_OPENINGS=200` for a long look."""
    desk = Desk(lab, chromium)
    desk.open("light")
    throttle = desk.context.new_cdp_session(desk.page)
    throttle.send("Emulation.setCPUThrottlingRate", {"rate": 8})
    kinds = list(ROWS.items())
    openings = [i % len(kinds) for i in range(int(os.environ.get("CONVBERT_OPENINGS", 2)))]
    for first in range(0, len(openings), 10):
        book = Book(desk, f"openings-{first}", [show(view, MASKED) for view in ROWS])
        for cell in openings[first : first + 10]:
            book.run(cell)
            view, rows = book.output(cell).locator(".cv"), kinds[cell][1]
            expect(view.locator(".cv-answers tbody tr"), f"after opening {first}").to_have_count(rows)
            expect(view.locator(".cv-progress:visible, [aria-busy=true]")).to_have_count(0)
            book.run(book.last)
        book.close()
    desk.context.close()


def palette(theme: str) -> list[str]:
    """Paper, arcs and bars as style.css has them for a theme of JupyterLab, and what the browser's own parts follow."""
    css = (ROOT / "convbert" / "visualize" / "js" / "style.css").read_text()
    light = str(theme == "light").lower()
    block = re.search(rf'body\[data-jp-theme-light="{light}"\] \.cv {{([^}}]*--cv-paper[^}}]*)}}', css)[1]
    colours = dict(re.findall(r"--cv-([a-z]+): #([0-9a-f]{6})", block))
    drawn = [tuple(bytes.fromhex(colours[name])) for name in ("paper", "attention", "conv")]
    return [*(f"rgb{colour}" for colour in drawn), theme]


def test_theme_is_that_of_jupyterlab(open_book):
    """As its settings have it, then as the reader changes it; what the operating system wishes is for pages alone."""
    book = open_book(show("head_view"), theme="dark")
    book.run(0)
    expect(book.view.locator(".cv-bars path[d^=M]")).not_to_have_count(0)
    assert book.view.evaluate(COLOURS) == palette("dark")
    for theme, wish in (("light", "dark"), ("dark", "light")):
        book.page.emulate_media(color_scheme=wish)
        book.page.evaluate(CHANGE_THEME, f"JupyterLab {theme.title()}")
        expect(book.view).to_have_css("background-color", palette(theme)[0])
        assert book.view.evaluate(COLOURS) == palette(theme)
        book.desk.wait_for_splash()
