"""Pipelines in Keras and Flax: the answers of PyTorch, few shapes, no PyTorch needed, clear refusals."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from convbert import (
    AlbertConfig,
    AutoTokenizer,
    ConvBertConfig,
    ConvBertTokenizerFast,
    DistilBertConfig,
    DistilBertTokenizerFast,
    pipeline,
)
from convbert.auto import model_for
from convbert.pipelines.tasks import DEFAULT_MODELS
from convbert.visualize.encoded_text import load_model

FRAMEWORKS = "tf", "flax"
LONG = "The ship sailed at dawn and the court fined the bank of London . " * 6
TEXTS = ["Good.", LONG, {"text": "It rains.", "text_pair": "It is wet."}]
MASKED = ["The [MASK] is blue.", "He went to [MASK] and [MASK] , and she opened the [MASK] of the old house."]
TAGGED = ["Ada slept.", LONG, "", "The harbour of New York is large ."]
CHOSEN = {"context": LONG, "question": "Who was fined?", "choices": ["The ship.", "The bank of London."]}
ASKED = {"question": "Who sailed?", "context": LONG}
CASES = {  # task: inputs, and options of the call
    "fill-mask": (MASKED, {"top_k": 3}),
    "text-classification": (TEXTS, {"top_k": None, "stride": 8}),
    "token-classification": (TAGGED, {"aggregation_strategy": "average", "ignore_labels": ()}),
    "question-answering": (
        [ASKED, {**ASKED, "context": "Ada sailed."}],
        {"top_k": 4, "handle_impossible_answer": True},
    ),
    "multiple-choice": ([CHOSEN, {"question": "It is", "choices": ["so.", "not.", "wet."]}], {"top_k": None}),
    "feature-extraction": (TEXTS, {"pooling": "mean", "normalize": True, "stride": 8}),
}
SIZES = dict(num_hidden_layers=1, hidden_size=32, intermediate_size=64, num_attention_heads=2, vocab_size=8192)
pytestmark = pytest.mark.filterwarnings("ignore:.*too long for the model", "ignore:.*tokens were read")


def same(ours, theirs):
    """Whether two answers are equal, numbers to 1e-4."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        ours, theirs = list(ours.values()), list(theirs.values())
    if isinstance(ours, list):
        assert len(ours) == len(theirs)
        return all(same(a, b) for a, b in zip(ours, theirs, strict=True))
    return ours == pytest.approx(theirs, abs=1e-4) if isinstance(ours, float) else ours == theirs


def short(name, limit=48):
    """The tokenizer of a model, and fewer tokens than the model takes."""
    return AutoTokenizer.from_pretrained(name, model_max_length=limit)


