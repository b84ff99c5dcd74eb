"""The benchmark runs; its numbers here mean nothing."""

import json
import runpy
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from convbert import ConvBertConfig, ConvBertModel

pytest.importorskip("transformers", reason="benchmarks measure us beside transformers")


@pytest.mark.long
@pytest.mark.slow
def test_a_quick_run_writes_its_numbers(tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    out = tmp_path / "numbers.json"
    names = ["base_ragged", "train_step", "steps_forward", "block"]
    command = [sys.executable, ROOT / "benchmarks" / "compare.py", *names, "--quick", "--out", out]
    subprocess.run([*command, "--figures", tmp_path / "plots"], check=True, capture_output=True)
    cases = json.loads(out.read_text())["cases"]
    assert [*cases] == names
    for name in names[:3]:
        assert all(ratio["faster"] > 0 for mine in cases[name]["ratios"].values() for ratio in mine.values())
    assert "transformers" in cases["train_step"]["memory"]
    assert all(step["ms"] > 0 for step in cases["block"]["steps"].values())
    rates, spent = cases["base_ragged"]["tokens_per_second"], cases["base_ragged"]["seconds"]
    assert rates["ours"] / rates["transformers"] == pytest.approx(spent["transformers"] / spent["ours"], rel=0.01)
    pictures = ["block", "faster", "memory", "tokens", "without-forward"]
    assert sorted(path.stem for path in (tmp_path / "plots").iterdir()) == pictures


@pytest.mark.long
@pytest.mark.slow
def test_frameworks_do_the_same_work(tmp_path):
    for module in ("tensorflow", "keras", "jax", "flax"):
        pytest.importorskip(module)
    out = tmp_path / "numbers.json"
    command = [sys.executable, ROOT / "benchmarks" / "frameworks.py", "DistilBert", "--quick", "--out", out]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads(out.read_text())["DistilBert"]
    assert [*found["seconds"]] == ["ours, Keras", "ours, Flax", "our PyTorch"]
    assert all(0 < found["ratios"][ours]["our PyTorch"]["faster"] for ours in ("ours, Keras", "ours, Flax"))


def test_starting_is_measured_beside_what_cannot_be_saved():
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    startup = runpy.run_path(str(ROOT / "benchmarks" / "startup.py"))
    found = startup["measure"](startup["figures"]() | {"nothing": lambda: None}, rounds=1)
    assert [*found] == ["bare axes", "plot_share", "plot_token", "nothing"]
    assert found["bare axes"]["times"] == 1 and found["nothing"]["times"] < 1
    assert all(found[name]["seconds"] > 0 for name in ("bare axes", "plot_share", "plot_token"))


@pytest.mark.long
@pytest.mark.slow
def test_opening_a_page_is_measured(chromium, tmp_path):
    pytest.importorskip("psutil", reason="views are also measured in a JupyterLab, whose kernels are found with it")
    found = runpy.run_path(str(ROOT / "benchmarks" / "views.py"))["open_pages"](chromium, tmp_path)
    assert len(found) == 2 and all(seconds > 0 for seconds in found.values())


def test_parts_of_a_run_are_found(monkeypatch):
    """Each layer has activations, attention and products; the profiler's names for them change with torch."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    parts_of = runpy.run_path(str(ROOT / "benchmarks" / "machine.py"))["parts_of"]
    model = ConvBertModel(ConvBertConfig.preset("tiny", vocab_size=99)).eval()
    parts = parts_of(lambda: model(torch.arange(64).view(2, 32)))
    assert all(share > 0.001 for share in parts.values())
    assert sum(parts.values()) == pytest.approx(1, abs=0.01)


def test_the_committed_figures_show_the_committed_numbers(tmp_path):
    """The page's figures are plotted from the results in the repository."""
    matplotlib = pytest.importorskip("matplotlib", reason="figures need matplotlib")
    page, made = ROOT / "nbs" / "images" / "speed", f"Matplotlib v{matplotlib.__version__}"
    if made not in (page / "faster.svg").read_text(encoding="utf-8"):
        pytest.skip(f"the committed figures were plotted by another version than {made}")
    subprocess.run([sys.executable, ROOT / "benchmarks" / "figures.py", tmp_path], check=True)
    plotted, committed = ({path.name: path.read_text() for path in folder.iterdir()} for folder in (tmp_path, page))
    assert plotted == committed, "plot again by: python benchmarks/figures.py"


def claim() -> dict:
    """The functions of the benchmark that compares kinds of layers."""
    return runpy.run_path(str(ROOT / "benchmarks" / "claim.py"))


def test_the_operations_of_a_step_are_those_of_its_products():
    parts, (B, T, D, L, M, V) = claim(), (4, 128, 64, 2, 26, 8192)
    ids, at = torch.randint(5, V, (B, T)), torch.arange(M).expand(B, M)
    batch = dict(input_ids=ids, predict_at=at, labels=ids[:, :M])
    projections, attention, head = B * T * 12 * D * D, 2 * B * T * T * D, B * M * (D * D + D * V)
    whole = 3 * 2 * (L * (projections + attention) + head)
    assert parts["count_step"](parts["Trial"]("masked-lm", "self-attention"), batch, V) == whole
    half, H, K = D // 2, 2, 9  # of either kind of heads: width, number, taps
    products = 4 * D * half + D * half + half * H * K + D * D + 8 * D * D
    convolutions = B * T * (D * K + half * K)
    mixed = 3 * 2 * (L * (B * T * products + attention // 2 + convolutions) + head)
    assert parts["count_step"](parts["Trial"]("masked-lm", "span-based"), batch, V) == mixed


def test_plain_kernels_stay_functions_of_their_own_token():
    parts = claim()
    model = parts["make_model"](parts["Trial"]("masked-lm", "plain"), 50)
    filters = model.encoder.layers[0].mixer.span_depthwise
    before, ids = filters.detach().clone(), torch.arange(5, 25)[None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    centre = torch.arange(9) == 4
    assert (filters[..., ~centre] == 0).all() and (filters[..., centre] != before[..., centre]).all()


@pytest.mark.long
@pytest.mark.slow
def test_a_run_of_the_claim_that_is_done_is_not_done_again(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"The {n} cats sat on {n} mats and looked at the sea. " * 12 for n in range(600)))
    out = tmp_path / "claim.json"
    command = [sys.executable, ROOT / "benchmarks" / "claim.py", text, "--quick", "--work", tmp_path, "--out", out]
    chosen = ["masked-lm span-based kernel 9 rate 0.008 seed", "replaced-tokens self-attention"]
    subprocess.run([*command, "--only", chosen[0]], check=True, capture_output=True)
    first = json.loads(out.read_text())["runs"]
    subprocess.run([*command, "--only", *chosen], check=True, capture_output=True)
    both = json.loads(out.read_text())["runs"]
    assert len(both) == 2 and first.items() <= both.items()
    assert all(run["steps"] == 2 and run["scores"]["loss"] > 0 for run in both.values())
