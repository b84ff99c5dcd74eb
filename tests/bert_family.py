"""What a fifth family costs: BERT itself, with its pooler and its next-sentence head."""

import torch.nn.functional as F

from convbert import heads
from convbert.config import EncoderConfig, config_class
from convbert.families.family import COMMON_HEADS, Family
from convbert.key_map import BERT_LAYER, EMBEDDINGS, KeyMap
from convbert.masked_lm import MaskedLM
from convbert.outputs import TaskOutput, optional_outputs
from convbert.pretraining_heads import SentenceOrderPreTraining


@config_class
class BertConfig(EncoderConfig):
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    classifier_dropout: float | None = None
    model_type = "bert"


RENAMES = (
    ("pooler.", "pooler.dense."),
    ("predictions.dense.", "cls.predictions.transform.dense."),
    ("predictions.norm.", "cls.predictions.transform.LayerNorm."),
    ("predictions.bias", "cls.predictions.bias"),
    ("sentence_order.out_proj.", "cls.seq_relationship."),
    ("classifier.out_proj.", "classifier."),
)
WORDS, BIAS = "embeddings.word_embeddings.weight", "cls.predictions.bias"
BERT_KEYS = KeyMap(
    prefix="bert.",
    renames=(*EMBEDDINGS, *BERT_LAYER, *RENAMES),
    fused={".attention.self.qkv_proj.": BertConfig.qkv_names},
    tied={"cls.predictions.decoder.weight": WORDS, "cls.predictions.decoder.bias": BIAS},
)
NAMES = (*COMMON_HEADS, "ForPreTraining", "ForNextSentencePrediction")
BERT = Family("Bert", BertConfig, BERT_KEYS, heads=NAMES, has_pooler=True, masked_lm_activation=None)


class NextSentencePrediction(heads.PreTrainedModel):
    reads_pooler = True

    def add_head(self, config):
        self.sentence_order = heads.PooledHead(config, 2)

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, *, labels=None, **inputs):
        encoded = self.encode(input_ids, attention_mask, token_type_ids, cls_only=True, **inputs)
        logits = self.sentence_order(encoded.pooler_output)
        loss = None if labels is None else F.cross_entropy(logits, labels.flatten())
        return TaskOutput(loss=loss, logits=logits, **optional_outputs(encoded))


class NextSentencePreTraining(SentenceOrderPreTraining):
    def forward(self, *args, next_sentence_label=None, **inputs):
        return super().forward(*args, sentence_order_label=next_sentence_label, **inputs)


ENCODERS = heads.BaseModel, MaskedLM, heads.SequenceClassification, heads.TokenClassification
HEADS = (*ENCODERS, heads.QuestionAnswering, heads.MultipleChoice, NextSentencePreTraining, NextSentencePrediction)
CLASSES = {f"Bert{n}": type(f"Bert{n}", (h,), {"family": BERT}) for n, h in zip(NAMES, HEADS, strict=True)}
