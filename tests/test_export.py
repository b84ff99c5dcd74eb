"""Graphs: the same numbers as the model in torch, for every head, batch and length; int8 by agreement; refusals; all or nothing."""

import json

import pytest
import torch
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

pytest.importorskip("onnxruntime", reason="graphs are run by ONNX Runtime")
pytest.importorskip("onnxscript", reason="graphs are drawn through onnxscript")

from convbert import ConvBertConfig, ConvBertForMaskedLM, ConvBertTokenizerFast, pipeline
from convbert.export import export
from convbert.serving import CLASSES, OnnxModel

SIZES = dict(hidden_size=32, num_attention_heads=4, num_hidden_layers=1, intermediate_size=48, num_labels=3)
CHOICE = "ConvBertForMultipleChoice"


@pytest.fixture(scope="session")
def tokenizer():
    return ConvBertTokenizerFast.from_pretrained("convbert-tiny")


def small(name, tokenizer, **config):
    torch.manual_seed(0)
    model = CLASSES[name](ConvBertConfig(**SIZES, vocab_size=len(tokenizer), max_position_embeddings=48, **config))
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


@pytest.fixture(scope="module", params=[*CLASSES, "legacy", "groups"])
def twins(request, tokenizer, tmp_path_factory):
    """A model in torch and as a graph."""
    config = {"legacy": dict(conv_padding="legacy"), "groups": dict(num_groups=2)}.get(request.param, {})
    model = small(request.param if request.param in CLASSES else "ConvBertModel", tokenizer, **config)
    folder = tmp_path_factory.mktemp("graph") / "model"
    export(model, folder, tokenizer=tokenizer)
    return model, OnnxModel(folder)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mask=masks())
def test_a_graph_gives_the_numbers_of_the_model(twins, mask):
    model, graph = twins
    batch = batch_of(mask, 2 if type(model).__name__ == CHOICE else None)
    with torch.inference_mode():
        assert_same(graph(**batch), model(**batch))


def test_what_is_not_given_is_as_in_torch(twins):
    model, graph = twins
    ids = batch_of(torch.ones(2, 7).bool(), 3 if type(model).__name__ == CHOICE else None)["input_ids"]
    with torch.inference_mode():
        assert_same(graph(ids), model(ids))


def test_a_batch_is_checked_as_in_torch(twins):
    _, graph = twins
    for ids, said in ((torch.ones(1, 49), "49 tokens are longer"), (torch.full((1, 3), 8192), "8192 is outside")):
        ids = ids.long()[:, None] if graph.model_class.__name__ == CHOICE else ids.long()
        with pytest.raises(ValueError, match=said):
            graph(ids)


@pytest.mark.parametrize("name", CLASSES)
def test_torch_export_draws_every_model(name, tokenizer):
    model, choices = small(name, tokenizer), 2 if name == CHOICE else None
    batch = batch_of(torch.arange(7) < torch.tensor([[7], [4]]), choices)
    sizes = [torch.export.Dim(size) for size in (["batch", "choices"] if choices else ["batch"])]
    free = dict(enumerate([*sizes, torch.export.Dim("tokens", max=48)]))
    drawn = torch.export.export(model, (), batch, dynamic_shapes=dict.fromkeys(batch, free)).module()
    for B, T in ((1, 1), (1, 40), (3, 9), (2, 1)):
        batch = batch_of(torch.arange(T) < torch.tensor([[T], [1], [T // 2]][:B]), choices)
        with torch.inference_mode():
            assert_same(drawn(**batch), model(**batch))


def test_the_graph_is_lean(twins, tokenizer, tmp_path):
    import onnx

    model, _ = twins
    if type(model) is not ConvBertForMaskedLM:
        pytest.skip("one model is enough")
    export(model, tmp_path / "m", tokenizer=tokenizer)
    graph = onnx.load(tmp_path / "m" / "model.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("Conv") == 1 and kinds.count("Gelu") == 2 and kinds.count("NonZero") == 1
    assert len(kinds) < 200
    assert [[d.dim_param for d in i.type.tensor_type.shape.dim] for i in graph.input] == [["batch", "tokens"]] * 3
    assert [i.name for i in graph.input] == ["input_ids", "attention_mask", "token_type_ids"]


# -- the bundled models, in pipelines


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """`convbert-tiny` as a graph in either precision."""
    folder = tmp_path_factory.mktemp("tiny")
    apart = {name: export("convbert-tiny", folder / name, precision=name) for name in ("float32", "int8")}
    assert apart["float32"] < 1e-5 < 1e-3 < apart["int8"] < 0.1, apart
    return folder


def test_a_pipeline_answers_with_a_folder_or_a_loaded_graph(tiny, tokenizer):
    texts = ["The ship sailed across the [MASK].", "A [MASK].", "[MASK] fell all night on the [MASK]."]
    wanted = pipeline("fill-mask", device="cpu")(texts, targets=["sea", "rain", "river"])
    loaded = pipeline("fill-mask", OnnxModel(tiny / "float32"), tokenizer=tokenizer)
    for helper in (pipeline("fill-mask", tiny / "float32"), pipeline("fill-mask", str(tiny / "float32")), loaded):
        found = helper(texts, targets=["sea", "rain", "river"])
        for a, b in zip(flat(found), flat(wanted), strict=True):
            assert a["sequence"] == b["sequence"] and a["score"] == pytest.approx(b["score"], abs=1e-4)


def flat(answers):
    return [row for item in answers for row in (flat(item) if isinstance(item, list) else [item])]


def test_int8_agrees_on_the_words(tiny, tokenizer):
    """Of the words hidden in sentences of the tutorials' data, int8 and float32 guess the same 97 of 100."""
    file = ROOT / "nbs" / "tutorials" / "data" / "subjects-dev.jsonl"
    texts = [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]
    model, graph = ConvBertForMaskedLM.from_pretrained("convbert-tiny"), OnnxModel(tiny / "int8")
    same, generator = [], torch.Generator().manual_seed(0)
    for start in range(0, len(texts), 32):
        batch = dict(tokenizer(texts[start : start + 32], padding=True, return_tensors="pt"))
        words = (batch["input_ids"] != tokenizer.cls_token_id) & (batch["input_ids"] != tokenizer.sep_token_id)
        hidden = words & batch["attention_mask"].bool() & (torch.rand(words.shape, generator=generator) < 0.15)
        batch["input_ids"] = batch["input_ids"].masked_fill(hidden, tokenizer.mask_token_id)
        with torch.inference_mode():
            same.append((graph(**batch).logits.argmax(-1) == model(**batch).logits.argmax(-1))[hidden])
    same = torch.cat(same).float()
    assert len(same) > 2000 and same.mean() >= 0.965, (len(same), same.mean())
