"""What users bring from transformers, with ELECTRA, ALBERT and DistilBERT: methods, word tables, masks, ways to run."""

import copy
import pickle

import pytest
import torch
from family_pairs import CLASSES, KINDS, close, compare, make_inputs, make_pair, scalar, transformers
from torch.testing import assert_close

import convbert
from convbert.ablation import make_head_mask
from convbert.families.registry import FAMILIES
from convbert.outputs import ModelOutput

LABELLED = [(kind, "ForSequenceClassification") for kind in FAMILIES]  # one class for each family, ConvBERT too
SIZES = dict(
    vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40, num_labels=2,
    max_position_embeddings=40,
)  # fmt: skip


def make(kind, head="ForSequenceClassification", **values):
    """A small model of ours, in evaluation mode, with weights that are large enough for everything to matter."""
    family = FAMILIES[kind]
    zero = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    torch.manual_seed(0)
    model = getattr(convbert, family.prefix + head)(family.config(**{**SIZES, **zero, **values})).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.15)
    return model


def batch(lengths=(9, 4, 6), left=False):
    """Texts of several lengths, padded on one side."""
    T = max(lengths)
    mask = (torch.arange(T) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(1, 97, mask.shape, generator=torch.Generator().manual_seed(0)) * mask
    return {name: x.flip(1) if left else x for name, x in {"input_ids": ids, "attention_mask": mask}.items()}


# -- outputs


@pytest.mark.parametrize(("kind", "head"), CLASSES)
def test_mappings_and_tuples(kind, head, generator):
    model = make(kind, head)
    inputs = make_inputs(kind, head, model.config, generator)
    shown = dict(output_hidden_states=True, output_attentions=True)
    out, as_tuple = model(**inputs, **shown), model(**inputs, **shown, return_dict=False)
    assert isinstance(out, ModelOutput) and list(out)[-2:] == ["hidden_states", "attentions"]
    assert type(as_tuple) is tuple and len(as_tuple) == len(out)
    for i, (name, value) in enumerate(out.items()):
        assert out[i] is out[name] is getattr(out, name) is value
        assert_close(as_tuple[i], value)
    model.config.return_dict = False
    assert type(model(**inputs)) is tuple and type(model(**inputs, return_dict=True)) is type(out)
    if head != "Model":
        assert next(iter(out)) == "loss"


# -- word tables


@pytest.mark.parametrize(("kind", "head"), CLASSES)
def test_a_grown_vocabulary(kind, head, tmp_path, generator):
    model = make(kind, head)
    inputs = make_inputs(kind, head, model.config, generator)
    before, old = model(**inputs), model.get_input_embeddings().weight.detach().clone()
    assert model.resize_token_embeddings(103) is model.get_input_embeddings() and model.config.vocab_size == 103
    after = model(**inputs)
    for name in before:
        scores = after[name][..., :97] if after[name].shape[-1:] == (103,) else after[name]
        if name != "loss" or "predictions" not in dict(model.named_children()):
            assert_close(scores, before[name], atol=1e-5, rtol=1e-4)
    assert model.get_input_embeddings().weight[:97].equal(old)
    inputs["input_ids"] = inputs["input_ids"].clone().fill_(102)
    model.save_pretrained(tmp_path)
    theirs, info = getattr(transformers, type(model).__name__).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()) and theirs.get_input_embeddings().num_embeddings == 103
    if (theirs.get_output_embeddings()) is not None:
        assert theirs.get_output_embeddings().bias.shape == (103,)
    with torch.no_grad():
        compare(model(**inputs), theirs.eval()(**inputs), inputs["attention_mask"], head)
    model.resize_token_embeddings(97)
    inputs["input_ids"].fill_(3)
    model(**inputs)


