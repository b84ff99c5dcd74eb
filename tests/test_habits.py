"""What users bring from transformers: outputs as mappings, word tables that grow, arguments that they type."""

import copy
import pickle
import re

import pytest
import torch
from conftest import MapStyle
from torch.testing import assert_close

import convbert
from convbert import ConvBertConfig, ConvBertForMaskedLM, ConvBertTokenizerFast, pipeline
from convbert.export import export
from convbert.outputs import ModelOutput, TaskOutput
from convbert.training.loop import task_loss
from convbert.visualize.encoded_text import encode_text
from convbert.visualize.mask_prediction import predict_mask

HEADS = ("Model", *(f"For{n}" for n in ("MaskedLM", "SequenceClassification", "TokenClassification")))
HEADS += "ForQuestionAnswering", "ForMultipleChoice"
SIZES = dict(hidden_size=16, embedding_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20)


def make(head, **changes):
    torch.manual_seed(0)
    return getattr(convbert, f"ConvBert{head}")(ConvBertConfig(**{"vocab_size": 30, **SIZES, **changes})).eval()


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


# -- configurations


def test_notes_of_other_libraries_on_a_config(tmp_path):
    config = ConvBertConfig(**SIZES)
    config.use_cache = False
    config._private = object()
    assert config.use_cache is False and config.to_dict()["use_cache"] is False and "_private" not in config.to_dict()
    assert not hasattr(config, "quantization_config") and config == pickle.loads(pickle.dumps(config))
    other = config.replace(num_labels=3)
    other.use_cache = True
    assert config.use_cache is False and other.num_labels == 3
    (tmp_path / "config.json").write_text(config.to_json_string())
    assert ConvBertConfig.from_pretrained(tmp_path) == config
    for name in ("num_labels", "id2label", "hidden_size"):
        with pytest.raises(AttributeError, match=rf"model.config = model.config.replace\({name}=...\)"):
            setattr(config, name, 4)
    with pytest.raises(AttributeError, match="Did you mean 'num_labels'"):
        config.num_label = 3


@pytest.mark.parametrize("given", [{"nonsense": 1}, {"num_hidden_layer": 3}])
def test_no_list_of_all_fields(given):
    with pytest.raises(TypeError) as raised:
        ConvBertConfig(**SIZES).replace(**given)
    assert len(str(raised.value)) < 150 and next(iter(given)) in str(raised.value)


def test_outputs_that_a_config_asks_for(tmp_path):
    make("ForMaskedLM").save_pretrained(tmp_path)
    model = ConvBertForMaskedLM.from_pretrained(tmp_path, output_hidden_states=True, output_attentions=True)
    given = inputs("ForMaskedLM")
    assert {"hidden_states", "attentions"} <= set(model(**given))
    assert set(model(**given, output_hidden_states=False, output_attentions=False)) == {"logits"}
    model.config.return_dict = False
    assert type(model(**given)) is tuple and "logits" in model(**given, return_dict=True)


# -- arguments of from_pretrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make("ForSequenceClassification", vocab_size=8192).save_pretrained(folder)
    ConvBertTokenizerFast.from_pretrained("convbert-tiny").save_pretrained(folder)
    return folder


def load(folder, **arguments):
    return convbert.ConvBertForSequenceClassification.from_pretrained(folder, **arguments)


def test_arguments_under_the_names_of_transformers(folder):
    assert (
        load(folder, torch_dtype="bfloat16").dtype == load(folder, torch_dtype=torch.bfloat16).dtype == torch.bfloat16
    )
    for where in ("cpu", {"": "cpu"}, torch.device("cpu")):
        assert load(folder, device_map=where).device.type == "cpu"
    assert load(folder, device_map="auto").device.type in ("cpu", "cuda", "mps", "xpu")
    harmless = dict(low_cpu_mem_usage=True, use_safetensors=True, trust_remote_code=False, attn_implementation="sdpa")
    assert load(folder, **harmless, from_tf=True, resume_download=None).num_parameters() > 0
    model, info = load(folder, output_loading_info=True)
    assert not any(info.values()) and isinstance(model, convbert.ConvBertForSequenceClassification)
    bare = convbert.ConvBertForTokenClassification.from_pretrained
    with pytest.warns(UserWarning, match="freshly initialised"):
        _, info = bare(folder, output_loading_info=True)
    assert "classifier.weight" in info["missing_keys"] and info["unexpected_keys"] and info["error_msgs"] == []


