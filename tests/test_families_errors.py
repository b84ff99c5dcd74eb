"""What ELECTRA, ALBERT, DistilBERT and the automatic classes refuse: with the value, the rule and the way out."""

import json
import re

import pytest
import torch
from family_pairs import KINDS, transformers

import convbert
from convbert import AlbertConfig, AutoConfig, AutoModel, AutoModelForPreTraining, DistilBertConfig, ElectraConfig
from convbert.auto import model_for
from convbert.families.registry import FAMILIES

SIZES = dict(
    vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40,
    max_position_embeddings=40,
)  # fmt: skip
AUTO = [name for name in convbert.__all__ if name.startswith("Auto")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"hidden_sise": 3}, TypeError, "Config has no field 'hidden_sise'. Did you mean 'hidden_size'"),
        ({"num_attention_heads": 7}, ValueError, r"(hidden_size|dim)=\d+ must divide by (num_attention|n)_heads=7"),
        ({"num_hidden_layers": 0}, ValueError, "layers=0 must be at least 1"),
        ({"num_hidden_layers": 2.5}, TypeError, "layers=2.5 must be a whole number"),
        ({"vocab_size": "x"}, TypeError, "vocab_size='x' must be a whole number"),
        ({"hidden_act": "gleu"}, ValueError, "(hidden_act|activation)='gleu' is not known. Did you mean 'gelu'"),
        ({"hidden_dropout_prob": 1.0}, ValueError, "dropout(_prob)?=1.0 must be a probability"),
        ({"pad_token_id": 10**6}, ValueError, "pad_token_id=1000000 must be an id below vocab_size"),
        ({"problem_type": "x"}, ValueError, "problem_type='x' is not known"),
        ({"id2label": {0: "a", 2: "b"}}, ValueError, "must name the ids 0 to 1 without a gap"),
    ],
)
def test_values_that_no_configuration_has(kind, values, error, words):
    config = FAMILIES[kind].config
    with pytest.raises(error, match=words):
        config(**values)
    with pytest.raises(error, match=words):
        config().replace(**values)


@pytest.mark.parametrize(
    ("config", "values", "error", "words"),
    [
        (AlbertConfig, {"num_hidden_groups": 13}, ValueError, "num_hidden_groups=13, num_hidden_layers=12: there must"),
        (AlbertConfig, {"num_hidden_groups": 0}, ValueError, "num_hidden_groups=0 must be at least 1"),
        (AlbertConfig, {"inner_group_num": "2"}, TypeError, "inner_group_num='2' must be a whole number"),
        (AlbertConfig, {"classifier_dropout_prob": 2}, ValueError, "classifier_dropout_prob=2 must be a probability"),
        (AlbertConfig, {"bos_token_id": "[CLS]"}, TypeError, r"bos_token_id='\[CLS\]' must be a whole number"),
        (AlbertConfig, {"classifier_dropout_prob": 0.1, "classifier_dropout": 0.2}, TypeError, "pass one of them"),
        (DistilBertConfig, {"dim": 32, "hidden_size": 48}, TypeError, "dim is .*hidden_size: pass one of them"),
        (DistilBertConfig, {"dimm": 32}, TypeError, "no field 'dimm'. Did you mean 'dim'"),
        (DistilBertConfig, {"type_vocab_size": 2}, TypeError, "no field 'type_vocab_size'"),
        (DistilBertConfig, {"qa_dropout": -1}, ValueError, "qa_dropout=-1 must be a probability"),
        (DistilBertConfig, {"seq_classif_dropout": None}, TypeError, "seq_classif_dropout=None must be a number"),
        (DistilBertConfig, {"sinusoidal_pos_embds": "x"}, ValueError, "sinusoidal_pos_embds='x' is not known"),
        (ElectraConfig, {"summary_type": "foo"}, ValueError, "summary_type='foo' is not known"),
        (ElectraConfig, {"summary_activation": "foo"}, ValueError, "summary_activation='foo' is not known"),
        (ElectraConfig, {"summary_use_proj": "yes"}, ValueError, "summary_use_proj='yes' is not known"),
        (ElectraConfig, {"embedding_size": 0}, ValueError, "embedding_size=0 must be at least 1"),
    ],
)
def test_values_that_a_family_refuses(config, values, error, words):
    with pytest.raises(error, match=words):
        config(**values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "values", [{"is_decoder": True}, {"add_cross_attention": True}, {"position_embedding_type": "relative_key"}]
)
def test_what_no_encoder_does(kind, values):
    (name,) = values
    with pytest.raises(ValueError, match=f"{name}=.* is not built here"):
        FAMILIES[kind].config.from_dict(values)


@pytest.mark.parametrize("kind", KINDS)
def test_notes_of_other_libraries(kind):
    config = FAMILIES[kind].config(use_cache=False, output_attentions=True)
    config.use_cache = True
    assert config.use_cache and config.output_attentions and config.to_dict()["use_cache"] is True
    for name in ("num_labels", *config.aliases):
        with pytest.raises(AttributeError, match=rf"model.config = model.config.replace\({name}=...\)"):
            setattr(config, name, 4)


