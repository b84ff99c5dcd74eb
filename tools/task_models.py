"""Train the bundled task models: python tools/task_models.py DATA RUNS [NAME...].

DATA is the folder of labelled sets (`sst2/train.jsonl`, ...). Each model is fine-tuned twice, from the bundled encoder
and from fresh weights, on nine tenths of the training rows; the tenth chooses among the epochs. The dev rows are looked
at once in a run, at its end. Models that compare two texts get easier lessons first, made of training texts.
"""

import argparse
import json
import random
import re
import shutil
from copy import deepcopy
from itertools import chain, pairwise
from pathlib import Path

import torch

from convbert import ConvBertConfig, ConvBertTokenizerFast
from convbert.auto import model_for
from convbert.training.evaluation import evaluate_model
from convbert.training.examples import Preprocessing
from convbert.training.finetuning import finetune
from convbert.training.optim import Recipe
from convbert.training.pretraining import Plan, pretrain
from convbert.training.pretraining.masking import Masking
from convbert.training.task_data import load_task_data


def read_rows(file: Path) -> list[dict]:
    """The rows of a JSON Lines file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def guess_words(rows: list[dict], start: str, folder: Path, **tuning) -> Path:
    """Masked words of the task's own texts: only for a model that was pretrained."""
    text = folder.parent / f"{folder.name}.txt"
    text.write_text("\n\n".join(row["text"] for row in rows), encoding="utf-8")
    steps = tuning.pop("steps")
    recipe = Recipe(steps, decay=steps * 9 // 10, warmup=steps // 10, weight_decay=0.1, optimizer="muon", **tuning)
    rows = dict(lengths=(128,), tokens_per_batch=4096, hold_out_every=20)
    pretrain(Plan([text], model=start, recipe=recipe, masking=Masking(0.2, 0.8, 0.1), **rows), folder)
    return folder


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Where each sentence begins and ends."""
    ends = [0, *(m.end() for m in re.finditer(r"(?<=[.!?])\s+", text)), len(text)]
    return [(a, b) for a, b in pairwise(ends) if a < b]


def answer_sentences(rows: list[dict], around: int = 0) -> list[dict]:
    """Questions with nothing but the sentence that answers them and so many on both sides: cheap to pass over."""
    for row in rows:
        answer, at = row["answers"]["text"][0], row["answers"]["answer_start"][0]
        spans = sentence_spans(row["context"])
        first = next(i for i, (_, end) in enumerate(spans) if end > at)
        last = next(i for i, (_, end) in enumerate(spans) if end >= at + len(answer))
        begin, end = spans[max(0, first - around)][0], spans[min(len(spans) - 1, last + around)][1]
        answers = {"text": [answer], "answer_start": [at - begin]}
        yield {"question": row["question"], "context": row["context"][begin:end], "answers": answers}


def gaps(rows: list[dict], count: int, around: int = 0) -> list[dict]:
    """A name, a number or a few words that a sentence lost, to be found again: the question is what stood around it."""
    rng, texts = random.Random(around), sorted({row["context"] for row in rows})
    name = r"[A-Z][\w'-]+(?: (?:of |the )*[A-Z][\w'-]+)*|\d[\d,.]*\d|\d"
    while count:
        text = rng.choice(texts)
        spans = sentence_spans(text)
        i = rng.randrange(len(spans))
        begin, end = spans[i]
        words = list(re.finditer(r"\S+", text[begin:end]))
        found = [(m.start(), m.end()) for m in re.finditer(name, text[begin:end]) if m.start()]
        if not found or rng.random() < 0.3:
            at = rng.randrange(len(words))
            found = [(words[at].start(), words[min(len(words) - 1, at + rng.randrange(4))].end())]
        low, high = rng.choice(found)
        sentence, answer = text[begin:end], text[begin + low : begin + high].rstrip(".,;:")
        context_begin, context_end = spans[max(0, i - around)][0], spans[min(len(spans) - 1, i + around)][1]
        context = text[context_begin:context_end].rstrip()
        left, right = sentence[:low].split(), sentence[high:].split()
        keep = rng.choice((3, 5, 8))
        clue = [w for w in left[-keep:] + right[:keep] if rng.random() < 0.85]
        if len(clue) < 3 or not answer or context.count(answer) > 1:
            continue
        count -= 1
        question = " ".join(clue).strip(".,;") + "?"
        answers = {"text": [answer], "answer_start": [begin + low - context_begin]}
        yield {"question": question, "context": context, "answers": answers}


def word_matches(rows: list[dict], count: int, longest: int = 12, asked: float = 0.0, seed: int = 0) -> list[dict]:
    """Which of these words stood in that window of a text? To choose an answer, a model must be able to see this."""
    rng, texts = random.Random(longest + seed), sorted({row["context"] for row in rows})
    words_of = [text.split() for text in texts]

    def window(size: int) -> list[str]:
        words = rng.choice(words_of)
        at = rng.randrange(max(1, len(words) - size + 1))
        return words[at : at + size]

    def some(words: list[str]) -> str:
        size = rng.choice((1, 1, 2, 3))
        at = rng.randrange(max(1, len(words) - size + 1))
        return " ".join(words[at : at + size]).strip(".,;:()\"'?").lower()

    while count:
        words = window(rng.randint(8, longest))
        seen, right = {word.strip(".,;:()\"'?").lower() for word in words}, some(words)
        wrong = [some(window(8)) for _ in range(3)]
        if not right or any(set(text.split()) <= seen for text in wrong):
            continue
        count -= 1
        options = rng.sample([right, *wrong], 4)
        question = ""
        if rng.random() < asked:  # words that are not to be looked at, some of which stood there
            question = " ".join(["What", *window(4), *rng.sample(words, 3)]).lower() + "?"
        yield {"context": " ".join(words), "question": question, "choices": options, "label": options.index(right)}


MODELS = {
    "convbert-tiny-sentiment": dict(
        task="text-classification",
        train=["sst2/train.jsonl"],
        dev="sst2/dev.jsonl",
        labels=["negative", "positive"],
        guess=dict(steps=240, learning_rate=5e-4),
        epochs=5,
        learning_rate=5e-4,
        dropout=0.15,
        label_smoothing=0.05,
        seeds=2,
    ),
    "convbert-tiny-pos": dict(
        task="token-classification",
        train=["ewt_pos/train.jsonl"],
        dev="ewt_pos/dev.jsonl",
        epochs=6,
        learning_rate=1e-3,
    ),
    "convbert-tiny-choice": dict(
        task="multiple-choice",
        train=["qasc/train.jsonl"],
        dev="qasc/dev.jsonl",
        texts=["squad/train-0.jsonl", "squad/train-1.jsonl", "qasc/train.jsonl"],
        lessons=[
            (lambda texts: word_matches(texts, 8000), dict()),
            (lambda texts: word_matches(texts, 10000, longest=30, asked=0.7), dict()),
            (lambda texts: word_matches(texts, 20000, longest=30, asked=0.7, seed=1), dict()),
        ],
        epochs=4,
        learning_rate=5e-4,
        layer_decay=1.0,
        batch_size=8,
        dropout=0.0,
        beta2=0.98,
        evaluate_every=0.25,
    ),
    "convbert-tiny-qa": dict(
        task="question-answering",
        train=["squad/train-0.jsonl", "squad/train-1.jsonl"],
        dev="squad/dev.jsonl",
        lessons=[
            (lambda rows: gaps(rows, 12000), dict()),
            (answer_sentences, dict(epochs=4)),
            (lambda rows: chain(gaps(rows, 3000, around=1), answer_sentences(rows, around=1)), dict()),
        ],
        epochs=3,
        learning_rate=7e-4,
        layer_decay=1.0,
        batch_size=16,
        beta2=0.98,
        evaluate_every=0.5,
        max_length=256,
        stride=96,
    ),
}
# What a small model needs to learn to compare two texts at all: no dropout, and a short memory of gradients.
LESSON = dict(epochs=1, batch_size=16, learning_rate=1e-3, layer_decay=1.0, dropout=0.0, beta2=0.98, evaluate_every=0.5)


def fresh(task: str, work, seed: int = 0):
    """A model of the bundled encoder's size with random weights."""
    names = {"id2label": dict(enumerate(work.labels.names))} if work.labels.names else {}
    torch.manual_seed(seed)
    config = ConvBertConfig.from_pretrained("convbert-tiny", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    return model_for(task, config)(config.replace(**names))


def take_lessons(lessons: list[tuple], task: str, rows: list[dict], start, folder: Path, **how) -> object:
    """What the run on the task itself begins with: the start, or what easier lessons made of it one by one."""
    for number, (make_rows, tuning) in enumerate(lessons, 1):
        learnt = folder.parent / f"{folder.name}-lesson{number}"
        if not (learnt / "model.safetensors").exists():
            finetune(deepcopy(start), list(make_rows(rows)), task, learnt, device="cpu", **LESSON | how | tuning)
        start = learnt
    return start


def average(folders: list[Path], kind: type, target: Path) -> None:
    """The mean of the weights of runs that differ in their seed: a better model than either, at the price of one."""
    models = [kind.from_pretrained(folder) for folder in folders]
    states = [model.state_dict() for model in models]
    models[0].load_state_dict({name: sum(s[name] for s in states) / len(states) for name in states[0]})
    shutil.copytree(folders[0], target, ignore=shutil.ignore_patterns("*.safetensors", "*.png", "*.md", "mistakes*"))
    models[0].save_pretrained(target)


def train(name: str, start: str, data: Path, runs: Path) -> dict:
    """One run of a model, unless it is there already, and what it is worth on rows that it has not seen."""
    plan, folder = dict(MODELS[name]), runs / f"{name}-{start}"
    task, dev, labels = plan.pop("task"), data / plan.pop("dev"), plan.pop("labels", None)
    files = [data / file for file in plan.pop("train")]
    work = load_task_data(task, files, dev, labels=labels)
    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    if not (folder / "model.safetensors").exists():
        rows = list(load_task_data(task, files, labels=labels).train)  # without the tenth that chooses
        model = "convbert-tiny" if start == "pretrained" else fresh(task, work)
        guess = plan.pop("guess", None)
        if guess and start == "pretrained":  # labels are not looked at, so the tenth may be read as well
            model = guess_words(list(work.train), model, runs / f"{name}-guess", **guess)
        if "texts" in plan:
            rows = [row for file in plan.pop("texts") for row in read_rows(data / file)]
        how = dict(tokenizer=tokenizer, patience=2 if start == "fresh" else None)  # fresh weights often learn nothing
        lengths = {name: plan[name] for name in ("max_length", "stride") if name in plan}
        model = take_lessons(plan.pop("lessons", []), task, rows, model, folder, **how, **lengths)
        seeds = plan.pop("seeds", 1)
        ways = [folder] if seeds == 1 else [runs / f"{folder.name}-seed{seed}" for seed in range(seeds)]
        for seed, way in enumerate(ways):
            finetune(deepcopy(model), files, task, way, labels=labels, device="cpu", seed=seed, **how, **plan)
        if seeds > 1:
            average(ways, model_for(task, "convbert"), folder)
    network = model_for(task, "convbert").from_pretrained(folder)
    reading = Preprocessing(tokenizer, work.labels, plan.get("max_length", 128), plan.get("stride", 64))
    found = evaluate_model(network, tokenizer, work.evaluation, work.train, task, reading)
    return {"dev": dev.parent.name, "rows": len(work.evaluation), start: found.scores, found.rule: found.baseline}


def main():
    """Train the models that are named, or all; those from the encoder first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("names", nargs="*", default=list(MODELS), metavar="NAME")
    parser.add_argument("--starts", nargs="+", default=["pretrained", "fresh"], help="which of both runs")
    args = parser.parse_args()
    for start in args.starts:
        for name in args.names:
            file = args.runs / f"{name}.json"
            scores = json.loads(file.read_text()) if file.exists() else {}
            scores |= train(name, start, args.data, args.runs)
            file.write_text(json.dumps(scores, indent=1) + "\n")
            print(name, json.dumps(scores, indent=1), flush=True)


if __name__ == "__main__":
    main()
