"""How the heads of a small ConvBERT change while it is trained: the numbers behind a page of the documentation.

    python benchmarks/split_over_training.py corpus.txt.xz --folder runs/split --out numbers.json

The model is trained on masked words, on one thread; its weights are kept at step 0 and at powers of two, each in a
folder of its own, and profiled on documents that it was not trained on.
"""

import argparse
import lzma
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from convbert import AutoTokenizer, ConvBertConfig, ConvBertForMaskedLM
from convbert.progress import tqdm
from convbert.training.pretraining.masking import BERT_MASKING, mask_rows
from convbert.visualize.training_history import split_over_training

STEPS, ROWS, LENGTH, RATE, WARMUP = 1024, 8, 128, 1e-3, 100
SIZES = dict(hidden_size=128, embedding_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=8)
NO_DROPOUT = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
HELD_OUT, CHARACTERS = 40, 400  # documents, and how much of each


def read_documents(file: Path) -> list[str]:
    """Documents of a text, which empty lines separate."""
    text = (lzma.open if file.suffix == ".xz" else open)(file, "rt", encoding="utf-8").read()
    return [part for part in text.split("\n\n") if len(part) > CHARACTERS]


def cut_rows(documents: list[str], tokenizer, count: int) -> Tensor:
    """So many rows `(N, T)`, each begun by `[CLS]` and ended by `[SEP]`."""
    ids, needed = [], count * (LENGTH - 2)
    for document in documents:
        ids += tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"] + [tokenizer.sep_token_id]
        if len(ids) >= needed:
            break
    if len(ids) < needed:
        raise SystemExit(f"the text has {len(ids)} tokens, and the training needs {needed}: add text")
    rows = torch.tensor(ids[:needed]).view(-1, LENGTH - 2)
    ends = [torch.full((len(rows), 1), number) for number in (tokenizer.cls_token_id, tokenizer.sep_token_id)]
    rows = torch.cat([ends[0], rows, ends[1]], 1)
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]


def train(model: ConvBertForMaskedLM, rows: Tensor, tokenizer, folder: Path) -> list[tuple[int, Path]]:
    """Train, and keep the weights at step 0 and at powers of two: pairs of step and folder."""
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = LambdaLR(optimizer, lambda step: min(1, (step + 1) / WARMUP))
    generator, kept = torch.Generator().manual_seed(0), []

    def keep(step: int) -> None:
        """Save the weights."""
        kept.append((step, folder / f"step-{step}"))
        model.save_pretrained(kept[-1][1])
        tokenizer.save_pretrained(kept[-1][1])

    keep(0)
    bar = tqdm(rows.split(ROWS), desc="train")
    for step, ids in enumerate(bar, 1):
        loss = model(**mask_rows(ids, BERT_MASKING, tokenizer, generator)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")
        if step & (step - 1) == 0:
            keep(step)
    return kept


def main() -> None:
    """Train, profile, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="a text file, perhaps .xz, whose documents empty lines separate")
    parser.add_argument("--folder", type=Path, required=True, help="where the weights are kept")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file with the numbers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained("convbert-tiny")
    documents = read_documents(options.text)
    held_out = [text[:CHARACTERS] for text in islice(documents, 0, None, len(documents) // HELD_OUT)][:HELD_OUT]
    rest = [text for i, text in enumerate(documents) if i % (len(documents) // HELD_OUT)]
    torch.manual_seed(0)
    config = ConvBertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **SIZES, **NO_DROPOUT)
    kept = train(ConvBertForMaskedLM(config), cut_rows(rest, tokenizer, STEPS * ROWS), tokenizer, options.folder)
    options.out.write_text(split_over_training(kept, held_out).to_json() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
