"""What users bring from transformers: outputs as mappings, word tables that grow, arguments that they type."""

import copy
import pickle
import re

import pytest
import torch
from torch.testing import assert_close

import convbert
from convbert import ConvBertConfig, ConvBertForMaskedLM, ConvBertTokenizerFast, pipeline
from convbert.heads import ModelOutput, TaskOutput

HEADS = ("Model", *(f"For{n}" for n in ("MaskedLM", "SequenceClassification", "TokenClassification")))
HEADS += "ForQuestionAnswering", "ForMultipleChoice"
SIZES = dict(hidden_size=16, embedding_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20)


def make(head, **changes):
    torch.manual_seed(0)
    return getattr(convbert, f"ConvBert{head}")(ConvBertConfig(vocab_size=30, **{**SIZES, **changes})).eval()


def inputs(head):
    ids = torch.randint(1, 30, (2, 3, 6) if head == "ForMultipleChoice" else (2, 6))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


# -- outputs


@pytest.mark.parametrize("head", HEADS)
def test_outputs_are_mappings(head):
    out = make(head)(**inputs(head), output_hidden_states=True, output_attentions=True)
    assert isinstance(out, dict) and len(out) == len(list(out)) == len(out.to_tuple())
    assert dict(out.items()).keys() == out.keys() and list(out)[-3:] == ["hidden_states", "attentions", "conv_kernels"]
    first = next(iter(out))
    assert out[0] is out[first] is getattr(out, first) is out.get(first) and out.get("loss") is None
    assert out[:2] == out.to_tuple()[:2] and "loss" not in out
    with pytest.raises(KeyError, match="'pooled' is not in this output; it has"):
        out["pooled"]
    out["loss"] = torch.tensor(1.0)
    assert out.loss == 1 and "loss" in out
    out.loss = torch.tensor(2.0)
    assert out["loss"] == 2 and out.get("loss") == 2
    shapes = torch.utils._pytree.tree_map(lambda x: x.shape, out)
    assert shapes.loss == () and type(shapes) is type(out)


@pytest.mark.parametrize("head", HEADS)
def test_a_tuple_on_request(head):
    model, given = make(head), inputs(head)
    as_tuple, as_mapping = (model(**given, return_dict=wanted) for wanted in (False, None))
    assert type(as_tuple) is tuple and not isinstance(as_mapping, tuple)
    for a, b in zip(as_tuple, as_mapping.values(), strict=True):
        assert_close(a, b)


def test_a_class_of_ones_own_returns_what_it_likes():
    class Plain(convbert.ConvBertForMaskedLM):
        def forward(self, *args, **inputs):
            return super().forward(*args, **inputs).logits

    class Own(convbert.ConvBertForMaskedLM):
        def forward(self, input_ids, return_dict=None, **inputs):
            return return_dict

    config = make("ForMaskedLM").config
    ids = torch.ones(1, 3, dtype=torch.long)
    assert Plain(config)(ids, return_dict=False).shape == (1, 3, 30) and Own(config)(ids, return_dict="mine") == "mine"


def test_outputs_are_put_together_as_data_parallel_does():
    """`nn.DataParallel` rebuilds a mapping from pairs; `accelerate` from another mapping."""
    model, given = make("ForSequenceClassification"), inputs("ForSequenceClassification")
    outs = [model(**{k: v[i : i + 1] for k, v in given.items()}, labels=torch.tensor([i])) for i in range(2)]
    joined = type(outs[0])((key, torch.stack([out[key].flatten() for out in outs])) for key in outs[0])
    assert type(joined) is TaskOutput and list(joined) == ["loss", "logits"] and joined.logits.shape == (2, 2)
    halved = type(joined)({key: value.half() for key, value in joined.items()})
    assert halved.logits.dtype == torch.float16 and halved.loss is halved[0]
    still = type(halved)({key: value.detach() for key, value in joined.items()})
    assert copy.deepcopy(still).logits.equal(still.logits) and pickle.loads(pickle.dumps(still)).loss.equal(still.loss)
    assert isinstance(ModelOutput(loss=torch.tensor(1.0)), dict)


# -- word tables


