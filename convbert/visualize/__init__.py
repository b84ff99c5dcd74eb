"""How attention and convolution split the work: numbers, figures and widgets.

`head_split` and `profile` need only the package itself; figures need matplotlib, and widgets `pip install "convbert[widgets]"`.
"""

from importlib import import_module

_NAMES = {
    "head_contributions": ("head_split", "profile", "HeadSplit", "Profile"),
    "ablation": ("knock_out", "knock_outs"),
    "figures": ("plot_share", "plot_heads", "plot_maps", "plot_token", "plot_profile"),
    "views": ("head_view", "split_view"),
    "knockout": ("knockout_view",),
    "explorer": ("mask_explorer",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    """Import a part when it is first used, so that the numbers do not wait for the widgets."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'convbert.visualize' has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
