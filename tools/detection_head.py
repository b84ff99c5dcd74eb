"""Train the head that tells replaced tokens on the page about them: python tools/detection_head.py corpus.txt.xz

Generator and encoder are convbert-tiny, and stay as they are; only the head is trained, on what the encoder says of
each token. Some minutes on one thread; the head is written to nbs/visualize/data/detection_head.safetensors.
"""

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from convbert import AutoModelForMaskedLM, AutoTokenizer, ConvBertForPreTraining
from convbert.progress import tqdm
from convbert.training.pretraining.masking import ELECTRA_MASKING, mask_rows
from convbert.training.pretraining.replaced_tokens import ReplacedTokens, corrupt, sample_tokens

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from split_over_training import cut_rows, read_documents  # noqa: E402

HEAD = ROOT / "nbs" / "visualize" / "data" / "detection_head.safetensors"
ROWS, STEPS, HELD_OUT = 16, 2000, 8  # in a batch; of the head's training; batches it is evaluated on


def make_pair() -> ReplacedTokens:
    """Both are convbert-tiny; the discriminator has a head with random weights."""
    generator = AutoModelForMaskedLM.from_pretrained("convbert-tiny")
    discriminator = ConvBertForPreTraining(generator.config)
    discriminator.encoder.load_state_dict(generator.encoder.state_dict())
    return ReplacedTokens(discriminator, generator).eval()


def load_trained_pair() -> ReplacedTokens:
    """The pair of the page, with the head that was written."""
    pair = make_pair()
    pair.discriminator.discriminator.load_state_dict(load_file(HEAD))
    return pair


@torch.no_grad()
def features(pair: ReplacedTokens, ids: Tensor, tokenizer, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What the encoder says of each token of rows `(B, T)`, `(B*T, D)`, and which of them were replaced, `(B*T,)`."""
    batch = mask_rows(ids, ELECTRA_MASKING, tokenizer, generator)
    logits = pair.generator(batch["input_ids"], predict_at=batch["predict_at"], return_dict=True).logits
    made = corrupt(**batch, sampled=sample_tokens(logits))
    encoded = pair.discriminator.encode(made.input_ids).last_hidden_state
    return encoded.flatten(0, 1).half(), made.replaced.flatten().float()


def evaluate(head: torch.nn.Module, x: Tensor, replaced: Tensor) -> str:
    """Precision and recall on tokens that the head was not trained on."""
    said, true = head(x.float()) > 0, replaced == 1
    hits = (said & true).sum().item()
    return f"precision {hits / said.sum().item():.3f}, recall {hits / true.sum().item():.3f}"


def main() -> None:
    """Encode, train the head, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="a text file, perhaps .xz, whose documents empty lines separate")
    parser.add_argument("--batches", type=int, default=160, help="of 16 rows of 128 tokens to encode")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained("convbert-tiny")
    rows = cut_rows(read_documents(options.text), tokenizer, options.batches * ROWS)
    pair, generator = make_pair(), torch.Generator().manual_seed(0)
    batches = tqdm(rows.split(ROWS), desc="encode")
    parts = [features(pair, ids, tokenizer, generator) for ids in batches]
    x, replaced = (torch.cat(each[HELD_OUT:]) for each in zip(*parts, strict=True))
    held_out = [torch.cat(each[:HELD_OUT]) for each in zip(*parts, strict=True)]
    head = pair.discriminator.discriminator.train()
    optimizer = torch.optim.AdamW(head.parameters(), 1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, STEPS)
    for _ in tqdm(range(STEPS), desc="train"):
        some = torch.randint(len(x), (2048,))
        binary_cross_entropy_with_logits(head(x[some].float()), replaced[some]).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    print(f"{len(x):,} tokens; held out: {evaluate(head, *held_out)}")
    HEAD.parent.mkdir(exist_ok=True)
    save_file({name: weight.half() for name, weight in head.state_dict().items()}, HEAD)


if __name__ == "__main__":
    main()
