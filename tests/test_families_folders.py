"""Folders of ELECTRA, ALBERT and DistilBERT: those that either side saves, and those that were published long ago."""

import json
import warnings

import pytest
import torch
from family_pairs import CLASSES, KINDS, compare, config_of, make_inputs, make_pair, random_values, transformers

import convbert
from convbert import modeling
from convbert.checkpoints import LoadReport
from convbert.families.registry import FAMILIES

EVERY_CLASS = [(kind, head) for kind in FAMILIES for head in FAMILIES[kind].heads]
SIZES = dict(
    vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40,
    max_position_embeddings=40,
)  # fmt: skip


def silently(load, *args, **options):
    """Load, and let every warning be an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load(*args, **options)


def same_parameters(a, b):
    ours, others = a.state_dict(), b.state_dict()
    return ours.keys() == others.keys() and all(ours[name].equal(others[name]) for name in ours)


def answers(theirs, ours, kind, head):
    """Both models' outputs must be equal."""
    inputs = make_inputs(kind, head, ours.config, torch.Generator().manual_seed(1))
    with torch.no_grad():
        compare(ours.eval()(**inputs), theirs.eval()(**inputs), inputs["attention_mask"], head)


# -- both ways


@pytest.mark.parametrize(("kind", "head"), CLASSES)
@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_their_folder_loads_here(kind, head, layout, tmp_path):
    theirs, _ = make_pair(kind, head, **random_values(kind, 1))
    theirs.save_pretrained(tmp_path)
    if layout == "bin":  # as transformers wrote before version 5: tied tensors twice
        (tmp_path / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    loaded = silently(getattr(modeling, FAMILIES[kind].prefix + head).from_pretrained, tmp_path)
    assert loaded.load_report == LoadReport()
    answers(theirs, loaded, kind, head)


@pytest.mark.parametrize(("kind", "head"), CLASSES)
def test_our_folder_loads_there(kind, head, tmp_path):
    _, ours = make_pair(kind, head, **random_values(kind, 2))
    ours.save_pretrained(tmp_path)
    name = FAMILIES[kind].prefix + head
    theirs, info = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [name]
    answers(theirs, ours, kind, head)


@pytest.mark.parametrize(("kind", "head"), EVERY_CLASS)
def test_our_own_round_trip(kind, head, tmp_path):
    family = FAMILIES[kind]
    torch.manual_seed(0)
    made = getattr(convbert, family.prefix + head)(family.config(**SIZES, num_labels=2))
    made.save_pretrained(tmp_path, max_shard_size="9KB")
    for door in (type(made), getattr(convbert, f"AutoModel{head.removeprefix('Model')}")):
        again = silently(door.from_pretrained, tmp_path)
        assert type(again) is type(made) and same_parameters(again, made) and again.load_report == LoadReport()
        assert again.config.replace(extra={}) == made.config


@pytest.mark.parametrize(("kind", "head"), CLASSES)
def test_from_a_bare_encoder_to_a_head_and_back(kind, head, tmp_path):
    """A head's folder gives the encoder all it has; an encoder's gives a head all but the head itself."""
    prefix = FAMILIES[kind].prefix
    _, bare = make_pair(kind, "Model")
    bare.save_pretrained(tmp_path / "bare")
    if head == "Model":
        return
    kept = {name for name in bare.state_dict() if "pooler" not in name}
    with pytest.warns(UserWarning, match="freshly initialised") as warned:
        model = getattr(modeling, prefix + head).from_pretrained(tmp_path / "bare")
    assert len(warned) == 1 and not any(name.startswith("encoder.") for name in model.load_report.missing)
    assert all(model.state_dict()[name].equal(bare.state_dict()[name]) for name in kept)
    model.save_pretrained(tmp_path / "head")
    with pytest.warns(UserWarning, match="without use in this model"):
        again = getattr(modeling, f"{prefix}Model").from_pretrained(tmp_path / "head")
    assert all(again.state_dict()[name].equal(bare.state_dict()[name]) for name in kept)
    lacks_pooler = kind == "albert" and not model.reads_pooler
    assert again.load_report.missing == (("encoder.pooler.weight", "encoder.pooler.bias") if lacks_pooler else ())


# -- config.json


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_configurations_are_equal_both_ways(kind, seed, tmp_path):
    family = FAMILIES[kind]
    more = (
        dict(bos_token_id=7, eos_token_id=8, id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2})
        if seed % 2
        else {}
    )
    theirs = config_of(kind, **{**random_values(kind, seed), **more})
    theirs.save_pretrained(tmp_path / "theirs")
    ours = family.config.from_pretrained(tmp_path / "theirs")
    assert ours == convbert.AutoConfig.from_pretrained(tmp_path / "theirs")
    assert ours.replace(extra={}) == family.config.from_dict(theirs.to_dict()).replace(extra={})
    ours.save_pretrained(tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours")
    ignored = "transformers_version", "_name_or_path"
    expected, found = ({k: v for k, v in c.to_dict().items() if k not in ignored} for c in (theirs, again))
    assert found == expected
    assert family.config.from_pretrained(tmp_path / "ours") == ours
    assert (ours.bos_token_id, ours.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)


def test_the_names_on_disk():
    distilbert = convbert.DistilBertConfig(dim=24, n_heads=2, num_hidden_layers=3, dropout=0.3).to_dict()
    named = {"dim": 24, "n_heads": 2, "n_layers": 3, "dropout": 0.3, "hidden_dim": 3072, "activation": "gelu"}
    assert named.items() <= distilbert.items() and not {"hidden_size", "num_hidden_layers", "hidden_act"} & {
        *distilbert
    }
    albert = convbert.AlbertConfig(classifier_dropout=0.2).to_dict()
    assert albert["classifier_dropout_prob"] == 0.2 and "classifier_dropout" not in albert
    assert (albert["bos_token_id"], albert["eos_token_id"], albert["model_type"]) == (2, 3, "albert")


def test_both_names_of_a_field_in_one_file():
    """Some tools write both: fine while they agree."""
    values = {"model_type": "distilbert", "dim": 24, "n_heads": 2, "hidden_size": 24, "num_attention_heads": 2}
    assert convbert.DistilBertConfig.from_dict(values).hidden_size == 24
    with pytest.raises(TypeError, match="dim.*hidden_size"):
        convbert.DistilBertConfig.from_dict({**values, "hidden_size": 48})


# -- folders as they were published

PUBLISHED = {
    "electra": dict(
        attention_probs_dropout_prob=0.1, embedding_size=16, hidden_act="gelu", hidden_dropout_prob=0.1, hidden_size=32,
        initializer_range=0.02, intermediate_size=40, layer_norm_eps=1e-12, max_position_embeddings=40,
        model_type="electra", num_attention_heads=4, num_hidden_layers=2, type_vocab_size=2, vocab_size=97,
    ),
    "albert": dict(
        attention_probs_dropout_prob=0, bos_token_id=2, classifier_dropout_prob=0.1, down_scale_factor=1,
        embedding_size=16, eos_token_id=3, gap_size=0, hidden_act="gelu_new", hidden_dropout_prob=0, hidden_size=32,
        initializer_range=0.02, inner_group_num=1, intermediate_size=40, layer_norm_eps=1e-12, layers_to_keep=[],
        max_position_embeddings=40, model_type="albert", net_structure_type=0, num_attention_heads=4,
        num_hidden_groups=1, num_hidden_layers=3, num_memory_blocks=0, pad_token_id=0, type_vocab_size=2, vocab_size=97,
    ),
    "distilbert": dict(
        activation="gelu", attention_dropout=0.1, dim=32, dropout=0.1, hidden_dim=40, initializer_range=0.02,
        max_position_embeddings=40, model_type="distilbert", n_heads=4, n_layers=2, output_past=True, pad_token_id=0,
        qa_dropout=0.1, seq_classif_dropout=0.2, sinusoidal_pos_embds=False, tie_weights_=True,
        transformers_version="4.10.0.dev0", vocab_size=97,
    ),
}  # fmt: skip
SOURCES = {  # what was published, and the classes whose weights are in it
    "google/electra-small-discriminator": ("electra", ["ForPreTraining"]),
    "google/electra-small-generator": ("electra", ["ForMaskedLM"]),
    "albert-base-v2": ("albert", ["ForMaskedLM"]),
    "albert with sentence order": ("albert", ["ForPreTraining"]),
    "distilbert-base-uncased": ("distilbert", ["ForMaskedLM"]),
    "distilbert-base-cased-distilled-squad": ("distilbert", ["ForQuestionAnswering"]),
    "distilbert-base-uncased-finetuned-sst-2-english": ("distilbert", ["ForSequenceClassification"]),
}
PARTS = {  # of a class: what stands beside the encoder on disk, tied tensors apart
    ("electra", "ForPreTraining"): {"discriminator_predictions.dense", "discriminator_predictions.dense_prediction"},
    ("electra", "ForMaskedLM"): {"generator_predictions.LayerNorm", "generator_predictions.dense", "generator_lm_head"},
    ("albert", "ForMaskedLM"): {"predictions.LayerNorm", "predictions.dense", "predictions"},
    ("albert", "ForPreTraining"): {"predictions.dense", "predictions", "sop_classifier.classifier"},
    ("distilbert", "ForMaskedLM"): {"vocab_transform", "vocab_layer_norm", "vocab_projector"},
    ("distilbert", "ForQuestionAnswering"): {"qa_outputs"},
    ("distilbert", "ForSequenceClassification"): {"pre_classifier", "classifier"},
}  # fmt: skip
TIED = "generator_lm_head.weight", "predictions.decoder.weight", "vocab_projector.weight"  # the word table again
TIED_IN_HEADS = "predictions.decoder.bias"  # the bias again, which no other head has


def publish(source, folder, gamma):
    """A folder as it is on the hub: a pickled state with every buffer and every tied tensor, and an old config.json."""
    kind, (head,) = SOURCES[source]
    kept = {name: value for name, value in PUBLISHED[kind].items() if name != "transformers_version"}
    name = FAMILIES[kind].prefix + head
    torch.manual_seed(0)
    theirs = getattr(transformers, name)(getattr(transformers, f"{FAMILIES[kind].prefix}Config")(**kept)).eval()
    for p in theirs.parameters():
        p.data.normal_(0, 0.2)
    state = dict(theirs.state_dict())
    if kind == "albert" and head == "ForMaskedLM":  # the published file has a pooler all the same
        state |= {"albert.pooler.weight": torch.randn(32, 32), "albert.pooler.bias": torch.randn(32)}
    state[f"{kind}.embeddings.position_ids"] = torch.arange(40)[None]
    if gamma:
        renamed = ((".LayerNorm.weight", ".LayerNorm.gamma"), (".LayerNorm.bias", ".LayerNorm.beta"))
        renamed += (("layer_norm.weight", "layer_norm.gamma"), ("layer_norm.bias", "layer_norm.beta"))
        for new, old in renamed:
            state = {name.replace(new, old): tensor for name, tensor in state.items()}
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({**PUBLISHED[kind], "architectures": [name]}))
    return theirs, {name for name in state if not name.startswith(f"{kind}.")}


