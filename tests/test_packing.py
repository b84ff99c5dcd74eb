"""Padding-free batches: layouts, attention within sequences, and models against each text alone."""

from dataclasses import fields, replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from conftest import padded_masks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode
from torch.testing import assert_close

from convbert import ConvBertConfig, ConvBertModel
from convbert.layers.attention import attend
from convbert.runtime import packing
from convbert.runtime.packing import MIN_TOKENS_PER_CALL, attention_path, first_tokens, pack, varlen_attention

SIZES = dict(hidden_size=32, num_attention_heads=4, num_hidden_layers=2, intermediate_size=48, vocab_size=50)


@settings(deadline=None, max_examples=60)
@given(padded_masks())
def test_layouts_and_their_inverses(mask):
    packed, x = pack(mask, 3), torch.randn(*mask.shape, 2)
    assert_close(packed.pad(packed.unpad(x)), x * mask[..., None])
    assert_close(packed.remove_gaps(packed.insert_gaps(packed.unpad(x))), packed.unpad(x))
    assert_close(packed.from_padded(packed.to_padded(packed.unpad(x))), packed.unpad(x))
    assert packed.lengths == [n for n in mask.sum(1).tolist() if n]
    assert packed.indices.equal(mask.flatten().nonzero()[:, 0])
    assert packed.cu_seqlens.dtype == torch.int32 and packed.cu_seqlens.diff().tolist() == packed.lengths
    assert packed.cu_seqlens[0] == 0 and packed.padded_mask.shape == (len(packed.lengths), max(packed.lengths))


@pytest.mark.parametrize("short", [1, MIN_TOKENS_PER_CALL])
def test_attention_stays_in_its_sequence(short):
    lengths = [short, 3 * short, 2 * short]
    packed = pack(torch.arange(3 * short) < torch.tensor(lengths)[:, None], 3)
    q, k, v = torch.randn(3, 1, sum(lengths), 2, 4)
    before = varlen_attention(q, k, v, packed)
    v[:, short : 4 * short] += 1  # only the second sequence may notice
    changed = (varlen_attention(q, k, v, packed) - before).abs().amax((0, 2, 3)) > 1e-3
    assert changed.tolist() == [False] * short + [True] * 3 * short + [False] * 2 * short


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 3 * MIN_TOKENS_PER_CALL), st.integers(1, 3)), min_size=1, max_size=4))
def test_each_path_equals_attention_alone(groups):
    lengths = [length for length, count in groups for _ in range(count)]
    calls = 1 + sum(a != b for a, b in pairwise(lengths))  # consecutive sequences of one length share a call
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, sum(lengths), 2, 4, generator=generator).requires_grad_() for _ in range(3))
    alone = [attend(*each)[0] for each in zip(*(x.split(lengths, 1) for x in (query, key, value)), strict=True)]
    packed = pack(torch.arange(max(lengths)) < torch.tensor(lengths)[:, None], 3)
    weight = torch.randn(query.shape, generator=generator)
    true = torch.autograd.grad(torch.cat(alone, 1), (query, key, value), weight)
    for layout, path in ((packed, None), (replace(packed, lengths=[]), "padded")):  # unknown lengths: the padded layout
        assert attention_path(query, layout) == (
            path or ("padded", "per_length")[query.shape[1] >= MIN_TOKENS_PER_CALL * calls]
        )
        mixed = varlen_attention(query, key, value, layout)
        assert_close(mixed, torch.cat(alone, 1), atol=1e-5, rtol=1e-4)
        assert_close(torch.autograd.grad(mixed, (query, key, value), weight), true, atol=1e-5, rtol=1e-4)


# -- attention on a GPU that is not here: dtypes, shapes and strides


def fake_heads(device="cuda", dtype=torch.bfloat16, d=16):
    """Query, key and value as views of one projection; to be called in a `FakeTensorMode`."""
    parts = torch.empty(1, 48, 4 * 2 * d, device=device, dtype=dtype).split(2 * d, dim=-1)
    return [x.unflatten(-1, (2, d)) for x in parts[:3]]


PACKED = replace(pack(torch.arange(30) < torch.tensor([30, 18])[:, None], 3), flash=True)


@pytest.mark.parametrize(
    ("case", "path"),
    [
        ({}, "flash"),
        ({"dtype": torch.float16}, "flash"),
        ({"dtype": torch.float32}, "padded"),
        ({"d": 12}, "padded"),
        ({"d": 264}, "padded"),
    ],
)
def test_no_call_for_each_sequence_on_a_gpu(case, path):
    with FakeTensorMode():
        query = fake_heads(**case)[0]
        assert attention_path(query, PACKED) == path
        assert attention_path(query, replace(PACKED, flash=False)) == "padded"  # an older GPU, or another maker's


