"""The tools of maintainers: what they find in a small tree that is wrong everywhere."""

import json
import re
import shutil
import subprocess

import finish_site
import lint_notebooks
import old_words
import pytest


def write_notebook(path, *cells):
    """A notebook of cells `(kind, source, outputs)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = [{"cell_type": kind, "source": source, "outputs": list(outputs)} for kind, source, *outputs in cells]
    path.write_text(json.dumps({"cells": made}), encoding="utf-8")


def test_every_fault_of_a_notebook_is_named_with_its_cell(tmp_path):
    title = "markdown", "# One\n\n> A page.\n"
    picture = {"output_type": "display_data", "data": {"image/png": "A" * 80_000}}
    error = {"output_type": "error", "ename": "KeyError"}
    place = {"output_type": "stream", "text": "saved to /tmp/model"}
    write_notebook(
        tmp_path / "nbs/01_good.ipynb",
        title,
        ("code", "#| export\n#| help\n" + "a = 1\n" * 40),
        ("markdown", "![A map](map.svg)"),
    )
    write_notebook(tmp_path / "nbs/a/01_untitled.ipynb", ("markdown", "# One"))
    write_notebook(tmp_path / "nbs/a/01_loud.ipynb", ("markdown", "# One\n> A page.\nAnd more."))
    write_notebook(tmp_path / "nbs/a/02_long.ipynb", title, *[("code", "1")] * 60)
    write_notebook(tmp_path / "nbs/a/03_export.ipynb", title, ("code", "#| export\n" + "a = 1\n" * 41))
    write_notebook(tmp_path / "nbs/a/04_outputs.ipynb", title, ("code", "1", picture, error), ("code", "1", place))
    blind = '![](map.svg)\n<img src="a.png" alt="">\n<iframe src="a.html" title="A view"></iframe>'
    write_notebook(tmp_path / "nbs/a/05_blind.ipynb", title, ("markdown", blind))
    options = "#| label: fig-map\n#| fig-alt: A map: one row"
    write_notebook(tmp_path / "nbs/a/06_options.ipynb", title, ("code", options), ("markdown", "#| fig-alt: 'a: b'"))
    write_notebook(tmp_path / "nbs/_draft.ipynb", ("code", "1"))
    (tmp_path / "nbs/sidebar.yml").write_text(
        "website:\n  sidebar:\n    contents:\n      - 01_good.ipynb\n      - section: A\n        href: a/gone.ipynb\n"
        "        contents: [a/01_loud.ipynb, a/01_loud.ipynb, a/02_long.ipynb, a/03_export.ipynb, a/04_outputs.ipynb,"
        " a/05_blind.ipynb, a/06_options.ipynb]\n"
    )
    (tmp_path / "convbert").mkdir()
    (tmp_path / "convbert/long.py").write_text("a = 1\n" * 301)
    (tmp_path / "convbert/short.py").write_text("a = 1\n" * 300)
    assert sorted(lint_notebooks.faults(tmp_path)) == [
        "convbert/long.py: 301 lines, at most 300",
        "nbs/a/01_loud.ipynb, cell 0: holds more than a title and its line, which nbdev drops from the page",
        "nbs/a/01_untitled.ipynb, cell 0: does not open with `# Title` and a line `> what it is about`",
        "nbs/a/02_long.ipynb: 61 cells, at most 60: split it",
        "nbs/a/03_export.ipynb, cell 1: exports 41 lines, at most 40",
        "nbs/a/04_outputs.ipynb, cell 1: its output is an error: KeyError",
        "nbs/a/04_outputs.ipynb, cell 1: its picture has 60000 bytes, at most 50000",
        "nbs/a/04_outputs.ipynb, cell 1: its picture has no `#| fig-alt`",
        "nbs/a/04_outputs.ipynb, cell 2: its output names a place on a disk: /tmp/model",
        'nbs/a/05_blind.ipynb, cell 1: neither alt nor title in <img src="a.png" alt="">',
        "nbs/a/05_blind.ipynb, cell 1: no alt text for map.svg",
        "nbs/a/06_options.ipynb, cell 1: its options are not YAML (mapping values are not allowed here): "
        "fig-alt: A map: one row",
        "nbs/a: 2 notebooks have the number 01",
        "nbs/sidebar.yml: a/01_loud.ipynb is listed 2 times, not once",
        "nbs/sidebar.yml: a/01_untitled.ipynb is listed 0 times, not once",
        "nbs/sidebar.yml: a/gone.ipynb is no notebook",
    ]


def test_old_words_are_named_with_their_place_and_the_word_of_the_field(tmp_path):
    (name, better), (called, better_called) = (next(iter(t.items())) for t in (old_words.NAMES, old_words.CALLED))
    code = f"def f(x):\n    return {name}(x), {name}_2(x)"
    write_notebook(tmp_path / "nbs/01_one.ipynb", ("markdown", "# One"), ("code", code))
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_one.py").write_text("\n# it {} for itself\n".format("thinks"))
    (tmp_path / "README.md").write_text(f"{called} the window, or {called}(window)\n")
    assert list(old_words.faults(tmp_path)) == [
        f"nbs/01_one.ipynb, cell 1, line 2: '{name}'; the field's word: {better}",
        "tests/test_one.py:2: '{} for itself'; the field's word: the feed-forward sublayer".format("thinks"),
        f"README.md:1: '{called}'; the field's word: {better_called}",
    ]


@pytest.mark.parametrize(
    "english",
    [
        "ax.text(0, 0, text, bbox=box)  # a box in the figure",
        "Light bends when it passes from air into water, and a bent spoon is seen.",
        "What the sea thinks of it; people think of a run in epochs.",
        "Two sentences are drawn at random, and their loss is drawn as a line. Draw the map.",
        "Her job at the team was to work in silence; he told her so, and judges forget.",
        "Row 3 has no label. Work goes on. Mix the butter and the sugar. Forget it.",
        "It halves the time, within reach of the bandwidth; the rows of a batch, split by hand.",
        "Running text can teach that, and a row without an answer teaches it to say so.",
        "def test_rows(encoded): return machine.rows(encoded)[reading]",
    ],
)
def test_plain_english_is_left_alone(english):
    assert list(old_words.old_words(english)) == []


# -- the finished site

PAGE = """<head><link href="x.css" rel="stylesheet"><link rel="canonical" href="https://convbert.github.io/convbert/">
<script src="https://cdnjs.cloudflare.com/polyfill/v3/polyfill.min.js?features=es6"></script>
<script src="https://cdn.jsdelivr.net/npm/mathjax@3.2.2/es5/tex-chtml-full.js" type="text/javascript"></script>
<script src="https://cdnjs.cloudflare.com/ajax/libs/jquery/3.5.1/jquery.min.js" integrity="b"></script>
</head><a href="https://arxiv.org/abs/2008.02496">ConvBERT</a>"""


@pytest.fixture
def site(tmp_path):
    """A site of two pages, and packages like those from npm."""
    for name in ("index.html", "keras/index.html"):
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / name).write_text(PAGE)
    entry = dict(objectID="ablation.html", href="ablation.html", title="Head masks", section="", text="make_head_mask")
    (tmp_path / "site/search.json").write_text(json.dumps([entry]))
    for name in ("requirejs/require.js", "jquery/dist/jquery.min.js", "mathjax/es5/tex-chtml-full.js"):
        (tmp_path / "packages" / name).parent.mkdir(parents=True)
        (tmp_path / "packages" / name).write_text("")
    return tmp_path / "site"


def test_a_finished_site_serves_what_its_pages_load(site):
    for _ in range(2):  # a site that is finished stays as it is
        assert finish_site.finish(site, site.parent / "packages") == []
        page = (site / "keras/index.html").read_text()
        scripts = re.findall(r'<script src="([^"]+)"', page)
        assert [(site / "keras" / script).resolve().is_file() for script in scripts] == [True, True]
        assert "polyfill" not in page and "integrity" not in page and "https://arxiv.org" in page


@pytest.mark.parametrize(
    "text",
    [
        '<script async src="https://example.org/a.js"></script>',
        "<img alt='' src='https://example.org/a.png'>",
        '<link rel="stylesheet" href="https://example.org/a.css">',
        "@import url(https://example.org/a.css);",
        "@font-face { src: url('https://example.org/a.woff2') }",
    ],
)
def test_what_a_finished_site_would_still_fetch_is_named(site, text):
    (site / "x.css").write_text(text)
    assert len(finish_site.finish(site, site.parent / "packages")) == 1


def test_searching_a_class_finds_its_page_first(site):
    """With the library and the settings of Quarto's search."""
    fuse = finish_site.PACKAGES / "fuse.js/dist/fuse.common.js"
    if not (fuse.exists() and shutil.which("node")):
        pytest.skip("the library of the search comes from npm: npm ci --prefix tools/site")
    texts = ["ConvBertForMaskedLM and other words. " * n for n in range(1, 40)]
    pages = [dict(objectID=n, href=f"{n}.html", title="Use", section="", text=text) for n, text in enumerate(texts)]
    entries = finish_site.entries_of(pages)
    settings = dict(ignoreLocation=True, threshold=0.1, keys=[
        dict(name="title", weight=20), dict(name="section", weight=20), dict(name="text", weight=10),
    ])  # fmt: skip
    code = (
        f"const Fuse = require({json.dumps(str(fuse))}); const [entries, settings, names] = JSON.parse("
        "require('fs').readFileSync(0)); const fuse = new Fuse(entries, settings);"
        "console.log(JSON.stringify(names.map((name) => fuse.search(name)[0].item.href)))"
    )
    wanted = {
        "ConvBertForMaskedLM": "modeling.html#convbertformaskedlm",
        "TFElectraModel": "keras/modeling.html#tfelectramodel",
        "finetune": "training/finetuning.html#finetune",
    }
    given = json.dumps([entries, settings, list(wanted)])
    done = subprocess.run(["node", "-e", code], input=given, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == list(wanted.values())
