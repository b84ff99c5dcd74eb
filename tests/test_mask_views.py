"""Switching heads off and masking words: the traits, the exported pages in a browser, and the live scripts."""

import base64
import json

import comm
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from torch.testing import assert_close

pytest.importorskip("anywidget", reason='the views need pip install "convbert[widgets]"')

from test_knockout import H, L, make, make_plain, without

from convbert import ConvBertForSequenceClassification, ConvBertModel, pipeline
from convbert.visualize.ablation import knock_out, knock_outs
from convbert.visualize.encoded_text import encode_text, load_model
from convbert.visualize.explorer import mask_explorer
from convbert.visualize.knockout import knockout_view, page_queries
from convbert.visualize.mask_prediction import plot_mask_prediction, predict_mask
from convbert.visualize.style import contrast
from convbert.visualize.views import head_view
from convbert.visualize.widgets import drawn_traits, read_asset

TEXT = "He opened the [MASK] and read the letter twice."
SEA = "The ship sailed across the sea to the old harbour."
THEMES = pytest.mark.parametrize("theme", ["light", "dark"])


@pytest.fixture(scope="module")
def tiny():
    """The bundled model and its tokenizer."""
    return load_model("convbert-tiny", task="fill-mask")


@pytest.fixture(scope="module")
def small(tokenizer):
    """What a small random model is called with."""
    return dict(model=make(), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def pages(tmp_path_factory, small, tokenizer):
    """Exported pages by name."""
    folder = tmp_path_factory.mktemp("pages")
    classifier = make(ConvBertForSequenceClassification, id2label={0: "bad", 1: "fair", 2: "good"})
    views = {
        "knockout": knockout_view("convbert-tiny", TEXT),
        "two": knockout_view(text="The [MASK] sailed across the [MASK].", silenced=[("conv", 1, 2)], **small),
        "labels": knockout_view(classifier, "It rains.", "The street is wet.", tokenizer=tokenizer),
        "explorer": mask_explorer("convbert-tiny", SEA, place=8),
        "arabic": mask_explorer(text="هذا كتاب 🚢 جميل", **small),
    }
    return {name: view.to_html(folder / f"{name}.html") for name, view in views.items()}


def numbers(page, selector):
    """The numbers in some elements, as they are read."""
    return [float(text.replace("−", "-")) for text in page.locator(selector).all_inner_texts() if text]


def shown(values):
    """Numbers as a view shows them."""
    return [float(f"{value:.4f}") for value in values]


CONTRAST = """(least) => {
  const parse = (colour) => {
    const [r, g, b, a = 1] = colour.match(/[\\d.]+(?:e-?\\d+)?/g).map(Number);
    return colour.startsWith("color(") ? [255 * r, 255 * g, 255 * b, a] : [r, g, b, a];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((part, i) => a * part + (1 - a) * below[i]);
  const paper = (element) => {
    const colour = parse(getComputedStyle(element).backgroundColor);
    return colour[3] === 1 ? colour.slice(0, 3) : over(colour, paper(element.parentElement));
  };
  const light = (colour) => colour.map((part) => part / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const seen = (element) => element.checkVisibility() && !element.closest(":disabled, noscript, script, style");
  const poor = [];
  const check = (element, colour, below, least, what) => {
    const found = ratio(over(parse(colour), below), below);
    if (found < least) poor.push(`${what}: ${found.toFixed(2)} of ${element.className}`);
  };
  const walker = document.createTreeWalker(document.querySelector(".cv"), NodeFilter.SHOW_TEXT);
  let count = 0;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !seen(element)) continue;
    count += 1;
    check(element, getComputedStyle(element).color, paper(element), 4.5, node.data.trim().slice(0, 20));
  }
  for (const input of document.querySelectorAll(".cv input")) {
    check(input, getComputedStyle(input).color, paper(input), 4.5, "field");
  }
  for (const bar of document.querySelectorAll("[class^=cv-bar-]")) {
    check(bar, getComputedStyle(bar).backgroundColor, paper(bar.parentElement), 3, "bar");
  }
  for (const button of document.querySelectorAll("button.cv-head, .cv-field")) {
    if (seen(button)) check(button, getComputedStyle(button).borderTopColor, paper(button.parentElement), 3, "border");
  }
  const focus = getComputedStyle(document.querySelector(".cv")).getPropertyValue("--cv-focus");
  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.color = focus;
  check(probe, getComputedStyle(probe).color, paper(document.querySelector(".cv")), 3, "focus");
  probe.remove();
  return [count, poor];
}"""


def assert_contrast(page):
    """Text stands out at 4.5 to 1, bars, borders and the focus at 3 to 1: WCAG AA."""
    page.wait_for_timeout(300)  # bars and colours move to their place
    count, poor = page.evaluate(CONTRAST, 4.5)
    assert count > 10
    assert not poor


# -- knockout_view: the traits


def test_silenced_is_kept_in_one_order(small):
    view = knockout_view(text=TEXT, silenced=[("conv", 2, 1), ("attention", 1, 3), ("conv", 2, 1)], **small)
    assert view.silenced == [["attention", 1, 3], ["conv", 2, 1]]
    assert view.answered == [[TEXT], view.silenced]
    (rows,) = knock_out(text=TEXT, attention=[(1, 3)], conv=[(2, 1)], **small)
    assert view.changes == [[[row.answer, row.before, row.after] for row in rows]]


@pytest.mark.parametrize(
    ("silenced", "words"),
    [
        ([("conv", L, 0)], f"no head 0 in layer {L}.*layers 0 to {L - 1}"),
        ([("attention", 0, H)], f"heads 0 to {H - 1}"),
        ([("att", 0, 0)], 'kind "attention" or "conv"'),
        ([(0, 0)], r"\[kind, layer, head\].*\(0, 0\)"),
        ([("conv", "a", 0)], "two whole numbers, not .'conv', 'a', 0"),
        ([("conv", 1.7, 0)], "two whole numbers"),
        ([("conv", True, 0)], "two whole numbers"),
    ],
)
def test_heads_that_are_not_there_are_refused(small, silenced, words):
    with pytest.raises(ValueError, match=words):
        knockout_view(text=TEXT, silenced=silenced, **small)
    view = knockout_view(text=TEXT, silenced=[("conv", 0, 0)], **small)
    with pytest.raises(ValueError, match=words):
        view.silenced = silenced
    assert view.silenced == [["conv", 0, 0]]


def test_a_message_from_the_browser_is_answered(small):
    view = knockout_view(text=TEXT, **small)
    view.set_state({"silenced": [["attention", 0, 0], ["conv", 0, 0]]})
    (rows,) = knock_out(text=TEXT, attention=[(0, 0)], conv=[(0, 0)], **small)
    assert view.answered == [[TEXT], [["attention", 0, 0], ["conv", 0, 0]]]
    assert view.changes[0][0] == [rows[0].answer, rows[0].before, rows[0].after]


def test_effects_are_those_of_knock_outs(small):
    view, outs = knockout_view(text=TEXT, **small), knock_outs(text=TEXT, **small)
    assert (view.computed, view.total) == (0, H * 2 * L + 2 * L + 2)
    view.finish()
    assert view.computed == view.total
    for name, expected in (("effects", outs.heads), ("layer_effects", outs.layers), ("kind_effects", outs.kinds)):
        packed = torch.frombuffer(bytearray(getattr(view, name)), dtype=torch.float32)
        assert torch.equal(packed.view_as(expected), expected)
    assert view.first == [[outs.answers[0], outs.probabilities[0]]]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("He read.", ValueError, "write .MASK. where"),
        (" ", ValueError, "text is empty"),
        ([TEXT], TypeError, "one text, got 1"),
    ],
)
def test_knockout_view_refuses_wrong_texts(small, text, error, words):
    with pytest.raises(error, match=words):
        knockout_view(text=text, **small)


