"""Rows for the task models, made of plain texts: sentences and their parts, questions with gaps, easy choices."""

import json
import lzma
import random
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

NAME = re.compile(r"[A-Z][\w'’-]+(?: (?:of |the |de |van )?[A-Z][\w'’-]+)*")
NUMBER = re.compile(r"\d[\d,.]*\d|\d")
YEAR = re.compile(r"1[0-9]{3}|20[0-2][0-9]")
PREPOSITIONS = ("in", "at", "on", "from", "to", "by", "of", "since", "until", "with", "near", "during", "for", "into")


def read_rows(file: Path) -> list[dict]:
    """The rows of a JSON Lines file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def read_paragraphs(folder: Path, pattern: str, count: int, seed: int = 0) -> list[str]:
    """Random paragraphs of the corpus files that match."""
    lines = []
    for file in sorted(folder.glob(pattern)):
        with lzma.open(file, "rt", encoding="utf-8") as stream:
            lines += [line.strip() for line in stream if len(line) > 60]
    return random.Random(seed).sample(lines, min(count, len(lines)))


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Where each sentence begins and ends."""
    ends = [0, *(m.end() for m in re.finditer(r"(?<=[.!?])\s+", text)), len(text)]
    return [(a, b) for a, b in pairwise(ends) if a < b]


def sentences(paragraphs: list[str], low: int = 5, high: int = 40) -> list[str]:
    """The sentences with so many words."""
    found = (text[begin:end].strip() for text in paragraphs for begin, end in sentence_spans(text))
    return [text for text in found if low <= len(text.split()) <= high]


def words_of(text: str) -> list[str]:
    """Words and punctuation, apart as in treebanks."""
    return re.findall(r"\w+(?:['’-]\w+)*|[^\w\s]", text)


