"""Hidden states, attention maps and kernels are the tensors that scores are computed from: gradients pass through."""

import pytest
import torch
from torch.testing import assert_close

import convbert
from convbert import ConvBertConfig

HEADS = ("Model", *(f"For{n}" for n in ("MaskedLM", "SequenceClassification", "TokenClassification")))
HEADS += "ForQuestionAnswering", "ForMultipleChoice"
LENGTHS = {"no padding": (6, 6, 6), "padding": (6, 2, 4), "an empty row": (6, 0, 3), "one token": (1, 1, 6)}
WANTED = {"hidden_states": "output_hidden_states", "attentions": "output_attentions"}
WANTED["conv_kernels"] = "output_attentions"


def make(head="ForMaskedLM", **changes):
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, embedding_size=8, num_hidden_layers=2, num_attention_heads=4, intermediate_size=20)
    return getattr(convbert, f"ConvBert{head}")(ConvBertConfig(vocab_size=30, conv_kernel_size=3, **sizes, **changes))


def batch(lengths, left=False, choices=False):
    mask = (torch.arange(6) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(1, 30, mask.shape, generator=torch.Generator().manual_seed(0)) * mask
    ids, mask = (ids.flip(1), mask.flip(1)) if left else (ids, mask)
    return {"input_ids": ids[:, None] if choices else ids, "attention_mask": mask[:, None] if choices else mask}


def total(output):
    """A loss that weighs every score differently."""
    scores = [output[name] for name in output if name not in WANTED]
    return sum((x * torch.arange(1.0, x.numel() + 1).view_as(x)).sum() for x in scores)


def gradients(model, inputs, **wanted):
    """The loss, and its gradients by the parameters."""
    model.zero_grad()
    loss = total(model(**inputs, **wanted))
    loss.backward()
    return loss, [p.grad for p in model.parameters()]


def check(model, inputs, name):
    model.zero_grad()
    output = model(**inputs, **{WANTED[name]: True})
    for each in output[name]:
        each.retain_grad()
    total(output).backward()
    for place, each in enumerate(output[name]):
        assert each.grad is not None, f"{name}[{place}] is outside the graph"
        assert each.grad.abs().sum() > 0, f"{name}[{place}] has no part in the loss"
    return output


@pytest.mark.parametrize("name", WANTED)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("head", HEADS)
def test_every_head(head, lengths, name):
    model, inputs = make(head).eval(), batch(lengths, choices=head == "ForMultipleChoice")
    check(model, inputs, name)
    (loss, plain), (same, recorded) = gradients(model, inputs), gradients(model, inputs, **{WANTED[name]: True})
    assert_close(same, loss, atol=1e-4, rtol=1e-5)
    for p, q in zip(plain, recorded, strict=True):
        assert_close(q, p, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", WANTED)
@pytest.mark.parametrize(
    "variant",
    ["left", "legacy", "training", "checkpointed", "reference", "onnx", "compiled layers", "holes", "embeddings"],
)
def test_every_way_to_run(variant, name):
    changes = dict(conv_padding="legacy") if variant == "legacy" else {}
    drop = (
        dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0) if variant == "checkpointed" else {}
    )
    model = make(**changes, **drop).train(variant in ("training", "checkpointed"))
    inputs = batch((6, 2, 4), left=variant == "left")
    if variant == "holes":
        inputs["attention_mask"][0, 2] = 0
    if variant == "embeddings":
        ids = inputs.pop("input_ids")
        inputs["inputs_embeds"] = model.get_input_embeddings()(ids).detach()
    if variant == "checkpointed":
        model.gradient_checkpointing_enable()
    if variant in ("reference", "onnx"):
        convbert.backends.dispatch.use_backend(model, variant)
    if variant == "compiled layers":
        model.compile_layers("eager")
    check(model, inputs, name)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_all_outputs_together(lengths):
    model, inputs = make("Model").eval(), batch(lengths)
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert output.hidden_states[-1] is output.last_hidden_state
    every = [each for name in WANTED for each in output[name]]
    found = torch.autograd.grad(total(output), every)
    assert all(gradient.abs().sum() > 0 for gradient in found)


def test_the_gradient_by_a_finite_difference():
    """A small change of a hidden state changes the loss as its gradient predicts."""
    model, inputs = make().eval().double(), batch((6, 2, 4))
    output = check(model, inputs, "hidden_states")
    middle, step = output.hidden_states[1], 1e-6

    def push(layer, args, result):
        rows = middle.grad[inputs["attention_mask"].bool()]  # the layers see no padding
        return result[0] + step * rows.view_as(result[0]), result[1]

    hook = model.encoder.layers[0].register_forward_hook(push)
    with torch.no_grad():
        changed = total(model(**inputs))
    hook.remove()
    assert_close((changed - total(output)) / step, middle.grad.square().sum(), rtol=1e-3, atol=1e-3)


def test_without_gradients_nothing_changes():
    model, inputs = make().eval(), batch((6, 2, 4))
    with torch.no_grad():
        plain, recorded = model(**inputs), model(**inputs, output_hidden_states=True)
    assert plain.logits.equal(recorded.logits)
    assert not any(each.requires_grad for each in recorded.hidden_states)
    for each in recorded.hidden_states:
        assert not each[inputs["attention_mask"] == 0].any()
