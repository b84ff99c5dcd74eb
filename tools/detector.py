"""Train the discriminator of the pages about replaced tokens: python tools/detector.py corpus.txt.xz

The generator is convbert-tiny. The discriminator begins with the same weights, and only a few of them are trained, so
that the difference is a small file: the biases and norms of the layers, and the head. Five minutes on one idle thread.
"""

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from convbert import AutoModelForMaskedLM, AutoTokenizer, ConvBertForPreTraining
from convbert.progress import tqdm
from convbert.training.pretraining.masking import ELECTRA_MASKING, mask_rows
from convbert.training.pretraining.replaced_tokens import ReplacedTokens, detection_scores

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from split_over_training import cut_rows, read_documents  # noqa: E402

WEIGHTS = ROOT / "nbs" / "visualize" / "data" / "detector.safetensors"
ROWS, RATE, HELD_OUT = 16, 5e-3, 4  # rows of a batch, largest learning rate, batches to evaluate on


def make_pair() -> ReplacedTokens:
    """Both are convbert-tiny; the discriminator has a head with random weights."""
    generator = AutoModelForMaskedLM.from_pretrained("convbert-tiny")
    discriminator = ConvBertForPreTraining(generator.config)
    discriminator.encoder.load_state_dict(generator.encoder.state_dict())
    return ReplacedTokens(discriminator, generator).eval()


def load_trained_pair() -> ReplacedTokens:
    """The pair of the pages, with the weights that were trained."""
    pair = make_pair()
    pair.discriminator.load_state_dict(load_file(WEIGHTS), strict=False)
    return pair


def choose_weights(discriminator: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that are trained: biases and norms of the layers, and the head."""
    layers = {name: each for name, each in discriminator.named_parameters() if name.startswith("encoder.layers")}
    few = {name: each for name, each in layers.items() if name.endswith("bias") or "norm" in name}
    return few | {f"discriminator.{name}": each for name, each in discriminator.discriminator.named_parameters()}


def main() -> None:
    """Train, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="a text file, perhaps .xz, whose documents empty lines separate")
    parser.add_argument("--steps", type=int, default=240, help="of 16 rows of 128 tokens")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained("convbert-tiny")
    batches = cut_rows(read_documents(options.text), tokenizer, (options.steps + HELD_OUT) * ROWS).split(ROWS)
    masked = [
        mask_rows(ids, ELECTRA_MASKING, tokenizer, torch.Generator().manual_seed(i)) for i, ids in enumerate(batches)
    ]
    pair = make_pair()
    weights = choose_weights(pair.requires_grad_(False).discriminator)
    for weight in weights.values():
        weight.requires_grad_()
    optimizer = torch.optim.AdamW(weights.values(), RATE, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = OneCycleLR(optimizer, RATE, options.steps, pct_start=0.1, anneal_strategy="linear")
    for batch in (bar := tqdm(masked[HELD_OUT:], desc="train")):
        output = pair(**batch)
        output.loss.backward()
        nn.utils.clip_grad_norm_(weights.values(), 50.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        bar.set_postfix(loss=f"{output.detection_loss.item():.3f}")
    scores = detection_scores(pair, masked.__getitem__, HELD_OUT)
    print({name: round(score, 3) for name, score in scores.items()})
    WEIGHTS.parent.mkdir(exist_ok=True)
    save_file({name: weight.detach().half() for name, weight in weights.items()}, WEIGHTS)


if __name__ == "__main__":
    main()
