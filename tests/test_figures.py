"""The figures: they show what was computed, nothing overlaps, and all can be read on white and on dark paper."""

import gc
import io
import pickle
import re
import subprocess
import sys
import warnings
from itertools import combinations

import pytest

matplotlib = pytest.importorskip("matplotlib", reason="the figures are drawn with matplotlib")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from conftest import ROOT  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.collections import PathCollection, PolyCollection  # noqa: E402
from matplotlib.colors import to_hex, to_rgb  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.style import context as style_context  # noqa: E402
from matplotlib.text import Text  # noqa: E402
from torch.testing import assert_close  # noqa: E402

from convbert.visualize.detection import Detection, plot_replaced  # noqa: E402
from convbert.visualize.encoded_text import EncodedText  # noqa: E402
from convbert.visualize.figures import (  # noqa: E402
    plot_heads,
    plot_maps,
    plot_profile,
    plot_share,
    plot_token,
    token_sources,
)
from convbert.visualize.head_contributions import HeadSplit, Profile, head_split, kernel_to_band  # noqa: E402
from convbert.visualize.style import DARK, LIGHT, contrast, palette_of  # noqa: E402
from convbert.visualize.training_history import SplitHistory, plot_split_over_training  # noqa: E402

TEXT = "The old bank of the river was steep, so the bank refused to pay for a new bridge."
PAPERS = {"white": LIGHT, "#14181f": DARK}
WORDS = "[CLS] internationalisation ##s , . a $5 ##ed it\\u [MASK] שלום مرحبا café of the x_1^2 & % # ~ ` ' I".split()


