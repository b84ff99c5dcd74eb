"""Training as it happens: killed, interrupted, resumed, on a full disk, in the wrong folder."""

import json
import math
import signal
import sys
import textwrap
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from processes import Process
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

from convbert.families.convbert import ConvBertConfig
from convbert.modeling import ConvBertForMaskedLM, ConvBertForSequenceClassification, ConvBertForTokenClassification
from convbert.tokenizers.classes import ConvBertTokenizerFast
from convbert.training.data import MaskedBatches
from convbert.training.evaluation import masked_scores
from convbert.training.loop import Meter, after_step, fit, task_loss
from convbert.training.optim import Recipe, layer_scale, make_optimizers, set_rates
from convbert.training.pretraining import Plan, pretrain
from convbert.training.pretraining.masking import Masking
from convbert.training.runs import Run

SCRIPT = textwrap.dedent(
    """
    import sys, torch
    torch.set_num_threads(1)
    from convbert.families.convbert import ConvBertConfig
    from convbert.modeling import ConvBertForMaskedLM
    from convbert.training.loop import fit
    from convbert.training.optim import Recipe

    config = ConvBertConfig(vocab_size=40, hidden_size=16, embedding_size=8, num_hidden_layers=1,
                            num_attention_heads=2, intermediate_size=32, max_position_embeddings=16)  # dropout is on
    torch.manual_seed(0)
    model = ConvBertForMaskedLM(config)
    steps = int(sys.argv[2])

    def batches(step):
        print(step, flush=True)  # tells the test how far this process is
        ids = torch.randint(1, 40, (4, 12), generator=torch.Generator().manual_seed(step))
        return {"input_ids": ids, "labels": ids}

    recipe = Recipe(steps=steps, warmup=2, decay=3, optimizer="muon", compile=False, save_every=2)
    fit(model, batches, recipe, sys.argv[1])
    torch.save(model.state_dict(), sys.argv[3])
    """
)


def start(folder, result, steps=12, before=""):
    return Process(before + SCRIPT, folder, steps, result, folder=result.parent / "said")


def weights(file):
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=["KILL", "INT", "TERM"])
def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path, number):
    whole = start(tmp_path / "whole", tmp_path / "whole.pt")
    _, said = whole.communicate(timeout=120)
    assert whole.returncode == 0, said
    stopped = start(tmp_path / "parts", tmp_path / "parts.pt")
    for line in stopped.stdout:
        if int(line) == 7:
            stopped.send_signal(number)
            break
    _, said = stopped.communicate(timeout=120)
    assert stopped.returncode != 0 and not (tmp_path / "parts.pt").exists()
    if number != signal.SIGKILL:
        assert "the same call resumes" in said
    resumed = start(tmp_path / "parts", tmp_path / "parts.pt")
    out, said = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, said
    assert int(out.split()[0]) >= 6, "the run must go on from its checkpoint, not start anew"
    a, b = weights(tmp_path / "whole.pt"), weights(tmp_path / "parts.pt")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path):
    first = start(tmp_path / "run", tmp_path / "a.pt", steps=8)
    for line in first.stdout:
        if int(line) == 4:
            first.send_signal(signal.SIGINT)
    first.communicate(timeout=120)
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000));\n"
    full = start(tmp_path / "run", tmp_path / "b.pt", steps=8, before=limit)
    _, said = full.communicate(timeout=120)
    assert full.returncode != 0 and "could not write the checkpoint" in said, said[-2000:]
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"checkpoint.pt", "checkpoint-4.pt", "log.jsonl"}


def test_a_broken_checkpoint_is_named(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="checkpoint.pt cannot be read"):
        fit(torch.nn.Linear(2, 2), lambda step: {}, Recipe(steps=1, compile=False), tmp_path)


TINY = ConvBertConfig.preset(
    "tiny", num_hidden_layers=1, hidden_size=16, embedding_size=8, intermediate_size=32, max_position_embeddings=64
)
PLAN = dict(config=TINY, lengths=(16,), tokens_per_batch=64, vocab_size=80)


@pytest.fixture
def text(tmp_path):
    pytest.importorskip("datasets")
    file = tmp_path / "tales.txt"
    who, where = ("fox", "hen", "cat", "dog"), ("sea", "barn")
    tales = [f"The {a} saw the {b} by the {c}." for a in who for b in who for c in where]
    file.write_text("\n\n".join(tales * 30), encoding="utf-8")
    return file


