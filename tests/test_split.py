"""The numbers behind the views: head_contributions add up, bands convolve, profiles are means; odd texts and models."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from convbert.backends.reference import span_conv
from convbert.families.convbert import ConvBertConfig
from convbert.layers.attention import attend, split_heads
from convbert.layers.mixed_attention import MixedAttention
from convbert.modeling import ConvBertForMaskedLM, ConvBertModel
from convbert.pipelines.tasks import pipeline
from convbert.visualize.encoded_text import encode_text, eval_mode, load_model
from convbert.visualize.head_contributions import (
    capture_heads,
    centre_of_mass,
    contribution_norms,
    entropy,
    head_contributions,
    head_split,
    kernel_to_band,
    profile,
)

TINY = "convbert-tiny"
TEXTS = [
    "The ship sailed across the sea to the old harbour.",
    "Soup.",
    "שלום עולם، مرحبا بالعالم",
    "😀 café\r\nnaïve 👨‍👩‍👧‍👦",
    "a " * 60,
]
ODD = {
    "one token": "a",
    "one long word": "Donaudampfschifffahrtsgesellschaftskapitän",
    "right to left": "שלום עולם",
    "arabic": "مرحبا بالعالم",
    "emoji": "👨‍👩‍👧‍👦 🚢",
    "only emoji": "🚢",
    "lone surrogate": "a \ud83d b",
    "line ends": "one\r\ntwo\n\n\tthree",
    "zero width": "a\u200bb\u00ad",
    "special tokens in the text": "[MASK] and [SEP] and [PAD]",
    "dollars": "$5 and $6 cost $$",
}


@pytest.fixture(scope="module")
def tiny():
    return load_model(TINY)


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return tiny[1]


def small(**fields) -> ConvBertConfig:
    """A configuration whose random models are far from zero."""
    sizes = dict(vocab_size=8192, hidden_size=32, embedding_size=16, intermediate_size=32, num_hidden_layers=2)
    return ConvBertConfig(**{**sizes, "num_attention_heads": 4, "initializer_range": 0.3, **fields})


def hear(model: nn.Module, batch: dict) -> list[dict]:
    """What goes into and comes out of every layer's mixer, and into its output projection."""
    heard, hooks = [{} for _ in model.encoder.layers], []
    for layer, found in zip(model.encoder.layers, heard, strict=True):

        def keep(_, inputs, output, found=found):
            found.update(x=inputs[0], output=output[0])

        def keep_mixed(_, inputs, found=found):
            found.update(mixed=inputs[0])

        hooks += [layer.mixer.register_forward_hook(keep), layer.mixer.output.register_forward_pre_hook(keep_mixed)]
    with eval_mode(model):
        model.encoder(**batch)
    for hook in hooks:
        hook.remove()
    return heard


# -- head_contributions


def check_contributions(model: nn.Module, batch: dict) -> None:
    """They add up to the layer's output, and their lengths are the norms that a split reports."""
    for layer, found, split in zip(model.encoder.layers, hear(model, batch), capture_heads(model, batch), strict=True):
        mixer, heads = layer.mixer, 2 * layer.mixer.num_heads
        parts = head_contributions(found["mixed"], mixer.output, heads)
        assert_close(parts.sum(2) + mixer.output.bias, found["output"], atol=1e-4, rtol=0)
        norms = parts.norm(dim=-1).transpose(1, 2)
        got = torch.cat([split.attention_norm, split.conv_norm], 1)
        assert_close(got, norms, atol=1e-4 * norms.max().item(), rtol=1e-3)


