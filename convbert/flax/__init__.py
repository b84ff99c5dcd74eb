"""The models in Flax NNX; each name is loaded on first use."""

from importlib import import_module
from importlib.util import find_spec

from ..families.registry import FAMILIES

if missing := [name for name in ("jax", "flax", "optax") if find_spec(name) is None]:
    raise ModuleNotFoundError(f'{" and ".join(missing)} missing: pip install "convbert[flax]"', name=missing[0])

__all__ = ["FlaxPreTrainedModel"] + [
    f"Flax{name}"
    for family in FAMILIES.values()
    for name in (f"{family.prefix}PreTrainedModel", *family.class_names)
]


def __getattr__(name: str):
    """Import the models when the first of them is used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}. Public names: {', '.join(__all__)}")
    return getattr(import_module(".modeling", __name__), name)


def __dir__() -> list[str]:
    """List the public names whether or not their module is loaded yet."""
    return sorted({*globals(), *__all__})
