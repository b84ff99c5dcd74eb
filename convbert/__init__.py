"""ConvBERT, ELECTRA, ALBERT and DistilBERT in PyTorch, and their pipelines; each name is loaded when first used."""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what `__getattr__` hands out, spelled out for editors and type checkers
    from .auto import (
        AutoConfig,
        AutoModel,
        AutoModelForMaskedLM,
        AutoModelForMultipleChoice,
        AutoModelForPreTraining,
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        AutoTokenizer,
    )
    from .families.albert import AlbertConfig
    from .families.convbert import ConvBertConfig
    from .families.distilbert import DistilBertConfig
    from .families.electra import ElectraConfig
    from .hub import bundled
    from .modeling import (
        AlbertForMaskedLM,
        AlbertForMultipleChoice,
        AlbertForPreTraining,
        AlbertForQuestionAnswering,
        AlbertForSequenceClassification,
        AlbertForTokenClassification,
        AlbertModel,
        AlbertPreTrainedModel,
        ConvBertForMaskedLM,
        ConvBertForMultipleChoice,
        ConvBertForPreTraining,
        ConvBertForQuestionAnswering,
        ConvBertForSequenceClassification,
        ConvBertForTokenClassification,
        ConvBertModel,
        ConvBertPreTrainedModel,
        DistilBertForMaskedLM,
        DistilBertForMultipleChoice,
        DistilBertForQuestionAnswering,
        DistilBertForSequenceClassification,
        DistilBertForTokenClassification,
        DistilBertModel,
        DistilBertPreTrainedModel,
        ElectraForMaskedLM,
        ElectraForMultipleChoice,
        ElectraForPreTraining,
        ElectraForQuestionAnswering,
        ElectraForSequenceClassification,
        ElectraForTokenClassification,
        ElectraModel,
        ElectraPreTrainedModel,
    )
    from .outputs import AlbertForPreTrainingOutput
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
    "AlbertConfig": "families.albert",
    "AlbertForMaskedLM": "modeling",
    "AlbertForMultipleChoice": "modeling",
    "AlbertForPreTraining": "modeling",
    "AlbertForPreTrainingOutput": "outputs",
    "AlbertForQuestionAnswering": "modeling",
    "AlbertForSequenceClassification": "modeling",
    "AlbertForTokenClassification": "modeling",
    "AlbertModel": "modeling",
    "AlbertPreTrainedModel": "modeling",
    "AlbertTokenizer": "tokenizers.classes",
    "AlbertTokenizerFast": "tokenizers.classes",
    "AutoConfig": "auto",
    "AutoModel": "auto",
    "AutoModelForMaskedLM": "auto",
    "AutoModelForMultipleChoice": "auto",
    "AutoModelForPreTraining": "auto",
    "AutoModelForQuestionAnswering": "auto",
    "AutoModelForSequenceClassification": "auto",
    "AutoModelForTokenClassification": "auto",
    "AutoTokenizer": "auto",
    "ConvBertConfig": "families.convbert",
    "ConvBertForMaskedLM": "modeling",
    "ConvBertForMultipleChoice": "modeling",
    "ConvBertForPreTraining": "modeling",
    "ConvBertForQuestionAnswering": "modeling",
    "ConvBertForSequenceClassification": "modeling",
    "ConvBertForTokenClassification": "modeling",
    "ConvBertModel": "modeling",
    "ConvBertPreTrainedModel": "modeling",
    "ConvBertTokenizer": "tokenizers.classes",
    "ConvBertTokenizerFast": "tokenizers.classes",
    "DistilBertConfig": "families.distilbert",
    "DistilBertForMaskedLM": "modeling",
    "DistilBertForMultipleChoice": "modeling",
    "DistilBertForQuestionAnswering": "modeling",
    "DistilBertForSequenceClassification": "modeling",
    "DistilBertForTokenClassification": "modeling",
    "DistilBertModel": "modeling",
    "DistilBertPreTrainedModel": "modeling",
    "DistilBertTokenizer": "tokenizers.classes",
    "DistilBertTokenizerFast": "tokenizers.classes",
    "ElectraConfig": "families.electra",
    "ElectraForMaskedLM": "modeling",
    "ElectraForMultipleChoice": "modeling",
    "ElectraForPreTraining": "modeling",
    "ElectraForQuestionAnswering": "modeling",
    "ElectraForSequenceClassification": "modeling",
    "ElectraForTokenClassification": "modeling",
    "ElectraModel": "modeling",
    "ElectraPreTrainedModel": "modeling",
    "ElectraTokenizer": "tokenizers.classes",
    "ElectraTokenizerFast": "tokenizers.classes",
    "bundled": "hub",
    "pipeline": "pipelines",
    "speed_up": "speedup",
    "undo_speed_up": "speedup",
}

__all__ = [
    "AlbertConfig",
    "AlbertForMaskedLM",
    "AlbertForMultipleChoice",
    "AlbertForPreTraining",
    "AlbertForPreTrainingOutput",
    "AlbertForQuestionAnswering",
    "AlbertForSequenceClassification",
    "AlbertForTokenClassification",
    "AlbertModel",
    "AlbertPreTrainedModel",
    "AlbertTokenizer",
    "AlbertTokenizerFast",
    "AutoConfig",
    "AutoModel",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForPreTraining",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoTokenizer",
    "ConvBertConfig",
    "ConvBertForMaskedLM",
    "ConvBertForMultipleChoice",
    "ConvBertForPreTraining",
    "ConvBertForQuestionAnswering",
    "ConvBertForSequenceClassification",
    "ConvBertForTokenClassification",
    "ConvBertModel",
    "ConvBertPreTrainedModel",
    "ConvBertTokenizer",
    "ConvBertTokenizerFast",
    "DistilBertConfig",
    "DistilBertForMaskedLM",
    "DistilBertForMultipleChoice",
    "DistilBertForQuestionAnswering",
    "DistilBertForSequenceClassification",
    "DistilBertForTokenClassification",
    "DistilBertModel",
    "DistilBertPreTrainedModel",
    "DistilBertTokenizer",
    "DistilBertTokenizerFast",
    "ElectraConfig",
    "ElectraForMaskedLM",
    "ElectraForMultipleChoice",
    "ElectraForPreTraining",
    "ElectraForQuestionAnswering",
    "ElectraForSequenceClassification",
    "ElectraForTokenClassification",
    "ElectraModel",
    "ElectraPreTrainedModel",
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
