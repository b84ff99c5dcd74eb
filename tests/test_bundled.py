"""What the package carries: size, card, and scores that are true."""

import json

import pytest

from convbert import bundled
from convbert.hub import resolve
from convbert.training.pretraining import evaluate

MIB = 2**20


@pytest.mark.parametrize("name", bundled())
def test_bundled_models_are_small_and_have_a_card(name):
    folder = resolve(name)
    assert sum(p.stat().st_size for p in folder.rglob("*")) < 20 * MIB
    assert all(p.stat().st_size <= 16 * MIB for p in folder.rglob("*"))
    card = (folder / "README.md").read_text(encoding="utf-8").lower()
    for word in ("licence", "steps", "tokens", "hours", "top-1", "not good for"):
        assert word in card, f"the model card of {name} does not say its {word}"


@pytest.mark.slow
def test_the_card_states_the_score_that_the_model_has(shared_data):
    pytest.importorskip("datasets")
    stated = json.loads((resolve("convbert-tiny") / "scores.json").read_text())["dev_wikipedia_unseen.txt"]
    scores = evaluate([shared_data / "tasks" / "fillmask" / "dev_wikipedia_unseen.txt"])
    for name in ("top1", "top5"):
        assert scores[name] == pytest.approx(stated[name], abs=0.003)