def test_a_configuration_instead_of_the_folders(folder):
    transformers = pytest.importorskip("transformers")
    expected = load(folder).config
    given = [expected, folder, str(folder), transformers.ConvBertConfig.from_pretrained(folder)]
    for config in given:
        model = load(folder, config=config)
        assert (model.config.hidden_size, model.config.id2label) == (expected.hidden_size, expected.id2label)
    assert load(folder, config=expected.replace(id2label={0: "bad", 1: "good"})).config.id2label[1] == "good"
    with pytest.raises(TypeError, match="config=3 must be a ConvBertConfig"):
        load(folder, config=3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"load_in_8bit": True}, "--precision int8"),
        ({"device_map": {"encoder": 0, "classifier": 1}}, "accelerate.dispatch_model"),
        ({"attn_implementation": "flash_attention_2"}, "by itself"),
        ({"torch_dtype": "float16", "dtype": "float32"}, "one option"),
        ({"force_download": True}, "cache"),
        ({"nonsense": True}, "no field 'nonsense'"),
    ],
)
def test_arguments_that_are_answered(folder, arguments, words):
    with pytest.raises(TypeError, match=words) as raised:
        load(folder, **arguments)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", ""])
@pytest.mark.parametrize("config", [True, False])
def test_a_state_that_was_saved_as_it_is(folder, tmp_path, wrapper, config):
    model = load(folder)
    state = {wrapper + name: tensor for name, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    if config:
        model.config.save_pretrained(tmp_path)
        loaded = load(tmp_path)
    else:
        with pytest.warns(UserWarning, match="has no config.json. The weights say"):
            loaded = load(tmp_path)
    given = inputs("ForSequenceClassification")
    assert_close(loaded(**given).logits, model(**given).logits)
    assert loaded.load_report == type(loaded.load_report)()


# -- tokenizers


def test_what_is_typed_at_a_tokenizer(folder):
    tokenizer = ConvBertTokenizerFast.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    assert tokenizer.encode_plus("a ship") == tokenizer("a ship") == tokenizer.batch_encode_plus("a ship")
    size = len(tokenizer)
    assert tokenizer.add_special_tokens({"additional_special_tokens": ["<a>", "<b>"], "sep_token": "<end>"}) == 3
    assert tokenizer.tokenize("<a> ship<b>") == ["<a>", "ship", "<b>"] and len(tokenizer) == size + 3
    assert tokenizer("a ship")["input_ids"][-1] == tokenizer.sep_token_id >= size
    assert tokenizer.special_tokens_map["additional_special_tokens"][-2:] == ["<a>", "<b>"]
    assert set(tokenizer.get_added_vocab()) >= {"<a>", "<b>", "<end>", "[PAD]"}
    other = ConvBertTokenizerFast.from_pretrained(folder, additional_special_tokens=["<c>"])
    assert other.tokenize("x<c>") == ["x", "<c>"]
    with pytest.raises(ValueError, match="'masc_token'.*Did you mean 'mask_token'"):
        tokenizer.add_special_tokens({"masc_token": "<m>"})
    with pytest.raises(TypeError, match="add_prefix_space"):
        ConvBertTokenizerFast.from_pretrained(folder, add_prefix_space=True)


def test_words_tokens_and_characters_of_a_batch():
    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    words = [["the", "unmaskable", "ship"], ["sails"]]
    batch = tokenizer(words, is_split_into_words=True, padding=True)
    for row, each in enumerate(words):
        for i, word in enumerate(each):
            start, end = batch.word_to_tokens(row, i)
            assert [batch.token_to_word(row, t) for t in range(start, end)] == [i] * (end - start)
            assert "".join(batch.tokens(row)[start:end]).replace("##", "") == word
            assert batch.word_to_chars(row, i) == (0, len(word)) and batch.token_to_sequence(row, start) == 0
    assert batch.char_to_word(0, 0) == 0 and batch.word_to_tokens(1) == batch.word_to_tokens(0, 1)
    assert batch[1].tokens == batch.tokens(1)


# -- pipelines


@pytest.fixture(scope="module")
def fill():
    return pipeline("fill-mask", top_k=2, batch_size=4, num_workers=2, device=-1)


def test_options_when_a_pipeline_is_made(fill):
    assert len(fill("The [MASK] sailed.")) == 2 and len(fill("The [MASK] sailed.", top_k=3)) == 3
    assert len(pickle.loads(pickle.dumps(fill))("The [MASK] sailed.")) == 2
    qa = pipeline("question-answering", max_answer_length=3, torch_dtype="float32")
    asked = "Who sailed?", "The old man sailed home."
    assert qa(*asked) == qa(question=asked[0], context=asked[1]) == qa({"question": asked[0], "context": asked[1]})
    assert [one["answer"] for one in qa([asked[0]] * 2, asked[1])] == [qa(*asked)["answer"]] * 2
    classify = pipeline("sentiment-analysis", return_all_scores=True, truncation=True)
    assert len(classify("fine")) == 2 and "label" in classify("fine", top_k="best")


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("fill-mask", {"topk": 2, "top_q": 1}, "fill-mask has no option 'top_q'. Did you mean 'top_k'"),
        ("fill-mask", {"aggregation_strategy": "simple"}, "fill-mask has no option 'aggregation_strategy'"),
        ("text-classification", {"truncation": False}, "always cut"),
    ],
)
def test_options_that_are_answered(task, options, words):
    with pytest.raises(TypeError, match=words):
        pipeline(task, **options)


