"""Fine-tuning from rows to a folder: every task, killed and resumed, in two processes, with data that is wrong."""

import json
import signal
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from conftest import CHOICES, DAYS
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from processes import Process

datasets = pytest.importorskip("datasets")

from convbert import ConvBertForSequenceClassification, ConvBertTokenizerFast, pipeline  # noqa: E402
from convbert.families.convbert import ConvBertConfig  # noqa: E402
from convbert.training.datasets import choose_columns, load_rows  # noqa: E402
from convbert.training.examples import Preprocessing, encode_questions, encode_tags  # noqa: E402
from convbert.training.finetuning import Tuning, finetune, to_recipe  # noqa: E402
from convbert.training.labels import Labels  # noqa: E402
from convbert.training.task_data import load_task_data  # noqa: E402

TEXTS = [
    {"text": f"{what} {day}", "label": kind} for kind, what in (("good", "a fine"), ("bad", "a grey")) for day in DAYS
]
TAGS = [
    {"tokens": ["the", day, "is", what], "tags": ["O", "B-day", "O", "O"]} for day in DAYS for what in ("fine", "grey")
]
QUESTIONS = [
    {
        "question": f"what was {what}?",
        "context": f"the {day} was {what}. it was long.",
        "answers": {"text": [day], "answer_start": [4]},
    }
    for day in DAYS
    for what in ("fine", "grey")
]
ROWS = {
    "text-classification": TEXTS,
    "token-classification": TAGS,
    "question-answering": QUESTIONS,
    "multiple-choice": CHOICES,
    "fill-mask": [{"text": f"the {day} was fine and the {day} was long. " * 8} for day in DAYS * 2],
}
QUICK = dict(epochs=20, batch_size=4, learning_rate=5e-3, layer_decay=1.0, dropout=0.0, max_length=32, device="cpu")


@pytest.mark.parametrize("task", ROWS)
def test_every_task_learns_and_leaves_a_folder_that_the_pipeline_opens(tmp_path, start, task):
    out = tmp_path / "model"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that the head is fresh is what fine-tuning is for
        result = finetune(str(start), ROWS[task], task, out, **QUICK)
    name = next(iter(result.scores))
    assert result.scores.keys() == result.baseline.keys()
    if task in ("text-classification", "token-classification"):  # what a model of this size learns in seconds
        assert result.scores[name] > result.baseline[name]
    assert {"README.md", "training.json", "mistakes.jsonl", "learning.png", "vocab.txt"} <= {
        p.name for p in out.iterdir()
    }
    assert not (out / "training").exists()
    losses = [row["loss"] for row in json.loads((out / "training.json").read_text())["log"] if "loss" in row]
    assert losses[-1] < losses[0], "what it is asked in training it must learn"
    inputs = {
        "text-classification": "a fine hour",
        "token-classification": "the hour is fine",
        "question-answering": {"question": "what was fine?", "context": "the hour was fine."},
        "multiple-choice": CHOICES[0],
        "fill-mask": "the [MASK] was fine.",
    }
    assert pipeline(task, out)(inputs[task])
    assert finetune(str(start), ROWS[task], task, out, **QUICK).scores == result.scores  # at once, from the file


@pytest.mark.parametrize(("names", "tagging"), [({}, "entities"), ({"B-day": "NOUN", "O": "X"}, "words")])
def test_a_tagger_says_what_it_tags(tmp_path, start, names, tagging):
    rows = [row | {"tags": [names.get(tag, tag) for tag in row["tags"]]} for row in TAGS]
    finetune(str(start), rows, "token-classification", tmp_path / "model", **QUICK | {"epochs": 1})
    tag = pipeline("token-classification", tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["tagging"] == tagging
    keys = {key for row in tag("the day is fine", ignore_labels=()) for key in row}
    assert ("entity_group" in keys) == (tagging == "entities")


def test_the_same_folder_is_not_given_to_another_run(tmp_path, start):
    finetune(str(start), TEXTS, "text-classification", tmp_path / "model", **QUICK | {"epochs": 1})
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="holds another run .*epochs: 1 there, 2 here"):
        finetune(str(start), TEXTS, "text-classification", tmp_path / "model", **QUICK | {"epochs": 2})
    with pytest.raises(ValueError, match="holds a model that this run did not make"):
        finetune(str(start), TEXTS, "text-classification", start, **QUICK)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