@pytest.mark.parametrize(("kind", "head"), CLASSES)
def test_methods_of_transformers(kind, head):
    theirs, ours = make_pair(kind, head)
    theirs.tie_weights()
    ours.tie_weights()
    for only in (False, True):
        assert ours.num_parameters(only) == theirs.num_parameters(only)
    assert ours.num_parameters(exclude_embeddings=True) <= ours.num_parameters()
    assert ours.get_input_embeddings().weight.equal(theirs.get_input_embeddings().weight)
    assert (ours.get_output_embeddings() is None) == (theirs.get_output_embeddings() is None)
    ours.encoder.requires_grad_(False)
    theirs.base_model.requires_grad_(False)
    assert ours.num_parameters(only_trainable=True) == theirs.num_parameters(only_trainable=True)
    ours.set_input_embeddings(torch.nn.Embedding(50, ours.config.embedding_size))
    assert ours.config.vocab_size == 50 and (ours.device.type, ours.dtype) == ("cpu", torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_labels(kind, tmp_path):
    model = make(kind, num_labels=3)
    model.config = model.config.replace(id2label={0: "bad", 1: "so so", 2: "good"})
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.config.label2id == {"bad": 0, "so so": 1, "good": 2} and again.config.num_labels == 3
    assert transformers.AutoConfig.from_pretrained(tmp_path).id2label == again.config.id2label
    other = type(model).from_pretrained(tmp_path, label2id={"a": 0, "b": 1, "c": 2})
    assert other.config.id2label == {0: "a", 1: "b", 2: "c"}
    with pytest.raises(ValueError, match="ignore_mismatched_sizes=True"):
        type(model).from_pretrained(tmp_path, num_labels=4)
    with pytest.warns(UserWarning, match="Of another shape"):
        fresh = type(model).from_pretrained(tmp_path, num_labels=4, ignore_mismatched_sizes=True)
    assert fresh(**batch()).logits.shape == (3, 4)


# -- head masks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left", [False, True])
def test_a_masked_head_is_a_zeroed_slice(kind, left):
    groups = dict(num_hidden_groups=2) if kind == "albert" else {}  # so that each step has weights of its own
    model, given = make(kind, **groups), batch(left=left)
    for pairs in ([(0, 1)], [(1, 3)], [(0, 0), (0, 2), (1, 1)]):
        mask = make_head_mask(model.config, attention=pairs)
        assert mask.shape == (2, 1, 4)
        flat = model(**given, head_mask=mask[:, 0])
        assert_close(flat, model(**given, head_mask=mask))
        other = copy.deepcopy(model)
        with torch.no_grad():
            for layer, head in pairs:
                other.encoder.layers[layer].mixer.output.weight[:, head * 8 : head * 8 + 8] = 0
        close(flat.logits, other(**given).logits, str(pairs))
        assert (flat.logits - model(**given).logits).abs().max() > 1e-4
    with pytest.raises(ValueError, match=f"{kind} has no convolution heads"):
        make_head_mask(model.config, conv=[(0, 0)])


def test_heads_of_shared_layers_are_masked_step_by_step():
    model, given = make("albert", num_hidden_layers=3, inner_group_num=2), batch()
    assert make_head_mask(model.config).shape == (6, 1, 4)
    whole = make_head_mask(model.config, attention=[(step, 2) for step in range(0, 6, 2)])
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.encoder.layers[0].mixer.output.weight[:, 16:24] = 0
    close(model(**given, head_mask=whole).logits, other(**given).logits, "all steps of one layer")
    one = make_head_mask(model.config, attention=[(4, 2)])
    assert (model(**given, head_mask=one).logits - model(**given, head_mask=whole).logits).abs().max() > 1e-4


# -- padding and first tokens


WAYS = {
    "packed": {},
    "maps": {"output_attentions": True},
    "hidden states": {"output_hidden_states": True},
    "compiled": {},
    "layers compiled": {},
    "without gradients": {},
}

HEADS = "Model", "ForMaskedLM", "ForSequenceClassification", "ForMultipleChoice"
RUNS = [(way, kind, head) for way in WAYS for kind in FAMILIES for head in HEADS]
RUNS = [
    run for run in RUNS if "compiled" not in run[0] or run[1:] in LABELLED[1:]
]  # tests/test_padding.py has ConvBERT's


@pytest.mark.parametrize(("way", "kind", "head"), RUNS)
def test_padding_changes_nothing(way, kind, head):
    model = make(kind, head)
    run = torch.compile(model, backend="eager") if way == "compiled" else model
    if way == "layers compiled":
        model.compile_layers("eager")
    with torch.set_grad_enabled(way != "without gradients"):
        for left in (False, True):
            lengths = (9, 4, 6, 6, 1)
            given = {k: v[:, None] if head == "ForMultipleChoice" else v for k, v in batch(lengths, left).items()}
            found = run(**given, **WAYS[way])
            for row, n in enumerate(lengths):
                place = slice(-n, None) if left else slice(n)
                alone = make_alone(kind, head)(given["input_ids"][row : row + 1, ..., place])
                for name in ("last_hidden_state", "pooler_output", "logits"):
                    if (expected := alone.get(name)) is not None:
                        mine = found[name][row]
                        close(mine[place] if head in ("Model", "ForMaskedLM") and name != "pooler_output" else mine,
                              expected[0], f"{name} of row {row}")  # fmt: skip
    torch.compiler.reset()


MODELS = {}


def make_alone(kind, head):
    """The same model, never compiled."""
    return MODELS.setdefault((kind, head), make(kind, head))


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForMultipleChoice"])
@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("left", [False, True])
def test_first_tokens_alone_say_the_same(kind, head, left):
    """A text's answer needs the first token of the last layer only; asked for all hidden states, all are computed."""
    model = make(kind, head)
    for given in (batch(left=left), {"input_ids": batch((7, 7))["input_ids"]}):
        given = {k: v[:, None] if head == "ForMultipleChoice" else v for k, v in given.items()}
        for mask in (None, make_head_mask(model.config, attention=[(1, 0)])):
            full = model(**given, head_mask=mask, output_hidden_states=True)
            close(model(**given, head_mask=mask).logits, full.logits, "logits")


# -- ways to run


@pytest.mark.parametrize(("kind", "head"), LABELLED)
def test_copies_and_wrappers(kind, head):
    model, given = make(kind, head), batch()
    expected = model(**given).logits
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.nn.DataParallel(model)):
        assert_close(other(**given).logits, expected)
    assert pickle.loads(pickle.dumps(model.config)) == copy.deepcopy(model.config) == model.config
    half = copy.deepcopy(model).to(torch.bfloat16)(**given).logits
    assert half.dtype == torch.bfloat16 and (half - expected).abs().max() < 0.1 * expected.abs().max()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (model(**given).logits - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize(("kind", "head"), LABELLED)
def test_arguments_of_loading(kind, head, tmp_path):
    model = make(kind, head)
    model.save_pretrained(tmp_path)
    auto = convbert.AutoModelForSequenceClassification
    for door in (type(model), auto):
        for words in (dict(dtype="bfloat16"), dict(torch_dtype=torch.bfloat16)):
            assert door.from_pretrained(tmp_path, **words).dtype == torch.bfloat16
        for device in ("cpu", {"": "cpu"}, torch.device("cpu")):
            loaded = door.from_pretrained(
                tmp_path, device_map=device, low_cpu_mem_usage=True, attn_implementation="sdpa"
            )
            assert loaded.device.type == "cpu" and type(loaded) is type(model)
        _, info = door.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values())
        with pytest.raises(TypeError, match="no field 'nonsense'"):
            door.from_pretrained(tmp_path, nonsense=1)
        named = door.from_pretrained(tmp_path, config=str(tmp_path), hidden_dropout_prob=0.3).config
        assert named.hidden_dropout_prob == 0.3
    if kind == "distilbert":
        assert auto.from_pretrained(tmp_path, dropout=0.4, seq_classif_dropout=0.1).config.hidden_dropout_prob == 0.4


