"""Silenced heads: the same as weights set to zero by hand, in every combination; and what is refused, in words."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from convbert import (
    ConvBertForMaskedLM,
    ConvBertForSequenceClassification,
    ConvBertForTokenClassification,
    ConvBertModel,
    ElectraConfig,
    ElectraForMaskedLM,
    pipeline,
)
from convbert.families.convbert import ConvBertConfig
from convbert.visualize.ablation import ablation_target, knock_out, knock_outs, top_changes
from convbert.visualize.ablation_figures import plot_changes, plot_knock_outs

TEXT = "He opened the [MASK] and read the letter twice."
TWO = "The [MASK] sailed across the [MASK]."
L, H = 3, 4
ALL = [(layer, head) for layer in range(L) for head in range(H)]


def make(kind=ConvBertForMaskedLM, **config):
    """A small model whose heads matter, also the last one."""
    torch.manual_seed(0)
    sizes = dict(num_hidden_layers=L, hidden_size=32, embedding_size=16, intermediate_size=64, initializer_range=0.4)
    return kind(ConvBertConfig.preset("tiny", **{**sizes, **config})).eval()


@pytest.fixture(scope="module")
def model():
    return make()


def without(model, attention=(), conv=()):
    """A copy of a model with the columns of these heads in the output projections set to zero."""
    model = copy.deepcopy(model)
    size = model.config.mixed_head_size
    for offset, heads in ((0, attention), (H, conv)):
        for layer, head in heads:
            weight = model.encoder.layers[layer].mixer.output.weight
            weight.data[:, (offset + head) * size : (offset + head + 1) * size] = 0
    return model


def probabilities(model, tokenizer, text):
    """What a masked language model says at each mask, `(M, V)`, by its plain forward."""
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        return model(ids).logits[0][ids[0] == tokenizer.mask_token_id].softmax(-1)


# -- heads of one's choice


@pytest.mark.parametrize(
    "heads",
    [
        dict(attention=[(0, 0)]),
        dict(conv=[(0, 3)]),
        dict(attention=[(2, 1)], conv=[(2, 1), (1, 0)]),
        dict(conv=[(L - 1, 0)]),
        dict(attention=ALL),
        dict(conv=ALL),
        dict(attention=ALL, conv=ALL),
    ],
    ids=["attention", "convolution", "several", "last layer", "all attention", "all convolution", "all"],
)
@pytest.mark.parametrize("text", [TEXT, TWO])
def test_silencing_equals_weights_set_to_zero_by_hand(model, tokenizer, heads, text):
    found = knock_out(model, text, tokenizer=tokenizer, **heads)
    before, after = probabilities(model, tokenizer, text), probabilities(without(model, **heads), tokenizer, text)
    assert len(found) == len(before)
    for rows, old, new in zip(found, before, after, strict=True):
        ids = tokenizer.convert_tokens_to_ids([row.answer for row in rows])
        assert ids[:5] == old.topk(5).indices.tolist()
        assert set(new.topk(5).indices.tolist()) <= set(ids)
        assert_close(torch.tensor([row.before for row in rows]), old[ids], atol=1e-6, rtol=1e-4)
        assert_close(torch.tensor([row.after for row in rows]), new[ids], atol=1e-6, rtol=1e-4)


def test_nothing_silenced_changes_nothing(model, tokenizer):
    (rows,) = knock_out(model, TEXT, tokenizer=tokenizer)
    assert len(rows) == 5
    assert [row.before for row in rows] == [row.after for row in rows]


def test_heads_are_silenced_once_however_often_they_are_named(model, tokenizer):
    once, twice = (knock_out(model, TEXT, [(1, 2)] * n, tokenizer=tokenizer) for n in (1, 2))
    assert once == twice


def test_numbers_of_other_libraries_are_numbers_too(model, tokenizer):
    numpy = pytest.importorskip("numpy")
    ours, theirs = (knock_out(model, TEXT, [(one, one)], tokenizer=tokenizer) for one in (1, numpy.int64(1)))
    assert ours == theirs


def test_first_answers_are_those_of_the_pipeline():
    (rows,) = knock_out("convbert-tiny", TEXT, top_k=3)
    answers = pipeline("fill-mask", "convbert-tiny", device="cpu")(TEXT, top_k=3)
    assert [row.answer for row in rows] == [answer["token_str"] for answer in answers]
    assert_close([row.before for row in rows], [answer["score"] for answer in answers], atol=1e-6, rtol=1e-4)


def test_newcomers_follow_the_first_answers():
    before, after = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.1, 0.3, 0.6]).log()
    rows = top_changes(before, after, "abc".__getitem__, top_k=1)
    assert [(row.answer, round(row.before, 4), round(row.after, 4)) for row in rows] == [
        ("a", 0.7, 0.1),
        ("c", 0.1, 0.6),
    ]
    assert [row.answer for row in top_changes(before, after, "abc".__getitem__, top_k=9)] == ["a", "b", "c"]


# -- every head by itself


@pytest.mark.parametrize("text", [TEXT, TWO])
@pytest.mark.parametrize("batch_tokens", [1, 64, 10_000])
def test_overview_equals_one_knock_out_after_the_other(model, tokenizer, text, batch_tokens):
    outs = knock_outs(model, text, tokenizer=tokenizer, batch_tokens=batch_tokens)
    before = probabilities(model, tokenizer, text)
    best = before.argmax(-1, keepdim=True)
    assert outs.answers == tokenizer.convert_ids_to_tokens(best[:, 0].tolist())
    assert_close(torch.tensor(outs.probabilities), before.gather(1, best)[:, 0], atol=1e-6, rtol=1e-5)

    def effect(**heads):
        after = probabilities(without(model, **heads), tokenizer, text)
        return (after.gather(1, best).log() - before.gather(1, best).log()).mean()

    rows = range(H)
    kinds = ("attention", "conv")
    heads = [[[effect(**{k: [(layer, h)]}) for h in rows] for k in kinds] for layer in range(L)]
    layers = [[effect(**{k: [(layer, h) for h in rows]}) for k in kinds] for layer in range(L)]
    close = dict(atol=1e-4, rtol=1e-4)
    assert_close(outs.heads, torch.tensor(heads), **close)
    assert_close(outs.layers, torch.tensor(layers), **close)
    assert_close(outs.kinds, torch.stack([effect(**{k: ALL}) for k in kinds]), **close)


def make_plain():
    """A model without convolution, with the vocabulary of the bundled one."""
    torch.manual_seed(0)
    sizes = dict(num_hidden_layers=L, num_attention_heads=H, hidden_size=32, embedding_size=16, intermediate_size=64)
    return ElectraForMaskedLM(ElectraConfig(vocab_size=8192, initializer_range=0.4, **sizes)).eval()


@pytest.fixture(scope="module")
def plain():
    """A model without convolution."""
    return make_plain()


def test_model_without_convolution(plain, tokenizer):
    outs = knock_outs(plain, TEXT, tokenizer=tokenizer)
    assert (outs.heads.shape, outs.layers.shape, outs.kinds.shape) == ((L, 1, H), (L, 1), (1,))
    ((row, *_),) = knock_out(plain, TEXT, [(2, 3)], tokenizer=tokenizer)
    assert_close(outs.heads[2, 0, 3].exp().item(), row.after / row.before, rtol=1e-4, atol=0)
    assert len(plot_knock_outs(outs).axes) == 1


def test_half_precision(tokenizer):
    models = [ConvBertForMaskedLM.from_pretrained("convbert-tiny") for _ in range(2)]
    exact, coarse = (knock_outs(m, TEXT, tokenizer=tokenizer) for m in (models[0], models[1].bfloat16()))
    assert coarse.answers == exact.answers
    assert coarse.heads.dtype == torch.float32
    assert_close(coarse.heads, exact.heads, atol=0.5, rtol=0.5)


# -- classifiers


class MeanHead(nn.Module):
    """A head of somebody else's, which reads all tokens."""

    def __init__(self, config):
        super().__init__()
        self.out = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, x):
        return self.out(x.mean(1))


