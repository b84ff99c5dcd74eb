"""ConvBERT in PyTorch: models, tokenizers and pipelines, each loaded when first used."""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what `__getattr__` hands out, spelled out for editors and type checkers
    from .config import ConvBertConfig
    from .heads import (
        ConvBertForMaskedLM,
        ConvBertForMultipleChoice,
        ConvBertForQuestionAnswering,
        ConvBertForSequenceClassification,
        ConvBertForTokenClassification,
        ConvBertModel,
    )
    from .hub import bundled
    from .pipelines import pipeline
    from .speedup import speed_up, undo_speed_up
    from .tokenizers.classes import (
        AlbertTokenizer,
        AlbertTokenizerFast,
        ConvBertTokenizer,
        ConvBertTokenizerFast,
        DistilBertTokenizer,
        DistilBertTokenizerFast,
        ElectraTokenizer,
        ElectraTokenizerFast,
    )

_homes = {  # public name -> the module that defines it
    "AlbertTokenizer": "tokenizers.classes",
    "AlbertTokenizerFast": "tokenizers.classes",
    "ConvBertConfig": "config",
    "ConvBertForMaskedLM": "heads",
    "ConvBertForMultipleChoice": "heads",
    "ConvBertForQuestionAnswering": "heads",
    "ConvBertForSequenceClassification": "heads",
    "ConvBertForTokenClassification": "heads",
    "ConvBertModel": "heads",
    "ConvBertTokenizer": "tokenizers.classes",
    "ConvBertTokenizerFast": "tokenizers.classes",
    "DistilBertTokenizer": "tokenizers.classes",
    "DistilBertTokenizerFast": "tokenizers.classes",
    "ElectraTokenizer": "tokenizers.classes",
    "ElectraTokenizerFast": "tokenizers.classes",
    "bundled": "hub",
    "pipeline": "pipelines",
    "speed_up": "speedup",
    "undo_speed_up": "speedup",
}

__all__ = [
    "AlbertTokenizer",
    "AlbertTokenizerFast",
    "ConvBertConfig",
    "ConvBertForMaskedLM",
    "ConvBertForMultipleChoice",
    "ConvBertForQuestionAnswering",
    "ConvBertForSequenceClassification",
    "ConvBertForTokenClassification",
    "ConvBertModel",
    "ConvBertTokenizer",
    "ConvBertTokenizerFast",
    "DistilBertTokenizer",
    "DistilBertTokenizerFast",
    "ElectraTokenizer",
    "ElectraTokenizerFast",
    "bundled",
    "pipeline",
    "speed_up",
    "undo_speed_up",
]


def __getattr__(name: str):
    """Import the module that defines a public name when the name is first used."""
    if name not in _homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}. Public names: {', '.join(__all__)}")
    value = getattr(import_module(f".{_homes[name]}", __name__), name)
    globals()[name] = value  # later uses skip this function
    return value


def __dir__() -> list[str]:
    """List the public names whether or not their modules are loaded yet."""
    return sorted({*globals(), *__all__})
