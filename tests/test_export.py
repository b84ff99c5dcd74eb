"""Exported graphs: outputs equal the model's for every head, batch and length; int8; errors; all or nothing."""

import copy
import json
import os
import pickle
import subprocess
import sys
from functools import cache
from shutil import copytree

import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

pytest.importorskip("onnxruntime", reason="graphs are run by ONNX Runtime")
pytest.importorskip("onnxscript", reason="graphs are exported through onnxscript")

from convbert import ConvBertForMaskedLM, pipeline
from convbert import export as package
from convbert.auto import model_class
from convbert.browser import store_in_int8
from convbert.export import export
from convbert.families.registry import split_name
from convbert.serving import EXPORTABLE, OnnxModel

SIZES = dict(hidden_size=32, num_attention_heads=4, num_hidden_layers=1, intermediate_size=48, num_labels=3)
CHOICE = "ConvBertForMultipleChoice"
OTHERS = ["ElectraForMaskedLM", "AlbertForSequenceClassification", "DistilBertForQuestionAnswering"]
NAMES = [name for name in EXPORTABLE if name.startswith("ConvBert")] + OTHERS  # one head of each other family
CONVBERT = [sys.executable, "-c", "from convbert.cli import main; raise SystemExit(main())"]


def small(name, tokenizer, **config):
    torch.manual_seed(0)
    kind = model_class(*split_name(name))
    model = kind(kind.config_class(**SIZES, vocab_size=len(tokenizer), max_position_embeddings=48, **config))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape) * 0.05)  # so that biases and padding matter
    return model.eval()