# -- models and inputs


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_something_else(kind):
    cls = getattr(convbert, f"{FAMILIES[kind].prefix}ForQuestionAnswering")
    for given in (None, {}, kind, 3):
        with pytest.raises(TypeError, match=f"must be a {cls.config_class.__name__}"):
            cls(given)
    for other in {*KINDS} - {kind}:
        with pytest.raises(ValueError, match=f"model_type='{other}' is of another family"):
            cls(FAMILIES[other].config(**SIZES))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_their_configuration(kind):
    prefix = FAMILIES[kind].prefix
    theirs = getattr(transformers, f"{prefix}Config")(pad_token_id=1, num_labels=5)
    assert FAMILIES[kind].config.from_dict(theirs.to_dict()).pad_token_id == 1
    names = {field: alias for alias, field in FAMILIES[kind].config.aliases.items()}
    theirs = type(theirs)(**{names.get(name, name): value for name, value in SIZES.items()}, num_labels=5)
    for made in (
        getattr(convbert, f"{prefix}ForTokenClassification")(theirs),
        convbert.AutoModelForTokenClassification.from_config(theirs),
    ):
        assert type(made.config) is FAMILIES[kind].config and made.classifier.out_features == 5
    assert getattr(convbert, f"{prefix}ForQuestionAnswering")(theirs).config.num_labels == 2


def test_inputs_that_a_distilbert_cannot_read():
    model, ids = convbert.DistilBertModel(DistilBertConfig(**SIZES)), torch.ones(1, 4, dtype=torch.long)
    model(ids, token_type_ids=torch.zeros_like(ids))
    with pytest.raises(ValueError, match="token_type_ids name a second text, and distilbert has no token types"):
        model(ids, token_type_ids=torch.ones_like(ids))
    with pytest.raises(ValueError, match="41 tokens are longer than this model's max_position_embeddings=40"):
        model(torch.ones(1, 41, dtype=torch.long))
    for shape in ((2, 2, 4), (3, 4), (4,), (2, 3)):
        with pytest.raises(ValueError, match=r"head_mask has shape .* it must have \(2, 1, 4\)"):
            model(ids, head_mask=torch.ones(shape))
    wide = convbert.AlbertModel(AlbertConfig(**SIZES, embedding_size=8))
    with pytest.raises(ValueError, match=r"inputs_embeds \(batch, tokens, 8\); got \(1, 4, 32\)"):
        wide(inputs_embeds=torch.ones(1, 4, 32))


def test_a_summary_that_is_not_built():
    with pytest.raises(ValueError, match="multiple choice reads .*; got summary_type='attn'"):
        convbert.ElectraForMultipleChoice(ElectraConfig(**SIZES, summary_type="attn"))


# -- automatic classes


@pytest.mark.parametrize("name", AUTO)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"model_type": "bert"}, "model_type='bert' is of no family here"),
        ({"model_type": "electr"}, "model_type='electr' is of no family here. Did you mean 'electra'"),
        ({"model_type": ["electra"]}, r"model_type=\['electra'\] is of no family here"),
        ({"model_type": 3}, "model_type=3 is of no family here"),
        ({"architectures": ["BertModel"]}, "model_type=None is of no family here. Choose from 'convbert', 'electra'"),
        ({"hidden_size": 3}, "model_type=None is of no family here"),
    ],
)
def test_a_folder_of_an_unknown_family(name, content, words, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words):
        getattr(convbert, name).from_pretrained(tmp_path)


@pytest.mark.parametrize("name", AUTO)
def test_an_automatic_class_is_not_made(name, tmp_path):
    with pytest.raises(TypeError, match=rf"{name} finds the class .*{name}.from_pretrained\(name\)"):
        getattr(convbert, name)(ElectraConfig())
    with pytest.raises(FileNotFoundError, match="has no config.json, so it is no model folder; it holds nothing"):
        getattr(convbert, name).from_pretrained(tmp_path)


def test_a_head_that_a_family_lacks(tmp_path):
    config = DistilBertConfig(**SIZES)
    convbert.DistilBertModel(config).save_pretrained(tmp_path)
    words = "there is no DistilBertForPreTraining; there are DistilBertModel, DistilBertForMaskedLM"
    with pytest.raises(ValueError, match=words):
        AutoModelForPreTraining.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=words):
        AutoModelForPreTraining.from_config(config)
    with pytest.raises(AttributeError, match="DistilBertForPreTraining"):
        convbert.DistilBertForPreTraining  # noqa: B018


def test_what_is_no_configuration():
    for given, error in (("electra", TypeError), (None, ValueError), (3, ValueError)):
        with pytest.raises(error, match=re.escape(repr(given))):
            AutoModel.from_config(given)
    with pytest.raises(ValueError, match="model_type='bert' is of no family here"):
        AutoConfig.for_model("bert")
    with pytest.raises(TypeError, match="AlbertConfig has no field 'hidden'"):
        AutoConfig.for_model("albert", hidden=3)
    with pytest.raises(ValueError, match="no task 'summarisation'"):
        model_for("summarisation", AlbertConfig())


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_another_family(kind, tmp_path):
    family = FAMILIES[kind]
    getattr(convbert, f"{family.prefix}Model")(family.config(**SIZES)).save_pretrained(tmp_path)
    for other in {*FAMILIES} - {kind}:
        with pytest.raises(ValueError, match=rf"model_type='{kind}' is of another family; .*AutoModel"):
            getattr(convbert, f"{FAMILIES[other].prefix}Model").from_pretrained(tmp_path)
