"""Multiple choice as users call it: forms, order, batches, long contexts, bad input; the scores are the model's own."""

import json
import random
import warnings

import pytest
import torch

from convbert.families.convbert import ConvBertConfig
from convbert.modeling import ConvBertForMultipleChoice
from convbert.pipelines.multiple_choice import MultipleChoicePipeline, choice_pairs, encode_choices
from convbert.tokenizers.classes import ConvBertTokenizerFast

CONFIG = ConvBertConfig.preset(
    "tiny", num_hidden_layers=2, hidden_size=32, embedding_size=32, num_attention_heads=4, intermediate_size=64
)
QUESTION = {"context": "The captain passed out.", "question": "cause", "choices": ["He was ill.", "The ship sank."]}
WORDS = "the ship sailed across a sea of stars while two old men sang about rain bread and war".split()


@pytest.fixture(scope="module")
def choose():
    torch.manual_seed(0)
    model = ConvBertForMultipleChoice(CONFIG)
    torch.nn.init.normal_(model.classifier.weight)  # wide apart scores, so that a wrong one shows
    return MultipleChoicePipeline(model, ConvBertTokenizerFast.from_pretrained("convbert-tiny"))


def make_questions(count: int) -> list[dict]:
    draw = random.Random(0)

    def text(most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(1, most)))

    return [
        {
            "id": i,
            "label": 0,
            "question": text(9),
            "context": draw.choice(["", None, text(60)]),
            "choices": [text(12) for _ in range(draw.randint(2, 8))],
        }
        for i in range(count)
    ]


def model_scores(choose, item: dict) -> list[float]:
    """The softmax of the model's own logits for all choices of a question at once, `(1, C, T)`."""
    batch = choose.tokenizer(choice_pairs(item), padding=True, return_tensors="pt")
    with torch.inference_mode():
        return choose.model(**{name: column[None] for name, column in batch.items()}).logits.softmax(-1)[0].tolist()


def by_place(answers: list[dict]) -> list[float]:
    return [row["score"] for row in sorted(answers, key=lambda row: row["label"])]


def test_the_forms_of_a_question_give_the_same_answer(choose):
    one = choose(QUESTION)
    assert choose(**QUESTION) == one == choose([QUESTION])[0] == next(choose(iter([{**QUESTION, "label": 1}])))
    assert list(one) == ["label", "choice", "score"] and one["choice"] == QUESTION["choices"][one["label"]]
    assert {type(value) for value in one.values()} == {int, str, float}
    assert json.loads(json.dumps(one)) == one


def test_scores_are_the_softmax_of_the_models_logits_whatever_shares_a_batch(choose):
    questions = make_questions(40)
    expected = [model_scores(choose, item) for item in questions]
    for limits in (dict(), dict(batch_size=1), dict(batch_size=3), dict(batch_tokens=100)):
        for got, scores in zip(choose(questions, top_k=None, **limits), expected, strict=True):
            assert by_place(got) == pytest.approx(scores, abs=1e-5)


def test_rows_of_different_questions_share_batches(choose, monkeypatch):
    shapes = []
    forward = choose.model.forward

    def spy(**inputs):
        shapes.append(tuple(inputs["input_ids"].shape))
        return forward(**inputs)

    monkeypatch.setattr(choose.model, "forward", spy)
    choose([QUESTION, {**QUESTION, "choices": ["a", "b", "c"]}, {**QUESTION, "choices": ["a"] * 8}])
    assert len(shapes) == 1 and shapes[0][:2] == (13, 1)


def test_scores_equal_transformers(choose, tmp_path):
    transformers = pytest.importorskip("transformers")
    choose.model.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForMultipleChoice.from_pretrained(tmp_path).eval()
    for item in make_questions(8):
        pairs, scores = choice_pairs(item), []
        for pair in pairs:  # one by one: their convolution sees pads
            batch = choose.tokenizer([pair], return_tensors="pt")
            with torch.inference_mode():
                scores.append(theirs(**{name: column[None] for name, column in batch.items()}).logits.item())
        expected = torch.tensor(scores).softmax(0).tolist()
        assert by_place(choose(item, top_k=None)) == pytest.approx(expected, abs=1e-5)


def test_top_k(choose):
    item = {"question": "a", "choices": ["rain", "bread", "war"]}
    everything = choose(item, top_k=None)
    assert sum(row["score"] for row in everything) == pytest.approx(1)
    assert everything == sorted(everything, key=lambda row: -row["score"])
    assert choose(item, top_k=2) == everything[:2]
    assert choose(item, top_k=1) == [choose(item)] == everything[:1]
    assert choose(item, top_k=9) == everything
    for wrong in (0, -1, True, 1.5, "all"):
        with pytest.raises(ValueError, match="top_k="):
            choose(item, top_k=wrong)


def test_layout_of_the_pairs():
    assert choice_pairs(QUESTION)[0] == ("The captain passed out. cause", "He was ill.")
    assert choice_pairs({"choices": ["a", "b"], "question": " It ", "context": None}) == [("It", "a"), ("It", "b")]
    assert choice_pairs({"choices": ["a"], "context": "Once."}) == [("Once.", "a")]