def test_long_text_is_cut_and_that_is_said_once(small):
    with pytest.warns(UserWarning, match="the model reads 512") as said:
        view = knockout_view(text="a [MASK] " + "far " * 600, **small)
        view.silenced = [("conv", 0, 0)]
    assert view.notes == [str(said[0].message)]
    assert len(said) == 1


def test_views_of_a_model_in_training(tokenizer):
    model = make(hidden_dropout_prob=0.5).train()
    view = knockout_view(model, TEXT, tokenizer=tokenizer, silenced=[("conv", 0, 0)])
    first = view.changes
    view.silenced = []
    view.silenced = [("conv", 0, 0)]
    assert view.changes == first
    explorer = mask_explorer(model, SEA, tokenizer=tokenizer)
    scores = explorer.scores
    explorer.place = 1
    explorer.place = 8
    assert mask_explorer(model, SEA, 8, tokenizer=tokenizer).scores == explorer.scores != scores
    assert model.training


def test_questions_of_an_exported_page():
    asked = page_queries(2, {"attention": 2, "conv": 2})
    assert len(asked) == 1 + 8 + 4 + 2
    assert asked[0] == [] and [["attention", 1, 0], ["attention", 1, 1]] in asked
    assert all(silenced == sorted(silenced) for silenced in asked)


@pytest.mark.parametrize("silenced", [(), [("attention", 0, 0)], [("attention", 0, 0), ("conv", 1, 1)]])
def test_a_still_picture_comes_along(small, silenced):
    view = knockout_view(text=TEXT, silenced=silenced, **small)
    widget, picture = displayed(view)
    assert widget["application/vnd.jupyter.widget-view+json"]["model_id"] == view.model_id
    assert base64.b64decode(picture["image/png"]).startswith(b"\x89PNG")
    assert f'class="{view.still}"' in picture["text/html"] and picture["image/png"] in picture["text/html"]
    assert view.computed == view.total


def displayed(view) -> list[dict]:
    """What a notebook shows for a view."""
    InteractiveShell.instance()
    with capture_output() as captured:
        view._ipython_display_()
    return [output.data for output in captured.outputs]


def test_a_page_answers_for_single_heads_from_the_ablations(small):
    """Each ablation of the overview is one query of the page: no forward pass is left for the page."""
    view = knockout_view(text=TEXT, **small)
    view.finish()
    passes = []
    hook = small["model"].encoder.layers[0].register_forward_hook(lambda *_: passes.append(1))
    page = view.to_html()
    hook.remove()
    assert not passes and page.count('"changes"') >= view.total
    for heads in page_queries(L, {"attention": H, "conv": H})[1:]:
        chosen = {kind: [(layer, head) for k, layer, head in heads if k == kind] for kind in ("attention", "conv")}
        (rows,) = knock_out(text=TEXT, **chosen, **small)
        after = [row[2] for row in view.answer([TEXT], heads)["changes"][0]]
        assert_close(torch.tensor(after), torch.tensor([row.after for row in rows]), atol=1e-5, rtol=1e-4)


def test_texts_follow_python_and_browser(small):
    view = knockout_view(text=TEXT, silenced=[("conv", 0, 0)], **small)
    view.set_state({"texts": ["The [MASK] sailed."]})
    assert view.answered == [["The [MASK] sailed."], [["conv", 0, 0]]]
    assert (view.computed, view.pieces[1]) == (0, ["[MASK]", True])
    (rows,) = knock_out(text="The [MASK] sailed.", conv=[(0, 0)], **small)
    assert view.changes[0][0] == [rows[0].answer, rows[0].before, rows[0].after]
    view.set_state({"texts": ["no mask"]})
    assert "write [MASK] where" in view.problem and view.changes[0][0][0] == rows[0].answer
    with pytest.raises(ValueError, match="cannot be exported"):
        view.to_html()
    with pytest.raises(ValueError, match="must be a list of 1"):
        view.texts = ["one", "two"]
    view.texts = [TEXT]
    assert not view.problem


