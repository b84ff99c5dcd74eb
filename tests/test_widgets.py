"""The views: what travels, how a page answers, and what stands on the screen, in a Chromium without a network."""

import base64
import json
import re
import zlib
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from browser import random_view
from conftest import ROOT
from pages import write_pages

from convbert.tokenizers.classes import ConvBertTokenizerFast
from convbert.visualize import packing
from convbert.visualize.encoded_text import load_model
from convbert.visualize.head_contributions import head_split

needs = dict(reason='the views need pip install "convbert[widgets]"', exc_type=ImportError)
views = pytest.importorskip("convbert.visualize.views", **needs)
widgets = pytest.importorskip("convbert.visualize.widgets", **needs)
expect = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser of these tests").expect
HeadView, SplitView, head_view, split_view = views.HeadView, views.SplitView, views.head_view, views.split_view

PAIR = "The old man sat by the sea.", "Was his ship coming home?"
TEXT = "The old man sat by the sea and waited for the ship that had taken his son away."
HEBREW = "שלום עולם, הספינה שבה הביתה"
JS = sorted((ROOT / "convbert" / "visualize" / "js").glob("*.js"))


@pytest.fixture(autouse=True)
def patience():
    """Machines with much else to do draw late."""
    expect.set_options(timeout=60_000)
    yield
    expect.set_options(timeout=5_000)


@pytest.fixture(scope="module")
def split():
    return head_split("convbert-tiny", *PAIR)


@pytest.fixture
def open_view(open_page, tmp_path):
    """Write a view to a file and open it there."""

    def opened(view, **options):
        page = open_page(view.to_html(tmp_path / "view.html"), **options)
        page.set_default_timeout(60_000)
        return page

    return opened


def digits(numbers) -> list[str]:
    """Numbers as they stand on the screen."""
    return [f"{float(number):.4f}" for number in numbers]


def mean_or_head(maps: torch.Tensor, head: int) -> torch.Tensor:
    return maps.mean(0) if head < 0 else maps[head]


def without_convolution(split):
    kernels = [kernel[:0] for kernel in split.conv_kernel]
    return replace(split, conv_kernel=kernels, conv_norm=split.conv_norm[:, :0])


# -- what travels


def test_traits_hold_the_split(split):
    view = HeadView(split, layer=2)
    T, K = len(split.tokens), split.conv_kernel[2].shape[-1]
    norms = np.frombuffer(view.norms, "<f4").reshape(4, 8, T)
    assert np.array_equal(norms, torch.cat([split.attention_norm, split.conv_norm], 1).numpy())
    for packed, exact, width in ((view.attention, split.attention[2], T), (view.conv_kernel, split.conv_kernel[2], K)):
        weights = np.frombuffer(packed, "<u2").reshape(5, T, width) / 10_000
        assert np.abs(weights - torch.cat([exact, exact.mean(0, keepdim=True)]).numpy()).max() <= 5.1e-5
    assert (view.tokens, view.sources, view.answered) == (split.tokens, split.sources, [2])
    assert (view.attention_heads, view.conv_heads, view.segments) == (4, 4, split.segments)


def test_question_and_answer(split):
    view, answered = HeadView(split), []
    view.observe(lambda change: answered.append(change["new"]), "answered")
    first = view.attention
    view.layer = 3
    assert answered == [[3]] and view.attention != first
    view.token, view.attention_head, view.special_tokens, view.sentences = 4, 1, False, "AB"
    assert answered == [[3]], "only another layer is a question"


@pytest.mark.parametrize(
    "state",
    [{"layer": -1}, {"layer": 4}, {"token": -2}, {"token": 99}, {"attention_head": 4}, {"conv_head": -2}],
    ids=str,
)
def test_what_is_not_there_is_refused(split, state):
    (name, value), view = *state.items(), HeadView(split, layer=1, token=2)
    with pytest.raises(ValueError, match=f"{name}={value} is not between"):
        setattr(view, name, value)
    assert (view.layer, view.token, view.answered) == (1, 2, [1])
    with pytest.raises(ValueError, match=f"{name}={value} is not between"):
        HeadView(split, **state)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="text is empty"):
        head_view("convbert-tiny", " \n")
    with pytest.raises(TypeError, match="a view shows one text, got 2"):
        split_view("convbert-tiny", ["one", "two"])
    with pytest.raises(TypeError, match="Did you mean 'layer'"):
        head_view("convbert-tiny", TEXT, layers=1)
    with pytest.raises(ValueError, match="needs a text_pair"):
        head_view("convbert-tiny", TEXT, sentences="AB")
    with pytest.raises(ValueError, match="pass tokenizer="):
        head_view(load_model("convbert-tiny")[0], TEXT)