SCRIPT = textwrap.dedent(
    """
    import json, os, pathlib, sys, torch
    torch.set_num_threads(1)
    from convbert.training import examples
    from convbert.training.finetuning import finetune

    plain = examples.ExampleBatches.__call__

    def tell(self, step):
        print(step, flush=True)  # tells the test how far this process is
        return plain(self, step)

    examples.ExampleBatches.__call__ = tell
    start, out, rows, options = json.loads(sys.argv[1])
    pathlib.Path(out).parent.joinpath("rank-" + os.environ.get("RANK", "alone")).touch()
    finetune(start, rows, "token-classification", out, **options)
    """
)


def tuned(start, out, *launcher, **changes):
    options = QUICK | {"epochs": 3, "batch_size": 6, "dropout": 0.1} | changes
    argument = json.dumps([str(start), str(out), TAGS, options])
    if not launcher:
        return Process(SCRIPT, argument, folder=out.parent / "said")
    command = [sys.executable, *launcher, argument]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def weights_of(folder):
    from convbert.weights import read_state

    return {name: tensor.clone() for name, tensor in read_state(folder).items()}


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights(tmp_path, start):
    whole = tuned(start, tmp_path / "whole")
    _, said = whole.communicate(timeout=300)
    assert whole.returncode == 0, said
    killed = tuned(start, tmp_path / "parts")
    for line in killed.stdout:
        if line.strip() == "6":  # in the third epoch of four steps each
            killed.send_signal(signal.SIGKILL)
            break
    killed.communicate(timeout=300)
    assert not (tmp_path / "parts" / "config.json").exists()
    resumed = tuned(start, tmp_path / "parts")
    out, said = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, said
    assert int(out.split()[0]) >= 3, "the run must go on from its checkpoint, not start anew"
    a, b = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_with_the_same_batch(tmp_path, start):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", str(script)]
    same = dict(dropout=0.0, epochs=30, learning_rate=1e-3, precision="float32")
    done = [tuned(start, tmp_path / "one", **same), tuned(start, tmp_path / "two", *launch, **same)]
    for process in done:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said[-3000:]
    one, two = (json.loads((tmp_path / name / "training.json").read_text())["log"] for name in ("one", "two"))
    losses = [[row["loss"] for row in log if "loss" in row] for log in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) >= 5
    assert {p.name for p in tmp_path.glob("rank-*")} == {"rank-alone", "rank-0", "rank-1"}
    a, b = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(dataset=[]), "the list is empty"),
        (dict(dataset=TEXTS[:5]), "too few"),
        (dict(dataset="nowhere.csv"), "no such file: nowhere.csv"),
        (dict(dataset=[{"txt": "a", "label": 1}] * 30), "needs the column 'text'"),
        (dict(task="text-clasification"), "Did you mean 'text-classification'"),
        (dict(task="feature-extraction"), "no task 'feature-extraction' to train for"),
        (dict(evaluation=[{"text": "a", "label": "ugly"}]), "label 'ugly' is not one of 'bad', 'good'"),
        (dict(labels=["bad"]), "label 'good' is not one of 'bad'"),
        (dict(columns={"txt": "text"}), "Did you mean 'text'"),
        (dict(epochs=0), "epochs=0 must be positive"),
        (dict(learning_rate=-1.0), "learning_rate=-1.0 must be positive"),
        (dict(watch="accuracyy"), "accuracyy"),
        (dict(model="convbert-tny"), "Did you mean 'convbert-tiny'"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is_written(tmp_path, start, change, words):
    call = dict(model=str(start), dataset=TEXTS, task="text-classification", folder=tmp_path / "model")
    options = {k: v for k, v in QUICK.items() if k not in change}
    with pytest.raises((ValueError, FileNotFoundError), match=words.replace("(", r"\(")):
        finetune(**call | change, **options)
    assert not list(tmp_path.glob("**/*.safetensors"))


def test_an_unknown_option_is_met_with_the_near_one(tmp_path, start):
    with pytest.raises(TypeError, match="Did you mean 'epochs'"):
        finetune(str(start), TEXTS, "text-classification", tmp_path, epoch=3)


def test_a_model_of_the_callers_own(tmp_path, start):
    config = ConvBertConfig.from_pretrained(start)
    with pytest.raises(ValueError, match="pass tokenizer="):
        finetune(ConvBertForSequenceClassification(config), TEXTS, "text-classification", tmp_path / "a")
    with pytest.raises(ValueError, match="num_labels=3, and the rows have 2 labels"):
        model = ConvBertForSequenceClassification(config.replace(num_labels=3))
        finetune(model, TEXTS, "text-classification", tmp_path / "a", tokenizer=str(start))
    model = ConvBertForSequenceClassification(config)
    finetune(model, TEXTS, "text-classification", tmp_path / "b", tokenizer=str(start), **QUICK | {"epochs": 1})
    assert pipeline("text-classification", tmp_path / "b")("a fine day")["label"] in ("good", "bad")


def test_a_length_beyond_the_tokenizers_own_is_said(tmp_path, start):
    with pytest.warns(UserWarning, match="max_length=100 is more than the model and its tokenizer take: 64 is used"):
        finetune(str(start), TEXTS, "text-classification", tmp_path, **QUICK | {"epochs": 1, "max_length": 100})


def test_numbers_and_several_labels(tmp_path, start):
    numbers = [{"text": row["text"], "label": float(row["label"] == "good")} for row in TEXTS]
    result = finetune(str(start), numbers, "text-classification", tmp_path / "number", **QUICK)
    assert set(result.scores) == {"spearman", "pearson"}
    assert list(pipeline("text-classification", tmp_path / "number")("a fine day")) == ["label", "score"]
    several = [{"text": row["text"], "label": [row["label"], "day"]} for row in TEXTS]
    result = finetune(str(start), several, "text-classification", tmp_path / "several", **QUICK)
    assert set(result.scores) == {"micro_f1"}
    answers = pipeline("text-classification", tmp_path / "several")("a fine day", top_k=None)
    assert {row["label"] for row in answers} == {"good", "bad", "day"}


TOKENIZER = ConvBertTokenizerFast.from_pretrained("convbert-tiny")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=30), st.integers(8, 40))
def test_every_word_with_a_token_is_asked_for_once(words, length):
    labels = Labels(tuple(map(str, range(len(words)))))
    batch = {"tokens": [words], "tags": [list(range(len(words)))]}
    examples = encode_tags(batch, Preprocessing(TOKENIZER, labels, max_length=length))
    asked = [label for row in examples["labels"] for label in row if label != -100]
    whole = TOKENIZER(words, is_split_into_words=True, verbose=False).encodings[0]
    assert asked == sorted({word for word in whole.word_ids if word is not None})


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from("Ada wrote the first programme in Genoa's café 1843 !".split()), min_size=1, max_size=60),
    st.data(),
)
def test_the_marked_tokens_are_the_answer(words, data):
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, min(first + 3, len(words) - 1)))
    context, start = " ".join(words), len(" ".join(words[:first])) + (first > 0)
    answer = " ".join(words[first : last + 1])
    assume(answer)
    batch = {"question": ["who?"], "context": [context], "answers": [{"text": [answer], "answer_start": [start]}]}
    found = encode_questions(batch, Preprocessing(TOKENIZER, max_length=40, stride=12))
    marked = [
        ids[a : b + 1]
        for ids, a, b in zip(found["input_ids"], found["start_positions"], found["end_positions"], strict=True)
        if b > 0
    ]
    expected = TOKENIZER(answer, add_special_tokens=False)["input_ids"]
    assert marked and all(ids == expected for ids in marked)