@pytest.mark.parametrize("make_view", [knockout_view, mask_explorer, head_view])
def test_a_view_opens_with_its_answer(small, make_view, monkeypatch):
    """Whoever is sent the state, at whatever moment, can draw it."""
    opened = []
    real = comm.create_comm
    monkeypatch.setattr(
        comm, "create_comm", lambda **options: opened.append(options["data"]["state"]) or real(**options)
    )
    view = make_view(text=TEXT, **small)
    (state,) = (state for state in opened if "answered" in state)
    assert state["answered"] == view.query() and None not in state["answered"]
    assert all(
        state[name] == getattr(view, name) for name in state if name in drawn_traits(view) and name != "answered"
    )


@pytest.mark.parametrize("known", [True, False])
def test_a_view_that_shows_another_state_is_sent_the_present_one(small, known, monkeypatch):
    view, sent = mask_explorer(text=SEA, **small), []
    monkeypatch.setattr(view, "send_state", sent.append)
    view._handle_custom_msg(
        {"ask": "state", "shown": {"answered": view.answered, "head": view.head if known else []}}, []
    )
    assert sent == [[] if known else list(drawn_traits(view))]


def test_a_browser_asks_for_ablations_and_for_a_page(small, monkeypatch):
    view, sent = knockout_view(text=TEXT, **small), []
    monkeypatch.setattr(view, "send", sent.append)
    steps = 0
    while view.computed < view.total:
        before = view.computed
        view._handle_custom_msg({"ask": "more"}, [])
        steps += 1
        assert view.computed > before
    assert steps == L
    view._handle_custom_msg({"ask": "page"}, [])
    assert sent == [{"page": view.to_html()}]


# -- mask_explorer: the traits


def expect_behind(view, model, tokenizer, text, place):
    """What the view tells is what the model says, asked by its plain forward."""
    ids = tokenizer(text)["input_ids"]
    true = ids[place]
    ids[place] = tokenizer.mask_token_id
    model.eval()
    with torch.no_grad():
        output = model(torch.tensor([ids]), output_attentions=True)
    scores = output.logits[0, place].softmax(-1)
    best = scores.topk(8)
    assert view.words == tokenizer.convert_ids_to_tokens(best.indices.tolist())
    assert_close(torch.tensor(view.scores), best.values, atol=1e-6, rtol=1e-4)
    if true != tokenizer.mask_token_id:
        word, chance, rank = view.truth
        assert word == tokenizer.convert_ids_to_tokens(true)
        assert_close(chance, scores[true].item(), atol=1e-6, rtol=1e-4)
        assert rank == 1 + int((scores > scores[true]).sum())
    else:
        assert view.truth == []
    maps = {"attention": output.attentions, "conv_kernel": output.conv_kernels}
    for name, layers in maps.items():
        told = torch.from_numpy(_numbers(view, name, "<u2").astype("int64")) / 10_000
        expected = torch.stack([layer[0, :, place] for layer in layers])
        assert_close(told.view_as(expected).double(), expected.double(), atol=5.1e-5, rtol=0)


def _numbers(view, name, kind):
    numpy = pytest.importorskip("numpy")
    return numpy.frombuffer(getattr(view, name), kind)


@pytest.mark.parametrize("place", [1, 2, 8, 13])
def test_explorer_tells_what_the_model_says(small, place):
    view = mask_explorer(text=SEA, place=place, **small)
    expect_behind(view, small["model"], small["tokenizer"], SEA, place)


def test_lengths_are_those_of_what_heads_add(small):
    """By hand: the output of the layer with and without the head."""
    view, model, tokenizer = mask_explorer(text=SEA, place=3, **small), small["model"], small["tokenizer"]
    ids = tokenizer(SEA)["input_ids"]
    ids[3] = tokenizer.mask_token_id
    heard = []
    for each in (model, without(model, conv=[(0, 1)])):
        hook = each.encoder.layers[0].mixer.register_forward_hook(lambda *call: heard.append(call[2][0]))
        with torch.no_grad():
            each(torch.tensor([ids]))
        hook.remove()
    lengths = torch.from_numpy(_numbers(view, "norms", "<f4").copy()).view(L, 2 * H)
    assert_close(lengths[0, H + 1], (heard[0] - heard[1])[0, 3].norm(), atol=1e-5, rtol=1e-4)


def test_place_follows_python_and_browser(small):
    view = mask_explorer(text=SEA, **small)
    view.place = 2
    expect_behind(view, small["model"], small["tokenizer"], SEA, 2)
    view.set_state({"place": 5})
    assert view.answered == [SEA, 5]
    expect_behind(view, small["model"], small["tokenizer"], SEA, 5)


def test_text_follows_python_and_browser(small):
    view = mask_explorer(text=SEA, place=13, **small)
    view.text = "Two words"  # has no token 13
    assert view.tokens[view.place] == "words"
    view.set_state({"text": "A [MASK] of it, [MASK]", "place": None})
    assert (view.place, view.truth, view.answered) == (2, [], ["A [MASK] of it, [MASK]", 2])
    expect_behind(view, small["model"], small["tokenizer"], view.text, 2)
    view.place = 4  # the other mask stays
    expect_behind(view, small["model"], small["tokenizer"], view.text, 4)


def test_both_at_once_are_answered_once(small):
    view = mask_explorer(text=SEA, **small)
    asked = []
    view.observe(lambda change: asked.append(change["new"]), names="words")
    view.set_state({"text": "Two words", "place": None})
    assert view.answered == ["Two words", 2]
    assert len(asked) == 1


