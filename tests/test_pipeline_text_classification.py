"""Labels of texts: the same as transformers', in any batch, from a stream that does not end, with poison in it."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from functools import partial

import pytest
import torch

from convbert import ConvBertForSequenceClassification, pipeline
from convbert.families.convbert import ConvBertConfig
from convbert.pipelines.preprocessing import encode_texts

TEXTS = ["A fine day.", "It rains, and nobody minds.", "", "🤖 café\r\n", "one two three four five six seven " * 12]
PAIR = {"text": "It rains.", "text_pair": "The street is wet."}


def make(**config):
    """A small classifier whose logits vary."""
    torch.manual_seed(0)
    sizes = dict(num_hidden_layers=2, hidden_size=32, embedding_size=16, intermediate_size=64, initializer_range=0.4)
    return ConvBertForSequenceClassification(ConvBertConfig.preset("tiny", **sizes, **config)).eval()


@pytest.fixture(scope="module")
def classify(tokenizer):
    return pipeline("text-classification", make(num_labels=5), tokenizer=tokenizer)


@pytest.mark.parametrize(
    "config",
    [
        dict(num_labels=3),
        dict(id2label={0: "bad", 1: "good"}),
        dict(num_labels=4, problem_type="multi_label_classification"),
        dict(num_labels=1, problem_type="regression"),
        dict(num_labels=1),
    ],
    ids=["three", "named", "several", "number", "one"],
)
@pytest.mark.parametrize("function", [None, "softmax", "sigmoid", "none"])
def test_answers_equal_those_of_transformers(tmp_path, tokenizer, config, function):
    transformers = pytest.importorskip("transformers")
    model = make(**config)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    theirs = transformers.pipeline("text-classification", str(tmp_path), device="cpu")
    ours = pipeline("text-classification", str(tmp_path), device="cpu")
    options = {} if function is None else {"function_to_apply": function}
    for text in [text for text in TEXTS if text] + [PAIR]:
        expected = theirs(text, top_k=None, **options)
        got = ours(text, top_k=None, **options)
        assert [row["label"] for row in got] == [row["label"] for row in expected]
        assert [row["score"] for row in got] == pytest.approx([row["score"] for row in expected], abs=1e-5)


def test_one_text_one_answer_a_list_a_list(classify):
    one = classify(TEXTS[0])
    assert sorted(one) == ["label", "score"] and classify([TEXTS[0]]) == [one]
    assert classify(TEXTS[0], top_k=1) == [one] and classify([TEXTS[0]], top_k=1) == [[one]]
    assert json.loads(json.dumps(classify([*TEXTS, PAIR], top_k=None))) == classify([*TEXTS, PAIR], top_k=None)
    assert list(classify(iter(TEXTS))) == classify(TEXTS)


@pytest.mark.parametrize("limits", [dict(batch_size=1), dict(batch_size=2), dict(batch_tokens=1), {}])
def test_how_texts_are_batched_does_not_matter(classify, limits):
    for text, got in zip(TEXTS, classify(TEXTS, top_k=None, **limits), strict=True):
        alone = classify(text, top_k=None)
        assert [row["label"] for row in got] == [row["label"] for row in alone]
        assert [row["score"] for row in got] == pytest.approx([row["score"] for row in alone], abs=1e-5)


def test_a_long_text_is_cut_and_that_is_said_or_read_whole(classify):
    start = "word " * 510
    with pytest.warns(UserWarning, match="1 input was too long for the model .the longest has 1002 tokens.*stride=64"):
        cut = classify(["word " * 1000, "short"])
    assert cut[0]["score"] == pytest.approx(classify(start)["score"], abs=1e-5)
    whole = classify(start + "zebra " * 300, stride=64, function_to_apply="none", top_k=None)
    rows = encode_texts([start + "zebra " * 300], classify.tokenizer, 512, stride=64)[0]
    assert len(rows) > 1 and {len(row.input_ids) for row in rows} == {512}
    with torch.inference_mode():
        logits = torch.cat([classify.model(torch.tensor([row.ids])).logits for row in rows]).mean(0)
    expected = dict(zip(classify.model.config.id2label.values(), logits.tolist(), strict=True))
    assert {row["label"]: row["score"] for row in whole} == pytest.approx(expected, abs=1e-5)


POISON = ["", " ", "\ud800", "🤖" * 50, "\x00\x07", "a" * 1_000_000, "word " * 200_000, "[MASK] [SEP] [CLS]", "\r\n"]


@pytest.mark.filterwarnings("ignore:.*too long")
def test_poison_neither_stops_a_run_nor_changes_its_neighbours(classify):
    mixed = [text for poison in POISON for text in ("A fine day.", poison)]
    alone = classify("A fine day.")
    answers = list(classify(iter([*mixed, None, 7, "A fine day."])))
    assert len(answers) == len(mixed) + 3
    for good in (*answers[0 : len(mixed) : 2], answers[-1]):
        assert good["label"] == alone["label"] and good["score"] == pytest.approx(alone["score"], abs=1e-5)
    assert all("label" in answer for answer in answers[: len(mixed)])
    assert ["error" in answer for answer in answers[-3:]] == [True, True, False]


STREAM = textwrap.dedent(
    """
    import ctypes, gc, resource, sys
    import torch
    torch.set_num_threads(1)
    from convbert import ConvBertForSequenceClassification, ConvBertTokenizerFast, pipeline
    from convbert.families.convbert import ConvBertConfig

    sizes = dict(num_hidden_layers=1, hidden_size=16, embedding_size=8, intermediate_size=16, num_attention_heads=2)
    model = ConvBertForSequenceClassification(ConvBertConfig.preset("tiny", **sizes))
    classify = pipeline("text-classification", model, tokenizer=ConvBertTokenizerFast.from_pretrained("convbert-tiny"))

    def resident():
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:  # what malloc holds in reserve swings by more than what is looked for
            trim(0)
        return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

    def texts():
        for i in range(100_000):
            yield None if i % 500 == 0 else f"text number {i} is short"

    for i, answer in enumerate(classify(texts())):
        if i == 20_000:
            early = resident()
            print("running", flush=True)
    print(i + 1, resident() - early)
    """
)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads memory from /proc")
def test_a_hundred_thousand_texts_need_no_more_memory_than_twenty_thousand():
    done = subprocess.run([sys.executable, "-c", STREAM], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    count, grown = done.stdout.split()[1:]
    assert int(count) == 100_000 and float(grown) < 8, f"{grown} MiB more"


@pytest.mark.slow
def test_ctrl_c_ends_a_stream_at_once():
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job in the background is started deaf to it
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run = subprocess.Popen([sys.executable, "-c", STREAM], preexec_fn=heed, **pipes)
    assert run.stdout.readline() == "running\n"
    run.send_signal(signal.SIGINT)
    out, said = run.communicate(timeout=60)
    assert run.returncode != 0 and not out and "KeyboardInterrupt" in said.splitlines()[-1]
