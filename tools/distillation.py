"""A small model learns a task from a larger one: the targets are the probabilities that the teacher answers.

Teacher and student cut texts into other pieces, so answers travel by word (tags) or by character (answers in a text).
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from convbert.outputs import TaskOutput
from convbert.pipelines import multiple_choice, qa_inputs
from convbert.tokenizers.base import PreTrainedTokenizer
from convbert.training.examples import collate, plan_epoch
from convbert.training.labels import Labels

PAD = 0  # id of `[PAD]` in both vocabularies


def as_electra(source: Path, target: Path) -> Path:
    """A BERT checkpoint as an ELECTRA with embeddings as wide as its layers: the same encoder, other names."""
    target.mkdir(parents=True, exist_ok=True)
    weights = load_file(source / "model.safetensors")
    encoder = {f"electra.{key}": value for key, value in weights.items() if key.startswith(("embeddings", "encoder"))}
    encoder.pop("electra.embeddings.position_ids", None)
    save_file(encoder, target / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config |= {"model_type": "electra", "architectures": ["ElectraModel"], "embedding_size": config["hidden_size"]}
    (target / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(source / name, target / name)
    return target


@dataclass(frozen=True)
class TaskInputs:
    """Rows as a model reads them, and where its answers belong."""

    inputs: list[dict[str, list[int]]]  # columns of each row
    places: list[np.ndarray]  # tags: the first piece of each word `(W,)`; answers: characters of each piece `(T, 2)`


def encode_texts(rows: list[dict], tokenizer: PreTrainedTokenizer, max_length: int) -> TaskInputs:
    """Texts to be labelled as a whole."""
    ids = tokenizer([row["text"] for row in rows], truncation=True, max_length=max_length)["input_ids"]
    return TaskInputs([{"input_ids": row} for row in ids], [np.zeros(0)] * len(ids))


def encode_words(rows: list[dict], tokenizer: PreTrainedTokenizer, max_length: int) -> TaskInputs:
    """Words to be tagged, each at its first piece."""
    options = dict(is_split_into_words=True, truncation=True, max_length=max_length)
    encodings = tokenizer([row["tokens"] for row in rows], **options).encodings
    words = [np.array([-1 if word is None else word for word in encoding.word_ids]) for encoding in encodings]
    firsts = [np.flatnonzero((word >= 0) & (word != np.roll(word, 1))) for word in words]
    return TaskInputs([{"input_ids": encoding.ids} for encoding in encodings], firsts)


def encode_questions(rows: list[dict], tokenizer: PreTrainedTokenizer, max_length: int) -> TaskInputs:
    """Questions with as much of their contexts as one row holds; tokens outside the context have no characters."""
    layout = qa_inputs.window_layout(max_length, 0, max_length, max_question_len=64)
    pairs = [(row["question"], row["context"]) for row in rows]
    inputs, places = [], []
    for first, *_ in qa_inputs.encode_questions(pairs, tokenizer, layout):
        window = first.metadata
        offsets = np.full((len(first.input_ids), 2), -1)
        offsets[window.offset : window.offset + window.stop - window.start] = window.context.offsets[
            window.start : window.stop
        ]
        inputs.append({"input_ids": first.input_ids, "token_type_ids": first.token_type_ids})
        places.append(offsets)
    return TaskInputs(inputs, places)


def encode_choices(rows: list[dict], tokenizer: PreTrainedTokenizer, max_length: int) -> TaskInputs:
    """Questions with a row of pieces for each choice."""
    read = multiple_choice.encode_choices(rows, tokenizer, max_length)
    columns = ("input_ids", "token_type_ids")
    inputs = [{name: [getattr(choice, name) for choice in choices] for name in columns} for choices in read]
    return TaskInputs(inputs, [np.zeros(0)] * len(inputs))


ENCODERS = {
    "text-classification": encode_texts,
    "token-classification": encode_words,
    "question-answering": encode_questions,
    "multiple-choice": encode_choices,
}


def lengths_of(inputs: list[dict]) -> np.ndarray:
    """Pieces of each row, over all choices."""
    ids = [row["input_ids"] for row in inputs]
    return np.array([sum(map(len, row)) if isinstance(row[0], list) else len(row) for row in ids])


def logits_of(output) -> Tensor:  # `(B, C)`, `(B, T, C)`, or `(B, 2, T)` of answers in a text
    """What a model says, of whichever task: probabilities are along the last axis."""
    if hasattr(output, "start_logits"):
        return torch.stack([output.start_logits, output.end_logits], 1)
    return output.logits


@torch.inference_mode()
def probabilities(network: nn.Module, encoded: TaskInputs, size: int = 64) -> list[np.ndarray]:
    """What a model answers to each row, computed in bfloat16 in batches of similar length."""
    lengths = lengths_of(encoded.inputs)
    found: list = [None] * len(lengths)
    order = np.argsort(lengths, kind="stable")
    for begin in range(0, len(order), size):
        rows = order[begin : begin + size]
        batch = collate(columns_of([encoded.inputs[i] for i in rows]), PAD)
        with torch.autocast("cpu", torch.bfloat16):
            logits = logits_of(network.eval()(**batch, return_dict=True)).float()
        if logits.dim() == 3 and logits.shape[1] == 2:
            logits = logits.masked_fill(batch["attention_mask"][:, None] == 0, -torch.inf)
        for i, row in zip(rows, logits.softmax(-1).half().numpy(), strict=True):
            found[i] = row
    return found


def columns_of(rows: list[dict]) -> dict[str, list]:
    """Rows as columns."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def move_words(answers: np.ndarray, theirs: np.ndarray, ours: np.ndarray, length: int) -> np.ndarray:
    """Tags of the teacher's words `(T, C)` at the pieces of the student; what neither has read is not learnt."""
    moved, count = np.zeros((length, answers.shape[1]), np.float16), min(len(theirs), len(ours))
    moved[ours[:count]] = answers[theirs[:count]]
    return moved