@pytest.mark.parametrize(("text", "words"), [("", "text is empty"), (" \n", "text is empty"), ("\u200b", "no token")])
def test_text_that_cannot_be_shown_is_said_and_the_last_one_stays(small, text, words):
    view = mask_explorer(text=SEA, place=2, **small)
    before = view.words, view.tokens
    view.set_state({"text": text, "place": None})
    assert words in view.problem
    assert (view.words, view.tokens) == before
    assert view.answered == [text, None]
    with pytest.raises(ValueError, match=f"cannot be exported: .*{words}"):
        view.to_html()
    view.text = SEA
    assert view.problem == ""
    with pytest.raises(ValueError, match=words):
        mask_explorer(text=text, **small)


def test_half_of_a_surrogate_pair_can_be_sent(small):
    explorer = mask_explorer(text="A \ud83d ship", **small)
    explorer.text = "A \udca2 ship"
    for view in (explorer, knockout_view(text="A \ud83d [MASK]", **small)):
        json.dumps(
            {k: v for k, v in view.get_state().items() if isinstance(v, str | list)}, ensure_ascii=False
        ).encode()
    assert explorer.text == "A ? ship"


def test_titles_name_folders(small, tmp_path):
    small["model"].save_pretrained(tmp_path)
    small["tokenizer"].save_pretrained(tmp_path)
    for view in (knockout_view(tmp_path, TEXT), mask_explorer(tmp_path, SEA), head_view(tmp_path, SEA)):
        assert str(tmp_path) in view.title


def test_wrong_choices_are_refused(small):
    with pytest.raises(ValueError, match="place=0 must be a token that can be masked: 1 to"):
        mask_explorer(text=SEA, place=0, **small)
    view = mask_explorer(text=SEA, **small)
    with pytest.raises(ValueError, match="place=99 must be"):
        view.place = 99
    with pytest.raises(ValueError, match=f"layers 0 to {L - 1}"):
        view.head = ["conv", 9, 0]
    with pytest.raises(TypeError, match="one text, got 2"):
        mask_explorer(text=["one", "two"], **small)
    with pytest.raises(TypeError, match="needs a ConvBertForMaskedLM, got a ConvBertModel"):
        mask_explorer(make(ConvBertModel), SEA, tokenizer=small["tokenizer"])


@pytest.mark.parametrize("text", ["sea", "هذا كتاب جميل", "🚢 🤖", "[MASK]", "far " * 510])
def test_texts_of_all_kinds(small, text):
    view = mask_explorer(text=text, **small)
    expect_behind(view, small["model"], small["tokenizer"], text, view.place)
    assert view.head[0] in ("attention", "conv")


def test_long_text_is_cut_and_noted(small):
    with pytest.warns(UserWarning, match="the model reads 512") as said:
        view = mask_explorer(text="far " * 600, **small)
    assert view.notes == [str(said[0].message)]
    assert len(view.tokens) == 512
    view.text = SEA
    assert view.notes == []


def test_page_of_a_long_text_answers_for_its_beginning(small):
    view = mask_explorer(text="far " * 100, place=90, **small)
    asked = [place for _, place in view.all_queries()]
    assert asked == [*range(1, view.most + 1), 90]


def test_an_export_leaves_the_view_as_it_was(small):
    view = mask_explorer(text=SEA, place=3, **small)
    before = view.get_state()
    view.to_html()
    assert view.get_state() == before
    assert f"“{view.tokens[3]}”" in view.draw().axes[0].get_title("left")


def test_numbers_of_the_pipeline(tiny):
    view = mask_explorer(tiny[0], "He opened the [MASK].", tokenizer=tiny[1])
    answers = pipeline("fill-mask", *tiny[:1], tokenizer=tiny[1])("He opened the [MASK].", top_k=8)
    assert_close(view.scores, [answer["score"] for answer in answers], atol=1e-6, rtol=1e-4)


def test_lengths_on_their_squares_can_be_read(small):
    """Whatever the shade, also the middling ones that suit neither white nor dark grey."""
    found = predict_mask(*small.values(), encode_text(small["tokenizer"], SEA), 8)
    found.attention_norm = found.conv_norm = torch.arange(1, 1 + L * H).view(L, H).float()
    for ax in plot_mask_prediction(found).axes[1:]:
        (image,) = ax.images
        for text, norm in zip(ax.texts, found.conv_norm.flatten(), strict=True):
            assert contrast(text.get_color(), image.cmap(image.norm(norm.item()))) >= 4.5


def test_explorer_without_convolution(tokenizer):
    model = make_plain()
    view = mask_explorer(model, SEA, tokenizer=tokenizer)
    assert (view.attention_heads, view.conv_heads, view.conv_kernel) == (H, 0, b"")
    assert len(view.norms) == 4 * L * H
    view.draw().canvas.draw()
    with pytest.raises(ValueError, match="no convolution heads"):
        view.head = ["conv", 0, 0]
    with pytest.raises(ValueError, match="no convolution heads"):
        knockout_view(model, TEXT, tokenizer=tokenizer, silenced=[("conv", 0, 0)])


def test_a_question_costs_a_few_forward_passes(tiny):
    """Not one for each head."""
    knockout, explorer = knockout_view(tiny[0], TEXT, tokenizer=tiny[1]), mask_explorer(tiny[0], SEA, tokenizer=tiny[1])
    passes = []
    hook = tiny[0].encoder.register_forward_pre_hook(lambda *_: passes.append(1))
    knockout.silenced = [("conv", 2, 2)]
    explorer.place = 3
    hook.remove()
    assert 0 < len(passes) <= 6


# -- knockout_view: the page


def head(page, key):
    return page.locator(f'[data-key="{key}"]')


