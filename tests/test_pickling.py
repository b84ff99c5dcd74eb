"""Pipelines in other processes: small pickles of what can be loaded again, whole ones of the rest."""

import copy
import functools
import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from hub_server import HubServer, point_at
from test_offload import ASK
from test_streams import nli_model
from torch import nn
from torch.testing import assert_close

from convbert import ConvBertForSequenceClassification, ConvBertTokenizerFast, pipeline
from convbert.backends.dispatch import use_backend

TEXTS = ["A quiet, beautiful film.", "Bad.", "The sea was calm , and nobody knew why ."]
SMALL = 3000  # bytes; the least of our models has four million


@pytest.fixture
def classify():
    return pipeline("text-classification", device="cpu")


def answers(pipe, **options):
    return pipe(TEXTS, top_k=None, progress=False, **options)


def scores(found):
    return torch.tensor([[row["score"] for row in sorted(rows, key=lambda row: row["label"])] for rows in found])


def same(pipe, other):
    assert_close(scores(answers(pipe)), scores(answers(other)), atol=1e-6, rtol=1e-5)


SPAWNED = """
import json, os, pickle, sys
os.chdir(sys.argv[1])
found = {}
for name in sorted(os.listdir("sent")):
    with open(os.path.join("sent", name), "rb") as file:
        pipe, inputs, options = pickle.load(file)
    found[name] = [pipe(inputs, **options), str(pipe.model.device), str(getattr(pipe.model, "dtype", None))]
print(json.dumps(found))
"""