@pytest.mark.parametrize("head", [None, MeanHead])
@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_labels_of_a_classifier(tokenizer, problem, head):
    model = make(ConvBertForSequenceClassification, id2label={0: "bad", 1: "fair", 2: "good"}, problem_type=problem)
    if head:
        model.classifier = head(model.config).eval()
    heads = dict(attention=[(1, 1)], conv=[(2, 0)])
    pair = dict(text="It rains.", text_pair="The street is wet.")
    (rows,) = knock_out(model, **pair, tokenizer=tokenizer, **heads)

    def labels(model):
        classify = pipeline("text-classification", model, tokenizer=tokenizer)
        return {answer["label"]: answer["score"] for answer in classify(pair, top_k=None)}

    before, after = labels(model), labels(without(model, **heads))
    assert [row.answer for row in rows] == list(before)
    assert_close([row.before for row in rows], list(before.values()), atol=1e-6, rtol=1e-4)
    assert_close([row.after for row in rows], [after[row.answer] for row in rows], atol=1e-6, rtol=1e-4)
    outs = knock_outs(model, **pair, tokenizer=tokenizer)
    assert outs.answers == [rows[0].answer]


def steer(layer):
    """A hook that changes what a layer hands over."""
    return layer.register_forward_hook(lambda layer, given, out: (out[0] * 0.9 + 0.1, *out[1:]))


