"""Replaced tokens of a text: the numbers, the traits of the view, its page in a browser, and its live script."""

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("anywidget", reason='the views need pip install "convbert[widgets]"')

from test_knockout import make
from test_mask_views import RECEIVE, SEA, THEMES, assert_contrast, json_state, live_page, shown

from convbert import ConvBertConfig, ConvBertForPreTraining
from convbert.training.pretraining.replaced_tokens import ReplacedTokens
from convbert.visualize.detection import choose_places, detect_replaced
from convbert.visualize.detection_view import replaced_view
from convbert.visualize.encoded_text import encode_text
from convbert.visualize.widgets import drawn_traits

MASKED = [2, 5, 7]


def make_pair(**sizes):
    """A pair with random weights, whose discriminator suspects some tokens."""
    config = ConvBertConfig.preset("tiny", num_hidden_layers=2, hidden_size=64, intermediate_size=64, **sizes)
    torch.manual_seed(0)
    pair = ReplacedTokens.from_config(config)
    with torch.no_grad():
        pair.discriminator.discriminator.out_proj.weight.mul_(400)
    return pair


@pytest.fixture(scope="module")
def small(tokenizer):
    """What a small random pair is called with."""
    return dict(model=make_pair(), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory, small):
    """An exported page."""
    view = replaced_view(text=SEA, masked=MASKED, **small)
    return view.to_html(tmp_path_factory.mktemp("pages") / "replaced.html")


def judgements(found) -> list[str]:
    """How each token was judged, by hand."""
    words = {(True, True): "found", (True, False): "missed", (False, True): "suspected", (False, False): ""}
    rows = zip(found.encoded.special, found.replaced, found.suspicion, strict=True)
    return ["" if special else words[replaced, chance > 0.5] for special, replaced, chance in rows]


# -- the numbers


@pytest.mark.parametrize("seed", range(3))
def test_what_is_shown_is_what_is_trained(small, tokenizer, seed):
    """The same samples, labels and scores as in the pair's forward pass of the training."""
    found = detect_replaced(text=SEA, places=MASKED, seed=seed, **small)
    ids = torch.tensor([encode_text(tokenizer, SEA).input_ids])
    at = torch.tensor([MASKED])
    torch.manual_seed(seed)
    with torch.no_grad():
        trained = small["model"].eval()(ids.scatter(1, at, tokenizer.mask_token_id), at, ids.gather(1, at))
    assert found.shown == tokenizer.convert_ids_to_tokens(trained.corrupted_ids[0].tolist())
    assert found.replaced == trained.replaced[0].bool().tolist()
    assert_close(torch.tensor(found.suspicion), trained.logits[0].sigmoid())
    assert sum(found.replaced) == sum(a != b for a, b in zip(found.shown, found.encoded.tokens, strict=True))


def test_samples_follow_their_seed_and_leave_others_alone(small):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    draws = [detect_replaced(text=SEA, places=MASKED, seed=seed, **small).sampled for seed in (0, 0, 1, 2)]
    assert draws[0] == draws[1] and len({tuple(words) for words in draws}) > 1
    assert torch.equal(torch.get_rng_state(), before)


def test_probabilities_are_the_generators(small, tokenizer):
    found = detect_replaced(text=SEA, places=MASKED, **small)
    ids = torch.tensor([encode_text(tokenizer, SEA).input_ids])
    own = ids[0, MASKED]
    ids[0, MASKED] = tokenizer.mask_token_id
    with torch.no_grad():
        chances = small["model"].eval().generator(ids).logits[0, MASKED].softmax(-1)
    sampled = torch.tensor(tokenizer.convert_tokens_to_ids(found.sampled))
    for numbers, words in ((found.scores, sampled), (found.truth, own)):
        assert_close(torch.tensor(numbers), chances[range(3), words])


def test_wrong_judgements_are_told(small):
    found = detect_replaced(text=SEA, places=MASKED, **small)
    assert [word in ("missed", "suspected") for word in judgements(found)] == found.wrong
    assert any(found.wrong) and not all(found.wrong)


def test_a_folder_of_a_run_is_a_pair(small, tokenizer, tmp_path):
    pair = small["model"]
    tokenizer.save_pretrained(tmp_path)
    pair.discriminator.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no generator/ beside the discriminator"):
        detect_replaced(tmp_path, SEA)
    pair.generator.save_pretrained(tmp_path / "generator")
    mine, theirs = detect_replaced(tmp_path, SEA, MASKED), detect_replaced(text=SEA, places=MASKED, **small)
    assert mine.sampled == theirs.sampled
    assert_close(mine.suspicion, theirs.suspicion, atol=1e-5, rtol=1e-4)
    assert str(tmp_path) in replaced_view(tmp_path, SEA).title


def test_what_is_no_pair_is_refused(small, tokenizer):
    for model, words in ((make(), "got ConvBertForMaskedLM"), (make(ConvBertForPreTraining), "got ConvBertForPreT")):
        with pytest.raises(TypeError, match=words):
            detect_replaced(model, SEA, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="pass tokenizer="):
        detect_replaced(small["model"], SEA)


# -- the traits


def expect_found(view, small):
    """A view holds what `detect_replaced` finds."""
    found = detect_replaced(text=view.text, places=view.masked, seed=view.seed, **small)
    for name in ("shown", "replaced", "suspicion", "scores", "truth"):
        assert getattr(view, name) == getattr(found, name), name
    assert view.answered == [view.text, view.masked, view.seed]
    return found