def stems(names):
    return {name.rpartition(".")[0] for name in names}


@pytest.mark.parametrize("gamma", [False, True])
@pytest.mark.parametrize("source", SOURCES)
def test_a_published_folder_loads_into_its_own_class(source, gamma, tmp_path):
    kind, (head,) = SOURCES[source]
    theirs, extra = publish(source, tmp_path, gamma)
    assert PARTS[kind, head] <= stems(extra)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loaded = getattr(modeling, FAMILIES[kind].prefix + head).from_pretrained(tmp_path)
    assert not loaded.load_report.fresh
    pooler = {"albert.pooler"} if source == "albert-base-v2" else set()
    assert stems(loaded.load_report.unexpected) == pooler and len(told) == len(pooler)
    answers(theirs, loaded, kind, head)


@pytest.mark.parametrize("source", SOURCES)
def test_a_published_folder_loads_into_every_class_of_its_family(source, tmp_path):
    """Each names what is random, and what of the file has no use there, in one warning."""
    kind, (own,) = SOURCES[source]
    _, extra = publish(source, tmp_path, gamma=False)
    family = FAMILIES[kind]
    for head in family.heads:
        cls = getattr(modeling, family.prefix + head)
        if (kind, own, head) == ("distilbert", "ForSequenceClassification", "ForMultipleChoice"):
            with pytest.raises(
                ValueError, match="ignore_mismatched_sizes=True"
            ):  # one head for two labels, one for one
                cls.from_pretrained(tmp_path)
            continue
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            model = cls.from_pretrained(tmp_path)
        made = {name for name in model.state_dict() if not name.startswith("encoder.")}
        wanted = {part for name in made for part in model.key_map.disk_names(name)}
        unused = {name for name in extra - wanted if name not in TIED}
        unused -= {TIED_IN_HEADS} if "predictions.bias" in wanted else set()
        if kind == "albert" and not cls.reads_pooler:
            unused |= {"albert.pooler.weight", "albert.pooler.bias"}
        fresh = {name for name in made if not set(model.key_map.disk_names(name)) & extra}
        assert set(model.load_report.missing) == fresh and set(model.load_report.unexpected) == unused
        assert len(told) == (1 if fresh or unused else 0)
        for name in fresh:
            assert model.state_dict()[name].isfinite().all()


