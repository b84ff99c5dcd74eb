"""What a model answers does not depend on padding: not on its side, not on its amount, not on the way it is run."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import convbert
from convbert import ConvBertConfig, ConvBertTokenizerFast, pipeline

HEADS = "MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice"
CONFIG = ConvBertConfig(
    vocab_size=50, hidden_size=32, embedding_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40,
    max_position_embeddings=40, conv_kernel_size=5, num_labels=3,
)  # fmt: skip


def make(head, config=CONFIG):
    torch.manual_seed(0)
    model = getattr(convbert, f"ConvBertFor{head}")(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4)  # so that neighbours, positions and pads matter
    return model


MODELS = {head: make(head) for head in HEADS}


def text(length):
    return torch.randint(1, 50, (length,), generator=torch.Generator().manual_seed(length))


def batch(lengths, before, after):
    """Texts with pads on both sides: `(B, T)` ids, of which 0 is a pad, and their mask."""
    T = max(b + n + a for n, b, a in zip(lengths, before, after, strict=True))
    ids, mask = torch.zeros(len(lengths), T, dtype=torch.long), torch.zeros(len(lengths), T, dtype=torch.long)
    for row, (n, b) in enumerate(zip(lengths, before, strict=True)):
        ids[row, b : b + n], mask[row, b : b + n] = text(n), 1
    return ids, mask


def logits(model, ids, mask=None, **more):
    """What a model says, tokens along the second axis where it speaks of tokens; a choice is a batch of two."""
    if type(getattr(model, "_orig_mod", model)).__name__.endswith("MultipleChoice"):
        given_ = [None if x is None else x[None].expand(2, -1, -1).transpose(0, 1) for x in (ids, mask)]
        return model(*given_, **more).logits[:, :1]
    out = model(ids, mask, **more)
    return torch.stack([out.start_logits, out.end_logits], -1) if hasattr(out, "start_logits") else out.logits


def check(model, head, lengths, before, after, **more):
    ids, mask = batch(lengths, before, after)
    together = logits(model, ids, mask, **more)
    for row, (n, b) in enumerate(zip(lengths, before, strict=True)):
        alone = logits(MODELS[head], text(n)[None])[0]
        mine = together[row, b : b + n] if together.dim() == 3 else together[row]
        assert_close(mine, alone, atol=1e-5, rtol=1e-5)


@st.composite
def shapes(draw):
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    pads = st.lists(st.integers(0, 7), min_size=len(lengths), max_size=len(lengths))
    return lengths, draw(pads), draw(pads)


@pytest.mark.parametrize("head", HEADS)
@settings(deadline=None, max_examples=25)
@given(shapes(), st.sampled_from([{}, {"output_attentions": True}, {"output_hidden_states": True}]))
def test_any_side_and_amount(head, shape, more):
    with torch.no_grad():
        check(MODELS[head], head, *shape, **more)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("whole", [True, False])
def test_compiled(head, whole):
    model = make(head)
    if whole:
        model = torch.compile(model, backend="eager", fullgraph=True)
    else:
        model.compile_layers("eager")
    with torch.no_grad():
        for before, after in (([0, 0, 0], [0, 5, 2]), ([3, 0, 6], [0, 1, 0])):
            check(model, head, [8, 3, 5], before, after)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["SequenceClassification", "MultipleChoice", "TokenClassification"])
def test_exported(head, tmp_path):
    pytest.importorskip("onnxruntime", reason="graphs run in ONNX Runtime")
    from convbert.export import export
    from convbert.serving import OnnxModel

    model = make(head, CONFIG.replace(vocab_size=8192))
    export(model, tmp_path, tokenizer="convbert-tiny")
    with torch.no_grad():
        graph = OnnxModel(tmp_path)
        for before, after in (([0, 0, 0], [0, 5, 2]), ([3, 0, 6], [0, 1, 0])):
            ids, mask = batch([8, 3, 5], before, after)
            if head == "MultipleChoice":
                ids, mask = ids[:, None], mask[:, None]
            given_ = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
            found = torch.as_tensor(np.asarray(graph(**given_).logits))
            assert_close(found * 1.0, model(**given_).logits, atol=1e-4, rtol=1e-4)
            if head == "SequenceClassification":
                for row, n in enumerate([8, 3, 5]):
                    assert_close(found[row], model(text(n)[None]).logits[0], atol=1e-4, rtol=1e-4)


def test_a_tokenizer_that_pads_on_the_left():
    classify = pipeline("text-classification")
    texts = ["A quiet, beautiful film.", "Bad.", "dull " * 40]
    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny-sentiment")
    with torch.no_grad():
        alone = torch.cat([classify.model(**tokenizer(each, return_tensors="pt")).logits for each in texts])
        for side in ("left", "right"):
            rows = tokenizer(texts, padding=True, padding_side=side, return_tensors="pt")
            assert_close(classify.model(**rows).logits, alone, atol=1e-5, rtol=1e-5)


def test_legacy_padding_reads_what_transformers_reads(tmp_path):
    """The first column, with positions counted from it: that is what `legacy` is for."""
    transformers = pytest.importorskip("transformers")
    model = make("SequenceClassification", CONFIG.replace(conv_padding="legacy"))
    ids, mask = batch([8, 3, 5], [0, 5, 2], [0, 0, 1])
    model.save_pretrained(tmp_path)
    theirs = transformers.ConvBertForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert_close(model(ids, mask).logits, theirs(ids, attention_mask=mask).logits, atol=1e-4, rtol=1e-4)
