"""Feature extraction: equal to transformers on the same weights; own tokens only, pooling, long texts, bad input."""

import json
import warnings

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from convbert.families.convbert import ConvBertConfig
from convbert.modeling import ConvBertModel
from convbert.pipelines.batches import EncodedInput
from convbert.pipelines.features import FeatureExtractionPipeline, Features, pool_window
from convbert.pipelines.preprocessing import plan_windows
from convbert.tokenizers.classes import ConvBertTokenizerFast

D = 32
TEXTS = [
    "The ship sailed at dawn.",
    "Soup.",
    "",
    "😀 café\r\nnaïve",
    "a " * 60,
    "A captain's word, and no more than that.",
]


@pytest.fixture(scope="module")
def features():
    torch.manual_seed(0)
    sizes = dict(hidden_size=D, embedding_size=D, num_attention_heads=4, intermediate_size=64)
    config = ConvBertConfig.preset("tiny", num_hidden_layers=2, initializer_range=0.2, **sizes)
    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    return FeatureExtractionPipeline(ConvBertModel(config), tokenizer)


def states_alone(features, text: str) -> torch.Tensor:
    """The model's own last layer for one text, `(T, D)`."""
    ids = features.tokenizer(text, verbose=False)["input_ids"]
    with torch.inference_mode():
        return features.model(torch.tensor([ids])).last_hidden_state[0]