@pytest.mark.parametrize("text", TEXTS, ids=["plain", "short", "right to left", "emoji", "long"])
def test_contributions_add_up_in_the_bundled_model(tiny, text):
    model, tokenizer = tiny
    check_contributions(model, encode_text(tokenizer, text).batch())


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_contributions_add_up_whatever_the_shape(data):
    heads, ratio = data.draw(st.sampled_from([(2, 1), (4, 1), (4, 2), (4, 4), (6, 2), (6, 3), (4, 8)]), "heads")
    rule = data.draw(st.sampled_from(["transformers", "original"]), "rule")
    fields = dict(
        hidden_size=24 * data.draw(st.integers(1, 3), "width"),
        num_attention_heads=heads,
        head_ratio=ratio,
        head_size_rule=rule,
        conv_kernel_size=data.draw(st.sampled_from([1, 3, 9, 13]), "kernel"),
        num_groups=data.draw(st.sampled_from([1, 2]), "groups"),
        embedding_size=data.draw(st.sampled_from([8, 24]), "embedding"),
        conv_padding=data.draw(st.sampled_from(["mask", "legacy"]), "padding"),
    )
    torch.manual_seed(data.draw(st.integers(0, 99), "seed"))
    model = ConvBertModel(small(**{**fields, "vocab_size": 50}))
    T = data.draw(st.integers(1, 30), "tokens")
    check_contributions(model, {"input_ids": torch.randint(1, 50, (2, T))})


def test_a_contribution_is_what_is_left_when_all_other_heads_are_silent(tiny):
    """The same vectors without the function that is tested: through the head mask of the mixer itself."""
    model, tokenizer = tiny
    batch = encode_text(tokenizer, TEXTS[0]).batch()
    for layer, found in zip(model.encoder.layers, hear(model, batch), strict=True):
        mixer, H = layer.mixer, layer.mixer.num_heads
        parts = head_contributions(found["mixed"], mixer.output, 2 * H)
        with eval_mode(model):
            for i, only in enumerate(torch.eye(2 * H)):
                alone = mixer(found["x"], head_mask=only.view(2, H))[0] - mixer.output.bias
                assert_close(parts[:, :, i], alone, atol=1e-4, rtol=0)


