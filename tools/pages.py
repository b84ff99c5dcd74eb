"""Write the views that pages of the documentation embed, before the site is built: python tools/pages.py."""

import sys
from pathlib import Path

from convbert.visualize.detection_view import replaced_view
from convbert.visualize.explorer import mask_explorer
from convbert.visualize.knockout import knockout_view
from convbert.visualize.views import head_view, split_view

sys.path.insert(0, str(Path(__file__).parent))

from detector import load_trained_pair

PAGES = Path(__file__).parents[1] / "nbs" / "visualize" / "pages"
BANK = "The old bank of the river was steep.", "So the bank refused to pay for a new bridge."
SEA = "The old man sat by the sea and waited for the ship that had taken his son away."
MASK = "He opened the [MASK] and read the letter twice."
SHIP = "The ship sailed across the sea to the old harbour."


def write_pages(folder: Path = PAGES) -> list[Path]:
    """An HTML file for each view, in nbs/visualize/pages or another folder."""
    folder.mkdir(parents=True, exist_ok=True)
    views = {
        "head_view": head_view("convbert-tiny", *BANK, layer=3, attention_head=1, token=14),
        "split_view": split_view("convbert-tiny", SEA),
        "knockout_view": knockout_view("convbert-tiny", MASK),
        "mask_explorer": mask_explorer("convbert-tiny", SHIP, place=7),
        "replaced_view": replaced_view(load_trained_pair(), SEA, seed=1, tokenizer="convbert-tiny"),
    }
    return [Path(view.to_html(folder / f"{name}.html")) for name, view in views.items()]


if __name__ == "__main__":
    write_pages()