def test_features_equal_the_transformers_pipeline(features, tmp_path):
    transformers = pytest.importorskip("transformers")
    features.model.save_pretrained(tmp_path)
    features.tokenizer.save_pretrained(tmp_path)
    theirs = transformers.pipeline("feature-extraction", str(tmp_path), device="cpu")
    for text in filter(None, TEXTS):
        got, expected = features(text), theirs(text)[0]  # theirs has a batch of one around it
        assert len(got) == len(expected) and len(got[0]) == D
        assert_close(torch.tensor(got), torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("limits", [dict(), dict(batch_size=1), dict(batch_size=2), dict(batch_tokens=50)])
def test_a_text_has_its_own_tokens_only_whatever_it_shares_a_batch_with(features, limits):
    for got, text in zip(features(TEXTS, **limits), TEXTS, strict=True):
        assert len(got) == len(features.tokenizer(text)["input_ids"])
        assert_close(torch.tensor(got), states_alone(features, text), atol=1e-5, rtol=0)


def test_pooling(features):
    for text, first, mean in zip(TEXTS, features(TEXTS, pooling="cls"), features(TEXTS, pooling="mean"), strict=True):
        states = states_alone(features, text)
        assert len(first) == len(mean) == D
        assert_close(torch.tensor(first), states[0], atol=1e-5, rtol=0)
        assert_close(torch.tensor(mean), states.mean(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", [None, "cls", "mean"])
def test_normalized_vectors_have_length_one_and_the_same_direction(features, pooling):
    options = dict(pooling=pooling, return_tensors=True)
    for plain, unit in zip(features(TEXTS, **options), features(TEXTS, normalize=True, **options), strict=True):
        assert_close(unit.norm(dim=-1), torch.ones(unit.shape[:-1]))
        assert_close(unit * plain.norm(dim=-1, keepdim=True), plain, atol=1e-5, rtol=1e-5)


def test_forms_and_types(features):
    one = features(TEXTS[0])
    assert isinstance(one, list) and type(one[0]) is list and type(one[0][0]) is float
    assert json.loads(json.dumps(one)) == one
    assert repr(one).startswith(f"Features of shape ({len(one)}, {len(one[0])}): [[") and len(repr(one)) < 500
    assert repr(Features([[1.0, 2.0], [3.0]])) == "[[1.0, 2.0], [3.0]]"
    assert features([TEXTS[0]]) == [one] == list(features(iter([TEXTS[0]])))
    assert type(features([TEXTS[0]])) is list
    tensor = features(TEXTS[0], return_tensors=True)
    assert isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu" and tensor.tolist() == one
    assert type(features(TEXTS[0], pooling="mean")[0]) is float
    assert features({"text": TEXTS[0], "label": 1}) == one


def test_no_vector_holds_the_padded_batch_in_memory(features):
    for pooling in (None, "cls", "mean"):
        for tensor in features(TEXTS, pooling=pooling, return_tensors=True):
            assert tensor.untyped_storage().nbytes() == tensor.numel() * 4
        batch, row = np.ones((64, 300, 8)), EncodedInput([2, 7, 3], metadata=slice(0, 3))
        assert pool_window(batch[5], row, pooling).base is None


def test_a_pair_is_read_as_a_pair(features):
    pair = {"text": "It rains.", "text_pair": "It is wet outside."}
    batch = features.tokenizer(pair["text"], pair["text_pair"])
    with torch.inference_mode():
        tensors = {name: torch.tensor([batch[name]]) for name in ("input_ids", "token_type_ids")}
        expected = features.model(**tensors).last_hidden_state[0]
    assert_close(features(pair, return_tensors=True), expected, atol=1e-5, rtol=0)
    assert_close(features(pair, return_tensors=True, stride=8), expected, atol=1e-5, rtol=0)


def test_a_long_text_is_cut_and_that_is_said_once(features):
    long = "the ship sailed " * 400
    with pytest.warns(UserWarning, match="2 inputs? were too long .*1602 tokens.*pass stride=64") as said:
        got = features([long, TEXTS[0], long], return_tensors=True)
    assert len(said) == 1 and [len(states) for states in got] == [512, len(features(TEXTS[0])), 512]
    cut = features.tokenizer(long, truncation=True, max_length=512)["input_ids"]
    with torch.inference_mode():
        assert_close(got[0], features.model(torch.tensor([cut])).last_hidden_state[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("stride", [0, 1, 64, 400, 500])
def test_with_a_stride_every_token_of_a_long_text_is_there_once(features, stride):
    words = " ".join("rain bread war sea ship man".split()[i % 6] for i in range(1100))
    ids = features.tokenizer(words, verbose=False)["input_ids"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing was cut
        states = features(words, stride=stride, return_tensors=True)
    assert len(states) == len(ids)
    # each token's vector is that of a row of 510 tokens of text around it
    checked = 0
    for start, end, first, last in plan_windows(len(ids) - 2, 510, stride)[::50]:
        row = [ids[0], *ids[start + 1 : end + 1], ids[-1]]
        with torch.inference_mode():
            expected = features.model(torch.tensor([row])).last_hidden_state[0]
        assert_close(states[first + 1 : last + 1], expected[first - start + 1 : last - start + 1], atol=1e-5, rtol=0)
        checked += last - first
    assert checked


def test_pooling_over_a_long_text(features):
    words = " ".join("rain bread war sea ship man".split()[i % 6] for i in range(1100))
    states = features(words, stride=64, return_tensors=True)
    mean = features([TEXTS[0], words], stride=64, pooling="mean", return_tensors=True)
    assert_close(mean[1], states.mean(0), atol=1e-5, rtol=0)
    assert_close(mean[0], states_alone(features, TEXTS[0]).mean(0), atol=1e-5, rtol=0)
    ids = features.tokenizer(words, verbose=False)["input_ids"]
    rows = [[ids[0], *ids[a + 1 : b + 1], ids[-1]] for a, b, *_ in plan_windows(len(ids) - 2, 510, 64)]
    with torch.inference_mode():
        firsts = [features.model(torch.tensor([row])).last_hidden_state[0, 0] * len(row) for row in rows]
    expected = torch.stack(firsts).sum(0) / sum(map(len, rows))
    assert_close(features(words, stride=64, pooling="cls", return_tensors=True), expected, atol=1e-5, rtol=0)


def test_what_cannot_be_done_is_said(features):
    with pytest.raises(ValueError, match="pooling='maen' is unknown.*Did you mean 'mean'"):
        features("a", pooling="maen")
    for stride in (-1, 510, "a"):
        with pytest.raises(ValueError, match="stride="):
            features("a", stride=stride)
    with pytest.raises(ValueError, match="a pair of .* tokens cannot be read with a stride"):
        features({"text": "a " * 600, "text_pair": "b"}, stride=8)
    with pytest.raises(TypeError, match=r"inputs\[1\]: expected a text"):
        features(["a", None])
    with pytest.raises(ValueError, match="the list of inputs is empty"):
        features([])


def test_poison_in_a_stream_costs_one_answer_each(features):
    inputs = [TEXTS[0], None, "\ud800", "x" * 2**20, "word " * 2000, 3, TEXTS[0]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = list(features(iter(inputs), pooling="mean"))
    assert [isinstance(row, dict) and set(row) == {"error"} for row in results] == [
        False,
        True,
        *[False] * 3,
        True,
        False,
    ]
    assert_close(torch.tensor(results[0]), torch.tensor(results[-1]), atol=1e-5, rtol=0)
