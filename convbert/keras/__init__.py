"""The models in Keras 3; each name is loaded on first use."""

from importlib import import_module
from importlib.util import find_spec

from ..families.registry import FAMILIES

if find_spec("keras") is None:
    raise ModuleNotFoundError('keras is missing: pip install "convbert[tf]"', name="keras")

__all__ = ["TFPreTrainedModel", "TFAlbertForPreTrainingOutput"] + [
    f"TF{name}" for family in FAMILIES.values() for name in (f"{family.prefix}PreTrainedModel", *family.class_names)
]


def __getattr__(name: str):
    """Import the models when the first of them is used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}. Public names: {', '.join(__all__)}")
    try:
        return getattr(import_module(".modeling", __name__), name)
    except ModuleNotFoundError as error:
        if error.name not in ("tensorflow", "jax", "torch"):
            raise
        said = f"{error.name}, which Keras is set to run on, is missing"
        raise ModuleNotFoundError(f'{said}: pip install "convbert[tf]", or set KERAS_BACKEND', name=error.name) from None


def __dir__() -> list[str]:
    """List the public names whether or not their module is loaded yet."""
    return sorted({*globals(), *__all__})
