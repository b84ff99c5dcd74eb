"""Put trained task models into the package, with their cards: python tools/bundle_tasks.py RUNS [NAME...].

RUNS is the folder that tools/task_models.py filled: `NAME-pretrained/` and `NAME.json` of every model.
"""

import argparse
import json
from pathlib import Path

import torch

from convbert import ConvBertTokenizerFast
from convbert.auto import model_for

MODELS = Path(__file__).parent.parent / "convbert" / "models"

ABOUT = {
    "convbert-tiny-sentiment": dict(
        what="Says whether an English sentence about a film is kind or unkind: `positive` or `negative`.",
        use='pipeline("text-classification")("A quiet, beautiful film.")',
        how=(
            "; before that 240 steps of masked words of the same sentences; the weights are the mean of two such runs, "
            "with seeds 0 and 1. Dev was looked at three times on the way here: after a plain run (0.797), after the "
            "first of these two runs (0.799), and after the mean of both"
        ),
        data=("the Stanford Sentiment Treebank, whole sentences (6,920 rows of training, 872 of dev, as published)"),
        licence=(
            "The treebank (Socher et al., 2013) is distributed for research without a licence file: ask its "
            "authors before a commercial use. What this project adds is offered under CC BY-SA 4.0."
        ),
        limits=(
            "One in five sentences is judged wrong. It knows film reviews of the 2000s and two answers: no "
            "neutral, no irony, no other language. Names and groups of people can tip it: never let it judge"
            " what people are or deserve."
        ),
    ),
    "convbert-tiny-pos": dict(
        what=("Tags every word of an English text with its universal part of speech (`NOUN`, `VERB`, … 17 in all)."),
        use='pipeline("token-classification")("The ship sailed home.")',
        data=(
            "Universal Dependencies English EWT: weblogs, mail, reviews (12,539 sentences of training, 2,001 of dev)"
        ),
        licence="The treebank is CC BY-SA 4.0, and so are these weights.",
        limits=(
            "It has not learnt names of people and places as such (`PROPN` is all it says), and it reads "
            "lower case only, so it mistakes proper nouns more than a cased tagger. Edited prose suits it "
            "better than chat."
        ),
    ),
    "convbert-tiny-choice": dict(
        what="Chooses among the answers to a question when the facts that decide it are given along.",
        use=(
            'pipeline("multiple-choice")(context="The shop opens at nine and closes at six.", '
            'question="When does it close?", choices=["at six", "at noon", "on Sunday"])'
        ),
        data="QASC with its two facts, eight choices each (555 rows of training, 93 of dev)",
        how=(
            "; before that three lessons of 38,000 rows made of text alone, paragraphs of SQuAD and the facts of the "
            "training rows: which of these words stood in that window? Dev was looked at twice on the way here, the "
            "first time after a run with a shorter lesson (0.462)"
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
        data=(
            "5,728 questions of SQuAD's published development set; dev are 509 questions about three "
            "articles that it never saw. Do not score it on SQuAD's own dev set: it was trained there"
        ),
        how=(
            "; before that three lessons from the same texts: words that a sentence lost (12,000), the questions with "
            "nothing but the sentence that answers (4 passes), and both with a sentence on either side. Dev was looked "
            "at twice on the way here, the first time after a run with the second lesson alone (F1 0.224)"
        ),
        licence="SQuAD is CC BY-SA 4.0, and so are these weights.",
        limits=(
            "It is a small model trained on few questions: one answer in six is exactly right. It finds dates, numbers "
            "and names near the question's words, does best with one or two sentences, and misses what two sentences "
            "say together. It always answers, also when the text has no answer."
        ),
    ),
}

STARTS = {"pretrained": "from `convbert-tiny`", "fresh": "from fresh weights"}

CARD = """---
language: en
license: {license}
library_name: convbert
pipeline_tag: {task}
base_model: convbert-tiny
tags: [convbert]
---

# {name}

{what}
It is `convbert-tiny` (4 layers, 256 features, 8,192 lower-case pieces), fine-tuned; stored as float16.

    from convbert import pipeline
    {use}

## Scores

On {rows:,} rows of dev that it never saw in training:

{table}

## Training

| | |
|---|---|
| data | {data} |
| command | `python tools/task_models.py DATA RUNS {name}` |
| steps | {steps:,} of {batch_size} rows ({epochs} epochs); the best on a tenth of the training rows was kept{how} |
| tokens | at most {max_length} a row |
| rates | learning rate {learning_rate}, layer decay {layer_decay} |
| against overfitting | dropout {dropout}, label smoothing {label_smoothing} |
| machine | one core of an AMD EPYC (AVX2), float32; 1.5 hours of it at most |

## Licence

{licence} The encoder was pretrained on text under CC BY-SA and freer licences, see the card of
`convbert-tiny`. The code around them is Apache-2.0.

## What it is not good for

{limits}
"""


def write_card(name: str, training: dict, scores: dict) -> str:
    """The text of a model's card."""
    facts, rule = training["facts"], next(key for key in scores if key not in ("dev", "rows", *STARTS))
    columns = {name: scores[key] for key, name in {**STARTS, rule: rule}.items() if key in scores}
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for score in columns[rule]:
        lines.append(
            " | ".join([f"| {score.replace('_', ' ')}", *(f"{c[score]:.3f}" for c in columns.values())]) + " |"
        )
    steps = max(row["step"] for row in training["log"] if "step" in row)
    license = "other" if name == "convbert-tiny-sentiment" else "cc-by-sa-4.0"
    if "fresh" in scores:
        lines += [
            "",
            "The second column is the same training without pretraining: the difference is what that is worth.",
        ]
    values = {"how": "", **facts, **ABOUT[name], "rows": scores["rows"], "steps": steps, "license": license}
    return CARD.format(**values, name=name, table="\n".join(lines))


def bundle(name: str, runs: Path) -> None:
    """Store a model as float16, with its tokenizer, scores and card."""
    source, target = runs / f"{name}-pretrained", MODELS / name
    training = json.loads((source / "training.json").read_text())
    scores = json.loads((runs / f"{name}.json").read_text())
    model = model_for(training["facts"]["task"], "convbert").from_pretrained(source, dtype=torch.float16)
    model.save_pretrained(target)
    ConvBertTokenizerFast.from_pretrained(source).save_pretrained(target)
    (target / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    (target / "README.md").write_text(write_card(name, training, scores), encoding="utf-8")
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