def test_flash_attention_is_found_where_it_runs(monkeypatch):
    assert not packing.has_flash(torch.device("cpu")) and not packing.has_flash(torch.device("xpu"))
    asked = {"is_flash_attention_available": True, "flash_sdp_enabled": True}
    for name, value in asked.items():
        monkeypatch.setattr(torch.backends.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.version, "hip", None)
    for capability, known in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, known=capability: known)
        assert packing.has_flash(torch.device("cuda")) == known
    assert packing.has_flash(torch.device("cuda"))
    for where, name, value in (
        (torch.backends.cuda, "flash_sdp_enabled", lambda: False),  # disabled by the user
        (torch.backends.cuda, "is_flash_attention_available", lambda: False),  # a torch built without
        (torch.version, "hip", "6.4"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, value)
            assert not packing.has_flash(torch.device("cuda")), name


@pytest.mark.parametrize(("dtype", "dropout"), [(torch.bfloat16, 0.0), (torch.float16, 0.1)])
def test_attention_on_a_gpu_keeps_shape_dtype_and_device(dtype, dropout):
    packed = pack(torch.arange(30) < torch.tensor([30, 18])[:, None], 3)
    tensors = {f.name: getattr(packed, f.name) for f in fields(packed) if f.type is torch.Tensor}
    with FakeTensorMode():
        on_gpu = {name: torch.empty(x.shape, dtype=x.dtype, device="cuda") for name, x in tensors.items()}
        mixed = varlen_attention(*fake_heads(dtype=dtype), replace(packed, **on_gpu, flash=True), dropout)
    assert (mixed.shape, mixed.dtype, mixed.device.type) == ((1, 48, 2, 16), dtype, "cuda")
    assert mixed.is_contiguous()


@settings(deadline=None, max_examples=40)
@given(mask=padded_masks())
def test_a_batch_equals_its_texts(local_model, mask):
    ids = torch.randint(1, 50, mask.shape, generator=torch.Generator().manual_seed(0))
    out = local_model(ids, mask.long(), output_hidden_states=True)
    for name, states in (("last", out.last_hidden_state), ("embeddings", out.hidden_states[0])):
        assert torch.isfinite(states).all() and states[~mask].eq(0).all(), name
    for row in range(len(ids)):
        places = mask[row].nonzero()[:, 0]
        if len(places):
            alone = local_model(ids[row : row + 1, places], position_ids=places[None] - places[0]).last_hidden_state
            assert_close(out.last_hidden_state[row, places], alone[0], atol=1e-5, rtol=1e-4)


def test_gradients_of_a_batch_equal_those_of_its_texts(local_model):
    ids = torch.randint(1, 50, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])

    def gradients(*losses):
        local_model.zero_grad()
        sum(losses).backward()
        return [p.grad.clone() for p in local_model.parameters() if p.grad is not None]

    batched = gradients((local_model(ids, mask).last_hidden_state * mask[..., None]).square().sum())
    alone = gradients(*(local_model(ids[i : i + 1, :n]).last_hidden_state.square().sum() for i, n in ((0, 7), (1, 4))))
    assert_close(batched, alone, atol=1e-3, rtol=1e-3)


def test_a_batch_of_padding_is_finite(local_model):
    out = local_model(torch.ones(2, 3, dtype=torch.long), torch.zeros(2, 3)).last_hidden_state
    assert out.shape == (2, 3, 32) and out.eq(0).all()


def test_a_hole_keeps_its_position(local_model):
    ids, mask = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[1, 0, 1, 1]])
    assert pack(mask.bool(), 9) is None
    holed, closed = local_model(ids, mask), local_model(ids[:, [0, 2, 3]], position_ids=torch.tensor([[0, 2, 3]]))
    difference = (holed.last_hidden_state[:, [0, 2, 3]] - closed.last_hidden_state).abs().max()
    assert difference > 1e-4  # the neighbours of a hidden word are not neighbours of each other


@settings(deadline=None, max_examples=40)
@given(padded_masks(), st.booleans())
def test_cls_only_equals_the_first_tokens(local_model, mask, masked):
    ids = torch.randint(0, 50, mask.shape, generator=torch.Generator().manual_seed(0))
    run = partial(local_model.encoder, ids, mask if masked else None)
    first, every = run(cls_only=True).last_hidden_state, run().last_hidden_state
    assert first.shape[1] == 1
    assert_close(first, first_tokens(every, 1, None, mask if masked else None), atol=1e-5, rtol=1e-4)
    assert_close(run(cls_only=True, output_hidden_states=True).last_hidden_state, first, atol=1e-5, rtol=1e-4)


@settings(deadline=None, max_examples=20)
@given(padded_masks(), st.sampled_from(["mask", "legacy"]))
def test_cls_only_has_the_same_gradients(mask, padding):
    torch.manual_seed(0)
    model = ConvBertModel(ConvBertConfig(**SIZES, conv_padding=padding)).eval()
    ids = torch.randint(0, 50, mask.shape, generator=torch.Generator().manual_seed(0))
    grads = []
    for cls_only in (True, False):
        model.zero_grad()
        last = model.encoder(ids, mask, cls_only=cls_only).last_hidden_state
        first = last if cls_only else first_tokens(last, 1, None, mask if padding == "mask" else None)
        first.sin().sum().backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        assert_close(grad, grads[1][name], atol=1e-4, rtol=1e-3)