def answers(page):
    """The table of answers: words, and the numbers before and after."""
    words = [text.removesuffix("new").strip() for text in page.locator(".cv-answers tbody th").all_inner_texts()]
    figures = numbers(page, ".cv-answers td.cv-figure")
    return words, figures[::2], figures[1::2]


def expect_answers(page, rows):
    words, before, after = answers(page)
    assert words == [row.answer for row in rows]
    assert before == pytest.approx([row.before for row in rows], abs=6e-5)  # four decimals, of rounded logits
    assert after == pytest.approx([row.after for row in rows], abs=6e-5)


@THEMES
def test_knockout_page_draws_and_answers(open_page, pages, tiny, theme):
    page = open_page(pages["knockout"], color_scheme=theme)
    assert page.locator("button.cv-head").count() == 4 * 2 * (4 + 1) + 2
    assert "He opened the [MASK] and read the letter twice." in page.locator(".cv-sentence").inner_text()
    options = dict(text=TEXT, tokenizer=tiny[1])
    expect_answers(page, knock_out(tiny[0], **options)[0])
    assert_contrast(page)

    for key, heads in [
        ("attention 3 0", dict(attention=[(3, 0)])),
        ("conv 2 2", dict(conv=[(2, 2)])),
        ("attention 1 all", dict(attention=[(1, h) for h in range(4)])),
        ("conv all all", dict(conv=[(layer, h) for layer in range(4) for h in range(4)])),
    ]:
        head(page, key).click()
        page.wait_for_selector(f'.cv [data-key="{key}"][aria-pressed=true]')
        (rows,) = knock_out(tiny[0], **options, **heads)
        page.wait_for_function(
            "text => document.querySelector('.cv-said').textContent.includes(text)", arg=f"→ {rows[0].after:.4f}"
        )
        expect_answers(page, rows)
        assert_contrast(page)
        page.keyboard.press("Escape")
        page.wait_for_function("!document.querySelector('[aria-pressed=true], [aria-pressed=mixed]')")
    expect_answers(page, knock_out(tiny[0], **options)[0])


def test_every_effect_on_the_page_is_the_tensor(open_page, pages, tiny):
    page = open_page(pages["knockout"])
    outs = knock_outs(tiny[0], TEXT, tokenizer=tiny[1])
    labels = page.locator("button.cv-head").evaluate_all(
        "all => all.map((b) => [b.dataset.key, b.getAttribute('aria-label')])"
    )
    for key, label in labels:
        kind, layer, which = key.split()
        k = ["attention", "conv"].index(kind)
        whole = outs.kinds[k] if layer == "all" else outs.layers[int(layer), k]
        effect = whole if which == "all" else outs.heads[int(layer), k, int(which)]
        assert f" {effect:+.4f},".replace("-", "−") in label
        assert label.endswith(f"{outs.probabilities[0]:.4f} → {outs.probabilities[0] * effect.exp():.4f}")
    head(page, "attention 3 0").hover()
    assert f"{outs.heads[3, 0, 0]:+.4f}".replace("-", "−") in page.locator(".cv-pointed").inner_text()
    strengths = page.locator("button.cv-head:not(.cv-whole)").evaluate_all(
        "all => all.map((b) => b.style.getPropertyValue('--strength'))"
    )
    strongest = outs.heads.abs().max()
    expected = [f"{100 * effect / strongest:.1f}%" for k in range(2) for effect in outs.heads[:, k].abs().flatten()]
    assert strengths == expected
    hinders = page.locator("button.cv-hinders").evaluate_all("all => all.map((b) => b.dataset.key)")
    assert len(hinders) == int((outs.heads > 0).sum())


@THEMES
def test_a_combination_that_was_not_answered_beforehand(open_page, pages, tiny, theme):
    page = open_page(pages["knockout"], color_scheme=theme)
    head(page, "attention 3 0").click()
    head(page, "conv 2 2").click()
    said = page.locator(".cv-said")
    assert "no answer without attention head 0 of layer 3 and convolution head 2 of layer 2" in said.inner_text()
    assert "live notebook" in said.inner_text() and "each head by itself" in said.inner_text()
    assert page.locator(".cv-answers td.cv-figure:last-child").all_inner_texts() == ["–"] * 5
    assert_contrast(page)
    page.get_by_role("button", name="Only convolution head 2 of layer 2").click()
    page.wait_for_selector(".cv-said >> text=Without convolution head 2 of layer 2")
    expect_answers(page, knock_out(tiny[0], TEXT, conv=[(2, 2)], tokenizer=tiny[1])[0])
    page.get_by_role("button", name="All heads on").click()
    page.wait_for_selector(".cv-said >> text=Nothing is silenced")


def test_knockout_page_by_keyboard_alone(open_page, pages, tiny):
    page = open_page(pages["knockout"])
    focused = "document.activeElement.dataset.key ?? document.activeElement.textContent"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "attention 0 0"
    path = [
        ("ArrowRight", "attention 0 1"),
        ("ArrowDown", "attention 1 1"),
        ("End", "conv 1 all"),
        ("ArrowUp", "conv 0 all"),
        ("ArrowUp", "conv all all"),
        ("ArrowLeft", "attention all all"),
        ("ArrowDown", "attention 0 all"),
        ("ArrowRight", "conv 0 0"),
        ("ArrowLeft", "attention 0 all"),
        ("Home", "attention 0 0"),
        ("ArrowLeft", "attention 0 0"),  # there is nothing further left
    ]
    for key, expected in path:
        page.keyboard.press(key)
        assert page.evaluate(focused) == expected, key
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Space")
    page.wait_for_selector(".cv-said >> text=Without attention head 0 of layer 0:")
    assert "attention head 0 of layer 0" in page.locator(".cv-pointed").inner_text()
    expect_answers(page, knock_out(tiny[0], TEXT, [(0, 0)], tokenizer=tiny[1])[0])
    page.keyboard.press("Enter")
    page.wait_for_selector(".cv-said >> text=Nothing is silenced")
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "All heads on"
    page.keyboard.press("Escape")
    page.wait_for_selector(".cv-said >> text=Nothing is silenced")


