"""Write the small data sets of the tutorials: python tools/tutorial_data.py DATA.

DATA holds `corpus/openstax.txt.xz`, its README with the books' sizes, and `tasks/`. What is taken, and under which
licence, is told in nbs/tutorials/data/README.md.
"""

import argparse
import json
import lzma
import random
import re
from pathlib import Path

OUT = Path(__file__).parent.parent / "nbs" / "tutorials" / "data"

SUBJECTS = {
    "american-government": "government",
    "anatomy-physiology": "anatomy",
    "chemistry-bundle": "chemistry",
    "college-physics-bundle": "physics",
    "introduction-anthropology": "anthropology",
    "introduction-philosophy": "philosophy",
    "introduction-sociology": "sociology",
    "microbiology": "microbiology",
    "principles-economics-bundle": "economics",
    "principles-marketing": "marketing",
    "psychology": "psychology",
    "us-history": "history",
}


def read_books(data: Path) -> dict[str, list[str]]:
    """The documents of each textbook; the corpus has them in the order of its table."""
    table = re.findall(
        r"\| `openstax` \| openstax/osbooks-([\w-]+) \|.*?\| CC BY 4.0 \| ([\d,]+) \|", (data / "README.md").read_text()
    )
    with lzma.open(data / "corpus" / "openstax.txt.xz", "rt", encoding="utf-8") as file:
        documents = iter(file.read().split("\n\n"))
    return {book: [next(documents) for _ in range(int(count))] for book, count in table}


def excerpts(document: str) -> list[str]:
    """Runs of whole sentences of 120 to 260 characters, at most one a paragraph."""
    found = []
    for paragraph in document.splitlines():
        text = ""
        for sentence in re.split(r"(?<=[.?!]) ", paragraph):
            if len(text) >= 120:
                break
            text = f"{text} {sentence}".strip()
        if 120 <= len(text) <= 260:
            found.append(text)
    return found


def subjects(data: Path, rng: random.Random) -> dict[str, list[dict]]:
    """Excerpts with their subject; no chapter gives to both parts."""
    parts = {"train": [], "dev": []}
    for book, documents in read_books(data).items():
        if book not in SUBJECTS:
            continue
        rng.shuffle(documents)
        cut = len(documents) * 4 // 5
        for part, chosen, size in (("train", documents[:cut], 160), ("dev", documents[cut:], 40)):
            texts = sorted({text for document in chosen for text in excerpts(document)})
            parts[part] += [{"text": text, "label": SUBJECTS[book]} for text in rng.sample(texts, size)]
    for rows in parts.values():
        rng.shuffle(rows)
    return parts


def read_rows(path: Path) -> list[dict]:
    """The rows of a JSON Lines file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def tagged_lines(path: Path, count: int) -> list[str]:
    """Sentences of at least three words as `word/TAG word/TAG`."""
    rows = [row for row in read_rows(path) if len(row["tokens"]) > 2][:count]
    return [" ".join(f"{word}/{tag}" for word, tag in zip(row["tokens"], row["tags"], strict=True)) for row in rows]


def paragraphs(path: Path, count: int) -> list[dict]:
    """Paragraphs, each with its questions, as SQuAD's own files nest them."""
    nested = {}
    for row in read_rows(path):
        question = {"question": row["question"], "answer": row["answers"]["text"][0]}
        nested.setdefault(row["context"], []).append(question | {"start": row["answers"]["answer_start"][0]})
    return [{"context": context, "qas": qas} for context, qas in list(nested.items())[:count]]


def write(name: str, lines: list) -> None:
    """A file of one line each; dictionaries become JSON."""
    text = "".join((line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)) + "\n" for line in lines)
    (OUT / name).write_text(text, encoding="utf-8")
    print(f"{name}: {len(lines):,} lines, {len(text.encode()):,} bytes")


def main() -> None:
    """Write all files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    OUT.mkdir(parents=True, exist_ok=True)
    for part, rows in subjects(data, random.Random(0)).items():
        write(f"subjects-{part}.jsonl", rows)
    tasks = data / "tasks"
    for part, count in {"train": 4000, "dev": 500}.items():
        write(f"tagged-{part}.txt", tagged_lines(tasks / "ewt_pos" / f"{part}.jsonl", count))
    write("questions-train.jsonl", paragraphs(tasks / "squad" / "train-0.jsonl", 500))
    write("questions-dev.jsonl", paragraphs(tasks / "squad" / "dev.jsonl", 60))
    for part in ("train", "dev"):
        write(f"facts-{part}.jsonl", read_rows(tasks / "qasc" / f"{part}.jsonl"))


if __name__ == "__main__":
    main()