def test_an_unknown_option_of_a_call_is_named(fill):
    with pytest.raises(TypeError, match="fill-mask has no option 'tok_k'. Did you mean 'top_k'"):
        fill("The [MASK] sailed.", tok_k=1)


@pytest.mark.parametrize("device", ["cpu", -1, torch.device("cpu")])
def test_devices(device):
    assert pipeline("fill-mask", device=device).model.device.type == "cpu"


def test_compiled_and_wrapped_models_answer(fill):
    model, tokenizer = fill.model, fill.tokenizer
    expected = fill("The [MASK] sailed.")
    for other in (torch.compile(model, backend="eager"), torch.nn.DataParallel(model)):
        found = pipeline("fill-mask", other, tokenizer=tokenizer)("The [MASK] sailed.", top_k=2)
        assert [row["token"] for row in found] == [row["token"] for row in expected]


@pytest.mark.parametrize("head", HEADS)
def test_a_traced_model_is_right_for_other_batches(head):
    model = make(head, num_hidden_layers=2)
    shape = (2, 1) if head == "ForMultipleChoice" else (2,)

    def batch(lengths, width):
        ids = torch.randint(1, 30, (len(lengths), width))
        mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
        return [x.view(len(lengths), *shape[1:], width) for x in (ids * mask, mask)]

    with torch.no_grad():
        traced = torch.jit.trace(model, batch([3, 7], 7), strict=False)
        for lengths in ([3, 7], [7, 7], [1], [2, 9, 4]):
            given = batch(lengths, max(lengths))
            for name, value in model(*given).items():
                assert_close(traced(*given)[name], value, atol=1e-5, rtol=1e-4)


def test_a_tokenizer_without_a_pad_token():
    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    bare = ConvBertTokenizerFast(vocab=tokenizer.get_vocab(), pad_token=None)
    texts = ["The [MASK] sailed.", "The old man who sold us the [MASK] has gone to sea."]
    model = ConvBertForMaskedLM.from_pretrained("convbert-tiny")
    answers = pipeline("fill-mask", model, tokenizer=bare, top_k=1)(texts)
    for (found,), (expected,) in zip(answers, pipeline("fill-mask", top_k=1)(texts), strict=True):
        assert found == expected | {"score": pytest.approx(expected["score"], abs=1e-5)}


