"""Models of transformers' TensorFlow and Flax classes, which its version 5 no longer has, and what they compute.

    python -m venv tf4 && tf4/bin/pip install "transformers==4.57.6" tensorflow-cpu tf-keras "flax<0.13" torch
    TF_USE_LEGACY_KERAS=1 tf4/bin/python tests/reference/tensorflow_and_flax.py

writes `tensorflow_and_flax.zip` beside this file: a folder per model, as `save_pretrained` leaves it. `outputs.npz` in
it has the inputs (`inputs/NAME`), the outputs in evaluation mode (`FOLDER/FIELD`) and the versions that made them
(`versions`). All numbers come from seeds of NumPy's frozen generator. Weights are multiples of 1/64, so that the
archive is small. `tests/reference_models.py` reads it.
"""

import json
import os
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

ARCHIVE = Path(__file__).with_suffix(".zip")
B, T, CHOICES, LABELS, VOCABULARY = 3, 12, 2, 3, 64
LENGTHS = (12, 7, 4)

SIZES = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
SIZES |= dict(max_position_embeddings=16, num_labels=LABELS, tf_legacy_loss=False)
BERT = dict(SIZES, type_vocab_size=2)
CONFIGS = {
    "ConvBert": dict(BERT, embedding_size=32, conv_kernel_size=5),
    "Electra": dict(BERT, embedding_size=16),
    "Albert": dict(BERT, embedding_size=16),
    "DistilBert": dict(vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=16),
}
CONFIGS["DistilBert"] |= dict(num_labels=LABELS)
VARIANTS = [  # of the base models: family, name, what is different; TFConvBertModel knows no head_ratio but 2
    ("ConvBert", "groups", dict(num_groups=2, embedding_size=16)),
    ("ConvBert", "wide-kernel", dict(conv_kernel_size=15, num_attention_heads=2)),
    ("Albert", "groups", dict(num_hidden_layers=4, num_hidden_groups=2)),
    ("Albert", "inner-layers", dict(num_hidden_layers=2, inner_group_num=2)),
    ("Electra", "tanh-gelu", dict(hidden_act="gelu_new", embedding_size=32)),
]
HEADS = ("ForMaskedLM", "ForSequenceClassification", "ForMultipleChoice", "ForTokenClassification")
HEADS = ("Model", *HEADS, "ForQuestionAnswering")


def make_inputs():
    """Three texts, padded on the right, and labels for every head."""
    draw = np.random.RandomState(0)
    mask = (np.arange(T) < np.array(LENGTHS)[:, None]).astype(np.int32)
    inputs = {"input_ids": draw.randint(5, VOCABULARY, (B, T)) * mask, "attention_mask": mask}
    inputs["token_type_ids"] = (np.arange(T) >= 3).astype(np.int32) * mask
    inputs["choice_ids"] = draw.randint(5, VOCABULARY, (B, CHOICES, T)) * mask[:, None]
    words = np.where((draw.rand(B, T) < 0.4) & (mask > 0), draw.randint(5, VOCABULARY, (B, T)), -100)
    inputs["words"], inputs["replaced"] = words, draw.randint(0, 2, (B, T))
    inputs["tags"] = np.where(mask > 0, draw.randint(0, LABELS, (B, T)), -100)
    inputs |= {"label": np.array([2, 0, 1]), "choice": np.array([1, 0, 1]), "order": np.array([0, 1, 1])}
    inputs |= {"start": np.array([3, 1, 2]), "end": np.array([9, 4, 3])}
    return {name: value.astype(np.int32) for name, value in inputs.items()}


def arguments_of(name, inputs):
    """Arguments of a class's call, and its labels by the names that TensorFlow's classes give them."""
    text = {key: inputs[key] for key in ("input_ids", "attention_mask", "token_type_ids")}
    if "DistilBert" in name:
        del text["token_type_ids"]
    if name.endswith("MultipleChoice"):
        text = {key: np.repeat(value[:, None], CHOICES, 1) for key, value in text.items()}
        text["input_ids"] = inputs["choice_ids"]
    labels = {"ForMaskedLM": "words", "ForSequenceClassification": "label", "ForMultipleChoice": "choice"}
    labels |= {"ForTokenClassification": "tags"}
    for head, key in labels.items():
        if name.endswith(head):
            return text, {"labels": inputs[key]}
    if name.endswith("QuestionAnswering"):
        return text, {"start_positions": inputs["start"], "end_positions": inputs["end"]}
    if name.endswith("AlbertForPreTraining"):
        return text, {"labels": inputs["words"], "sentence_order_label": inputs["order"]}
    return text, {}  # TFElectraForPreTraining computes no loss


