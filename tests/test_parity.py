"""The six heads against transformers: outputs, losses and gradients, over the shapes a ConvBERT can take."""

import pytest
import torch

from convbert import modeling
from convbert.checkpoints import from_disk
from convbert.families.convbert import ConvBertConfig

transformers = pytest.importorskip(
    "transformers", reason="the reference is not installed: pip install transformers==5.23.0"
)

HEADS = [
    "ConvBertModel",
    "ConvBertForMaskedLM",
    "ConvBertForSequenceClassification",
    "ConvBertForMultipleChoice",
    "ConvBertForTokenClassification",
    "ConvBertForQuestionAnswering",
]
BASE = dict(
    vocab_size=97,
    hidden_size=48,
    embedding_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=96,
    max_position_embeddings=40,
    num_labels=3,
    initializer_range=0.2,
    pad_token_id=0,
    conv_padding="legacy",
)
SHAPES = {
    "plain": {},
    "factorised": dict(embedding_size=16),
    "groups2": dict(num_groups=2),
    "groups4": dict(num_groups=4, embedding_size=16),
    "kernel3": dict(conv_kernel_size=3),
    "kernel5": dict(conv_kernel_size=5, hidden_act="relu"),
    "kernel7": dict(conv_kernel_size=7, hidden_act="gelu_new"),
    "kernel11": dict(conv_kernel_size=11),
    "ratio1": dict(head_ratio=1),
    "ratio4": dict(head_ratio=4, hidden_act="relu"),
    "ratio_above_heads": dict(head_ratio=8),
    "all": dict(embedding_size=20, num_groups=2, conv_kernel_size=5, head_ratio=1, hidden_act="gelu_new"),
}


def make_pair(name, **shape):
    """A transformers model with random weights and ours with the same, both in eval mode."""
    values = {**BASE, **shape}
    torch.manual_seed(0)
    theirs_config = transformers.ConvBertConfig(
        **{k: v for k, v in values.items() if k != "conv_padding"}, summary_type="first", attn_implementation="eager"
    )
    theirs = getattr(transformers, name)(theirs_config).eval()
    for p in theirs.parameters():
        p.data.normal_(0, 0.2)
    ours = getattr(modeling, name)(ConvBertConfig(**values)).eval()
    loaded, report = from_disk(ours.key_map, theirs.state_dict(), ours.state_dict())
    assert not (report.missing or report.unexpected or report.mismatched), report
    ours.load_state_dict(loaded)
    return theirs, ours


def make_inputs(name, generator, T=17):
    """A padded batch with token types and labels for one head."""
    B = 3
    rows = (B, 4, T) if name == "ConvBertForMultipleChoice" else (B, T)
    ids = torch.randint(1, BASE["vocab_size"], rows, generator=generator)
    mask = torch.ones(rows, dtype=torch.long)
    mask[0, ..., T - 5 :], mask[1, ..., T - 1 :] = 0, 0
    inputs = dict(
        input_ids=ids * mask,
        attention_mask=mask,
        token_type_ids=torch.randint(0, 2, rows, generator=generator),
        position_ids=torch.randint(0, BASE["max_position_embeddings"], rows, generator=generator),
    )
    labels = {
        "ConvBertForMaskedLM": dict(labels=torch.where(torch.rand(rows, generator=generator) < 0.3, ids, -100)),
        "ConvBertForSequenceClassification": dict(labels=torch.tensor([0, 2, 1])),
        "ConvBertForMultipleChoice": dict(labels=torch.tensor([3, 0, 2])),
        "ConvBertForTokenClassification": dict(labels=torch.randint(0, 3, rows, generator=generator)),
        "ConvBertForQuestionAnswering": dict(
            start_positions=torch.tensor([1, 4, 99]), end_positions=torch.tensor([3, 4, 7])
        ),
    }
    return {**inputs, **labels.get(name, {})}


def scores(output):
    """The tensors that a head is used for."""
    names = ("last_hidden_state", "logits", "start_logits", "end_logits", "loss")
    return {n: getattr(output, n) for n in names if getattr(output, n, None) is not None}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", HEADS)
def test_outputs_and_gradients_equal_transformers(name, shape, generator):
    extra = dict(num_labels=2) if name == "ConvBertForQuestionAnswering" else {}
    theirs, ours = make_pair(name, **SHAPES[shape], **extra)
    inputs = make_inputs(name, generator)
    expected, got = scores(theirs(**inputs)), scores(ours(**inputs))
    assert set(got) == set(expected)
    for key in expected:
        torch.testing.assert_close(got[key], expected[key], atol=1e-5, rtol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
    for output in (expected, got):
        output.get("loss", sum(x.square().mean() for x in output.values())).backward()
    theirs_grads = {
        n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in theirs.named_parameters(remove_duplicate=False)
    }
    disk, report = from_disk(ours.key_map, theirs_grads, dict(ours.named_parameters()))
    assert not report.missing
    for parameter, p in ours.named_parameters():
        scale = max(1.0, disk[parameter].abs().max().item())
        torch.testing.assert_close(
            p.grad / scale, disk[parameter] / scale, atol=1e-5, rtol=1e-4, msg=lambda m, n=parameter: f"{n}: {m}"
        )


@pytest.mark.parametrize("labels", [torch.tensor([0.5, 2.0, -1.0]), torch.tensor([[0.5], [2.0], [-1.0]])])
def test_regression_loss_equals_transformers(labels, generator):
    theirs, ours = make_pair("ConvBertForSequenceClassification", num_labels=1)
    inputs = {**make_inputs("ConvBertForSequenceClassification", generator), "labels": labels}
    torch.testing.assert_close(ours(**inputs).loss, theirs(**inputs).loss, atol=1e-5, rtol=1e-5)


def test_multi_label_loss_equals_transformers(generator):
    theirs, ours = make_pair("ConvBertForSequenceClassification", num_labels=4)
    labels = torch.randint(0, 2, (3, 4), generator=generator).float()
    inputs = {**make_inputs("ConvBertForSequenceClassification", generator), "labels": labels}
    torch.testing.assert_close(ours(**inputs).loss, theirs(**inputs).loss, atol=1e-5, rtol=1e-5)


def test_attention_maps_and_hidden_states_equal_transformers(generator):
    theirs, ours = make_pair("ConvBertModel")
    inputs = make_inputs("ConvBertModel", generator)
    expected = theirs(**inputs, output_attentions=True, output_hidden_states=True)
    got = ours(**inputs, output_attentions=True, output_hidden_states=True)
    for a, b in zip(got.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    for a, b in zip(got.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    for kernel in got.conv_kernels:
        torch.testing.assert_close(kernel.sum(-1), torch.ones(kernel.shape[:-1]))


def test_inputs_embeds_equal_transformers(generator):
    theirs, ours = make_pair("ConvBertModel", embedding_size=16)
    embeds = torch.randn(2, 9, 16, generator=generator)
    expected, got = theirs(inputs_embeds=embeds).last_hidden_state, ours(inputs_embeds=embeds).last_hidden_state
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_rows_without_a_single_real_token_equal_transformers(generator):
    theirs, ours = make_pair("ConvBertModel")
    ids = torch.randint(1, 97, (2, 6), generator=generator)
    mask = torch.tensor([[1] * 6, [0] * 6])
    expected, got = (m(input_ids=ids, attention_mask=mask).last_hidden_state for m in (theirs, ours))
    assert got.isfinite().all()
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