@pytest.mark.parametrize("steered", range(L))
def test_hooks_on_layers_take_part(tokenizer, steered):
    model, heads = make(), dict(attention=[(0, 1)], conv=[(0, 2)])
    plain = knock_out(model, TEXT, tokenizer=tokenizer, **heads)
    steer(model.encoder.layers[steered])
    (rows,) = knock_out(model, TEXT, tokenizer=tokenizer, **heads)
    assert rows != plain[0]
    (new,) = probabilities(without(model, **heads), tokenizer, TEXT)
    ids = tokenizer.convert_tokens_to_ids([row.answer for row in rows])
    assert_close(torch.tensor([row.after for row in rows]), new[ids], atol=1e-6, rtol=1e-4)


def test_a_folder_says_what_its_model_does(tmp_path, tokenizer):
    make(ConvBertForSequenceClassification, num_labels=3).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (rows,) = knock_out(tmp_path, "It rains.", conv=[(0, 0)])
    assert sorted(row.answer for row in rows) == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_folder_of_transformers(tmp_path, tokenizer):
    transformers = pytest.importorskip("transformers")
    sizes = dict(num_hidden_layers=2, hidden_size=32, embedding_size=16, intermediate_size=64, num_attention_heads=4)
    torch.manual_seed(0)
    theirs = transformers.ConvBertForMaskedLM(transformers.ConvBertConfig(vocab_size=len(tokenizer), **sizes)).eval()
    theirs.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    outs = knock_outs(tmp_path, TEXT)
    assert outs.heads.shape == (2, 2, 2)
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    with torch.no_grad():
        scores = theirs(ids).logits.softmax(-1)[0][ids[0] == tokenizer.mask_token_id][0]
    assert outs.answers == [tokenizer.convert_ids_to_tokens(scores.argmax().item())]
    assert_close(outs.probabilities[0], scores.max().item(), atol=1e-6, rtol=1e-4)


# -- what is refused, and what is left as it was


@pytest.mark.parametrize(
    ("heads", "error", "words"),
    [
        (dict(attention=[(L, 0)]), ValueError, rf"no head 0 in layer {L}.*layers 0 to {L - 1}"),
        (dict(conv=[(0, H)]), ValueError, rf"no head {H} in layer 0.*heads 0 to {H - 1}"),
        (dict(attention=[(-1, 0)]), ValueError, "layers 0 to"),
        (dict(attention=(0, 1)), TypeError, r"attention=\(0, 1\) must be a list of \(layer, head\)"),
        (dict(conv=3), TypeError, r"conv=3 must be a list"),
        (dict(conv="all"), TypeError, r"conv='all' must be a list"),
        (dict(conv=[(0, 1.0)]), TypeError, r"for example \[\(0, 1\)\]"),
        (dict(top_k=0), ValueError, "top_k=0"),
    ],
)
def test_wrong_heads_are_refused(model, tokenizer, heads, error, words):
    with pytest.raises(error, match=words):
        knock_out(model, TEXT, tokenizer=tokenizer, **heads)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("He read the letter.", ValueError, r"no \[MASK\] in .*write \[MASK\] where"),
        ("He read the <mask>.", ValueError, r"It has '<mask>'"),
        ("  ", ValueError, "text is empty"),
        (["one [MASK]", "two [MASK]"], TypeError, "a view shows one text, got 2"),
        (7, TypeError, "text must be a text, got int"),
    ],
)
@pytest.mark.parametrize("function", [knock_out, knock_outs])
def test_wrong_texts_are_refused(model, tokenizer, function, text, error, words):
    with pytest.raises(error, match=words):
        function(model, text, tokenizer=tokenizer)