@pytest.mark.parametrize("kind", FAMILIES)
def test_layers_that_are_recomputed(kind):
    more = dict(num_hidden_layers=4, inner_group_num=2) if kind == "albert" else {}
    plain, frugal = make(kind, "Model", **more).train(), make(kind, "Model", **more).train()
    frugal.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    given = batch()
    for model in (plain, frugal):
        scalar(model(**given), given["attention_mask"]).backward()
    for (name, a), b in zip(plain.named_parameters(), frugal.parameters(), strict=True):
        assert_close(a.grad, b.grad, msg=name)
    frugal.gradient_checkpointing_disable()
    assert not frugal.encoder.gradient_checkpointing


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_word_table(kind):
    model = make(kind).train()
    model.requires_grad_(False)
    model.enable_input_require_grads()
    assert model(**batch()).logits.requires_grad


@pytest.mark.parametrize(("kind", "head"), [(kind, "ForMaskedLM") for kind in KINDS] + LABELLED[1:])
def test_a_traced_model_is_right_for_other_batches(kind, head):
    model = make(kind, head)
    with torch.no_grad():
        traced = torch.jit.trace(model, tuple(batch((3, 7)).values()), strict=False)
        exported = torch.export.export(model, tuple(batch((3, 7)).values())).module()
        for lengths in ((3, 7), (7, 7), (1,), (2, 9, 4)):
            given = batch(lengths)
            expected = model(**given).logits
            assert_close(traced(*given.values())["logits"], expected, atol=1e-5, rtol=1e-4)
            if lengths == (3, 7):
                assert_close(exported(*given.values()).logits, expected, atol=1e-5, rtol=1e-4)
