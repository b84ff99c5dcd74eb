"""Properties of the model that no reference has: padding, ablation, checkpointing, head sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.profiler import ProfilerActivity

from convbert import modeling
from convbert.ablation import make_head_mask
from convbert.backends.reference import span_conv
from convbert.families.convbert import ConvBertConfig
from convbert.layers.encoder import Encoder
from convbert.modeling import ConvBertForMaskedLM, ConvBertModel
from convbert.runtime import half_precision

SMALL = dict(
    vocab_size=61,
    hidden_size=32,
    embedding_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=64,
    initializer_range=0.2,
)


def make(cls=ConvBertModel, **changes):
    torch.manual_seed(0)
    return cls(ConvBertConfig(**{**SMALL, **changes})).eval()


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    more=st.integers(0, 12),
    kernel=st.sampled_from([3, 5, 9, 11]),
    left=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_sentence_is_the_same_alone_padded_and_in_any_company(lengths, more, kernel, left, seed):
    model = make(conv_kernel_size=kernel)
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randint(1, 61, (n,), generator=generator) for n in lengths]
    T = max(lengths) + more
    ids, mask, positions = (torch.zeros(len(texts), T, dtype=torch.long) for _ in range(3))
    spans = [slice(T - n, T) if left else slice(0, n) for n in lengths]
    for i, (text, span) in enumerate(zip(texts, spans, strict=True)):
        ids[i, span], mask[i, span], positions[i, span] = text, 1, torch.arange(len(text))
    # what stands in the padding must not matter either
    ids[mask == 0] = torch.randint(0, 61, (int((mask == 0).sum()),), generator=generator)
    with torch.inference_mode():
        together = model(ids, mask, position_ids=positions if left else None).last_hidden_state
        for i, (text, span) in enumerate(zip(texts, spans, strict=True)):
            alone = model(text[None]).last_hidden_state[0]
            torch.testing.assert_close(together[i, span], alone, atol=1e-5, rtol=0)


class Keeping(nn.Linear):
    """A linear map of somebody else's, which keeps what it returned."""

    def forward(self, x):
        self.keep(super().forward(x))
        return self.kept[-1][0]

    def keep(self, wide):
        vars(self).setdefault("kept", []).append((wide, wide.clone()))


def keep_by_hook(up):
    up.kept = []
    up.register_forward_hook(lambda up, given, wide: Keeping.keep(up, wide))


def keep_by_forward(up):
    """As accelerate does."""
    plain = up.forward
    up.forward = lambda x: (Keeping.keep(up, plain(x)), up.kept[-1][0])[1]


def keep_by_class(up):
    up.__class__ = Keeping


@pytest.mark.parametrize("keep", [keep_by_hook, keep_by_forward, keep_by_class])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu", "tanh"])
def test_whoever_keeps_features_keeps_them_as_they_were(activation, keep):
    model, ids = make(hidden_act=activation), torch.arange(1, 21).view(2, 10)
    graded = model(ids).last_hidden_state.detach()
    with torch.inference_mode():
        plain = model(ids).last_hidden_state
        keep(up := model.encoder.layers[0].feed_forward.up)
        seen = model(ids).last_hidden_state
    torch.testing.assert_close(plain, graded, atol=1e-6, rtol=0)
    torch.testing.assert_close(seen, plain, atol=1e-6, rtol=0)
    ((wide, copy),) = up.kept
    torch.testing.assert_close(wide, copy, atol=0, rtol=0)


def test_a_hook_on_everything_sees_features_as_they_were():
    model, kept = make(), []
    up = model.encoder.layers[0].feed_forward.up
    hook = nn.modules.module.register_module_forward_hook(
        lambda module, given, wide: kept.append((wide, wide.clone())) if module is up else None
    )
    try:
        with torch.inference_mode():
            model(torch.arange(1, 21).view(2, 10))
    finally:
        hook.remove()
    ((wide, copy),) = kept
    torch.testing.assert_close(wide, copy, atol=0, rtol=0)


@pytest.mark.parametrize(("grad", "operator"), [(False, "aten::gelu_"), (True, "aten::gelu")])
def test_features_are_bent_in_place_where_no_gradient_needs_them(grad, operator):
    model, ids = make(), torch.arange(1, 21).view(2, 10)
    with torch.set_grad_enabled(grad), torch.profiler.profile(activities=[ProfilerActivity.CPU]) as ran:
        model(ids)
    assert {event.key for event in ran.key_averages() if "gelu" in event.key} == {operator}


