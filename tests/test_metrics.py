"""Scores against what others count with: scikit-learn, SciPy, conlleval's rule, SQuAD's script. And the recipes."""

import json
import math
import random
import sys
import warnings
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convbert.training.datasets import choose_columns
from convbert.training.metrics import GROUPS, KINDS, METRICS, entity_f1, exact_match, mcc, score, squad_f1
from convbert.training.recipes import PUBLISHED, RECIPES, FinetuneRecipe, recipe

# rows [prediction, right answers, exact, f1] of random texts, scored by compute_exact, compute_f1 and get_raw_scores
# of transformers 4.57.6 (data/metrics/squad_metrics.py), the last releases that had SQuAD's official script
SQUAD = json.loads((Path(__file__).parent / "reference" / "squad_scores.json").read_text(encoding="utf-8"))

pytest.importorskip("torchmetrics")
pytest.importorskip("seqeval")
sklearn = pytest.importorskip("sklearn.metrics")  # comes with seqeval, and SciPy with it
preprocessing = pytest.importorskip("sklearn.preprocessing")
stats = pytest.importorskip("scipy.stats")

quick = settings(max_examples=60, deadline=None)


def pairs(element, low=1, high=30):
    """Two lists of the same length."""
    return st.lists(st.tuples(element, element), min_size=low, max_size=high).map(
        lambda rows: tuple(map(list, zip(*rows, strict=True)))
    )


def reference(function, *args, **options):
    """A reference's number, without its warnings about undefined cases; 0 where it says nan."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = float(function(*args, **options))
    return 0.0 if math.isnan(found) else found


# -- one label or number per example


@quick
@given(pairs(st.sampled_from([0, 1, 2, 7])) | pairs(st.sampled_from(["no", "yes"])) | pairs(st.sampled_from("abcdef")))
def test_scores_of_classes_equal_those_of_scikit_learn(pair):
    predictions, references = pair
    found = score(["accuracy", "macro_f1", "mcc"], predictions, references)
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(references, predictions), abs=1e-6)
    expected = reference(sklearn.f1_score, references, predictions, average="macro")
    assert found["macro_f1"] == pytest.approx(expected, abs=1e-6)
    expected = reference(sklearn.matthews_corrcoef, references, predictions)
    assert found["mcc"] == pytest.approx(expected, abs=1e-6)


@quick
@given(pairs(st.sampled_from([0, 1])))
def test_binary_f1_equals_that_of_scikit_learn(pair):
    predictions, references = pair
    expected = reference(sklearn.f1_score, references, predictions, zero_division=0)
    assert score("f1", predictions, references)["f1"] == pytest.approx(expected, abs=1e-6)
    assert score("f1", [bool(p) for p in predictions], references)["f1"] == pytest.approx(expected, abs=1e-6)
    assert score("f1", [float(p) for p in predictions], references)["f1"] == pytest.approx(expected, abs=1e-6)


@quick
@given(pairs(st.integers(-3, 3), low=2) | pairs(st.floats(-100, 100).map(lambda x: round(x, 3)), low=2))
def test_correlations_equal_those_of_scipy(pair):
    predictions, references = pair
    found = score(["pearson", "spearman"], predictions, references)
    for name, function in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        expected = reference(lambda *lists, count=function: count(*lists)[0], predictions, references)
        assert found[name] == pytest.approx(expected, abs=1e-6), name


def test_many_examples_cost_no_precision():
    draw = np.random.default_rng(0)
    references = draw.integers(0, 3, 200_000)
    predictions = np.where(draw.random(200_000) < 0.51, references, draw.integers(0, 3, 200_000))
    found = score(["accuracy", "mcc", "macro_f1"], predictions, references)
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(references, predictions), abs=2e-6)
    assert found["mcc"] == pytest.approx(sklearn.matthews_corrcoef(references, predictions), abs=2e-6)
    assert found["macro_f1"] == pytest.approx(sklearn.f1_score(references, predictions, average="macro"), abs=2e-6)


@pytest.mark.parametrize("predictions, references", [([1, 1], [1, 1]), ([0, 0], [1, 1]), ([1, 1], [0, 1]), ([5], [5])])
def test_mcc_of_a_constant_is_nothing(predictions, references):
    assert mcc(predictions, references) == 0 == reference(sklearn.matthews_corrcoef, references, predictions)


# -- tags


def chunks(sentences):
    """The entities by conlleval's rule, written from its description: (sentence, start, end, type)."""
    found = set()
    for number, tags in enumerate(sentences):
        start, before = None, ("O", "")
        for place, tag in enumerate([*tags, "O"]):
            prefix, _, kind = tag.partition("-")
            if start is not None and (prefix in "OB" or kind != before[1]):
                found.add((number, start, place, before[1]))
                start = None
            if start is None and prefix != "O":
                start = place
            before = (prefix, kind)
    return found


