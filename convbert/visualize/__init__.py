"""How attention and convolution split the work: numbers, figures and widgets.

`head_split` and `profile` need only the package itself; figures need matplotlib, and widgets `pip install "convbert[widgets]"`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `__getattr__` hands out, spelled out for editors and type checkers
    from .ablation import knock_out, knock_outs
    from .detection import Detection, detect_replaced, plot_replaced
    from .detection_view import replaced_view
    from .explorer import mask_explorer
    from .figures import plot_heads, plot_maps, plot_profile, plot_share, plot_token
    from .head_contributions import HeadSplit, Profile, head_split, profile
    from .knockout import knockout_view
    from .training_history import SplitHistory, plot_split_over_training, split_over_training
    from .views import head_view, split_view

_NAMES = {
    "head_contributions": ("head_split", "profile", "HeadSplit", "Profile"),
    "ablation": ("knock_out", "knock_outs"),
    "figures": ("plot_share", "plot_heads", "plot_maps", "plot_token", "plot_profile"),
    "views": ("head_view", "split_view"),
    "knockout": ("knockout_view",),
    "explorer": ("mask_explorer",),
    "detection": ("detect_replaced", "plot_replaced", "Detection"),
    "detection_view": ("replaced_view",),
    "training_history": ("split_over_training", "plot_split_over_training", "SplitHistory"),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Detection",
    "HeadSplit",
    "Profile",
    "SplitHistory",
    "detect_replaced",
    "head_split",
    "head_view",
    "knock_out",
    "knock_outs",
    "knockout_view",
    "mask_explorer",
    "plot_heads",
    "plot_maps",
    "plot_profile",
    "plot_replaced",
    "plot_share",
    "plot_split_over_training",
    "plot_token",
    "profile",
    "replaced_view",
    "split_over_training",
    "split_view",
]


def __getattr__(name: str) -> Any:
    """Import a part when it is first used, so that the numbers do not wait for the widgets."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'convbert.visualize' has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
