"""The parts of `gpu.sh run` that need torch: compile, speed, trials, pretrain."""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import transformers
from compare import batch_of, bert, ratios, same_outputs, twins
from gpu import HOME, load_tokens, read, record, write
from machine import flops
from torch._subclasses import FakeTensorMode

import convbert
from convbert import ConvBertConfig, ConvBertForMaskedLM, ConvBertModel, ConvBertTokenizerFast
from convbert.kernels.choose import use_kernel
from convbert.training.data import MaskedBatches, Masking
from convbert.training.loop import fit
from convbert.training.optim import Recipe
from convbert.training.pretraining import masked_scores

BEGAN = time.monotonic()
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CASES = {  # name: training, share of the batch that is not padding
    "gpu_forward_dense": (False, 1.0),
    "gpu_train_dense": (True, 1.0),
    "gpu_forward_ragged": (False, 0.45),
    "gpu_train_ragged": (True, 0.45),
}
WHAT = {
    (False, 1.0): "Base model in bfloat16, 32 texts of 512 tokens: a forward pass.",
    (True, 1.0): "Base model in bfloat16, masked words in 32 texts of 512 tokens: forward and backward.",
    (False, 0.45): "Base model in bfloat16, 32 texts of 26 to 512 tokens, 55 % padding: a forward pass.",
    (True, 0.45): "Base model in bfloat16, masked words in 32 texts of 26 to 512 tokens, 55 % padding: forward and backward.",
}
COMPILED = [(case, name) for case in CASES for name in ("transformers, compiled", "ours, compiled")]


def wait() -> None:
    """Until the device has done all that it was given."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def timed(program: Callable, times: int = 1) -> float:
    """Seconds of a run, of so many in a row."""
    wait()
    began = time.perf_counter()
    for _ in range(times):
        program()
    wait()
    return (time.perf_counter() - began) / times


# -- what the card can do


def card(toy: bool) -> dict:
    """What is measured on, with what, and its two ceilings."""
    n = 256 if toy else 8192
    a, b = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    whole, other = (torch.empty(2**18 if toy else 2**32, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    product = min(timed(partial(torch.mm, a, b), 10) for _ in range(3))
    copy = min(timed(partial(other.copy_, whole), 3) for _ in range(3))
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "no GPU: a try on a CPU"
    versions = {module.__name__: module.__version__ for module in (torch, transformers)}
    if DEVICE.type == "cuda":
        import triton

        versions |= {"triton": triton.__version__, "cuda": torch.version.cuda}
    rates = dict(peak_tflops=round(2 * n**3 / product / 1e12, 4), copy_tb_s=round(2 * whole.nbytes / copy / 1e12, 3))
    return {"device": name, **rates, **versions, "python": sys.version.split()[0]}


# -- speed


def config_of(toy: bool) -> ConvBertConfig:
    """The base model, or something of its shape."""
    small = dict(num_hidden_layers=1, hidden_size=64, embedding_size=64, intermediate_size=128, num_attention_heads=4)
    return ConvBertConfig.preset("base", **(small | dict(vocab_size=500) if toy else {}))


def batch(fill: float, config: ConvBertConfig, toy: bool) -> tuple[dict[str, torch.Tensor], int]:
    """32 texts of 512 tokens, or of 26 to 512 that fill so much of the batch; and how many tokens are no padding."""
    B, T = (4, 32) if toy else (32, 512)
    steep = 0.95 / (fill - 0.05) - 1
    lengths = [round(T * (0.05 + 0.95 * (i / (B - 1)) ** steep)) for i in range(B)] if fill < 1 else [T] * B
    inputs = batch_of(lengths, config.vocab_size)
    if fill == 1:
        del inputs["attention_mask"]  # nobody need look for padding
    return {name: x.to(DEVICE) for name, x in inputs.items()}, sum(lengths)


def program(name: str, case: str, toy: bool) -> Callable:
    """What a program does in a case: our model, transformers' with the same weights, or a BERT of the same size."""
    training, fill = CASES[case]
    config = config_of(toy)
    inputs, _ = batch(fill, config, toy)
    library = transformers if name.startswith("transformers") else convbert
    if name == "BERT":
        model = bert(config)
        model = transformers.BertForMaskedLM(model.config) if training else model
    else:
        kind = "ConvBertForMaskedLM" if training else "ConvBertModel"
        ours, theirs = twins(config, getattr(convbert, kind), getattr(transformers, kind))
        model = theirs if library is transformers else ours
    model = model.to(DEVICE, torch.bfloat16).train(training)
    called, backend = model, "aot_eager" if toy else "inductor"
    if name == "ours, compiled" and fill < 1:
        model.compile_layers(backend)
    elif "compiled" in name:
        called = torch.compile(model, backend=backend)
    if not training:
        return partial(answer, called, inputs)
    return partial(learn, called, {**inputs, **asked(inputs, places=name.startswith("ours"))})