def move_spans(answers: np.ndarray, theirs: np.ndarray, ours: np.ndarray, length: int) -> np.ndarray:
    """First and last tokens of answers `(2, T)` at the student's tokens; those that it does not read are at `[CLS]`."""
    inside = np.flatnonzero(ours[:, 0] >= 0)
    moved = np.zeros((2, length), np.float32)
    for side, characters in enumerate((theirs[:, 0], theirs[:, 1] - 1)):
        token = inside[0] + np.searchsorted(ours[inside, 0], characters, side="right") - 1
        read = (theirs[:, 0] >= 0) & (characters < ours[inside[-1], 1])
        np.add.at(moved[side], np.where(read, token, 0), answers[side, : len(theirs)])
    return moved.astype(np.float16)


def move(answers: list[np.ndarray], task: str, theirs: TaskInputs, ours: TaskInputs) -> list[np.ndarray]:
    """The teacher's answers as targets of the student, in the shape of its logits."""
    if task in ("text-classification", "multiple-choice"):
        return answers
    function = move_words if task == "token-classification" else move_spans
    lengths = (len(row["input_ids"]) for row in ours.inputs)
    return [function(*row) for row in zip(answers, theirs.places, ours.places, lengths, strict=True)]


def right_answers(rows: list[dict], task: str, labels: Labels, ours: TaskInputs) -> list[np.ndarray]:
    """The labels of rows, the first that are encoded, as targets in the same shape."""
    if task == "multiple-choice":
        return [np.eye(len(row["choices"]), dtype=np.float16)[row["label"]] for row in rows]
    one_hot = np.eye(len(labels.names), dtype=np.float16)
    if task == "text-classification":
        return [one_hot[labels.id(row["label"])] for row in rows]
    targets = []
    for row, inputs, places in zip(rows, ours.inputs, ours.places, strict=False):
        length = len(inputs["input_ids"])
        if task == "token-classification":
            tags = one_hot[[labels.id(tag) for tag in row["tags"]]]
            targets.append(move_words(tags, np.arange(len(tags)), places, length))
        else:
            start, text = row["answers"]["answer_start"][0], row["answers"]["text"][0]
            targets.append(move_spans(np.ones((2, 1)), np.array([[start, start + len(text)]]), places, length))
    return targets


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy with probabilities along the last axis; where there are none, nothing is asked."""
    return -(targets * logits.float().log_softmax(-1)).sum() / targets.sum()


class Student(nn.Module):
    """A model whose loss is its distance from given probabilities."""

    def __init__(self, network: nn.Module):
        """Wrap a model."""
        super().__init__()
        self.network = network

    def forward(self, targets: Tensor, **inputs) -> TaskOutput:
        """The loss; `targets` have the shape of the logits."""
        logits = logits_of(self.network(**inputs, return_dict=True))
        return TaskOutput(loss=soft_cross_entropy(logits, targets), logits=logits)


@dataclass
class SoftBatches:
    """Batches of rows with targets, each a pure function of the seed and the step."""

    inputs: list[dict[str, list[int]]]
    targets: list[np.ndarray]
    size: int = 32  # rows in a batch
    seed: int = 0

    def __post_init__(self):
        """Record the lengths of the rows."""
        self.lengths, self.plans = lengths_of(self.inputs), {}

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.inputs) // self.size)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The batch of that step."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch not in self.plans:
            self.plans = {epoch: plan_epoch(self.lengths, self.size, self.seed, epoch)}
        rows = self.plans[epoch][place]
        batch = collate(columns_of([self.inputs[i] for i in rows]), PAD)
        return batch | {"targets": pad_arrays([self.targets[i] for i in rows])}


def pad_arrays(arrays: list[np.ndarray]) -> Tensor:
    """Arrays of several sizes as one tensor, filled up with zeros."""
    shape = np.max([array.shape for array in arrays], axis=0)
    padded = np.zeros((len(arrays), *shape), np.float32)
    for row, array in zip(padded, arrays, strict=True):
        row[tuple(slice(size) for size in array.shape)] = array
    return torch.from_numpy(padded)
