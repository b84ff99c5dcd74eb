"""Zero-shot classification: equal to transformers on the same weights; forms, batches, long texts, bad input."""

import json
import warnings

import pytest
import torch

from convbert.families.convbert import ConvBertConfig
from convbert.modeling import ConvBertForSequenceClassification
from convbert.pipelines.zero_shot import ZeroShotClassificationPipeline
from convbert.tokenizers.classes import ConvBertTokenizerFast

NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
TEXTS = ["The ship sailed at dawn.", "The court fined the bank, and the bank appealed.", "Soup.", "😀 café\r\nnaïve"]
LABELS = ["travel", "law", "food and drink", "politics", "a rather long label about nothing at all"]


def make(names: dict[int, str], limit: int = 512, **changes) -> ZeroShotClassificationPipeline:
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, embedding_size=32, num_attention_heads=4, intermediate_size=64)
    config = ConvBertConfig.preset(
        "tiny", num_hidden_layers=2, id2label=names, max_position_embeddings=limit, **sizes, **changes
    )
    model = ConvBertForSequenceClassification(config)
    for parameter in (model.classifier.dense.weight, model.classifier.out_proj.weight):
        torch.nn.init.normal_(parameter, std=0.3)  # wide apart scores, so that a wrong one shows
    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny", model_max_length=limit)
    return ZeroShotClassificationPipeline(model, tokenizer)


@pytest.fixture(scope="module")
def classify():
    return make(NLI)


def same(got: dict, expected: dict) -> None:
    assert got["sequence"] == expected["sequence"]
    assert got["labels"] == expected["labels"]
    assert got["scores"] == pytest.approx(expected["scores"], abs=1e-5)


@pytest.mark.parametrize(
    "names",
    [
        NLI,
        {0: "ENTAILMENT", 1: "NEUTRAL", 2: "CONTRADICTION"},
        {0: "contradiction", 1: "Entailment", 2: "neutral"},
        {0: "entailment", 1: "not_entailment"},
        {0: "not_entailment", 1: "entailment"},
        {0: "LABEL_0", 1: "LABEL_1", 2: "Entailed"},
    ],
    ids=lambda names: "-".join(names.values()),
)
def test_answers_equal_the_transformers_pipeline(names, tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = make(names)
    ours.model.save_pretrained(tmp_path)
    ours.tokenizer.save_pretrained(tmp_path)
    theirs = transformers.pipeline("zero-shot-classification", str(tmp_path), device="cpu")
    for labels in (LABELS, "travel, law ,food", ["travel"]):
        for options in ({}, {"multi_label": True}, {"hypothesis_template": "It speaks of {}, does it not?"}):
            for got, expected in zip(ours(TEXTS, labels, **options), theirs(TEXTS, labels, **options), strict=True):
                same(got, expected)


def test_a_long_text_is_cut_as_transformers_cuts_it_and_that_is_said_once(tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = make(NLI, limit=32)
    ours.model.save_pretrained(tmp_path)
    ours.tokenizer.save_pretrained(tmp_path)
    long = "the ship sailed across the sea " * 20
    with pytest.warns(UserWarning, match="2 inputs? were too long for the model .*: the rest was not read") as said:
        got = ours([long, TEXTS[0], long + "."], LABELS)
    assert len(said) == 1
    theirs = transformers.pipeline("zero-shot-classification", str(tmp_path), device="cpu")
    same(got[0], theirs(long, LABELS))


def test_contradiction_is_found_by_its_name():
    """transformers would take the neutral label here."""
    ours = make({0: "neutral", 1: "entailment", 2: "contradiction"})
    batch = ours.tokenizer([(TEXTS[0], "This example is law.")], return_tensors="pt")
    with torch.inference_mode():
        logits = ours.model(**batch).logits[0]
    expected = torch.sigmoid(logits[1] - logits[2]).item()
    assert ours(TEXTS[0], "law", multi_label=True)["scores"] == pytest.approx([expected], abs=1e-5)


def test_one_text_one_result_a_list_a_list_a_stream_a_stream(classify):
    one = classify(TEXTS[0], LABELS)
    assert list(one) == ["sequence", "labels", "scores"] and json.loads(json.dumps(one)) == one
    assert {type(score) for score in one["scores"]} == {float} and sum(one["scores"]) == pytest.approx(1)
    assert classify([TEXTS[0]], LABELS) == [one] == list(classify(iter([TEXTS[0]]), LABELS))
    assert classify({"text": TEXTS[0], "label": 3}, ", ".join(LABELS)) == one
    several = classify(TEXTS[0], LABELS, multi_label=True)["scores"]
    assert several == sorted(several, reverse=True) and all(0 <= score <= 1 for score in several)


@pytest.mark.parametrize(
    "limits", [dict(batch_size=1), dict(batch_size=3), dict(batch_tokens=60), dict(batch_tokens=1)]
)
def test_how_pairs_are_batched_does_not_matter(classify, limits):
    for got, text in zip(classify(TEXTS, LABELS, **limits), TEXTS, strict=True):
        same(got, classify(text, LABELS))


def test_pairs_of_all_labels_and_texts_are_batched_together(classify, monkeypatch):
    shapes = []
    forward = classify.model.forward

    def spy(*args, **inputs):
        shapes.append(len(inputs["input_ids"]))
        return forward(*args, **inputs)

    monkeypatch.setattr(classify.model, "forward", spy)
    classify(TEXTS, LABELS)
    assert shapes == [len(TEXTS) * len(LABELS)]


def test_a_model_without_entailment_is_refused_naming_its_labels():
    with pytest.raises(ValueError, match="label 'entailment'.*this one's labels are 'negative', 'positive'"):
        make({0: "negative", 1: "positive"})
    with pytest.raises(ValueError, match="beside at least one other"):
        make({0: "entailment"})


@pytest.mark.parametrize(
    ("labels", "kind", "match"),
    [
        ([], ValueError, r"candidate_labels=\[\] names no label"),
        (" , ", ValueError, "names no label"),
        (["a", ""], ValueError, r"candidate_labels\[1\]='' is empty"),
        (["a", "b", "a"], ValueError, "names 'a' twice"),
        (["a", 3], TypeError, r"candidate_labels\[1\] must be a text, got int"),
        (None, TypeError, "must be a list of texts, got NoneType"),
    ],
)
def test_wrong_labels_are_named(classify, labels, kind, match):
    with pytest.raises(kind, match=match):
        classify(TEXTS, labels)


@pytest.mark.parametrize("template", ["It is law.", "{label}", "{} or {}", "{", "{{}}", "", "{0.x}", None])
def test_a_template_without_a_place_for_the_label_is_refused(classify, template):
    with pytest.raises(ValueError, match="hypothesis_template=.*must contain {}"):
        classify(TEXTS[0], ["law", "food"], hypothesis_template=template)


def test_poison_in_a_stream_costs_one_answer_each(classify):
    inputs = [TEXTS[0], None, 3, "", "x" * 2**20, "\ud800", {"txt": "a"}, TEXTS[0]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = list(classify(iter(inputs), LABELS))
    assert [set(row) == {"error"} for row in results] == [False, True, True, True, False, False, True, False]
    same(results[0], results[-1])
    with pytest.raises(TypeError, match=r"inputs\[1\]: expected a text or a dictionary"):
        classify(inputs, LABELS)


def test_a_label_that_leaves_no_room_is_refused():
    ours = make(NLI, limit=16)
    with pytest.raises(ValueError, match="the model reads at most 16"):
        ours("A text.", ["law", "a rather long label " * 4])