def test_long_text_is_cut_and_said():
    with pytest.warns(UserWarning, match="has 1502 tokens and the model reads 512"):
        view = head_view("convbert-tiny", "ship " * 1500)
    assert len(view.tokens) == 512 and "1502 tokens" in view.notes[0]


def test_model_in_train_mode_is_seen_at_rest():
    model, tokenizer = load_model("convbert-tiny")
    for part in model.modules():
        if hasattr(part, "dropout"):
            part.dropout = 0.5
    model.train()
    view = head_view(model, TEXT, tokenizer=tokenizer, layer=3)
    assert model.training
    assert view.attention == head_view("convbert-tiny", TEXT, layer=3).attention


def test_transformers_folder(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the folder is written by transformers")
    torch.manual_seed(0)
    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    config = transformers.ConvBertConfig(
        vocab_size=len(tokenizer), hidden_size=32, embedding_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=32, head_ratio=2, conv_kernel_size=5,
    )  # fmt: skip
    model = transformers.ConvBertModel(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    view = head_view(tmp_path, TEXT, layer=1)
    maps = model(**tokenizer([TEXT], return_tensors="pt"), output_attentions=True).attentions[1][0]
    assert (view.attention_heads, view.conv_heads) == (2, 2)
    shown = np.frombuffer(view.attention, "<u2").reshape(3, *maps.shape[1:])[:2] / 10_000
    assert np.abs(shown - maps.detach().numpy()).max() < 1e-4


def test_page_holds_every_answer_once(split):
    data = widgets.page_data(HeadView(split, layer=2, token=3))
    assert list(data["answers"]) == ["[0]", "[1]", "[2]", "[3]"]
    assert (data["state"]["layer"], data["state"]["token"]) == (2, 3)
    assert "attention" not in data["state"], "the present layer is among the answers"
    packed = data["answers"]["[1]"]["conv_kernel"]
    planes = np.frombuffer(zlib.decompress(base64.b85decode(packed["packed"].replace(".", "<"))), np.uint8)
    kernels = torch.cat([split.conv_kernel[1], split.conv_kernel[1].mean(0, keepdim=True)])
    assert planes.reshape(2, -1).T.tobytes() == packing.pack_weights(kernels)


@pytest.mark.parametrize("size", [2, 4])
def test_packed_numbers_arrive(size, open_page, tmp_path):
    """All byte values and every length of the last group: what Python packs, the script of a page reads."""
    rows = [bytes((i * 37 + n) % 256 for i in range(size * n)) for n in range(1, 12)]
    checks = json.dumps([[packing.compress_numbers(row, size), list(row)] for row in rows])
    check = f"""
      const seen = [];
      for (const [packed, bytes] of {checks}) {{
        const view = await unshrink(packed);
        seen.push(JSON.stringify([...new Uint8Array(view.buffer)]) === JSON.stringify(bytes));
      }}
      document.body.dataset.ready = "true";
      document.body.textContent = seen.join(" ");"""
    page = tmp_path / "page.html"
    page.write_text(f'<body></body><script type="module">{widgets.join_modules("common")}\n{check}</script>')
    assert open_page(page).inner_text("body") == " ".join(["true"] * 11)


# -- the scripts


@pytest.mark.parametrize("path", JS, ids=lambda path: path.stem)
def test_script_keeps_the_rules(path):
    script = path.read_text(encoding="utf-8")
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|https?://(?!www\.w3\.org)", script)
    assert not [line for line in script.splitlines() if len(line) > 120 or line != line.rstrip() or "\t" in line]
    bare = re.findall(r"^(?!\s*\*/|/\*\*|.*\*/$).*\n(export (?:async )?(?:function|const) \w+)", script, re.M)
    assert not bare, "an exported function needs a line of JSDoc above it"
    assert not [name for name in re.findall(r'^import .* from "(.*)";', script, re.M) if not name.startswith("./")]


# -- numbers on the screen


def read_table(page, title: str) -> list[list[str]]:
    """The rows of a table below the picture."""
    rows = page.locator("table", has=page.locator("caption", has_text=title)).locator("tbody tr")
    return [row.locator("td").all_inner_texts() for row in rows.all()]


def read_weights(page, title: str) -> list[str]:
    return [weight for _, weight, *_ in read_table(page, title)]


def strongest(weights: torch.Tensor, most: int = 5) -> list[str]:
    return digits(weights.flatten().sort(descending=True).values[:most])


def svg_numbers(page, lane: str) -> list[str]:
    return page.locator(f".{lane} .cv-number").all_text_contents()


CHOSEN = [(0, -1, -1, 4), (1, 0, 3, 0), (3, 2, 1, 15), (2, 3, -1, 9)]


@pytest.mark.parametrize(("layer", "head", "conv", "token"), CHOSEN)
def test_numbers_equal_the_tensors(split, open_view, layer, head, conv, token):
    page = open_view(HeadView(split, layer=layer, attention_head=head, conv_head=conv, token=token))
    expect(page.locator(".cv-far")).to_contain_text(f"layer {layer}")
    row = mean_or_head(split.attention[layer], head)[token]
    kernel = mean_or_head(split.conv_kernel[layer], conv)[token]

    assert read_weights(page, "looks at") == strongest(row)
    for word, weight, distance in read_table(page, "looks at"):
        other = token + int(distance.replace("−", "-"))
        assert (word, weight) == (split.tokens[other], digits([row[other]])[0])
    least = max(0.005, round(float(row.max()), 4) / 50)
    assert svg_numbers(page, "cv-arcs") == [weight for weight in strongest(row, 99) if float(weight) >= least]

    half = len(kernel) // 2
    inside = [k for k in range(len(kernel)) if 0 <= token + k - half < len(split.tokens)]
    assert svg_numbers(page, "cv-bars") == digits(kernel[inside])
    assert read_weights(page, "mixes") == strongest(kernel[inside])

    far, near = split.attention_norm[layer, :, token].double(), split.conv_norm[layer, :, token].double()
    work = {name: (length, share) for name, length, share in read_table(page, "Who works on")}
    share = split.attention_share[layer, token]
    assert work["attention"] == tuple(digits((far.sum(), share)))
    assert work["convolution"] == tuple(digits((near.sum(), 1 - share)))
    if head >= 0:
        assert work[f"attention head {head}"] == tuple(digits((far[head], far[head] / (far.sum() + near.sum()))))
    if conv >= 0:
        assert work[f"convolution head {conv}"][0] == digits([near[conv]])[0]


def test_arcs_of_all_tokens_are_the_strongest(split, open_view):
    page = open_view(HeadView(split, layer=3, attention_head=2))
    expect(page.locator(".cv-far")).to_contain_text("strongest looks of all tokens")
    assert read_weights(page, "Strongest looks") == strongest(split.attention[3][2])
    assert read_table(page, "Who does the work")[0][1] == digits([split.attention_share[3].mean()])[0]


def test_gauges_tell_the_work_of_heads(split, open_view):
    page = open_view(HeadView(split, layer=1))
    norms = torch.cat([split.attention_norm, split.conv_norm], 1)[1]
    work = (norms / norms.sum(0)).mean(-1)
    gauges = page.locator(".cv-attention.cv-gauge, .cv-conv.cv-gauge")
    expect(gauges).to_have_count(8)
    titles = [gauge.get_attribute("title") for gauge in gauges.all()]
    assert [re.search(r"[\d.]{6}", title)[0] for title in titles] == digits(work)
    heights = gauges.evaluate_all("labels => labels.map((label) => Number(label.style.getPropertyValue('--work')))")
    assert np.allclose(heights, (work / work.max()).numpy(), atol=1e-5)


def test_strips_tell_the_share_of_tokens(split, open_view):
    page = open_view(HeadView(split, layer=3))
    expect(page.locator(".cv-arc").first).to_be_attached()
    read = "all => all.map((column) => parseFloat(column.style.getPropertyValue('--share')))"
    shares = page.get_by_role("option").evaluate_all(read)
    assert np.allclose(shares, 100 * split.attention_share[3].numpy(), atol=0.006)


def test_pointing_reads_a_pair(split, open_view):
    page = open_view(HeadView(split, layer=2, token=4, attention_head=1))
    page.get_by_role("option").nth(7).hover()
    said = page.locator(".cv-pointed")
    weight, kernel = split.attention[2][1, 4, 7], split.conv_kernel[2].mean(0)[4, 7 - 4 + 4]
    expect(said).to_contain_text(f"attention {weight:.4f} at distance +3, kernel weight {kernel:.4f}")
    expect(said).to_contain_text("“sat” in sentence A")
    assert said.get_attribute("aria-live") == "polite"
    page.locator("h1").hover()
    expect(said).not_to_contain_text("distance")


def test_pointing_without_a_choice_previews(split, open_view):
    page = open_view(HeadView(split))
    page.get_by_role("option").nth(5).hover()
    expect(page.locator(".cv-far")).to_contain_text("where by looks")
    assert svg_numbers(page, "cv-bars")
    page.locator("h1").hover()
    expect(page.locator(".cv-far")).to_contain_text("strongest looks of all tokens")


# -- choosing


def test_filter_of_sentences(split, open_view):
    page = open_view(HeadView(split))
    B = torch.tensor(split.segments, dtype=torch.bool)
    maps = split.attention[0].mean(0)
    for name, part in {"A → A": maps[~B][:, ~B], "A → B": maps[~B][:, B], "B → A": maps[B][:, ~B], "all": maps}.items():
        page.get_by_role("radio", name=name, exact=True).check()
        best = strongest(part)
        expect(page.locator(".cv-tables td:nth-child(2)").first).to_have_text(best[0])
        assert read_weights(page, "Strongest looks") == best
    page.get_by_role("radio", name="B → A").check()
    page.get_by_role("option").nth(4).click()
    expect(page.locator(".cv-far")).to_contain_text("sat looks nowhere that the choices above show")


def test_no_filter_without_a_second_sentence(open_view):
    page = open_view(head_view("convbert-tiny", TEXT))
    expect(page.get_by_role("group", name="Layer")).to_be_visible()
    expect(page.get_by_role("group", name="Sentences")).to_have_count(0)


def test_special_tokens_hidden(split, open_view):
    page = open_view(HeadView(split, layer=1, attention_head=0, token=4))
    page.get_by_role("radio", name="hidden").check()
    special = torch.tensor(split.special)
    row = split.attention[1][0, 4]
    expect(page.locator(".cv-far")).to_contain_text("not renormalised")
    hidden = float(re.search(r"hidden \(([\d.]+) of this row", page.inner_text(".cv-far"))[1])
    assert hidden == pytest.approx(float(row[special].sum()), abs=2e-4)
    assert read_weights(page, "looks at") == strongest(row[~special])
    expect(page.locator(".cv-out")).to_have_text(["[CLS]", "[SEP]", "[SEP]"])


def test_click_chooses_and_clicking_again_clears(split, open_view):
    page = open_view(HeadView(split))
    token = page.get_by_role("option").nth(3)
    token.click()
    expect(token).to_have_attribute("aria-selected", "true")
    expect(page.locator(".cv-near")).to_contain_text("how man mixes its 9 nearest")
    token.click()
    expect(token).to_have_attribute("aria-selected", "false")


def test_keyboard_alone(split, open_view):
    page = open_view(HeadView(split))
    far, near, said = page.locator(".cv-far"), page.locator(".cv-near"), page.locator(".cv-pointed")
    expect(far).to_contain_text("layer 0")
    for _ in range(12):  # through the groups of choices to the tokens
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.role") == "option":
            break
    assert page.evaluate("document.activeElement.dataset.i") == "0"
    press = page.keyboard.press
    press("ArrowRight")
    expect(far).to_contain_text("where [CLS] looks")
    press("End"), press("ArrowLeft"), press("ArrowLeft")
    expect(far).to_contain_text("where home looks")
    assert page.evaluate("document.activeElement.innerText") == "home"
    press("ArrowDown"), press("ArrowDown"), press("ArrowUp")
    expect(far).to_contain_text("layer 1, mean of 4 heads")
    press("a"), press("a"), press("c")
    expect(far).to_contain_text("layer 1, head 1")
    expect(near).to_contain_text("layer 1, head 0")
    press("Shift+ArrowLeft"), press("Shift+ArrowLeft")
    expect(said).to_contain_text("at distance −2")
    for _ in range(3):
        press("a")
    expect(far).to_contain_text("mean of 4 heads")
    press("Home"), press("ArrowLeft")
    expect(far).to_contain_text("where [CLS] looks")
    press("Escape")
    expect(far).to_contain_text("strongest looks of all tokens")


def test_every_control_is_reached_and_shows_its_focus(split, open_view):
    page = open_view(HeadView(split, token=2))
    seen = set()
    for _ in range(8):
        page.keyboard.press("Tab")
        focus = page.evaluate("""() => {
          const at = document.activeElement;
          const shown = at.matches("input") ? at.nextElementSibling : at;
          const { outlineStyle, outlineWidth } = getComputedStyle(shown);
          return [at.closest("fieldset")?.firstChild.innerText ?? at.role, `${outlineStyle} ${outlineWidth}`];
        }""")
        if focus[0]:
            assert focus[1] == "solid 2px", focus
            seen.add(focus[0])
    assert seen == {"Layer", "Attention head", "Convolution head", "Sentences", "[CLS], [SEP]", "option"}


def test_tokens_can_be_selected_and_found(split, open_view):
    page = open_view(HeadView(split))
    expect(page.get_by_role("option")).to_have_text(split.tokens)
    page.evaluate("getSelection().selectAllChildren(document.querySelector('.cv-tokens'))")
    assert page.evaluate("getSelection().toString()").split() == split.tokens
    page.evaluate("getSelection().removeAllRanges()")
    assert page.evaluate("find('ship')")


def test_numbers_follow_the_layer(split, open_view):
    page = open_view(HeadView(split, token=4))
    for layer in (3, 1, 2):
        page.get_by_role("group", name="Layer").get_by_text(str(layer), exact=True).click()
        expect(page.locator(".cv-far")).to_contain_text(f"layer {layer}")
        expect(page.locator(".cv-stage")).to_have_attribute("aria-busy", "false")
        assert read_weights(page, "looks at") == strongest(split.attention[layer].mean(0)[4])


# -- light and dark

CONTRAST = """() => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const paint = (...colours) => {
    context.clearRect(0, 0, 1, 1);
    for (const colour of colours) (context.fillStyle = colour), context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (one, other) => {
    const [a, b] = [light(one), light(other)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const grounds = (element) => {
    const colours = [];
    for (let at = element; at; at = at.parentElement) colours.unshift(getComputedStyle(at).backgroundColor);
    return colours;
  };
  const own = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    if (["SCRIPT", "NOSCRIPT"].includes(element.tagName) || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ground = grounds(element);
    if (element.matches(".cv-bars text")) ground.push(getComputedStyle(document.querySelector(".cv-window")).fill);
    const note = `${element.tagName} ${element.getAttribute("class")} ${element.textContent.slice(0, 20)}`;
    const text = element instanceof SVGElement ? style.fill : style.color;
    if (own(element)) found.push([ratio(paint(...ground, text), paint(...ground)), 4.5, note]);
    if (element.matches(".cv-arc")) {
      const back = paint(...ground);
      const ink = paint(style.stroke);
      const mixed = ink.map((c, i) => c * style.strokeOpacity + back[i] * (1 - style.strokeOpacity));
      found.push([ratio(mixed, back), 3, note]);
    }
    if (element.matches(".cv-bar")) found.push([ratio(paint(style.fill), paint(...ground)), 3, note]);
  }
  const root = getComputedStyle(document.querySelector(".cv"));
  const named = (name) => paint(root.getPropertyValue(`--cv-${name}`));
  for (const name of ["attention", "conv", "ink", "faint", "focus"]) {
    for (const under of ["paper", "lift"]) found.push([ratio(named(name), named(under)), 3, `${name} on ${under}`]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", [HeadView, SplitView])
def test_contrast(split, open_view, kind, scheme):
    page = open_view(kind(split, layer=2, token=4, special_tokens=False), color_scheme=scheme)
    expect(page.locator(".cv-near")).to_contain_text("mixes")
    found = page.evaluate(CONTRAST)
    assert len(found) > 80
    assert not [(round(ratio, 2), least, what) for ratio, least, what in found if ratio < least]


def test_colours_follow_the_theme(split, open_view):
    page = open_view(HeadView(split), color_scheme="light")
    colours = """[".cv-arc", ".cv"].map((name) => getComputedStyle(document.querySelector(name)))
      .map((style, i) => (i ? style.backgroundColor : style.stroke)).join(" ")"""
    expect(page.locator(".cv-arc").first).to_be_attached()
    light = page.evaluate(colours)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(colours)
    assert light == "rgb(31, 111, 155) rgb(255, 255, 255)" and dark == "rgb(108, 192, 236) rgb(20, 24, 31)"


def test_narrow_page_scrolls_only_the_tokens(split, open_view):
    page = open_view(SplitView(split, layer=1, token=14), viewport={"width": 360, "height": 700})
    expect(page.locator(".cv-near")).to_contain_text("how home mixes")
    for chosen in (page.get_by_role("option").nth(14), page.locator(".cv-cell.cv-open")):
        place = chosen.bounding_box()
        assert place["x"] >= 16 and place["x"] + place["width"] <= 344
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


# -- odd texts and models

ODD = {
    "emoji": "The 🚢 sailed 👩‍👩‍👧 home",
    "markup": "<b>bold</b> & </script><script>alert(1)</script>",
    "right to left": HEBREW,
    "one token": "home",
    "quotes": 'He said: "it\'s \\ late" \u2028 ok',
    "controls": "a\u202eb\u0000c\ud83d",
    "accents": "Ünïcode café naïve",
    "512 tokens": "The ship sailed home. " * 90,
}


@pytest.mark.parametrize("view", [head_view, split_view])
@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
@pytest.mark.filterwarnings("ignore:the text has")
def test_odd_texts_are_drawn(text, view, open_view):
    view = view("convbert-tiny", text, layer=0, token=1)
    page = open_view(view)
    expect(page.locator(".cv-near")).to_contain_text("mixes its 9 nearest")
    expect(page.get_by_role("option")).to_have_count(len(view.tokens))
    pieces = zip(view.tokens, view.sources, strict=True)
    names = [source if token == "[UNK]" and source else token for token, source in pieces]
    assert page.locator(".cv-token").all_text_contents() == names
    assert page.locator(".cv-arc[d^=M]").count() and svg_numbers(page, "cv-bars")


def test_right_to_left_text_runs_that_way(open_view):
    view = head_view("convbert-tiny", HEBREW, token=2)
    page = open_view(view)
    expect(page.locator(".cv-near")).to_contain_text("mixes")
    first, second = (page.get_by_role("option").nth(i).bounding_box()["x"] for i in (0, 1))
    assert first > second
    page.get_by_role("option").nth(2).focus()
    page.keyboard.press("ArrowLeft")  # onward
    expect(page.get_by_role("option").nth(3)).to_have_attribute("aria-selected", "true")
    kernel = view.split.conv_kernel[0].mean(0)[3]
    bars = page.locator(".cv-bars .cv-number")
    places = bars.evaluate_all("all => all.map((text) => [Number(text.getAttribute('x')), text.textContent])")
    assert [number for _, number in sorted(places, reverse=True)] == digits(kernel[1:])


def test_model_without_convolution(split, open_view):
    plain = without_convolution(split)
    page = open_view(HeadView(plain, layer=2, token=4))
    expect(page.locator(".cv-legend")).to_contain_text("no convolution")
    expect(page.locator(".cv-bars")).to_have_count(0)
    expect(page.get_by_role("group", name="Convolution head")).to_have_count(0)
    expect(page.locator(".cv-stage")).not_to_contain_text("onvolution head")
    row = plain.attention[2].mean(0)[4]
    assert read_weights(page, "looks at") == strongest(row)
    page.get_by_role("option").nth(4).focus()
    page.keyboard.press("c"), page.keyboard.press("ArrowRight")
    expect(page.get_by_role("option").nth(5)).to_have_attribute("aria-selected", "true")


def test_share_map_without_convolution(split, open_view):
    page = open_view(SplitView(without_convolution(split)))
    expect(page.locator(".cv-scale")).to_contain_text("no convolution")
    assert "attention 1.0000 of the work" in page.get_by_role("gridcell").first.get_attribute("aria-label")


# -- the share map


def test_share_map_equals_the_tensors(split, open_view):
    page = open_view(SplitView(split))
    cells, share = page.get_by_role("gridcell"), split.attention_share
    expect(cells).to_have_count(share.numel())
    labels = [re.findall(r"\d+\.\d+", cell) for cell in cells.evaluate_all("all => all.map((cell) => cell.ariaLabel)")]
    assert [label[0] for label in labels] == digits(share.flatten())
    assert [label[2] for label in labels] == digits((1 - share).flatten())
    assert [label[1] for label in labels] == digits(split.attention_norm.double().sum(1).flatten())
    blue = cells.evaluate_all("all => all.map((cell) => cell.classList.contains('cv-attention'))")
    assert blue == (share >= 0.5).flatten().tolist()
    expect(page.get_by_role("columnheader").locator("span")).to_have_text(split.tokens)
    expect(page.locator(".cv-stage")).to_be_hidden()


def test_cell_opens_its_layer(split, open_view):
    page = open_view(SplitView(split))
    T = len(split.tokens)
    cell = page.get_by_role("gridcell").nth(2 * T + 4)
    cell.hover()
    expect(page.locator(".cv-pointed").first).to_contain_text("Layer 2, sat: attention")
    cell.click()
    expect(page.locator(".cv-far")).to_contain_text("layer 2, mean of 4 heads: where sat looks")
    assert read_weights(page, "looks at") == strongest(split.attention[2].mean(0)[4])
    cell.click()
    expect(page.locator(".cv-stage")).to_be_hidden()


def test_share_map_by_keyboard(split, open_view):
    page = open_view(SplitView(split))
    page.keyboard.press("Tab")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowUp", "ArrowLeft"):
        page.keyboard.press(key)
    T = len(split.tokens)
    cells, stage = page.get_by_role("gridcell"), page.locator(".cv-stage")
    expect(cells.nth(T + 1)).to_be_focused()
    expect(page.locator(".cv-pointed").first).to_contain_text("Layer 1, the:")
    page.keyboard.press("Enter")
    expect(page.locator(".cv-far")).to_contain_text("layer 1, mean of 4 heads: where the looks")
    page.get_by_role("option").nth(1).focus()
    page.keyboard.press("ArrowDown")
    expect(cells.nth(2 * T + 1)).to_have_class(re.compile("cv-open"))
    page.keyboard.press("Escape")  # the token
    expect(stage).to_be_visible()
    page.keyboard.press("Escape")  # the layer
    expect(stage).to_be_hidden()
    expect(cells.nth(T + 1)).to_be_focused()


# -- size


@pytest.mark.slow
@pytest.mark.parametrize(("heads", "sharpness"), [(12, 1), (12, 3), (24, 1)], ids=["6+6", "6+6 worst", "12+12"])
def test_an_exported_page_is_small(heads, sharpness, open_page, tmp_path):
    path = random_view(head_view, heads, 128, sharpness).to_html(tmp_path / "view.html")
    assert path.stat().st_size <= 3 * 2**20
    expect(open_page(path).locator(".cv-arc[d^=M]").first).to_be_attached()


# -- what stands around a view


def long_text(words: int) -> str:
    return " ".join((TEXT.removesuffix(".").split() * 9)[:words])


@pytest.mark.parametrize("kind", [head_view, split_view])
@pytest.mark.parametrize(("words", "fits"), [(20, True), (42, True), (150, False)])
def test_a_text_is_fitted_to_the_width(kind, words, fits, open_view):
    page = open_view(kind("convbert-tiny", long_text(words)))
    row = page.locator(".cv-scroll").first
    expect(row).to_be_visible()
    expect(page.locator(".cv-arc[d^=M], .cv-cell").first).to_be_attached()
    assert row.evaluate("row => row.scrollWidth <= row.clientWidth") == fits
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("kind", [HeadView, SplitView])
@pytest.mark.parametrize("token", [-1, 4])
def test_a_picture_is_saved(kind, token, split, open_view, chromium, tmp_path):
    """Everything that the view draws and says is in the file, which is plain SVG."""
    view = kind(split, layer=1, token=token)
    page = open_view(view)
    expect(page.locator(".cv-far")).to_contain_text("layer 1")
    for name in ("SVG", "PNG"):
        with page.expect_download() as download:
            page.get_by_role("button", name=name, exact=True).click()
        download.value.save_as(tmp_path / f"view.{name.lower()}")
    svg = ElementTree.parse(tmp_path / "view.svg")
    used = {element.tag.removeprefix("{http://www.w3.org/2000/svg}") for element in svg.iter()}
    assert used <= {"svg", "g", "rect", "line", "path", "text"}
    text = " ".join("".join(element.itertext()) for element in svg.iter("{http://www.w3.org/2000/svg}text"))
    assert all(piece in text for piece in view.tokens)
    assert all(number in text for number in svg_numbers(page, "cv-arcs") + svg_numbers(page, "cv-bars"))
    colours = {element.get(name) for element in svg.iter() for name in ("fill", "stroke")} - {None, "none"}
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)
    png = (tmp_path / "view.png").read_bytes()
    width, height = (round(2 * float(svg.getroot().get(side))) for side in ("width", "height"))
    assert (int.from_bytes(png[16:20]), int.from_bytes(png[20:24])) == (width, height)


def copied(page) -> list[list[str]]:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy numbers").click()
    expect(page.locator(".cv-tool-said")).to_have_text("Copied")
    return [line.split("\t") for line in page.evaluate("navigator.clipboard.readText()").split("\n")]


def test_numbers_are_copied(split, open_view):
    T, token = len(split.tokens), 4
    rows = copied(open_view(HeadView(split, layer=1, attention_head=2, token=token)))
    assert [row[1] for row in rows[1:]] == split.tokens
    assert np.allclose([float(row[3]) for row in rows[1:]], split.attention[1][2, token], atol=5.1e-5)
    kernel = split.conv_kernel[1].mean(0)[token]
    half = len(kernel) // 2
    inside = [kernel[k] for k in range(len(kernel)) if 0 <= token + k - half < T]
    assert np.allclose([float(row[4]) for row in rows[1:] if row[4]], inside, atol=5.1e-5)
    rows = copied(open_view(HeadView(split, layer=1, attention_head=2)))
    assert np.allclose(
        [[float(cell) for cell in row[1:]] for row in rows[1 : T + 1]], split.attention[1][2], atol=5.1e-5
    )
    rows = copied(open_view(SplitView(split)))
    assert np.allclose([[float(cell) for cell in row[1:]] for row in rows[1:]], split.attention_share, atol=1e-5)


@pytest.mark.parametrize("kind", [HeadView, SplitView])
def test_keys_stay_in_a_view_and_are_listed(kind, split, open_view):
    """VS Code listens for keys on the window of its outputs, JupyterLab looks for a mark on the element in focus."""
    page = open_view(kind(split, layer=1))
    page.evaluate("() => { window.heard = []; window.addEventListener('keydown', ({ key }) => heard.push(key)); }")
    for control in page.locator(".cv [tabindex='0'], .cv button, .cv input").all():
        control.focus()
        page.keyboard.press("b")
        assert page.evaluate("document.activeElement.dataset.lmSuppressShortcuts") == "true"
    assert page.evaluate("heard") == []
    keys, button = page.locator(".cv-keylist"), page.get_by_role("button", name="Keys")
    expect(keys).to_be_hidden()
    page.keyboard.press("?")
    expect(keys).to_contain_text("another layer")
    button.click()
    expect(keys).to_be_hidden()
    expect(button).to_have_attribute("aria-expanded", "false")
    page.locator("body").click(position={"x": 500, "y": 5})
    page.keyboard.press("b")
    assert page.evaluate("heard") == ["b"], "outside of it a key is another's"


# -- the pages of the site


DRAWN = {
    "head_view": ".cv-arc[d^=M]",
    "split_view": ".cv-cell",
    "knockout_view": "button.cv-head",
    "mask_explorer": "button.cv-head",
    "replaced_view": ".cv-chip",
}


@pytest.fixture(scope="module")
def site_pages(tmp_path_factory):
    """The views that the documentation embeds, as they are written when it is built."""
    return {path.stem: path for path in write_pages(tmp_path_factory.mktemp("site") / "pages")}


@pytest.mark.parametrize("name", DRAWN)
def test_pages_of_the_site_are_small_and_draw(name, site_pages, open_page):
    assert site_pages[name].stat().st_size < 300_000
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", site_pages[name].read_text(encoding="utf-8"))
    expect(open_page(site_pages[name]).locator(DRAWN[name]).first).to_be_attached()


def test_notebook_shows_the_pages_beside_figures():
    cells = json.loads(Path(ROOT / "nbs" / "visualize" / "09_views.ipynb").read_text())["cells"]
    frames = [i for i, cell in enumerate(cells) if "<iframe" in "".join(cell["source"])]
    assert len(frames) == 2
    for i in frames:
        assert any("image/png" in output.get("data", {}) for output in cells[i - 1]["outputs"])