def test_text_can_be_found_and_selected(open_page, pages):
    for name, word in (("knockout", "letter twice"), ("explorer", "across")):
        page = open_page(pages[name])
        assert page.evaluate("word => find(word)", word)
        assert page.evaluate("String(getSelection())") == word


def test_page_of_two_masks(open_page, pages, small):
    page = open_page(pages["two"])
    lists = knock_out(text="The [MASK] sailed across the [MASK].", conv=[(1, 2)], **small)
    tables = page.locator(".cv-answers")
    assert tables.locator("caption").all_inner_texts() == ["Answers for mask 1", "Answers for mask 2"]
    for i, rows in enumerate(lists):
        figures = [float(text) for text in tables.nth(i).locator("td.cv-figure").all_inner_texts()]
        assert figures[1::2] == shown(row.after for row in rows)
    assert head(page, "conv 1 2").get_attribute("aria-pressed") == "true"
    assert head(page, "conv 1 all").get_attribute("aria-pressed") == "mixed"
    head(page, "attention 0 0").hover()
    assert "(mean of the masks)" in page.locator(".cv-pointed").inner_text()


def test_page_of_a_classifier(open_page, pages):
    page = open_page(pages["labels"])
    assert page.locator(".cv-answers caption").inner_text() == "Labels"
    assert sorted(answers(page)[0]) == ["bad", "fair", "good"]
    head(page, "conv 0 0").click()
    page.wait_for_selector(".cv-said >> text=Without convolution head 0 of layer 0")
    assert abs(sum(answers(page)[2]) - 1) < 2e-4


