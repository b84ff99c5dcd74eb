"""Draw the pictures of the site from the bundled models, in nbs/images: python tools/picture.py.

heads.svg is the README's as well; those in live/ stand on the pages until a reader starts the live box.
"""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import torch

from convbert import ConvBertForMaskedLM, ConvBertTokenizerFast, pipeline

TEXT = "The old man who sold us the boat has gone to sea."
LAYER, ATTENTION_HEAD, CONV_HEAD = 1, 1, 0
IMAGES = Path(__file__).resolve().parents[1] / "nbs" / "images"
ATTENTION_BLUE = "#1f6f9b"
MASK = "He knocked at the [MASK] and waited for an answer."
REVIEW = "A slow start, and then one of the best films of the year."
FISH = "They can fish, but we can the fish."
QUESTION = "Who built the lighthouse?"
LIGHTHOUSE = (
    "The lighthouse was built in 1854 by a Scottish engineer named Robert Gray, after three ships had been lost on "
    "the rocks in one winter."
)


def band(kernel):
    """Kernels `(T, K)` as a banded `(T, T)` map: row t holds token t's kernel where its window lies."""
    T, K = kernel.shape
    wide = torch.zeros(T, T + K - 1)
    for t in range(T):
        wide[t, t : t + K] = kernel[t]
    return wide[:, K // 2 : K // 2 + T]


def draw(ax, weights, tokens, title):
    """One map with its tokens on both axes."""
    ax.imshow(weights, cmap="Blues", vmin=0)
    ax.set_xticks(range(len(tokens)), tokens, rotation=90)
    ax.set_yticks(range(len(tokens)), tokens)
    ax.tick_params(length=0, labelsize=8)
    ax.set_title(title, fontsize=10)
    ax.spines[:].set_visible(False)


def save(fig, name):
    """Write a figure, the same bytes each time."""
    target = IMAGES / name
    target.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(target, metadata={"Date": None}, facecolor="white")
    plt.close(fig)


def draw_heads():
    """Two heads of the bundled model on one sentence."""
    model = ConvBertForMaskedLM.from_pretrained("convbert-tiny", device="cpu")
    batch = ConvBertTokenizerFast.from_pretrained("convbert-tiny")(TEXT, return_tensors="pt")
    with torch.inference_mode():
        seen = model(**batch, output_attentions=True)
    fig, (far, near) = plt.subplots(1, 2, figsize=(8, 4.1), layout="constrained")
    tokens = batch.tokens(0)
    draw(far, seen.attentions[LAYER][0, ATTENTION_HEAD], tokens, "an attention head looks across the sentence")
    draw(near, band(seen.conv_kernels[LAYER][0, CONV_HEAD]), tokens, "a convolution head mixes neighbours")
    save(fig, "heads.svg")


def draw_scores(name, text, rows):
    """Answers with their scores as bars, under the text that they are about."""
    fig, ax = plt.subplots(figsize=(6, 0.7 + 0.28 * len(rows)), layout="constrained")
    labels, scores = zip(*rows, strict=True)
    bars = ax.barh(range(len(rows)), scores, color=ATTENTION_BLUE)
    ax.bar_label(bars, [f"{score:.0%}" for score in scores], padding=3)
    ax.set_yticks(range(len(rows)), labels)
    ax.set_xlim(0, 1.1)
    ax.set_title(text, fontsize=10, loc="left")
    ax.set_xticks([])
    ax.invert_yaxis()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    save(fig, f"live/{name}.svg")


def draw_tags(name, words):
    """A text with a label under each word."""
    fig, ax = plt.subplots(figsize=(6, 0.7), layout="constrained")
    ax.set(xlim=(-0.5, len(words) - 0.5), ylim=(0, 1))
    for place, word in enumerate(words):
        ax.text(place, 0.6, word["word"], ha="center")
        ax.text(place, 0.15, word["entity"], ha="center", color=ATTENTION_BLUE, fontsize=8)
    ax.axis("off")
    save(fig, f"live/{name}.svg")


def main():
    """Run the bundled models on sentences, and draw."""
    plt.rcParams.update({"svg.hashsalt": "convbert", "font.family": "sans-serif"})
    draw_heads()
    words = pipeline("fill-mask", device="cpu")(MASK)
    draw_scores("fill-mask", MASK, [(row["token_str"], row["score"]) for row in words])
    labels = pipeline("text-classification", device="cpu")(REVIEW, top_k=None)
    draw_scores("sentiment", REVIEW, [(row["label"], row["score"]) for row in labels])
    draw_tags("tagging", pipeline("token-classification", device="cpu")(FISH))
    answers = pipeline("question-answering", device="cpu")(question=QUESTION, context=LIGHTHOUSE, top_k=3)
    draw_scores("question-answering", QUESTION, [(row["answer"], row["score"]) for row in answers])


if __name__ == "__main__":
    main()