def test_pretraining_leaves_a_folder_that_the_pipeline_opens(tmp_path, text):
    from convbert import pipeline

    out = tmp_path / "run"
    recipe = Recipe(steps=6, warmup=1, compile=False, save_every=3)
    scores = pretrain(Plan([str(text)], recipe=recipe, **PLAN), out, device="cpu")
    assert set(scores) == {"top1", "top5", "perplexity"} and 0 <= scores["top1"] <= scores["top5"] <= 1
    assert len(pipeline("fill-mask", str(out))("The [MASK] saw the cat.")) == 5
    assert json.loads((out / "training_log.json").read_text())[-1]["step"] == 6
    vocabulary = (out / "vocab.txt").read_bytes()
    for change, words in (
        ({"tokens_per_batch": 128}, "tokens_per_batch: 64 there, 128"),
        ({"vocab_size": 90}, "vocab_size"),
    ):
        with pytest.raises(ValueError, match=f"holds another run .*{words}"):
            pretrain(Plan([str(text)], recipe=recipe, **{**PLAN, **change}), out, device="cpu")
    for checkpoint in out.glob("*.pt"):
        checkpoint.unlink()
    with pytest.raises(ValueError, match="holds a model and no checkpoint"):
        pretrain(Plan([str(text)], recipe=recipe, **PLAN), out, device="cpu")
    assert (out / "vocab.txt").read_bytes() == vocabulary


def test_pretraining_goes_on_from_a_model_with_its_size_and_vocabulary(tmp_path, text):
    first, second = tmp_path / "first", tmp_path / "second"
    recipe = Recipe(steps=6, warmup=1, compile=False)
    pretrain(Plan([str(text)], recipe=recipe, **PLAN), first, device="cpu")
    still = Recipe(steps=1, learning_rate=1e-9, warmup=0, compile=False)
    rows = dict(lengths=(16,), tokens_per_batch=64)
    pretrain(Plan([str(text)], recipe=still, model=str(first), **rows), second, device="cpu")
    assert (second / "vocab.txt").read_bytes() == (first / "vocab.txt").read_bytes()
    one, other = (ConvBertForMaskedLM.from_pretrained(folder).state_dict() for folder in (first, second))
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="brings its own tokenizer"):
        Plan([str(text)], model=str(first), tokenizer="convbert-tiny")