def test_legacy_padding_does_leak():
    model = make(conv_padding="legacy")
    ids = torch.randint(1, 61, (1, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])
    alone, padded = model(ids[:, :5]).last_hidden_state, model(ids, mask).last_hidden_state[:, :5]
    assert (alone - padded).abs().max() > 1e-3, "this setting exists to reproduce transformers, which leaks"


@pytest.mark.parametrize("length", [1, 2, 4, 9, 64])
def test_every_length_up_to_the_limit_is_finite(length):
    output = make()(torch.randint(1, 61, (2, length)), output_attentions=True)
    assert output.last_hidden_state.isfinite().all()
    assert output.conv_kernels[0].shape == (2, 2, length, 9)


def test_asking_for_maps_changes_nothing():
    model = make()
    ids = torch.randint(1, 61, (3, 12))
    mask = (torch.arange(12) < torch.tensor([[12], [5], [1]])).long()
    plain = model(ids, mask).last_hidden_state
    torch.testing.assert_close(model(ids, mask, output_attentions=True).last_hidden_state, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("maps", [False, True])
def test_gradient_checkpointing_runs_layers_again_and_gives_the_same_gradients(maps):
    grads, runs = [], []
    for on in (False, True):
        model = make(ConvBertForMaskedLM, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3).train()
        model.gradient_checkpointing_enable(on)
        count = []
        for layer in model.encoder.layers:
            layer.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        ids = torch.randint(1, 61, (2, 10), generator=torch.Generator().manual_seed(1))
        torch.manual_seed(5)  # the same dropout both times
        model(ids, labels=ids, output_attentions=maps).loss.backward()
        grads.append({n: p.grad for n, p in model.named_parameters()})
        runs.append(len(count))
    assert runs == [2, 4]
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("slow", [set(), {torch.float16, torch.bfloat16}])
def test_half_precision_is_finite_and_near_float32(dtype, maps, slow, monkeypatch):
    monkeypatch.setattr(half_precision, "EMULATED", slow)  # what the processor has no instructions for
    model = make(initializer_range=0.1)
    ids = torch.randint(1, 61, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(12) < torch.tensor([[12], [5], [0]])).long()
    off = make_head_mask(model.config, attention=[(0, 0)], conv=[(1, 1)])
    with torch.inference_mode():
        expected = model(ids, mask, head_mask=off).last_hidden_state
        told = model.to(dtype)(ids, mask, head_mask=off, output_attentions=maps, output_hidden_states=True)
    got, seen = told.last_hidden_state, (*(told.attentions or ()), *(told.conv_kernels or ()))
    assert {x.dtype for x in (got, *told.hidden_states, *seen)} == {dtype} and got.isfinite().all()
    # the last row is all padding: finite is what can be asked of it
    torch.testing.assert_close(got.float()[:2], expected[:2], atol=0.12, rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("again", [False, True])  # gradient checkpointing
def test_where_halves_are_slow_layers_compute_in_float32(dtype, again, monkeypatch):
    """Exactly what float32 layers with the same numbers give; gradients reach the parameters in their own precision."""
    monkeypatch.setattr(half_precision, "EMULATED", {dtype})
    half = make(ConvBertForMaskedLM, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).to(dtype).train()
    full = make(ConvBertForMaskedLM, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    full.load_state_dict({name: x.float() for name, x in half.state_dict().items()})
    half.gradient_checkpointing_enable(again)
    ids = torch.randint(1, 61, (3, 12), generator=torch.Generator().manual_seed(0))
    embedded = half.encoder.embeddings(ids)
    full.encoder.embeddings.forward = lambda *_: embedded.detach().float()  # whose norm is in half precision
    for model in (half, full):
        model(ids, labels=ids.where(ids > 40, -100)).loss.backward()
    theirs = dict(full.encoder.layers.named_parameters())
    for name, p in half.encoder.layers.named_parameters():
        assert p.dtype == p.grad.dtype == dtype
        assert torch.nn.functional.cosine_similarity(p.grad.flatten().float(), theirs[name].grad.flatten(), 0) > 0.999
    with torch.inference_mode():
        assert half(ids).logits.dtype == dtype
        layer, x = half.encoder.layers[0].eval(), embedded.detach()
        told, _ = half_precision.call_in_float32(layer, layer.mixer.qkv_proj.weight, x)
        assert torch.equal(told, full.encoder.layers[0].eval()(x.float())[0])


class Adapted(torch.nn.Module):
    """A map with parameters and a buffer of its own beside it, as adapters have them."""

    def __init__(self, inner):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(()))  # in float32
        self.inner = inner
        self.register_buffer("extra", torch.zeros(inner.in_features, inner.out_features, dtype=torch.bfloat16))

    def forward(self, x):
        return self.inner(x) * self.factor + x @ self.extra


def test_slow_halves_train_with_adapters(monkeypatch):
    monkeypatch.setattr(half_precision, "EMULATED", {torch.bfloat16})
    model = make().bfloat16().train()
    for layer in model.encoder.layers:
        layer.feed_forward.down = Adapted(layer.feed_forward.down)
    model(torch.randint(1, 61, (3, 12))).last_hidden_state.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.encoder.layers.parameters())


def test_compiled_halves_are_the_same(monkeypatch):
    monkeypatch.setattr(half_precision, "EMULATED", {torch.bfloat16})
    model, ids = make().bfloat16(), torch.randint(1, 61, (2, 8))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(ids).last_hidden_state, model(ids).last_hidden_state)