@pytest.mark.parametrize("head", HEADS)
def test_a_grown_vocabulary_keeps_what_was_learnt(head, tmp_path):
    model, given = make(head), inputs(head)
    before, old = model(**given), model.get_input_embeddings().weight.detach().clone()
    assert model.resize_token_embeddings(33) is model.get_input_embeddings()
    after = model(**given)
    for name in before:
        scores = after[name][..., :30] if head == "ForMaskedLM" else after[name]
        assert_close(scores, before[name], atol=1e-6, rtol=1e-5)
    assert model.config.vocab_size == 33
    table = model.get_input_embeddings().weight
    assert table[:30].equal(old)
    assert_close(table[30:], old.mean(0, keepdim=True).expand(3, -1))
    new = {**given, "input_ids": given["input_ids"].clone().fill_(32)}
    model(**new)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert_close(again(**new).to_tuple()[0], model(**new).to_tuple()[0])
    assert not again.load_report.fresh
    model.resize_token_embeddings(30)
    assert_close(model(**given).to_tuple()[0], before.to_tuple()[0], atol=1e-6, rtol=1e-5)


def test_tokens_that_were_added_can_be_learnt(tmp_path):
    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    model = ConvBertForMaskedLM.from_pretrained("convbert-tiny")
    tokenizer.add_tokens(["zorblax", "quuxing"])
    model.resize_token_embeddings(len(tokenizer))
    batch = tokenizer(["the zorblax was quuxing"], return_tensors="pt")
    model.train()(**batch, labels=batch["input_ids"]).loss.backward()
    assert model.get_input_embeddings().weight.grad[-2:].abs().sum() > 0
    model.eval().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    answers = pipeline("fill-mask", tmp_path)("the [MASK] sailed home.", targets=["zorblax", "ship"])
    assert [answer["token_str"] for answer in answers] == ["zorblax", "ship"]


@pytest.mark.parametrize(
    ("count", "words"), [(0, "at least 1"), (2.5, "whole number"), (4, "would cut off pad_token_id=5")]
)
def test_a_table_that_cannot_be_is_refused(count, words):
    assert make("Model").resize_token_embeddings().num_embeddings == 30
    assert make("Model").resize_token_embeddings(31, pad_to_multiple_of=8).num_embeddings == 32
    with pytest.raises(ValueError, match=words):
        make("Model", pad_token_id=5).resize_token_embeddings(count)


# -- what is typed


def test_arguments_and_methods():
    model = make("ForMaskedLM")
    given = inputs("ForMaskedLM")
    assert set(model(**given, output_attentions=None, output_hidden_states=None, return_dict=True)) == {"logits"}
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())
    model.encoder.requires_grad_(False)
    assert 0 < model.num_parameters(only_trainable=True) < model.num_parameters()
    assert model.get_output_embeddings() is model.get_input_embeddings()
    assert make("Model").get_output_embeddings() is None and model.dtype == torch.float32
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert model.encoder.gradient_checkpointing
    model.gradient_checkpointing_disable()
    assert not model.encoder.gradient_checkpointing


# -- what answers with nothing


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path, bad):
    model = make("ForMaskedLM")
    with torch.no_grad():
        model.encoder.layers[0].mixer.output.weight[0, 1] = bad
    model.save_pretrained(tmp_path)
    said = re.escape("encoder.layers.0.mixer.output.weight (1 of 256)")
    with pytest.raises(ValueError, match=f"not a number, or infinite: {said}"):
        ConvBertForMaskedLM.from_pretrained(tmp_path)


def test_a_target_that_is_named_twice_counts_once():
    fill = pipeline("fill-mask")
    once, twice = (fill("The [MASK] sailed.", targets=t, normalize_targets=True)
                   for t in (["ship", "sea"], ["ship", "Ship", "sea", "ship"]))  # fmt: skip
    assert twice == once and sum(row["score"] for row in twice) == pytest.approx(1)


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_no_label_is_asked_for_an_empty_text(text):
    torch.manual_seed(0)
    names = {0: "contradiction", 1: "entailment"}
    model = convbert.ConvBertForSequenceClassification(
        ConvBertConfig.preset("tiny", num_hidden_layers=1, id2label=names)
    )
    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    ask = pipeline("zero-shot-classification", model.eval(), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="the text is empty"):
        ask(text, ["sea", "land"])


def test_contractions_are_joined_on_request():
    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    said = "you shouldn't , we've , i'm , it's , they'll !"
    ids = tokenizer(said, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=True) == said.replace(" ,", ",").replace(" !", "!")
    assert tokenizer.decode(ids).startswith("you shouldn ' t, we ' ve, ")
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False).startswith("you shouldn ' t , we ' ve , ")
