"""Dropout on a CPU against the plain formula with the same mask."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from convbert import ConvBertConfig, ConvBertForMaskedLM
from convbert.backends.banded import span_conv
from convbert.runtime.dropout import SHORT, dropout, dropout_mask, scaled_dot_product_attention, split_batch


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_masks_have_the_right_probability_and_no_correlation(p):
    torch.manual_seed(0)
    drop = dropout_mask((1000, 1001), p).double()
    error = (p * (1 - p) / drop.numel()) ** 0.5
    assert abs(drop.mean() - p) < 5 * error + 2**-17
    for axis in (0, 1):  # rows, columns and neighbours are independent
        assert (drop.mean(axis) - p).abs().max() < 6 * error * drop.shape[axis] ** 0.5 + 2**-17
    pairs = (drop[:, 1:] * drop[:, :-1]).mean()
    assert abs(pairs - p * p) < 5 * p * error + 1e-4


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 7), max_size=4), st.sampled_from([0.0, 0.3, 1.0]))
def test_dropped_elements_have_no_gradient(shape, p):
    x = torch.rand(shape).add_(1).requires_grad_()
    y = dropout(x, p)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert_close(y, x * gradient)
    assert set(gradient.flatten().tolist()) <= {0.0, torch.tensor(1 / (1 - p)).item() if p < 1 else 0.0}
    assert dropout(x, p, training=False) is x


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 1, 4), (5, 2, 7, 3), (3, 2, 400, 4)])  # the last: three chunks
@pytest.mark.parametrize("masked", [False, True])
def test_attention_with_dropout(shape, masked):
    generator = torch.Generator().manual_seed(0)
    B, H, T, d = shape
    inputs = [torch.randn(shape, generator=generator).requires_grad_() for _ in range(3)]
    weight = torch.randn(shape, generator=generator)
    bias = None
    if masked:
        bias = torch.zeros(B, 1, 1, T)
        bias[0, ..., T // 2 + 1 :] = torch.finfo(torch.float32).min / 2
    torch.manual_seed(1)
    ours = scaled_dot_product_attention(*inputs, bias, 0.2)
    torch.manual_seed(1)
    drop = dropout_mask((B, H, T, T), 0.2)
    query, key, value = inputs
    scores = query @ key.mT / d**0.5 + (0 if bias is None else bias)
    plain = scores.softmax(-1).masked_fill(drop, 0) / 0.8 @ value
    assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad((out * weight).sum(), inputs) for out in (ours, plain)]
    assert_close(*gradients, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("T", [0, 1, 7, SHORT, SHORT + 1])  # on both sides of the border between two ways
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_attention_of_short_rows_in_bfloat16(T, masked, compiled):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, T, 8, generator=generator).requires_grad_() for _ in range(3)]
    bias = torch.zeros(2, 1, 1, T)
    bias[0, ..., T // 2 + 1 :] = torch.finfo(torch.bfloat16).min / 2

    def low(*inputs):
        query, key, value, bias = (x.bfloat16() for x in inputs)
        return scaled_dot_product_attention(query, key, value, bias if masked else None)

    out = (torch.compile(low, dynamic=False) if compiled else low)(*inputs, bias)
    if T and not compiled:
        assert ("ScaledDotProduct" in out.grad_fn.name()) == (T > SHORT)
    query, key, value = inputs
    exact = (query @ key.mT / 8**0.5 + bias * masked).softmax(-1) @ value
    weight = torch.randn(exact.shape, generator=generator)
    assert_close(out.float(), exact, atol=0.03, rtol=0.03)
    gradients = (torch.autograd.grad((one * weight).sum(), inputs) for one in (out, exact))
    assert_close(*gradients, atol=0.06, rtol=0.06)


def test_compiled_attention_of_short_rows_drops_weights():
    inputs = [torch.randn(1, 2, 6, 8).bfloat16().requires_grad_() for _ in range(3)]
    many = [x.expand(2000, 2, 6, 8) for x in inputs]
    dropped = torch.compile(scaled_dot_product_attention, dynamic=False)(*many, None, 0.25).float()
    exact = scaled_dot_product_attention(*inputs).float()
    assert (dropped[0] != dropped[1]).any()
    assert_close(dropped.mean(0, keepdim=True), exact, atol=0.1, rtol=0)


def test_chunks_cover_a_batch_in_order():
    x = torch.arange(7)[:, None].expand(7, 3)
    chunks = split_batch(x, None, weights=torch.Size([7, 2, 300, 300]))
    assert len(chunks) > 1 and all(absent is None for _, absent in chunks)
    assert_close(torch.cat([chunk for chunk, _ in chunks]), x)


SIZES = dict(hidden_size=32, num_attention_heads=4, num_hidden_layers=2, intermediate_size=48, vocab_size=50)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_a_seed_drops_the_same_again(padded, autocast):
    torch.manual_seed(0)
    model = ConvBertForMaskedLM(ConvBertConfig(**SIZES)).train()
    ids = torch.randint(5, 50, (3, 12))
    mask = torch.arange(12) < torch.tensor([12, 7, 1])[:, None] if padded else None

    def gradients(checkpointing=False):
        model.encoder.gradient_checkpointing = checkpointing
        torch.manual_seed(7)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(ids, mask, labels=ids).loss
        return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)

    first, again, checkpointed = gradients(), gradients(), gradients(checkpointing=True)
    assert all(g is None or g.isfinite().all() for g in first) and any(g is not None and g.any() for g in first)
    assert_close(first, again, rtol=0, atol=0)
    assert_close(first, checkpointed)  # a checkpoint's second run has the same mask


def test_an_adapter_may_have_dropout_of_its_own():
    """An adapter in the place of `down`: its second run, in the backward pass, has the mask of the first."""
    model = ConvBertForMaskedLM(ConvBertConfig(**SIZES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    part = model.train().encoder.layers[0].feed_forward
    part.down = torch.nn.Sequential(torch.nn.Dropout(0.5), part.down)
    x, inputs = torch.randn(2, 5, 32), list(part.parameters())
    torch.manual_seed(1)
    ours = torch.autograd.grad(part(x).square().sum(), inputs)
    torch.manual_seed(1)
    assert_close(ours, torch.autograd.grad(part.project_down(part.up(x)).square().sum(), inputs))


@pytest.mark.parametrize("inside", [False, True])
def test_float32_inputs_under_autocast(inside):
    inputs = [torch.randn(2, 2, 5, 4).requires_grad_() for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = [scaled_dot_product_attention(*inputs, p=0.2), span_conv(inputs[0], inputs[1][..., :3])]
        loss = sum(each.float().square().sum() for each in mixed)
        found = torch.autograd.grad(loss, inputs) if inside else None
    found = found or torch.autograd.grad(loss, inputs)
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in found)
