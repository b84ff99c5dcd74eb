"""Masked words of single sentences, as fill-mask is used: `python benchmarks/fill_mask.py TEXT [MODEL...]`.

One word of each sentence is hidden. Small models like to repeat a word that stands elsewhere in the sentence, which is
seldom right, so beside the share of right guesses this prints how many guesses repeat one, and how many should. One
JSON object for each model.
"""

import argparse
import json
import random
import re
from pathlib import Path

from convbert import pipeline

SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
WORD = re.compile(r"[a-z]+")


def hide_words(text: str, vocabulary: dict[str, int], count: int) -> list[tuple[str, str]]:
    """Sentences of 6 to 25 words with one word hidden, and that word: four letters or more, and one token."""
    rng, found = random.Random(0), []
    sentences = [each.strip() for line in text.splitlines() for each in SENTENCE.split(line)]
    for sentence in rng.sample(sentences, len(sentences)):
        words = [m for m in re.finditer(r"[A-Za-z]{4,}", sentence) if m[0].lower() in vocabulary]
        if 6 <= len(sentence.split()) <= 25 and words:
            word = rng.choice(words)
            found.append((f"{sentence[: word.start()]}[MASK]{sentence[word.end() :]}", word[0].lower()))
    return found[:count]


def score(name: str, text: str, count: int) -> dict[str, float]:
    """Shares of right guesses, and of guesses and hidden words that stand elsewhere in the sentence."""
    fill_mask = pipeline("fill-mask", name)
    asked = hide_words(text, fill_mask.tokenizer.get_vocab(), count)
    guesses = [[guess["token_str"] for guess in guesses] for guesses in fill_mask([text for text, _ in asked])]
    others = [set(WORD.findall(text.replace("[MASK]", " ").lower())) for text, _ in asked]
    rows = list(zip(guesses, (word for _, word in asked), others, strict=True))
    shares = {
        "top1": sum(guess[0] == word for guess, word, _ in rows),
        "top5": sum(word in guess[:5] for guess, word, _ in rows),
        "guesses that repeat": sum(guess[0] in other for guess, _, other in rows),
        "words that repeat": sum(word in other for _, word, other in rows),
    }
    return {"sentences": len(rows), **{key: round(value / len(rows), 3) for key, value in shares.items()}}


def main() -> None:
    """A line for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("models", nargs="*", default=["convbert-tiny"])
    parser.add_argument("--sentences", type=int, default=1000)
    args = parser.parse_args()
    text = args.text.read_text(encoding="utf-8")
    for name in args.models:
        print(name, json.dumps(score(name, text, args.sentences)), flush=True)


if __name__ == "__main__":
    main()