def asked(inputs: dict[str, torch.Tensor], places: bool) -> dict[str, torch.Tensor]:
    """Labels for 15 % of the tokens, as each library's own pretraining gives them: ours also says where they are."""
    ids, generator = inputs["input_ids"], torch.Generator(DEVICE).manual_seed(0)
    real = inputs.get("attention_mask", torch.ones_like(ids)).bool()
    chosen = real & (torch.rand(ids.shape, device=DEVICE, generator=generator) < 0.15)
    labels = ids.where(chosen, -100)
    if not places:
        return {"labels": labels}
    most = int(chosen.sum(1).max())
    at = chosen.int().topk(most, sorted=True).indices
    return {"labels": labels.gather(1, at), "predict_at": at}


@torch.inference_mode()
def answer(model: Callable, inputs: dict[str, torch.Tensor]) -> None:
    """A forward pass."""
    model(**inputs)


def learn(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    """Forward and backward."""
    model.zero_grad(set_to_none=True)
    model(**inputs).loss.backward()


def same_work(toy: bool) -> float:
    """The largest difference between our features and transformers', in float32 on the device."""
    config = config_of(toy)
    inputs, _ = batch(0.45, config, toy)
    ours, theirs = (model.to(DEVICE) for model in twins(config))
    return same_outputs(ours, theirs, inputs)


def peak_of(run: Callable) -> float:
    """MiB that a run adds at its highest to what is there already."""
    if DEVICE.type != "cuda":
        return 0.0
    run()
    run.args[0].zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def kernels_of(run: Callable, most: int = 14) -> dict[str, float]:
    """Milliseconds of the longest kernels of a run, and of all."""
    if DEVICE.type != "cuda":
        return {}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        run()
        wait()
    spent = {event.key[:90]: event.self_device_time_total / 1e3 for event in seen.key_averages()}
    longest = sorted(spent, key=spent.get, reverse=True)[:most]
    return {"all kernels": round(sum(spent.values()), 3)} | {name: round(spent[name], 3) for name in longest}


def without_memory(problem: BaseException) -> str:
    """What went wrong, in a line."""
    torch.cuda.empty_cache() if DEVICE.type == "cuda" else None
    return f"{type(problem).__name__}: {str(problem).strip().splitlines()[0] if str(problem) else ''}"[:300]


def compare(case: str, until: float, toy: bool, peak: float) -> dict:
    """Times of all programs in turn, in changing order, until so many seconds after the start; at least three rounds."""
    training, fill = CASES[case]
    _, tokens = batch(fill, config_of(toy), toy)
    names = ["ours", "transformers", "BERT", *(name for where, name in COMPILED if where == case)]
    programs, troubles, memory, kernels = {}, {}, {}, {}
    for name in names:
        try:
            run = program(name, case, toy)
            timed(run, 3)
            memory[name] = peak_of(run)
            programs[name] = run
        except Exception as problem:  # out of memory, no Triton, a graph that does not compile: the others go on
            troubles[name] = without_memory(problem)
    times, rounds = {name: [] for name in programs}, 0
    often = {name: max(1, round(0.1 / max(1e-4, timed(run)))) for name, run in programs.items()}  # a tenth of a second
    while rounds < 15 and (rounds < 3 or time.monotonic() - BEGAN < until):
        for name in random.Random(rounds).sample([*programs], len(programs)):
            times[name].append(timed(programs[name], often[name]))
        rounds += 1
    seconds = {name: statistics.median(each) for name, each in times.items()}
    told = dict(what=WHAT[training, fill], ratios=ratios(times) if len(times) > 1 else {}, rounds=rounds)
    told |= dict(seconds={name: round(each, 6) for name, each in seconds.items()}, troubles=troubles)
    told["tokens_per_second"] = {name: round(tokens / each) for name, each in seconds.items()}
    if DEVICE.type == "cuda":
        told["memory"] = memory
    for name in [name for name in programs if name.startswith("ours")]:
        try:
            kernels[name] = kernels_of(programs[name])
        except Exception as problem:  # a profiler that the driver does not let in
            troubles[f"profile of {name}"] = without_memory(problem)
    work = flops_per_token(config_of(toy), 32 if toy else 512) * tokens * (3 if training else 1)
    told["share_of_peak"] = {n: round(work / s / peak / 1e12, 4) for n, s in seconds.items() if n.startswith("ours")}
    return told | {"kernels": kernels}


def flops_per_token(config: ConvBertConfig, T: int) -> float:
    """Operations of the matrix products of a forward pass, attention over T tokens included."""
    with FakeTensorMode():
        model = ConvBertModel(config).eval()
        use_kernel(model, "reference")
        counted = flops(partial(model.encoder, torch.zeros(1, T, dtype=torch.long)))
    return counted / T


def speed(args: argparse.Namespace) -> None:
    """Every case, and what the card can do."""
    machine = record(args.out, machine=card(args.toy))["machine"]
    try:
        record(args.out, checks={"apart_in_float32": same_work(args.toy)})
    except (SystemExit, Exception) as problem:
        record(args.out, checks={"apart_in_float32": without_memory(problem)})
    left = args.seconds - (time.monotonic() - BEGAN)
    for number, case in enumerate(CASES, 1):
        told = compare(case, args.seconds - left * (1 - number / len(CASES)) - 5, args.toy, machine["peak_tflops"])
        record(args.out, cases={case: told})
        print(case, json.dumps({k: v for k, v in told.items() if k != "kernels"}), flush=True)
        torch._dynamo.reset()


def compile_all(args: argparse.Namespace) -> None:
    """Fill the cache of compiled graphs, a process for each, while the tests run."""
    case, _, name = (args.name or "").partition(":")
    if case == "pretrain":
        with tempfile.TemporaryDirectory() as folder:
            train(plan_of(name) | {"steps": PLAN["long"] + 1}, None, Path(folder), args.toy)
        return
    if case:
        timed(program(name, case, args.toy), 2)
        return
    wanted = [f"{case}:{name}" for case, name in COMPILED] + [f"pretrain:{plan}" for plan in args.trials or [""]]
    same = [sys.executable, __file__, "compile", "--out", str(args.out), *(["--toy"] if args.toy else [])]
    env = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "3"}
    running = [subprocess.Popen([*same, "--name", name], env=env) for name in wanted]
    codes = [process.wait() for process in running]
    print(dict(zip(wanted, codes, strict=True)), f"{time.monotonic() - BEGAN:.0f} s")


