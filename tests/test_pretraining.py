"""The objectives of pretraining: each step equals the paper's formula, and each run leaves models that load."""

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import clip_grad_norm_

from convbert import (
    AlbertConfig,
    AlbertForPreTraining,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoTokenizer,
    ConvBertConfig,
    ConvBertForMaskedLM,
    ConvBertTokenizerFast,
    DistilBertConfig,
    ElectraConfig,
    ElectraForMaskedLM,
)
from convbert.cli import main
from convbert.training.distributed import shard_batch
from convbert.training.loop import fit
from convbert.training.optim import Recipe
from convbert.training.pretraining import Plan, pretrain
from convbert.training.pretraining.distillation import TripleLoss, make_distillation
from convbert.training.pretraining.distillation_inputs import DistillationInputs
from convbert.training.pretraining.masking import (
    ELECTRA_MASKING,
    Masking,
    PreparedBatches,
    choose_runs,
    count_masked,
    mask_rows,
    run_shares,
)
from convbert.training.pretraining.objectives import OBJECTIVES
from convbert.training.pretraining.replaced_tokens import ReplacedTokens, corrupt, generator_config
from convbert.training.pretraining.sentence_order import SentenceOrderLoss
from convbert.training.steps import step_seed

pytest.importorskip("accelerate")
pytest.importorskip("datasets")

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".?!", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
PLAIN = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
SIZES = dict(vocab_size=len(WORDS), hidden_size=32, num_attention_heads=4, intermediate_size=64, num_hidden_layers=2)
RECIPE = Recipe(steps=1, learning_rate=1e-3, warmup=0, decay=0, weight_decay=0.1, compile=False, precision="float32")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    file = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    file.write_text("\n".join(WORDS), encoding="utf-8")
    return ConvBertTokenizerFast(vocab_file=str(file))


@pytest.fixture
def rows(tokenizer):
    """Four rows of a text, the last two shorter than the others."""
    texts = ["ab cd ef. gh ij kl mn.", "the ship sailed. it is a b c d.", "one two.", "xy zz a. b."]
    return torch.tensor(tokenizer(texts, padding=True)["input_ids"])


def one_step_by_hand(model, loss):
    """The weights after one step of AdamW, as the formulas of the optimizer's paper have it."""
    loss.backward()
    parameters = [p for p in model.parameters() if p.requires_grad]
    clip_grad_norm_(parameters, RECIPE.clip)
    with torch.no_grad():
        for p in parameters:
            decay = RECIPE.weight_decay if p.dim() > 1 else 0.0
            first, second = (1 - 0.9) * p.grad, (1 - RECIPE.beta2) * p.grad**2
            first, second = first / (1 - 0.9), second / (1 - RECIPE.beta2)
            p.mul_(1 - RECIPE.learning_rate * decay)
            p.sub_(RECIPE.learning_rate * first / (second.sqrt() + 1e-6))
    return model


def by_the_loop(model, batch, folder):
    fit(model, lambda step: batch, RECIPE, folder)
    return model


def assert_same_weights(one, other):
    assert [name for name, _ in one.named_parameters()] == [name for name, _ in other.named_parameters()]
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4, msg=lambda said, name=name: f"{name}: {said}")


def cross_entropy(logits, labels):
    """The mean of -log p of the labels that are asked for."""
    asked = labels != -100
    return -logits[asked].log_softmax(-1).gather(-1, labels[asked][:, None]).mean()


@pytest.fixture
def batch_of(tokenizer, rows):
    def make(objective, **plan):
        kind = AlbertConfig if objective == "sentence-order" else ConvBertConfig
        plan = Plan("text.txt", kind(embedding_size=16, **SIZES), objective=objective, **plan)
        prepare = OBJECTIVES[objective](plan, tokenizer).prepare
        ids = dict(input_ids=rows, attention_mask=(rows != tokenizer.pad_token_id).long())
        return PreparedBatches(lambda step: ids, prepare, plan.masking)(0)

    return make


def test_a_step_of_masked_words(tmp_path, batch_of):
    torch.manual_seed(0)
    model = ConvBertForMaskedLM(ConvBertConfig(embedding_size=16, **SIZES, **PLAIN))
    twin, batch = copy.deepcopy(model), batch_of("masked-lm")
    logits = twin(batch["input_ids"], batch["attention_mask"]).logits
    at = batch["predict_at"][..., None].expand(-1, -1, logits.shape[-1])
    loss = cross_entropy(logits.gather(1, at), batch["labels"])
    assert_same_weights(by_the_loop(model, batch, tmp_path), one_step_by_hand(twin, loss))


