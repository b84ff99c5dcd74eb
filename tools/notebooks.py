"""The notebooks of the site and their cells, for the tools and tests that read them."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def notebooks(root: Path = ROOT) -> list[Path]:
    """Every notebook of nbs/ that nbdev takes: no part of its path begins with a dot or an underscore."""
    found = (root / "nbs").rglob("*.ipynb")
    return sorted(path for path in found if not any(part[0] in "._" for part in path.relative_to(root).parts))


def cells(path: Path, kind: str = "") -> list[dict]:
    """The cells of a notebook, or those of one kind, each with its number and its source as one string."""
    found = enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"])
    numbered = [{**cell, "number": number, "source": "".join(cell["source"])} for number, cell in found]
    return [cell for cell in numbered if not kind or cell["cell_type"] == kind]
