"""Write the views that pages of the documentation embed, before the site is built: python tools/pages.py."""

from pathlib import Path

import torch

from convbert import AutoTokenizer, ConvBertConfig
from convbert.training.pretraining.masking import ELECTRA_MASKING, mask_rows
from convbert.training.pretraining.replaced_tokens import ReplacedTokens
from convbert.visualize.detection_view import replaced_view
from convbert.visualize.explorer import mask_explorer
from convbert.visualize.knockout import knockout_view
from convbert.visualize.views import head_view, split_view

PAGES = Path(__file__).parents[1] / "nbs" / "visualize" / "pages"
BANK = "The old bank of the river was steep.", "So the bank refused to pay for a new bridge."
SEA = "The old man sat by the sea and waited for the ship that had taken his son away."
MASK = "He opened the [MASK] and read the letter twice."
SHIP = "The ship sailed across the sea to the old harbour."

SENTENCES = [  # what the pair of replaced_view is trained on
    SEA,
    "The ship sailed across the sea to the old harbour.",
    "He opened the letter by the window and read it twice.",
    "The king lost the war, and his son left the town.",
    "She took the boat to the town and sold her old books.",
]


def train_pair(steps: int = 100) -> ReplacedTokens:
    """A small generator and discriminator that know a few sentences, as on the page about them."""
    tokenizer = AutoTokenizer.from_pretrained("convbert-tiny")
    rows = {name: torch.tensor(row) for name, row in tokenizer(SENTENCES, padding=True).items()}
    sizes = dict(hidden_size=64, intermediate_size=128, embedding_size=32, num_hidden_layers=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pair, generator = (
            ReplacedTokens.from_config(ConvBertConfig.preset("tiny", **sizes), width=0.5),
            torch.Generator(),
        )
        optimizer = torch.optim.AdamW(pair.parameters(), 3e-3)
        for _ in range(steps):
            masked = mask_rows(rows["input_ids"], ELECTRA_MASKING, tokenizer, generator)
            pair(**masked, attention_mask=rows["attention_mask"]).loss.backward()
            torch.nn.utils.clip_grad_norm_(pair.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return pair


def write_pages(folder: Path = PAGES) -> list[Path]:
    """An HTML file for each view, in nbs/visualize/pages or another folder."""
    folder.mkdir(parents=True, exist_ok=True)
    views = {
        "head_view": head_view("convbert-tiny", *BANK, layer=3, attention_head=1, token=14),
        "split_view": split_view("convbert-tiny", SEA),
        "knockout_view": knockout_view("convbert-tiny", MASK),
        "mask_explorer": mask_explorer("convbert-tiny", SHIP, place=7),
        "replaced_view": replaced_view(train_pair(), SEA, seed=1, tokenizer="convbert-tiny"),
    }
    return [Path(view.to_html(folder / f"{name}.html")) for name, view in views.items()]


if __name__ == "__main__":
    write_pages()
