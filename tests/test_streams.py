"""A source that fails in the midst of a stream: what it gave is answered, then its own error comes out."""

import re
import subprocess
import sys

import pytest
import torch

from convbert import ConvBertConfig, ConvBertForSequenceClassification, ConvBertTokenizerFast, pipeline

WORDS = "the old ship sailed across the grey sea and nobody on board knew where the wind would take it".split()
SENTENCES = [" ".join(WORDS[: 1 + 7 * i % len(WORDS)]) + f" {i}." for i in range(190)]  # enough for two threads
INPUTS = {
    "fill-mask": [f"[MASK] {text}" for text in SENTENCES],
    "feature-extraction": SENTENCES,
    "text-classification": SENTENCES,
    "token-classification": SENTENCES,
    "question-answering": [{"question": "What sailed?", "context": text} for text in SENTENCES],
    "multiple-choice": [{"question": text, "choices": ["a ship", "the sea"]} for text in SENTENCES],
    "zero-shot-classification": SENTENCES,
}
OPTIONS = {"zero-shot-classification": ["sea", "land"]}


class Gone(Exception):
    """What a source raises."""


def nli_model():
    """A model that judges sentences; what it says is of no interest."""
    torch.manual_seed(0)
    names = {0: "contradiction", 1: "entailment"}
    model = ConvBertForSequenceClassification(ConvBertConfig.preset("tiny", num_hidden_layers=1, id2label=names))
    return pipeline(
        "zero-shot-classification", model.eval(), tokenizer=ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    )


@pytest.fixture(scope="module", params=INPUTS)
def task(request):
    """A task's name, its pipeline with what a call needs beside the inputs, and the inputs."""
    name = request.param
    pipe = nli_model() if name == "zero-shot-classification" else pipeline(name, device="cpu")
    options = {"candidate_labels": OPTIONS[name]} if name in OPTIONS else {}
    return name, (lambda given: pipe(given, progress=False, **options)), INPUTS[name]


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request):
    """Torch's threads: with two, batches are read side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def broken(inputs, error):
    """A source that gives these and then fails."""
    yield from inputs
    raise error


def without_numbers(answer):
    """An answer without its scores, which depend on the batch in their last digits."""
    return re.sub(r"-?\d+\.\d+(e-\d+)?", "0.0", str(answer))


def drain(stream):
    """What a stream gives, and the error that it ends with."""
    found = []
    try:
        for each in stream:
            found.append(each)
    except Exception as error:
        return found, error
    return found, None


def test_what_was_read_is_answered_then_the_sources_error_is_raised(task, threads):
    name, call, inputs = task
    inputs = inputs if threads > 1 else inputs[:70]
    error = Gone("the database went away")
    found, raised = drain(call(broken(inputs, error)))
    assert raised is error and raised.__context__ is None and raised.__cause__ is None
    assert len(found) == len(inputs)
    assert list(map(without_numbers, found[::63])) == [without_numbers(call(each)) for each in inputs[::63]]


@pytest.mark.parametrize("count", [0, 1, 1025])
@pytest.mark.parametrize("kind", [ValueError, Gone])
def test_wherever_it_fails_and_with_whatever(count, kind):
    """Errors that an input's own refusal may have, too: a source that raises one is not an input that is refused."""
    call = pipeline("text-classification", device="cpu")
    error = kind("lost")
    found, raised = drain(call(broken(["Bad."] * count, error), progress=False))
    assert raised is error and [row["label"] for row in found] == [call("Bad.")["label"]] * count


def test_an_input_that_cannot_be_answered_does_not_hide_the_sources_error():
    call = pipeline("text-classification", device="cpu")
    with pytest.warns(UserWarning, match="1 input could not be answered"):
        found, raised = drain(call(broken(["Bad.", None, "Good."], Gone("lost")), progress=False))
    assert isinstance(raised, Gone) and ["error" in row for row in found] == [False, True, False]


def test_a_source_that_cannot_begin():
    class Closed:
        def __iter__(self):
            raise Gone("closed")

    assert isinstance(drain(pipeline("text-classification", device="cpu")(Closed(), progress=False))[1], Gone)


def test_a_source_that_is_interrupted_is_not_held_up():
    """Ctrl-C is no failure of the source: nothing more is computed."""
    call = pipeline("text-classification", device="cpu")
    with pytest.raises(KeyboardInterrupt):
        next(call(broken(["Bad."] * 3, KeyboardInterrupt()), progress=False))


def test_the_command_line_reads_long_cells(tmp_path):
    file = tmp_path / "texts.csv"
    file.write_text("text\nA quiet film.\nBad.\n" + "x" * 200_000 + "\nGood.\n")  # more than csv's limit
    command = [sys.executable, "-c", "from convbert.cli import main; main()", "text-classification", "--file", file]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.count("answers") == 4 and done.returncode == 0, done.stderr