@pytest.mark.parametrize("kind", [ConvBertConfig, ElectraConfig])
def test_a_step_of_replaced_tokens(tmp_path, batch_of, kind):
    torch.manual_seed(0)
    model = ReplacedTokens.from_config(kind(embedding_size=16, **SIZES, **PLAIN), width=0.5)
    twin, batch = copy.deepcopy(model), batch_of("replaced-tokens")
    text, real, asked = batch["input_ids"].clone(), batch["attention_mask"], batch["labels"] != -100
    torch.manual_seed(step_seed(RECIPE.seed, 0, 0))
    logits = twin.generator(batch["input_ids"], real).logits
    logits = torch.stack([row[at] for row, at in zip(logits, batch["predict_at"], strict=True)])
    with torch.no_grad():
        sampled = (logits - (-torch.rand(logits.shape).log()).log()).argmax(-1)  # Gumbel noise
    corrupted = text.clone()
    for row, place in asked.nonzero().tolist():
        at = batch["predict_at"][row, place]
        text[row, at], corrupted[row, at] = batch["labels"][row, place], sampled[row, place]
    scores, replaced = twin.discriminator(corrupted, real).logits, (corrupted != text).float()
    p = scores[real == 1].sigmoid()
    target = replaced[real == 1]
    detection = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    loss = cross_entropy(logits, batch["labels"]) + 50 * detection
    assert_same_weights(by_the_loop(model, batch, tmp_path), one_step_by_hand(twin, loss))


def test_a_step_of_sentence_order(tmp_path, batch_of):
    torch.manual_seed(0)
    config = AlbertConfig(embedding_size=16, **SIZES, **PLAIN, classifier_dropout=0.0)
    model = SentenceOrderLoss(AlbertForPreTraining(config))
    twin, batch = copy.deepcopy(model), batch_of("sentence-order")
    read = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    output = twin.model(**read)
    words = torch.stack([row[at] for row, at in zip(output.prediction_logits, batch["predict_at"], strict=True)])
    loss = cross_entropy(words, batch["labels"]) + cross_entropy(output.sop_logits, batch["sentence_order_label"])
    assert_same_weights(by_the_loop(model, batch, tmp_path), one_step_by_hand(twin, loss))