@pytest.mark.parametrize(
    ("source", "cls", "random", "useless"),
    [
        ("generator", "ElectraForPreTraining", "discriminator.dense.weight", "generator_lm_head.bias"),
        ("discriminator", "ElectraForMaskedLM", "predictions.bias", "discriminator_predictions.dense"),
    ],
)
def test_one_half_of_an_electra_loaded_as_the_other(source, cls, random, useless, tmp_path):
    publish(f"google/electra-small-{source}", tmp_path, gamma=False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = getattr(convbert, cls).from_pretrained(tmp_path)
    (said,) = (str(each.message) for each in told)
    fresh, unused = said.split("\n")[1:]
    assert cls in said and random in fresh and "freshly initialised (train before use)" in fresh
    assert useless in unused and "without use in this model" in unused
    assert not any(name.startswith("encoder.") for name in model.load_report.missing)


def test_biases_that_differ_are_refused(tmp_path):
    publish("albert-base-v2", tmp_path, gamma=False)
    state = torch.load(tmp_path / "pytorch_model.bin")
    state["predictions.decoder.bias"] = state["predictions.decoder.bias"] + 1
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="predictions.decoder.bias and predictions.bias differ"):
        modeling.AlbertForMaskedLM.from_pretrained(tmp_path)
    with pytest.warns(UserWarning):
        modeling.AlbertModel.from_pretrained(tmp_path)


