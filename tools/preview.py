"""The staged pages as HTML without Quarto: python tools/preview.py [STAGED [TARGET]].

pandoc (pip install pypandoc-binary) makes each page, with the names that Quarto gives to what is on it, so that the
site's own styles apply. The themes come from the npm packages of tools/site (npm ci --prefix tools/site).
"""

import html
import re
import sys
from pathlib import Path
from shutil import copytree, ignore_patterns

import yaml
from finish_site import PACKAGES, ROOT, localise
from nbdev.config import nbpath2html
from notebooks import cells

EXTENSIONS = "markdown+raw_html+raw_attribute+fenced_divs-smart"
MATHS = "mathjax/es5/tex-chtml-full.js"
TEMPLATE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{up}light.css" class="scheme light">
<link rel="stylesheet" href="{up}dark.css" class="scheme dark">
<link rel="stylesheet" href="{up}styles.css">
<style>main {{ padding: 0 1.5rem; }}</style>
<script>
function show(scheme) {{
  for (const link of document.querySelectorAll(".scheme")) link.disabled = !link.classList.contains(scheme);
  document.body.className = `quarto-${{scheme}} nav-sidebar floating`;
}}
</script>
<script defer src="{up}packages/{maths}"></script>
</head><body class="quarto-light">
<script>show(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")</script>
<header id="quarto-header">
<nav class="navbar"><a class="navbar-brand" href="{up}index.html"><span class="navbar-title">convbert</span></a></nav>
<nav class="quarto-secondary-nav"><nav class="quarto-page-breadcrumbs"><ol class="breadcrumb">
<li class="breadcrumb-item"><a href="{up}index.html">convbert</a></li><li class="breadcrumb-item">{title}</li>
</ol></nav></nav>
</header>
<div id="quarto-content"><nav id="TOC" role="doc-toc">{contents}</nav>
<main class="content" id="quarto-document-content">
<header id="title-block-header"><h1 class="title">{title}</h1><div class="description">{description}</div></header>
{body}
</main></div>
{after}
</body></html>
"""


# -- from notebook to Markdown


def options(source: str) -> tuple[dict, str]:
    """The options at the top of a cell, and its code."""
    lines = re.findall(r"^#\|\s*([\w-]+:.*)$", source, re.M)
    return yaml.safe_load("\n".join(lines)) or {}, re.sub(r"^#\|.*\n?", "", source, flags=re.M)


def fenced(text: str, attributes: str = "") -> str:
    """A block of code, or of raw HTML, for pandoc."""
    fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall("`{3,}", text))])
    return f"{fence}{attributes}\n{text}\n{fence}"


def output(found: dict, alt: str, as_is: bool) -> str:
    """What a cell has put out, as Quarto would show it."""
    data = {kind: "".join(value) for kind, value in found.get("data", {}).items() if isinstance(value, str | list)}
    if found["output_type"] == "error":
        return fenced("\n".join(found["traceback"]))
    if picture := data.get("image/png"):
        return f'<img src="data:image/png;base64,{"".join(picture.split())}" alt="{html.escape(alt)}">'
    for kind, attributes in (("text/html", "{=html}"), ("image/svg+xml", "{=html}")):
        if kind in data:
            return fenced(data[kind], attributes)
    if "text/markdown" in data:
        return data["text/markdown"]
    text = data.get("text/plain", "".join(found.get("text", "")))
    return text if as_is else fenced(text.rstrip("\n"))


def as_markdown(page: Path) -> str:
    """The cells of a staged notebook."""
    parts = []
    for cell in cells(page):
        chosen, code = options(cell["source"]) if cell["cell_type"] == "code" else ({}, cell["source"])
        if cell["cell_type"] != "code":
            parts.append("" if cell["cell_type"] == "raw" else code)
        elif chosen.get("include") is not False:
            shown = [] if chosen.get("echo") is False else [fenced(code.strip("\n"), "{.python .cell-code}")]
            outputs = [] if chosen.get("output") is False else cell["outputs"]
            as_is = chosen.get("output") == "asis"
            made = [output(each, chosen.get("fig-alt", ""), as_is) for each in outputs]
            if as_is:
                parts += [*shown, *made]
            else:
                boxes = [f"::: {{.cell-output .cell-output-display}}\n{each}\n:::" for each in made]
                parts.append("\n\n".join(["::: {.cell}", *shown, *boxes, ":::"]))
    return "\n\n".join(parts)


# -- from Markdown to a site


def convert(markdown: str, *arguments: str) -> str:
    """HTML by pandoc."""
    import pypandoc

    return pypandoc.convert_text(markdown, "html5", EXTENSIONS, extra_args=["--mathjax", "--no-highlight", *arguments])


def make_page(page: Path, name: Path, after: str) -> str:
    """One page; `name` is its place in the site."""
    front = yaml.safe_load(cells(page)[0]["source"].strip().strip("-"))
    body = convert(as_markdown(page), "--section-divs")
    body = re.sub(r'href="([^":]*?)\.ipynb(#[^"]*)?"', lambda m: f'href="{as_link(m[1])}{m[2] or ""}"', body)
    heads = re.findall(r'<section id="([^"]+)" class="level[23]"[^>]*>\s*<h\d[^>]*>(.*?)</h\d>', body, re.S)
    contents = "".join(f'<li><a href="#{anchor}">{re.sub("<[^>]+>", "", head)}</a></li>' for anchor, head in heads)
    up = "../" * (len(name.parts) - 1)
    description = convert(front.get("description", ""))
    made = dict(title=html.escape(front["title"]), description=description, contents=f"<ul>{contents}</ul>", body=body)
    return localise(TEMPLATE.format(**made, up=up, after=after, maths=MATHS), up)


def as_link(target: str) -> str:
    """The page of a notebook that is linked to."""
    return nbpath2html(Path(f"{target}.ipynb")).as_posix()


def make_preview(staged: Path, target: Path) -> list[Path]:
    """A folder of pages that a static server can serve."""
    copytree(staged, target, dirs_exist_ok=True, ignore=ignore_patterns("*.ipynb", "_docs"))
    for scheme, theme in (("light", "cosmo"), ("dark", "darkly")):
        style = PACKAGES / "bootswatch" / "dist" / theme / "bootstrap.min.css"
        text = style.read_text(encoding="utf-8") if style.exists() else ""
        (target / f"{scheme}.css").write_text(re.sub(r"@import url\([^)]*\);?", "", text), encoding="utf-8")
    if PACKAGES.exists() and not (target / "packages").exists():
        (target / "packages").symlink_to(PACKAGES.resolve())
    after = (staged / "frames.html").read_text(encoding="utf-8")
    made = []
    for page in sorted(staged.rglob("*.ipynb")):
        name = nbpath2html(page.relative_to(staged))
        made.append(target / name)
        made[-1].parent.mkdir(parents=True, exist_ok=True)
        made[-1].write_text(make_page(page, name, after), encoding="utf-8")
    return made


if __name__ == "__main__":
    folders = [Path(each) for each in sys.argv[1:]]
    defaults = [ROOT / "_proc", ROOT / "_preview"]
    print(*make_preview(*[*folders, *defaults[len(folders) :]]), sep="\n")
