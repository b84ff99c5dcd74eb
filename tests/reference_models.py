"""Models of transformers' TensorFlow and Flax classes, and what they computed; see reference/tensorflow_and_flax.py."""

import zipfile
from functools import cache
from pathlib import Path

import numpy as np

ARCHIVE = Path(__file__).parent / "reference" / "tensorflow_and_flax.zip"
LABELS = {  # end of a class's name -> argument of the call: stored labels
    "ForMaskedLM": {"labels": "words"},
    "ForSequenceClassification": {"labels": "label"},
    "ForMultipleChoice": {"labels": "choice"},
    "ForTokenClassification": {"labels": "tags"},
    "ForQuestionAnswering": {"start_positions": "start", "end_positions": "end"},
    "AlbertForPreTraining": {"labels": "words", "sentence_order_label": "order"},
}


def class_name(name: str) -> str:
    """The class of a folder: `TFAlbertModel` of `TFAlbertModel-groups`."""
    return name.partition("-")[0]


@cache
def folders(ending: str) -> list[str]:
    """Folders with a file of this ending."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        return sorted({name.partition("/")[0] for name in archive.namelist() if name.endswith(ending)})


def unpack(name: str, place: Path) -> Path:
    """A model's folder, written below another one."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(place, [file for file in archive.namelist() if file.startswith(f"{name}/")])
    return place / name


@cache
def arrays() -> dict[str, np.ndarray]:
    """All inputs and outputs."""
    with zipfile.ZipFile(ARCHIVE) as archive, archive.open("outputs.npz") as file, np.load(file) as stored:
        return dict(stored)


def group(name: str) -> dict[str, np.ndarray]:
    """Those of one folder, by field: `logits`, `hidden_states.0`; or those of `inputs`."""
    return {key.removeprefix(f"{name}/"): value for key, value in arrays().items() if key.startswith(f"{name}/")}


def arguments(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What a folder's model was called with: inputs, and labels."""
    stored, kind = group("inputs"), class_name(name)
    text = {key: stored[key] for key in ("input_ids", "attention_mask", "token_type_ids")}
    if "DistilBert" in kind:
        del text["token_type_ids"]
    if kind.endswith("MultipleChoice"):
        choices = stored["choice_ids"].shape[1]
        text = {key: np.repeat(value[:, None], choices, 1) for key, value in text.items()}
        text["input_ids"] = stored["choice_ids"]
    labels = next((labels for head, labels in LABELS.items() if kind.endswith(head)), {})
    return text, {argument: stored[key] for argument, key in labels.items()}


def real_tokens(array: np.ndarray, field: str = "") -> np.ndarray:
    """What an output says of real tokens; all of it where it is not about tokens."""
    real = group("inputs")["attention_mask"] > 0
    by_token = np.moveaxis(array, 2, 1) if field.startswith("attentions") else array
    return by_token[real] if by_token.shape[:2] == real.shape else array


def compare(found, name: str, limit: float = 2e-5) -> None:
    """Check an output of ours against all that is stored of the same model."""
    expected = group(name)
    assert expected
    for field, theirs in expected.items():
        part, _, index = field.partition(".")
        ours = getattr(found, part)
        if part == "hidden_states":  # theirs has one for each group of layers, ours one for each layer
            count = sum(key.startswith("hidden_states.") for key in expected)
            ours = ours[int(index) * ((len(ours) - 1) // (count - 1))]
        elif index:
            ours = ours[int(index)]
        if part == "loss":
            theirs = theirs.mean()  # TensorFlow's classes leave the mean over texts to Keras
        ours, theirs = real_tokens(np.asarray(ours), field), real_tokens(theirs, field)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=limit, err_msg=f"{name}, {field}")