@pytest.mark.parametrize("kind", [0, 1])
def test_knocking_out_a_head_is_zeroing_its_slice_of_the_output_projection(kind):
    model = make()
    ids = torch.randint(1, 61, (2, 7), generator=torch.Generator().manual_seed(2))
    spots = {("attention", "conv")[kind]: [(1, 0)]}
    silenced = model(ids, head_mask=make_head_mask(model.config, **spots)).last_hidden_state
    d, mixer = model.config.mixed_head_size, model.encoder.layers[1].mixer
    with torch.no_grad():
        mixer.output.weight[:, kind * model.config.mixed_width :][:, :d] = 0
    torch.testing.assert_close(model(ids).last_hidden_state, silenced, atol=1e-6, rtol=0)


def test_span_conv_equals_its_definition(generator):
    B, T, H, d, K = 2, 7, 3, 4, 5
    value, scores = torch.randn(B, T, H, d, generator=generator), torch.randn(B, T, H, K, generator=generator)
    kernel, expected = scores.exp() / scores.exp().sum(-1, keepdim=True), torch.zeros_like(value)
    for t in range(T):
        for k in range(K):
            if 0 <= t + k - K // 2 < T:
                expected[:, t] += kernel[:, t, :, k, None] * value[:, t + k - K // 2]
    torch.testing.assert_close(span_conv(value, scores), expected)


def test_original_head_size_rule_builds_the_official_small_generator():
    config = ConvBertConfig(
        hidden_size=64, num_attention_heads=1, embedding_size=128, intermediate_size=256, head_size_rule="original"
    )
    mixer = Encoder(config).layers[0].mixer
    assert mixer.qkv_proj.weight.shape == (4 * 64, 64) and mixer.output.weight.shape == (64, 128)
    halved = Encoder(config.replace(head_size_rule="transformers")).layers[0].mixer
    assert halved.qkv_proj.weight.shape == (4 * 32, 64) and halved.output.weight.shape == (64, 64)


@pytest.mark.parametrize(("rule", "std"), [("original", 1 / 9), ("transformers", 0.02)])
def test_depthwise_filters_start_with_the_named_spread(rule, std):
    config = ConvBertConfig(vocab_size=9, num_hidden_layers=1, depthwise_init=rule)
    filters = ConvBertModel(config).encoder.layers[0].mixer.span_depthwise
    assert abs(filters.std().item() / std - 1) < 0.05


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(), "exactly one of input_ids and inputs_embeds"),
        (dict(input_ids=torch.tensor([[61]])), "token id 61 is outside the vocabulary of vocab_size=61"),
        (dict(input_ids=torch.tensor([[-1]])), "token id -1 is outside"),
        (dict(input_ids=torch.ones(1, 65, dtype=torch.long)), "max_position_embeddings=64"),
        (dict(input_ids=torch.tensor([1, 2])), "(batch, tokens)"),
        (dict(input_ids=torch.ones(2, 3, dtype=torch.long), attention_mask=torch.ones(2, 4)), "attention_mask"),
        (dict(input_ids=torch.tensor([[1]]), token_type_ids=torch.tensor([[2]])), "token type 2 is outside"),
        (dict(input_ids=torch.tensor([[1]]), position_ids=torch.tensor([[64]])), "position 64 is outside"),
        (dict(input_ids=torch.tensor([[1]]), head_mask=torch.ones(2, 2)), "it must have (2, 2, 2)"),
        (dict(inputs_embeds=torch.ones(1, 3, 32)), "(batch, tokens, 16)"),
    ],
)
def test_bad_input_is_named(given, words):
    with pytest.raises(ValueError, match=None) as error:
        make()(**given)
    assert words in str(error.value)


