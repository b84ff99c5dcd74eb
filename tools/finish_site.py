"""Finish the site that Quarto rendered: python tools/finish_site.py [FOLDER].

What pages would fetch from other hosts is served with them, from the npm packages of tools/site, and every symbol gets
an entry of its own in the search. Ends with 1 when a page still needs another host.
"""

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree, ignore_patterns

import convbert
from convbert._modidx import d as INDEX

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ROOT / "tools" / "site" / "node_modules"
LIBRARIES = "site_libs"
SCRIPTS = {  # what Quarto links to: the same in an npm package, or "" where browsers need it no longer
    r"https://cdnjs\.cloudflare\.com/polyfill/.*": "",
    r"https://cdnjs\.cloudflare\.com/ajax/libs/require\.js/.*": "requirejs/require.js",
    r"https://cdnjs\.cloudflare\.com/ajax/libs/jquery/.*": "jquery/dist/jquery.min.js",
    r"https://cdn\.jsdelivr\.net/npm/mathjax@[^/]+/es5/(.*)": r"mathjax/es5/\1",
}
FOLDERS = "requirejs", "jquery/dist", "mathjax/es5"  # of what SCRIPTS names, with what it loads later
LEFT_OUT = ignore_patterns("mathmaps", "node-main.js", "adaptors", "bin", "*.map")  # words for speech, what Node runs
SCRIPT = re.compile(r'<script\b[^>]*\bsrc="(https?://[^"]+)"[^>]*>\s*</script>')
REMOTE = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["'](https?://[^"']+)|<link\b(?=[^>]*stylesheet)[^>]*href=["'](https?://[^"']+)"""
    r"""|@import\s+(?:url\()?["']?(https?://[^"')]+)|url\(["']?(https?://[^"')]+)"""
)


# -- scripts


def local_script(tag: re.Match, up: str) -> str:
    """The tag of a script of ours in the place of one from elsewhere; `up` leads to the top of the site."""
    for pattern, file in SCRIPTS.items():
        if found := re.fullmatch(pattern, tag[1]):
            return f'<script src="{up}{LIBRARIES}/{found.expand(file)}"></script>' if file else ""
    return tag[0]


def localise(html: str, up: str) -> str:
    """A page that loads its scripts from the site."""
    return SCRIPT.sub(lambda tag: local_script(tag, up), html)


def remote_files(text: str) -> list[str]:
    """What a page or a style sheet would fetch from other hosts."""
    return ["".join(filter(None, found)) for found in REMOTE.findall(text)]


# -- search


def symbols() -> Iterator[dict]:
    """An entry for every public class and function: its page, its name, its first line of documentation."""
    for module, found in INDEX["syms"].items():
        places = {name.removeprefix(f"{module}."): place for name, place in found.items()}
        source = next(iter(places.values()), ("", ""))[1]
        for node in ast.parse((ROOT / source).read_text(encoding="utf-8")).body if source else ():
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_" and node.name in places:
                href, line = places[node.name][0], (ast.get_docstring(node) or "").partition("\n")[0]
                yield dict(objectID=f"symbol:{href}", href=href, title=node.name, section="", text=line)


def is_public(entry: dict) -> bool:
    """Whether a symbol is to be had from `convbert` itself: of two with one name, that is the one to find first."""
    homes = {**convbert._homes, **convbert._extra_homes}
    return homes.get(entry["title"]) == entry["href"].partition(".html")[0].replace("/", ".")


def entries_of(pages: list[dict]) -> list[dict]:
    """The entries of the search: symbols first, then what Quarto found on the pages."""
    found = sorted(symbols(), key=is_public, reverse=True)
    return [*{entry["objectID"]: entry for entry in [*found, *pages]}.values()]


# -- all of it


def finish(site: Path, packages: Path = PACKAGES) -> list[str]:
    """Change the pages of a folder; return what they would still fetch from other hosts."""
    faults = []
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        name, text = path.relative_to(site), path.read_text(encoding="utf-8")
        if path.suffix == ".html":
            text = localise(text, "../" * (len(name.parts) - 1))
            path.write_text(text, encoding="utf-8")
        faults += [f"{name.as_posix()}: {file}" for file in remote_files(text)]
    for folder in FOLDERS:
        copytree(packages / folder, site / LIBRARIES / folder, dirs_exist_ok=True, ignore=LEFT_OUT)
    search = site / "search.json"
    entries = entries_of(json.loads(search.read_text(encoding="utf-8")))
    search.write_text(json.dumps(entries, indent=1, ensure_ascii=False), encoding="utf-8")
    return faults


def main() -> None:
    """Finish the site that is named, or _docs."""
    faults = finish(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "_docs")
    raise SystemExit("\n".join(["Pages need other hosts:", *faults]) if faults else 0)


if __name__ == "__main__":
    main()