@pytest.mark.parametrize("all_tokens", [True, False])
def test_a_step_of_distillation(tmp_path, tokenizer, rows, all_tokens):
    torch.manual_seed(0)
    teacher = ElectraForMaskedLM(ElectraConfig(embedding_size=16, **SIZES, **PLAIN)).eval()
    student = ConvBertForMaskedLM(ConvBertConfig(embedding_size=16, **SIZES | {"num_hidden_layers": 1}, **PLAIN))
    prepare = DistillationInputs(tokenizer, tokenizer, all_tokens=all_tokens)
    loss = TripleLoss(all_tokens=all_tokens)
    batch = prepare(rows, torch.Generator().manual_seed(0), Masking(0.3, 0.8, 0.1))
    model, twin = (make_distillation(copy.deepcopy(student), teacher, prepare, loss) for _ in range(2))
    own, real = twin.student, batch["attention_mask"]
    mine = own(batch["input_ids"], real, output_hidden_states=True)
    with torch.no_grad():
        theirs = teacher(batch["input_ids"], real, output_hidden_states=True)
    at, asked = batch["predict_at"], batch["labels"] != -100
    hidden = [torch.stack([row[p] for row, p in zip(each.logits, at, strict=True)]) for each in (mine, theirs)]
    s, t = (each.logits[real == 1] for each in (mine, theirs)) if all_tokens else (each[asked] for each in hidden)
    p = (t / 2).softmax(-1)
    soft = 4 * (p * (p.log() - (s / 2).log_softmax(-1))).sum(-1).mean()
    a, b = (each.hidden_states[-1][real == 1] for each in (mine, theirs))
    cosine = 1 - ((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).mean()
    total = 5 * soft + 2 * cross_entropy(hidden[0], batch["labels"]) + cosine
    assert_same_weights(by_the_loop(model, batch, tmp_path), one_step_by_hand(twin, total))


# -- what others get wrong --------------------------------------------------------------------------------------------


def test_a_generator_that_guesses_the_truth_replaces_nothing():
    text = torch.randint(10, 50, (3, 12), generator=torch.Generator().manual_seed(0))
    at = torch.tensor([[1, 4], [2, 3], [0, 11]])
    labels = text.gather(1, at)
    shown = text.scatter(1, at, 4)
    right = corrupt(shown, at, labels, labels)
    assert torch.equal(right.input_ids, text) and not right.replaced.any()
    wrong = corrupt(shown, at, labels, labels + 1)
    assert torch.equal(wrong.replaced, torch.zeros_like(text).scatter(1, at, 1))


def test_electra_hides_no_token_behind_a_random_one(tokenizer):
    ids = torch.full((200, 100), tokenizer.convert_tokens_to_ids("a"))
    batch = mask_rows(ids, ELECTRA_MASKING, tokenizer, torch.Generator().manual_seed(0))
    shown = batch["input_ids"].gather(1, batch["predict_at"])
    assert batch["labels"].shape == (200, 15)
    assert set(shown.unique().tolist()) == {tokenizer.mask_token_id, tokenizer.convert_tokens_to_ids("a")}
    assert (shown == tokenizer.mask_token_id).float().mean().item() == pytest.approx(0.85, abs=0.03)


def test_a_generator_learns_from_its_own_loss_alone(batch_of):
    torch.manual_seed(0)
    pair = ReplacedTokens.from_config(ConvBertConfig(embedding_size=16, **SIZES, **PLAIN), width=0.5)
    batch, gradients = batch_of("replaced-tokens"), []
    for weight in (0.0, 50.0):
        pair.weight = weight
        pair.zero_grad()
        pair(**batch).loss.backward()
        inner = pair.generator.encoder.layers[0].feed_forward
        gradients.append(torch.cat([p.grad.flatten() for p in inner.parameters()]))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("config", "width", "said"),
    [
        (AlbertConfig(embedding_size=16, **SIZES), 0.5, "Albert has no head for replaced tokens"),
        (DistilBertConfig(**SIZES), 0.5, "no head for replaced tokens"),
        (ElectraConfig(embedding_size=16, **SIZES), 1.5, "width=1.5 must be above 0"),
    ],
)
def test_what_has_no_generator_is_refused(config, width, said):
    with pytest.raises(ValueError, match=said):
        ReplacedTokens.from_config(config, width)


def test_generators_of_published_sizes():
    """The sizes that the original code has: ELECTRA-small's 64, -base's 256, ConvBERT-small's 64 + 64 features."""
    small, base = (ElectraConfig.preset(name) for name in ("small", "base"))
    found = [(g.hidden_size, g.num_attention_heads) for g in (generator_config(small), generator_config(base, 1 / 3))]
    assert found == [(64, 1), (256, 4)]
    assert generator_config(ConvBertConfig.preset("small")).mixed_width == 64


def test_runs_have_the_lengths_of_the_paper(tokenizer):
    torch.testing.assert_close(run_shares(3), torch.tensor([6, 3, 2]).double() / 11)
    maskable, starts = torch.ones(400, 100, dtype=torch.bool), torch.ones(400, 100, dtype=torch.bool)
    at, chosen = choose_runs(maskable, starts, 0.15, 3, torch.Generator().manual_seed(0))
    assert chosen.sum(1).float().mean() > 14.5, "the share of each row is filled"
    hidden = torch.zeros(400, 101).scatter_(1, at.masked_fill(~chosen, 100), 1.0)[:, :100]
    begins = (hidden.diff(dim=1, prepend=torch.zeros(400, 1)) > 0).sum().item()  # neighbouring runs look like one
    assert 1.3 < chosen.sum().item() / begins < 2.2, "runs have 1.64 words on average, fewer where the share ends"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_runs_of_words_of_any_kind(data):
    """Words are masked whole, up to the share; where none fits, as much of the shortest as there is room for."""
    B, T = data.draw(st.integers(1, 4)), data.draw(st.integers(3, 40))
    rate, longest = data.draw(st.floats(0.01, 0.9)), data.draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**30)))
    maskable, starts = (torch.rand(B, T, generator=generator) < data.draw(st.floats(0, 1)) for _ in range(2))
    maskable[:, [0, -1]] = False
    at, chosen = choose_runs(maskable, starts, rate, longest, generator)
    for can, first, places in zip(
        maskable.tolist(), starts.tolist(), map(torch.masked_select, at, chosen), strict=True
    ):
        words = []
        for place in range(T):
            if can[place] and (first[place] or not can[place - 1]):
                words.append([])
            if can[place]:
                words[-1].append(place)
        hidden, count = set(places.tolist()), sum(map(len, words))
        most = min(int(count_masked(torch.tensor(count), rate)), max(1, round((T - 2) * rate)))
        assert places.tolist() == sorted(hidden) and len(hidden) <= most
        if all(len(word) > most for word in words):
            assert not words or sorted(hidden) == min(words, key=len)[:most]
        else:
            assert all(hidden.issuperset(word) or hidden.isdisjoint(word) for word in words)
            assert hidden


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "tales.txt"
    who, where = ("fox", "hen", "cat", "dog"), ("sea", "barn")
    tales = [f"The {a} saw the {b}. They met by the {c}." for a in who for b in who for c in where]
    file.write_text("\n\n".join(tales * 30), encoding="utf-8")
    return file