def test_whatever_holds_texts(fill):
    datasets, pandas = pytest.importorskip("datasets"), pytest.importorskip("pandas")
    texts = ["The [MASK] sailed.", "A [MASK].", "The old [MASK] has gone."]
    expected = fill(texts)
    table = datasets.Dataset.from_dict({"text": texts})
    for column in (table["text"], pandas.Series(texts), tuple(texts)):
        found = fill(column)
        assert found == expected and found[0] == expected[0] and len(found) == 3
    for stream in (fill(MapStyle(texts)), fill(text for text in texts)):
        with pytest.raises(TypeError, match="come one by one"):
            stream[0]
        assert list(stream) == expected
    assert len(fill(MapStyle(texts))) == 3
    with pytest.raises(TypeError, match=r"list\(results\)"):
        len(fill(text for text in texts))


# -- more of the same


def test_what_is_taken_out_of_an_output_is_gone():
    model, given = make("ForSequenceClassification"), inputs("ForSequenceClassification")
    out = model(**given, labels=torch.tensor([0, 1]))
    loss = out.loss
    assert out.pop("loss") is loss and out.loss is None and "loss" not in out and out.pop("loss", 3) == 3
    out.update(logits=loss)
    assert out.logits is loss is out["logits"]
    del out["logits"]
    assert out.logits is None and len(out) == 0


def test_a_copied_config_is_another(tmp_path):
    config = ConvBertConfig(**SIZES)
    for other in (copy.copy(config), copy.deepcopy(config)):
        other.use_cache = True
        assert not hasattr(config, "use_cache")
    config.torch_dtype = torch.float16
    assert '"torch_dtype": "float16"' in config.to_json_string()
    config.save_pretrained(tmp_path)
    assert ConvBertConfig.from_pretrained(tmp_path, trust_remote_code=True).torch_dtype == "float16"
    with pytest.raises(ValueError, match="half a character"):
        config.replace(id2label={0: "\ud800", 1: "b"})


def test_a_state_that_lacks_something_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="state_dict lacks .*classifier"):
        make("ForSequenceClassification").save_pretrained(tmp_path / "new", state_dict={})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("sizes", [{"head_ratio": 1}, {"head_ratio": 4, "num_attention_heads": 4}, {"num_groups": 2}])
@pytest.mark.parametrize("rule", ["transformers", "original"])
def test_sizes_are_read_from_weights(tmp_path, sizes, rule):
    model = make("ForTokenClassification", head_size_rule=rule, num_labels=3, **sizes)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.warns(UserWarning, match="has no config.json"):
        loaded = type(model).from_pretrained(tmp_path)
    given = inputs("ForTokenClassification")
    assert_close(loaded(**given).logits, model(**given).logits)


@pytest.mark.parametrize("shape", [(), (3,), (16, 1, 0)])
@pytest.mark.parametrize("config", [True, False])
def test_tensors_that_no_model_has_are_named(tmp_path, shape, config):
    model = make("Model")
    state = model.state_dict() | {"encoder.layers.0.mixer.span_depthwise": torch.zeros(shape)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    if config:
        model.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="depthwise"):
        type(model).from_pretrained(tmp_path)


def test_rows_that_do_not_fit_together_are_named():
    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    with pytest.raises(ValueError, match="row 1 has input_ids, row 0 has input_ids, a"):
        tokenizer.pad([{"input_ids": [1, 2], "a": 1}, {"input_ids": [1]}])
    with pytest.raises(ValueError, match="column 'label' must have 2 rows"):
        tokenizer.pad({"input_ids": [[1], [2]], "label": [1]})


def test_gradients_pass_a_frozen_word_table():
    model, given = make("ForSequenceClassification").train(), inputs("ForSequenceClassification")
    model.requires_grad_(False)
    model.enable_input_require_grads()
    model.activation_checkpointing_enable()
    assert model(**given).logits.requires_grad and model.encoder.gradient_checkpointing
    with pytest.raises(ValueError, match="every_n_layers=2"):
        model.gradient_checkpointing_enable(every_n_layers=2)
    model.set_input_embeddings(torch.nn.Embedding(40, 8))
    assert model.config.vocab_size == 40


# -- a model that answers with tuples


TASKS = {
    "fill-mask": ("", "ForMaskedLM", "The [MASK] sailed."),
    "feature-extraction": ("", "Model", "The ship sailed."),
    "text-classification": ("-sentiment", "ForSequenceClassification", "A fine ship."),
    "token-classification": ("-pos", "ForTokenClassification", "The ship sailed."),
    "question-answering": ("-qa", "ForQuestionAnswering", {"question": "Who sailed?", "context": "The man sailed."}),
    "multiple-choice": ("-choice", "ForMultipleChoice", {"question": "Who?", "choices": ["a man", "a horse"]}),
}


