"""`convbert-tiny` on a GPU: the whole corpus in its memory, as many passes as the time allows."""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from gpu import WORK, load_tokens, record, revision, write
from gpu_card import BEGAN, DEVICE, arguments, card_of, flops_per_token

from convbert import ConvBertConfig, ConvBertForMaskedLM, ConvBertTokenizerFast
from convbert.training.data import MaskedBatches, Masking
from convbert.training.evaluation import masked_scores
from convbert.training.loop import fit
from convbert.training.optim import Recipe

# One batch in `long` has rows of 512 tokens, the others of 128; `steps` are as many as six minutes of an H200 take.
PLAN = dict(learning_rate=5e-3, rate=0.2, tokens=131072, steps=14000, long=8, seed=0)


def tiny(toy: bool, tokenizer: ConvBertTokenizerFast) -> ConvBertConfig:
    """The bundled model's config."""
    small = dict(num_hidden_layers=1, hidden_size=32, embedding_size=16, intermediate_size=64) if toy else {}
    return ConvBertConfig.preset("tiny", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **small)


def plan_of(text: str) -> dict:
    """`learning_rate=0.004,steps=700` as names and numbers."""
    return {key: json.loads(value) for key, _, value in (pair.partition("=") for pair in text.split(",") if pair)}


def train(plan: dict, minutes: float | None, folder: Path, toy: bool) -> tuple[ConvBertForMaskedLM, list[dict]]:
    """A masked language model as `convbert pretrain` makes one, with all of the text on the device."""
    plan = PLAN | plan
    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    text, held = load_tokens()
    config = tiny(toy, tokenizer)
    lengths = (128,) * (plan["long"] - 1) + (512,)
    steps = plan["steps"]
    schedule = dict(warmup=min(300, steps // 10), decay=round(0.45 * steps), save_every=1000, evaluate_every=2000)
    how = dict(optimizer="muon", weight_decay=0.1, compile=not toy, seed=plan["seed"])
    if minutes is not None:
        schedule["schedule"] = "clock"
    recipe = Recipe(steps, plan["learning_rate"], minutes=minutes, **schedule, **how)
    rows = Masking(plan["rate"], 1.0, 0.0), lengths, 1024 if toy else plan["tokens"], recipe.seed
    batches = MaskedBatches(text, tokenizer, *rows, device=DEVICE)
    torch.manual_seed(recipe.seed)
    model = ConvBertForMaskedLM(config).to(DEVICE)
    held_out = MaskedBatches(held, tokenizer, Masking(0.15, 1.0, 0.0), (128,), 4096, seed=1)
    log = fit(model, batches, recipe, folder, lambda m: masked_scores(m, held_out, 4 if toy else 42), run_config=plan)
    return model.eval(), log


def speed_of(log: list[dict], config: ConvBertConfig, mask_rate: float, peak: float) -> dict:
    """Tokens per second between reports, and the share of the GPU's peak that the model's products reach."""
    rates = [row["tokens"] / row["seconds"] for row in log if "tokens" in row][1:]  # the first one compiles
    if not rates:
        return {}
    rate = statistics.median(rates)
    head = 2 * config.embedding_size * (config.vocab_size + config.hidden_size)  # of every masked token
    work = 3 * (flops_per_token(config, 128) + mask_rate * head)
    return dict(tokens_per_second=round(rate), share_of_peak=round(rate * work / peak / 1e12, 4))


def summarise(plan: dict, log: list[dict], config: ConvBertConfig, peak: float) -> dict:
    """What a run did, and its scores on held-out text."""
    scores = next(row for row in reversed(log) if "top1" in row)
    tokens = sum(row.get("tokens", 0) for row in log)
    plan = PLAN | plan
    return dict(plan=plan, revision=revision(), tokens=tokens, **scores, **speed_of(log, config, plan["rate"], peak))


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
            model, log = train(plan_of(text), minutes, Path(folder), args.toy)
        record(args.out, trials={text: summarise(plan_of(text), log, model.config, peak)})


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
    model, log = train(plan, minutes, folder, args.toy)
    model.to("cpu", torch.float16).save_pretrained(folder)
    (folder / "model.safetensors").replace(args.out / "model.safetensors")
    summary = summarise(plan, log, model.config, card_of(args.out, args.toy)["peak_tflops"])
    record(args.out, pretraining=summary | dict(minutes=minutes, log=log, config=model.config.to_dict()))


if __name__ == "__main__":
    args = arguments(__doc__).parse_args()
    {"compile": compile_batches, "trials": trials, "pretrain": pretrain}[args.part](args)
