"""Make the views on the documentation's pages anew, after any change of their scripts: python tools/pages.py."""

from pathlib import Path

from convbert.visualize.explorer import mask_explorer
from convbert.visualize.knockout import knockout_view
from convbert.visualize.views import head_view, split_view

PAGES = Path(__file__).parents[1] / "nbs" / "visualize" / "pages"
BANK = "The old bank of the river was steep.", "So the bank refused to pay for a new bridge."
SEA = "The old man sat by the sea and waited for the ship that had taken his son away."
MASK = "He opened the [MASK] and read the letter twice."
SHIP = "The ship sailed across the sea to the old harbour."

if __name__ == "__main__":
    head_view("convbert-tiny", *BANK, layer=3, attention_head=1, token=14).to_html(PAGES / "head_view.html")
    split_view("convbert-tiny", SEA).to_html(PAGES / "split_view.html")
    knockout_view("convbert-tiny", MASK).to_html(PAGES / "knockout_view.html")
    mask_explorer("convbert-tiny", SHIP, place=7).to_html(PAGES / "mask_explorer.html")