@pytest.mark.parametrize("name", ["knockout", "explorer"])
def test_pages_fit_a_narrow_window(open_page, pages, name):
    page = open_page(pages[name], viewport={"width": 380, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# -- mask_explorer: the page


def expect_words(page, found):
    scores = list(found.scores)
    if found.truth and found.truth[2] > len(scores):
        scores.append(found.truth[1])
    page.wait_for_function(
        "text => document.querySelector('.cv-answers').textContent.includes(text)", arg=f"{found.scores[0]:.4f}"
    )
    assert numbers(page, ".cv-answers td.cv-figure") == shown(scores)
    assert page.locator(".cv-true").count() == (1 if found.truth else 0)
    if found.truth:
        true = page.locator(".cv-true").inner_text()
        assert true.split()[0] == str(found.truth[2]) and "true word" in true and f"{found.truth[1]:.4f}" in true


def expect_look(page, found, key):
    """Read-out and weights under the tokens are those of a head."""
    kind, layer, h = key.split()
    layer, h = int(layer), int(h)
    norms = {"attention": found.attention_norm, "conv": found.conv_norm}
    length = norms[kind][layer, h]
    said = page.locator(".cv-pointed").inner_text()
    assert f"of length {length:.4f} at the mask" in said
    assert f"{length / sum(norm[layer].sum() for norm in norms.values()):.4f} of its layer's work" in said
    weights = found.attention[layer, h] if kind == "attention" else None
    if weights is None:
        T, K = found.attention.shape[-1], found.conv_kernel.shape[-1]
        weights = torch.zeros(T)
        for k, weight in enumerate(found.conv_kernel[layer, h]):
            if 0 <= found.place + k - K // 2 < T:
                weights[found.place + k - K // 2] = weight
    under = page.locator(".cv-weight").all_inner_texts()
    assert len(under) == len(weights)
    for text, weight in zip(under, weights.tolist(), strict=True):
        assert abs(float(text or 0) - weight) < (0.000051 if text else 0.00505)


@THEMES
def test_explorer_page_draws_and_answers(open_page, pages, tiny, theme):
    page = open_page(pages["explorer"], color_scheme=theme)
    read = encode_text(tiny[1], SEA)
    assert page.locator(".cv-chip").count() == len(read.tokens)
    assert page.locator("button.cv-head").count() == 4 * 8
    for place in (8, 1, 13):
        page.locator(f'[data-token="{place}"]').click()
        found = predict_mask(*tiny, read, place)
        expect_words(page, found)
        lengths = page.locator("button.cv-head").evaluate_all(
            "all => all.map((b) => Number(b.ariaLabel.split(' ').pop()))"
        )
        board = [n for norms in (found.attention_norm, found.conv_norm) for n in norms.flatten().tolist()]
        assert lengths == shown(board)
        for key in ("attention 3 0", "conv 2 2"):
            head(page, key).hover()
            expect_look(page, found, key)
            assert_contrast(page)


def test_explorer_keeps_a_head_in_view(open_page, pages, tiny):
    page = open_page(pages["explorer"])
    found = predict_mask(*tiny, encode_text(tiny[1], SEA), 8)
    head(page, "attention 3 1").click()
    page.mouse.move(2, 2)
    page.locator("h1").click()  # the focus leaves as well
    expect_look(page, found, "attention 3 1")
    assert head(page, "attention 3 1").get_attribute("aria-pressed") == "true"
    head(page, "attention 3 1").focus()
    page.keyboard.press("Escape")
    assert "Point at a head" in page.locator(".cv-pointed").inner_text()
    assert not any(page.locator(".cv-weight").all_inner_texts())
    assert head(page, "attention 3 1").get_attribute("aria-pressed") == "false"


def test_explorer_page_by_keyboard_alone(open_page, pages, tiny):
    page = open_page(pages["explorer"])
    read = encode_text(tiny[1], SEA)
    focused = (
        "document.activeElement.dataset.token ?? document.activeElement.dataset.key ?? document.activeElement.tagName"
    )
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "INPUT"
    page.keyboard.type("x")
    assert page.locator("input").input_value() == SEA
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "8"
    for key, expected in [
        ("ArrowRight", "9"),
        ("ArrowLeft", "8"),
        ("ArrowUp", "7"),
        ("ArrowDown", "8"),
        ("ArrowLeft", "7"),
    ]:
        page.keyboard.press(key)
        assert page.evaluate(focused) == expected
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused) == "1"  # [CLS] cannot be masked
    page.keyboard.press("Enter")
    page.wait_for_selector('[data-token="1"][aria-pressed=true]')
    expect_words(page, predict_mask(*tiny, read, 1))
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "attention 1 1"
    expect_look(page, predict_mask(*tiny, read, 1), "attention 1 1")
    page.keyboard.press("Enter")
    assert head(page, "attention 1 1").get_attribute("aria-pressed") == "true"


def test_exported_text_is_fixed_and_says_why(open_page, pages):
    page = open_page(pages["explorer"])
    field = page.get_by_label("Text", exact=True)
    assert field.input_value() == SEA
    assert field.get_attribute("readonly") is not None
    assert "text stays as it is" in page.locator(f"#{field.get_attribute('aria-describedby')}").inner_text()


def test_right_to_left(open_page, pages):
    page = open_page(pages["arabic"])
    chips = page.locator(".cv-chip")
    assert page.locator(".cv-chips").get_attribute("dir") == "rtl"
    assert chips.nth(1).bounding_box()["x"] > chips.nth(2).bounding_box()["x"]
    assert "🚢" in page.locator(".cv-chips").inner_text()
    chips.nth(3).focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.dataset.token") == "4"
    page.keyboard.press("Enter")
    page.wait_for_selector('[data-token="4"][aria-pressed=true]')


def test_page_of_a_long_text_says_what_it_cannot_answer(open_page, small, tmp_path, monkeypatch):
    view = mask_explorer(text="one two three four five", place=1, **small)
    monkeypatch.setattr(view, "most", 2)
    page = open_page(view.to_html(tmp_path / "long.html"))
    page.locator('[data-token="4"]').click()
    said = page.locator(".cv-refusal").inner_text()
    assert "holds the answers for 2 tokens" in said and "live notebook" in said
    page.locator('[data-token="2"]').click()
    page.wait_for_selector('[data-token="2"][aria-pressed=true]')
    assert page.locator(".cv-refusal").inner_text() == ""


# -- live: the script with Python's part played


LIVE = """<!doctype html><meta charset="utf-8"><style>{style}</style><body><main id="view"></main><script type="module">
{script}
const traits = {state};
for (const [name, value] of Object.entries(traits)) {{
  if (value?.bytes === undefined) continue;
  traits[name] = new DataView(Uint8Array.from(atob(value.bytes), (c) => c.charCodeAt(0)).buffer);
}}
const heard = new Map();
window.sent = [];
window.asked = [];
window.heard = heard;
let changed = {{}};
const fire = (names) => names.forEach((name) => [...(heard.get(`change:${{name}}`) ?? [])].forEach((f) => f()));
const model = {{
  get: (name) => traits[name],
  set: (name, value) => {{ if (typeof name === "object") return; traits[name] = changed[name] = value; fire([name]); }},
  save_changes: () => {{ window.sent.push(changed); changed = {{}}; }},
  send: (message) => window.asked.push(message),
  on: (event, f) => heard.set(event, [...(heard.get(event) ?? []), f]),
  off: (event, f) => heard.set(event, (heard.get(event) ?? []).filter((g) => g !== f)),
}};
window.receive = (news) => {{ Object.assign(traits, news); fire(Object.keys(news)); }};
window.stop = view.render({{ model, el: document.getElementById("view") }});
document.body.dataset.ready = "true";
</script>"""


def json_state(view, names):
    """Traits of a view as JSON."""
    values = {name: getattr(view, name) for name in names}
    return {k: {"bytes": base64.b64encode(v).decode()} if isinstance(v, bytes) else v for k, v in values.items()}


def live_page(view, path):
    """A page in which the script of a view runs as in a notebook, with its messages kept in `sent` and `asked`."""
    state = json_state(view, list(drawn_traits(view)))
    script = view._esm
    path.write_text(
        LIVE.format(style=read_asset("style.css"), script=script, state=json.dumps(state)), encoding="utf-8"
    )
    return path


def test_live_switches_ask_and_wait(open_page, small, tmp_path):
    view = knockout_view(text=TEXT, **small)
    page = open_page(live_page(view, tmp_path / "live.html"))
    assert page.locator("h1").count() == 0
    head(page, "conv 1 0").click()
    head(page, "attention 2 3").click()
    combined = [["attention", 2, 3], ["conv", 1, 0]]
    assert page.evaluate("sent") == [{"silenced": [["conv", 1, 0]]}, {"silenced": combined}]
    assert page.locator("[aria-busy]").count() == 1
    assert "no answer" not in page.locator(".cv-said").inner_text()
    view.silenced = combined
    page.evaluate("news => receive(news)", {"changes": view.changes, "answered": view.answered})
    assert page.locator("[aria-busy]").count() == 0
    (rows,) = knock_out(text=TEXT, attention=[(2, 3)], conv=[(1, 0)], **small)
    expect_answers(page, rows)
    page.evaluate("news => receive(news)", {"silenced": [["attention", 0, 0]]})  # from Python
    assert head(page, "attention 0 0").get_attribute("aria-pressed") == "true"
    page.evaluate("stop()")
    assert page.evaluate("[...heard.values()].flat().length") == 0


@given(order=st.lists(st.sampled_from(["empty", "first", "second"]), max_size=6))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_state_a_view_is_sent_it_draws_the_last(explorer_states, order):
    """Old and incomplete states come in any order; then the present one."""
    page, states = explorer_states
    for name in [*order, "second"]:
        page.evaluate(RECEIVE, states[name])
    words = states["second"]["words"]
    assert page.locator(".cv-answers tbody th").all_inner_texts()[: len(words)] == words
    assert page.locator(".cv-chip").count() == len(states["second"]["tokens"])
    assert page.locator("[aria-busy]").count() == 0


RECEIVE = """(state) => {
  const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  for (const [name, value] of Object.entries(state)) if (value?.bytes !== undefined) state[name] = bytes(value.bytes);
  receive(state);
}"""


@pytest.fixture
def explorer_states(open_page, small, tmp_path):
    """A live page of `mask_explorer`, and states of it: of before there is an answer, and of two texts."""
    view = mask_explorer(text=SEA, place=3, **small)
    page = open_page(live_page(view, tmp_path / "live.html"))
    names = list(drawn_traits(view))
    states = {"first": json_state(view, names)}
    view.set_state({"text": "Two words", "place": 2})
    states["second"] = json_state(view, names)
    lists = {name: [] for name in ("answered", "tokens", "sources", "special", "words", "scores", "truth")}
    blank = dict.fromkeys(("norms", "attention", "conv_kernel"), {"bytes": ""})
    states["empty"] = {**states["first"], **lists, **blank, "place": None}
    return page, states


def test_a_view_tells_python_what_it_shows(open_page, small, tmp_path):
    view = mask_explorer(text=SEA, place=3, **small)
    page = open_page(live_page(view, tmp_path / "live.html"))
    shown = {"answered": [SEA, 3], "text": SEA, "place": 3, "head": view.head, "problem": ""}
    assert page.evaluate("asked") == [{"ask": "state", "shown": shown}]
    view.place = 5
    page.evaluate(RECEIVE, json_state(view, list(drawn_traits(view))))
    page.wait_for_function("asked.length === 2")
    assert page.evaluate("asked[1].shown") == {**shown, "answered": [SEA, 5], "place": 5}


def test_a_view_asks_for_ablations_and_shows_how_far_they_are(open_page, small, tmp_path):
    view = knockout_view(text=TEXT, **small)
    page = open_page(live_page(view, tmp_path / "live.html"))
    more = "asked.filter(({ ask }) => ask === 'more').length"
    names = "computed", "effects", "layer_effects", "kind_effects"
    bar = page.get_by_role("progressbar")
    for step in range(L):
        assert page.evaluate(more) == step + 1
        assert bar.evaluate("bar => bar.value") == view.computed
        unknown = page.locator(".cv-unknown-effect")
        assert unknown.count() == view.total - view.computed
        assert "not computed yet" in unknown.first.get_attribute("aria-label")
        view.step()
        page.evaluate(RECEIVE, json_state(view, names))
    assert page.locator(".cv-unknown-effect").count() == 0 and not bar.is_visible()
    assert page.evaluate(more) == L


def test_live_knockout_takes_another_text(open_page, small, tmp_path):
    view = knockout_view(text=TEXT, **small)
    page = open_page(live_page(view, tmp_path / "live.html"))
    field = page.get_by_label("Text", exact=True)
    assert field.input_value() == TEXT
    for text in ("no mask", "The [MASK] sailed."):
        field.fill(text)
        field.press("Enter")
        assert page.evaluate("sent.at(-1)") == {"texts": [text]}
        view.set_state({"texts": [text]})
        page.evaluate(RECEIVE, json_state(view, list(drawn_traits(view))))
        assert ("write [MASK] where" in page.get_by_role("alert").inner_text()) == (text == "no mask")
        assert_contrast(page)
    assert page.locator(".cv-sentence").inner_text() == "The [MASK] sailed."
    assert answers(page)[0] == [row[0] for row in view.changes[0]]


def test_live_field_sends_and_shows_what_is_wrong(open_page, small, tmp_path):
    view = mask_explorer(text=SEA, place=3, **small)
    page = open_page(live_page(view, tmp_path / "live.html"))
    field = page.get_by_label("Text", exact=True)
    field.fill("  ")
    page.locator('[data-token="2"]').click()
    assert field.input_value() == "  "  # what is being typed stays
    field.press("Enter")
    assert page.evaluate("sent") == [{"place": 2}, {"text": "  ", "place": None}]
    view.set_state({"text": "  ", "place": None})
    page.evaluate("news => receive(news)", {"problem": view.problem, "answered": view.answered})
    alert = page.get_by_role("alert")
    assert "Not shown: text is empty" in alert.inner_text()
    assert field.get_attribute("aria-invalid") == "true"
    assert page.locator(".cv-chip").count() == len(view.tokens)
    assert_contrast(page)

    field.fill("Two words")
    field.press("Enter")
    view.set_state({"text": "Two words", "place": None})
    names = ("problem", "tokens", "sources", "special", "notes", "place", "words", "scores", "truth", "answered")
    news = {name: getattr(view, name) for name in names}
    packed = {name: base64.b64encode(getattr(view, name)).decode() for name in ("norms", "attention", "conv_kernel")}
    page.evaluate(
        """([news, packed]) => {
          for (const [name, text] of Object.entries(packed))
            news[name] = new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
          receive(news);
        }""",
        [news, packed],
    )
    assert alert.inner_text() == ""
    assert page.locator(".cv-chip-text").all_inner_texts() == ["[CLS]", "Two", "words", "[SEP]"]
    assert page.locator(".cv-masked .cv-chip-text").inner_text() == "words"
    assert numbers(page, ".cv-answers td.cv-figure")[:8] == shown(view.scores)