NUMBER = r"-?\d+\.\d+(?:e-?\d+)?"


def words(answer):
    return re.sub(NUMBER, "", repr(answer))


def numbers(answer):
    return [float(number) for number in re.findall(NUMBER, repr(answer))]


@pytest.mark.parametrize("task", TASKS)
def test_pipelines_of_a_model_that_returns_tuples(task):
    name, head, asked = TASKS[task]
    name, kind = f"convbert-tiny{name}", getattr(convbert, f"ConvBert{head}")
    expected, by_option = pipeline(task, name)(asked), pipeline(task, name, model_kwargs={"return_dict": False})
    tokenizer = by_option.tokenizer
    loaded = kind.from_pretrained(name, return_dict=False)
    assert loaded.config.return_dict is by_option.model.config.return_dict is False
    for found in (
        by_option,
        pipeline(task, loaded, tokenizer=tokenizer),
        pipeline(task, torch.compile(loaded, backend="eager"), tokenizer=tokenizer),
    ):
        assert words(found(asked)) == words(expected) and numbers(found(asked)) == pytest.approx(
            numbers(expected), abs=1e-4
        )


def test_a_model_that_returns_tuples_is_exported(tmp_path):
    pytest.importorskip("onnxscript")
    model = make("ForMaskedLM", vocab_size=8192, extra={"return_dict": False})
    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    export(model, tmp_path / "graph", tokenizer=tokenizer)
    fill = pipeline("fill-mask", tmp_path / "graph")
    assert fill("The [MASK] sailed.", top_k=1)[0]["score"] > 0
    ids = torch.tensor([[2, 5, 3]])
    assert type(fill.model(ids)) is tuple and "logits" in fill.model(ids, return_dict=True)


def test_a_model_that_returns_tuples_is_looked_behind():
    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    read = encode_text(tokenizer, "The ship sailed home.", None, 64)
    models = [ConvBertForMaskedLM.from_pretrained("convbert-tiny", return_dict=wanted) for wanted in (True, False)]
    by_name, by_place = (predict_mask(model, tokenizer, read, 2) for model in models)
    assert by_name.words == by_place.words and by_name.scores == pytest.approx(by_place.scores, abs=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("head", HEADS[1:4])
def test_a_model_that_returns_tuples_learns(head, smoothing):
    model, given = make(head), inputs(head)
    labels = torch.ones(2, dtype=torch.long) if head == "ForSequenceClassification" else given["input_ids"] % 2
    given = given | {"labels": labels}
    by_name, by_place = (task_loss(model(**given, return_dict=as_), given, smoothing) for as_ in (True, False))
    assert_close(by_name, by_place)


# -- arguments that say nothing


@pytest.mark.parametrize(
    "arguments",
    [
        dict(device="cpu", device_map=None),
        dict(device="cpu", device_map={}),
        dict(dtype="float16", torch_dtype=None),
        dict(token=False, use_auth_token=None),
        dict(key_mapping=None, generation_config=None, _fast_init=True, max_memory={}, quantization_config={}),
        dict(tp_plan=None, gguf_file=None, device_mesh=None, use_kernels=False, _commit_hash=None),
        dict(torchscript=False, gradient_checkpointing=False),
    ],
)
def test_nothing_is_taken_for_nothing(folder, arguments):
    model = load(folder, **arguments)
    assert model.dtype == (torch.float16 if "dtype" in arguments else torch.float32)
    pipeline("text-classification", folder, **{"device": "cpu"} | arguments)
    pipeline("text-classification", folder, model_kwargs=arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"torchscript": True}, r"torch.jit.trace\(model, inputs, strict=False\)"),
        ({"gradient_checkpointing": True}, r"model.gradient_checkpointing_enable\(\)"),
        ({"tp_plan": "auto"}, "accelerate"),
        ({"dtype": "float16", "torch_dtype": "float32"}, "one option"),
    ],
)
def test_loading_habits_are_answered_at_every_door(folder, arguments, words):
    doors = load, lambda at, **given: pipeline("text-classification", at, **given)
    doors += (lambda at, **given: pipeline("text-classification", at, model_kwargs=given),)
    for door in doors:
        with pytest.raises(TypeError, match=words):
            door(folder, **arguments)