SMALL = dict(lengths=(16,), tokens_per_batch=64, vocab_size=80)
TINY = dict(hidden_size=32, num_attention_heads=4, intermediate_size=64, num_hidden_layers=2)
FAMILY = {
    "masked-lm": ConvBertConfig(embedding_size=16, **TINY),
    "replaced-tokens": ConvBertConfig(embedding_size=16, **TINY),
    "sentence-order": AlbertConfig(embedding_size=16, **TINY),
    "distillation": DistilBertConfig(**TINY),
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_that_goes_on_ends_with_the_weights_of_a_whole_one(tmp_path, text, objective):
    taught = dict(teacher="convbert-tiny", tokenizer="convbert-tiny") if objective == "distillation" else {}
    recipe = dict(warmup=1, decay=0, compile=False, save_every=2, evaluate_every=3)

    def run(steps, folder, tokenizer=None):
        own = taught or (dict(tokenizer=tokenizer) if tokenizer else {})
        plan = Plan(text, FAMILY[objective], Recipe(steps, **recipe), objective, **SMALL, **own)
        return pretrain(plan, folder, device="cpu")

    whole = run(6, tmp_path / "whole")
    tokenizer = None if objective == "distillation" else str(tmp_path / "whole")  # vocabularies differ from run to run
    whole = run(6, tmp_path / "again", tokenizer)
    run(3, tmp_path / "parts", tokenizer)
    assert run(6, tmp_path / "parts", tokenizer) == whole
    head = AutoModelForPreTraining if objective in ("replaced-tokens", "sentence-order") else AutoModelForMaskedLM
    generator = {"generator": AutoModelForMaskedLM} if objective == "replaced-tokens" else {}
    for part, kind in {"": head, **generator}.items():
        one, other = (kind.from_pretrained(tmp_path / name / part).state_dict() for name in ("again", "parts"))
        assert all(torch.equal(one[name], other[name]) for name in one)
    card = (tmp_path / "parts" / "README.md").read_text()
    assert objective in card and "held-out text" in card
    assert len(AutoTokenizer.from_pretrained(tmp_path / "parts")) == one_vocabulary(tmp_path / "parts")


def one_vocabulary(folder):
    return json.loads((folder / "config.json").read_text())["vocab_size"]


def test_a_folder_of_another_objective_is_not_resumed(tmp_path, text):
    recipe = Recipe(2, warmup=1, compile=False)
    plan = dict(config=FAMILY["masked-lm"], recipe=recipe, **SMALL)
    pretrain(Plan(text, **plan), tmp_path / "run", device="cpu")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="objective: None there, replaced-tokens here"):
        pretrain(Plan(text, objective="replaced-tokens", **plan), tmp_path / "run", device="cpu")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def test_a_discriminator_goes_on_with_its_generator(tmp_path, text):
    recipe = Recipe(2, warmup=1, compile=False)
    plan = dict(recipe=recipe, objective="replaced-tokens", **SMALL)
    pretrain(Plan(text, FAMILY["replaced-tokens"], **plan), tmp_path / "first", device="cpu")
    still = dict(plan, recipe=Recipe(1, learning_rate=1e-9, warmup=0, compile=False))
    pretrain(Plan(text, model=str(tmp_path / "first"), **still), tmp_path / "second", device="cpu")
    for part, head in (("", AutoModelForPreTraining), ("generator", AutoModelForMaskedLM)):
        one, other = (head.from_pretrained(tmp_path / name / part).state_dict() for name in ("first", "second"))
        for name, weight in one.items():
            torch.testing.assert_close(other[name], weight, atol=1e-4, rtol=1e-3)