def drawn(shape, name, draw):
    """Weights of a size that keeps activations of order one: multiples of 1/64."""
    norm = name.split("/")[-1] in ("gamma:0", "scale")
    spread = 24 if len(shape) == 2 and "embedding" in name else 12
    return (draw.randint(-spread, spread + 1, shape) / 64 + norm).astype(np.float32)


def flat(outputs):
    """The arrays of an output by field; tuples become `field.0`, `field.1`, and so on."""
    found = {}
    for field, value in outputs.items():
        parts = {f"{field}.{i}": part for i, part in enumerate(value)} if isinstance(value, tuple) else {field: value}
        found |= {key: np.asarray(part, np.float32) for key, part in parts.items()}
    return found


def tensorflow_model(transformers, name, config, folder, inputs, **saving):
    """Make, save and run one of the TensorFlow classes."""
    import tensorflow as tf

    model, draw = getattr(transformers, name)(config), np.random.RandomState(1)
    text, labels = arguments_of(name, inputs)
    model.build_in_name_scope()  # as from_pretrained does: names begin with that of the model
    for weight in model.weights:
        weight.assign(drawn(weight.shape, weight.name, draw))
    model.save_pretrained(folder, **saving)
    inputs = {key: tf.constant(value) for key, value in {**text, **labels}.items()}
    everything = name.endswith("Model")
    return flat(model(**inputs, output_hidden_states=everything, output_attentions=everything))


def flax_model(transformers, name, config, folder, inputs):
    """Make, save and run one of the Flax classes, which compute no losses."""
    from flax.traverse_util import flatten_dict, unflatten_dict

    text, _ = arguments_of(name, inputs)
    model, draw = getattr(transformers, name)(config, input_shape=text["input_ids"].shape), np.random.RandomState(2)
    weights = sorted(flatten_dict(model.params).items())
    model.params = unflatten_dict({path: drawn(value.shape, "/".join(path), draw) for path, value in weights})
    model.save_pretrained(folder)
    everything = name.endswith("Model")
    return flat(model(**text, output_hidden_states=everything, output_attentions=everything))


def models(transformers):
    """Folder, function that makes the model, class, configuration, options of saving."""
    for family, values in CONFIGS.items():
        config = getattr(transformers, f"{family}Config")
        heads = [*HEADS, "ForPreTraining"] if family in ("Electra", "Albert") else HEADS
        for head in heads:
            pair = head in ("ForQuestionAnswering", "ForPreTraining")  # start and end; right and swapped order
            labels = dict(num_labels=2) if pair else {}
            yield f"TF{family}{head}", tensorflow_model, f"TF{family}{head}", config(**values | labels), {}
            if family != "ConvBert":
                yield f"Flax{family}{head}", flax_model, f"Flax{family}{head}", config(**values | labels), {}
    for family, name, changes in VARIANTS:
        config = getattr(transformers, f"{family}Config")(**{**CONFIGS[family], **changes})
        yield f"TF{family}Model-{name}", tensorflow_model, f"TF{family}Model", config, {}
    name, config = "TFConvBertForMaskedLM", transformers.ConvBertConfig(**CONFIGS["ConvBert"])
    yield f"{name}-shards", tensorflow_model, name, config, dict(max_shard_size="40KB")
    yield f"{name}-safetensors", tensorflow_model, name, config, dict(safe_serialization=True)


def write_archive(root):
    """All files under a folder, compressed, with a fixed date."""
    with zipfile.ZipFile(ARCHIVE, "w", zipfile.ZIP_LZMA) as archive:
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            archive.writestr(
                zipfile.ZipInfo(path.relative_to(root).as_posix()), path.read_bytes(), compress_type=zipfile.ZIP_LZMA
            )


def main():
    """Make every model and the archive."""
    import flax
    import jax
    import tensorflow
    import tf_keras
    import transformers

    modules = (transformers, tensorflow, tf_keras, flax, jax, np)
    versions = {module.__name__: module.__version__ for module in modules} | {"python": sys.version.split()[0]}
    inputs = make_inputs()
    arrays = {f"inputs/{name}": value for name, value in inputs.items()}
    arrays["versions"] = np.array(json.dumps(versions))
    with tempfile.TemporaryDirectory() as folder:
        for place, make, name, config, saving in models(transformers):
            outputs = make(transformers, name, config, os.path.join(folder, place), inputs, **saving)
            arrays |= {f"{place}/{field}": value for field, value in outputs.items()}
        np.savez(os.path.join(folder, "outputs.npz"), **arrays)
        write_archive(Path(folder))
    print(versions, ARCHIVE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
