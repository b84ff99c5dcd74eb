"""How soon a view is on the screen and answers: an exported page in Chromium, and a live view in JupyterLab.

    python benchmarks/views.py [page lab knockout] [--rounds 5]

A page's seconds are those that its thread computed, whatever else the machine does; JupyterLab's are what a user waits.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the browser, the models and the JupyterLab of the tests

from browser import QUIET, find_chromium, random_view  # noqa: E402
from lab import DEADLINE, Book, Desk, Lab  # noqa: E402
from playwright.sync_api import Page, sync_playwright  # noqa: E402

from convbert.visualize.views import head_view, split_view  # noqa: E402

FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
DISPATCH = """(type) => document.querySelector(".cv-column[data-i='300']")
  .dispatchEvent(new PointerEvent(type, { bubbles: true }))"""
PAINT = """async ([cell, drawn, milliseconds]) => {
  const { commands, shell: { currentWidget: panel } } = jupyterapp;
  const { kernel } = panel.sessionContext.session;
  const frame = () => new Promise(requestAnimationFrame);
  const times = {};
  const note = (name) => { times[name] ??= (performance.now() - begun) / 1000; };
  const hear = (_, message) => note(message.header.msg_type);
  panel.content.activeCellIndex = cell;
  await commands.execute("notebook:clear-cell-output");
  while (document.querySelector(drawn)) await frame();
  kernel.iopubMessage.connect(hear);
  const begun = performance.now();
  const end = commands.execute("notebook:run-cell");
  while (!document.querySelector(drawn)) {
    if (performance.now() - begun > milliseconds) throw new Error("nothing is drawn");
    await frame();
  }
  await frame(); // what was found in the frame before is on the screen now
  note("painted");
  await end;
  kernel.iopubMessage.disconnect(hear);
  return times;
}"""


@contextmanager
def chromium() -> Iterator:
    """A headless browser."""
    if not (found := find_chromium()):
        raise SystemExit("no Chromium on this machine: install it, or name it with CHROMIUM")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=QUIET)
        yield browser
        browser.close()


def opened(browser, file: Path) -> tuple[Page, Callable[[], float]]:
    """A page that says it is ready, and how many seconds it has computed so far, on its thread."""
    page = browser.new_page()
    page.set_default_timeout(180_000)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def computed() -> float:
        """What the browser has counted since the page was made."""
        found = session.send("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in found if metric["name"] == "TaskDuration")

    page.goto(file.as_uri())
    page.wait_for_selector("[data-ready=true]")
    return page, computed


def open_pages(browser, folder: Path) -> dict[str, float]:
    """Pages of a base model with 128 tokens, until they are drawn."""
    found = {}
    for name, heads in (("6 + 6 heads", 12), ("12 + 12 heads", 24)):
        page, computed = opened(browser, random_view(head_view, heads, 128, 1).to_html(folder / f"{heads}.html"))
        page.wait_for_selector(".cv-arc[d^=M]", state="attached")
        found[f"open 128 tokens, {name}"] = computed()
        page.close()
    return found


def use_page(browser, folder: Path) -> dict[str, float]:
    """What a reader does on a page of 512 tokens and 12 + 12 heads."""
    page, computed = opened(browser, random_view(split_view, 24, 512, 2).to_html(folder / "view.html"))
    layer = page.get_by_role("group", name="Layer")
    acts = {
        "open a layer": lambda: page.locator("[data-at='1000']").click(),
        "another layer": lambda: layer.get_by_text("7", exact=True).click(),
        "choose a token": lambda: page.evaluate(DISPATCH, "click"),
        "point at a token": lambda: page.evaluate(DISPATCH, "pointerover"),
    }
    found = {}
    for name, act in acts.items():
        before = computed()
        act()
        page.wait_for_selector(".cv-stage[aria-busy=false]")
        page.evaluate(FRAMES)
        found[f"{name}, 512 tokens"] = computed() - before
    page.close()
    return found


def measure_pages(rounds: int) -> dict[str, list[float]]:
    """All that is done on pages, several times."""
    with chromium() as browser, TemporaryDirectory() as folder:
        found = [open_pages(browser, Path(folder)) | use_page(browser, Path(folder)) for _ in range(rounds)]
    return {name: [row[name] for row in found] for name in found[0]}


BASE = """from convbert import ConvBertConfig, ConvBertForMaskedLM, ConvBertTokenizerFast
from convbert.visualize import knockout_view
tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
model = ConvBertForMaskedLM(ConvBertConfig(vocab_size=len(tokenizer)))"""
KNOCKOUT = "knockout_view(model, 'The ship sailed across the [MASK] to the old harbour.', tokenizer=tokenizer)"


@contextmanager
def opened_book(name: str, *cells: str) -> Iterator[Book]:
    """A notebook of these cells in JupyterLab, whose first has been run."""
    with chromium() as browser, TemporaryDirectory() as folder, Lab(Path(folder)).running() as lab:
        desk = Desk(lab, browser)
        desk.open("light")
        book = Book(desk, name, cells)
        book.run(0)
        yield book
        desk.context.close()


def paint(book: Book, cell: int, drawn: str) -> float:
    """Seconds from running a cell until an element is on the screen."""
    return book.page.evaluate(PAINT, [cell, f".jp-OutputArea-output {drawn}", DEADLINE * 1000])["painted"]


def measure_lab(rounds: int) -> dict[str, list[float]]:
    """From running a cell to the arcs and bars of 128 tokens; `made` is Python's part of it."""
    text = " ".join(["the sea"] * 63)
    cells = (
        "from time import perf_counter\nfrom convbert.visualize import figures, head_view",
        f"began = perf_counter()\nview = head_view('convbert-tiny', '{text}')\nmade = perf_counter() - began\nview",
        "print(made)",
    )
    made, painted = [], []
    with opened_book("paint", *cells) as book:
        for _ in range(rounds):
            painted.append(paint(book, 1, ".cv-bars path[d^=M]"))
            made.append(float(book.run(2)))
    return {"made": made, "painted": painted}


def measure_knockout(rounds: int) -> dict[str, list[float]]:
    """From running a cell to the switches of a base model and its first answers; the ablations follow."""
    with opened_book("knockout", BASE, KNOCKOUT) as book:
        painted = [paint(book, 1, ".cv-answers tbody tr") for _ in range(rounds)]
    return {"knockout_view of 12 layers, 12 heads, width 768: painted": painted}


CASES = {"page": measure_pages, "lab": measure_lab, "knockout": measure_knockout}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all when none is named")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if unknown := set(args.cases) - set(CASES):
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    for case in args.cases or CASES:
        for name, spent in CASES[case](args.rounds).items():
            print(f"{case}: {name}: median {median(spent):.3f} s, least {min(spent):.3f} s")


if __name__ == "__main__":
    main()