# -- the shell --------------------------------------------------------------------------------------------------------

QUICK = ["--steps", "2", "--lengths", "16", "--tokens-per-batch", "64", "--device", "cpu", "--no-compile"]


def test_the_shell_distils_across_vocabularies(tmp_path, text, capsys):
    words = ["distil", str(text), "--teacher", "convbert-tiny", "--vocab-size", "80", "--out", str(tmp_path / "run")]
    assert main([*words, *QUICK, "--no-all-tokens", "--cosine", "2"]) == 0, capsys.readouterr()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "taught by convbert-tiny" in card and '"cosine": 2.0' in card
    assert len(AutoTokenizer.from_pretrained(tmp_path / "run")) <= 80


def test_the_shell_runs_a_published_plan_for_a_few_steps(tmp_path, text, capsys):
    words = ["pretrain", "--preset", "small", "--data", str(text), "--vocab-size", "80", "--out", str(tmp_path / "run")]
    assert main([*words, *QUICK]) == 0, capsys.readouterr()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "ConvBertForPreTraining" in card and '"learning_rate": 0.0003' in card


def test_a_plan_is_told_in_time_and_memory(capsys):
    assert main(["plan", "--lengths", "16", "--tokens-per-batch", "64", "--steps", "10", "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "tokens     640\n" in told and "device hours" in told and "activations" in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pretrain", "--out", "never-made"], "name the text once"),
        (["pretrain", "a.txt", "--data", "a.txt", "--out", "never-made"], "name the text once"),
        (["pretrain", "a.txt", "--objective", "replaced", "--out", "never-made"], "Did you mean 'replaced-tokens'"),
        (["pretrain", "a.txt", "--family", "distilbert", "--preset", "base", "--out", "o"], "--objective masked-lm"),
        (["distil", "a.txt", "--teacher", "convbert-tny", "--out", "never-made"], "Did you mean 'convbert-tiny'"),
        (
            ["distil", "a.txt", "--teacher", "convbert-tiny", "--soft", "-1", "--out", "never-made"],
            "--soft -1.0 must not",
        ),
        (["plan", "--devices", "0"], "--devices 0"),
    ],
)
def test_faults_are_said_in_the_words_of_the_shell(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("A text.\n\nAnother.")
    assert main(words) == 1
    assert said in (told := capsys.readouterr().err), told
    assert not (tmp_path / "never-made").exists()


# -- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_parts_of_a_batch_give_the_gradient_of_the_whole(tokenizer, rows, objective):
    """The rows differ in length, so that each loss has its own number of terms in each part."""
    torch.manual_seed(0)
    kind = AlbertConfig if objective == "sentence-order" else ConvBertConfig
    config = kind(embedding_size=16, **SIZES, **PLAIN, classifier_dropout=0.0)
    teacher = dict(teacher="convbert-tiny") if objective == "distillation" else {}
    made = OBJECTIVES[objective](
        Plan("text.txt", config, objective=objective, generator_width=0.5, **teacher), tokenizer
    )
    model = made.make()
    if objective == "replaced-tokens":  # so sure of one token that every sample is that one
        model.generator.predictions.bias.data[WORDS.index("z")] = 1e4
    ids = dict(input_ids=rows, attention_mask=(rows != tokenizer.pad_token_id).long())
    batch = PreparedBatches(lambda step: ids, made.prepare, Masking(0.3, 0.8, 0.1), seed=3)(0)

    def gradient(parts):
        model.zero_grad()
        for rank in range(parts):
            own, scale = shard_batch(batch, rank, parts, made.weight)
            (scale * model(**own).loss / parts).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    whole = gradient(1)
    for parts in (2, 3, 5):  # of four rows: the last part of five has none
        found = gradient(parts)
        assert found.keys() == whole.keys()
        size = max(g.abs().max() for g in whole.values())
        for name, each in whole.items():
            torch.testing.assert_close(found[name], each, atol=1e-5 * float(size), rtol=1e-3, msg=name)