def parts(texts: list[str], count: int, seed: int = 0) -> Iterator[str]:
    """Parts of sentences, at most two thirds of one: phrases have a meaning of their own."""
    rng = random.Random(seed)
    for _ in range(count):
        words = rng.choice(texts).split()
        size = rng.randint(min(3, len(words)), max(3, 2 * len(words) // 3))
        at = rng.randrange(max(1, len(words) - size + 1))
        yield " ".join(words[at : at + size])


def reworded(texts: list[str], others: list[str], count: int, seed: int = 0) -> Iterator[str]:
    """Parts of sentences in which a word or two gave way to words of other texts: one meets more words than one has."""
    rng = random.Random(seed)
    known = Counter(re.findall(r"[a-z][a-z'-]{2,}", " ".join(others)))
    words = sorted(word for word, times in known.items() if times > 2)
    for text in parts(texts, count, seed + 1):
        part = text.split()
        for _ in range(rng.randint(1, 2)):
            part[rng.randrange(len(part))] = rng.choice(words)
        yield " ".join(part)


def crop(row: dict, around: int) -> dict:
    """A question with the sentence that answers it, and so many on both sides."""
    answer, at = row["answers"]["text"][0], row["answers"]["answer_start"][0]
    spans = sentence_spans(row["context"])
    first = next(i for i, (_, end) in enumerate(spans) if end > at)
    last = next(i for i, (_, end) in enumerate(spans) if end >= at + len(answer))
    begin, end = spans[max(0, first - around)][0], spans[min(len(spans) - 1, last + around)][1]
    answers = {"text": [answer], "answer_start": [at - begin]}
    return {"question": row["question"], "context": row["context"][begin:end].rstrip(), "answers": answers}


def question_word(answer: str, left: list[str], right: list[str], rng: random.Random) -> str:
    """How one might ask for it."""
    before = left[-1].lower() if left else ""
    if YEAR.fullmatch(answer):
        return rng.choice(("When", "In what year", "What year"))
    if NUMBER.fullmatch(answer):
        return rng.choice(("How many", "How many", "How much", "What number of"))
    if NAME.fullmatch(answer):
        places = ("Where", "In what place", "What") if before in ("in", "at", "near", "from", "to", "into") else ()
        return rng.choice((*places, "Who", "What", "Which", "What is the name of"))
    return rng.choice(("What", "What", "Which", "How", "What kind of"))


def choose_answer(sentence: str, rng: random.Random) -> tuple[int, int]:
    """Where a name, a number or a few words stand in a sentence."""
    found = [m.span() for m in NAME.finditer(sentence) if m.start()] + [m.span() for m in NUMBER.finditer(sentence)]
    if found and rng.random() < 0.75:
        return rng.choice(found)
    words = [m.span() for m in re.finditer(r"\w[\w'’-]*", sentence)]
    at = rng.randrange(len(words))
    return words[at][0], words[min(len(words) - 1, at + rng.randrange(4))][1]


def ask(sentence: str, low: int, high: int, rng: random.Random) -> str:
    """A question for what stands between two characters, made of the words around it; empty if they are too few."""
    left = re.split(r"[,;:(]", sentence[:low])[-1].split()[-8:]
    right = re.split(r"[,;:().!?]", sentence[high:])[0].split()[:10]
    word = question_word(sentence[low:high], left, right, rng)
    if left and left[-1].lower() in PREPOSITIONS:
        left = left[:-1]
    around = left + right if rng.random() < 0.7 else right + left
    clue = [w for w in around if rng.random() < 0.85]
    return " ".join([word, *clue]).strip(".,;") + "?" if len(clue) > 2 else ""


def gaps(texts: list[str], count: int, around: int = 1, seed: int = 0) -> list[dict]:
    """Questions for words of a sentence, with that sentence and up to so many on both sides."""
    rng, rows = random.Random(seed), []
    while len(rows) < count:
        text = rng.choice(texts)
        spans = sentence_spans(text)
        i = rng.randrange(len(spans))
        begin, end = spans[i]
        if not 6 <= len(text[begin:end].split()) <= 45 or not re.search(r"\w", text[begin:end]):
            continue
        low, high = choose_answer(text[begin:end], rng)
        question, answer = ask(text[begin:end], low, high, rng), text[begin + low : begin + high]
        before, after = rng.randint(0, around), rng.randint(0, around)
        start, stop = spans[max(0, i - before)][0], spans[min(len(spans) - 1, i + after)][1]
        context = text[start:stop].rstrip()
        if question and context.count(answer) == 1 and len(context) < 1000:
            answers = {"text": [answer], "answer_start": [begin + low - start]}
            rows.append({"question": question, "context": context, "answers": answers})
    return rows


def word_matches(texts: list[str], count: int, longest: int = 12, asked: float = 0.0, seed: int = 0) -> Iterator[dict]:
    """Which of these words stood in that window of a text? To choose an answer, a model must be able to see this."""
    rng = random.Random(longest + seed)
    words_in = [text.split() for text in texts]

    def window(size: int) -> list[str]:
        words = rng.choice(words_in)
        at = rng.randrange(max(1, len(words) - size + 1))
        return words[at : at + size]

    def some(words: list[str]) -> str:
        size = rng.choice((1, 1, 2, 3))
        at = rng.randrange(max(1, len(words) - size + 1))
        return " ".join(words[at : at + size]).strip(".,;:()\"'?").lower()

    while count:
        words = window(rng.randint(8, longest))
        seen, right = {word.strip(".,;:()\"'?").lower() for word in words}, some(words)
        wrong = [some(window(8)) for _ in range(3)]
        if not right or any(set(text.split()) <= seen for text in wrong):
            continue
        count -= 1
        options = rng.sample([right, *wrong], 4)
        question = ""
        if rng.random() < asked:  # words that are not to be looked at, some of which stood there
            question = " ".join(["What", *window(4), *rng.sample(words, 3)]).lower() + "?"
        yield {"context": " ".join(words), "question": question, "choices": options, "label": options.index(right)}