TAG = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
SENTENCE = st.lists(st.tuples(TAG, TAG), max_size=8)


@quick
@given(st.lists(SENTENCE, min_size=1, max_size=5))
def test_entities_are_counted_as_conlleval_counts_them(rows):
    predictions, references = ([[pair[side] for pair in row] for row in rows] for side in (0, 1))
    first, second = chunks(predictions), chunks(references)
    expected = 2 * len(first & second) / (len(first) + len(second)) if first or second else 0
    assert score("entity_f1", predictions, references)["entity_f1"] == pytest.approx(expected, abs=1e-6)
    words = [pair for row in rows for pair in row]
    if words:
        expected = sum(a == b for a, b in words) / len(words)
        assert score("tag_accuracy", predictions, references)["tag_accuracy"] == pytest.approx(expected, abs=1e-6)


def test_no_entity_crosses_a_sentence():
    whole, parts = [["B-PER", "I-PER"]], [["B-PER"], ["I-PER"]]
    assert entity_f1(parts, parts) == 1
    assert len(chunks(parts)) == 2 and len(chunks(whole)) == 1
    assert entity_f1([["B-PER"], ["O"]], parts) == pytest.approx(2 / 3)


@pytest.mark.parametrize("tag", ["NOUN", "B", "X-PER", "", "I-"])
def test_tags_without_a_scheme_have_no_entities(tag):
    if tag in ("B", "I-"):  # an entity without a type
        assert entity_f1([[tag]], [[tag]]) == 1
    else:
        with pytest.raises(ValueError, match="use tag_accuracy"):
            entity_f1([[tag]], [["O"]])


# -- answers


@pytest.mark.parametrize("part", range(6))
def test_answers_are_scored_as_by_the_official_script(part):
    rows = SQUAD[part::6]
    for prediction, references, exact, f1 in rows:
        case = (prediction, references)
        assert exact_match([prediction], [references]) == exact, case
        assert squad_f1([prediction], [references]) == pytest.approx(f1, abs=1e-6), case
    found = score("squad", [row[0] for row in rows], [row[1] for row in rows])
    expected = [sum(row[column] for row in rows) / len(rows) for column in (2, 3)]
    assert list(found.values()) == pytest.approx(expected, abs=1e-6)


def test_the_reference_holds_every_kind_of_question():
    assert sum(not references for _, references, *_ in SQUAD) > 30  # impossible
    assert sum(not prediction for prediction, *_ in SQUAD) > 10  # no answer given
    assert sum(0 < f1 < 1 for *_, f1 in SQUAD) > 20  # partly right
    assert sum(exact for *_, exact, _ in SQUAD) > 50


@pytest.mark.parametrize(
    "prediction, references, expected",
    [("", [], 1), ("the", [], 1), ("Bonn", [], 0), ("", ["Bonn"], 0), ("", ["the"], 1), ("", ["the", "Bonn"], 0)],
)
def test_a_question_without_an_answer(prediction, references, expected):
    assert score("squad", [prediction], [references]) == {"exact_match": expected, "squad_f1": expected}


# -- the door