def test_rows_of_every_kind_are_read(tmp_path):
    rows = [{"text": "A fine day.", "label": "good"}, {"text": "It rains.", "label": "bad"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.csv").write_text("text,label\nA fine day.,good\nIt rains.,bad\n")
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    for source in (tmp_path / "a.jsonl", str(tmp_path / "a.csv"), [tmp_path / "a.parquet"], rows, iter(rows)):
        assert list(load_rows(source)) == rows
    both = datasets.DatasetDict(train=datasets.Dataset.from_list(rows))
    assert list(load_rows(both)) == rows
    with pytest.raises(ValueError, match="no split 'test'"):
        load_rows(both, "test")
    both["validation"] = datasets.Dataset.from_list(rows[:1])
    evaluation = load_task_data("text-classification", both).evaluation
    assert list(evaluation) == rows[:1], "a data set's own split is evaluated on"
    renamed = choose_columns(
        load_rows([{"sentence": "a", "text": "b", "label": 0}]), "text-classification", {"text": "sentence"}
    )
    assert list(renamed) == [{"text": "a", "label": 0}]


def test_the_numbers_of_a_recipe_follow_the_rows():
    recipe = to_recipe(Tuning(epochs=3, warmup=0.1, evaluate_every=0.5), per_epoch=100, watch="accuracy")
    assert (recipe.steps, recipe.warmup, recipe.evaluate_every) == (300, 30, 50)
    assert to_recipe(Tuning(epochs=0.1), per_epoch=5, watch="accuracy").steps == 1


def test_a_folder_of_the_users_own_is_left_alone(tmp_path, start):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "rows.jsonl").write_text("\n".join(map(json.dumps, TEXTS)))
    rows = str(tmp_path / "training" / "rows.jsonl")
    finetune(str(start), rows, "text-classification", tmp_path, **QUICK | {"epochs": 1})
    assert (tmp_path / "training" / "rows.jsonl").exists() and (tmp_path / "config.json").exists()
    assert {p.name for p in (tmp_path / "training").iterdir()} == {"rows.jsonl"}


def test_what_cannot_be_judged_is_said_before_training(tmp_path, start):
    for change, words in (
        (dict(metrics=["acuracy"]), "Did you mean 'accuracy'"),
        (dict(metrics=["entity_f1"]), "entity_f1 needs"),
        (dict(watch="mc"), "Did you mean 'mcc'"),
    ):
        with pytest.raises(ValueError, match=words):
            finetune(str(start), TEXTS, "text-classification", tmp_path / "m", **QUICK | change)
        assert not (tmp_path / "m").exists()


def test_the_best_perplexity_is_the_lowest(tmp_path, start):
    result = finetune(str(start), ROWS["fill-mask"], "fill-mask", tmp_path, watch="perplexity", **QUICK)
    log = json.loads((tmp_path / "training.json").read_text())["log"]
    seen = [row["perplexity"] for row in log if "perplexity" in row and "step" in row]
    assert len(set(seen)) > 1 and result.scores["perplexity"] == pytest.approx(min(seen), rel=1e-4)


def test_rows_about_the_same_text_stay_on_one_side(tmp_path):
    rows = [{**row, "context": row["context"] + str(i % 12)} for i, row in enumerate(QUESTIONS * 4)]
    work = load_task_data("question-answering", rows)
    assert not set(work.train["context"]) & set(work.evaluation["context"])
    alternating = [{"text": f"text {i}", "label": ("good", "bad")[i % 2]} for i in range(400)]
    work = load_task_data("text-classification", alternating)
    assert 0.05 < len(work.evaluation) / 400 < 0.2 and set(work.evaluation["label"]) == {"good", "bad"}


def test_an_answer_that_does_not_stand_where_it_is_said_to_is_refused(tmp_path, start):
    wrong = [{**row, "answers": {"text": row["answers"]["text"], "answer_start": [5]}} for row in QUESTIONS]
    with pytest.raises(ValueError, match="answer_start counts characters"):
        finetune(str(start), wrong, "question-answering", tmp_path / "m", **QUICK)


def test_texts_that_are_cut_in_training_are_counted(tmp_path, start):
    rows = [{**row, "text": row["text"] + " day" * (60 if i % 5 == 0 else 0)} for i, row in enumerate(TEXTS)]
    with pytest.warns(UserWarning, match="longer than max_length=32 and were cut"):
        finetune(str(start), rows, "text-classification", tmp_path / "m", **QUICK | {"epochs": 1})


def test_another_model_in_memory_is_another_run(tmp_path, start):
    def call(seed):
        torch.manual_seed(seed)
        model = ConvBertForSequenceClassification(ConvBertConfig.from_pretrained(start))
        return finetune(
            model, TEXTS, "text-classification", tmp_path / "m", tokenizer=str(start), **QUICK | {"epochs": 1}
        )

    assert call(0).scores == call(0).scores
    with pytest.raises(ValueError, match="holds another run .*base"):
        call(1)
