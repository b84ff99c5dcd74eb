"""Triton kernels against the reference: on a GPU where there is one, through Triton's interpreter elsewhere."""

import copy
import importlib
import os
import subprocess
import sys
import warnings

import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode
from torch.testing import assert_close

pytest.importorskip("triton", reason="Triton is not installed: there are wheels for Linux")

from convbert import ConvBertConfig, ConvBertModel
from convbert.backends import banded, dispatch, reference, triton
from convbert.runtime.packing import pack

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}


def random_inputs(seed, *shapes, dtype=torch.float32):
    """Seeded inputs; the first is a slice of a wider tensor, as values are of the fused projection."""
    generator = torch.Generator().manual_seed(seed)
    first, *others = (torch.randn(*shape, generator=generator).to(DEVICE, dtype) for shape in shapes)
    wide = torch.cat([first, torch.full_like(first, torch.nan)], dim=2)
    return [x.requires_grad_() for x in (wide[:, :, : first.shape[2]].detach(), *others)]


def compare(name, inputs, packed=None):
    """Outputs and gradients of one of the two convolutions equal the reference in float64."""
    exact = [x.detach().double().requires_grad_() for x in inputs]
    ours, theirs = getattr(triton, name)(*inputs, packed), getattr(reference, name)(*exact, packed)
    atol = TOLERANCE[inputs[0].dtype]
    assert ours.dtype == inputs[0].dtype and ours.shape == theirs.shape
    assert_close(ours.double(), theirs, atol=atol, rtol=atol)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(ours)
    gradients = torch.autograd.grad(ours, inputs, weight), torch.autograd.grad(theirs, exact, weight.double())
    for x, grad, expected in zip(inputs, *gradients, strict=True):
        assert grad.dtype == x.dtype
        assert_close(grad.double(), expected, atol=10 * atol, rtol=10 * atol)


def compare_both(mask, K, H, d, packed, dtype=torch.float32):
    """Both convolutions of a batch, packed or with one sequence per row."""
    packed = pack(mask.to(DEVICE), K) if packed else None
    B, T = mask.shape if packed is None else (1, int(mask.sum()))
    compare("span_conv", random_inputs(0, (B, T, H, d), (B, T, H, K), dtype=dtype), packed)
    compare("depthwise", random_inputs(1, (B, T, H * d), (H * d, K), dtype=dtype), packed)


@st.composite
def masks(draw):
    """Batches of sequences of any lengths, empty ones among them, but not all."""
    lengths = draw(st.lists(st.integers(0, 12), min_size=1, max_size=5))
    lengths[-1] += not any(lengths)
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


# -- parity


@settings(deadline=None, max_examples=15)
@given(masks(), st.sampled_from([1, 3, 5, 9]), st.integers(1, 3), st.integers(1, 9), st.booleans())
def test_equal_to_the_reference(mask, K, H, d, packed):
    compare_both(mask, K, H, d, packed)


@pytest.mark.parametrize("d", [32, 48, 300])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_lengths_around_a_block(d, more):
    T = triton.block_sizes(d)[1] + more
    compare("span_conv", random_inputs(0, (1, T, 1, d), (1, T, 1, 5)))
    T = triton.block_sizes(64)[1] + more  # the filters take 64 features at a time
    compare("depthwise", random_inputs(1, (1, T, d), (d, 5)))


@pytest.mark.parametrize("lengths", [[64, 64], [63, 65, 1], [1] * 65, [129, 2]])
def test_sequences_that_end_around_a_block(lengths):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    compare_both(mask, 9, 1, 64, packed=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@settings(deadline=None, max_examples=5)
@given(mask=masks(), packed=st.booleans())
def test_half_precision(dtype, mask, packed):
    compare_both(mask, 9, 2, 16, packed, dtype)


@pytest.mark.parametrize("K", [13])
def test_windows_longer_than_a_sequence(K):
    compare_both(torch.ones(3, 4, dtype=torch.bool), K, 2, 5, packed=False)
    compare_both(torch.ones(3, 4, dtype=torch.bool), K, 2, 5, packed=True)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (1, 1), (3, 1)])
