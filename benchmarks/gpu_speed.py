"""Speed on a GPU: base size, bfloat16, ours beside transformers and BERT, in turn in one process."""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import transformers
from compare import batch_of, bert, ratios, same_outputs, twins
from gpu import record, revision
from gpu_card import BEGAN, DEVICE, arguments, card, flops_per_token, timed, wait

import convbert
from convbert import ConvBertConfig

CASES = {  # name: training, share of the batch that is not padding
    "gpu_forward_dense": (False, 1.0),
    "gpu_train_dense": (True, 1.0),
    "gpu_forward_ragged": (False, 0.45),
    "gpu_train_ragged": (True, 0.45),
}
WHAT = {
    (False, 1.0): "Base model in bfloat16, 32 texts of 512 tokens: a forward pass.",
    (True, 1.0): "Base model in bfloat16, masked words in 32 texts of 512 tokens: forward and backward.",
    (False, 0.45): "Base model in bfloat16, 32 texts of 26 to 512 tokens: a forward pass.",
    (True, 0.45): "Base model in bfloat16, masked words in 32 texts of 26 to 512 tokens: forward and backward.",
}
COMPILED = [(case, name) for case in CASES for name in ("transformers, compiled", "ours, compiled")]


# -- what is run


def config_of(toy: bool) -> ConvBertConfig:
    """The base model, or something of its shape."""
    small = dict(num_hidden_layers=1, hidden_size=64, embedding_size=64, intermediate_size=128, num_attention_heads=4)
    return ConvBertConfig.preset("base", **(small | dict(vocab_size=500) if toy else {}))


def batch(fill: float, config: ConvBertConfig, toy: bool) -> tuple[dict[str, torch.Tensor], int]:
    """32 texts of 512 tokens, or of 26 to 512 with this fill; and the number of tokens without padding."""
    B, T = (4, 32) if toy else (32, 512)
    exponent = 0.95 / (fill - 0.05) - 1
    lengths = [round(T * (0.05 + 0.95 * (i / (B - 1)) ** exponent)) for i in range(B)] if fill < 1 else [T] * B
    inputs = batch_of(lengths, config.vocab_size)
    if fill == 1:
        del inputs["attention_mask"]  # there is no padding
    return {name: x.to(DEVICE) for name, x in inputs.items()}, sum(lengths)


def program(name: str, case: str, toy: bool) -> Callable:
    """A program of a case: our model, transformers' with the same weights, or a BERT of the same size."""
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
        return partial(forward, called, inputs)
    return partial(forward_backward, called, {**inputs, **masked_labels(inputs, positions=name.startswith("ours"))})


def masked_labels(inputs: dict[str, torch.Tensor], positions: bool) -> dict[str, torch.Tensor]:
    """Labels for 15 % of the tokens, as each library's pretraining passes them: ours also passes their positions."""
    ids, generator = inputs["input_ids"], torch.Generator(DEVICE).manual_seed(0)
    real = inputs.get("attention_mask", torch.ones_like(ids)).bool()
    chosen = real & (torch.rand(ids.shape, device=DEVICE, generator=generator) < 0.15)
    labels = ids.where(chosen, -100)
    if not positions:
        return {"labels": labels}
    most = int(chosen.sum(1).max())
    at = chosen.int().topk(most, sorted=True).indices
    return {"labels": labels.gather(1, at), "predict_at": at}


@torch.inference_mode()
def forward(model: Callable, inputs: dict[str, torch.Tensor]) -> None:
    """A forward pass."""
    model(**inputs)