def test_a_run_may_get_more_steps_until_its_rate_falls_and_not_after(tmp_path):
    def batches(step):
        return {"input_ids": torch.randint(1, 80, (2, 9), generator=torch.Generator().manual_seed(step))}

    class Guess(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(80, 4)

        def forward(self, input_ids):
            return type("Output", (), {"loss": self.table(input_ids).square().mean()})

    plan = dict(warmup=1, compile=False, save_every=1)
    fit(Guess(), batches, Recipe(steps=4, decay=0, **plan), tmp_path)
    fit(Guess(), batches, Recipe(steps=8, decay=3, **plan), tmp_path)
    with pytest.raises(ValueError, match="choose another folder"):
        fit(Guess(), batches, Recipe(steps=12, decay=3, **plan), tmp_path)
    with pytest.raises(ValueError, match="choose another folder"):
        fit(Guess(), batches, Recipe(steps=6, decay=3, **plan), tmp_path)
    assert fit(Guess(), batches, Recipe(steps=8, decay=3, **plan), tmp_path)[-1]["step"] == 8


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path):
    class Root(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.x = torch.nn.Parameter(torch.zeros(1))

        def forward(self, input_ids):
            return type("Output", (), {"loss": self.x.sqrt().sum()})  # 0, with an infinite slope

    with pytest.raises(FloatingPointError, match="gradient"):
        fit(Root(), lambda step: {"input_ids": torch.ones(1)}, Recipe(steps=3, compile=False, save_every=1), tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_held_out_text_is_not_trained_on(tmp_path, text):
    from convbert.training.data import hold_out, load_documents

    lines = [f"document number {i}" for i in range(500)]
    text.write_text("\n\n".join(lines), encoding="utf-8")
    train, held = hold_out(load_documents([text]), every=100)
    assert not set(train["text"]) & set(held["text"]) and len(train) + len(held) == 500
    assert len(held) == 5


@pytest.mark.parametrize("files", [["no/such/file.txt"], []])
def test_missing_text_is_named_and_nothing_is_written(tmp_path, files):
    pytest.importorskip("datasets")
    for make in (lambda: Plan(files, **PLAN), lambda: files):
        with pytest.raises(FileNotFoundError, match="no such file"):
            pretrain(make(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_masked_scores_are_what_they_say():
    tokenizer = ConvBertTokenizerFast(vocab=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(60))])
    torch.manual_seed(0)
    model = ConvBertForMaskedLM(TINY.replace(vocab_size=len(tokenizer), initializer_range=0.5)).eval()
    batches = MaskedBatches(np.arange(5, 65).repeat(9), tokenizer, Masking(), (16,), 64)
    scores = masked_scores(model, batches, steps=2)
    ranks, nll = [], []
    for step in range(2):
        batch = batches(step)
        logits = model(batch["input_ids"]).logits.detach()
        for row, places, labels in zip(logits, batch["predict_at"], batch["labels"], strict=True):
            for place, label in zip(places, labels, strict=True):
                ranks.append(int((row[place] > row[place][label]).sum()))
                nll.append(-row[place].log_softmax(-1)[label].item())
    assert scores["top1"] == pytest.approx(np.mean([r < 1 for r in ranks]))
    assert scores["top5"] == pytest.approx(np.mean([r < 5 for r in ranks]))
    assert scores["perplexity"] == pytest.approx(math.exp(np.mean(nll)), rel=1e-4)


def test_every_parameter_is_in_exactly_one_optimizer():
    model = ConvBertForMaskedLM(TINY)
    for name in ("adamw", "muon"):
        optimizers = make_optimizers(model, Recipe(steps=1, optimizer=name))
        held = [p for o in optimizers for g in o.param_groups for p in g["params"]]
        assert len(held) == len({id(p) for p in held}) == len(list(model.parameters()))


@pytest.mark.parametrize(
    "mode, powers", [("paper", {"embeddings": 3, 0: 2, 1: 1}), ("official", {"embeddings": 4, 0: 3, 1: 2})]
)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_each_layer_gets_its_share_of_the_rate_at_every_step(optimizer, mode, powers):
    config = TINY.replace(num_hidden_layers=2)
    model = ConvBertForTokenClassification(config)
    assert model.encoder.embeddings.project.weight.shape  # the embeddings' projection is at their depth
    recipe = Recipe(steps=10, warmup=4, learning_rate=0.1, optimizer=optimizer, layer_decay=0.8, layer_decay_mode=mode)
    optimizers = make_optimizers(model, recipe)
    for step, rate in [(0, 0.025), (3, 0.1), (7, 0.05)]:
        set_rates(optimizers, recipe.rate(step))
        rates = {id(p): g["lr"] for o in optimizers for g in o.param_groups for p in g["params"]}
        for name, parameter in model.named_parameters():
            words = name.split(".")
            place = words[1] if words[1] == "embeddings" else int(words[2]) if words[1] == "layers" else None
            assert rates[id(parameter)] == pytest.approx(rate * 0.8 ** powers.get(place, 0)), name
    assert layer_scale(3, 2, recipe) == 1  # the head


def test_optimizers_of_a_checkpoint_from_before_layer_decay_are_read():
    model = ConvBertForMaskedLM(TINY)
    optimizers = make_optimizers(model, Recipe(steps=1, optimizer="muon"))
    assert [len(o.param_groups) for o in optimizers] == [2, 1]  # the groups that they had
    for optimizer in optimizers:
        saved = optimizer.state_dict()
        for group in saved["param_groups"]:
            del group["scale"]
        optimizer.load_state_dict(saved)
    set_rates(optimizers, 0.3)
    assert {g["lr"] for o in optimizers for g in o.param_groups} == {0.3}


class Score(torch.nn.Module):
    """A model whose only weight counts the steps: every step takes about 1 from it."""

    def __init__(self):
        super().__init__()
        self.x = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids):
        return type("Output", (), {"loss": self.x.sum()})


SCORES = [0.1, 0.5, 0.4, 0.5, 0.3, 0.2, 0.9]  # of the evaluations after 2, 4, ... steps
WATCH = dict(learning_rate=1.0, warmup=0, decay=0, weight_decay=0.0, compile=False, evaluate_every=2, watch="f1")


def fit_scores(folder, recipe, model=None, kill_at=None):
    """Train `Score`; returns the log, the weight at the end and the steps that were trained."""
    model, steps = model or Score(), []

    def batches(step):
        if step == kill_at:
            raise RuntimeError("power cut")
        steps.append(step)
        return {"input_ids": torch.ones(2)}

    log = fit(model, batches, recipe, folder, lambda m: {"f1": SCORES[round(-m.x.item()) // 2 - 1]})
    return log, round(-model.x.item()), steps


def test_the_best_weights_are_restored_and_a_run_without_patience_goes_to_its_end(tmp_path):
    log, weight, _ = fit_scores(tmp_path, Recipe(steps=12, **WATCH))
    assert weight == 4 and log[-1] == {"best_step": 4, "f1": 0.5}
    assert [row["step"] for row in log[:-1] if "f1" in row] == [2, 4, 6, 8, 10, 12]
    log, weight, _ = fit_scores(tmp_path / "lower", Recipe(steps=12, watch_lower=True, **WATCH))
    assert weight == 2 and log[-1] == {"best_step": 2, "f1": 0.1}
    log, weight, _ = fit_scores(tmp_path / "last", Recipe(steps=12, **{**WATCH, "watch": None}))
    assert weight == 12 and "best_step" not in log[-1] and not (tmp_path / "last" / "best.safetensors").exists()


def test_early_stopping_ends_the_run_for_good(tmp_path):
    recipe = Recipe(steps=14, patience=3, **WATCH)
    log, weight, steps = fit_scores(tmp_path, recipe)
    assert weight == 4 and log[-1]["best_step"] == 4 and steps == list(range(10))
    again, weight, steps = fit_scores(tmp_path, recipe)
    assert weight == 4 and steps == [] and again == log
    _, weight, steps = fit_scores(tmp_path, Recipe(steps=14, patience=5, **WATCH))
    assert weight == 14 and steps == [10, 11, 12, 13], "with more patience it goes on and finds a better one"


@pytest.mark.parametrize("kill_at", [4, 5, 7, 9])
def test_a_killed_run_remembers_its_best(tmp_path, kill_at):
    recipe = Recipe(steps=14, patience=3, save_every=3, **WATCH)
    whole, weight, _ = fit_scores(tmp_path / "whole", recipe)
    with pytest.raises(RuntimeError, match="power cut"):
        fit_scores(tmp_path / "parts", recipe, kill_at=kill_at)
    parts, same, steps = fit_scores(tmp_path / "parts", recipe)
    every_third_and_the_best = 2, 3, 4, 6, 9
    assert same == weight and parts[-1] == whole[-1]
    assert steps[0] == max(step for step in every_third_and_the_best if step <= kill_at)
    scored = [[row for row in log if "f1" in row] for log in (whole, parts)]
    assert scored[0] == scored[1]


def test_best_weights_that_are_not_there_are_missed_at_once(tmp_path):
    recipe = Recipe(steps=6, **WATCH)
    fit_scores(tmp_path, recipe)
    (tmp_path / "best.safetensors").unlink()
    with pytest.raises(ValueError, match="best.safetensors should hold the weights of step 4"):
        fit_scores(tmp_path, Recipe(steps=8, **WATCH))
    with pytest.raises(ValueError, match="watch='acc' is not among the scores f1"):
        fit_scores(tmp_path / "other", Recipe(steps=8, **{**WATCH, "watch": "acc"}))


@pytest.mark.parametrize("smoothing", [0.1, 0.4])
def test_label_smoothing_is_that_of_cross_entropy(smoothing):
    torch.manual_seed(0)
    model = ConvBertForTokenClassification(TINY.replace(num_labels=5)).eval()
    ids = torch.randint(1, 80, (3, 9))
    labels = torch.randint(5, (3, 9)).where(torch.arange(9) < torch.tensor([[9], [4], [1]]), -100)
    output = model(ids, labels=labels)
    expected = F.cross_entropy(output.logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing)
    torch.testing.assert_close(task_loss(output, {"labels": labels}, smoothing), expected)


@pytest.mark.parametrize("labels", [torch.tensor([0.5, 2.0]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])])
def test_label_smoothing_refuses_numbers_and_several_labels(tmp_path, labels):
    model = ConvBertForSequenceClassification(TINY.replace(num_labels=labels.dim()))
    batch = {"input_ids": torch.ones(2, 4, dtype=torch.long), "labels": labels}
    with pytest.raises(ValueError, match="label_smoothing=0.1 needs labels that are class ids"):
        fit(model, lambda step: batch, Recipe(steps=1, label_smoothing=0.1, compile=False), tmp_path)


def test_training_without_accelerate_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r'pip install "convbert\[train\]"'):
        fit(Score(), lambda step: {}, Recipe(steps=1, compile=False), tmp_path)


def test_a_notebook_may_train_twice_with_other_precisions(tmp_path):
    torch.manual_seed(0)
    ids = torch.randint(1, 80, (2, 9))
    for precision in ("bfloat16", "float32"):
        recipe = Recipe(steps=2, precision=precision, compile=False)
        log = fit(ConvBertForMaskedLM(TINY), lambda s: {"input_ids": ids, "labels": ids}, recipe, tmp_path / precision)
        assert math.isfinite(log[-1]["loss"])


def test_masking_asks_the_share_that_it_should():
    tokenizer = ConvBertTokenizerFast(vocab=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(500))])
    batches = MaskedBatches(np.arange(5, 505).repeat(50), tokenizer, Masking(0.15, 0.8, 0.1), (128,), 16384)
    batch = batches(0)
    shown = batch["input_ids"].gather(1, batch["predict_at"])
    masked, same = (shown == 4).float().mean(), (shown == batch["labels"]).float().mean()
    assert batch["labels"].shape[1] / 126 == pytest.approx(0.15, abs=0.005)
    assert masked == pytest.approx(0.8, abs=0.03) and same == pytest.approx(0.1, abs=0.03)
    assert batch["predict_at"].min() >= 1 and batch["predict_at"].max() <= 126