def test_one_token_and_none(shape):
    compare_both(torch.ones(shape, dtype=torch.bool), 5, 2, 4, packed=False)


def test_finite_for_extreme_logits(generator):
    value, logits = random_inputs(0, (1, 6, 2, 4), (1, 6, 2, 5))
    extreme = torch.tensor([-1e30, -1e4, 0.0, 1e4, 1e30], device=DEVICE)[
        torch.randint(5, logits.shape, generator=generator)
    ].requires_grad_()
    out = triton.span_conv(value, extreme)
    assert_close(out, reference.span_conv(value, extreme), atol=1e-5, rtol=1e-5)
    assert all(torch.isfinite(x).all() for x in (out, *torch.autograd.grad(out.sum(), (value, extreme))))


def test_any_strides():
    value, logits = random_inputs(0, (4, 3, 2, 6), (5, 3, 2, 4))
    turned = value.permute(3, 1, 2, 0), logits.permute(3, 1, 2, 0)[[0, 1, 2, 3, 0, 1]]
    compare("span_conv", [x.detach().requires_grad_() for x in turned])
    x, filters = random_inputs(1, (6, 2, 3), (5, 6))
    compare("depthwise", [each.detach().requires_grad_() for each in (x.permute(2, 1, 0), filters.T)])
    ones = torch.ones((), device=DEVICE)  # sum() expands it into a gradient with strides of 0
    value, logits = random_inputs(0, (2, 3, 2, 4), (2, 3, 2, 5))
    ours, theirs = (torch.autograd.grad(m.span_conv(value, logits).sum(), value, ones) for m in (triton, reference))
    assert_close(ours, theirs)


