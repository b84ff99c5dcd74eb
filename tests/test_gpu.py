"""What only a GPU shows, beside tests/test_triton.py: packed attention in one call, compiled graphs, no waiting."""

import copy

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from torch.testing import assert_close

from convbert import ConvBertConfig, ConvBertForMaskedLM, ConvBertModel
from convbert.backends.dispatch import use_backend
from convbert.runtime.packing import attention_path, pack, padded_attention, varlen_attention
from convbert.training.data import MaskedBatches
from convbert.training.loop import fit
from convbert.training.optim import Recipe
from convbert.training.pretraining.masking import Masking

HOME = "cuda" if torch.cuda.is_available() else "cpu"
needs_gpu = pytest.mark.skipif(HOME == "cpu", reason="needs a GPU")
LENGTHS = [[64] * 3, [1, 63, 64, 65], [200, 1, 1, 7, 0, 129]]
LOOSE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def mask_of(lengths, T=None):
    return (torch.arange(T or max(lengths)) < torch.tensor(lengths)[:, None]).to(HOME)


def by_hand(query, key, value, lengths):
    """Attention of each sequence to itself, in float64."""
    parts = [x[0].double().split([n for n in lengths if n]) for x in (query, key, value)]
    mixed = []
    for q, k, v in zip(*parts, strict=True):
        scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
        mixed.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v))
    return torch.cat(mixed)[None]


# -- packed attention


@pytest.mark.parametrize("dtype", LOOSE)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_packed_attention_and_its_gradients(dtype, lengths):
    packed = pack(mask_of(lengths), 9)
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(1, sum(lengths), 3 * 2 * 64, generator=generator).to(HOME, dtype)  # one projection, cut in three
    parts = [x.unflatten(-1, (2, 64)).requires_grad_() for x in wide.split(128, dim=-1)]
    if HOME == "cuda":
        known = "flash" if dtype != torch.float32 else "padded"
        assert attention_path(parts[0], packed) == known, "flash attention must take what it can"
    ours, true = varlen_attention(*parts, packed), by_hand(*parts, lengths)
    assert_close(ours.double(), true, atol=LOOSE[dtype], rtol=LOOSE[dtype])
    weight = torch.randn(ours.shape, generator=generator).to(ours)
    mine = torch.autograd.grad(ours, parts, weight)
    exact = torch.autograd.grad(true, parts, weight.double())
    for a, b in zip(mine, exact, strict=True):
        assert_close(a.double(), b.double(), atol=2 * LOOSE[dtype], rtol=2 * LOOSE[dtype])


def test_row_and_box_agree_for_first_tokens():
    lengths = [5, 17, 1]
    packed = pack(mask_of(lengths), 3)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, sum(lengths), 2, 32, generator=generator).to(HOME) for _ in range(3))
    first = query[0][packed.cu_seqlens[:-1].long()][:, None]
    assert_close(
        padded_attention(first, key, value, packed)[:, 0],
        varlen_attention(query, key, value, packed)[0][packed.cu_seqlens[:-1].long()],
        atol=1e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("other", [0, 1])
def test_dropout_in_packed_attention_keeps_sequences_apart(dtype, other):
    """Weights are dropped, the others grow to make up for them, and nobody reads another sequence."""
    packed, generator = pack(mask_of([30, 50]), 9), torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 80, 2, 64, generator=generator).to(HOME, dtype) for _ in range(3))
    still = varlen_attention(query, key, value, packed)
    mixed = torch.stack([varlen_attention(query, key, value, packed, dropout=0.2) for _ in range(200)]).float()
    assert mixed.std(0).mean() > 0.02, "something must be dropped"
    assert (mixed.mean(0) - still.float()).abs().mean() < 0.02
    theirs, mine = (slice(0, 30), slice(30, 80)) if other == 0 else (slice(30, 80), slice(0, 30))
    value[:, theirs] = 1e4
    assert varlen_attention(query, key, value, packed, dropout=0.2)[:, mine].abs().max() < 100


# -- whole models


def small(**more):
    sizes = dict(hidden_size=64, num_attention_heads=4, num_hidden_layers=2, intermediate_size=96, vocab_size=60)
    still = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, embedding_size=64)
    return ConvBertConfig(**{**sizes, **still, **more})


def padded(lengths):
    generator = torch.Generator().manual_seed(1)
    mask = mask_of(lengths)
    return torch.randint(1, 60, mask.shape, generator=generator).to(HOME) * mask, mask.long()


