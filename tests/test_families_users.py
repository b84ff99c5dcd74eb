"""What a new user does with ELECTRA, ALBERT and DistilBERT: views, features, cards, and models that do not fit."""

import json
import warnings

import pytest
import torch
from family_pairs import BASE, KINDS, config_of, transformers
from test_families_libraries import make, make_tokenizer

import convbert
import convbert.training.pretraining.run
from convbert import AutoTokenizer, pipeline, speed_up
from convbert.auto import model_class
from convbert.cli import main
from convbert.families.registry import FAMILIES
from convbert.training import pretraining
from convbert.training.finetuning import finetune
from convbert.training.optim import Recipe
from convbert.training.pretraining import Plan
from convbert.training.pretraining.cards import write_card
from convbert.visualize.ablation import knock_outs
from convbert.visualize.ablation_figures import plot_knock_outs
from convbert.visualize.explorer import mask_explorer
from convbert.visualize.figures import plot_share
from convbert.visualize.head_contributions import head_split, profile
from convbert.visualize.views import head_view, split_view

TEXT = "the cat sat on the mat"


@pytest.mark.parametrize("shape", [{}, {"num_hidden_groups": 2}, {"inner_group_num": 2}])
def test_views_tell_steps_with_shared_weights_apart(shape):
    tokenizer = make_tokenizer("albert")
    model = make("albert", tokenizer, "ForMaskedLM", **shape)
    steps = 2 * shape.get("inner_group_num", 1)
    split = head_split(model, TEXT, tokenizer=tokenizer)
    assert len(split.attention) == steps and split.attention_norm.shape[:2] == (steps, 4)
    with torch.no_grad():
        ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
        maps = model(ids, output_attentions=True).attentions
    for ours, theirs in zip(split.attention, maps, strict=True):
        torch.testing.assert_close(ours, theirs[0])
    assert profile(model, [TEXT, "a dog"], tokenizer=tokenizer).attention_share.shape == (steps, 4)
    for view in (head_view, split_view, mask_explorer):
        view(model, TEXT, tokenizer=tokenizer)


def test_features_need_no_pooler(tmp_path):
    tokenizer = make_tokenizer("albert")
    model = make("albert", tokenizer, "ForMaskedLM")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pipeline("feature-extraction", tmp_path, device="cpu")(TEXT, return_tensors=True)
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(found, model.encoder(ids).last_hidden_state[0])
    head_view(str(tmp_path), TEXT)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="random numbers: encoder.pooler.weight"):
        pipeline("text-classification", tmp_path, device="cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_cards_name_the_class(kind, tmp_path):
    tokenizer = make_tokenizer(kind)
    rows = [{"text": word, "label": word} for word in ("good", "bad")] * 4
    make(kind, tokenizer, "Model").save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    made = finetune(tmp_path / "start", rows, "text-classification", tmp_path / "end", evaluation=rows, epochs=1)
    title = (made.folder / "README.md").read_text().splitlines()[0]
    assert title == f"# {FAMILIES[kind].prefix}ForSequenceClassification, fine-tuned for text-classification"
    (tmp_path / "text.txt").write_text(TEXT)
    plan = Plan([str(tmp_path / "text.txt")], config=FAMILIES[kind].config(), recipe=Recipe(steps=1), lengths=(8,))
    log = [{"step": 1, "top1": 0.1, "top5": 0.2, "perplexity": 9.0}]
    model = make(kind, tokenizer, "ForMaskedLM")
    assert write_card(plan, log, model).startswith(f"# {FAMILIES[kind].prefix}ForMaskedLM, trained with")


@pytest.mark.parametrize("kind", KINDS)
def test_models_that_do_not_fit(kind):
    family, tokenizer = FAMILIES[kind], make_tokenizer(kind)
    theirs = getattr(transformers, f"{family.prefix}Model")(config_of(kind))
    loads = "transformers: convbert's AutoModel.from_pretrained"
    for model, said in ((theirs, loads), (make(kind, tokenizer), "ForMaskedLM")):
        with pytest.raises(TypeError, match=said) as caught:
            pipeline("fill-mask" if model is not theirs else "feature-extraction", model, tokenizer=tokenizer)
        assert "speed_up" not in str(caught.value)
    assert f"ForMaskedLM, got {'a' if kind == 'distilbert' else 'an'} {family.prefix}ForSeq" in str(caught.value)
    with pytest.raises(TypeError, match="no ConvBertSelfAttention: .*are faster as convbert's own"):
        speed_up(theirs)
    with pytest.raises(TypeError, match="is convbert's own, which is fast already"):
        speed_up(model_class(family, "Model")(family.config(**{k: v for k, v in BASE.items() if k != "num_labels"})))


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_that_does_not_say_its_family(kind, tmp_path):
    tokenizer = make_tokenizer(kind)
    tokenizer.save_pretrained(tmp_path)
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is type(tokenizer)
    file = tmp_path / "tokenizer_config.json"
    said = {name: value for name, value in json.loads(file.read_text()).items() if name != "tokenizer_class"}
    file.write_text(json.dumps(said))
    with pytest.raises(FileNotFoundError, match=f"tell the family: name the class, .*{type(tokenizer).__name__}"):
        AutoTokenizer.from_pretrained(tmp_path)
    assert type(tokenizer).from_pretrained(tmp_path)(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]


def test_another_family_is_told_which_there_are():
    with pytest.raises(ValueError, match="'bert' is of no family.* from 'convbert', 'electra', 'albert', 'distilbert'"):
        convbert.AutoConfig.for_model("bert")


def test_the_title_of_a_narrow_figure_is_whole():
    tokenizer = make_tokenizer("electra")
    model = make("electra", tokenizer, id2label={0: "contradiction", 1: "entailment"})
    figure = plot_knock_outs(knock_outs(model, TEXT, tokenizer=tokenizer))
    figure.draw_without_rendering()
    whole = figure.bbox
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert box.x1 <= whole.x1 and box.y1 <= whole.y1, text.get_text()


def test_a_share_that_is_whole_says_so():
    tokenizer = make_tokenizer("distilbert")
    split = head_split(make("distilbert", tokenizer), TEXT, tokenizer=tokenizer)
    assert plot_share(split).axes[0].get_title(loc="left") == "no convolution: all is attention's"


def test_pretraining_from_the_shell_takes_any_family(tmp_path, monkeypatch):
    plans = []
    monkeypatch.setattr(pretraining.run, "pretrain", lambda plan, *where: plans.append(plan) or {})
    (tmp_path / "text.txt").write_text(TEXT)
    for kind, preset in (("electra", "small"), ("albert", "base"), ("distilbert", "base"), ("convbert", "tiny")):
        untaught = ["--objective", "masked-lm"] if kind == "distilbert" else []
        main(["pretrain", str(tmp_path / "text.txt"), "--out", "x", "--family", kind, "--preset", preset, *untaught])
        assert plans[-1].config == FAMILIES[kind].config.preset(preset)