def make_split(T: int, L: int = 4, A: int = 4, C: int = 4, K: int = 9, pair: bool = False) -> HeadSplit:
    """A split with random numbers and awkward tokens."""
    generator = torch.Generator().manual_seed(T)
    looks = [torch.randn(A, T, T, generator=generator).mul(2).softmax(-1) for _ in range(L)]
    kernels = [torch.randn(C, T, K, generator=generator).softmax(-1) for _ in range(L)]
    tokens = [WORDS[i % len(WORDS)] for i in range(T)]
    segments = [int(pair and i >= T // 2) for i in range(T)]
    norms = [9 * torch.rand(L, heads, T, generator=generator) for heads in (A, C)]
    return HeadSplit(tokens, tokens, segments, [False] * T, looks, kernels, *norms)


def make_profile(L: int = 4, A: int = 4, C: int = 4) -> Profile:
    """A profile with random numbers."""
    generator = torch.Generator().manual_seed(L)
    shares = torch.rand(L, A + C, generator=generator) + 0.05
    far, near = (shares / shares.sum(1, keepdim=True)).split([A, C], 1)
    rand = [torch.rand(L, heads, generator=generator) for heads in (A, A, C, C)]
    centre = rand[3] * 4 - 2
    return Profile(far, near, rand[0] * 30, rand[1] * 5, rand[2] * 3, centre.abs() + 0.5, centre, tokens=100)


def make_detection(T: int) -> Detection:
    """A text of which every fifth token is masked, judged at random."""
    chance = torch.rand(T, generator=torch.Generator().manual_seed(T)).tolist()
    masked = list(range(1, T - 1, 5))
    sampled = [WORDS[(i + 3) % len(WORDS)] for i in masked]
    replaced = [i in masked and i % 2 == 0 for i in range(T)]
    tokens = [WORDS[i % len(WORDS)] for i in range(T)]
    encoded = EncodedText([0] * T, tokens, tokens, [0] * T, [i in (0, T - 1) for i in range(T)])
    return Detection(encoded, masked, sampled, chance[: len(masked)], chance[: len(masked)], replaced, chance)


def make_history(*shape: int, steps: tuple[int, ...] = (0, 1, 2, 4, 8, 512)) -> SplitHistory:
    """Random profiles at several steps."""
    return SplitHistory(list(steps), [make_profile(*shape) for _ in steps])


FIGURES = {
    "share": plot_share,
    "heads": lambda split, **options: plot_heads(split, 1, **options),
    "maps": lambda split, **options: plot_maps(split, 1, **options),
    "maps of heads": lambda split, **options: plot_maps(split, 1, 0, 0, **options),
    "token": lambda split, **options: plot_token(split, 1, len(split.tokens) // 2, **options),
}


@pytest.fixture(scope="module")
def split():
    return head_split("convbert-tiny", TEXT)


def labels(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def rectangles(ax) -> list[list[np.ndarray]]:
    """The corners of all bars, collection by collection."""
    stacks = [c for c in ax.collections if isinstance(c, PolyCollection)]
    return [[path.vertices[:4] for path in stack.get_paths()] for stack in stacks]


# -- numbers


def test_share_map_shows_the_shares(split):
    figure = plot_share(split)
    ax = figure.axes[0]
    (image,) = ax.images
    assert_close(torch.tensor(np.asarray(image.get_array())), split.attention_share)
    assert image.get_clim() == (0, 1)
    written = {text.get_position(): text.get_text() for text in ax.texts}
    for layer, row in enumerate(split.attention_share.tolist()):
        for token, share in enumerate(row):
            assert written[token, layer] == f"{100 * share:.0f}"
    assert labels(ax.yaxis) == ["0", "1", "2", "3"]
    assert ax.get_title(loc="left").endswith("in per cent")
    top, bottom = ax.get_ylim()[::-1]
    assert top < bottom, "layer 0 is on top, as in the widgets"


def test_share_map_of_a_long_text_has_no_numbers():
    ax = plot_share(make_split(60)).axes[0]
    assert not ax.texts and "per cent" not in ax.get_title(loc="left")


def test_share_map_is_centred_at_one_half(split):
    figure = plot_share(split)
    colours, look = figure.axes[0].images[0].cmap, palette_of(figure)
    assert [to_hex(colours(x)) for x in (0.0, 1.0)] == [look.conv, look.attention]
    assert np.allclose(colours(0.5)[:3], to_rgb(look.background), atol=0.01)


def test_share_map_says_what_shades_mean(split):
    texts = {text.get_text() for text in plot_share(split).findobj(Text)}
    assert {"all convolution", "half and half", "all attention"} <= texts


@pytest.mark.parametrize("layer", range(4))
def test_heads_map_shows_the_norms(split, layer):
    ax = plot_heads(split, layer).axes[0]
    far, near = ax.images
    assert_close(torch.tensor(np.asarray(far.get_array())), split.attention_norm[layer])
    assert_close(torch.tensor(np.asarray(near.get_array())), split.conv_norm[layer])
    assert (
        far.get_clim() == near.get_clim() == (0, max(split.attention_norm[layer].max(), split.conv_norm[layer].max()))
    )
    rows = dict(zip(labels(ax.yaxis), ax.get_yticks(), strict=True))
    assert list(rows) == [f"{kind} {head}" for kind in ("attention", "convolution") for head in range(4)]
    for kind, image in (("attention", far), ("convolution", near)):
        left, right, bottom, top = image.get_extent()
        assert (top, bottom) == (rows[f"{kind} 0"] - 0.5, rows[f"{kind} 3"] + 0.5), "each name is at its row"
        assert (left, right) == (-0.5, len(split.tokens) - 0.5)


@pytest.mark.parametrize("heads", [(None, None), (0, 3), (2, None)])
def test_maps_show_the_weights(split, heads):
    figure = plot_maps(split, 3, *heads)
    expected = split.attention[3], kernel_to_band(split.conv_kernel[3])
    for ax, weights, head in zip(figure.axes[:2], expected, heads, strict=True):
        (image,) = ax.images
        shown = weights.mean(0) if head is None else weights[head]
        assert_close(torch.tensor(np.asarray(image.get_array())), shown)
        assert ("mean of 4 heads" if head is None else f"head {head}") in ax.get_title(loc="left")
        assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first token is on top"


@pytest.mark.parametrize("layer, token", [(3, 13), (0, 0), (1, 22)])
def test_token_figure_shows_weights_times_work(split, layer, token):
    figure = plot_token(split, layer, token)
    ax = figure.axes[0]
    work = split.attention_norm[layer, :, token].sum() + split.conv_norm[layer, :, token].sum()
    expected = [split.attention[layer][h, token] * split.attention_norm[layer, h, token] / work for h in range(4)]
    for h in range(4):
        row = kernel_to_band(split.conv_kernel[layer][h])[token]
        expected.append(row * split.conv_norm[layer, h, token] / work)
    stacks = rectangles(ax)
    assert len(stacks) == 8
    ends = np.zeros((2, len(split.tokens)))
    for number, (stack, parts) in enumerate(zip(stacks, expected, strict=True)):
        kind, sign = divmod(number, 4)[0], 1 if number < 4 else -1
        for i, (corners, part) in enumerate(zip(stack, parts.tolist(), strict=True)):
            assert corners[:, 0].mean() == pytest.approx(i, abs=1e-5)
            low, high = corners[0, 1], corners[1, 1]
            assert low == pytest.approx(ends[kind, i], abs=1e-6), "each head stands on the one before"
            assert high - low == pytest.approx(sign * part, abs=1e-6)
            ends[kind, i] = high
    share = split.attention_share[layer, token].item()
    assert ends[0].sum() == pytest.approx(share, abs=1e-4)
    said = " ".join(text.get_text() for text in ax.texts)
    assert f"attention\n{100 * share:.0f} % of the work" in said
    low, high = ax.get_ylim()
    assert low <= ends.min() and ends.max() <= high, "no bar leaves the picture"


def test_parts_of_a_token_away_from_the_ends_add_up_to_all_of_it(split):
    for token in range(4, len(split.tokens) - 4):
        far, near = token_sources(split, 2, token)
        assert (far.sum() + near.sum()).item() == pytest.approx(1, abs=1e-4)
        assert far.sum().item() == pytest.approx(split.attention_share[2, token].item(), abs=1e-4)


@pytest.mark.parametrize("L, A, C", [(4, 4, 4), (12, 6, 6), (2, 3, 0), (1, 1, 1)])
def test_profile_shows_its_numbers(L, A, C):
    seen = make_profile(L, A, C)
    axes = plot_profile(seen).axes
    assert len(axes) == (4 if C else 3)
    shares = torch.cat([seen.attention_share, seen.conv_share], 1)
    shares, starts = shares.tolist(), (shares.cumsum(1) - shares).tolist()
    bars = [[(b.get_x(), b.get_width(), b.get_y() + b.get_height() / 2) for b in c] for c in axes[0].containers]
    assert len(bars) == A + C
    for head, stack in enumerate(bars):
        for layer, bar in enumerate(stack):
            assert bar == pytest.approx((starts[layer][head], shares[layer][head], layer), abs=1e-5)
    dots = [[c.get_offsets() for c in ax.collections if isinstance(c, PathCollection)] for ax in axes[1:]]
    expected = [[seen.distance], [seen.attention_entropy, seen.conv_entropy], [seen.centre]]
    for found, numbers, ax in zip(dots, expected, axes[1:], strict=False):
        for offsets, values in zip(found, (v for v in numbers if v.numel()), strict=True):
            assert np.allclose(offsets[:, 0], values.flatten(), atol=1e-6)
            rows = np.repeat(np.arange(L), values.shape[1])
            assert (np.abs(offsets[:, 1] - rows) < 0.5).all(), "each dot is in its layer's row"
            low, high = ax.get_xlim()
            assert low <= offsets[:, 0].min() and offsets[:, 0].max() <= high
    assert axes[0].get_ylim()[0] > axes[0].get_ylim()[1]


@pytest.mark.parametrize("name", ["share", "heads", "maps"])
def test_each_cell_is_painted_where_its_names_are(name, split):
    """In the picture itself: the colour at the place of a token and a layer, a head or another token."""
    figure = FIGURES[name](split)
    pixels = np.asarray(draw_pixels(figure))[..., :3] / 255
    for ax in figure.axes:
        for image in ax.images:
            numbers, (left, _, _, top) = np.asarray(image.get_array()), image.get_extent()
            for row, column in np.ndindex(numbers.shape):
                x, y = ax.transData.transform((left + column + 0.85, top + row + 0.15))  # beside the number in the cell
                painted = pixels[int(len(pixels) - y), int(x)]
                assert painted == pytest.approx(image.cmap(image.norm(numbers[row, column]))[:3], abs=0.02)


def draw_pixels(figure):
    """A figure as it is painted."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.buffer_rgba()


# -- tokens


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("T", [1, 12, 60])
def test_labels_are_the_tokens(name, T):
    split = make_split(T)
    figure = FIGURES[name](split)
    assert labels(figure.axes[0].xaxis) == split.tokens
    assert list(figure.axes[0].get_xticks()) == list(range(T))
    if "maps" in name:
        assert labels(figure.axes[0].yaxis) == labels(figure.axes[1].xaxis) == split.tokens


@pytest.mark.parametrize("name", FIGURES)
def test_when_tokens_are_left_out_it_is_said(name):
    split = make_split(200)
    figure = FIGURES[name](split)
    ax = figure.axes[0]
    step = int(re.search(r"every (\d+)\w\w token is named", ax.get_xlabel())[1])
    assert step > 1
    assert labels(ax.xaxis) == [split.tokens[int(i)] for i in ax.get_xticks()]
    assert len(ax.get_xticks()) >= 200 / step - 1
    if name == "token":
        assert 100 in ax.get_xticks(), "the token that it is about is named"


def test_tokens_are_no_formulas():
    split = make_split(4)
    split.tokens[:] = ["$x$", "$", "a_b", "$\\frac$"]
    for draw in FIGURES.values():
        draw(split).savefig(io.BytesIO())


def test_the_token_is_pointed_out(split):
    figure = plot_token(split, 3, 13)
    bold = [t.get_text() for t in figure.axes[0].get_xticklabels() if t.get_fontweight() == "bold"]
    assert bold == ["bank"]
    assert "layer 3: what went into “bank” (token 13)" == figure.axes[0].get_title(loc="left")


def test_two_texts_are_parted_by_a_line():
    split = make_split(10, pair=True)
    for name, draw in FIGURES.items():
        figure = draw(split)
        ax = figure.axes[0]
        lines = [line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1]
        assert lines == [4.5], name
        if "maps" in name:
            assert all(any(set(line.get_ydata()) == {4.5} for line in ax.lines) for ax in figure.axes)
        assert not [line for line in draw(make_split(10)).axes[0].lines if set(line.get_xdata()) == {4.5}]


# -- can it be read


def visible_texts(figure) -> list[Text]:
    """What is written in a figure, after it was drawn."""
    FigureCanvasAgg(figure).draw()
    hidden = {text for ax in figure.findobj(Axes) for axis in (ax.xaxis, ax.yaxis) for text in hidden_labels(axis)}
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in found if text not in hidden]


def hidden_labels(axis) -> list[Text]:
    """Ticks keep texts that they do not draw: those on the other side, and those beyond the ends."""
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_major_ticks() if not (tick.get_visible() and low <= tick.get_loc() <= high)]
    return [text for tick in ticks for text in (tick.label1, tick.label2)]


def overlaps(figure) -> list[tuple[str, str]]:
    """Pairs of texts that share more than a pixel's edge."""
    boxes = [(text.get_text(), text.get_window_extent().padded(-0.5)) for text in visible_texts(figure)]
    return [(a, b) for (a, x), (b, y) in combinations(boxes, 2) if x.overlaps(y)]


def outside(figure) -> list[str]:
    """Texts that are cut off."""
    whole = figure.bbox
    found = []
    for text in visible_texts(figure):
        box = text.get_window_extent()
        if box.x0 < -0.5 or box.y0 < -0.5 or box.x1 > whole.x1 + 0.5 or box.y1 > whole.y1 + 0.5:
            found.append(text.get_text())
    return found


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("T", [1, 3, 25, 60, 130])
def test_no_texts_overlap_or_are_cut_off(name, T):
    figure = FIGURES[name](make_split(T, pair=T > 3))
    assert not overlaps(figure)
    assert not outside(figure)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("shape", [dict(L=12, A=6, C=6), dict(L=24, A=12, C=12), dict(L=2, A=1, C=1)], ids=str)
def test_no_texts_overlap_in_other_models(name, shape):
    figure = FIGURES[name](make_split(16, **shape))
    assert not overlaps(figure)
    assert not outside(figure)


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "maps of heads"])
def test_no_texts_overlap_without_convolution(name):
    figure = FIGURES[name](make_split(16, C=0))
    assert not overlaps(figure)
    assert not outside(figure)


@pytest.mark.parametrize("L, A, C", [(4, 4, 4), (12, 6, 6), (24, 16, 16), (2, 3, 0), (1, 1, 1)])
def test_no_texts_overlap_in_a_profile(L, A, C):
    figure = plot_profile(make_profile(L, A, C))
    assert not overlaps(figure)
    assert not outside(figure)


def test_the_measure_of_overlap_finds_one():
    figure = Figure()
    ax = figure.subplots()
    ax.text(0.5, 0.5, "one")
    ax.text(0.51, 0.5, "other")
    ax.text(0.9, 0.9, "beyond the edge of the figure")
    assert ("one", "other") in overlaps(figure)
    assert outside(figure) == ["beyond the edge of the figure"]


@pytest.mark.parametrize("name", FIGURES)
def test_short_texts_make_small_figures(name):
    width, height = FIGURES[name](make_split(12)).get_size_inches()
    assert width <= 6.5 and height <= 3.5
    assert max(FIGURES[name](make_split(300)).get_size_inches()) < 17


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("name", [*FIGURES, "profile"])
def test_texts_stand_out_from_their_paper(name, paper, split):
    """WCAG AA: 4.5 for small text, against what is really behind it."""
    with matplotlib.rc_context({"figure.facecolor": paper}):
        figure = plot_profile(make_profile()) if name == "profile" else FIGURES[name](split)
    assert to_hex(figure.get_facecolor()) == to_hex(paper)
    image = figure.axes[0].images[0] if name == "share" else None
    for text in visible_texts(figure):
        behind = paper
        if image is not None and text in figure.axes[0].texts:
            token, layer = text.get_position()
            behind = image.cmap(image.norm(image.get_array()[layer, token]))
        assert contrast(text.get_color(), behind) >= 4.5, text.get_text()


@pytest.mark.parametrize("share", [0.0, 0.2, 0.27, 0.5, 0.73, 0.8, 1.0])
@pytest.mark.parametrize("paper", PAPERS)
def test_numbers_in_cells_stand_out_whatever_the_shade(share, paper):
    split = make_split(1, L=1)
    split.attention_norm, split.conv_norm = torch.full((1, 4, 1), share), torch.full((1, 4, 1), 1 - share)
    with matplotlib.rc_context({"figure.facecolor": paper}):
        ax = plot_share(split).axes[0]
    (text,), (image,) = ax.texts, ax.images
    assert text.get_text() == f"{100 * share:.0f}"
    assert contrast(text.get_color(), image.cmap(share)) >= 4.5


@pytest.mark.parametrize("paper, look", PAPERS.items())
def test_colours_stand_out_from_their_paper(paper, look):
    assert min(contrast(look.attention, paper), contrast(look.conv, paper)) >= 3, "graphics"
    assert min(contrast(look.ink, paper), contrast(look.faint, paper)) >= 4.5, "text"


SIGHT = {  # Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(linear) -> np.ndarray:
    """CIELAB of linear RGB."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(np.clip(xyz / np.array([0.9505, 1, 1.089]), 1e-6, None))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def seen_by(colour, sight: str) -> np.ndarray:
    """How somebody sees a colour."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return lab(np.clip(np.array(SIGHT[sight]) @ linear, 0, 1) if sight in SIGHT else linear)


@pytest.mark.parametrize("sight", ["all", *SIGHT])
@pytest.mark.parametrize("look", [LIGHT, DARK], ids=["light", "dark"])
def test_blue_and_orange_are_told_apart_by_everybody(look, sight):
    apart = np.linalg.norm(seen_by(look.attention, sight) - seen_by(look.conv, sight))
    assert apart > 35
    for colour in (look.attention, look.conv):  # a half-strong shade still differs from the other colour's
        background = look.background if look is LIGHT else "black"
        assert np.linalg.norm(seen_by(colour, sight) - seen_by(background, sight)) > 35


def test_the_simulation_knows_what_cannot_be_told_apart():
    """Red and green of one lightness: far apart for most, near for the red-blind and the green-blind."""
    apart = {s: np.linalg.norm(seen_by("#c05030", s) - seen_by("#6b8020", s)) for s in ("all", "deutan", "protan")}
    assert apart["all"] > 60 > 35 > max(apart["deutan"], apart["protan"])


def test_colours_are_those_of_the_widgets():
    css = (ROOT / "convbert" / "visualize" / "js" / "style.css").read_text(encoding="utf-8")
    light, dark = css.split("prefers-color-scheme: dark", 1)
    for part, look in ((light, LIGHT), (dark, DARK)):
        for name in ("ink", "faint", "attention", "conv"):
            assert re.search(rf"--cv-{name}:\s*(#\w+)", part)[1] == getattr(look, name)


# -- papers and places


def test_a_dark_style_makes_dark_figures(split):
    with style_context("dark_background"):
        figure = plot_share(split)
    assert palette_of(figure).attention == DARK.attention and to_hex(figure.get_facecolor()) == "#000000"
    assert palette_of(plot_share(split)).attention == LIGHT.attention


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("name", FIGURES)
def test_a_saved_picture_has_its_own_paper(name, paper, split):
    """What is behind it does not matter: it is opaque, also when it is saved under another style."""
    from PIL import Image

    with matplotlib.rc_context({"figure.facecolor": paper}):
        figure = FIGURES[name](split)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    pixels = np.asarray(Image.open(picture).convert("RGBA"))
    assert (pixels[..., 3] == 255).all()
    assert tuple(pixels[0, 0, :3] / 255) == pytest.approx(to_rgb(paper), abs=0.01)


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_vectors_for_print(kind, split):
    for draw in FIGURES.values():
        out = io.BytesIO()
        draw(split).savefig(out, format=kind)
        assert len(out.getvalue()) > 5000


@pytest.mark.parametrize("name", FIGURES)
def test_drawing_into_axes_of_ones_own(name, split):
    figure = Figure(figsize=(12, 5), layout="constrained", facecolor="#14181f")
    axes = figure.subplots(1, 2)
    ax = list(axes) if "maps" in name else axes[0]
    before = len(figure.axes)
    assert FIGURES[name](split, ax=ax) is figure
    assert axes[0].images or axes[0].collections
    assert len(figure.axes) == before, "colour bars are inside their axes"
    assert not overlaps(figure)
    assert all(contrast(text.get_color(), "#14181f") >= 4.5 for text in axes[0].get_xticklabels())


def test_drawing_a_profile_into_axes_of_ones_own():
    figure = Figure(figsize=(10, 3), layout="constrained")
    assert plot_profile(make_profile(), ax=figure.subplots(1, 4)) is figure
    assert all(ax.has_data() for ax in figure.axes)


def test_the_wrong_number_of_axes_is_refused(split):
    axes = Figure().subplots(1, 3)
    with pytest.raises(ValueError, match="needs 2 axes, got 3"):
        plot_maps(split, 0, ax=axes)
    with pytest.raises(ValueError, match="needs 1 axes, got 3"):
        plot_share(split, ax=axes)


# -- refusals


@pytest.mark.parametrize(
    "draw, error, message",
    [
        (lambda s: plot_heads(s, 4), ValueError, "layer=4 must be 0 to 3"),
        (lambda s: plot_heads(s, -1), ValueError, "layer=-1 must be 0 to 3: they count from 0"),
        (lambda s: plot_heads(s, 1.0), TypeError, "layer must be a whole number, got 1.0"),
        (lambda s: plot_maps(s, 9), ValueError, "layer=9"),
        (lambda s: plot_maps(s, 0, attention_head=4), ValueError, "attention_head=4 must be 0 to 3"),
        (lambda s: plot_maps(s, 0, conv_head=-1), ValueError, "conv_head=-1 must be 0 to 3"),
        (lambda s: plot_maps(s, 0, "first"), TypeError, "attention_head must be a whole number, got 'first'"),
        (lambda s: plot_token(s, 4, 0), ValueError, "layer=4"),
        (lambda s: plot_token(s, 0, 23), ValueError, "token=23 must be 0 to 22"),
        (lambda s: plot_token(s, 0, "bank"), TypeError, "token must be a whole number, got 'bank'"),
        (lambda s: plot_share(TEXT), TypeError, "draws a HeadSplit, got str: head_split"),
        (lambda s: plot_profile(s), TypeError, "draws a Profile, got HeadSplit: profile"),
        (lambda s: plot_heads(make_profile(), 0), TypeError, "draws a HeadSplit, got Profile"),
    ],
)
def test_what_is_not_there_is_refused(split, draw, error, message):
    with pytest.raises(error, match=re.escape(message)):
        draw(split)


def test_numbers_of_numpy_and_torch_name_places_too(split):
    assert plot_heads(split, np.int64(1)) and plot_token(split, torch.tensor(1), np.int32(3))


def test_a_model_without_convolution():
    split = make_split(12, C=0)
    assert not plot_heads(split, 0).axes[0].images[1:]
    assert len([ax for ax in plot_maps(split, 0).axes if ax.images]) == 1
    assert len(rectangles(plot_token(split, 0, 3).axes[0])) == 4
    assert "convolution" not in " ".join(text.get_text() for text in visible_texts(plot_token(split, 0, 3)))
    with pytest.raises(ValueError, match="conv_head=0 does not exist: this model has none"):
        plot_maps(split, 0, conv_head=0)


# -- manners


def test_matplotlib_is_imported_when_something_is_drawn():
    code = "import convbert.visualize.figures, sys; print([m for m in sys.modules if m.split('.')[0] == 'matplotlib'])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "[]"


def test_without_matplotlib_it_is_said_what_to_install(split, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    for draw in (*FIGURES.values(), lambda _: plot_profile(make_profile())):
        with pytest.raises(ImportError, match=r'pip install "convbert\[widgets\]"'):
            draw(split)


def test_nothing_is_left_in_pyplot(split):
    code = (
        "import sys, convbert.visualize.figures as f\nfrom convbert.visualize.head_contributions import head_split\n"
        "f.plot_share(head_split('convbert-tiny', 'a'))._repr_png_()\nprint('matplotlib.pyplot' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "False"
    )


def test_a_figure_that_is_dropped_is_gone(split):
    draw_all = [*FIGURES.values()]
    for draw in draw_all:
        draw(split).savefig(io.BytesIO())
    gc.collect()
    before = sum(isinstance(o, Figure) for o in gc.get_objects())
    for draw in draw_all:
        draw(split).savefig(io.BytesIO())
    gc.collect()
    assert sum(isinstance(o, Figure) for o in gc.get_objects()) <= before


def test_a_notebook_shows_a_figure_once_and_without_pyplot(split):
    from IPython.core.formatters import DisplayFormatter

    figure = plot_token(split, 3, 13)
    data, _ = DisplayFormatter().format(figure)
    assert data["image/png"].startswith(b"\x89PNG") and len(data["image/png"]) < 50_000
    assert figure.canvas.manager is None


def test_drawing_is_repeatable_and_warns_of_nothing(split):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for draw in FIGURES.values():
            assert draw(split)._repr_png_() == draw(split)._repr_png_()


def test_the_split_is_left_as_it_was(split):
    before = [
        split.attention_norm.clone(),
        *(a.clone() for a in split.attention),
        *(k.clone() for k in split.conv_kernel),
    ]
    for draw in FIGURES.values():
        draw(split).savefig(io.BytesIO())
    after = [split.attention_norm, *split.attention, *split.conv_kernel]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_figure_survives_pickling(split):
    again = pickle.loads(pickle.dumps(plot_share(split)))
    assert labels(again.axes[0].xaxis) == split.tokens


# -- replaced tokens, and the split over training


@pytest.mark.parametrize("T", [3, 12, 30])
def test_replaced_tokens_show_samples_and_judgements(T):
    found = make_detection(T)
    ax = plot_replaced(found).axes[0]
    heights = {round(bar.get_x() + bar.get_width() / 2): bar for bar in ax.patches}
    assert [heights[i].get_height() for i in range(T)] == pytest.approx(found.suspicion)
    hollow = [heights[i].get_facecolor()[3] == 0 for i in range(T)]
    assert hollow == found.wrong, "a wrong judgement is a hollow bar"
    crosses = next(line for line in ax.lines if line.get_marker() == "x")
    assert list(crosses.get_xdata()) == [i for i in range(T) if found.wrong[i]]
    above = {round(text.get_position()[0]): text.get_text() for text in ax.texts}
    assert {i: text.split("  ")[0] for i, text in above.items()} == dict(zip(found.masked, found.sampled, strict=True))
    bold = [i for i, label in enumerate(ax.get_xticklabels()) if label.get_fontweight() == "bold"]
    assert bold == found.masked
    assert labels(ax.xaxis) == found.encoded.tokens


@pytest.mark.parametrize("sizes", [[3], [12, 25], [60], [130]], ids=str)
@pytest.mark.parametrize("paper", PAPERS)
def test_replaced_tokens_can_be_read(sizes, paper):
    with matplotlib.rc_context({"figure.facecolor": paper}):
        figure = plot_replaced([make_detection(T) for T in sizes])
    assert len(figure.axes) == len(sizes)
    assert not overlaps(figure)
    assert not outside(figure)
    for text in visible_texts(figure):
        assert contrast(text.get_color(), paper) >= 4.5, text.get_text()


def test_the_right_number_of_judgements_is_written():
    found = make_detection(12)
    said = re.findall(r"\d+", plot_replaced(found).axes[0].get_title(loc="left"))
    inner = list(zip(found.replaced, found.suspicion, strict=True))[1:-1]
    hits, suspected = (sum(own == kind and chance > 0.5 for own, chance in inner) for kind in (True, False))
    count = sum(replaced for replaced, _ in inner)
    assert [int(number) for number in said] == [hits, count, suspected, len(inner) - count]


@pytest.mark.parametrize("measure, fields", [("distance", ("distance", "conv_distance")), ("entropy", None)])
def test_split_over_training_shows_its_numbers(measure, fields):
    history = make_history()
    axes = plot_split_over_training(history, measure).axes
    names = ("conv_share", *(fields or ("attention_entropy", "conv_entropy")))
    for ax, name in zip(axes, names, strict=True):
        lines = [line for line in ax.lines if len(line.get_xdata()) == len(history.steps)]
        assert len(lines) == 4
        for layer, line in enumerate(lines):
            numbers = [getattr(seen, name)[layer] for seen in history.profiles]
            expected = [(row.sum() if name == "conv_share" else row.mean()).item() for row in numbers]
            assert list(line.get_ydata()) == pytest.approx(expected)
            assert list(line.get_xdata()) == history.steps


@pytest.mark.parametrize("shape", [(4, 4, 4), (12, 6, 6), (24, 16, 16), (2, 3, 0), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("paper, look", PAPERS.items())
def test_split_over_training_can_be_read(shape, paper, look):
    with matplotlib.rc_context({"figure.facecolor": paper}):
        figure = plot_split_over_training(make_history(*shape))
    assert len(figure.axes) == (3 if shape[2] else 1)
    assert not overlaps(figure)
    assert not outside(figure)
    for text in visible_texts(figure):
        assert contrast(text.get_color(), paper) >= 4.5, text.get_text()
    for ax in figure.axes:
        assert all(contrast(line.get_color(), paper) >= 3 for line in ax.lines)


def test_a_history_of_any_steps_is_drawn():
    for steps in ((0,), (7,), (0, 1000, 2000), tuple(range(0, 50_000, 500))):
        assert not overlaps(plot_split_over_training(make_history(steps=steps)))