def forward_backward(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    """Forward and backward."""
    model.zero_grad(set_to_none=True)
    model(**inputs).loss.backward()


def same_work(toy: bool) -> float:
    """The largest difference between our features and transformers', in float32 on the device."""
    config = config_of(toy)
    inputs, _ = batch(0.45, config, toy)
    ours, theirs = (model.to(DEVICE) for model in twins(config))
    return same_outputs(ours, theirs, inputs)


# -- how it is measured


def peak_of(run: Callable) -> float:
    """Peak memory of a run in MiB, above what is allocated before."""
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


def describe(problem: BaseException) -> str:
    """An exception in one line; frees the GPU's cache."""
    torch.cuda.empty_cache() if DEVICE.type == "cuda" else None
    return f"{type(problem).__name__}: {str(problem).strip().splitlines()[0] if str(problem) else ''}"[:300]


def compare(case: str, until: float, toy: bool, peak: float) -> dict:
    """Times of all programs in turn, in random order, until a given second of the part; at least three rounds."""
    training, fill = CASES[case]
    _, tokens = batch(fill, config_of(toy), toy)
    names = ["ours", "transformers", "BERT", *(name for where, name in COMPILED if where == case)]
    programs, errors, memory, kernels = {}, {}, {}, {}
    for name in names:
        try:
            run = program(name, case, toy)
            timed(run, 3)
            memory[name] = peak_of(run)
            programs[name] = run
        except Exception as problem:  # out of memory, no Triton, a graph that does not compile: the others go on
            errors[name] = describe(problem)
    times, rounds = {name: [] for name in programs}, 0
    often = {name: max(1, round(0.1 / max(1e-4, timed(run)))) for name, run in programs.items()}  # a tenth of a second
    while rounds < 15 and (rounds < 3 or time.monotonic() - BEGAN < until):
        for name in random.Random(rounds).sample([*programs], len(programs)):
            times[name].append(timed(programs[name], often[name]))
        rounds += 1
    seconds = {name: statistics.median(each) for name, each in times.items()}
    result = dict(what=WHAT[training, fill], revision=revision(), rounds=rounds)
    result["ratios"] = ratios(times) if len(times) > 1 else {}
    result |= dict(seconds={name: round(each, 6) for name, each in seconds.items()}, errors=errors)
    result["tokens_per_second"] = {name: round(tokens / each) for name, each in seconds.items()}
    if DEVICE.type == "cuda":
        result["memory"] = memory
    for name in programs:
        try:
            kernels[name] = kernels_of(programs[name])
        except Exception as problem:  # the driver may forbid profiling
            errors[f"profile of {name}"] = describe(problem)
    work = flops_per_token(config_of(toy), 32 if toy else 512) * tokens * (3 if training else 1)
    result["share_of_peak"] = {n: round(work / s / peak / 1e12, 4) for n, s in seconds.items() if n.startswith("ours")}
    return result | {"kernels": kernels}


def speed(args: argparse.Namespace) -> None:
    """Every case, and the peak of the GPU."""
    peak = record(args.out, machine=card(args.toy))["machine"]["peak_tflops"]
    try:
        record(args.out, checks={"difference_in_float32": same_work(args.toy)})
    except (SystemExit, Exception) as problem:
        record(args.out, checks={"difference_in_float32": describe(problem)})
    left = args.seconds - (time.monotonic() - BEGAN)
    for number, case in enumerate(CASES, 1):
        result = compare(case, args.seconds - left * (1 - number / len(CASES)) - 5, args.toy, peak)
        record(args.out, cases={case: result})
        print(case, json.dumps({k: v for k, v in result.items() if k != "kernels"}), flush=True)
        torch._dynamo.reset()


def compile_all(args: argparse.Namespace) -> None:
    """Fill the cache of compiled graphs, with a process for each of them, while the tests run."""
    if args.name:
        case, _, name = args.name.partition(":")
        timed(program(name, case, args.toy), 2)
        return
    pretraining = Path(__file__).with_name("gpu_pretrain.py")
    jobs = {f"{case}:{name}": [__file__, "compile", "--name", f"{case}:{name}"] for case, name in COMPILED}
    jobs |= {f"pretraining {plan}": [pretraining, "compile", "--trials", plan] for plan in args.trials or [""]}
    same = ["--out", str(args.out), *(["--toy"] if args.toy else [])]
    env = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "3"}
    running = {name: subprocess.Popen([sys.executable, *map(str, job), *same], env=env) for name, job in jobs.items()}
    codes = {name: process.wait() for name, process in running.items()}
    print(codes, f"{time.monotonic() - BEGAN:.0f} s")


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--name", help="of one program to compile")
    args = parser.parse_args()
    {"speed": speed, "compile": compile_all}[args.part](args)
