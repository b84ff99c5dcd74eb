"""What all tests share: the data folder and seeded random numbers."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton looks once, when something first imports it
with suppress(ImportError):
    import triton  # noqa: F401  (after TensorFlow, which some tests need, its import would crash)

ROOT = Path(__file__).resolve().parents[1]
LOCAL = "file:", "data:", "blob:"
DAYS = "monday tuesday wednesday thursday friday saturday sunday morning evening night week year".split()
CHOICES = [
    {"question": f"a {w} {d}:", "choices": ["it rained", "the sun shone"], "label": int(w == "fine")}
    for d in DAYS
    for w in ("fine", "grey")
]


class MapStyle(torch.utils.data.Dataset):
    """As torch's tutorials write them: no end of its own, beyond `len`."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i % len(self.rows)]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The project's text data: `$CONVBERT_DATA`, or `../shared/data` beside the checkout."""
    folder = Path(os.environ.get("CONVBERT_DATA") or ROOT.parent / "shared" / "data")
    missing = [name for name in ("corpus", "tasks", "vocab") if not (folder / name).is_dir()]
    if missing:
        pytest.skip(f"no {', '.join(missing)} in {folder}; set CONVBERT_DATA to the folder that holds the text data")
    return folder


@pytest.fixture
def generator():
    """A torch generator that gives every test the same numbers, whatever ran before."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def tokenizer():
    """The bundled vocabulary's."""
    from convbert import ConvBertTokenizerFast

    return ConvBertTokenizerFast.from_pretrained("convbert-tiny")


@pytest.fixture(scope="session")
def start(tmp_path_factory) -> Path:
    """The folder of a small encoder with the bundled vocabulary, to fine-tune."""
    from convbert import ConvBertConfig, ConvBertModel, ConvBertTokenizerFast

    folder = tmp_path_factory.mktemp("start")
    torch.manual_seed(0)
    sizes = dict(num_hidden_layers=1, hidden_size=32, embedding_size=16, intermediate_size=64)
    ConvBertModel(ConvBertConfig.preset("tiny", **sizes, max_position_embeddings=64)).save_pretrained(folder)
    ConvBertTokenizerFast.from_pretrained("convbert-tiny", model_max_length=64).save_pretrained(folder)
    return folder


@pytest.fixture
def run_command(capsys, monkeypatch, tmp_path):
    """`run_command("fill-mask", ...)`: the command line in this process and an empty folder; its code and errors."""

    def run(*words: str) -> tuple[int, str]:
        from convbert.cli import main

        monkeypatch.chdir(tmp_path)
        try:
            code = main(words)
        except SystemExit as end:  # argparse's
            code = end.code
        return code, capsys.readouterr().err

    return run


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium without a network, driven by playwright: `$CHROMIUM`, or the system's."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser of these tests")
    from browser import QUIET, find_chromium

    found = find_chromium()
    if not found:
        pytest.skip("no Chromium on this machine: install it, or name it with CHROMIUM")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def lab(chromium, tmp_path_factory):
    """A running JupyterLab in a folder of its own."""
    from lab import Lab

    with Lab(tmp_path_factory.mktemp("lab")).running() as lab:
        yield lab


@pytest.fixture(scope="module")
def desk(lab, chromium):
    """One page with that JupyterLab."""
    from lab import DEADLINE, Desk
    from playwright.sync_api import expect

    desk = Desk(lab, chromium)
    expect.set_options(timeout=DEADLINE * 1000)
    yield desk
    expect.set_options(timeout=5000)
    desk.context.close()


@pytest.fixture
def open_book(desk, request):
    """Open a notebook of these cells; what goes wrong in the page, also while the notebook is closed, fails the test.

    How the page looked in the end is kept among the pictures of the lab.
    """
    from lab import Book

    books = []

    def open_notebook(*cells, theme="light"):
        if desk.theme != theme:
            desk.open(theme)
        books.append(Book(desk, f"{request.node.name}-{len(books)}", cells))
        return books[-1]

    yield open_notebook
    desk.take_picture(request.node.name)
    for book in books:
        book.close()
    wrong, desk.wrong = desk.wrong, []
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def open_page(chromium):
    """Open a file: `open_page(path, color_scheme="dark")`; errors and requests of the page fail the test."""
    contexts, wrong = [], []

    def open_file(path, **options):
        context = chromium.new_context(offline=True, **{"viewport": {"width": 1000, "height": 700}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith(LOCAL) or wrong.append(request.url))
        page.goto(Path(path).resolve().as_uri())
        page.wait_for_selector("[data-ready=true]")
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert not wrong, wrong


@st.composite
def padded_masks(draw):
    """Attention masks padded right, left or on both sides; rows may be empty, but not all of them."""
    T = draw(st.integers(1, 12))
    spans = draw(st.lists(st.tuples(st.integers(0, T), st.integers(0, T)), min_size=1, max_size=5))
    mask = torch.zeros(len(spans), T, dtype=torch.bool)
    for row, (a, b) in zip(mask, spans, strict=True):
        row[min(a, b) : max(a, b)] = True
    mask[-1, 0] |= not mask.any()
    return mask


@pytest.fixture(scope="module")
def local_model():
    """A small ConvBERT in which neighbours matter."""
    from convbert import ConvBertConfig, ConvBertModel

    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_attention_heads=4, num_hidden_layers=2, intermediate_size=48, vocab_size=50)
    model = ConvBertModel(ConvBertConfig(**sizes)).eval()
    with torch.no_grad():
        for layer in model.encoder.layers:
            layer.mixer.qkv_proj.weight *= 10
            layer.mixer.output.weight *= 10
    return model