def test_norms_equal_explicit_vectors(generator):
    mixed, output = torch.randn(3, 7, 24, generator=generator), nn.Linear(24, 10)
    for heads in (1, 2, 6, 24):
        for h, norms in enumerate(contribution_norms(mixed, output, heads).unbind(1)):
            columns = slice(h * 24 // heads, (h + 1) * 24 // heads)
            vectors = mixed[..., columns] @ output.weight[:, columns].T
            assert_close(norms, vectors.norm(dim=-1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_of_half_precision_models_are_finite(tiny, dtype):
    model = ConvBertModel(small())
    with torch.no_grad():
        for layer in model.encoder.layers:
            layer.mixer.output.weight *= 1000  # squares that float16 cannot hold
    model = model.to(dtype)
    split = head_split(model, TEXTS[0], tokenizer=tiny[1])
    assert split.attention_norm.dtype == split.attention[0].dtype == torch.float32
    assert torch.isfinite(split.attention_share).all()


# -- maps


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.sampled_from([1, 3, 5, 9, 13]), st.integers(0, 99))
def test_a_banded_kernel_applied_to_values_is_the_convolution(T, K, seed):
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(2, T, 3, 4, generator=generator)
    scores = torch.randn(2, T, 3, K, generator=generator)
    band = kernel_to_band(scores.softmax(-1).transpose(1, 2))  # (B, H, T, T)
    assert band.shape == (2, 3, T, T)
    assert_close(torch.einsum("bhij,bjhd->bihd", band, value), span_conv(value, scores))
    places = torch.arange(T)
    assert not band[..., (places[:, None] - places).abs() > K // 2].any()
    inner = band[..., K // 2 : T - K // 2, :]
    assert_close(inner.sum(-1), torch.ones(inner.shape[:-1]))


def test_maps_are_the_models_own(tiny):
    model, tokenizer = tiny
    split = head_split(TINY, TEXTS[0])
    with eval_mode(model):
        seen = model.encoder(**encode_text(tokenizer, TEXTS[0]).batch(), output_attentions=True)
    for layer, (attention, conv_kernel) in enumerate(zip(seen.attentions, seen.conv_kernels, strict=True)):
        assert_close(split.attention[layer], attention[0])
        assert_close(split.conv_kernel[layer], conv_kernel[0])


def test_entropy_and_centre_against_loops(generator):
    weights = torch.randn(4, 9, generator=generator).mul(3).softmax(-1)
    weights[0] = F.one_hot(torch.tensor(2), 9)
    for row, bits, centre in zip(weights.tolist(), entropy(weights), centre_of_mass(weights), strict=True):
        expected = -sum(w * torch.tensor(w).log2().item() for w in row if w)
        assert bits.item() == pytest.approx(expected, abs=1e-5)
        assert centre.item() == pytest.approx(sum(w * (k - 4) for k, w in enumerate(row)), abs=1e-5)


# -- many texts


def test_a_profile_is_the_mean_over_the_tokens_of_all_texts(tiny):
    model, tokenizer = tiny
    rows = {name: [] for name in ("attention_share", "conv_share", "distance", "attention_entropy", "centre")}
    for text in TEXTS:
        split = head_split(model, text, tokenizer=tokenizer)
        work = split.attention_norm.sum(1) + split.conv_norm.sum(1)
        place = torch.arange(len(split.tokens), dtype=torch.float)
        for t in (t for t, special in enumerate(split.special) if not special):
            looks = torch.stack([attention[:, t] for attention in split.attention])
            kernels = torch.stack([kernel[:, t] for kernel in split.conv_kernel])
            rows["attention_share"].append(split.attention_norm[..., t] / work[:, None, t])
            rows["conv_share"].append(split.conv_norm[..., t] / work[:, None, t])
            rows["distance"].append((looks * (place - t).abs()).sum(-1))
            rows["attention_entropy"].append(-(looks * looks.clamp(min=1e-30).log2()).sum(-1))
            rows["centre"].append((kernels * torch.arange(-4.0, 5.0)).sum(-1))
    seen = profile(model, TEXTS, tokenizer=tokenizer, progress=list)
    assert seen.tokens == len(rows["distance"])
    for name, values in rows.items():
        assert_close(getattr(seen, name), torch.stack(values).mean(0), atol=1e-4, rtol=1e-4, msg=name)


def test_a_profile_can_count_special_tokens_and_take_a_generator(tiny):
    texts = ["Soup.", "The sea."]
    seen = profile(tiny[0], (text for text in texts), tokenizer=tiny[1], special_tokens=True)
    assert seen.tokens == sum(len(tiny[1](text)["input_ids"]) for text in texts)


@pytest.mark.parametrize("texts, message", [([], "no text was given"), (["[SEP]", ""], r"texts\[1\]: text is empty")])
def test_a_profile_of_nothing_is_refused(tiny, texts, message):
    with pytest.raises(ValueError, match=message):
        profile(tiny[0], texts, tokenizer=tiny[1])


def test_a_profile_of_one_text_is_refused(tiny):
    with pytest.raises(TypeError, match="head_split"):
        profile(tiny[0], "one text", tokenizer=tiny[1])


# -- odd texts


@pytest.mark.parametrize("name", ODD)
def test_odd_texts_are_split(tiny, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split = head_split(tiny[0], ODD[name], tokenizer=tiny[1])
    T = len(split.tokens)
    assert len(split.sources) == len(split.segments) == len(split.special) == T >= 3
    assert split.special[0] and split.special[-1] and not all(split.special)
    assert split.attention_share.shape == (4, T)
    assert ((split.attention_share >= 0) & (split.attention_share <= 1)).all()
    for layer in range(4):
        assert_close(split.attention[layer].sum(-1), torch.ones(4, T), atol=1e-4, rtol=0)
        assert_close(split.conv_kernel[layer].sum(-1), torch.ones(4, T), atol=1e-4, rtol=0)


def test_one_token():
    split = head_split(TINY, "a")
    assert split.tokens == ["[CLS]", "a", "[SEP]"] and split.special == [True, False, True]


def test_sources_are_pieces_of_the_text(tokenizer):
    read = encode_text(tokenizer, ODD["emoji"], "Éclair 🚢")
    assert "".join(read.sources).replace(" ", "") == (ODD["emoji"] + "Éclair 🚢").replace(" ", "")


def test_512_tokens_are_read_without_a_word(tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split = head_split(tiny[0], "far " * 510, tokenizer=tiny[1])
    assert split.attention[0].shape == (4, 512, 512) and split.conv_kernel[0].shape == (4, 512, 9)


@pytest.mark.parametrize("call", ["head_split", "profile"])
def test_a_text_too_long_is_said_once_and_cut(tiny, call):
    with pytest.warns(UserWarning, match="514 tokens and the model reads 512") as said:
        if call == "head_split":
            split = head_split(tiny[0], "far " * 512, tokenizer=tiny[1])
            assert len(split.tokens) == 512 and split.tokens[-1] == "[SEP]"
        else:
            assert profile(tiny[0], ["far " * 512], tokenizer=tiny[1]).tokens == 510
    assert len(said) == 1


def test_the_limit_is_the_models_when_it_is_lower_than_the_tokenizers(tokenizer):
    model = ConvBertModel(small(max_position_embeddings=16))
    with pytest.warns(UserWarning, match="the model reads 16"):
        assert len(head_split(model, "far " * 40, "near " * 40, tokenizer=tokenizer).tokens) == 16


def test_a_pair_has_two_segments(tiny):
    split = head_split(tiny[0], "The ship sailed.", "Was it late?", tokenizer=tiny[1])
    middle = split.tokens.index("[SEP]")
    assert split.segments == [0] * (middle + 1) + [1] * (len(split.tokens) - middle - 1)
    other = head_split(tiny[0], "The ship sailed. [SEP] Was it late?", tokenizer=tiny[1])
    assert other.tokens == split.tokens and set(other.segments) == {0}
    assert not torch.allclose(other.attention_share, split.attention_share)


@pytest.mark.parametrize(
    "texts, error, message",
    [
        (("",), ValueError, "text is empty"),
        ((" \n\t ",), ValueError, "text is empty"),
        (("a", " "), ValueError, "text_pair is empty"),
        ((["one", "two", "three"],), TypeError, "one text, got 3"),
        ((("a", "b"),), TypeError, "one text, got 2"),
        ((None,), TypeError, "text must be a text, got NoneType"),
        ((b"bytes",), TypeError, "got bytes"),
        (("a", ["b"]), TypeError, "one text, got 1"),
    ],
)
def test_what_is_not_one_text_is_refused(tiny, texts, error, message):
    with pytest.raises(error, match=message):
        head_split(tiny[0], *texts, tokenizer=tiny[1])


# -- models


def test_train_mode_and_frozen_parts_are_as_before(tokenizer):
    model = ConvBertModel(small(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)).train()
    model.encoder.layers[0].eval()
    before = [part.training for part in model.modules()]
    splits = [head_split(model, TEXTS[0], tokenizer=tokenizer) for _ in range(2)]
    assert [part.training for part in model.modules()] == before
    assert torch.equal(splits[0].attention_norm, splits[1].attention_norm), "no dropout while it is looked at"
    assert torch.is_grad_enabled() and not splits[0].attention_norm.requires_grad
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("wrong", [False, True], ids=["done", "failed"])
def test_no_hook_is_left_behind(tokenizer, wrong):
    model = ConvBertModel(small()).train()
    ids = torch.tensor([[9000]]) if wrong else torch.tensor([[1]])
    if wrong:
        with pytest.raises(IndexError):
            capture_heads(model, {"input_ids": ids})
    else:
        capture_heads(model, {"input_ids": ids})
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.modules())
    assert model.training


def test_every_way_to_name_a_model_gives_the_same(tiny, tmp_path):
    model, tokenizer = tiny
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    expected = head_split(TINY, TEXTS[0])
    ways = [
        head_split(str(tmp_path), TEXTS[0]),
        head_split(tmp_path, TEXTS[0]),
        head_split(model, TEXTS[0], tokenizer=tokenizer),
        head_split(model, TEXTS[0], tokenizer=TINY),
        head_split(pipeline("fill-mask", TINY), TEXTS[0]),
        head_split(ConvBertForMaskedLM.from_pretrained(TINY), TEXTS[0], tokenizer=tokenizer),
    ]
    for split in ways:
        assert split.tokens == expected.tokens
        assert_close(split.attention_norm, expected.attention_norm, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), 3, None])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(TypeError, match="convbert model, got"):
        head_split(model, "a text")


def test_a_folder_saved_by_transformers(tmp_path, tokenizer, generator):
    """The maps that transformers reports, and the lengths of what its own output projections add up."""
    transformers = pytest.importorskip("transformers")
    shape = dict(vocab_size=8192, hidden_size=32, embedding_size=16, num_hidden_layers=2, num_attention_heads=4)
    config = transformers.ConvBertConfig(**shape, intermediate_size=32, attn_implementation="eager")
    theirs = transformers.ConvBertModel(config).eval()
    for p in theirs.parameters():
        p.data.normal_(0, 0.2, generator=generator)
    theirs.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    mixed = []
    for layer in theirs.encoder.layer:
        layer.attention.output.dense.register_forward_pre_hook(lambda _, inputs: mixed.append(inputs[0]))
    ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
    with torch.no_grad():
        maps = theirs(ids, attention_mask=torch.ones_like(ids), output_attentions=True).attentions
    split = head_split(tmp_path, TEXTS[0])
    assert split.attention[0].shape == (2, ids.shape[1], ids.shape[1]) and split.conv_kernel[0].shape[0] == 2
    for layer in range(2):
        assert_close(split.attention[layer], maps[layer][0], atol=1e-5, rtol=1e-5)
        dense = theirs.encoder.layer[layer].attention.output.dense
        for head in range(4):
            columns = slice(8 * head, 8 * head + 8)
            norms = (mixed[layer][0, :, columns] @ dense.weight[:, columns].T).norm(dim=-1)
            got = torch.cat([split.attention_norm, split.conv_norm], 1)[layer, head]
            assert_close(got, norms, atol=1e-4, rtol=1e-4)


# -- a family without convolution


class PlainAttention(nn.Module):
    """What a sibling's mixer might be: attention heads alone."""

    def __init__(self, config: ConvBertConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.project = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x, mask=None, head_mask=None, output_attentions=False, packed=None, cls_only=False):
        query, key, value = (split_heads(part, self.num_heads) for part in self.project(x).chunk(3, -1))
        mixed, attention = attend(query, key, value)
        return self.output(mixed.flatten(2)), (attention, None) if output_attentions else None


def make_plain() -> nn.Module:
    """A model whose layers have no convolution."""
    torch.manual_seed(0)
    model = ConvBertModel(small())
    for layer in model.encoder.layers:
        layer.mixer = PlainAttention(model.config)
    assert not any(isinstance(part, MixedAttention) for part in model.modules())
    return model


def test_attention_alone_has_no_convolution_heads(tokenizer):
    split = head_split(make_plain(), TEXTS[0], tokenizer=tokenizer)
    T = len(split.tokens)
    assert split.attention[0].shape == (4, T, T) and split.attention_norm.shape == (2, 4, T)
    assert split.conv_norm.shape == (2, 0, T) and split.conv_kernel[0].shape[:2] == (0, T)
    assert_close(split.attention_share, torch.ones(2, T))
    assert (split.attention_norm > 0).all()


def test_a_profile_of_attention_alone(tokenizer):
    seen = profile(make_plain(), TEXTS[:2], tokenizer=tokenizer)
    assert seen.conv_share.shape == seen.conv_entropy.shape == seen.centre.shape == (2, 0)
    assert_close(seen.attention_share.sum(1), torch.ones(2))


def test_heads_that_add_nothing_share_nothing(tokenizer):
    model = ConvBertModel(small())
    for layer in model.encoder.layers:
        layer.mixer.output.weight.data.zero_()
    split = head_split(model, TEXTS[0], tokenizer=tokenizer)
    assert not split.attention_share.any() and torch.isfinite(split.attention_share).all()
