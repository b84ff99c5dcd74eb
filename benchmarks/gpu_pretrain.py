"""`convbert-tiny` on a GPU: the whole corpus in its memory, as many passes as the time allows, with any objective."""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from gpu import WORK, load_tokens, record, revision, write
from gpu_card import BEGAN, DEVICE, arguments, card_of, flops_per_token

from convbert import ConvBertConfig, ConvBertTokenizerFast
from convbert.training.data import RunningText
from convbert.training.loop import fit
from convbert.training.optim import Recipe
from convbert.training.pretraining.cards import last_scores
from convbert.training.pretraining.masking import PreparedBatches
from convbert.training.pretraining.objectives import OBJECTIVES, MaskedLMObjective
from convbert.training.pretraining.plan import Plan

# One batch in `long` has rows of 512 tokens, the others of 128; `steps` are as many as six minutes of an H200 take.
# The mask rate is the objective's own when it is None; `teacher` is a folder that was carried there.
PLAN = dict(learning_rate=5e-3, rate=None, tokens=131072, steps=14000, long=8, seed=0)
PLAN |= dict(objective="masked-lm", teacher=None)


def tiny(toy: bool, tokenizer: ConvBertTokenizerFast) -> ConvBertConfig:
    """The bundled model's config."""
    small = dict(num_hidden_layers=1, hidden_size=32, embedding_size=16, intermediate_size=64) if toy else {}
    return ConvBertConfig.preset("tiny", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **small)


def plan_of(text: str) -> dict:
    """`learning_rate=0.004,objective=replaced-tokens` as names, numbers and words."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    return {key: value if key in ("objective", "teacher") else json.loads(value) for key, _, value in pairs}


def make_recipe(plan: dict, minutes: float | None, toy: bool) -> Recipe:
    """Optimizer and schedule of a plan."""
    steps = plan["steps"]
    schedule = dict(warmup=min(300, steps // 10), decay=round(0.45 * steps), save_every=1000, evaluate_every=2000)
    how = dict(optimizer="muon", weight_decay=0.1, compile=not toy, seed=plan["seed"])
    if minutes is not None:
        schedule["schedule"] = "clock"
    return Recipe(steps, plan["learning_rate"], minutes=minutes, **schedule, **how)


def train(
    plan: dict, minutes: float | None, folder: Path, toy: bool
) -> tuple[MaskedLMObjective, torch.nn.Module, list[dict]]:
    """What `convbert pretrain` would train, with all of the text on the device."""
    plan = PLAN | plan
    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    text, held = load_tokens()
    lengths = (128,) * (plan["long"] - 1) + (512,)
    recipe = make_recipe(plan, minutes, toy)
    how = dict(objective=plan["objective"], teacher=plan["teacher"], lengths=lengths)
    full = Plan(["tokens"], tiny(toy, tokenizer), recipe, **how)
    masking = full.masking if plan["rate"] is None else replace(full.masking, rate=plan["rate"])
    objective = OBJECTIVES[full.objective](full, tokenizer)
    device = "cpu" if objective.on_host else DEVICE
    rows = RunningText(text, tokenizer, lengths, 1024 if toy else plan["tokens"], recipe.seed, device).rows
    batches = PreparedBatches(rows, objective.prepare, masking, seed=recipe.seed)
    torch.manual_seed(recipe.seed)
    model = objective.make().to(DEVICE)
    held_rows = RunningText(held, tokenizer, (128,), 4096, seed=1).rows
    steps = 4 if toy else 42
    log = fit(model, batches, recipe, folder, lambda m: objective.score(m, held_rows, steps), run_config=plan)
    return objective, model.eval(), log


def speed_of(log: list[dict], config: ConvBertConfig, mask_rate: float, peak: float) -> dict:
    """Tokens per second between reports, and the share of the GPU's peak that the model's products reach."""
    rates = [row["tokens"] / row["seconds"] for row in log if "tokens" in row][1:]  # the first one compiles
    if not rates:
        return {}
    rate = statistics.median(rates)
    head = 2 * config.embedding_size * (config.vocab_size + config.hidden_size)  # of every masked token
    work = 3 * (flops_per_token(config, 128) + mask_rate * head)
    return dict(tokens_per_second=round(rate), share_of_peak=round(rate * work / peak / 1e12, 4))


def summarise(plan: dict, log: list[dict], objective: MaskedLMObjective, peak: float) -> dict:
    """What a run did, and its scores on held-out text."""
    tokens, rate = sum(row.get("tokens", 0) for row in log), objective.plan.masking.rate
    speed = speed_of(log, objective.config, rate, peak) if objective.plan.objective == "masked-lm" else {}
    steps = max(row["step"] for row in log if "step" in row)
    plan = PLAN | dict(rate=rate) | plan
    return dict(plan=plan, revision=revision(), tokens=tokens, step=steps, **last_scores(log), **speed)


def compile_batches(args: argparse.Namespace) -> None:
    """A step with every length of row, so that the compiled graphs are in the cache."""
    for text in args.trials or [""]:
        with tempfile.TemporaryDirectory() as folder:
            train(plan_of(text) | {"steps": PLAN["long"] + 1}, None, Path(folder), args.toy)


def trials(args: argparse.Namespace) -> None:
    """Short runs with equal shares of the time, to compare plans."""
    peak = card_of(args.out, args.toy)["peak_tflops"]
    for number, text in enumerate(args.trials):
        left = args.seconds - (time.monotonic() - BEGAN) - 5
        with tempfile.TemporaryDirectory() as folder:
            minutes = left / (len(args.trials) - number) / 60
            objective, _, log = train(plan_of(text), minutes, Path(folder), args.toy)
        record(args.out, trials={text: summarise(plan_of(text), log, objective, peak)})


def pretrain(args: argparse.Namespace) -> None:
    """Train the model within the time; a later call continues the first one's plan."""
    folder, saved, requested = WORK / "pretrain", args.out / "plan.json", plan_of(",".join(args.trials))
    left = args.seconds - (time.monotonic() - BEGAN) - (4 if args.toy else 11)  # the rest is for a last evaluation
    if left < 3:
        raise SystemExit(f"{args.seconds:.0f} s are too few to train in: nothing was begun")
    plan, minutes = json.loads(saved.read_text()) if saved.exists() else (requested, left / 60)
    if requested != plan:
        raise SystemExit(
            f"{saved} is of a run with the plan {plan}, not {requested}: move that folder away to start anew"
        )
    write(saved, json.dumps([plan, minutes]))
    objective, model, log = train(plan, minutes, folder, args.toy)
    for name, kept in objective.kept(model.to("cpu", torch.float16)).items():
        kept.save_pretrained(folder / name)
        (folder / name / "model.safetensors").replace(args.out / f"{name or 'model'}.safetensors")
    summary = summarise(plan, log, objective, card_of(args.out, args.toy)["peak_tflops"])
    record(args.out, pretraining=summary | dict(minutes=minutes, log=log, config=model.config.to_dict()))


if __name__ == "__main__":
    args = arguments(__doc__).parse_args()
    {"compile": compile_batches, "trials": trials, "pretrain": pretrain}[args.part](args)
