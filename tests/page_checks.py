"""What a browser tells of a page: what is too wide, too faint or without words, and what it asks of others."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PHONE = {"width": 420, "height": 900}
CONTRAST = 4.5  # WCAG 2, level AA, for text

# The elements that make a page wider than the window: those outside every box that scrolls.
TOO_WIDE = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const boxed = (e) => getComputedStyle(e).overflowX !== "visible";
  const scrolls = (e) => e !== document.body && (boxed(e) || scrolls(e.parentElement));
  const wide = [...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > width + 1);
  const named = wide.filter((e) => !scrolls(e.parentElement)).map((e) => `${e.tagName}: ${e.textContent.slice(0, 60)}`);
  return [`${document.documentElement.scrollWidth} px`, ...named.slice(0, 5)];
}"""

# Texts whose colour, all layers of background and opacity taken together, has too little contrast.
TOO_FAINT = """(least) => {
  const channel = (x) => (x / 255 <= 0.03928 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4);
  const light = (c) => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const parse = (text) => { const c = text.match(/[\\d.]+/g).map(Number); return c.length < 4 ? [...c, 1] : c; };
  const over = (top, alpha, below) => below.map((x, i) => top[i] * alpha + x * (1 - alpha));
  const paper = (e) => {
    const own = parse(getComputedStyle(e).backgroundColor);
    const below = () => (e.parentElement ? paper(e.parentElement) : [255, 255, 255]);
    return own[3] === 1 ? own.slice(0, 3) : over(own, own[3], below());
  };
  const opacity = (e) => (e ? Number(getComputedStyle(e).opacity) * opacity(e.parentElement) : 1);
  const faint = new Set(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), e = walker.currentNode.parentElement;
    if (!text || e.closest("script, style, mjx-container, svg") || !e.getClientRects().length) continue;
    const color = parse(getComputedStyle(e).color), below = paper(e);
    const lights = [light(over(color, color[3] * opacity(e), below)), light(below)].map((x) => x + 0.05);
    const contrast = Math.max(...lights) / Math.min(...lights);
    if (contrast < least) faint.add(`${e.tagName}.${e.className}, ${contrast.toFixed(2)}: ${text.slice(0, 40)}`);
  }
  return [...faint];
}"""

UNNAMED = """() => [...document.querySelectorAll("main img, main iframe")]
  .filter((e) => !(e.alt || e.title || "").trim()).map((e) => e.src.slice(0, 80))"""


class Quiet(SimpleHTTPRequestHandler):
    """A handler that does not tell of every request."""

    def log_message(self, *args) -> None:
        """Say nothing."""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a static server on a folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


def faults_of(context, address: str, name: str) -> list[str]:
    """All that is wrong with a page, a line each; `context` is a browser's."""
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address + name)
    found = [f"too wide: {what}" for what in page.evaluate(TOO_WIDE)]
    for scheme in ("light", "dark"):
        page.evaluate(f"show('{scheme}')")
        found += [f"too faint ({scheme}): {what}" for what in page.evaluate(TOO_FAINT, CONTRAST)]
    found += [f"no alternative text: {what}" for what in page.evaluate(UNNAMED)]
    found += [f"console: {what}" for what in said]
    found += [f"remote: {url}" for url in asked if not url.startswith((address, "data:", "blob:"))]
    page.close()
    return [f"{name}: {what}" for what in found]