def test_empty_parts_of_a_pipeline(fill):
    pipe = pipeline("fill-mask", model_kwargs={}, feature_extractor=None, image_processor=None, processor=None)
    assert fill("The [MASK] sailed.", topk=None) == pipe("The [MASK] sailed.")
    half = pipeline("fill-mask", model_kwargs={"torch_dtype": "bfloat16", "low_cpu_mem_usage": True})
    assert half.model.dtype == torch.bfloat16
    for given in ({"device": "cpu"}, {"dtype": "float32"}):
        with pytest.raises(TypeError, match="given twice"):
            pipeline("fill-mask", **given, model_kwargs=given)
    with pytest.raises(TypeError, match="model_kwargs=3 must be a dictionary"):
        pipeline("fill-mask", model_kwargs=3)
    with pytest.raises(TypeError, match="feature_extractor='x' is not taken here: .*tokenizer"):
        pipeline("fill-mask", feature_extractor="x")


def test_all_answers_can_still_be_asked_for():
    for given in ({"return_all_scores": True}, {"topk": None}, {"top_k": None}):
        assert len(pipeline("text-classification", **given)("fine")) == 2
        assert len(pipeline("text-classification")("fine", **given)) == 2
    for given in ({"return_all_scores": False}, {"return_all_scores": None}):
        assert "label" in pipeline("text-classification")("fine", **given)
    for given in ({"topk": 3, "top_k": 2}, {"top_k": 2, "topk": 3}):
        with pytest.raises(TypeError, match="topk and top_k are one option"):
            pipeline("fill-mask", **given)


# -- inputs and options by name


@pytest.fixture(scope="module")
def zero():
    names = {0: "contradiction", 1: "entailment"}
    config = ConvBertConfig.preset("tiny", num_hidden_layers=1, id2label=names)
    model = convbert.ConvBertForSequenceClassification(config).eval()
    return lambda **options: pipeline("zero-shot-classification", model, tokenizer="convbert-tiny", **options)


@pytest.mark.parametrize("name", ["texts", "inputs", "text_inputs", "sequences", "args", "data", "X"])
def test_inputs_by_name(fill, zero, name):
    assert fill(**{name: "The [MASK] sailed."}) == fill("The [MASK] sailed.")
    answer = zero()("A ship.", ["sea", "land"])
    assert zero()(**{name: "A ship."}, candidate_labels=["sea", "land"]) == answer
    if name != "texts":
        asked = TASKS["question-answering"][2]
        qa = pipeline("question-answering")
        assert qa(**{name: asked}) == qa(asked)


def test_labels_when_a_pipeline_is_made(zero):
    made = zero(candidate_labels=["sea", "land"])
    expected = zero()("A ship.", ["sea", "land"])
    assert made("A ship.") == made(sequences="A ship.") == pickle.loads(pickle.dumps(made))("A ship.") == expected
    for others in (made("A ship.", ["x", "y"]), made("A ship.", candidate_labels=["x", "y"])):
        assert set(others["labels"]) == {"x", "y"}
    qa = pipeline("question-answering", context="The man sailed.")
    assert qa("Who sailed?") == pipeline("question-answering")("Who sailed?", "The man sailed.")