@pytest.mark.parametrize(
    "names, predictions, references, message",
    [
        ("accuracy", [], [], "0 predictions and 0 references"),
        ("accuracy", [1, 2], [1], "2 predictions and 1 references"),
        ("f2", [1], [1], "no metric 'f2'"),
        (["accuracy", "acuracy"], [1], [1], "Did you mean 'accuracy'"),
        ("accuracy", ["yes"], [1], "as id on both sides"),
        ("accuracy", [["O"]], [["O"]], "accuracy needs one label"),
        ("f1", [0, 2], [0, 1], "2 is a label: use macro_f1"),
        ("f1", ["yes"], ["no"], "use macro_f1"),
        ("pearson", [1.0, math.nan], [1.0, 2.0], "example 1 has nan against 2.0"),
        ("spearman", [1.0, 2.0], [1.0, math.inf], "finite"),
        ("spearman", ["1"], [1.0], "finite number"),
        ("tag_accuracy", [["O", "O"]], [["O"]], "as long as the reference's"),
        ("entity_f1", ["O"], ["O"], "a list of tag names"),
        ("tag_accuracy", [[], []], [[], []], "all of the 2 sentences are empty"),
        ("squad", ["Bonn"], ["Bonn"], "list of the right ones"),
        ("squad", ["Bonn"], [{"text": ["Bonn"], "answer_start": [0]}], "list of the right ones"),
        ("squad", [None], [[]], "answer text"),
    ],
)
def test_what_cannot_be_scored_is_refused(names, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        score(names, predictions, references)


def test_a_long_text_makes_no_long_message():
    with pytest.raises(ValueError) as caught:
        score("squad", [1], [["x" * 1_000_000]])
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "make", [list, np.array, torch.tensor, lambda x: list(np.array(x)), lambda x: list(torch.tensor(x))]
)
def test_arrays_and_tensors_score_as_lists_do(make):
    predictions, references = make([1, 0, 1, 1]), make([1, 1, 1, 0])
    found = score(["accuracy", "f1", "pearson"], predictions, references)
    assert found == {"accuracy": 0.5, "f1": 0.666667, "pearson": -0.333333}
    assert all(type(value) is float for value in found.values())
    json.dumps(found)


def test_every_metric_is_perfect_on_the_references():
    example = {
        "labels": ([1, 0, 1],) * 2,
        "sets": ([["a", "b"], []],) * 2,
        "numbers": ([1.0, 2.5, 2.0],) * 2,
        "tags": ([["B-PER", "O"], ["O"]],) * 2,
        "answers": (["Bonn", ""], [["Bonn"], []]),
    }
    for metric in METRICS.values():
        assert score([metric.name], *example[metric.needs]) == {metric.name: 1.0}
        assert metric.needs in KINDS
    assert set().union(*GROUPS.values()) <= set(METRICS) and not set(GROUPS) & set(METRICS)


def test_order_of_examples_does_not_matter():
    mixed = random.Random(0).sample(range(len(SQUAD)), len(SQUAD))[:60]
    there, back = ([SQUAD[i][:2] for i in order] for order in (mixed, mixed[::-1]))
    assert score("squad", *zip(*there, strict=True)) == score("squad", *zip(*back, strict=True))


@pytest.mark.parametrize(
    "name, library, pair",
    [("accuracy", "torchmetrics", ([1], [1])), ("entity_f1", "seqeval", ([["O"]], [["O"]]))],
)
def test_a_missing_library_is_named_with_its_remedy(monkeypatch, name, library, pair):
    for module in [module for module in sys.modules if module.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, module, None)  # as python does for what cannot be imported
    with pytest.raises(ImportError, match=rf'{library}: pip install "convbert\[train\]"'):
        score(name, *pair)


# -- recipes


def test_recipes_speak_of_things_there_are():
    for name, found in RECIPES.items():
        assert recipe(name) is found
        assert {METRICS[metric].needs for metric in found.metrics} <= set(KINDS), name
        assert {"small", "medium-small", "base"} <= set(found.learning_rate), name


# the columns of the datasets, from their pages on the hub (all but ids, and what no recipe uses)
THEIRS = {
    "glue/cola": "sentence label idx",
    "glue/sst2": "sentence label idx",
    "glue/mrpc": "sentence1 sentence2 label idx",
    "glue/stsb": "sentence1 sentence2 label idx",
    "glue/qqp": "question1 question2 label idx",
    "glue/mnli": "premise hypothesis label idx",
    "glue/qnli": "question sentence label idx",
    "glue/rte": "sentence1 sentence2 label idx",
    "squad_v1": "id title context question answers",
    "squad_v2": "id title context question answers",
    "conll2003": "tokens ner_tags chunk_tags pos_tags",
    "swag": "video-id fold-ind startphrase sent1 sent2 gold-source ending0 ending1 ending2 ending3 label",
}


