"""transformers' ConvBERT after `speed_up`: same outputs, same parameters, and undo."""

import copy
import io
import pickle
import sys
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

import convbert
from convbert import speed_up, undo_speed_up
from convbert.backends.dispatch import use_backend
from convbert.speedup import Depthwise, FastAttention, Pointwise, cast_bias

transformers = pytest.importorskip("transformers", reason="the models to speed up are those of transformers")

HEADS = sorted(name for name in dir(transformers) if name.startswith("ConvBertFor")) + ["ConvBertModel"]
SIZES = dict(
    vocab_size=97,
    hidden_size=48,
    embedding_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=40,
    num_labels=3,
    summary_type="first",
    pad_token_id=0,
)
SHAPES = {
    "plain": {},
    "groups": dict(num_groups=2),
    "kernel5": dict(conv_kernel_size=5),
    "ratio1": dict(head_ratio=1),
    "ratio_above_heads": dict(head_ratio=8),
}


def make(name="ConvBertModel", dropout=0.0, **shape):
    """A model of transformers with weights large enough for every part to matter."""
    torch.manual_seed(0)
    if name == "ConvBertForQuestionAnswering":
        shape = {**shape, "num_labels": 2}
    drop = dict(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    model = getattr(transformers, name)(transformers.ConvBertConfig(**{**SIZES, **drop, **shape})).eval()
    for p in model.parameters():
        p.data.normal_(0, 0.2)
    return model


def batch_for(name="ConvBertModel", padded=True, T=17):
    """Random tokens of three texts, padded or not."""
    generator = torch.Generator().manual_seed(0)
    rows = (3, 4, T) if name == "ConvBertForMultipleChoice" else (3, T)
    mask = torch.ones(rows, dtype=torch.long)
    if padded:
        mask[0, ..., T - 5 :], mask[1, ..., 2:] = 0, 0
    ids = torch.randint(1, SIZES["vocab_size"], rows, generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask}


def labels_for(name):
    """What each head learns from."""
    one, each = torch.tensor([0, 2, 1]), torch.randint(0, 3, (3, 17), generator=torch.Generator().manual_seed(1))
    if name == "ConvBertForQuestionAnswering":
        return {"start_positions": one, "end_positions": one + 1}
    return {"labels": each if name in ("ConvBertForMaskedLM", "ConvBertForTokenClassification") else one}


def gradients(model, **batch):
    """The loss and the gradient of every parameter that has one."""
    model.zero_grad()
    out = model(**batch)
    loss = out.loss if "loss" in out else out.last_hidden_state.square().mean()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def attention_of(model):
    """The mixed attention of every layer."""
    return [layer.attention.self for layer in model.base_model.encoder.layer]


# -- the same outputs


@pytest.mark.parametrize("padded", [False, True], ids=["dense", "padded"])
@pytest.mark.parametrize("name", HEADS)
def test_outputs_and_gradients_are_theirs(name, padded):
    theirs = make(name).train()
    ours = speed_up(copy.deepcopy(theirs))
    assert all(isinstance(part, FastAttention) for part in attention_of(ours))
    batch = {**batch_for(name, padded), **({} if name == "ConvBertModel" else labels_for(name))}
    assert_close(ours(**batch).to_tuple(), theirs(**batch).to_tuple(), atol=1e-5, rtol=1e-5)
    assert_close(gradients(ours, **batch), gradients(theirs, **batch), atol=1e-5, rtol=1e-4)
    with torch.inference_mode():
        assert_close(ours.eval()(**batch).to_tuple(), theirs.eval()(**batch).to_tuple(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_shape(shape):
    theirs, batch = make(**shape), batch_for()
    expected, grads = theirs(**batch).last_hidden_state, gradients(theirs, **batch)
    assert_close(speed_up(theirs)(**batch).last_hidden_state, expected, atol=1e-5, rtol=1e-5)
    assert_close(gradients(theirs, **batch), grads, atol=1e-5, rtol=1e-4)


PAIR = []


@settings(deadline=None, max_examples=40)
@given(lengths=st.lists(st.integers(0, 12), min_size=1, max_size=5), left=st.booleans())
def test_any_padding(lengths, left):
    """Empty texts too: their attention is uniform in transformers, and so it is here."""
    if not PAIR:
        PAIR.extend((make(), speed_up(make())))
    mask = (torch.arange(12) < torch.tensor(lengths)[:, None]).long()
    mask = mask.flip(1) if left else mask
    ids = torch.randint(1, 97, mask.shape, generator=torch.Generator().manual_seed(0))
    theirs, ours = (model(ids, mask).last_hidden_state for model in PAIR)
    assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["none", "float", "whole", "bool"])
def test_every_kind_of_mask(kind):
    theirs, batch = make(), batch_for()
    allowed = torch.rand(3, 1, 17, 17, generator=torch.Generator().manual_seed(0)) > 0.3
    masks = {"none": None, "float": torch.zeros(3, 1, 17, 17).masked_fill(~allowed, -1e4)}
    batch["attention_mask"] = {**masks, "whole": allowed.long(), "bool": allowed}[kind]
    expected = theirs(**batch).last_hidden_state
    assert_close(speed_up(theirs)(**batch).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near(dtype):
    """As near to the exact numbers as theirs are."""
    model, batch = make(), batch_for()
    exact = model(**batch).last_hidden_state
    model.to(dtype)
    theirs = model(**batch).last_hidden_state
    ours = speed_up(model)(**batch).last_hidden_state
    assert ours.dtype == dtype
    assert (ours - exact).abs().max() < 2 * (theirs - exact).abs().max()


def test_autocast_trains_like_theirs():
    model, batch = make("ConvBertForMaskedLM").train(), {**batch_for(), **labels_for("ConvBertForMaskedLM")}
    exact = gradients(model, **batch)[1]
    errors = []
    for change in (lambda m: m, speed_up):
        with torch.autocast("cpu", torch.bfloat16):
            grads = gradients(change(model), **batch)[1]
        assert all(grad.isfinite().all() for grad in grads.values())
        errors.append(sum((grads[name] - exact[name]).square().sum() for name in exact).sqrt())
    assert errors[1] < 1.5 * errors[0]


def test_dropout_is_theirs():
    """Off at 0 and in eval mode, and on average what it is without."""
    model, batch = make(), batch_for()
    exact = model(**batch).last_hidden_state
    speed_up(model)
    for part in attention_of(model):
        part.dropout.p = 0.5
    assert_close(model(**batch).last_hidden_state, exact, atol=1e-5, rtol=1e-5)
    layer = attention_of(model)[0].train()
    x = torch.randn(1, 6, 48, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    many = torch.cat([layer(x.expand(500, -1, -1))[0] for _ in range(10)])
    attention_heads, conv_heads = many.split(many.shape[-1] // 2, dim=-1)
    assert conv_heads.std(0).max() < 1e-5  # attention alone drops
    difference = attention_heads.mean(0) - layer.eval()(x)[0][0, :, : attention_heads.shape[-1]]
    assert (difference.abs() < 5 * attention_heads.std(0) / len(attention_heads) ** 0.5).all()
    theirs = undo_speed_up(layer).train()
    expected = torch.cat([theirs(x.expand(500, -1, -1))[0] for _ in range(10)])[..., : attention_heads.shape[-1]]
    assert_close(attention_heads.std(0), expected.std(0), atol=0, rtol=0.1)


# -- attention maps, checkpointing, cross-attention, adapters


@pytest.mark.parametrize("where", ["call", "config"])
@pytest.mark.parametrize("name", HEADS)
def test_maps_are_theirs(name, where):
    theirs, batch = make(name), batch_for(name)
    ours = speed_up(copy.deepcopy(theirs))
    ask = {"output_hidden_states": True, **({"output_attentions": True} if where == "call" else {})}
    for model in (theirs, ours):
        model.config.output_attentions = where == "config"
    expected, found = theirs(**batch, **ask), ours(**batch, **ask)
    assert len(found.attentions) == 2
    for key in expected:
        assert_close(found[key], expected[key], atol=1e-5, rtol=1e-5, msg=key)
    ours.config.output_attentions = False
    assert ours(**batch).attentions is None and ours(**batch, output_attentions=False).attentions is None


def test_gradient_checkpointing():
    theirs = make("ConvBertForMaskedLM").train()
    batch = {**batch_for(), **labels_for("ConvBertForMaskedLM")}
    expected = gradients(theirs, **batch)
    speed_up(theirs).activation_checkpointing_enable()
    assert_close(gradients(theirs, **batch), expected, atol=1e-5, rtol=1e-4)


def test_cross_attention_is_theirs():
    layer, generator = attention_of(make())[0], torch.Generator().manual_seed(0)
    x, other = torch.randn(2, 2, 5, 48, generator=generator)
    expected = layer(x, None, encoder_hidden_states=other)
    assert_close(speed_up(layer)(x, None, encoder_hidden_states=other), expected)


@pytest.mark.parametrize("when", ["before", "after"])
def test_adapters_in_a_projection_are_called(when):
    """Adapters and hooks, added before or after."""

    class Adapter(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base, self.extra = base, nn.Linear(48, 24)

        def forward(self, x):
            return self.base(x) + self.extra(x)

    def adapt(model):
        torch.manual_seed(1)
        for part in attention_of(model):
            part.query, part.conv_out_layer = Adapter(part.query), Adapter(part.conv_out_layer)
            part.key.register_forward_hook(lambda module, given, out: out * 2)
            part.key_conv_attn_layer.depthwise.register_forward_hook(lambda module, given, out: out * 3)
        return model

    batch, plain = batch_for(), make()(**batch_for()).last_hidden_state
    expected = adapt(make())(**batch).last_hidden_state
    ours = adapt(speed_up(make())) if when == "after" else speed_up(adapt(make()))
    assert (expected - plain).abs().max() > 0.1
    assert_close(ours(**batch).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def test_a_wrapped_convolution_is_left_alone():
    class Loud(nn.Conv1d):
        def forward(self, x):
            return super().forward(x) * 2

    model, batch = make(), batch_for()
    for part in attention_of(model):
        part.key_conv_attn_layer.depthwise.__class__ = Loud
    expected = model(**batch).last_hidden_state
    assert_close(speed_up(model)(**batch).last_hidden_state, expected, atol=1e-5, rtol=1e-5)
    assert type(attention_of(undo_speed_up(model))[0].key_conv_attn_layer.depthwise) is Loud


# -- the parameters are theirs


def changes(model):
    """Ways to change weights under a model that has run already."""
    other = {name: value + 0.1 for name, value in model.state_dict().items()}
    weight = attention_of(model)[0].value.weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step():
        gradients(model, **batch_for())
        optimizer.step()

    def in_place():
        with torch.no_grad():
            weight.mul_(2)

    def replace():
        attention_of(model)[0].value.weight = nn.Parameter(weight.detach() * 2)

    return {
        "data": lambda: weight.data.mul_(2),
        "no_grad": in_place,
        "load": lambda: model.load_state_dict(other),
        "optimizer": step,
        "replace": replace,
    }


@pytest.mark.parametrize("how", ["data", "no_grad", "load", "optimizer", "replace"])
def test_changed_weights_are_noticed(how):
    model, batch = speed_up(make()), batch_for()
    with torch.no_grad():
        before = model(**batch).last_hidden_state
    changes(model)[how]()
    with torch.no_grad():
        after = model(**batch).last_hidden_state
        assert (after - before).abs().max() > 1e-3
        assert_close(after, undo_speed_up(model)(**batch).last_hidden_state, atol=1e-5, rtol=1e-5)


def test_parameters_keep_names_and_identity():
    model = make("ConvBertForMaskedLM")
    before = dict(model.named_parameters())
    buffers, keys = list(dict(model.named_buffers())), list(model.state_dict())
    after = dict(speed_up(model).named_parameters())
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)
    assert list(dict(model.named_buffers())) == buffers and list(model.state_dict()) == keys


def test_save_and_load(tmp_path):
    model, batch = speed_up(make("ConvBertForMaskedLM")), batch_for()
    expected = model(**batch).logits
    model.save_pretrained(tmp_path)
    again = transformers.ConvBertForMaskedLM.from_pretrained(tmp_path).eval()
    assert type(attention_of(again)[0]).__name__ == "ConvBertSelfAttention"
    assert_close(again(**batch).logits, expected, atol=1e-5, rtol=1e-5)


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


def through_a_file(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle, through_a_file])
def test_copies_stand_alone(copied):
    model, batch = speed_up(make()), batch_for()
    expected = model(**batch).last_hidden_state
    twin = copied(model)
    assert all(isinstance(part, FastAttention) for part in attention_of(twin))
    assert attention_of(twin)[0].model_config is twin.config
    for p in model.parameters():
        p.data.zero_()
    assert_close(twin(**batch).last_hidden_state, expected)
    plain = undo_speed_up(twin)
    assert type(attention_of(plain)[0]) is type(attention_of(make())[0])
    assert_close(plain(**batch).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def test_a_copy_of_one_layer():
    layer = attention_of(speed_up(make()))[0]
    x = torch.randn(2, 5, 48)
    assert_close(copy.deepcopy(layer)(x)[0], layer(x)[0])


@pytest.mark.slow
def test_it_compiles_without_a_graph_break():
    model, batch = make(), batch_for()
    expected = model(**batch).last_hidden_state
    compiled = torch.compile(speed_up(model), fullgraph=True, backend="eager")
    assert_close(compiled(**batch).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_compiled_model_may_be_sped_up_and_undone():
    model, batch = make(), batch_for()
    expected = model(**batch).last_hidden_state
    compiled = torch.compile(model, backend="eager")
    for change in (lambda m: m, speed_up, undo_speed_up):
        change(compiled)
        assert_close(compiled(**batch).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


# -- apply and undo


def shape_of(model):
    """The class and the own attributes of every module, by its name."""
    return {name: (type(part), sorted(vars(part))) for name, part in model.named_modules()}


def test_undo_leaves_nothing():
    model, batch = make(), batch_for()
    before, expected = shape_of(model), model(**batch).last_hidden_state
    speed_up(model)
    use_backend(model, "reference")
    assert shape_of(undo_speed_up(model)) == before
    assert torch.equal(model(**batch).last_hidden_state, expected)
    assert shape_of(undo_speed_up(model)) == before


def test_twice_is_once():
    model = speed_up(make())
    before = shape_of(model)
    assert speed_up(model) is model and shape_of(model) == before
    assert type(attention_of(undo_speed_up(model))[0]) is type(attention_of(make())[0])


def test_the_backend_can_be_chosen():
    model, batch = make(), batch_for()
    expected = model(**batch).last_hidden_state
    use_backend(speed_up(model), "reference")
    changed = [part.backend for part in model.modules() if isinstance(part, FastAttention | Depthwise)]
    assert changed == ["reference"] * 4
    assert_close(model(**batch).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def test_every_part_is_reached():
    parts = list(speed_up(make()).modules())
    for kind in (FastAttention, Depthwise, Pointwise):
        assert sum(isinstance(part, kind) for part in parts) == 2, kind


def test_a_model_inside_another():
    """The config that a layer asks is that of the model around it, not of what holds that model."""
    outer = nn.Module()
    outer.inner, outer.config = make(), object()
    assert all(part.model_config is outer.inner.config for part in attention_of(speed_up(outer).inner))


def other_models():
    """What is no ConvBERT of transformers, and the words that say so."""
    sizes = dict(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    yield nn.Linear(2, 2), "Linear has no ConvBertSelfAttention.*a ConvBERT of transformers"
    yield transformers.BertModel(transformers.BertConfig(**sizes)), "BertModel has no ConvBertSelfAttention"
    yield "YituTech/conv-bert-base", "str has no ConvBertSelfAttention"
    config = convbert.ConvBertConfig(**sizes)
    for name in ("ConvBertModel", "ConvBertForMaskedLM"):
        yield getattr(convbert, name)(config), f"{name} is convbert's own, which is fast already"


@pytest.mark.parametrize("model, words", list(other_models()), ids=lambda x: type(x).__name__)
def test_other_models_are_refused(model, words):
    with pytest.raises(TypeError, match=words):
        speed_up(model)


def test_a_replaced_forward_is_refused():
    """And nothing is changed: a forward on the instance would keep running, and nothing would be faster."""
    model = make()
    part = attention_of(model)[1]
    part.forward = part.forward
    before = shape_of(model)
    with pytest.raises(ValueError, match=r"encoder\.layer\.1\.attention\.self"):
        speed_up(model)
    assert shape_of(model) == before


def test_the_bias_stays_finite():
    lowest = torch.tensor([0.0, torch.finfo(torch.float32).min])
    for dtype in (torch.bfloat16, torch.float16):
        assert cast_bias(lowest, dtype).dtype == dtype and cast_bias(lowest, dtype).isfinite().all()
    assert cast_bias(lowest, torch.float32) is lowest


def test_transformers_is_not_imported():
    assert "transformers" not in vars(sys.modules["convbert.speedup"])


def test_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        undo_speed_up(speed_up(make()))