def elsewhere(folder, sent, **environment):
    """What pipelines answer in a process of its own, with another working directory."""
    (folder / "sent").mkdir(parents=True)
    for name, each in sent.items():
        (folder / "sent" / name).write_bytes(pickle.dumps(each))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)), **environment}
    done = subprocess.run([sys.executable, "-c", SPAWNED, folder], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_task_answers_in_another_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nli_model().model.save_pretrained("nli_model")
    ConvBertTokenizerFast.from_pretrained("convbert-tiny").save_pretrained("nli_model")
    sent = {task: (pipeline(task, device="cpu"), given, {}) for task, given in ASK.items()}
    relative = pipeline("zero-shot-classification", "nli_model", device="cpu")  # a folder that the child has elsewhere
    sent["zero-shot"] = relative, TEXTS[0], {"candidate_labels": ["sea", "land"]}
    sent["half"] = pipeline("text-classification", device="cpu", dtype="bfloat16"), TEXTS[0], {"top_k": None}
    sent["options"] = functools.partial(sent["text-classification"][0], top_k=2, batch_size=1), TEXTS, {}
    pipes = {name: getattr(pipe, "func", pipe) for name, (pipe, _, _) in sent.items()}
    sizes = {name: len(pickle.dumps(pipe)) for name, pipe in pipes.items()}
    assert max(sizes.values()) < SMALL, sizes
    sent.pop("options")
    found = elsewhere(tmp_path / "child", sent)
    for name, (pipe, given, options) in sent.items():
        assert json.dumps(found[name]) == json.dumps([pipe(given, **options), "cpu", str(pipe.model.dtype)])


def test_a_partial_keeps_its_options(classify):
    asked = functools.partial(classify, top_k=2, batch_size=1, batch_tokens=64)
    assert len(pickle.dumps(asked)) < SMALL and pickle.loads(pickle.dumps(asked))(TEXTS) == asked(TEXTS)


# -- switches that were set after loading


def test_switches_survive(classify):
    use_backend(classify.model, "reference")
    classify.model.compile_layers("eager")
    classify.model.config = classify.model.config.replace(id2label={0: "no", 1: "yes"})
    classify.max_length, classify.mark = 64, "mine"
    classify.tokenizer.model_max_length = 64
    classify.model.requires_grad_(False).train()
    sent = pickle.dumps(classify)
    again = pickle.loads(sent)
    assert len(sent) < SMALL and again.model.encoder.compile_backend == "eager"
    for pipe in (again, classify):
        pipe.model.encoder.compile_backend = None  # compiling takes its time
    assert answers(again) == answers(classify)
    assert again.model.encoder.layers[0].mixer.backend == "reference"
    assert again.model.config == classify.model.config and {row["label"] for row in again(TEXTS)} <= {"no", "yes"}
    assert (again.max_length, again.mark, again.tokenizer.model_max_length) == (64, "mine", 64)


def test_choices_made_when_loading_survive(tmp_path):
    names = {0: "bad", 1: "good"}
    model = ConvBertForSequenceClassification.from_pretrained(
        "convbert-tiny-sentiment", id2label=names, dtype="float64"
    )
    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny-sentiment", do_lower_case=False)
    pipe = pipeline("text-classification", model, tokenizer=tokenizer)
    again = pickle.loads(pickle.dumps(pipe))
    assert len(pickle.dumps(pipe)) < SMALL and again.model.dtype == torch.float64
    assert answers(again) == answers(pipe) and {row["label"] for row in again(TEXTS)} == {"bad", "good"}
    halved = pipeline("text-classification", model.half(), tokenizer=tokenizer)
    assert len(pickle.dumps(halved)) < SMALL and pickle.loads(pickle.dumps(halved)).model.dtype == torch.float16


# -- models that are in no folder


def edit_data(model):
    model.classifier.out_proj.bias.data[0] += 3  # leaves no trace in a version counter


def edit_array(model):
    model.classifier.out_proj.bias.detach().numpy()[0] += 3


def replace_data(model):
    model.classifier.out_proj.bias.data = torch.tensor([3.0, 0.0])


def replace_layer(model):
    model.classifier.out_proj = nn.Linear(model.config.hidden_size, 2)


def train(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model(torch.arange(20)[None], labels=torch.tensor([0])).loss.backward()
    optimizer.step()


def load_state(model):
    model.load_state_dict({k: v + 0.01 if v.is_floating_point() else v for k, v in model.state_dict().items()})


@torch.inference_mode()
def edit_in_inference_mode(model):
    edit_data(model)


def hook(model):
    model.classifier.register_forward_hook(add_three)


def add_three(module, inputs, output):
    return output + torch.tensor([3.0, 0.0])


class Louder(nn.Module):
    """A layer of the user's own."""

    def forward(self, x):
        return 3 * x


def wrap_layer(model):
    model.classifier.out_proj = nn.Sequential(model.classifier.out_proj, Louder())


CHANGES = (
    edit_data,
    edit_array,
    replace_data,
    replace_layer,
    train,
    load_state,
    edit_in_inference_mode,
    hook,
    wrap_layer,
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_comes_back_changed(classify, change):
    before = scores(answers(classify))
    change(classify.model)
    classify.model.zero_grad()
    again = pickle.loads(pickle.dumps(classify))
    same(again, classify)
    assert not torch.allclose(scores(answers(again)), before, atol=1e-3)


def test_a_model_that_was_built_here(tmp_path):
    pipe = nli_model()
    ask = functools.partial(pipe, candidate_labels=["sea", "land"])
    assert pipe.model.origin is None and pickle.loads(pickle.dumps(ask))(TEXTS) == ask(TEXTS)


def test_added_tokens(classify):
    classify.tokenizer.add_tokens(["beautiful film"])
    classify.model.resize_token_embeddings(len(classify.tokenizer))
    again = pickle.loads(pickle.dumps(classify))
    assert len(again.tokenizer) == len(classify.tokenizer)
    same(again, classify)


@pytest.fixture
def saved(classify, tmp_path):
    """A folder with a model, and a pipeline that was loaded from it."""
    folder = tmp_path / "model"
    classify.model.save_pretrained(folder)
    classify.tokenizer.save_pretrained(folder)
    return folder, pipeline("text-classification", folder, device="cpu")


def test_a_folder_that_was_written_anew(saved):
    """Before pickling: the model in memory is what counts. Afterwards: no answer instead of another model's."""
    folder, pipe = saved
    sent, before = pickle.dumps(pipe), answers(pipe)
    assert len(sent) < SMALL
    other = ConvBertForSequenceClassification.from_pretrained(folder)
    edit_data(other)
    other.save_pretrained(folder)
    assert answers(pickle.loads(pickle.dumps(pipe))) == before
    with pytest.raises(ValueError, match="holds another ConvBertForSequenceClassification than when this was pickled"):
        pickle.loads(sent)


def test_a_folder_that_is_gone(saved):
    folder, pipe = saved
    sent, before = pickle.dumps(pipe), answers(pipe)
    folder.rename(folder.with_name("elsewhere"))
    assert answers(pickle.loads(pickle.dumps(pipe))) == before
    with pytest.raises(ValueError, match="model' is no model that we can find"):
        pickle.loads(sent)


def test_a_device_that_is_not_there(classify):
    sent = pickle.dumps(classify).replace(b"\x8c\x03cpu", b"\x8c\x03xpu")
    with pytest.raises(ValueError, match="device='xpu' does not work here"):
        pickle.loads(sent)


# -- the hub


def test_a_hub_model_is_pinned_and_its_token_stays(saved, tmp_path, monkeypatch):
    folder, plain = saved
    moved = tmp_path / "moved"
    plain.model.save_pretrained(moved)
    plain.tokenizer.save_pretrained(moved)
    with HubServer({"me/nli_model": {"main": folder, "old": moved}}) as hub:
        hub.tokens["me/nli_model"] = "hf_secret"
        point_at(monkeypatch, hub.url, tmp_path / "cache")
        pipe = pipeline("text-classification", "me/nli_model", revision="main", token="hf_secret", device="cpu")
        hub.log.clear()
        sent = pickle.dumps(pipe)
        assert len(sent) < SMALL and b"hf_secret" not in sent and b"me/nli_model" in sent and not hub.log
        assert pipe.model.origin.hub["revision"] in sent.decode("latin-1")
        edit_data(plain.model)
        plain.model.save_pretrained(folder)  # the branch moves on; what is pickled stays what it was
        hub.tokens.clear()  # as for somebody who has a token of their own
        assert answers(pickle.loads(sent)) == answers(pipe)
    point_at(monkeypatch, hub.url, tmp_path / "cache", offline=True)
    assert answers(pickle.loads(sent)) == answers(pickle.loads(pickle.dumps(pickle.loads(sent)))) == answers(pipe)


# -- copies


def test_copies(classify):
    shallow, deep = copy.copy(classify), copy.deepcopy(classify)
    assert shallow.model is classify.model and shallow is not classify and type(deep) is type(classify)
    assert answers(deep) == answers(classify)
    edit_data(deep.model)
    assert answers(deep) != answers(classify) == answers(shallow)


def test_a_changed_model_is_copied_from_memory(saved):
    folder, pipe = saved
    edit_data(pipe.model)
    folder.rename(folder.with_name("elsewhere"))
    assert answers(copy.deepcopy(pipe)) == answers(pipe)
