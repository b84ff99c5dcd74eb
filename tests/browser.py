"""What tests and benchmarks of the views share: a browser, and a view of a model of real size."""

import os
import shutil

import torch

from convbert import ConvBertConfig, ConvBertModel
from convbert.tokenizers.classes import ConvBertTokenizerFast

QUIET = "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"


def find_chromium() -> str | None:
    """`$CHROMIUM`, or the system's."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


def random_view(kind, heads: int, tokens: int, sharpness: float):
    """A base-sized model with random weights on a text of so many tokens; `sharpness` makes its maps less even."""
    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    config = ConvBertConfig(
        vocab_size=len(tokenizer), embedding_size=128, hidden_size=768, num_hidden_layers=12, num_attention_heads=heads,
        intermediate_size=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = ConvBertModel(config)
    with torch.no_grad():
        for layer in model.encoder.layers:
            layer.mixer.qkv_proj.weight *= sharpness
            layer.mixer.kernel_proj.weight *= sharpness
    words = ("the old man sat by the sea and thought of his ship " * tokens).split()
    words = [word for word in words if len(tokenizer.tokenize(word)) == 1][: tokens - 2]
    view = kind(model, " ".join(words), tokenizer=tokenizer)
    assert len(view.tokens) == tokens
    return view