def test_a_second_bias_of_zeros_gives_way(tmp_path):
    """The first conversions of ALBERT added two biases, of which only one had been trained."""
    publish("albert-base-v2", tmp_path, gamma=False)
    state = torch.load(tmp_path / "pytorch_model.bin")
    state["predictions.decoder.bias"] = torch.zeros_like(state["predictions.bias"])
    torch.save(state, tmp_path / "pytorch_model.bin")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = modeling.AlbertForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(model.predictions.bias, state["predictions.bias"]) and state["predictions.bias"].any()


# -- without a config.json


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", ["own", "auto"])
def test_weights_alone_do_not_tell_the_number_of_heads(kind, door, tmp_path):
    prefix = FAMILIES[kind].prefix
    _, model = make_pair(kind, "ForSequenceClassification")
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    doors = {"own": getattr(convbert, f"{prefix}ForSequenceClassification"),
             "auto": convbert.AutoModelForSequenceClassification}  # fmt: skip
    way = r"config.json.*model.config.save_pretrained\(folder\)"
    with pytest.raises((FileNotFoundError, ValueError), match=way) as raised:
        doors[door].from_pretrained(tmp_path)
    assert door == "auto" or "number of heads" in str(raised.value)
    given = doors[door].from_pretrained(tmp_path, config=model.config)
    assert same_parameters(given, model)
    model.config.save_pretrained(tmp_path)
    if door == "own":
        assert same_parameters(silently(doors[door].from_pretrained, tmp_path), model)