def test_names_of_inputs_are_suggested(zero, fill):
    with pytest.raises(TypeError, match="Did you mean 'candidate_labels'"):
        zero()("A ship.", candidate_label=["sea"])
    with pytest.raises(TypeError, match="Did you mean 'candidate_labels'"):
        zero(candidate_label=["sea"])
    with pytest.raises(TypeError, match="Did you mean 'texts'"):
        fill(textes="The [MASK] sailed.")
    with pytest.raises(TypeError, match="fill-mask has no option 'texts'"):
        pipeline("fill-mask", texts="The [MASK] sailed.")
    with pytest.raises(TypeError, match="inputs and texts are one option"):
        fill(texts="The [MASK] sailed.", inputs="The [MASK] sailed.")


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("fill-mask", {"top_k": -3}),
        ("fill-mask", {"top_k": "best"}),
        ("fill-mask", {"batch_size": "x"}),
        ("fill-mask", {"batch_tokens": 0}),
        ("text-classification", {"top_k": "all"}),
        ("text-classification", {"topk": 0}),
        ("text-classification", {"stride": -1}),
        ("text-classification", {"function_to_apply": "relu"}),
        ("token-classification", {"aggregation_strategy": "best"}),
        ("token-classification", {"stride": 2.5}),
        ("question-answering", {"max_answer_len": 0}),
        ("question-answering", {"max_seq_len": "x"}),
        ("question-answering", {"max_question_len": 0}),
        ("multiple-choice", {"top_k": 1.5}),
        ("feature-extraction", {"pooling": "max"}),
        ("feature-extraction", {"stride": True}),
        ("zero-shot-classification", {"candidate_labels": ["a", "a"]}),
        ("zero-shot-classification", {"hypothesis_template": "no place"}),
    ],
)
def test_values_are_checked_when_a_pipeline_is_made(zero, task, options):
    made = (lambda **o: zero(**o)) if task.startswith("zero") else (lambda **o: pipeline(task, **o))
    with pytest.raises(ValueError) as at_once:
        made(**options)
    asked = ("A ship.", ["x"])[: 1 if "candidate_labels" in options else 2] if task.startswith("zero") else None
    with pytest.raises(ValueError, match=re.escape(str(at_once.value))):
        made()(*(asked or [TASKS[task][2]]), **options)


def test_a_stream_is_there_whatever_its_length(fill):
    assert fill(text for text in ["The [MASK] sailed."]) and fill(text for text in [])


# -- models and tokenizers of other libraries


def test_parts_of_transformers_are_answered_with_ours():
    transformers = pytest.importorskip("transformers")
    vocab = ConvBertTokenizerFast.from_pretrained("convbert-tiny").get_vocab()
    with pytest.raises(TypeError, match=r"AutoTokenizer.from_pretrained\("):
        pipeline("fill-mask", tokenizer=transformers.ConvBertTokenizer(vocab=vocab))
    model = transformers.ConvBertForMaskedLM(transformers.ConvBertConfig(vocab_size=30, **SIZES))
    with pytest.raises(TypeError, match=r"AutoModelForMaskedLM.from_pretrained\(.*convbert.speed_up\("):
        pipeline("fill-mask", model, tokenizer="convbert-tiny")


def test_an_adapted_model_names_the_way_out():
    peft = pytest.importorskip("peft", reason="pip install peft")
    model = ConvBertForMaskedLM.from_pretrained("convbert-tiny")
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"], r=2))
    with pytest.raises(TypeError, match=r"merge_and_unload\(\)"):
        pipeline("fill-mask", adapted, tokenizer="convbert-tiny")
    assert pipeline("fill-mask", adapted.merge_and_unload(), tokenizer="convbert-tiny")("The [MASK] sailed.")


def test_wrapped_in_any_order(fill):
    compiled, many = (lambda m: torch.compile(m, backend="eager")), torch.nn.DataParallel
    averaged = torch.optim.swa_utils.AveragedModel
    expected = fill("The [MASK] sailed.")
    for wrap in ([many, compiled], [compiled, many], [many, many], [averaged, compiled, many]):
        model = fill.model
        for one in wrap:
            model = one(model)
        pipe = pipeline("fill-mask", model, tokenizer=fill.tokenizer, top_k=2)
        assert [row["token"] for row in pipe("The [MASK] sailed.")] == [row["token"] for row in expected]
    outermost = compiled(fill.model)
    assert pipeline("fill-mask", outermost, tokenizer=fill.tokenizer).model is outermost


@pytest.mark.parametrize("device", [True, False, 2.5, [], {"": "cpu"}])
def test_what_is_no_device(device):
    with pytest.raises(TypeError, match=f"device={re.escape(repr(device))} must be"):
        pipeline("fill-mask", device=device)


def test_numbers_of_devices_from_numpy():
    numpy = pytest.importorskip("numpy")
    assert pipeline("fill-mask", device=numpy.int64(-1)).model.device.type == "cpu"
    with pytest.raises(TypeError, match="must be"):
        pipeline("fill-mask", device=numpy.bool_(True))
