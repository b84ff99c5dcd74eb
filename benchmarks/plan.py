"""What `convbert plan` foretells beside what short runs take: python benchmarks/plan.py CORPUS [--steps 20].

Both are measured in turn in one process, uncompiled. Prints, for each objective, the seconds that were foretold for the
steps of the run, those that its log counts, and their ratio.
"""

import argparse
import json
import tempfile
from pathlib import Path

from convbert import ConvBertConfig, Plan, pretrain
from convbert.training.optim import Recipe
from convbert.training.pretraining.estimate import estimate

OBJECTIVES = {
    "masked-lm": {},
    "replaced-tokens": {},
    "distillation": dict(teacher="convbert-tiny"),
}


def compare(corpus: Path, objective: str, steps: int) -> tuple[float, float]:
    """Seconds that were foretold and that were taken."""
    recipe = Recipe(steps, warmup=1, optimizer="muon", compile=False, save_every=steps, evaluate_every=steps)
    rows = dict(lengths=(128,), tokens_per_batch=4096, cut="running", tokenizer="convbert-tiny")
    config = ConvBertConfig.preset("tiny")
    plan = Plan(corpus, config, recipe, objective, **rows, **OBJECTIVES[objective])
    foretold = estimate(plan, device="cpu").seconds
    with tempfile.TemporaryDirectory() as folder:
        pretrain(plan, folder, device="cpu")
        log = json.loads((Path(folder) / "training_log.json").read_text())
    return foretold, sum(row["seconds"] for row in log if "tokens" in row)


def main() -> None:
    """Compare each objective."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="plain text, a file of some megabytes")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    for objective in OBJECTIVES:
        foretold, taken = compare(args.corpus, objective, args.steps)
        print(f"{objective}: {foretold:.1f} s foretold, {taken:.1f} s taken, ratio {taken / foretold:.2f}", flush=True)


if __name__ == "__main__":
    main()
