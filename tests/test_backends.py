"""Backends of the convolutions against the reference, alone and inside a model."""

import pytest
import torch
from conftest import padded_masks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from convbert.backends import banded, onnx, reference
from convbert.backends.dispatch import use_backend
from convbert.runtime.packing import pack

SIZES = dict(hidden_size=32, num_attention_heads=4, num_hidden_layers=2, intermediate_size=48, vocab_size=50)


@settings(deadline=None, max_examples=60)
@given(padded_masks(), st.sampled_from([1, 3, 5, 9]), st.sampled_from([1, 3]), st.integers(1, 5))
def test_banded_equals_the_reference(mask, K, H, d):
    packed, N = pack(mask, K), int(mask.sum())
    generator = torch.Generator().manual_seed(0)
    value, logits = (torch.randn(1, N, H, n, generator=generator).requires_grad_() for n in (d, K))
    x, filters = torch.randn(1, N, d, generator=generator).requires_grad_(), torch.randn(d, K).requires_grad_()
    for name, inputs in (("span_conv", (value, logits)), ("depthwise", (x, filters))):
        ours, theirs = (getattr(module, name)(*inputs, packed) for module in (banded, reference))
        assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        weight = torch.randn(ours.shape, generator=generator)
        gradients = [torch.autograd.grad((out * weight).sum(), inputs) for out in (ours, theirs)]
        assert_close(*gradients, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("K", [1, 9, 33, 41])
@pytest.mark.parametrize("T", [1, 11, 12, 13, 15, 16, 17, 31, 32, 33])  # blocks have 16 rows, or half a window
def test_banded_around_its_blocks(T, K):
    generator = torch.Generator().manual_seed(0)
    value, logits = (torch.randn(2, T, 2, n, generator=generator).requires_grad_() for n in (3, K))
    x, filters = (torch.randn(*shape, generator=generator).requires_grad_() for shape in ((2, T, 4), (4, K)))
    for name, inputs in (("span_conv", (value, logits)), ("depthwise", (x, filters))):
        ours, theirs = (getattr(module, name)(*inputs) for module in (banded, reference))
        assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        weight = torch.randn(ours.shape, generator=generator)
        gradients = [torch.autograd.grad((out * weight).sum(), inputs) for out in (ours, theirs)]
        assert_close(*gradients, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("T", [1, 2, 8, 9, 33])
def test_banded_in_half_precision(dtype, T):
    x, filters = torch.randn(2, T, 4), torch.randn(4, 9) / 3
    exact = reference.depthwise(x, filters)
    assert_close(banded.depthwise(x.to(dtype), filters.to(dtype)).float(), exact, atol=0.05, rtol=0.05)
    value, logits = torch.randn(2, T, 3, 16), torch.randn(2, T, 3, 9)
    exact = reference.span_conv(value, logits)
    assert_close(banded.span_conv(value.to(dtype), logits.to(dtype)).float(), exact, atol=0.05, rtol=0.05)


@settings(deadline=None, max_examples=60)
@given(padded_masks(), st.sampled_from([1, 3, 5, 9]), st.integers(0, 12))
def test_onnx_convolves_every_text_alone(mask, window, hole):
    generator, mask = torch.Generator().manual_seed(0), mask & (torch.arange(mask.shape[1]) != hole)
    x = torch.randn(*mask.shape, 6, generator=generator) * mask[..., None]
    filters, layout = torch.randn(6, window, generator=generator), onnx.graph_layout(mask, window)
    out = layout.pad(onnx.depthwise(layout.unpad(x), filters, layout))
    assert_close(out, reference.depthwise(x, filters) * mask[..., None], atol=1e-5, rtol=1e-4)


# -- inside a model


def test_every_backend_computes_the_same_model(local_model):
    ids, mask = torch.randint(1, 50, (2, 9)), torch.tensor([[1] * 9, [1] * 5 + [0] * 4])
    outs = []
    for name in ("auto", "reference", "banded"):  # test_triton.py has the one that needs Triton
        use_backend(local_model, name)
        outs.append(local_model(ids, mask).last_hidden_state)
    use_backend(local_model, "auto")
    for out in outs[1:]:
        assert_close(out, outs[0], atol=1e-5, rtol=1e-4)


def test_an_unknown_backend_is_refused(local_model):
    with pytest.raises(ValueError, match="backend='fast' is none of auto, reference, banded, triton"):
        use_backend(local_model, "fast")


@pytest.mark.parametrize("backend", ["reference", "banded"])
def test_an_empty_batch(local_model, backend):
    use_backend(local_model, backend)
    assert local_model(torch.zeros(0, 7, dtype=torch.long)).last_hidden_state.shape == (0, 7, 32)
    use_backend(local_model, "auto")
