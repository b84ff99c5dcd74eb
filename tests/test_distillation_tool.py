"""How a task model learns from a teacher: answers move between pieces, by word and by character."""

import string

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("datasets")

from distillation import ENCODERS, move, move_spans, right_answers, soft_cross_entropy
from task_texts import crop, gaps, sentence_spans

from convbert import ConvBertTokenizerFast
from convbert.training.labels import Labels

ROWS = {
    "text-classification": [{"text": "a fine film", "label": "good"}, {"text": "no", "label": "bad"}],
    "token-classification": [{"tokens": ["Anna", "unpacked", "it"], "tags": ["PER", "O", "O"]}],
    "question-answering": [
        {
            "question": "When was it built?",
            "context": "The overhanging bridge, built in 1842, stands.",
            "answers": {"text": ["1842"], "answer_start": [33]},
        }
    ],
    "multiple-choice": [{"context": "", "question": "What floats?", "choices": ["a ship", "a stone"], "label": 0}],
}
LABELS = {"text-classification": Labels(("bad", "good")), "token-classification": Labels(("O", "PER"))}


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """A tokenizer whose pieces are single characters."""
    file = tmp_path_factory.mktemp("letters") / "vocab.txt"
    signs = string.ascii_lowercase + string.digits + string.punctuation
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *signs, *(f"##{sign}" for sign in signs)]
    file.write_text("\n".join(pieces))
    return ConvBertTokenizerFast(file)


@pytest.mark.parametrize("task", ROWS)
def test_a_teacher_that_is_right_gives_the_right_targets_in_the_pieces_of_the_student(task, letters):
    theirs = ENCODERS[task](ROWS[task], letters, 128)
    ours = ENCODERS[task](ROWS[task], ConvBertTokenizerFast.from_pretrained("convbert-tiny"), 128)
    labels = LABELS.get(task, Labels())
    said, right = (right_answers(ROWS[task], task, labels, read) for read in (theirs, ours))
    for found, wanted in zip(move(said, task, theirs, ours), right, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert task not in ("token-classification", "question-answering") or said[0].shape != right[0].shape


def test_an_answer_is_spread_over_the_pieces_and_what_the_student_does_not_read_is_at_its_first():
    theirs = np.array([[-1, -1], [0, 3], [4, 9], [10, 12]])
    ours = np.array([[-1, -1], [0, 3], [4, 6], [6, 9]])  # it has not read the last word
    answers = np.array([[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]])
    moved = move_spans(answers, theirs, ours, length=4)
    np.testing.assert_allclose(moved, [[0.5, 0.2, 0.3, 0.0], [0.5, 0.2, 0.0, 0.3]], atol=1e-3)


def test_the_loss_is_cross_entropy_and_asks_nothing_without_a_target():
    logits, labels = (
        torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)),
        torch.tensor([[0, 3, 1], [2, 2, 0]]),
    )
    targets = F.one_hot(labels, 4).float()
    torch.testing.assert_close(soft_cross_entropy(logits, targets), F.cross_entropy(logits.mT, labels))
    targets[0, 1] = 0
    asked = labels.clone()
    asked[0, 1] = -100
    torch.testing.assert_close(soft_cross_entropy(logits, targets), F.cross_entropy(logits.mT, asked))


TEXT = "Anna Smith built the old bridge in 1842. It stands in Boston, near the sea. Many people cross it every day."


def test_gaps_ask_for_what_stands_in_their_context():
    for row in gaps([TEXT], 50, around=1):
        start, text = row["answers"]["answer_start"][0], row["answers"]["text"][0]
        assert row["context"][start : start + len(text)] == text and row["context"] in TEXT
        assert row["question"].endswith("?")


@pytest.mark.parametrize(("around", "expected"), [(0, 1), (1, 3), (5, 3)])
def test_a_crop_keeps_the_answer_in_place(around, expected):
    row = {
        "question": "Where?",
        "context": TEXT,
        "answers": {"text": ["Boston"], "answer_start": [TEXT.index("Boston")]},
    }
    cropped = crop(row, around)
    assert len(sentence_spans(cropped["context"])) == expected
    assert cropped["context"][cropped["answers"]["answer_start"][0] :].startswith("Boston")
