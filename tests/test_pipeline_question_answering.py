"""Question answering as users call it: parity with transformers 4, shapes, places, long texts, bad input."""

import importlib.util
import json
import math
import os
import re
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convbert.families.convbert import ConvBertConfig
from convbert.modeling import ConvBertForQuestionAnswering
from convbert.pipelines.batches import EncodedInput
from convbert.pipelines.outputs import ResultList
from convbert.pipelines.qa_inputs import ContextWindow, TokenizedContext, encode_questions, window_layout
from convbert.pipelines.qa_spans import best_spans, merge_spans
from convbert.pipelines.question_answering import QuestionAnsweringPipeline, question_results, stack_logits
from convbert.tokenizers.classes import ConvBertTokenizerFast

CONTEXT = "Ada Lovelace wrote the first program in 1843.\r\nCharles Babbage never built the engine 🤖 that it was for."
ITEM = {"question": "Who wrote the first program?", "context": CONTEXT}
PLACE = Path(__file__).parent / "reference" / "question_answering.py"


@pytest.fixture(scope="module")
def reference():
    """The script that made the reference answers."""
    spec = importlib.util.spec_from_file_location("reference_question_answering", PLACE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def qa(reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp("qa")
    reference.make_folder(folder)
    model = ConvBertForQuestionAnswering.from_pretrained(folder)
    return QuestionAnsweringPipeline(model, ConvBertTokenizerFast.from_pretrained(folder))


def assert_same(found, expected, items):
    """The same answers with the same scores; answers whose scores are closer than the tolerance may change places."""
    assert len(found) == len(expected) == len(items)
    for rows, wanted, item in zip(found, expected, items, strict=True):
        assert [row["score"] for row in rows] == pytest.approx([score for score, *_ in wanted], abs=1e-5)
        for row, (score, *place) in zip(rows, wanted, strict=True):
            assert row["answer"] == item["context"][row["start"] : row["end"]]
            near = [other for s, *other in wanted if abs(s - score) < 2e-5]
            assert [row["start"], row["end"]] in near if len(near) > 1 else [row["start"], row["end"]] == place


def rows_of(qa, item, top_k, max_seq_len=384, doc_stride=None, max_answer_len=15, align_to_words=True, **_):
    """The rows of a question, and what is kept of each."""
    layout = window_layout(qa.max_length, doc_stride, max_seq_len, 64)
    (rows,) = encode_questions([(item["question"], item["context"])], qa.tokenizer, layout)
    kept = []
    for row in rows:
        with torch.inference_mode():
            output = qa.model(torch.tensor([row.input_ids]), token_type_ids=torch.tensor([row.token_type_ids]))
        count = 2 * top_k + 10 if align_to_words else top_k
        logits = stack_logits(output.start_logits.numpy(), output.end_logits.numpy())
        kept.append(best_spans(logits[0], row, count, max_answer_len))
    return rows, kept


def their_rule(item, rows, kept, top_k, align_to_words=True, handle_impossible_answer=False, **_):
    """How transformers 4 joins rows: probabilities of each row by itself, sums of equal texts, the least for none."""
    answers, least = {}, 1.0
    for row, spans in zip(rows, kept, strict=True):
        total = 1.0
        for side in (spans.start, spans.end):
            total *= 1 + np.exp(side).sum()
        least = min(least, 1 / total)
        for score, *place in spans.candidates:
            start, end = row.metadata.char_span(*place, align_to_words)
            text = item["context"][start:end]
            new = dict(score=0.0, start=start, end=end, answer=text)
            answers.setdefault(text.lower(), new)["score"] += math.exp(score) / total
    none = [dict(score=least, start=0, end=0, answer="")] if handle_impossible_answer else []
    return sorted([*answers.values(), *none], key=lambda row: -row["score"])[:top_k]


@pytest.mark.parametrize("case", ["plain", "impossible", "five", "five, impossible", "tokens"])
def test_answers_equal_those_of_transformers_4(qa, reference, shared_data, case):
    known = json.loads(reference.FIXTURE.read_text())
    items = reference.read_items(shared_data / "tasks" / "squad" / "dev.jsonl")
    assert known["transformers"].startswith("4.") and len(items) == 200
    found, rows = qa(items, **reference.CASES[case]), [rows_of(qa, item, **reference.CASES[case]) for item in items]
    single = [number for number, each in enumerate(rows) if len(each[0]) == 1]
    assert_same([found[i] for i in single], [known[case][i] for i in single], [items[i] for i in single])
    assert len(single) > 100 or reference.CASES[case].get("max_seq_len", 384) < 200
    theirs = [their_rule(item, *each, **reference.CASES[case]) for item, each in zip(items, rows, strict=True)]
    assert_same(theirs, known[case], items)  # rows, spans and words are theirs; how several rows are joined is ours
    assert all(sum(answer["score"] for answer in answers) <= 1 + 1e-6 for answers in found)


def test_the_reference_answers_are_what_they_should_be(reference):
    """A fixture in which one answer won everywhere, or no text was read in several rows, would show little."""
    known = json.loads(reference.FIXTURE.read_text())
    assert all(len({rows[0][1] for rows in known[case]}) > 50 for case in reference.CASES)
    assert sum(rows[0][1:] == [0, 0] for rows in known["impossible"]) > 5
    assert {tuple(map(len, known[case])) for case in ("plain", "impossible")} == {(1,) * 200}
    assert max(rows[0][0] for rows in known["impossible"]) > 0.5


@pytest.mark.slow
def test_a_transformers_4_at_hand_gives_the_reference_answers(reference, shared_data):
    python = os.environ.get("CONVBERT_TRANSFORMERS4")
    if not python:
        pytest.skip("set CONVBERT_TRANSFORMERS4 to a Python that has transformers 4 and torch")
    now = reference.ask(python, shared_data / "tasks" / "squad" / "dev.jsonl")
    known = json.loads(reference.FIXTURE.read_text())
    items = reference.read_items(shared_data / "tasks" / "squad" / "dev.jsonl")
    for case in reference.CASES:
        rows = [
            [dict(score=s, start=a, end=b, answer=item["context"][a:b]) for s, a, b in found]
            for found, item in zip(now[case], items, strict=True)
        ]
        assert_same(rows, known[case], items)


def test_all_forms_of_a_call_give_the_same(qa):
    one = qa(ITEM)
    assert isinstance(one, dict) and list(one) == ["score", "start", "end", "answer"]
    assert qa(**ITEM) == one and qa(ITEM | {"id": 7, "answers": {"text": ["Ada"]}}) == one
    assert qa([ITEM]) == [one] and qa(question=[ITEM["question"]], context=CONTEXT) == [one]
    assert qa(ITEM, top_k=1) == [one]
    stream = qa(item for item in [ITEM])
    assert not isinstance(stream, list) and list(stream) == [one]
    several = qa(question=["Who wrote it?", "Who built it?"], context=CONTEXT)
    apart = [qa(question=q, context=CONTEXT) for q in ("Who wrote it?", "Who built it?")]
    assert isinstance(several, ResultList) and [a["answer"] for a in several] == [a["answer"] for a in apart]
    texts = qa(question="Who wrote it?", context=[CONTEXT, "Grace wrote another."])
    assert len(texts) == 2 and "Grace wrote another.".find(texts[1]["answer"]) == texts[1]["start"]
    assert len(qa({"question": ["Who?", "What?"], "context": [CONTEXT, CONTEXT]})) == 2


def test_a_dataset_is_streamed(qa):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([ITEM | {"id": str(i)} for i in range(3)])
    assert [row["answer"] for row in qa(rows)] == [qa(ITEM)["answer"]] * 3


def test_results_are_plain_and_draw_themselves(qa):
    best, several = qa(ITEM), qa(ITEM, top_k=3, handle_impossible_answer=True)
    for result in (best, several):
        assert json.loads(json.dumps(result)) == result
        assert "<mark" in result._repr_html_()
    assert type(best["score"]) is float and type(best["start"]) is int and "context" not in best
    assert len(several) == 3 and several == sorted(several, key=lambda row: -row["score"])


@pytest.mark.parametrize("limits", [dict(batch_size=1), dict(batch_size=2), dict(batch_tokens=100), {}])
def test_how_rows_are_batched_does_not_matter(qa, limits):
    items = [
        {"question": q, "context": c}
        for q, c in [("Who?", CONTEXT * 9), ("When was that, and where?", "In 1843."), ("What?", CONTEXT)]
    ]
    options = dict(top_k=3, max_seq_len=48, doc_stride=10, handle_impossible_answer=True)
    for item, rows in zip(items, qa(items, **options, **limits), strict=True):
        alone = qa(item, **options)
        assert [row["answer"] for row in rows] == [row["answer"] for row in alone]
        assert [row["score"] for row in rows] == pytest.approx([row["score"] for row in alone], abs=1e-5)


PIECES = [*"aB. '\r\n\té🤖中\u0301\u200b\ufeff\u2028\x00ßİ\ud800", "[SEP]", "[CLS]", "e\u0301", "👩‍👩‍👧", "words"]
HOSTILE = st.lists(st.one_of(st.sampled_from(PIECES), st.characters()), min_size=1, max_size=60).map("".join)


@settings(deadline=None, max_examples=60)
@given(HOSTILE, HOSTILE, st.booleans(), st.booleans(), st.integers(1, 20))
def test_every_answer_stands_where_it_is_said_to_stand(qa, question, context, align, merge, longest):
    options = dict(max_seq_len=24, doc_stride=4, max_question_len=6, max_answer_len=longest, top_k=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # questions that are cut
        (rows,) = qa(iter([{"question": question, "context": context}]), align_to_words=align, merge=merge, **options)
    if isinstance(rows, dict):
        assert "is empty" in rows["error"] or "no words" in rows["error"]
        return
    assert rows
    for row in rows:
        assert row["answer"] == context[row["start"] : row["end"]]
        assert 0 <= row["start"] < row["end"] <= len(context)
        assert row["score"] >= 0
    assert sum(row["score"] for row in rows) <= 1 + 1e-6


def test_what_cannot_be_answered_costs_its_neighbours_nothing(qa):
    poison = [{"question": "Who?", "context": ""}, {"question": "Who?"}, None, {"question": "", "context": "a"}]
    poison += [{"question": "Who?", "context": "\u200b"}, {"question": "Who?", "context": "\ud83d ok 🤖"}]
    with pytest.warns(UserWarning, match="5 inputs could not be answered"):
        results = list(qa(item for item in [ITEM, *poison, ITEM]))
    assert [list(result) == ["error"] for result in results] == [False, True, True, True, True, True, False, False]
    assert results[0]["answer"] == results[-1]["answer"] == qa(ITEM)["answer"]
    assert results[0]["score"] == pytest.approx(qa(ITEM)["score"], abs=1e-5)


STATUS = Path("/proc/self/status")


def peak_memory(anew=False):
    """The most memory that this process has used, in MB; `anew` counts from now on."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    return int(re.search(r"VmHWM:\s*(\d+)", STATUS.read_text())[1]) / 2**10


@pytest.mark.skipif(not STATUS.exists(), reason="reads and resets the peak of memory in /proc")
def test_a_long_text_is_read_to_its_end_in_little_memory(qa):
    """The model of this test looks for one word, so what is right is known, and a megabyte takes seconds."""
    word = qa.tokenizer.convert_tokens_to_ids("engine")

    class Needle(torch.nn.Module):
        device = torch.device("cpu")

        def __init__(self):
            super().__init__()
            self.config, self.weight = qa.model.config, torch.nn.Parameter(torch.zeros(1))

        def forward(self, input_ids, **inputs):
            logits = (input_ids == word) * 9.0
            return type("Output", (), dict(start_logits=logits, end_logits=logits))

    find = QuestionAnsweringPipeline(Needle(), qa.tokenizer)
    text = "the ship sailed on and on across the sea . " * 25_000 + "It had an engine."
    assert len(text) > 2**20
    before = peak_memory(anew=True)
    found = find(question="What had it?", context=text)
    assert (found["answer"], found["start"]) == ("engine", len(text) - len("engine."))
    assert peak_memory() - before < 400  # the N² spans of its rows would take 600 alone
    assert len(found.around) < 1000


def test_places_are_kept_apart_on_request(qa):
    text = (CONTEXT + " ") * 12
    options = dict(top_k=None, max_seq_len=64, doc_stride=30)
    merged = qa(question="Who?", context=text, **options)
    apart = qa(question="Who?", context=text, merge=False, **options)
    assert len({row["answer"].lower() for row in merged}) == len(merged)
    assert len({(row["start"], row["end"]) for row in apart}) == len(apart) > len(merged)
    assert merged[0]["score"] > apart[0]["score"]
    sums = [sum(row["score"] for row in rows) for rows in (merged, apart)]
    assert sums[0] == pytest.approx(sums[1]) and sums[0] <= 1


# -- one rule for one row and for twenty


@st.composite
def windows(draw):
    """Logits of a text, what each row adds to all of its own, and rows that overlap by as much as an answer has."""
    count, longest = draw(st.integers(2, 25)), draw(st.integers(1, 4))
    numbers = st.lists(st.floats(-6, 6), min_size=count, max_size=count)
    begin, parts = 0, []
    while not parts or parts[-1][1] < count:
        size = draw(st.integers(longest + 1, 9))
        parts.append((begin, min(begin + size, count)))
        begin = parts[-1][1] - longest + 1
    shifts = draw(st.lists(st.floats(-20, 20), min_size=len(parts), max_size=len(parts)))
    return draw(numbers), draw(numbers), longest, parts, shifts


def in_rows(start, end, longest, parts, shifts):
    """A text of letters, its rows, and what is kept of them."""
    text = " ".join(chr(97 + i % 4) for i in range(len(start)))
    offsets = np.array([(2 * i, 2 * i + 1) for i in range(len(start))])
    context = TokenizedContext([9] * len(start), offsets, np.arange(len(start)), np.arange(len(start)))
    rows = [EncodedInput([], metadata=ContextWindow(context, a, b, 3)) for a, b in parts]
    kept = []
    for (a, b), row, shift in zip(parts, rows, shifts, strict=True):
        logits = np.array([[0.0, 9, 9, *start[a:b]], [0.0, 9, 9, *end[a:b]]]) + shift
        kept.append(best_spans(logits, row, None, longest))
    return (None, text), rows, kept


@settings(deadline=None, max_examples=100)
@given(windows(), st.booleans())
def test_how_a_text_is_cut_does_not_matter(case, merge):
    start, end, longest, parts, shifts = case
    join = partial(merge_spans, merge=merge)
    whole = in_rows(start, end, longest, [(0, len(start))], [0.0])
    cut = in_rows(start, end, longest, parts, shifts)
    one, many = (question_results(*given_, join, None, True) for given_ in (whole, cut))
    assert {(row["answer"]) for row in one} == {(row["answer"]) for row in many}
    key = (lambda row: row["answer"]) if merge else (lambda row: (row["start"], row["end"]))
    for a, b in zip(sorted(one, key=key), sorted(many, key=key), strict=True):
        assert a["score"] == pytest.approx(b["score"], rel=1e-6)
    s, e = (torch.tensor([0.0, *x], dtype=torch.float64).softmax(0) for x in (start, end))
    assert {row["answer"]: row["score"] for row in many}[""] == pytest.approx((s[0] * e[0]).item())


def test_where_every_row_prefers_no_answer_there_is_none():
    """Sixteen to one, twenty times: the text has no answer, whatever the rows would have said instead."""
    each = [float(torch.tensor(1 / 16).log() / 2)] * 60
    given_ = in_rows(each, each, 1, [(a, a + 3) for a in range(0, 60, 3)], [0.0] * 20)
    answers = question_results(*given_, merge_spans, None, True)
    assert answers[0]["answer"] == "" and sum(row["score"] for row in answers) <= 1


def test_a_question_that_is_too_long_is_cut_and_that_is_said_once(qa):
    long = "who " * 100 + "?"
    with pytest.warns(
        UserWarning, match="1 inputs? was too long .*101 tokens.*only the first 64 tokens were read"
    ) as said:
        got = qa([ITEM, {"question": long, "context": CONTEXT * 20}], max_seq_len=128, doc_stride=20)
    assert len(said) == 1 and len(got) == 2
    with pytest.warns(UserWarning, match="only the first 3 tokens"):
        cut = qa(question="Who wrote this program?", context=CONTEXT, max_question_len=3)
    assert cut["score"] == pytest.approx(qa(question="Who wrote this", context=CONTEXT)["score"], abs=1e-6)


def test_rows_are_never_longer_than_the_model(qa):
    model = ConvBertForQuestionAnswering(ConvBertConfig.preset("tiny", num_hidden_layers=1, max_position_embeddings=32))
    small = QuestionAnsweringPipeline(model, qa.tokenizer)
    found = small(question="Who wrote it?", context=CONTEXT * 10)
    assert found["answer"] == (CONTEXT * 10)[found["start"] : found["end"]]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (dict(), TypeError, "'question' must be a text, got NoneType"),
        (dict(question="Who?"), TypeError, "'context' must be a text, got NoneType"),
        (dict(inputs="Who?"), TypeError, "expected a dictionary with 'question' and 'context', got str"),
        (dict(inputs=3), TypeError, "got int"),
        (dict(inputs=[]), ValueError, "the list of inputs is empty"),
        (
            dict(inputs=[ITEM, {"question": "Who?"}]),
            ValueError,
            "inputs[1]: expected the keys 'question' and 'context'",
        ),
        (dict(inputs=ITEM, context="a"), TypeError, "not all of them"),
        (dict(question=["a", "b"], context=["c"]), ValueError, "2 questions and 1 contexts"),
        (dict(question="", context="c"), ValueError, "the question is empty"),
        (dict(question="q", context=" \n"), ValueError, "the context is empty"),
        (dict(question="q", context="\u200b"), ValueError, "the context has no words"),
        (dict(**ITEM, top_k=0), ValueError, "top_k=0"),
        (dict(**ITEM, top_k="all"), ValueError, "None for all"),
        (dict(**ITEM, doc_stride=380), ValueError, "doc_stride=380 must be a whole number from 0 to 379"),
        (dict(**ITEM, max_seq_len=5), ValueError, "max_seq_len=5 must be at least 10"),
        (dict(**ITEM, max_answer_len=0), ValueError, "max_answer_len=0"),
        (dict(**ITEM, max_question_len=True), ValueError, "max_question_len=True"),
        (dict(**ITEM, batch_size=0), ValueError, "batch_size=0"),
    ],
)
def test_errors_name_the_value_and_the_rule(qa, arguments, error, words):
    with pytest.raises(error) as caught:
        qa(**arguments)
    assert words in str(caught.value)


def test_a_head_that_was_never_trained_is_refused(qa):
    with pytest.warns(UserWarning):
        model = ConvBertForQuestionAnswering.from_pretrained("convbert-tiny")
    with pytest.raises(ValueError, match="question-answering would answer with random numbers: qa_outputs"):
        QuestionAnsweringPipeline(model, qa.tokenizer)