def test_view_tells_what_the_pair_says(small):
    view = replaced_view(text=SEA, seed=4, **small)
    assert view.masked == choose_places(view.encoded, 4)
    expect_found(view, small)
    view.masked = MASKED
    expect_found(view, small)
    view.set_state({"seed": 9, "masked": [1]})
    expect_found(view, small)
    view.masked = []
    assert view.shown == view.tokens and not any(view.replaced)


def test_view_takes_another_text(small):
    view = replaced_view(text=SEA, masked=[12], **small)
    view.set_state({"text": "Two words", "masked": None})
    assert view.tokens[1:-1] == ["two", "words"] and view.masked
    expect_found(view, small)
    view.text = SEA
    view.masked = [12]
    view.text = "Two words"  # has no token 12
    expect_found(view, small)


@pytest.mark.parametrize(("text", "words"), [(" ", "text is empty"), ("a [MASK]", "of its own")])
def test_text_that_cannot_be_shown_is_said_and_the_last_one_stays(small, text, words):
    view = replaced_view(text=SEA, masked=MASKED, **small)
    before = view.shown, view.tokens
    view.set_state({"text": text, "masked": None})
    assert words in view.problem and (view.shown, view.tokens) == before
    with pytest.raises(ValueError, match="cannot be exported"):
        view.to_html()
    view.text = SEA
    assert view.problem == ""
    with pytest.raises(ValueError, match=words):
        replaced_view(text=text, **small)


def test_page_holds_samples_and_each_token_in_its_turn(small):
    view = replaced_view(text=SEA, masked=MASKED, seed=7, **small)
    queries = list(view.all_queries())
    assert [seed for _, masked, seed in queries if masked == MASKED] == [0, 1, 2, 3, 4, 7]
    turned = [set(masked) ^ set(MASKED) for _, masked, _ in queries if masked != MASKED]
    assert turned == [{i} for i in range(1, len(view.tokens) - 1)]


# -- the page


def expect_page(page, found):
    """Tokens, judgements and the table of a page are those of a `Detection`."""
    chips = page.locator(".cv-chip")
    assert chips.count() == len(found.encoded.tokens)
    for i, (word, verdict) in enumerate(zip(found.shown, judgements(found), strict=True)):
        chip = chips.nth(i)
        expected = word if i in found.masked else found.encoded.sources[i] or word
        assert chip.locator(".cv-chip-text").inner_text() == expected
        assert chip.locator(".cv-verdict").inner_text() == verdict
        assert ("cv-misjudged" in chip.get_attribute("class")) == found.wrong[i]
        assert chip.locator(".cv-weight").inner_text().startswith(f"{found.suspicion[i]:.2f}")
    numbers = [float(text) for text in page.locator("td.cv-figure").all_inner_texts()]
    suspicion = [found.suspicion[i] for i in found.masked]
    rows = zip(found.truth, found.scores, suspicion, strict=True)
    assert numbers == shown(number for row in rows for number in row)


@THEMES
def test_page_draws_and_answers(open_page, page_file, small, theme):
    page = open_page(page_file, color_scheme=theme)
    expect_page(page, detect_replaced(text=SEA, places=MASKED, **small))
    assert_contrast(page)
    page.get_by_role("button", name="Sample again").click()
    expect_page(page, detect_replaced(text=SEA, places=MASKED, seed=1, **small))
    for _ in range(4):
        page.get_by_role("button", name="Sample again").click()  # the page begins again after its last
    page.locator('[data-token="4"]').click()
    page.wait_for_selector('[data-token="4"][aria-pressed=true]')
    expect_page(page, detect_replaced(text=SEA, places=[2, 4, 5, 7], **small))
    page.locator('[data-token="9"]').click()
    assert "live notebook has all others" in page.locator(".cv-refusal").inner_text()
    assert_contrast(page)


def test_page_by_keyboard_alone(open_page, page_file, small):
    page = open_page(page_file)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.token") == "2"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector('[data-token="3"][aria-pressed=true]')
    assert page.evaluate("document.activeElement.dataset.token") == "3", "the focus stays"
    expect_page(page, detect_replaced(text=SEA, places=[2, 3, 5, 7], **small))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Sample again"


def test_page_fits_a_narrow_window(open_page, page_file):
    page = open_page(page_file, viewport={"width": 380, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# -- live


def test_live_view_asks_and_shows(open_page, small, tmp_path):
    view = replaced_view(text=SEA, masked=MASKED, **small)
    page = open_page(live_page(view, tmp_path / "live.html"))
    page.locator('[data-token="5"]').click()
    page.locator('[data-token="1"]').click()
    assert page.evaluate("sent") == [{"masked": [2, 7]}, {"masked": [1, 2, 7]}]
    assert page.locator("[aria-busy]").count() == 1
    view.set_state({"masked": [1, 2, 7]})
    page.evaluate(RECEIVE, json_state(view, list(drawn_traits(view))))
    assert page.locator("[aria-busy]").count() == 0
    expect_page(page, detect_replaced(text=SEA, places=[1, 2, 7], **small))

    field = page.get_by_label("Text", exact=True)
    for text in ("a [MASK]", "Two words"):
        field.fill(text)
        field.press("Enter")
        assert page.evaluate("sent.at(-1)") == {"text": text, "masked": None}
        view.set_state({"text": text, "masked": None})
        page.evaluate(RECEIVE, json_state(view, list(drawn_traits(view))))
        assert ("of its own" in page.get_by_role("alert").inner_text()) == (text == "a [MASK]")
        assert_contrast(page)
    expect_page(page, detect_replaced(text="Two words", places=view.masked, **small))
    page.evaluate("stop()")
    assert page.evaluate("[...heard.values()].flat().length") == 0