def test_gradients_by_finite_differences_and_deterministic():
    inputs = random_inputs(0, (1, 3, 1, 2), (1, 3, 1, 3)), random_inputs(1, (1, 3, 1), (1, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # gradcheck asks for float64; its steps are wide here instead
        for convolve, given_ in zip((triton.span_conv, triton.depthwise), inputs, strict=True):
            assert torch.autograd.gradcheck(convolve, given_, eps=1e-2, atol=1e-2, rtol=1e-2, nondet_tol=0.0)


def test_saved_for_backward_are_inputs_and_softmax_statistics():
    saved = []
    value, logits = random_inputs(0, (2, 7, 3, 8), (2, 7, 3, 5))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        triton.span_conv(value, logits)
    own = [
        x
        for x in saved
        if x.untyped_storage().data_ptr() not in {i.untyped_storage().data_ptr() for i in (value, logits)}
    ]
    assert [x.shape for x in own] == [(2, 2 * 7, 3)]  # maximum and normaliser


# -- custom operators


@pytest.mark.parametrize(("dtype", "lengths"), [(torch.float32, None), (torch.bfloat16, [3, 1])])
def test_operators_pass_opcheck(dtype, lengths):
    mask = None if lengths is None else torch.arange(3) < torch.tensor(lengths)[:, None]
    window_mask = None if mask is None else pack(mask.to(DEVICE), 5).window_mask
    B, T = (2, 3) if lengths is None else (1, sum(lengths))
    value, logits, grad = random_inputs(0, (B, T, 2, 3), (B, T, 2, 5), (B, T, 2, 3), dtype=dtype)
    x, filters = random_inputs(1, (B, T, 6), (6, 5), dtype=dtype)
    stats = triton.dynamic_conv(value, logits, window_mask)[1]
    torch.library.opcheck(triton.dynamic_conv, (value, logits, window_mask))
    torch.library.opcheck(triton.depthwise_conv, (x, filters, window_mask))
    inputs = [each.detach() for each in (grad, value, logits, grad.flatten(2), x, filters)]
    torch.library.opcheck(triton.dynamic_conv_backward, (*inputs[:3], window_mask, stats.detach()))
    torch.library.opcheck(triton.depthwise_conv_backward, (*inputs[3:], window_mask))


@pytest.mark.parametrize("name", ["span_conv", "depthwise"])
def test_a_second_derivative_is_refused(name):
    shapes = {"span_conv": ((1, 3, 1, 2), (1, 3, 1, 3)), "depthwise": ((1, 3, 2), (2, 3))}
    inputs = random_inputs(0, *shapes[name])
    grads = torch.autograd.grad(getattr(triton, name)(*inputs).square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grads[0].sum().backward()


def test_reloading_the_module_keeps_working():
    value, logits = random_inputs(0, (1, 3, 1, 2), (1, 3, 1, 3))
    before, expected = triton.span_conv, triton.span_conv(value, logits)
    importlib.reload(triton)  # as a notebook that defines the operators again
    assert_close(triton.span_conv(value, logits), expected, atol=0, rtol=0)
    assert_close(triton.dynamic_conv(value, logits, None)[0], expected, atol=0, rtol=0)
    assert_close(before(value, logits), expected, atol=0, rtol=0)  # the old operators are gone, the functions are not


# -- a whole model


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_attention_heads=4, num_hidden_layers=2, intermediate_size=48, vocab_size=50)
    model = ConvBertModel(ConvBertConfig(**sizes)).eval().to(DEVICE)
    with torch.no_grad():
        for layer in model.encoder.layers:
            layer.mixer.qkv_proj.weight *= 10  # so that neighbours matter
            layer.mixer.output.weight *= 10
    return model


MASKS = {"full": [[1] * 7] * 3, "packed": [[1] * 7, [1], [1] * 4], "holed": [[1, 1, 0, 1], [1], [0] * 4]}


def batch(name):
    mask = torch.zeros(3, 7, dtype=torch.long, device=DEVICE)
    for row, real in zip(mask, MASKS[name], strict=True):
        row[: len(real)] = torch.tensor(real)
    return torch.arange(21, device=DEVICE).view(3, 7) + 1, mask


@pytest.mark.parametrize("name", MASKS)
def test_the_same_model(model, name):
    ids, mask = batch(name)
    seen = {}
    for backend in ("reference", "triton"):
        same = copy.deepcopy(model)
        dispatch.use_backend(same, backend)
        out = same(ids, mask).last_hidden_state
        assert torch.isfinite(out).all()
        (out * mask[..., None]).square().sum().backward()
        seen[backend] = out, [p.grad for p in same.parameters() if p.grad is not None]
    assert_close(seen["triton"], seen["reference"], atol=1e-4, rtol=1e-3)


def test_the_same_model_under_autocast(model):
    ids, mask = batch("packed")
    outs = []
    for backend in ("banded", "triton"):
        same = copy.deepcopy(model)
        dispatch.use_backend(same, backend)
        with torch.autocast(DEVICE, torch.bfloat16):
            outs.append(same(ids, mask).last_hidden_state)
        outs[-1].float().square().sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in same.parameters() if p.grad is not None)
    assert_close(*outs, atol=0.1, rtol=0.1)


def test_compiled_once_without_a_graph_break(model):
    torch.compiler.reset()  # of what other tests have compiled
    whole, seen = CompileCounterWithBackend("aot_eager"), []
    runs = [copy.deepcopy(model), copy.deepcopy(model)]
    dispatch.use_backend(runs[0], "banded")
    dispatch.use_backend(runs[1], "triton")
    runs[1].compile(fullgraph=True, backend=whole)
    for T in (7, 4):
        ids, mask = torch.arange(2 * T, device=DEVICE).view(2, T) + 1, torch.ones(2, T, dtype=torch.long, device=DEVICE)
        mask[1, 3:] = 0
        for given_ in (ids, mask):
            torch._dynamo.mark_dynamic(given_, 1)
        for each in runs:
            each.zero_grad()
            out = each(ids, mask).last_hidden_state * mask[..., None]
            out.square().sum().backward()
            seen.append((out, [p.grad for p in each.parameters() if p.grad is not None]))
        assert_close(seen.pop(), seen.pop(), atol=1e-4, rtol=1e-3)
    assert whole.frame_count == 1


# -- dispatch


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a GPU")
def test_a_gpu_without_triton_warns_once():
    dispatch.is_available.cache_clear()
    with FakeTensorMode():
        x = torch.empty(2, device="cuda")
    with pytest.warns(UserWarning, match="without fused kernels on cuda") as warned:
        assert [dispatch.dispatch("auto", x) for _ in range(3)] == [banded] * 3
    assert len(warned) == 1


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("dtype", dispatch.FLOATS)
def test_auto_is_triton_on_a_gpu(dtype):
    assert dispatch.dispatch("auto", torch.zeros(1, dtype=dtype, device=DEVICE)) is triton
    assert dispatch.dispatch("auto", torch.zeros(1, dtype=torch.float64, device=DEVICE)) is banded


def test_float64_is_refused():
    with pytest.raises(ValueError, match="float64 is none of torch.float32"):
        dispatch.dispatch("triton", torch.zeros(1, dtype=torch.float64))


REFUSED = """
import sys
import torch
from convbert.backends.dispatch import dispatch

for blocked in (True, False):
    sys.modules["triton"] = None
    if not blocked:
        del sys.modules["triton"]
    try:
        dispatch("triton", torch.zeros(1))
    except Exception as error:
        print(type(error).__name__, error)
"""


def plain_python(code, *args, **env):
    """What a Python without Triton's interpreter prints."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "0", **env}
    done = subprocess.run([sys.executable, "-c", code, *args], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_missing_triton_is_an_error():
    missing, not_here = plain_python(REFUSED)
    assert missing.startswith("ImportError backend='triton' needs Triton: pip install triton")
    assert "runs on cuda or xpu, not on cpu" in not_here and "TRITON_INTERPRET=1" in not_here


# -- compiled for GPUs that are not here

COMPILE = """
import sys, warnings
warnings.simplefilter("ignore")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from convbert.backends import triton_kernels

backend, arch, warp, dtype, packed = sys.argv[1:]
target = GPUTarget(backend, int(arch) if arch.isdigit() else arch, int(warp))
sizes = dict(d=12, D=12, K=3, BLOCK_K=4, BLOCK_D=16, BLOCK_N=16)
exact = dict(maxima="*fp32", normalisers="*fp32", partial="*fp32", window_mask="*i1")
tensors = "out", "value", "logits", "grad_output", "x", "filters"
compiled = []
for kernel in vars(triton_kernels).values():
    if isinstance(kernel, triton.JITFunction) and any(name in kernel.arg_names for name in ("out", "partial")):
        constants = {name: size for name, size in sizes.items() if name in kernel.arg_names}
        constants |= {} if int(packed) else {"window_mask": None}
        types = {name: exact.get(name, "*" + dtype if name in tensors else "i32") for name in kernel.arg_names}
        types |= dict.fromkeys(constants, "constexpr")
        triton.compile(ASTSource(fn=kernel, signature=types, constexprs=constants), target=target)
        compiled.append(kernel.__name__)
print(*sorted(compiled))
"""


@pytest.mark.parametrize("target", [("cuda", "90", "32", "bf16", "1"), ("hip", "gfx942", "64", "fp32", "0")])
def test_every_kernel_compiles(target, tmp_path):
    names = ["depthwise_conv_grad_filters_kernel", "depthwise_conv_kernel", "dynamic_conv_grad_logits_kernel"]
    names += ["dynamic_conv_grad_value_kernel", "dynamic_conv_kernel"]
    assert plain_python(COMPILE, *target, TRITON_CACHE_DIR=str(tmp_path)) == [" ".join(names)]