@pytest.mark.parametrize("name", RECIPES)
def test_columns_are_found_in_rows_of_the_datasets_shape(name):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{column: column for column in THEIRS[name].split()}])
    found = choose_columns(rows, recipe(name).task, recipe(name).columns)
    expected = {ours: list(c) if isinstance(c, tuple) else c for ours, c in recipe(name).columns.items()}
    assert found[0] == expected


def test_the_papers_figures():
    """Learning rate 3e-4 (base 1e-4), decay 0.8, 3 epochs (RTE, STS 10), batch 32, warm-up 10 %."""
    for name in (name for name in RECIPES if name.startswith("glue/")):
        found = recipe(name)
        assert found.learning_rate == {"small": 3e-4, "medium-small": 3e-4, "base": 1e-4}
        assert (found.layer_decay, found.batch_size, found.warmup, found.max_length) == (0.8, 32, 0.1, 128)
        assert found.epochs == (10 if name in ("glue/rte", "glue/stsb") else 3)
        assert found.both_orders == (name in ("glue/mrpc", "glue/stsb"))
    assert {recipe(name).max_length for name in ("squad_v1", "squad_v2")} == {512}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"task": "text-clasification"}, "Did you mean 'text-classification'"),
        ({"columns": {"text": "sentence"}}, "label"),
        ({"columns": {"text": "sentence", "label": "label", "tags": "tags"}}, "tags"),
        ({"metrics": ("mcc", "acuracy")}, "Did you mean 'accuracy'"),
        ({"watch": "f1"}, "watch='f1'"),
        ({"both_orders": True}, "text_pair"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(recipe("glue/cola"), **changes)


def test_recipes_are_frozen_and_names_are_guessed():
    with pytest.raises(FrozenInstanceError):
        recipe("swag").epochs = 4
    with pytest.raises(ValueError, match="Did you mean 'squad_v2'"):
        recipe("squadv2")
    default = FinetuneRecipe("multiple-choice", "somebody/something", None, {"choices": ("a", "b"), "label": "label"})
    default.learning_rate["tiny"] = 1e-3
    assert "tiny" not in recipe("swag").learning_rate


def test_published_scores_belong_to_a_recipe_and_name_their_source():
    for model, found in PUBLISHED.items():
        for name, published in found.items():
            assert name == "glue" or set(published.scores) <= set(recipe(name).metrics), (model, name)
            assert published.split in ("test", "dev") and published.source.startswith("https://"), (model, name)
            assert all(0 < value < 1 for value in published.scores.values()), (model, name)


def test_published_averages():
    expected = {"electra-small": 78.0, "convbert-small": 78.9, "convbert-small-4m": 80.1, "convbert-medium-small": 79.7}
    expected |= {"convbert-medium-small-4m": 81.1, "electra-base": 83.5, "electra-base++": 85.7}
    expected |= {"convbert-base": 84.9, "convbert-base-4m": 86.4}
    assert {model: 100 * PUBLISHED[model]["glue"].scores["average"] for model in expected} == pytest.approx(expected)
    tasks = [f.scores for name, f in PUBLISHED["convbert-base-4m"].items() if name != "glue"]
    assert round(100 * sum(sum(scores.values()) for scores in tasks) / len(tasks), 1) == 86.4


@quick
@given(st.lists(st.tuples(*[st.lists(st.sampled_from("abcd"), unique=True)] * 2), min_size=1, max_size=20))
def test_several_labels_equal_those_of_scikit_learn(rows):
    predictions, references = (list(column) for column in zip(*rows, strict=True))
    names = preprocessing.MultiLabelBinarizer(classes=list("abcd")).fit([])
    expected = reference(
        sklearn.f1_score, names.transform(references), names.transform(predictions), average="micro", zero_division=0
    )
    assert score(["micro_f1"], predictions, references)["micro_f1"] == pytest.approx(expected, abs=1e-6)