def test_mask_beyond_what_the_model_reads(tokenizer):
    model = make(max_position_embeddings=16)
    with pytest.warns(UserWarning, match="the model reads 16"):
        with pytest.raises(ValueError, match="stands beyond the 16 tokens"):
            knock_out(model, "far " * 30 + "[MASK]", tokenizer=tokenizer)
        assert len(knock_out(model, "a [MASK] " + "far " * 30, tokenizer=tokenizer)) == 1


@pytest.mark.parametrize("kind", [ConvBertModel, ConvBertForTokenClassification])
def test_models_without_such_answers_are_refused(tokenizer, kind):
    with pytest.raises(TypeError, match=f"fill-mask or a text-classification model, not a {kind.__name__}"):
        knock_outs(make(kind), TEXT, tokenizer=tokenizer)


def test_regression_is_refused(tokenizer):
    model = make(ConvBertForSequenceClassification, num_labels=1, problem_type="regression")
    with pytest.raises(TypeError, match="predicts a number"):
        knock_out(model, "It rains.", tokenizer=tokenizer)


def test_loaded_model_needs_its_tokenizer(model):
    with pytest.raises(ValueError, match="pass tokenizer="):
        knock_out(model, TEXT)


def test_model_in_training_is_looked_at_at_rest_and_put_back(tokenizer):
    model = make(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    resting = knock_out(model, TEXT, [(0, 1)], tokenizer=tokenizer)
    overview = knock_outs(model, TEXT, tokenizer=tokenizer)
    model.train()
    model.predictions.eval()  # somebody's own choice
    assert knock_out(model, TEXT, [(0, 1)], tokenizer=tokenizer) == resting
    assert_close(knock_outs(model, TEXT, tokenizer=tokenizer).heads, overview.heads)
    with pytest.raises(ValueError, match="layers 0 to"):
        knock_out(model, TEXT, [(9, 9)], tokenizer=tokenizer)
    assert model.training and model.encoder.training and not model.predictions.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_weights_stay_as_they_are(model, tokenizer):
    before = copy.deepcopy(model.state_dict())
    knock_out(model, TEXT, ALL, ALL, tokenizer=tokenizer)
    knock_outs(model, TEXT, tokenizer=tokenizer)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# -- short, long, and in other scripts


@pytest.mark.parametrize("text", ["[MASK]", "هذا [MASK] جميل", "🤖 [MASK] 🚢", "[MASK]" * 5, "far " * 505 + "[MASK]"])
def test_texts_of_all_kinds(model, tokenizer, text):
    heads = dict(attention=[(0, 0)], conv=[(1, 1)])
    found = knock_out(model, text, tokenizer=tokenizer, **heads)
    after = probabilities(without(model, **heads), tokenizer, text)
    assert len(found) == text.count("[MASK]")
    for rows, new in zip(found, after, strict=True):
        ids = tokenizer.convert_tokens_to_ids([row.answer for row in rows])
        assert_close(torch.tensor([row.after for row in rows]), new[ids], atol=1e-6, rtol=1e-4)


# -- figures


def test_board_shows_the_effects(model, tokenizer):
    outs = knock_outs(model, TEXT, tokenizer=tokenizer)
    figure = plot_knock_outs(outs)
    figure.canvas.draw()
    for k, ax in enumerate(figure.axes):
        shown = [float(text.get_text().replace("−", "-")) for text in ax.texts[: L * H]]
        assert_close(torch.tensor(shown).view(L, H), outs.heads[:, k], atol=0.005001, rtol=0)
        assert f"{outs.kinds[k]:+.2f}".replace("-", "−") in ax.get_title("left")


def test_bars_show_the_changes(model, tokenizer):
    found = knock_out(model, TWO, ALL, tokenizer=tokenizer)
    rows = [row for mask in found for row in mask]
    (ax,) = plot_changes(found).axes
    assert [bar.get_width() for bar in ax.patches] == [r.before for r in rows] + [r.after for r in rows]
    assert [label.get_text() for label in ax.get_yticklabels()] == [row.answer for row in rows]


def test_figures_are_not_left_open(model, tokenizer):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = pyplot.get_fignums()
    plot_changes(knock_out(model, TEXT, tokenizer=tokenizer))
    assert pyplot.get_fignums() == before


def test_question_keeps_what_enters_each_layer(model, tokenizer):
    target = ablation_target(model, TEXT, tokenizer=tokenizer)
    assert len(target.layer_inputs) == L + 1
    assert target.encoded.tokens[target.positions[0]] == "[MASK]"
