"""The pipelines as users call them: shapes, order, batches, long texts, bad input."""

import json
import threading
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convbert import ConvBertForMaskedLM, ConvBertTokenizerFast, pipeline
from convbert.families.convbert import ConvBertConfig
from convbert.modeling import ConvBertModel
from convbert.pipelines.batches import plan_batches
from convbert.pipelines.streaming import iter_chunks

TEXTS = [
    "The [MASK] is blue.",
    "She opened the [MASK] and looked out over the harbour, where the ships lay at anchor in the evening light.",
    "He was born in [MASK].",
    "[MASK]",
    "A long time ago, a [MASK] lived in the woods.",
]


@pytest.fixture(scope="module")
def fill_mask():
    return pipeline("fill-mask", device="cpu")


@settings(deadline=None)
@given(st.lists(st.integers(1, 600)), st.integers(1, 5000), st.one_of(st.none(), st.integers(1, 9)), st.integers(1, 4))
def test_batches_hold_every_text_once_within_both_limits(lengths, budget, size, workers):
    batches = plan_batches(lengths, budget, size, workers)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget
        assert size is None or len(batch) <= size


def test_one_text_one_result_a_list_a_list(fill_mask):
    one, listed = fill_mask(TEXTS[0]), fill_mask([TEXTS[0]])
    assert len(one) == 5 and isinstance(one[0], dict)
    assert len(listed) == 1 and listed[0] == one
    assert [sorted(row) for row in one] == [["score", "sequence", "token", "token_str"]] * 5
    assert one == sorted(one, key=lambda row: -row["score"])


def test_numbers_are_plain_and_results_are_json(fill_mask):
    answers = fill_mask(TEXTS, top_k=3)
    assert json.loads(json.dumps(answers)) == answers
    assert {type(row["score"]) for row in answers[0]} == {float} and {type(row["token"]) for row in answers[0]} == {int}


@pytest.mark.parametrize(
    "limits", [dict(batch_size=1), dict(batch_size=2), dict(batch_tokens=40), dict(batch_tokens=1)]
)
def test_how_texts_are_batched_does_not_matter(fill_mask, limits):
    expected = [fill_mask(text) for text in TEXTS]
    for got, alone in zip(fill_mask(TEXTS, **limits), expected, strict=True):
        assert [row["token"] for row in got] == [row["token"] for row in alone]
        assert [row["score"] for row in got] == pytest.approx([row["score"] for row in alone], abs=1e-5)


def test_scores_are_the_softmax_of_the_models_logits(fill_mask):
    ids = fill_mask.tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    place = (ids[0] == fill_mask.tokenizer.mask_token_id).nonzero().item()
    with torch.inference_mode():
        best = fill_mask.model(ids).logits[0, place].softmax(-1).topk(4)
    answers = fill_mask(TEXTS[0], top_k=4)
    assert [row["token"] for row in answers] == best.indices.tolist()
    assert [row["score"] for row in answers] == pytest.approx(best.values.tolist(), abs=1e-6)


def test_answers_equal_the_transformers_pipeline(fill_mask, tmp_path):
    transformers = pytest.importorskip("transformers")
    fill_mask.model.save_pretrained(tmp_path)
    fill_mask.tokenizer.save_pretrained(tmp_path)
    theirs = transformers.pipeline("fill-mask", str(tmp_path), device="cpu")
    for text in TEXTS:
        expected, got = theirs(text, top_k=5), fill_mask(text, top_k=5)
        assert [row["token"] for row in got] == [row["token"] for row in expected]
        assert [row["sequence"] for row in got] == [row["sequence"] for row in expected]
        assert [row["token_str"] for row in got] == [row["token_str"] for row in expected]
        assert [row["score"] for row in got] == pytest.approx([row["score"] for row in expected], abs=1e-5)


def test_targets_keep_their_order_and_can_be_normalised(fill_mask):
    words = ["window", "door", "book", "door"]
    plain = fill_mask("She opened the [MASK].", targets=words)
    assert [row["token_str"] for row in plain] == words[:3]  # each word once
    normal = fill_mask("She opened the [MASK].", targets=words[:3], normalize_targets=True)
    assert sum(row["score"] for row in normal) == pytest.approx(1)
    two = fill_mask("She opened the [MASK].", targets=words[:3], top_k=2)
    assert [row["token_str"] for row in two] == [w for w in words[:3] if w in {row["token_str"] for row in two}]
    assert len(two) == 2


