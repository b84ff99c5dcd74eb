"""Draw the README's picture, nbs/images/heads.svg, from the bundled model: python tools/picture.py."""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import torch

from convbert import ConvBertForMaskedLM, ConvBertTokenizerFast

TEXT = "The old man who sold us the boat has gone to sea."
LAYER, ATTENTION_HEAD, CONV_HEAD = 1, 1, 0
TARGET = Path(__file__).resolve().parents[1] / "nbs" / "images" / "heads.svg"


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


def main():
    """Run the bundled model on one sentence and draw two of its heads."""
    model = ConvBertForMaskedLM.from_pretrained("convbert-tiny", device="cpu")
    batch = ConvBertTokenizerFast.from_pretrained("convbert-tiny")(TEXT, return_tensors="pt")
    with torch.inference_mode():
        seen = model(**batch, output_attentions=True)
    plt.rcParams.update({"svg.hashsalt": "convbert", "font.family": "sans-serif"})
    fig, (far, near) = plt.subplots(1, 2, figsize=(8, 4.1), layout="constrained")
    tokens = batch.tokens(0)
    draw(far, seen.attentions[LAYER][0, ATTENTION_HEAD], tokens, "an attention head looks across the sentence")
    draw(near, band(seen.conv_kernels[LAYER][0, CONV_HEAD]), tokens, "a convolution head mixes neighbours")
    TARGET.parent.mkdir(exist_ok=True)
    fig.savefig(TARGET, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
