"""Run tutorials in full, and compare their scores with the committed ones: python tools/check_tutorials.py [NAME...].

Training is not the same to the last bit on every processor, so scores may differ by --tolerance. The tests run the same
pages on a slice of their data. --write keeps the new outputs; `nbdev-clean` tidies them.
"""

import argparse
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TUTORIALS = Path(__file__).resolve().parents[1] / "nbs" / "tutorials"
SCORE = re.compile(r"'(\w*(?:accuracy|f1|match|mcc|top\d|right|share|precision|top-\d)[\w -]*)': (-?\d+\.\d+)")


def scores_of(notebook: nbformat.NotebookNode) -> dict[str, list[tuple[str, float]]]:
    """The scores that each cell has printed, by the cell's id."""
    shown = {
        cell.id: "\n".join(output.get("data", {}).get("text/plain", "") for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    return {name: [(key, float(value)) for key, value in SCORE.findall(text)] for name, text in shown.items()}


def differences(old: dict, new: dict, tolerance: float) -> list[str]:
    """What is not the same in two runs of one notebook."""
    found = []
    for cell in old:
        if [key for key, _ in old[cell]] != [key for key, _ in new[cell]]:
            found.append(f"cell {cell}: {old[cell]} is now {new[cell]}")
            continue
        for (key, was), (_, is_now) in zip(old[cell], new[cell], strict=True):
            if abs(was - is_now) > tolerance:
                found.append(f"cell {cell}: {key} was {was:.4f}, is now {is_now:.4f}")
    return found


def main() -> int:
    """Check each, and say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of tutorials, without .ipynb; all when there is none")
    parser.add_argument("--tolerance", type=float, default=0.05, help="largest difference of a score (default: 0.05)")
    parser.add_argument("--write", action="store_true", help="keep the new outputs")
    args = parser.parse_args()
    wrong = 0
    for name in args.names or sorted(path.stem for path in TUTORIALS.glob("*.ipynb")):
        path = TUTORIALS / f"{name}.ipynb"
        if not path.exists():
            parser.error(f"no such tutorial: {name}")
        committed, began = nbformat.read(path, 4), time.perf_counter()
        old, place = scores_of(committed), {"metadata": {"path": str(TUTORIALS)}}
        NotebookClient(committed, timeout=None, kernel_name="python3", resources=place).execute()
        found = differences(old, scores_of(committed), args.tolerance)
        print(f"{name}: {(time.perf_counter() - began) / 60:.1f} minutes, {sum(map(len, old.values()))} scores")
        print("".join(f"  {line}\n" for line in found), end="", flush=True)
        wrong += bool(found)
        if args.write:
            nbformat.write(committed, path)
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
