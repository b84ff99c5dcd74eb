"""What the training loop costs: `python benchmarks/loop.py` beside a bare step on the same batches.

The bare step is forward, backward, clipping and the optimizers' update, and nothing else. The loop also seeds, weighs,
checks, logs, shows a bar and saves. Both take turns, and the medians are compared. Prints one JSON object.
"""

import argparse
import json
import statistics
import tempfile
import time

import torch

from convbert.families.convbert import ConvBertConfig
from convbert.modeling import ConvBertForMaskedLM
from convbert.training.distributed import autocast
from convbert.training.loop import fit
from convbert.training.optim import Recipe, make_optimizers


def make_batches(rows: int, length: int, vocab_size: int):
    """A few batches, by turns."""
    batches = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(5, vocab_size, (rows, length), generator=generator)
        at = torch.rand(rows, length, generator=generator).argsort(1)[:, : length // 7]
        batches.append({"input_ids": ids, "predict_at": at, "labels": ids.gather(1, at)})
    return lambda step: batches[step % len(batches)]


def bare(model, batches, recipe: Recipe) -> float:
    """Seconds of all steps without the loop."""
    optimizers, device = make_optimizers(model, recipe), next(model.parameters()).device
    began = time.perf_counter()
    for step in range(recipe.steps):
        with autocast(recipe, device):
            loss = model(**{name: value.to(device) for name, value in batches(step).items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def looped(model, batches, recipe: Recipe) -> float:
    """Seconds of all steps in the loop, its files included."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        fit(model, batches, recipe, folder)
        return time.perf_counter() - began


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    config = ConvBertConfig.preset(args.preset, vocab_size=8192)
    batches = make_batches(args.rows, args.length, config.vocab_size)
    recipe = Recipe(steps=args.steps, warmup=0, compile=False)
    model, spent = ConvBertForMaskedLM(config).to(args.device).train(), {"bare": [], "loop": []}
    bare(model, batches, recipe)  # the first steps are slower
    for _ in range(args.times):
        spent["bare"].append(bare(model, batches, recipe))
        spent["loop"].append(looped(model, batches, recipe))
    tokens = args.rows * args.length * args.steps
    speed = {f"{name}_tokens_per_second": round(tokens / statistics.median(each)) for name, each in spent.items()}
    ratio = statistics.median(spent["bare"]) / statistics.median(spent["loop"])
    print(json.dumps({**speed, "ratio": round(ratio, 3)}, indent=1))


if __name__ == "__main__":
    main()
