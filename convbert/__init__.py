"""ConvBERT, ELECTRA, ALBERT and DistilBERT in PyTorch, Keras and Flax, and pipelines; each name is loaded when used."""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what `__getattr__` hands out, spelled out for editors and type checkers
    from . import visualize as visualize
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
    from .flax.modeling import *  # noqa: F403
    from .hub import bundled
    from .keras.modeling import *  # noqa: F403
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
    from .training.finetuning import finetune
    from .training.pretraining import Plan, pretrain

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
    "Plan": "training.pretraining",
    "bundled": "hub",
    "finetune": "training.finetuning",
    "pipeline": "pipelines",
    "pretrain": "training.pretraining",
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
    "Plan",
    "bundled",
    "finetune",
    "pipeline",
    "pretrain",
    "speed_up",
    "undo_speed_up",
]

_models = [name for name, home in _homes.items() if home == "modeling" and not name.endswith("PreTrainedModel")]
_extra_homes = {  # what needs an extra, and so is no part of `from convbert import *`
    **{f"TF{name}": "keras.modeling" for name in [*_models, "AlbertForPreTrainingOutput"]},
    **{f"Flax{name}": "flax.modeling" for name in _models},
}
_packages = ("visualize",)  # what is used as `convbert.visualize.head_view`


def __getattr__(name: str):
    """Import the module that defines a public name when the name is first used."""
    if name in _packages:
        return import_module(f".{name}", __name__)
    home = _homes.get(name) or _extra_homes.get(name)
    if home is None:
        names = ", ".join([*__all__, *_extra_homes, *_packages])
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}. Public names: {names}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value  # later uses skip this function
    return value


def __dir__() -> list[str]:
    """List the public names whether or not their modules are loaded yet."""
    return sorted({*globals(), *__all__, *_extra_homes, *_packages})
