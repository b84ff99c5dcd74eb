"""How long a user waits for an import, for the first answer in the shell, for a figure and for a view.

    python benchmarks/startup.py [import answer figure view] [--rounds 5] [--out FILE]

Each case is measured in turn with what cannot be saved: torch's own import, or bare axes with the same labels. What is
printed are medians in seconds, and how many times the bare minimum each of them is.
"""

import argparse
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

TORCH = "import torch"
ANSWER = """
from convbert.cli import main
raise SystemExit(main(["fill-mask", "The ship sailed across the [MASK]."]))
"""
VIEW = """
from convbert import visualize
text = "The old man sat by the [MASK]." + " And he waited for his ship." * 17
visualize.{}("convbert-tiny", text)._repr_mimebundle_()
"""
VIEWS = "head_view", "split_view", "knockout_view", "mask_explorer"
TEXT = "The old man sat by the sea.", "Was his ship coming home?"


def new_process(code: str) -> Callable:
    """Run code in a Python of its own."""
    command = [sys.executable, "-c", code]
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def in_processes(**codes: str) -> dict[str, Callable]:
    """Programs of which the first is what torch itself costs."""
    return {name: new_process(code) for name, code in {TORCH: TORCH, **codes}.items()}


def figures() -> dict[str, Callable]:
    """Bare axes with the labels of a text, and the two figures that a view draws."""
    from matplotlib.figure import Figure

    from convbert.visualize.figures import plot_share, plot_token
    from convbert.visualize.head_contributions import head_split

    split = head_split("convbert-tiny", *TEXT)

    def bare() -> Figure:
        """No figure of these tokens can cost less."""
        figure = Figure(figsize=(6, 2), dpi=100)
        ax = figure.add_axes((0.1, 0.4, 0.8, 0.5))
        ax.set_xticks(range(len(split.tokens)), split.tokens, rotation=90)
        return figure

    drawn = {"bare axes": bare, "plot_share": lambda: plot_share(split), "plot_token": lambda: plot_token(split, 3, 13)}
    return {name: lambda draw=draw: draw().savefig(io.BytesIO(), format="png") for name, draw in drawn.items()}


CASES = {
    "import": lambda: in_processes(convbert="import convbert", ConvBertModel="from convbert import ConvBertModel"),
    "answer": lambda: in_processes(**{"first answer": ANSWER}),
    "figure": figures,
    "view": lambda: in_processes(**{name: VIEW.format(name) for name in VIEWS}),
}


def seconds(run: Callable) -> float:
    """Of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def measure(programs: dict[str, Callable], rounds: int) -> dict[str, dict[str, float]]:
    """Medians in seconds, in turn, so that a busy moment meets all; ratios are to the first program."""
    for run in programs.values():
        run()  # fills the disk's cache and writes byte code
    times = {name: [] for name in programs}
    for _ in range(rounds):
        for name, run in programs.items():
            times[name].append(seconds(run))
    first = next(iter(times.values()))
    return {
        name: {
            "seconds": round(median(spent), 4),
            "times": round(median(a / b for a, b in zip(spent, first, strict=True)), 2),
        }
        for name, spent in times.items()
    }


def main() -> None:
    """Measure, print, and write the numbers down if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all when none is named")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a file of JSON")
    args = parser.parse_args()
    if unknown := set(args.cases) - set(CASES):
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    found = {case: measure(CASES[case](), args.rounds) for case in args.cases or CASES}
    for case, rows in found.items():
        print(
            case, *(f"{name}: {row['seconds']:.3f} s, {row['times']} times" for name, row in rows.items()), sep="\n  "
        )
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