@pytest.mark.parametrize("K", [3, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_padded_batch_is_each_text_alone(dtype, K):
    torch.manual_seed(0)
    model = ConvBertModel(small(conv_kernel_size=K)).eval().to(HOME, dtype)
    ids, mask = padded([40, 3, 17, 1])
    together = model(ids, mask).last_hidden_state
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = model(ids[row : row + 1, :length]).last_hidden_state[0]
        assert_close(together[row, :length], alone, atol=LOOSE[dtype], rtol=LOOSE[dtype])


@needs_gpu
@pytest.mark.parametrize("words", [60, 64])  # 60 is no multiple of 8: the compiler pads products with the word table
@pytest.mark.parametrize("kernel", ["auto", "banded"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
def test_the_compiled_graph_computes_the_same(precision, kernel, words):
    torch.manual_seed(0)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    model = ConvBertForMaskedLM(small(vocab_size=words)).to(HOME, dtype)
    use_backend(model, kernel)
    other, (ids, mask) = copy.deepcopy(model), padded([40, 3, 17, 1])
    labels = ids.where(mask.bool() & (torch.arange(40, device=HOME) % 3 == 0), -100)
    found = []
    for each in (model, torch.compile(other, fullgraph=True)):
        with torch.autocast(HOME, torch.bfloat16, enabled=precision == "autocast"):
            out = each(ids, mask, labels=labels)
        out.loss.backward()
        found.append((out.loss.float(), out.logits.float() * mask[..., None]))
    loose = 1e-3 if precision == "float32" else 6e-2
    assert_close(*found, atol=loose, rtol=loose)
    apart = {}
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        if a.grad is not None:
            apart[name] = ((a.grad.float() - b.grad.float()).norm() / (a.grad.float().norm() + 1e-6)).item()
    wrong = {name: far for name, far in apart.items() if not far < (1e-3 if precision == "float32" else 0.1)}
    assert not wrong, wrong


@pytest.mark.parametrize(
    ("training", "kernel", "backend"),
    [(False, "auto", "eager"), (True, "auto", "aot_eager"), (True, "banded", "eager")],
)
def test_compiled_layers_leave_padding_out_and_compute_the_same(training, kernel, backend):
    """One graph for all lengths, whatever is padded, and the same gradients."""
    torch._dynamo.reset()  # or the sizes of earlier tests, remembered by file and line, decide which are dynamic here
    torch.manual_seed(0)
    plain = ConvBertForMaskedLM(small(conv_kernel_size=3)).to(HOME).train(training)
    use_backend(plain, kernel)
    quick = copy.deepcopy(plain)
    graphs = torch._dynamo.testing.CompileCounterWithBackend(backend)
    quick.compile_layers("inductor" if HOME == "cuda" else graphs)
    for lengths in ([40, 3, 17, 1], [9, 30, 30], [50, 2], [8, 8], [5, 6, 7, 8, 9], [3, 2]):
        ids, mask = padded(lengths)
        found = []
        for each in (plain, quick):
            each.zero_grad()
            with torch.set_grad_enabled(training):
                out = each(ids, mask, labels=ids.where(mask.bool(), -100))
            if training:
                out.loss.backward()
            found.append((out.logits, out.loss, [p.grad for p in each.parameters() if p.grad is not None]))
        assert_close(*found, atol=1e-4, rtol=1e-3)
    if HOME == "cpu":
        assert 2 <= graphs.frame_count <= 2 + (kernel == "banded"), "one for rows of tokens, one for whole batches"
        x = next(node for node in graphs.graphs[0].graph.nodes if node.name == "l_x_")
        assert x.meta["example_value"].shape[0] == 1, "padding is gone before the graph begins"


def test_compiled_layers_have_graphs_for_each_model_and_give_way_to_a_compiler():
    torch._dynamo.reset()  # what other tests compiled
    ids, mask = padded([9, 4])
    graphs = torch._dynamo.testing.CompileCounterWithBackend("eager")
    with torch.no_grad(), torch._dynamo.config.patch(recompile_limit=3):
        for width in range(4):  # more models than a function may have graphs
            model = (
                ConvBertModel(small(intermediate_size=32 + width, num_hidden_layers=1, conv_kernel_size=3))
                .to(HOME)
                .eval()
            )
            expected = model(ids, mask).last_hidden_state
            model.compile_layers(graphs)
            assert_close(model(ids, mask).last_hidden_state, expected, atol=1e-5, rtol=1e-4)
        assert graphs.frame_count == 4
        whole = torch.compile(model, backend="eager", fullgraph=True)  # as `fit` does
        assert_close(whole(ids, mask).last_hidden_state, expected, atol=1e-5, rtol=1e-4)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_compiled_layers_forget_as_the_plain_ones_do(dtype):
    """With dropout no two runs are equal; their losses lie together."""
    torch.manual_seed(0)
    config = small(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    model = ConvBertForMaskedLM(config).to(HOME, dtype).train()
    quick, (ids, mask) = copy.deepcopy(model), padded([40, 3, 17, 1] * 4)
    quick.compile_layers()
    losses = []
    for each in (model, quick):
        outs = [each(ids, mask, labels=ids.where(mask.bool(), -100)).loss for _ in range(20)]
        outs[-1].backward()
        assert all(torch.isfinite(p.grad).all() for p in each.parameters() if p.grad is not None)
        losses.append(torch.stack([loss.detach().float() for loss in outs]))
    assert losses[0].std() > 0 and losses[1].std() > 0
    assert abs(losses[0].mean() - losses[1].mean()) < 0.05


# -- training


class Words:
    """All that batches need to know of a tokenizer."""

    cls_token_id, sep_token_id, mask_token_id, all_special_ids = 2, 3, 4, [0, 1, 2, 3, 4]

    def __len__(self):
        return 60


@needs_gpu
def test_no_step_waits_for_the_gpu(tmp_path):
    """Between two reports the host gives orders and asks for nothing."""
    text = np.random.default_rng(0).integers(5, 60, 5000).astype(np.uint16)
    batches = MaskedBatches(text, Words(), Masking(0.2, 0.8, 0.1), (16,), 128, device=HOME)
    model = ConvBertForMaskedLM(small(max_position_embeddings=16)).to(HOME)
    recipe = Recipe(steps=19, warmup=2, optimizer="muon", compile=False, save_every=100)
    waited = []

    def watched(step):
        if step == 3:  # the first steps compile Triton's kernels
            torch.cuda.set_sync_debug_mode("error")
        if step == 18:
            torch.cuda.set_sync_debug_mode("default")
        waited.append(step)
        return batches(step)

    try:
        fit(model, watched, recipe, tmp_path)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert waited == list(range(19))


@needs_gpu
def test_batches_on_the_gpu_read_the_same_text():
    text = np.arange(5, 60).repeat(90).astype(np.uint16)
    same = dict(masking=Masking(0.2, 1.0, 0.0), lengths=(16, 64), tokens_per_batch=256)
    here, there = (MaskedBatches(text, Words(), **same, device=device) for device in ("cpu", HOME))
    for step in range(40):
        assert torch.equal(here.rows((16, 64)[step % 2], step), there.rows((16, 64)[step % 2], step).cpu())
        batch = there(step)
        assert all(x.is_cuda for x in batch.values())
        hidden = batch["input_ids"].gather(1, batch["predict_at"])
        assert (hidden == 4).all() and not (batch["labels"] == 4).any()
        assert torch.equal(batch["input_ids"], there(step)["input_ids"]), "a batch is a function of its step"


@needs_gpu
def test_a_gpu_run_that_was_stopped_goes_on(tmp_path):
    text = np.random.default_rng(0).integers(5, 60, 5000).astype(np.uint16)
    batches = MaskedBatches(text, Words(), Masking(0.2, 1.0, 0.0), (16,), 128, device=HOME)
    plan = dict(warmup=0, decay=0, optimizer="muon", compile=False, learning_rate=1e-3)
    ends = []
    for folder, stops in ((tmp_path / "whole", [12]), (tmp_path / "parts", [5, 12])):
        for steps in stops:
            torch.manual_seed(0)
            model = ConvBertForMaskedLM(small(max_position_embeddings=16)).to(HOME)
            fit(model, batches, Recipe(steps=steps, **plan), folder)
        ends.append(model.state_dict())
    for name, value in ends[0].items():
        assert_close(ends[1][name], value, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


@needs_gpu
def test_a_loss_that_is_not_finite_is_found_at_the_report(tmp_path):
    text = np.random.default_rng(0).integers(5, 60, 5000).astype(np.uint16)
    batches = MaskedBatches(text, Words(), Masking(0.2, 1.0, 0.0), (16,), 128, device=HOME)
    model = ConvBertForMaskedLM(small(max_position_embeddings=16)).to(HOME)

    def broken(step):
        if step == 7:
            with torch.no_grad():
                model.predictions.bias.fill_(torch.nan)
        return batches(step)

    with pytest.raises(FloatingPointError, match="the loss is nan at step 7"):
        fit(model, broken, Recipe(steps=40, compile=False), tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()
