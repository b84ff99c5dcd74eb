"""Requests per second of the endpoint on the page "Serve and scale", with its queue and with batches of one.

    python benchmarks/serve.py [--requests 1000] [--connections 64] [--rounds 3]

The app is taken from the page. It runs in a process of its own, and the clients share the machine with it.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "nbs" / "tutorials" / "serve_and_scale.ipynb"
COMMAND = "uvicorn app:app --port 8000"  # as it stands on the page
WORDS = "a quiet film about the sea , and about those who wait for it ; nobody speaks , and nothing is missing".split()


def cells(kind: str) -> list[str]:
    """The page's cells of a kind, "code" or "markdown"."""
    found = json.loads(PAGE.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def app_source() -> str:
    """The contents of `app.py` on the page."""
    return "\n\n".join(cell for cell in cells("code") if "# app.py\n" in cell)


@contextmanager
def serving(folder: Path, command: str, source: str):
    """The URL of an app that a command serves, on a port that is free."""
    (folder / "app.py").write_text(source, encoding="utf-8")
    port = [] if "--port 8000" in command else ["--bind", "127.0.0.1:0"]
    words = [sys.executable, "-m", *shlex.split(command.replace("--port 8000", "--port 0")), *port]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    with subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        try:
            lines = []
            for line in server.stderr:
                lines.append(line)
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    break
            else:
                raise RuntimeError(f"{command} did not start:\n{''.join(lines[-20:])}")
            yield found[0]
        finally:
            server.terminate()
            server.communicate()


def ask_all(url: str, texts: list[str], connections: int) -> tuple[list[dict], float]:
    """The responses to texts, over a number of connections at a time, and the seconds taken."""
    left, answers = iter(list(enumerate(texts))), [{}] * len(texts)

    def client(_) -> None:
        http = HTTPConnection(url.removeprefix("http://"), timeout=300)
        for place, text in left:
            body = json.dumps({"inputs": text})
            http.request("POST", "/classify", body, {"Content-Type": "application/json"})
            answers[place] = json.loads(http.getresponse().read())
        http.close()

    began = time.perf_counter()
    with ThreadPoolExecutor(connections) as clients:
        list(clients.map(client, range(connections)))
    return answers, time.perf_counter() - began


def measure(source: str, requests: int, connections: int) -> float:
    """Requests per second, after a warm-up of a hundred."""
    texts = [" ".join(WORDS[i % 7 :: 1 + i % 3]) + f" {i}" for i in range(requests)]
    with TemporaryDirectory() as folder, serving(Path(folder), COMMAND, source) as url:
        ask_all(url, texts[:100], connections)
        answers, seconds = ask_all(url, texts, connections)
    assert all(answer["label"] for answer in answers)
    return requests / seconds


def main() -> None:
    """Measure both in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    assert COMMAND in "\n".join(cells("markdown")), "the page starts its app in another way"
    queue = app_source()
    alone = re.sub(r"MOST, WAITING = \d+", "MOST, WAITING = 1", queue)
    assert alone != queue
    variants, rates = {"with the queue": queue, "batches of one": alone}, {}
    for _ in range(args.rounds):
        for name, source in variants.items():
            rates.setdefault(name, []).append(measure(source, args.requests, args.connections))
    for name, found in rates.items():
        print(f"{name}: {median(found):.0f} requests per second ({args.connections} connections)")
    many, one = rates.values()
    print(f"ratio: {median(a / b for a, b in zip(many, one, strict=True)):.2f}")


if __name__ == "__main__":
    main()
