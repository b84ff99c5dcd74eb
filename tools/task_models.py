"""Train the bundled task models: python tools/task_models.py DATA RUNS [NAME...].

DATA is the folder of labelled sets (`sst2/train.jsonl`, ...). Each model is fine-tuned twice, from the bundled encoder
and from fresh weights, on nine tenths of the training rows; the tenth chooses among the epochs. The dev rows are looked
at once, at the end.
"""

import argparse
import json
from pathlib import Path

import torch

from convbert import ConvBertConfig, ConvBertTokenizerFast
from convbert.pipelines.tasks import TASKS
from convbert.training.examples import Reading
from convbert.training.finetuning import finetune, plan_work
from convbert.training.judging import judge

MODELS = {
    "convbert-tiny-sentiment": dict(
        task="text-classification",
        train=["sst2/train.jsonl"],
        dev="sst2/dev.jsonl",
        labels=["negative", "positive"],
        epochs=6,
        learning_rate=5e-4,
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
        epochs=6,
        learning_rate=5e-4,
        batch_size=16,
    ),
    "convbert-tiny-qa": dict(
        task="question-answering",
        train=["squad/train-0.jsonl", "squad/train-1.jsonl"],
        dev="squad/dev.jsonl",
        epochs=3,
        learning_rate=1e-3,
        max_length=256,
        stride=96,
    ),
}


def fresh(task: str, work, seed: int = 0):
    """A model of the bundled encoder's size with random weights."""
    names = {"id2label": dict(enumerate(work.labels.names))} if work.labels.names else {}
    torch.manual_seed(seed)
    config = ConvBertConfig.from_pretrained("convbert-tiny", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    return TASKS[task].model_class(config.replace(**names))


def train(name: str, start: str, data: Path, runs: Path) -> dict:
    """One run of a model, unless it is there already, and what it is worth on rows that it has not seen."""
    plan, folder = dict(MODELS[name]), runs / f"{name}-{start}"
    task, dev, labels = plan.pop("task"), data / plan.pop("dev"), plan.pop("labels", None)
    rows = [data / file for file in plan.pop("train")]
    work = plan_work(task, rows, dev, labels=labels)
    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    if not (folder / "model.safetensors").exists():
        model = "convbert-tiny" if start == "pretrained" else fresh(task, work)
        finetune(model, rows, task, folder, labels=labels, tokenizer=tokenizer, device="cpu", **plan)
    network = TASKS[task].model_class.from_pretrained(folder)
    how = Reading(tokenizer, work.labels, plan.get("max_length", 128), plan.get("stride", 64))
    found = judge(network, tokenizer, work.held, work.train, task, how)
    return {"dev": dev.parent.name, "rows": len(work.held), start: found.scores, found.rule: found.baseline}


def main():
    """Train the models that are named, or all; those from the encoder first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("names", nargs="*", default=list(MODELS), metavar="NAME")
    args = parser.parse_args()
    for start in ("pretrained", "fresh"):
        for name in args.names:
            file = args.runs / f"{name}.json"
            scores = json.loads(file.read_text()) if file.exists() else {}
            scores |= train(name, start, args.data, args.runs)
            file.write_text(json.dumps(scores, indent=1) + "\n")
            print(name, json.dumps(scores, indent=1), flush=True)


if __name__ == "__main__":
    main()