# -- pretraining


def tiny(toy: bool, tokenizer: ConvBertTokenizerFast) -> ConvBertConfig:
    """The bundled model's config."""
    small = dict(num_hidden_layers=1, hidden_size=32, embedding_size=16, intermediate_size=64) if toy else {}
    return ConvBertConfig.preset("tiny", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **small)


def plan_of(text: str) -> dict:
    """`learning_rate=0.004,steps=700` as names and numbers."""
    return {key: json.loads(value) for key, _, value in (pair.partition("=") for pair in text.split(",") if pair)}


PLAN = dict(learning_rate=5e-3, rate=0.2, tokens=131072, steps=11000, long=8, seed=0)


def train(plan: dict, minutes: float | None, folder: Path, toy: bool) -> tuple[ConvBertForMaskedLM, list[dict]]:
    """A masked language model as `convbert pretrain` makes one, with all of the text on the device."""
    plan = PLAN | plan
    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    text, held = load_tokens()
    config = tiny(toy, tokenizer)
    lengths = ((128,) * (plan["long"] - 1) + (512,))
    steps = plan["steps"]
    recipe = Recipe(
        steps, minutes, plan["learning_rate"], warmup=min(300, steps // 10), decay=round(0.45 * steps), weight_decay=0.1,
        optimizer="muon", save_every=1000, evaluate_every=2000, compile=not toy, seed=plan["seed"],
    )  # fmt: skip
    tokens = 1024 if toy else plan["tokens"]
    batches = MaskedBatches(text, tokenizer, Masking(plan["rate"], 1.0, 0.0), lengths, tokens, recipe.seed, device=DEVICE)
    torch.manual_seed(recipe.seed)
    model = ConvBertForMaskedLM(config).to(DEVICE)
    judge = MaskedBatches(held, tokenizer, Masking(0.15, 1.0, 0.0), (128,), 4096, seed=1)
    log = fit(model, batches, recipe, folder, lambda m: masked_scores(m, judge, 4 if toy else 42), facts=plan)
    return model.eval(), log


def speed_of(log: list[dict], config: ConvBertConfig, peak: float) -> dict:
    """Tokens a second between reports, and how much of the card's matrix peak the model's products make of that."""
    rates = [row["tokens"] / row["seconds"] for row in log if "tokens" in row][1:]  # the first one compiles
    if not rates:
        return {}
    rate = statistics.median(rates)
    work = 3 * (flops_per_token(config, 128) + 2 * 0.2 * config.embedding_size * (config.vocab_size + config.hidden_size))
    return dict(tokens_per_second=round(rate), share_of_peak=round(rate * work / peak / 1e12, 4))


def told_of(plan: dict, log: list[dict], config: ConvBertConfig, peak: float) -> dict:
    """What a run did, and what it is worth on rows that it has not seen."""
    scores = next(row for row in reversed(log) if "top1" in row)
    tokens = sum(row.get("tokens", 0) for row in log)
    return dict(plan=PLAN | plan, tokens=tokens, **scores, **speed_of(log, config, peak))


def peak_now(out: Path, toy: bool) -> float:
    """TFLOP/s of a large product, measured if nobody has."""
    known = read(out).get("machine") or record(out, machine=card(toy))["machine"]
    return known["peak_tflops"]


def trials(args: argparse.Namespace) -> None:
    """Short runs side by side, each with the same share of the time: which plan learns most in it?"""
    peak = peak_now(args.out, args.toy)
    for number, text in enumerate(args.trials):
        left = args.seconds - (time.monotonic() - BEGAN) - 5
        with tempfile.TemporaryDirectory() as folder:
            minutes = left / (len(args.trials) - number) / 60
            model, log = train(plan_of(text), minutes, Path(folder), args.toy)
        record(args.out, trials={text: told_of(plan_of(text), log, model.config, peak)})


def pretrain(args: argparse.Namespace) -> None:
    """The model, as long as there is time; what the first call plans, a later one ends."""
    folder, kept = HOME / "work" / "pretrain", args.out / "plan.json"
    if kept.exists():
        plan, minutes = json.loads(kept.read_text())
    else:
        plan = plan_of(",".join(args.trials))
        minutes = (args.seconds - (time.monotonic() - BEGAN) - (4 if args.toy else 11)) / 60
        write(kept, json.dumps([plan, minutes]))
    model, log = train(plan, minutes, folder, args.toy)
    model.to("cpu", torch.float16).save_pretrained(folder)
    (folder / "model.safetensors").replace(args.out / "model.safetensors")
    told = told_of(plan, log, model.config, peak_now(args.out, args.toy))
    record(args.out, pretraining=told | dict(minutes=minutes, log=log, config=model.config.to_dict()))


def main() -> None:
    """The part that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = {"compile": compile_all, "speed": speed, "trials": trials, "pretrain": pretrain}
    parser.add_argument("part", choices=parts)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600.0, help="that the part may take")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--trials", nargs="*", default=[])
    parser.add_argument("--name", help="of one program to compile")
    args = parser.parse_args()
    parts[args.part](args)


if __name__ == "__main__":
    main()
