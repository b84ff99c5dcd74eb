"""The models for Keras 3, on TensorFlow or JAX; each name is loaded on first use."""

import sys
from importlib import import_module
from importlib.util import find_spec

from ..families.registry import FAMILIES

if "tensorflow" not in sys.modules and find_spec("triton"):
    import_module("triton")  # it and TensorFlow both carry LLVM: Triton crashes when it comes second

try:
    import keras  # noqa: F401
except ModuleNotFoundError as error:  # Keras, or what it runs on
    raise ModuleNotFoundError(f'{error.name} is missing: pip install "convbert[tf]"', name=error.name) from error

__all__ = ["TFPreTrainedModel", "TFAlbertForPreTrainingOutput"] + [
    f"TF{name}"
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