def test_a_long_context_loses_its_beginning_and_that_is_said_once(choose):
    long = {"context": "the sea was calm . " * 300, "question": "Who sang ?", "choices": ["the men", "the rain", "we"]}
    with pytest.warns(
        UserWarning, match=r"2 inputs? were too long .*the beginning of the context was not read"
    ) as said:
        answers = choose([long, QUESTION, long], top_k=None)
    assert len(said) == 1
    rows = encode_choices([long], choose.tokenizer, choose.max_length)[0]
    assert {len(row.input_ids) for row in rows} == {choose.max_length}
    for row, choice in zip(rows, long["choices"], strict=True):
        assert choose.tokenizer.decode(row.input_ids).endswith(f"who sang? [SEP] {choice} [SEP]")
    left = ConvBertTokenizerFast.from_pretrained("convbert-tiny", truncation_side="left")
    same = left(choice_pairs(long), truncation="only_first", max_length=choose.max_length)
    assert [row.input_ids for row in rows] == same["input_ids"]
    assert [row.token_type_ids for row in rows] == same["token_type_ids"]
    assert by_place(answers[1]) == pytest.approx(model_scores(choose, QUESTION), abs=1e-5)


def test_a_choice_that_leaves_no_room_is_refused_alone(choose):
    huge = {**QUESTION, "choices": ["He was ill.", "word " * 600]}
    with pytest.raises(ValueError, match="has 600 tokens; with what stands before it"):
        choose(huge)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = list(choose(iter([QUESTION, huge, QUESTION])))
    assert "600 tokens" in results[1]["error"]
    alone = choose(QUESTION)
    for row in (results[0], results[2]):  # in another batch the last bit of a score may be another
        assert row | {"score": 0} == alone | {"score": 0} and row["score"] == pytest.approx(alone["score"], abs=1e-5)


def test_poison_in_a_stream_costs_one_answer_each(choose):
    poison = [
        {"question": "", "choices": ["a", "b"]},
        {"question": "a", "choices": "ab"},
        {"question": "a", "choices": ["a"]},
        None,
        "a question",
    ]
    odd = [
        {"question": "\ud800\udfff\ud800", "choices": ["\ud83d", "😀"]},
        {"question": "😀" * 50, "choices": ["", "b"]},
        {"question": "x" * 2**20, "choices": ["a", "b"]},
    ]
    with pytest.warns(UserWarning) as said:
        results = list(choose(item for item in [QUESTION, *poison, *odd, QUESTION]))
    assert [set(row) == {"error"} for row in results] == [False, *[True] * 5, *[False] * 4]
    assert results[0]["score"] == pytest.approx(results[-1]["score"], abs=1e-5)
    assert any("5 inputs could not be answered" in str(warning.message) for warning in said)


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        ({"choices": "one, two"}, TypeError, "list of texts, got the text 'one, two'"),
        ({"choices": {"text": ["a", "b"]}}, TypeError, "list of texts, got dict"),
        ({"choices": ["a", None]}, TypeError, r"choices\[1\] must be a text, got NoneType"),
        ({"choices": []}, ValueError, "has 0 of the at least 2"),
        ({"choices": ["a"]}, ValueError, "has 1 of the at least 2"),
        ({"choices": None}, ValueError, "expected the key 'choices'"),
        ({"question": ["a"]}, TypeError, "'question' must be a text, got list"),
        ({"context": 2}, TypeError, "'context' must be a text, got int"),
        ({"question": "", "context": " "}, ValueError, "nothing to choose by"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(choose, change, kind, match):
    item = {**QUESTION, **change}
    with pytest.raises(kind, match=match):
        choose(item)
    with pytest.raises(kind, match=r"inputs\[1\]: .*" + match):
        choose([QUESTION, item])


def test_calls_that_ask_nothing_or_twice_are_refused(choose):
    for call in (lambda: choose(), lambda: choose(QUESTION, question="a"), lambda: choose("a", question="b")):
        with pytest.raises(TypeError, match="question="):
            call()
    with pytest.raises(TypeError, match="the question 'a' has no choices"):
        choose("a")
    with pytest.raises(ValueError, match="the list of inputs is empty"):
        choose([])


def test_datasets_and_tables_are_read(choose):
    datasets, pandas = pytest.importorskip("datasets"), pytest.importorskip("pandas")
    rows = make_questions(5)
    expected = choose(rows)
    streamed = choose(datasets.Dataset.from_list(rows))
    assert not isinstance(streamed, list)
    table = pandas.DataFrame(rows)
    table["choices"] = [pandas.Series(row["choices"]).to_numpy() for row in rows]  # as parquet gives them
    for got in (list(streamed), choose(table)):
        assert [row["label"] for row in got] == [row["label"] for row in expected]
        assert [row["score"] for row in got] == pytest.approx([row["score"] for row in expected], abs=1e-5)


def test_untrained_weights_are_refused_and_training_mode_is_left(choose, tmp_path):
    choose.model.train()
    again = MultipleChoicePipeline(choose.model, choose.tokenizer)
    assert not choose.model.training and again(QUESTION) == again(QUESTION)
    from convbert.modeling import ConvBertModel

    ConvBertModel(CONFIG).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="classifier"):
        fresh = ConvBertForMultipleChoice.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="multiple-choice would answer with random numbers"):
        MultipleChoicePipeline(fresh, choose.tokenizer)
