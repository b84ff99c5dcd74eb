"""How fast text becomes a corpus: `python benchmarks/corpus.py FILE...` beside the tokenizer alone, on the same text.

Both run by turns, several times, and the medians are compared: reading, decompressing, checking and writing are in the
first, the second has its texts in memory. Prints one JSON object.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from convbert import AutoTokenizer
from convbert.training.corpus.documents import Documents
from convbert.training.corpus.tokenization import tokenize_corpus


def seconds(program) -> float:
    """Of one call."""
    began = time.perf_counter()
    program()
    return time.perf_counter() - began


def pieces(texts: list[str], most: int = 2**20) -> list[list[str]]:
    """Texts in lists of about a million characters, as `tokenize_corpus` makes them."""
    found, size = [[]], 0
    for text in texts:
        if size >= most:
            found.append([])
            size = 0
        found[-1].append(text)
        size += len(text)
    return found


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--tokenizer", default="convbert-tiny")
    parser.add_argument("--times", type=int, default=5)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    texts = [text for _, text in Documents(args.files)]
    parts, encode = pieces(texts), tokenizer.backend_tokenizer.encode_batch_fast
    tokens = sum(len(row) for part in parts for row in encode(part, add_special_tokens=False))
    spent = {"corpus": [], "tokenizers": []}
    for _ in range(args.times):
        with tempfile.TemporaryDirectory() as folder:
            spent["corpus"].append(seconds(lambda to=folder: tokenize_corpus(args.files, tokenizer, to)))
        spent["tokenizers"].append(seconds(lambda: [encode(part, add_special_tokens=False) for part in parts]))
    speed = {name: tokens / statistics.median(each) for name, each in spent.items()}
    sizes = {"documents": len(texts), "megabytes": sum(map(len, texts)) / 1e6, "tokens": tokens}
    rates = {f"{name}_tokens_per_second": round(rate) for name, rate in speed.items()}
    print(json.dumps({**sizes, **rates, "ratio": round(speed["corpus"] / speed["tokenizers"], 3)}, indent=1))


if __name__ == "__main__":
    main()
