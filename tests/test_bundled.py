"""What the package carries: size, cards, and scores that are true."""

import json

import pytest

from convbert import bundled, pipeline
from convbert.hub import resolve
from convbert.pipelines.tasks import DEFAULT_MODELS
from convbert.training.pretraining import evaluate

MIB = 2**20
TASK_MODELS = sorted(set(DEFAULT_MODELS.values()) - {"convbert-tiny"})


@pytest.mark.parametrize("name", bundled())
def test_bundled_models_are_small_and_have_a_card(name):
    folder = resolve(name)
    assert sum(p.stat().st_size for p in folder.rglob("*")) < 20 * MIB
    assert all(p.stat().st_size <= 16 * MIB for p in folder.rglob("*"))
    card = (folder / "README.md").read_text(encoding="utf-8").lower()
    for word in (
        "licence",
        "steps",
        "tokens",
        "hours",
        "not good for",
        "top-1" if name == "convbert-tiny" else "never saw",
    ):
        assert word in card, f"the model card of {name} does not say its {word}"


def test_task_models_add_no_more_than_50_mib():
    assert sum(p.stat().st_size for name in TASK_MODELS for p in resolve(name).rglob("*")) <= 50 * MIB


ASKED = {
    "fill-mask": "The ship sailed across the [MASK].",
    "text-classification": "A quiet, beautiful film that stays with you.",
    "token-classification": "The ship sailed home.",
    "ner": "Anna Smith works for Google in Paris.",
    "question-answering": dict(question="Where did the ship sail?", context="In 1851 the old ship sailed to Boston."),
    "multiple-choice": dict(context="Ships float on water.", question="What floats?", choices=["stones", "ships"]),
    "feature-extraction": "The ship sailed home.",
}


@pytest.mark.parametrize("task", DEFAULT_MODELS)
def test_every_pipeline_with_a_bundled_model_answers_at_once(task):
    asked = ASKED[task]
    answer = pipeline(task)(**asked) if isinstance(asked, dict) else pipeline(task)(asked)
    expected = {
        "text-classification": lambda a: a["label"] == "positive" and a["score"] > 0.8,
        "token-classification": lambda a: [word["entity"] for word in a][:2] == ["DET", "NOUN"],
        "ner": lambda a: (
            [(name["entity_group"], name["word"]) for name in a]
            == [("PER", "anna smith"), ("ORG", "google"), ("LOC", "paris")]
        ),
        "question-answering": lambda a: "Boston" in a["answer"],
        "multiple-choice": lambda a: a["choice"] == "ships",
    }
    assert expected.get(task, bool)(answer), answer


SETS = {"sst2": dict(labels=["negative", "positive"]), "ewt_pos": {}, "ner": {}, "qasc": {}, "squad": {}}


@pytest.mark.slow
@pytest.mark.parametrize("name", TASK_MODELS)
def test_the_cards_of_task_models_state_the_scores_that_they_have(shared_data, name):
    pytest.importorskip("datasets")
    from convbert.training.evaluation import evaluate_model
    from convbert.training.examples import Preprocessing
    from convbert.training.task_data import load_task_data

    stated = json.loads((resolve(name) / "scores.json").read_text())
    task = next(task for task, model in DEFAULT_MODELS.items() if model == name)
    task = "token-classification" if task == "ner" else task
    helper, dev = pipeline(task, name), shared_data / "tasks" / stated["dev"] / "dev.jsonl"
    work = load_task_data(task, dev, dev, **SETS[stated["dev"]])
    how = Preprocessing(helper.tokenizer, work.labels, *((256, 96) if task == "question-answering" else (128, 64)))
    found = evaluate_model(helper.model, helper.tokenizer, work.evaluation, work.train, task, how)
    assert found.scores == pytest.approx(stated["pretrained"], abs=0.006)
    best = next(iter(found.scores))
    trivial = next(value for key, value in stated.items() if key not in ("dev", "rows", "pretrained", "teacher"))
    luck = 0.5 / stated["rows"] ** 0.5  # the standard error of a share, at most
    assert stated["pretrained"][best] > trivial[best] + 3 * luck


@pytest.mark.slow
def test_the_card_states_the_score_that_the_model_has(shared_data):
    pytest.importorskip("datasets")
    stated = json.loads((resolve("convbert-tiny") / "scores.json").read_text())["dev_wikipedia_unseen.txt"]
    scores = evaluate([shared_data / "tasks" / "fillmask" / "dev_wikipedia_unseen.txt"])
    for name in ("top1", "top5"):
        assert scores[name] == pytest.approx(stated[name], abs=0.003)
