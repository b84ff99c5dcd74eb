"""Write README.md from nbs/index.ipynb, or with --check say whether it is up to date.

nbdev-readme needs Quarto; nbconvert is enough for one page, so that every machine can make and check it.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from nbdev.config import get_config
from nbdev.readme_filter import doc_link

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK, README = ROOT / "nbs" / "index.ipynb", ROOT / "README.md"
NOTE = "<!-- Made from nbs/index.ipynb by tools/readme.py: edit the notebook. -->"
_directive = re.compile(r"^#\|\s*([\w-]+)\s*:?\s*(.*?)\s*(?:\n|$)", re.M)
_target = re.compile(r"(\]\(|(?:src|srcset|href)=\")([^)\"\s]+)")
_live_box = re.compile(r'<div class="convbert-live"[^>]*>\s*(.*?)\s*</div>\s*<script [^>]*></script>', re.S)
_fence = re.compile(r"(^```.*?^```)", re.M | re.S)


def visible(cell):
    """The cell as the README shows it, or None where its directives hide it."""
    if cell.cell_type != "code":
        return cell if cell.source.strip() else None
    flags = dict(_directive.findall(cell.source))
    if "hide" in flags or flags.get("include") == "false":
        return None
    cell.source = _directive.sub("", cell.source).strip("\n")
    if "hide_output" in flags or flags.get("output") == "false":
        cell.outputs = []
    if any(kind.startswith("image/") for output in cell.outputs for kind in output.get("data", {})):
        raise SystemExit(f"{NOTEBOOK}: save the picture under nbs/images and show it with ![alt](images/name.svg)")
    if "hide_input" in flags or flags.get("echo") == "false":
        cell.metadata["transient"] = {"remove_source": True}
    return cell


def relink(target: str, docs: str) -> str:
    """A link that works beside nbs/, turned into one that works from the top of the repository."""
    if re.match(r"[a-z]+:|#|/", target):
        return target
    on_site = doc_link(target, docs)
    if on_site != target:
        return on_site
    path = (NOTEBOOK.parent / target.split("#")[0]).resolve()
    if not path.exists():
        raise SystemExit(f"{NOTEBOOK} links to {target}, which does not exist")
    return path.relative_to(ROOT).as_posix() + target[len(target.split("#")[0]) :]


def readme() -> str:
    """The text of README.md."""
    nb = nbformat.read(NOTEBOOK, as_version=4)
    nb.cells = [cell for cell in map(visible, nb.cells) if cell is not None]
    nb.metadata["language_info"] = {"name": "python"}  # nbdev-clean takes it out; fences are marked with it
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = _live_box.sub(r"\1", text)  # of what runs on the site, the picture
    docs = get_config(ROOT).doc_url
    parts = _fence.split(text)  # odd parts are fenced code, which stays as it is
    parts[::2] = [_target.sub(lambda m: m[1] + relink(m[2], docs), part) for part in parts[::2]]
    lines = [line.rstrip() for line in "".join(parts).strip().splitlines()]
    return f"{NOTE}\n\n" + re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def main() -> None:
    """Write the README, or compare it with --check."""
    text = readme()
    if "--check" not in sys.argv[1:]:
        README.write_text(text, encoding="utf-8")
    elif not README.exists() or README.read_text(encoding="utf-8") != text:
        raise SystemExit("README.md differs from nbs/index.ipynb. Run: python tools/readme.py")


if __name__ == "__main__":
    main()