# -- by the clock


class Clock:
    """Every look at it takes a tenth of a second."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 0.1
        return self.now


def drop(steps_until_stop, folder, monkeypatch, evaluate=None, **plan):
    """Fit a line by a clock of a minute; the number of steps that were done, and the rates that they had."""
    monkeypatch.setattr("convbert.training.loop.time.perf_counter", Clock())
    rates, model = [], torch.nn.Linear(2, 1)
    usual = dict(minutes=0.5, schedule="clock", warmup=3, decay=5 * 10**5, compile=False, save_every=5)
    recipe = Recipe(steps=10**6, **usual | plan)

    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.map = model

        def forward(self, input_ids):
            return type("Output", (), {"loss": self.map(input_ids).square().mean()})

    def batches(step):
        if step == steps_until_stop:
            raise RuntimeError("the machine is taken away")
        return {"input_ids": torch.ones(4, 2)}

    def note(optimizers, rate, count):
        rates.append(rate)
        set_rates(optimizers, rate, count)

    with monkeypatch.context() as patch:
        patch.setattr("convbert.training.steps.set_rates", note)
        if steps_until_stop:
            with pytest.raises(RuntimeError, match="taken away"):
                fit(Line(), batches, recipe, folder, evaluate)
            return rates
        log = fit(Line(), batches, recipe, folder, evaluate)
    return log[-1]["step"], rates, log


def test_a_run_ends_by_the_clock_with_the_decay_inside(tmp_path, monkeypatch):
    steps, rates, _ = drop(None, tmp_path, monkeypatch)
    assert 200 < steps < 320  # thirty seconds, of which a step takes a tenth and a report some more
    peak = max(rates)
    flat = [step for step, rate in enumerate(rates) if rate > 0.999 * peak]
    assert flat[0] == 2 and 0.4 < len(flat) / steps < 0.6 and rates[-1] < 0.02 * peak
    assert all(a > b for a, b in pairwise(rates[flat[-1] :]))


def test_the_clock_goes_on_where_a_run_was_stopped(tmp_path, monkeypatch):
    whole, *_ = drop(None, tmp_path / "whole", monkeypatch)
    drop(101, tmp_path / "parts", monkeypatch)
    steps, rates, _ = drop(None, tmp_path / "parts", monkeypatch)
    assert abs(steps - whole) < 0.05 * whole
    assert len(rates) < whole - 90  # it went on from step 100, with the time that was left


def test_evaluations_are_on_the_clock_and_the_last_one_is_the_end(tmp_path, monkeypatch):
    clock = []

    def slow(model):
        for _ in range(50):  # five seconds
            clock.append(time.perf_counter())
        return {"score": 1.0}

    steps, _, log = drop(None, tmp_path, monkeypatch, slow, evaluate_every=10)
    scored = [row["step"] for row in log if "score" in row]
    assert len(scored) <= 7 and len(set(scored)) == len(scored) and scored[-1] == steps


def test_minutes_are_a_budget_and_the_schedule_stays_that_of_the_steps(tmp_path, monkeypatch, capsys):
    plan = dict(schedule="steps")
    steps, rates, log = drop(None, tmp_path, monkeypatch, lambda model: {"score": 1.0}, **plan)
    assert 200 < steps < 320 and len(rates) == steps
    assert rates == [Recipe(steps=10**6, warmup=3, decay=5 * 10**5).rate(step) for step in range(steps)]
    assert log[-1]["score"] == 1.0 and log[-1]["step"] == steps
    said = capsys.readouterr().err
    assert f"the 0.5 minutes are up after step {steps:,} of 1,000,000" in said and "with more minutes goes on" in said
    again, none, _ = drop(None, tmp_path, monkeypatch, lambda model: {"score": 1.0}, **plan)
    assert (again, none) == (steps, [])
    more, rates, _ = drop(None, tmp_path, monkeypatch, lambda model: {"score": 1.0}, minutes=1.0, **plan)
    assert len(rates) == more - steps > 150


def test_a_run_that_was_killed_has_counted_all_its_tokens(tmp_path):
    def batches(step, last=10**9):
        if step == last:
            raise RuntimeError("the machine is taken away")
        return {"input_ids": torch.ones(4, 2)}

    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.map = torch.nn.Linear(2, 1)

        def forward(self, input_ids):
            return type("Output", (), {"loss": self.map(input_ids).square().mean()})

    recipe = Recipe(steps=60, warmup=0, compile=False, save_every=25)
    with pytest.raises(RuntimeError, match="taken away"):
        fit(Line(), lambda step: batches(step, 33), recipe, tmp_path)
    log = fit(Line(), batches, recipe, tmp_path)
    assert sum(row["tokens"] for row in log if "tokens" in row) == 60 * 8
    whole = fit(Line(), batches, recipe, tmp_path / "whole")
    assert [row["step"] for row in log] == [row["step"] for row in whole]


def test_a_card_tells_of_the_whole_run_and_an_edited_one_is_kept(tmp_path, text):
    out, card = tmp_path / "run", tmp_path / "run" / "README.md"
    recipes = [Recipe(steps=60, warmup=1, compile=False, minutes=minutes) for minutes in (1e-6, None)]
    plans = [Plan([str(text)], recipe=recipe, cut="running", **PLAN) for recipe in recipes]
    pretrain(plans[0], out, device="cpu")
    assert "| steps | 1 |" in card.read_text() and "| tokens seen | 64 |" in card.read_text()
    pretrain(plans[1], out, device="cpu")
    assert "| steps | 60 |" in card.read_text() and "| tokens seen | 3,840 |" in card.read_text()
    card.write_text(card.read_text().replace("tokens seen", "tokens read"))
    pretrain(plans[1], out, device="cpu")
    assert "| tokens read | 3,840 |" in card.read_text()


def test_weights_that_are_not_finite_never_become_the_best(tmp_path):
    """Also where numbers are looked at only between reports, as on a GPU."""
    model = torch.nn.Linear(2, 1)
    run = Run(model, [], Recipe(steps=100, evaluate_every=7, watch="score"), tmp_path, step=7)
    meter = Meter()
    meter.add(torch.tensor([float("nan"), 1.0]), {"input_ids": torch.ones(1)})
    with pytest.raises(FloatingPointError, match="the loss is nan at step 6"):
        after_step(run, meter, tqdm(disable=True), lambda model: {"score": 1.0})
    assert not run.best.exists()


def test_text_of_any_memory_layout_is_read():
    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    tokens = np.arange(5, 205).repeat(5).astype(np.uint16)
    frozen = tokens.copy()
    frozen.flags.writeable = False
    layouts = tokens, tokens.astype(">u2"), tokens[::-1].copy()[::-1], frozen, tokens.astype(np.int32)
    plain, *others = (MaskedBatches(each, tokenizer, lengths=(16,), tokens_per_batch=64)(3) for each in layouts)
    for other in others:
        assert all(torch.equal(plain[name], other[name]) for name in plain)


class Products(TorchDispatchMode):
    """The types of the batched matrix products that Muon makes."""

    def __init__(self):
        super().__init__()
        self.types = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.baddbmm.default:
            self.types.add(out.dtype)
        return out


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_muon_multiplies_in_the_precision_of_the_step(tmp_path, precision):
    recipe, ids = Recipe(steps=2, optimizer="muon", compile=False, precision=precision), torch.randint(1, 40, (4, 12))
    with Products() as products:
        fit(model := ConvBertForMaskedLM(TINY), lambda step: {"input_ids": ids, "labels": ids}, recipe, tmp_path)
    assert products.types == {getattr(torch, precision)}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
