"""How large and how fast each published size of each family is: python benchmarks/families.py [--out FILE.json].

Forward passes of encoders with random weights over 8 texts of 128 tokens, in float32 on all cores. In each round every
model runs once, in random order; the result is the median over rounds. --quick is a smoke test: meaningless numbers.
"""

import argparse
import json
import os
import statistics
from functools import partial
from pathlib import Path

import torch
from compare import measure
from machine import machine

import convbert
from convbert.families.registry import FAMILIES

SHAPE = (8, 128)


def encoders(quick: bool) -> dict:
    """Every published size, by family and name."""
    made = {}
    for family in FAMILIES.values():
        for name in family.config.presets:
            config = family.config.preset(name, **(dict(num_hidden_layers=1) if quick else {}))
            made[f"{family.prefix} {name}"] = getattr(convbert, f"{family.prefix}Model")(config).eval()
    return made


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ids = torch.randint(5, 8000, SHAPE, generator=torch.Generator().manual_seed(0))
    models = encoders(args.quick)
    with torch.inference_mode():
        programs = {name: partial(model, ids) for name, model in models.items()}
        times = measure(programs, 1 if args.quick else args.rounds, grad=False)
    sizes = {}
    for name, model in models.items():
        spent = statistics.median(times[name])
        sizes[name] = {"parameters": model.num_parameters(), "tokens per second": round(SHAPE[0] * SHAPE[1] / spent)}
        print(f"{name:22} {model.num_parameters() / 1e6:7.1f} million {sizes[name]['tokens per second']:8,} tokens/s")
    if args.out:
        results = {"machine": machine(), "sizes": sizes}
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