def test_an_unknown_argument_is_refused():
    with pytest.raises(TypeError, match="attention_masks"):
        make()(torch.ones(1, 2, dtype=torch.long), attention_masks=None)


@pytest.mark.parametrize("name", ["ConvBertForMultipleChoice", "ConvBertForQuestionAnswering"])
def test_num_labels_has_no_say_where_the_task_fixes_it(name):
    model = make(getattr(modeling, name), num_labels=5)
    ids = torch.ones(2, 3, 4, dtype=torch.long)
    output = model(ids) if name == "ConvBertForMultipleChoice" else model(ids[0])
    assert output[0].shape == ((2, 3) if name == "ConvBertForMultipleChoice" else (3, 4))


def test_padded_choices_are_not_all_alike():
    model = make(modeling.ConvBertForMultipleChoice)
    ids = torch.randint(1, 61, (1, 3, 9), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[..., 4:] = 0
    scores = model(ids, mask).logits
    torch.testing.assert_close(scores, model(ids[..., :4]).logits, atol=1e-5, rtol=0)
    assert len(set(scores[0].tolist())) == 3


def test_the_model_compiles_without_a_graph_break():
    model = make()
    ids = torch.randint(1, 61, (2, 8))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(ids).last_hidden_state, model(ids).last_hidden_state)


def test_a_mask_may_come_later_to_a_compiled_model():
    """Ids of two shapes first: torch then takes their sizes for symbols, and those of a new mask for numbers."""
    torch.compiler.reset()  # graphs of other tests count towards torch's limit for the same code
    model = make()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.inference_mode():
        for B, T in [(2, 8), (3, 11)]:
            compiled(torch.randint(1, 61, (B, T)))
        ids, mask = torch.randint(1, 61, (2, 8)), torch.ones(2, 8, dtype=torch.long)
        mask[1, 5:] = 0
        told, wanted = compiled(ids, mask), model(ids, mask)
    torch.testing.assert_close(told.last_hidden_state, wanted.last_hidden_state, atol=1e-5, rtol=1e-4)


HEADS = {name: cls for name, cls in vars(modeling).items() if name.startswith("ConvBertFor")} | {"none": ConvBertModel}


@pytest.mark.parametrize("name", HEADS)
def test_changing_shapes_are_compiled_a_few_times(name):
    """The first shape, one graph for all others, and one for a single text or token, which torch treats apart."""
    torch.compiler.reset()
    model, graphs = make(HEADS[name]), []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=count)
    for B, T in [(2, 8), (3, 11), (5, 17), (2, 30), (4, 9), (6, 64), (1, 12), (1, 40)]:
        ids = torch.randint(1, 61, (B, T), generator=torch.Generator().manual_seed(T))
        mask = (torch.arange(T) < torch.randint(1, T + 1, (B, 1), generator=torch.Generator().manual_seed(T))).long()
        batch = {"input_ids": ids * mask, "attention_mask": mask}
        if name == "ConvBertForMultipleChoice":
            batch = {key: x[:, None].repeat(1, 3, 1) for key, x in batch.items()}
        with torch.inference_mode():
            told, wanted = compiled(**batch), model(**batch)
        for key in wanted.keys():
            torch.testing.assert_close(told[key], wanted[key], atol=1e-5, rtol=1e-4)
    assert len(graphs) <= 3
