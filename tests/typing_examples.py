"""Uses of the public names with the types that a checker must find. Not run: read by pyright, see test_typing.py."""

from typing import Any

from typing_extensions import assert_type

import convbert
from convbert import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    ConvBertConfig,
    ConvBertForMaskedLM,
    ConvBertModel,
    ConvBertTokenizerFast,
    Plan,
    bundled,
    finetune,
    pipeline,
    pretrain,
    speed_up,
    visualize,
)
from convbert.ablation import make_head_mask
from convbert.config import EncoderConfig
from convbert.export import export
from convbert.pipelines.features import FeatureExtractionPipeline
from convbert.pipelines.fill_mask import FillMaskPipeline
from convbert.pipelines.multiple_choice import MultipleChoicePipeline
from convbert.pipelines.outputs import Result, ResultList
from convbert.pipelines.question_answering import QuestionAnsweringPipeline
from convbert.pipelines.streaming import ResultStream
from convbert.pipelines.text_classification import TextClassificationPipeline
from convbert.pipelines.token_classification import TokenClassificationPipeline
from convbert.pipelines.zero_shot import ZeroShotClassificationPipeline
from convbert.tokenizers.base import PreTrainedTokenizer
from convbert.tokenizers.batch_encoding import BatchEncoding
from convbert.training.results import Finetuned
from convbert.visualize.detection_view import ReplacedView
from convbert.visualize.explorer import MaskExplorer
from convbert.visualize.head_contributions import HeadSplit
from convbert.visualize.knockout import KnockoutView
from convbert.visualize.views import HeadView, SplitView

# -- the name of a task is enough to know its pipeline

fill_mask = assert_type(pipeline("fill-mask"), FillMaskPipeline)
classify = assert_type(pipeline("text-classification"), TextClassificationPipeline)
assert_type(pipeline("sentiment-analysis", "my-model"), TextClassificationPipeline)
tag = assert_type(pipeline("token-classification", tokenizer="convbert-tiny"), TokenClassificationPipeline)
assert_type(pipeline("ner", "my-model", device="cpu"), TokenClassificationPipeline)
ask = assert_type(pipeline("question-answering"), QuestionAnsweringPipeline)
choose = assert_type(pipeline("multiple-choice"), MultipleChoicePipeline)
zero_shot = assert_type(pipeline("zero-shot-classification", "my-model"), ZeroShotClassificationPipeline)
embed = assert_type(pipeline("feature-extraction", framework="pt"), FeatureExtractionPipeline)


def chosen_later(task: str) -> None:
    """A task that no checker knows."""
    assert_type(pipeline(task), Any)


# -- what comes back

assert_type(fill_mask("The ship sailed across the [MASK].", top_k=3), ResultList | ResultStream)
fill_mask("The ship sailed across the [MASK].")[0]["token_str"]
assert_type(classify("A fine film."), Result | Any)
classify("A fine film.")["label"]
[row["label"] for row in classify(["A fine film.", "A dull one."])]
assert_type(tag("The ship sailed."), ResultList | ResultStream)
ask("Who wrote?", "The old man wrote.")["answer"]
choose(question="The hen", choices=["flies.", "walks."])["choice"]
zero_shot("It rained.", ["weather", "law"])["labels"]
len(embed("It rained."))

# -- models, tokenizers, configurations

model = assert_type(ConvBertModel.from_pretrained("convbert-tiny"), ConvBertModel)
assert_type(ConvBertForMaskedLM.from_pretrained("convbert-tiny", dtype="bfloat16"), ConvBertForMaskedLM)
assert_type(ConvBertConfig.from_pretrained("convbert-tiny"), ConvBertConfig)
assert_type(ConvBertConfig.preset("base", num_hidden_layers=2), ConvBertConfig)
assert_type(AutoConfig.from_pretrained("convbert-tiny"), EncoderConfig)
assert_type(AutoTokenizer.from_pretrained("convbert-tiny"), PreTrainedTokenizer)
width = AutoModel.from_pretrained("convbert-tiny").config.hidden_size
tokenizer = assert_type(ConvBertTokenizerFast.from_pretrained("convbert-tiny"), ConvBertTokenizerFast)
assert_type(tokenizer("It rained.", padding=True, return_tensors="pt"), BatchEncoding)
model(**tokenizer("It rained.", return_tensors="pt"), head_mask=make_head_mask(model.config, attention=[(0, 1)]))
model.save_pretrained("my-model")
assert_type(bundled(), list[str])

# -- training, export, views

assert_type(finetune("convbert-tiny", "reviews.csv", "text-classification", "my-model", epochs=2), Finetuned)
assert_type(pretrain(Plan(["articles.txt"]), "my-model"), dict[str, float])
assert_type(export("convbert-tiny", "my-graph"), float)
speed_up(model)
assert_type(visualize.head_view("convbert-tiny", "It rained.", layer=3), HeadView)
assert_type(convbert.visualize.split_view("convbert-tiny", "It rained."), SplitView)
assert_type(visualize.knockout_view("convbert-tiny", "It [MASK]."), KnockoutView)
assert_type(visualize.mask_explorer("convbert-tiny", "It rained."), MaskExplorer)
assert_type(visualize.replaced_view("runs/pair", "It rained."), ReplacedView)
assert_type(visualize.head_split("convbert-tiny", "It rained."), HeadSplit)