def test_several_masks_one_by_one_and_together(fill_mask):
    text = "The [MASK] of the [MASK]."
    apart, joint = fill_mask(text, top_k=3), fill_mask(text, top_k=3, joint=True)
    assert [len(rows) for rows in apart] == [3, 3]
    assert all(row["sequence"].count("[MASK]") == 1 for rows in apart for row in rows)
    best = joint[0]
    assert "[MASK]" not in best["sequence"] and len(best["token"]) == 2
    # the joint score is p(first) * p(second | first), each from a text of its own
    first = fill_mask(text, targets=best["token_str"][0])[0][0]["score"]
    given_first = text.replace("[MASK]", best["token_str"][0], 1)
    second = fill_mask(given_first, targets=best["token_str"][1])[0]["score"]
    assert best["score"] == pytest.approx(first * second, rel=1e-4)


def test_a_text_longer_than_the_model_is_cut_around_its_mask_and_that_is_said(fill_mask):
    long = "the sea was calm . " * 300 + "the ship sailed across the [MASK] . " + "and the wind blew . " * 300
    with pytest.warns(UserWarning, match="2 inputs were too long for the model") as said:
        answers = fill_mask([long, "A [MASK].", long + "."])
    assert len(said) == 1 and len(answers[0]) == 5
    assert answers[0][0]["sequence"].count("the sea was calm") == 300
    with pytest.raises(ValueError, match="tokens apart"):
        fill_mask("[MASK] " + "word " * 600 + "[MASK]")


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda f: f([]), ValueError, "list of inputs is empty"),
        (lambda f: f(""), ValueError, "no [MASK] in ''"),
        (lambda f: f("no mask"), ValueError, "no [MASK] in 'no mask'"),
        (lambda f: f("a <mask>"), ValueError, "It has '<mask>'"),
        (lambda f: f(None), TypeError, "NoneType"),
        (lambda f: f(["[MASK]", 3]), TypeError, "inputs[1]: expected a text or a dictionary with 'text', got int"),
        (lambda f: f("[MASK]", top_k=0), ValueError, "top_k=0"),
        (lambda f: f("[MASK]", targets=[]), ValueError, "list of targets is empty"),
        (lambda f: f("[MASK]", targets=["antidisestablishmentarianism"]), ValueError, "is not one token"),
        (lambda f: f("[MASK]", targets=[3]), TypeError, "a target must be a word"),
        (lambda f: pipeline("fil-mask"), ValueError, "Did you mean 'fill-mask'"),
        (lambda f: pipeline("fill-mask", "convbert-tny"), ValueError, "Did you mean 'convbert-tiny'"),
        (lambda f: f("[MASK]", batch_size=0), ValueError, "batch_size=0"),
        (lambda f: f("[MASK]", joint=True, normalize_targets=True), ValueError, "one by one"),
        (lambda f: pipeline("fill-mask", f.model), ValueError, "pass tokenizer="),
        (
            lambda f: pipeline("fill-mask", f.model, tokenizer=f.tokenizer, dtype="float16"),
            TypeError,
            "dtype cannot be",
        ),
        (lambda f: pipeline("fill-mask", f.model, tokenizer=f.tokenizer, batch_sze=3), TypeError, "batch_sze"),
        (lambda f: f(b"[MASK]"), TypeError, "got bytes"),
        (lambda f: f({"txt": "[MASK]"}), ValueError, "expected the key 'text', got 'txt'"),
        (lambda f: f(["a [MASK]", "none"]), ValueError, "inputs[1]: no [MASK] in 'none'"),
        (lambda f: f("[MASK]", batch_tokens=0), ValueError, "batch_tokens=0"),
        (lambda f: pipeline("zero-shot-classification"), ValueError, "no bundled model does zero-shot-classification"),
        (
            lambda f: pipeline("fill-mask", ConvBertModel(f.model.config)),
            TypeError,
            "ConvBertForMaskedLM, got a ConvBertModel",
        ),
        (lambda f: pipeline("fill-mask", device="abacus"), ValueError, "device='abacus' does not work here"),
    ],
)
def test_bad_input_is_named(fill_mask, call, error, words):
    with pytest.raises(error) as caught:
        call(fill_mask)
    assert words in str(caught.value)