def batch_of(mask, choices=None):
    """Random tokens at the true places of a mask; for multiple choice each row is a question of so many choices."""
    ids = torch.randint(5, 8192, mask.shape, generator=torch.Generator().manual_seed(0)) * mask
    types = (torch.arange(mask.shape[1]) > mask.shape[1] // 2).long().expand(mask.shape)
    batch = dict(input_ids=ids, attention_mask=mask.long(), token_type_ids=types * mask)
    return {k: v[:, None].repeat(1, choices, 1) for k, v in batch.items()} if choices else batch


def read_by(model, batch):
    """What a model of this family reads of a batch."""
    return {name: batch[name] for name in model.config.input_names}


@st.composite
def masks(draw):
    """Padded batches of 1 to 3 rows and 1 to 40 places, some rows empty, some with holes."""
    B, T = draw(st.integers(1, 3)), draw(st.integers(1, 40))
    mask = torch.arange(T) < torch.tensor([draw(st.integers(0, T)) for _ in range(B)])[:, None]
    return mask & (torch.arange(T) != draw(st.integers(-1, T)))


def assert_same(ours, theirs):
    assert type(ours) is type(theirs) and ours.keys() == theirs.keys()
    for name in theirs.keys():
        assert_close(ours[name], theirs[name], atol=2e-5, rtol=1e-4)


VARIANTS = {
    "ConvBertForTokenClassification": dict(num_groups=2),
    "ConvBertForQuestionAnswering": dict(conv_padding="legacy"),
}


@pytest.fixture(scope="module")
def exported(tokenizer, tmp_path_factory):
    """`exported(name)`: a small model and the folder with its graph, exported when first asked for, never changed."""

    @cache
    def export_once(name):
        model, folder = small(name, tokenizer, **VARIANTS.get(name, {})), tmp_path_factory.mktemp(name) / "graph"
        assert export(model, folder, tokenizer=tokenizer) < 1e-5
        return model, folder

    return export_once


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_gives_the_numbers_of_the_model(name, exported, tokenizer, tmp_path):
    model, folder = exported(name)
    graph, choices = OnnxModel(folder), 2 if name == CHOICE else None

    @settings(deadline=None, max_examples=40)
    @given(masks())
    def same(mask):
        batch = read_by(model, batch_of(mask, choices))
        with torch.inference_mode():
            assert_same(graph(**batch), model(**batch))

    same()
    ids = batch_of(torch.ones(2, 7).bool(), choices)["input_ids"]
    with torch.inference_mode():
        assert_same(graph(ids), model(ids))  # absent inputs have the defaults of torch
    for wrong, message in ((torch.ones_like(ids).repeat_interleave(7, -1), "49 tokens"), (ids + 8192, "is outside")):
        with pytest.raises(ValueError, match=message):
            graph(wrong)
    if name == "ConvBertForMaskedLM":
        check_operators(folder / "model.onnx")
    quantized = copytree(folder, tmp_path / "quantized")
    package.quantize(folder / "model.onnx", quantized / "model.onnx")
    batch = package.sample_batch(list(package.SENTENCES), tokenizer, model)
    assert 0 < package.check_graph(quantized, model, [batch], "int8") < 0.1


def check_operators(file):
    """One operator per step, index tensors computed once, dynamic axes with names."""
    import onnx

    graph = onnx.load(file).graph
    kinds = [node.op_type for node in graph.node]
    assert [kinds.count(kind) for kind in ("Conv", "Gelu", "NonZero", "Softmax")] == [1, 2, 2, 2]
    assert len(kinds) < 200
    assert [[d.dim_param for d in i.type.tensor_type.shape.dim] for i in graph.input] == [["batch", "tokens"]] * 3
    assert [i.name for i in graph.input] == ["input_ids", "attention_mask", "token_type_ids"]


@pytest.mark.parametrize("name", NAMES)
def test_torch_export_traces_every_model(name, tokenizer):
    model, choices = small(name, tokenizer), 2 if name == CHOICE else None
    batch = read_by(model, batch_of(torch.arange(7) < torch.tensor([[7], [4]]), choices))
    sizes = [torch.export.Dim(size) for size in (["batch", "choices"] if choices else ["batch"])]
    axes = dict(enumerate([*sizes, torch.export.Dim("tokens", max=48)]))
    program = torch.export.export(model, (), batch, dynamic_shapes=dict.fromkeys(batch, axes)).module()
    for B, T in ((1, 1), (1, 40), (3, 9), (2, 1)):
        batch = read_by(model, batch_of(torch.arange(T) < torch.tensor([[T], [1], [T // 2]][:B]), choices))
        with torch.inference_mode():
            assert_same(program(**batch), model(**batch))


@pytest.mark.parametrize("name", ["ConvBertForTokenClassification", "DistilBertForQuestionAnswering"])
def test_a_folder_for_the_browser_has_the_maps_of_all_heads(name, tokenizer, tmp_path):
    model, folder = small(name, tokenizer), tmp_path / "new"
    assert export(model, folder, tokenizer=tokenizer, layout="browser", output_attentions=True) < 1e-5
    assert not {"config.json", "tokenizer.json", "tokenizer_config.json", "onnx"} - {f.name for f in folder.iterdir()}
    assert [file.name for file in (folder / "onnx").iterdir()] == ["model.onnx"]
    graph, batch = OnnxModel(folder), read_by(model, batch_of(torch.arange(9) < torch.tensor([[9], [6]])))
    with torch.inference_mode():
        found, wanted = graph(**batch), model(**batch, output_attentions=True)
    assert found.keys() == wanted.keys() and {"attentions"} <= found.keys()
    for part, expected in wanted.items():
        stacked = torch.stack(expected) if isinstance(expected, tuple) else expected
        assert_close(found[part], stacked, atol=2e-5, rtol=1e-4)
    small_file = tmp_path / "small.onnx"
    store_in_int8(folder / "onnx" / "model.onnx", small_file)
    assert small_file.stat().st_size < 0.4 * (folder / "onnx" / "model.onnx").stat().st_size
    assert pickle.loads(pickle.dumps(graph))(**batch).attentions.equal(found.attentions)


# -- the bundled models, in pipelines


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder that the command makes of the bundled model; never changed."""
    place = tmp_path_factory.mktemp("tiny")
    done = subprocess.run([*CONVBERT, "export", "convbert-tiny", "a"], capture_output=True, text=True, cwd=place)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert f"a: model.onnx of {(place / 'a' / 'model.onnx').stat().st_size / 1e6:.1f} MB, outputs" in done.stdout
    return place / "a"


def test_a_pipeline_answers_with_a_folder_or_a_loaded_graph(tiny, tmp_path, tokenizer):
    texts = ["The ship sailed across the [MASK].", "A [MASK].", "[MASK] fell all night on the [MASK]."]
    wanted = pipeline("fill-mask", device="cpu")(texts, targets=["sea", "rain", "river"])
    loaded = pipeline("fill-mask", OnnxModel(tiny), tokenizer=tokenizer)
    for helper in (pipeline("fill-mask", tiny), pipeline("fill-mask", str(tiny)), loaded):
        assert f"ConvBertForMaskedLM as OnnxModel (PyTorch)\n  from:    {tiny}\n" in repr(helper)
        found = helper(texts, targets=["sea", "rain", "river"])
        for a, b in zip(flat(found), flat(wanted), strict=True):
            assert a["sequence"] == b["sequence"] and a["score"] == pytest.approx(b["score"], abs=1e-4)
    check_pickles(pipeline("fill-mask", copytree(tiny, tmp_path / "a")), texts)


def check_pickles(pipe, texts):
    """A graph is pickled and copied by its folder, and never comes back as another one."""
    sent = pickle.dumps(pipe)
    assert len(sent) < 3000 and pipe(texts) == pickle.loads(sent)(texts) == copy.deepcopy(pipe)(texts)
    file = pipe.model.folder / "model.onnx"
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(ValueError, match="has changed since it was pickled"):
        pickle.loads(sent)
    with pytest.raises(ValueError, match="has changed since it was opened"):
        pickle.dumps(pipe)


def flat(answers):
    return [row for item in answers for row in (flat(item) if isinstance(item, list) else [item])]


def test_int8_predicts_the_same_tokens(tiny, tmp_path, tokenizer):
    """For 97 of 100 masked tokens in the tutorials' sentences, int8 and float32 predict the same one."""
    file = ROOT / "nbs" / "tutorials" / "data" / "subjects-dev.jsonl"
    texts = [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]
    model = ConvBertForMaskedLM.from_pretrained("convbert-tiny")
    quantized = copytree(tiny, tmp_path / "int8")
    package.quantize(tiny / "model.onnx", quantized / "model.onnx")
    sentences = package.sample_batch(list(package.SENTENCES), tokenizer, model)
    assert 1e-3 < package.check_graph(quantized, model, [sentences], "int8") < 0.1
    graph = OnnxModel(quantized)
    same, generator = [], torch.Generator().manual_seed(0)
    for start in range(0, len(texts), 32):
        batch = dict(tokenizer(texts[start : start + 32], padding=True, return_tensors="pt"))
        words = (batch["input_ids"] != tokenizer.cls_token_id) & (batch["input_ids"] != tokenizer.sep_token_id)
        masked = words & batch["attention_mask"].bool() & (torch.rand(words.shape, generator=generator) < 0.15)
        batch["input_ids"] = batch["input_ids"].masked_fill(masked, tokenizer.mask_token_id)
        with torch.inference_mode():
            same.append((graph(**batch).logits.argmax(-1) == model(**batch).logits.argmax(-1))[masked])
    same = torch.cat(same).float()
    assert len(same) > 2000 and same.mean() >= 0.97, (len(same), same.mean())


# -- errors, and all or nothing


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["convbert-tny", "new"], "Did you mean 'convbert-tiny'"),
        (["convbert-tiny", "full"], "'full' is there already"),
        (["convbert-tiny", "full/file"], "is there already"),
        (["convbert-tiny", "new", "--precision", "int4"], "--precision int4 is unknown. Did you mean 'int8'"),
        (["convbert-tiny", "new", "--layout", "brwser"], "--layout brwser is unknown. Did you mean 'browser'"),
        (["full", "new"], "names none of ConvBertModel"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(words, message, run_command, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "config.json").write_text("{}")
    (tmp_path / "full" / "file").touch()
    code, error = run_command("export", *words)
    assert code == 1 and message in error and len(error.strip().splitlines()) == 1, error
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_missing_library_is_named_with_the_command_that_brings_it(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['onnxruntime'] = None\n")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    code = "from convbert.serving import open_session; open_session('x')"
    for words in ([*CONVBERT, "export", "convbert-tiny", "new"], [sys.executable, "-c", code]):
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=120)
        assert done.returncode == 1 and 'pip install "convbert[onnx]"' in done.stderr, done.stderr


def test_loaded_models_that_cannot_be_exported(tokenizer, tmp_path):
    model = small("ConvBertModel", tokenizer)
    for wrong, options, kind, message in (
        (model, {}, ValueError, "pass tokenizer="),
        (model.half(), dict(tokenizer=tokenizer), ValueError, "pass model.float()"),
        (torch.nn.Linear(1, 1), dict(tokenizer=tokenizer), TypeError, "a Linear is no model that can be exported"),
    ):
        with pytest.raises(kind, match=message):
            export(wrong, tmp_path / "new", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("step", "precision"), [("export_graph", "float32"), ("check_graph", "int8")])  # first, last
def test_a_fault_leaves_nothing_and_the_model_as_it_was(step, precision, tokenizer, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("the disk is gone")

    model = small("ConvBertModel", tokenizer).train()
    monkeypatch.setattr(package, step, fail)
    with pytest.raises(OSError, match="the disk is gone"):
        export(model, tmp_path / "deep" / "new", tokenizer=tokenizer, precision=precision)
    assert not list(tmp_path.iterdir())
    assert model.training and {part.backend for part in model.modules() if hasattr(part, "backend")} == {"auto"}


def test_a_graph_of_another_model_is_found_out(exported, tokenizer):
    model, folder = exported("ConvBertModel")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.encoder.layers[0].mixer.output.weight.mul_(1.1)
    batch = package.sample_batch(list(package.SENTENCES), tokenizer, other)
    with pytest.raises(
        ValueError, match=r"the float32 graph differs from torch by 0.0.* \(relative\), more than 0.0001"
    ):
        package.check_graph(folder, other, [batch], "float32")


def test_a_call_that_has_ended_computes_nothing_more(exported):
    """Threads of ONNX Runtime spin while they wait for work, unless they are told to stop when a call ends."""
    options = OnnxModel(exported("ConvBertModel")[1]).session.get_session_options()
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_a_task_refuses_a_graph_of_another_kind(exported):
    folder = exported("ConvBertModel")[1]
    with pytest.raises(TypeError, match="needs a ConvBertForMaskedLM, got a ConvBertModel"):
        pipeline("fill-mask", folder)
    with pytest.raises(ValueError, match="a graph runs on the CPU"):
        OnnxModel(folder).to("meta")
    with pytest.raises(TypeError, match="dtype cannot be applied"):
        pipeline("feature-extraction", folder, dtype="float16")


def test_a_loaded_model_is_no_folder(tmp_path, tokenizer, monkeypatch):
    (tmp_path / "model.onnx").touch()
    monkeypatch.chdir(tmp_path)  # as whoever stands in a folder with a graph
    model = ConvBertForMaskedLM.from_pretrained("convbert-tiny")
    assert pipeline("fill-mask", model, tokenizer=tokenizer)("A [MASK].")
