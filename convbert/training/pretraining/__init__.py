"""Pretraining: objectives, each with its equation, and runs that resume."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `__getattr__` hands out, spelled out for editors and type checkers
    from .plan import TINY_RECIPE, Plan, published_plan
    from .run import evaluate, pretrain

_NAMES = {"plan": ("TINY_RECIPE", "Plan", "published_plan"), "run": ("evaluate", "pretrain")}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["TINY_RECIPE", "Plan", "evaluate", "pretrain", "published_plan"]


def __getattr__(name: str) -> Any:
    """Import a part when it is first used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'convbert.training.pretraining' has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
