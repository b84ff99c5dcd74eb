"""The rules of a notebook that ruff does not know: python tools/lint_notebooks.py.

Prints every fault with its notebook and cell, and ends with 1 if there is one. Docstrings, imports and the length of a
line are ruff's; what a page becomes in the documentation is tests/test_docs.py's.
"""

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import yaml
from notebooks import ROOT, cells, notebooks

CELLS = 60  # of a notebook, which is one idea
EXPORT_LINES = 40  # of an exported cell, beside its directives
MODULE_LINES = 300
PICTURE_BYTES = 50_000


Faults = Iterator[tuple[int | None, str]]  # the number of the cell, where there is one, and what is wrong


# -- rules of one notebook


def check_title(found: list[dict]) -> Faults:
    """A notebook opens with `# Title` and `> one line`: nbdev drops whatever else stands in that cell."""
    first = found[0]["source"].splitlines() if found and found[0]["cell_type"] == "markdown" else []
    title, line, *rest = [text for text in first if text.strip()] + ["", ""]
    if not (title.startswith("# ") and line.startswith("> ")):
        yield 0, "does not open with `# Title` and a line `> what it is about`"
    elif any(not text.startswith("- ") for text in rest if text):
        yield 0, "holds more than a title and its line, which nbdev drops from the page"


def check_length(found: list[dict]) -> Faults:
    """A notebook is one idea, and an exported cell one step of it."""
    if len(found) > CELLS:
        yield None, f"{len(found)} cells, at most {CELLS}: split it"
    for cell in found:
        lines = [line for line in cell["source"].splitlines() if not line.startswith("#|")]
        if re.match(r"#\|\s*export", cell["source"]) and len(lines) > EXPORT_LINES:
            yield cell["number"], f"exports {len(lines)} lines, at most {EXPORT_LINES}"


def check_outputs(found: list[dict]) -> Faults:
    """Outputs hold no error, no large picture and no place on the disk of whoever ran them."""
    for cell in found:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                yield cell["number"], f"its output is an error: {output['ename']}"
            size = len("".join(output.get("data", {}).get("image/png", ""))) * 3 // 4
            if size > PICTURE_BYTES:
                yield cell["number"], f"its picture has {size} bytes, at most {PICTURE_BYTES}"
        for place in re.findall(r"/(?:home|Users|root|tmp|var)/[^\s\"\\]{3,40}", json.dumps(cell.get("outputs", []))):
            yield cell["number"], f"its output names a place on a disk: {place}"


def check_options(found: list[dict]) -> Faults:
    """The options of a cell are YAML, as Quarto reads them: a value with a colon in it stands in quotes."""
    for cell in found:
        lines = re.findall(r"^(?:#|%%)\|\s*([\w-]+:.*)$", cell["source"], re.M)
        try:
            yaml.safe_load("\n".join(lines))
        except yaml.MarkedYAMLError as error:
            yield cell["number"], f"its options are not YAML ({error.problem}): {lines[error.problem_mark.line]}"


def check_alt_texts(found: list[dict]) -> Faults:
    """Whoever does not see a picture is told what it shows."""
    for cell in found:
        pictures = any(kind.startswith("image/") for each in cell.get("outputs", []) for kind in each.get("data", {}))
        if pictures and not re.search(r"^#\| fig-alt: \S", cell["source"], re.M):
            yield cell["number"], "its picture has no `#| fig-alt`"
        if cell["cell_type"] != "markdown":
            continue
        for target in re.findall(r"!\[\s*\]\(([^)\s]+)", cell["source"]):
            yield cell["number"], f"no alt text for {target}"
        for tag in re.findall(r"<(?:img|iframe)\b[^>]*>", cell["source"]):
            if not re.search(r"\b(?:alt|title)=[\"'][^\"']", tag):
                yield cell["number"], f"neither alt nor title in {tag}"


RULES = check_title, check_length, check_outputs, check_options, check_alt_texts


# -- rules of folders


def check_sidebar(root: Path, names: list[str]) -> Iterator[str]:
    """nbs/sidebar.yml lists each notebook once."""
    listed = Counter(sidebar_targets(yaml.safe_load((root / "nbs/sidebar.yml").read_text(encoding="utf-8"))))
    for name in sorted({*names} | {*listed}):
        if listed[name] != 1 or name not in names:
            what = "is no notebook" if name not in names else f"is listed {listed[name]} times, not once"
            yield f"nbs/sidebar.yml: {name} {what}"


def sidebar_targets(entry) -> list[str]:
    """Every page that the sidebar names, in its order."""
    if isinstance(entry, str):
        return [entry]
    if isinstance(entry, list):
        return [target for item in entry for target in sidebar_targets(item)]
    nested = [entry.get(key, []) for key in ("website", "sidebar", "contents")]
    return [*filter(None, [entry.get("href")]), *sidebar_targets(nested)]


def check_numbers(root: Path, paths: list[Path]) -> Iterator[str]:
    """No two notebooks of a folder have the same number."""
    numbered = Counter((path.parent, found[0]) for path in paths if (found := re.match(r"\d+(?=_)", path.name)))
    for (folder, number), count in sorted(numbered.items()):
        place = folder.relative_to(root).as_posix()
        if count > 1:
            yield f"{place}: {count} notebooks have the number {number}"


def check_modules(root: Path) -> Iterator[str]:
    """A module has at most 300 lines, beside what nbdev-export adds to docstrings."""
    for path in sorted((root / "convbert").rglob("[!_]*.py")):
        source = path.read_text(encoding="utf-8")
        strings = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Expr)]
        lines = len(source.splitlines()) - sum(node.end_lineno - node.lineno for node in strings if is_text(node.value))
        if lines > MODULE_LINES:
            yield f"convbert/{path.relative_to(root / 'convbert').as_posix()}: {lines} lines, at most {MODULE_LINES}"


def is_text(node: ast.expr) -> bool:
    """Whether an expression is a string, such as a docstring."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


# -- all of them


def faults(root: Path = ROOT) -> Iterator[str]:
    """All that is wrong, a line each."""
    paths = notebooks(root)
    for path in paths:
        found = cells(path)
        for number, what in (fault for rule in RULES for fault in rule(found)):
            place = path.relative_to(root).as_posix()
            yield f"{place}{'' if number is None else f', cell {number}'}: {what}"
    yield from check_sidebar(root, [path.relative_to(root / "nbs").as_posix() for path in paths])
    yield from check_numbers(root, paths)
    yield from check_modules(root)


if __name__ == "__main__":
    found = list(faults())
    raise SystemExit("\n".join([*found, f"{len(found)} faults"]) if found else 0)