def test_strange_texts_are_answered_and_disturb_nobody(fill_mask):
    strange = ["[MASK] 👩‍👩‍👧‍👦 🇩🇪", "é̂ [MASK] \x00\x07", "مرحبا [MASK]", "\ud800 [MASK]", "字 [MASK] 字", "[MASK]\r\n"]
    mixed = fill_mask([TEXTS[0], *strange, TEXTS[1]])
    assert len(mixed) == len(strange) + 2
    alone = fill_mask(TEXTS[0])
    assert [row["token"] for row in mixed[0]] == [row["token"] for row in alone]


def test_a_head_that_was_never_trained_is_refused(tmp_path):
    config = ConvBertConfig.preset("tiny", num_hidden_layers=1)
    ConvBertModel(config).save_pretrained(tmp_path)
    ConvBertTokenizerFast.from_pretrained("convbert-tiny").save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="random numbers: predictions"):
            pipeline("fill-mask", str(tmp_path))
        model = ConvBertForMaskedLM.from_pretrained(tmp_path)
    model.load_report = None  # as its message says, for those who have trained the head since
    assert pipeline("fill-mask", model, tokenizer=str(tmp_path))("a [MASK]")


def test_a_model_left_in_train_mode_does_not_guess_with_dropout(fill_mask):
    config = fill_mask.model.config.replace(hidden_dropout_prob=0.5)
    model = ConvBertForMaskedLM(config).train()
    helper = pipeline("fill-mask", model, tokenizer=fill_mask.tokenizer)
    first = helper("a [MASK]")
    model.train()
    assert helper("a [MASK]") == first


def test_the_best_joint_answer_does_not_depend_on_how_many_are_asked_for(fill_mask):
    text = "The [MASK] [MASK] sailed across the [MASK]."
    best = [fill_mask(text, joint=True, top_k=k)[0] for k in (1, 5, 10)]
    assert best[0] == best[1] == best[2]


def test_threads_share_a_pipeline(fill_mask):
    expected, got = [fill_mask(text) for text in TEXTS], [None] * len(TEXTS)

    def work(i):
        got[i] = [fill_mask(TEXTS[i]) for _ in range(5)][-1]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(TEXTS))]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert got == expected


def test_a_notebook_shows_a_table_and_nothing_in_it_is_markup(fill_mask):
    html = fill_mask("<b>bold</b> & [MASK]", top_k=2)._repr_html_()
    assert html.count("<tr>") == 3 and "<b>" not in html


def test_a_stream_is_answered_as_it_comes_and_an_error_costs_one_answer(fill_mask):
    asked = []

    def texts():
        for i in range(3000):
            asked.append(i)
            yield [None, "no mask", f"The [MASK] of {i}."][0 if i == 7 else 1 if i == 8 else 2]

    with pytest.warns(UserWarning, match="2 inputs could not be answered, the first because: expected a text"):
        stream = fill_mask(texts(), top_k=1)
        first = next(stream)
        assert len(asked) == 1024, "a stream must not be read to its end before it is answered"
        rest = list(stream)
    assert len(rest) == 2999 and "no [MASK] in 'no mask'" in rest[7]["error"]
    assert [rest[i]["error"] for i in (6,)] == ["expected a text or a dictionary with 'text', got NoneType: None"]
    assert first[0]["token"] == fill_mask("The [MASK] of 0.", top_k=1)[0]["token"]
    assert rest[2998][0]["sequence"].endswith("of 2999.")


@settings(deadline=None)
@given(st.lists(st.text(max_size=8), max_size=50), st.integers(1, 7), st.integers(1, 20))
def test_windows_hold_everything_once_in_order(items, count, characters):
    cut = list(iter_chunks(items, count, characters))
    assert [item for window in cut for item in window] == items
    assert all(0 < len(window) <= count for window in cut)
    assert all(sum(map(len, window[:-1])) < characters for window in cut)


def test_rows_of_a_table_and_of_a_dataset_are_inputs(fill_mask):
    datasets = pytest.importorskip("datasets")
    rows = [{"text": text, "label": 0} for text in TEXTS]
    expected = fill_mask(TEXTS)
    assert list(fill_mask(datasets.Dataset.from_list(rows))) == expected
    assert fill_mask(rows) == expected
    pandas = pytest.importorskip("pandas")
    assert fill_mask(pandas.DataFrame(rows)) == expected
