"""The config as a file: both ways with transformers, unknown keys kept, broken files named."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbert.families.convbert import PRESETS, ConvBertConfig

FIELDS = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act hidden_dropout_prob "
    "attention_probs_dropout_prob max_position_embeddings type_vocab_size initializer_range layer_norm_eps "
    "embedding_size head_ratio conv_kernel_size num_groups classifier_dropout"
).split()


def test_defaults_are_those_of_transformers_but_for_the_padding_id():
    theirs = pytest.importorskip("transformers").ConvBertConfig()
    ours = ConvBertConfig()
    assert {name: getattr(ours, name) for name in FIELDS} == {name: getattr(theirs, name) for name in FIELDS}
    assert (ours.pad_token_id, theirs.pad_token_id) == (0, 1)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_config_goes_to_transformers_and_back(tmp_path, preset):
    transformers = pytest.importorskip("transformers")
    ours = ConvBertConfig.preset(preset, id2label={0: "no", 1: "yes", 2: "maybe"}, classifier_dropout=0.0)
    ours.save_pretrained(tmp_path / "ours")
    theirs = transformers.ConvBertConfig.from_pretrained(tmp_path / "ours")
    assert {name: getattr(ours, name) for name in FIELDS} == {name: getattr(theirs, name) for name in FIELDS}
    assert (theirs.pad_token_id, theirs.num_labels, theirs.id2label) == (0, 3, ours.id2label)
    theirs.save_pretrained(tmp_path / "theirs")
    again = ConvBertConfig.from_pretrained(tmp_path / "theirs")
    assert again.replace(extra={}) == ours


def test_a_value_in_a_loaded_file_wins_over_our_default(tmp_path):
    pytest.importorskip("transformers").ConvBertConfig().save_pretrained(tmp_path)
    assert ConvBertConfig.from_pretrained(tmp_path).pad_token_id == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1).map("their_".__add__), json_values, max_size=4))
def test_unknown_keys_survive_the_round_trip(unknown):
    config = ConvBertConfig.from_dict({"hidden_size": 96, **unknown})
    assert config.extra == unknown
    written = json.loads(json.dumps(config.to_dict()))
    assert {k: written[k] for k in unknown} == unknown
    assert ConvBertConfig.from_dict(written) == config


@settings(deadline=None, max_examples=200)
@given(
    heads=st.integers(1, 16),
    ratio=st.integers(1, 8),
    size=st.integers(1, 96),
    kernel=st.integers(1, 12),
    groups=st.integers(1, 4),
)
def test_what_the_config_accepts_can_be_built(heads, ratio, size, kernel, groups):
    import torch

    from convbert.layers.encoder import Encoder

    try:
        config = ConvBertConfig(
            hidden_size=size,
            intermediate_size=2 * size,
            embedding_size=5,
            vocab_size=7,
            num_hidden_layers=1,
            num_attention_heads=heads,
            head_ratio=ratio,
            conv_kernel_size=kernel,
            num_groups=groups,
            max_position_embeddings=4,
        )
    except ValueError as error:
        assert any(name in str(error) for name in ("conv_kernel_size", "hidden_size", "num_groups"))
        return
    with torch.no_grad():
        assert Encoder(config).eval()(torch.tensor([[1, 2, 3]])).last_hidden_state.shape == (1, 3, size)


@pytest.mark.parametrize("text", ["", '{"hidden_size": 25', "[1, 2]", "\x00\x01", "null"])
def test_a_broken_file_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json"):
        ConvBertConfig.from_pretrained(tmp_path)


def test_a_folder_without_config_says_what_it_holds(tmp_path):
    (tmp_path / "weights.bin").touch()
    with pytest.raises(FileNotFoundError, match="no config.json.*weights.bin"):
        ConvBertConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (dict(conv_kernel_size=4), ValueError, "conv_kernel_size=4 must be odd"),
        (dict(vocab_size=0), ValueError, "vocab_size=0 must be at least 1"),
        (dict(hidden_size=7.5), TypeError, "hidden_size=7.5 must be a whole number"),
        (dict(num_groups=5), ValueError, "hidden_size=768 must divide by num_groups=5"),
        (dict(pad_token_id=30522), ValueError, "pad_token_id=30522"),
        (dict(hidden_dropout_prob=1.0), ValueError, "hidden_dropout_prob=1.0"),
        (dict(id2label={0: "a", 2: "b"}), ValueError, "without a gap"),
        (dict(conv_padding="zero"), ValueError, "conv_padding='zero'"),
    ],
)
def test_bad_values_are_named(changes, error, words):
    with pytest.raises(error) as caught:
        ConvBertConfig(**changes)
    assert words in str(caught.value)


def test_a_config_cannot_be_changed_in_place():
    with pytest.raises(AttributeError):
        ConvBertConfig().hidden_size = 3


def test_names_bring_their_number_and_no_names_keep_it():
    five = ConvBertConfig(num_labels=5)
    assert five.replace(id2label=None).num_labels == five.replace(label2id=None, hidden_size=768).num_labels == 5
    assert five.replace(id2label={0: "a", 1: "b", 2: "c"}).num_labels == 3