def saved(folder, config, task):
    """A folder with random weights."""
    torch.manual_seed(0)
    model_for(task, config)(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("task", CASES)
def test_answers_are_those_of_torch(task, framework, tmp_path):
    (inputs, options), name = CASES[task], DEFAULT_MODELS[task]
    if framework == "flax" and task not in ("fill-mask", "question-answering"):  # XLA compiles each for seconds
        name = saved(tmp_path / "small", ConvBertConfig(**SIZES, embedding_size=32, num_labels=5), task)
    tokenizer = short("convbert-tiny")
    theirs, ours = (pipeline(task, name, tokenizer=tokenizer, framework=each) for each in ("pt", framework))
    found, wanted = ours(inputs, **options), theirs(inputs, **options)
    assert same(found, wanted)
    assert [type(answer) for answer in (found, *found)] == [type(answer) for answer in (wanted, *wanted)]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder of a small classifier, with its tokenizer."""
    config = ConvBertConfig(**SIZES, embedding_size=32, num_labels=3)
    folder = saved(tmp_path_factory.mktemp("small"), config, "text-classification")
    short("convbert-tiny").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_one_text_and_a_stream(small, framework):
    theirs, ours = (pipeline("text-classification", small, framework=each) for each in ("pt", framework))
    texts = ["Good.", "Bad. " * 9]
    assert same(ours(texts[0]), theirs(texts[0]))
    with pytest.warns(UserWarning, match="1 input could not be answered"):
        stream = list(ours(iter([*texts, None]), batch_size=1))
    assert same(stream[:2], theirs(texts)) and "expected a text" in stream[2]["error"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("kind", ["legacy", "albert", "distilbert", "entailment"])
def test_other_models(kind, framework, tmp_path):
    names = {0: "contradiction", 1: "neutral", 2: "entailment"}
    config, task, call = {
        "legacy": (
            ConvBertConfig(**SIZES, conv_padding="legacy", embedding_size=32, num_labels=5),
            "token-classification",
            lambda tag: tag(["Ada slept.", "The harbour of New York is large ."]),
        ),
        "albert": (AlbertConfig(**SIZES), "text-classification", lambda classify: classify(TEXTS)),
        "distilbert": (DistilBertConfig(**SIZES), "question-answering", lambda ask: ask(**ASKED)),
        "entailment": (
            ConvBertConfig(**SIZES, embedding_size=32, id2label=names),
            "zero-shot-classification",
            lambda classify: classify(["The ship sailed.", "Rain."], ["travel", "law", "food"]),
        ),
    }[kind]
    folder = saved(tmp_path / kind, config, task)
    kind = DistilBertTokenizerFast if kind == "distilbert" else ConvBertTokenizerFast
    tokenizer = kind.from_pretrained("convbert-tiny", model_max_length=48)
    theirs, ours = (call(pipeline(task, folder, tokenizer=tokenizer, framework=each)) for each in ("pt", framework))
    assert same(ours, theirs)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_loaded_model_has_its_framework_and_few_shapes(small, framework):
    base = model_for("text-classification", "convbert", framework)
    traces = []

    class Traced(base):
        def encode(self, *args, **inputs):
            traces.append(args)
            return super().encode(*args, **inputs)

    classify = pipeline("text-classification", Traced.from_pretrained(small), tokenizer=small)
    texts = ["Good" + " film" * n for n in range(1, 13)]
    answers = [classify(texts[0])]
    seen = len(traces)
    answers += [classify(text) for text in texts[1:]]
    assert len(traces) == seen > 0
    assert same(answers, pipeline("text-classification", small)(texts))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_tensors_of_features(small, framework):
    features = pipeline("feature-extraction", small, framework=framework)
    found = features("Rain.", return_tensors=True)
    assert type(found).__module__.partition(".")[0] == {"tf": "tensorflow", "flax": "jaxlib"}[framework]
    assert np.asarray(found).tolist() == features("Rain.")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_pickles_and_copies(small, framework):
    classify = pipeline("text-classification", small, framework=framework, top_k=None)
    sent = pickle.dumps(classify)
    assert len(sent) < 4000
    assert repr(pickle.loads(sent)) == repr(classify) and "million parameters\n  from: " in repr(classify)
    answer = classify("A fine day.")
    assert pickle.loads(sent)("A fine day.") == answer == copy.copy(classify)("A fine day.")
    twin = copy.deepcopy(classify)
    assert twin.model is not classify.model and twin("A fine day.") == answer


WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {libraries}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


def run_without(libraries, code):
    """What a program prints where some libraries cannot be imported."""
    program = WITHOUT.format(libraries=libraries) + code
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_no_torch_is_needed(small, framework):
    code = f"""
from convbert import pipeline
print(pipeline("text-classification", {str(small)!r}, framework={framework!r})("Bad.")["label"], "torch" in sys.modules)
try:
    pipeline("text-classification")
except ImportError as error:
    print(error)
"""
    label = pipeline("text-classification", small)("Bad.")["label"]
    assert run_without(["torch"], code) == f"{label} False\ntorch is missing: pip install torch\n"


def test_a_missing_library_is_named_with_its_command():
    code = """
from convbert import AutoTokenizer, pipeline
tokenizer = AutoTokenizer.from_pretrained("convbert-tiny")
for call in (
    lambda: pipeline("fill-mask", framework="tf"),
    lambda: pipeline("fill-mask", framework="flax"),
    lambda: tokenizer("ship", return_tensors="tf"),
    lambda: tokenizer.pad([{"input_ids": [2, 3]}], return_tensors="jax"),
):
    try:
        call()
    except ImportError as error:
        print(error)
"""
    said = run_without(["keras", "tensorflow", "jax", "flax"], code).splitlines()
    assert [line.rpartition(": ")[2] for line in said] == [f'pip install "convbert[{e}]"' for e in ("tf", "flax") * 2]
    assert [line.partition(" ")[0] for line in said] == ["keras", "flax", "tensorflow", "jax"]


def test_what_does_not_fit_is_refused():
    fill = pipeline("fill-mask", framework="tf")
    with pytest.raises(ValueError, match="framework='keras' is unknown. Did you mean 'tf'. Choose from 'pt'.*'flax'"):
        pipeline("fill-mask", framework="keras")
    with pytest.raises(TypeError, match="device='cuda:0' is not taken with Keras: "):
        pipeline("fill-mask", framework="tf", device="cuda:0")
    with pytest.raises(TypeError, match="device=0 is not taken with Flax: "):
        pipeline("fill-mask", framework="flax", device=0)
    with pytest.raises(TypeError, match="a TFConvBertForMaskedLM of Keras: leave framework out"):
        pipeline("fill-mask", fill.model, tokenizer=fill.tokenizer, framework="flax")
    with pytest.raises(TypeError, match="needs a TFConvBertForSequenceClassification, got a TFConvBertForMaskedLM"):
        pipeline("text-classification", fill.model, tokenizer=fill.tokenizer)
    with pytest.raises(ValueError, match="pass tokenizer="):
        pipeline("fill-mask", fill.model)
    with pytest.raises(TypeError, match="views read PyTorch models, and this TFConvBertForMaskedLM is of Keras"):
        load_model(fill)


@pytest.mark.parametrize("kind", ["tf", "jax"])
def test_tokenizers_make_tensors(kind, recwarn):
    tokenizer = AutoTokenizer.from_pretrained("convbert-tiny")
    texts = ["A ship.", "It rained for a week."]
    wanted = tokenizer(texts, padding=True, return_tensors="np")
    lists = tokenizer(texts)
    for found in (
        tokenizer(texts, padding=True, return_tensors=kind),
        tokenizer.pad(lists, return_tensors=kind),
        tokenizer(texts, padding=True).convert_to_tensors(kind),
    ):
        assert {str(np.asarray(x).dtype) for x in found.values()} == {"int32"} and found.keys() == wanted.keys()
        assert all((np.asarray(found[name]) == wanted[name]).all() for name in wanted)
    assert not [str(said.message) for said in recwarn if "64" in str(said.message)]
