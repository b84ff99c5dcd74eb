"""Compilation: only where it saves time, never silently, and ended by one Ctrl-C."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from convbert.training import compilation
from convbert.training.loop import fit
from convbert.training.optim import Recipe

SCRIPT = textwrap.dedent(
    """
    import sys, torch
    from convbert import cli
    from convbert.families.convbert import ConvBertConfig
    from convbert.modeling import ConvBertForMaskedLM
    from convbert.training.loop import fit
    from convbert.training.optim import Recipe

    config = ConvBertConfig(vocab_size=40, hidden_size=16, embedding_size=8, num_hidden_layers=1,
                            num_attention_heads=2, intermediate_size=32, max_position_embeddings=16)

    def train(args):
        torch.manual_seed(0)

        def batches(step):
            length = 6 + step // 2 * 6  # the third step has a shape of its own
            ids = torch.randint(1, 40, (4, length), generator=torch.Generator().manual_seed(step))
            return {"input_ids": ids, "labels": ids}

        recipe = Recipe(steps=4, warmup=1, compile={"True": True, "None": None}[sys.argv[2]])
        fit(ConvBertForMaskedLM(config), batches, recipe, sys.argv[1])

    cli.add_tasks = lambda commands: commands.add_parser("train").set_defaults(run=train)
    raise SystemExit(cli.main(["train"]))
    """
)


class Terminal:
    """A command in a process group of its own, to which Ctrl-C goes as a terminal sends it: to the compiler as well."""

    def __init__(self, folder: Path, *words: str):
        self.cache, self.errors = folder / "cache", folder / "errors"
        env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(self.cache), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", SCRIPT, str(folder / "run"), *words]
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(command, stderr=errors, env=env, start_new_session=True)

    def wait_for(self, happened) -> None:
        while not happened():
            assert self.process.poll() is None, self.errors.read_text()
            time.sleep(0.05)

    def interrupt(self) -> str:
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(timeout=240)
        return self.errors.read_text()


LATE = pytest.param("second shape", marks=[pytest.mark.long, pytest.mark.slow])  # two graphs are compiled


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["announced", "compiler at work", LATE])
def test_one_ctrl_c_ends_a_run_that_compiles(tmp_path, moment):
    run = Terminal(tmp_path, "True")
    happened = {
        "announced": lambda: "compiling" in run.errors.read_text(),
        "compiler at work": lambda: any(run.cache.rglob("*.cpp")),
        "second shape": lambda: run.errors.read_text().count("input_ids 4x") == 2,
    }
    run.wait_for(happened[moment])
    said = run.interrupt()
    assert run.process.returncode == 130, said
    step = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"]
    assert step >= 2 if moment == "second shape" else step == 0
    assert said.strip().splitlines()[-1].startswith(f"convbert: stopped after step {step}; the same call resumes")
    assert "Traceback" not in said and len(said) < 2000 and "about 1 minute, once" in said
    again = Terminal(tmp_path, "None")  # so short a run goes on without the compiler
    assert again.process.wait(timeout=240) == 0, again.errors.read_text()
    assert "compiling" not in again.errors.read_text()


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.map = torch.nn.Linear(2, 1)

    def forward(self, input_ids):
        return type("Output", (), {"loss": self.map(input_ids).square().mean()})


def batches(step):
    return {"input_ids": torch.ones(4, 2)}


def test_a_short_run_is_not_compiled_and_says_nothing(tmp_path, capsys):
    fit(Line(), batches, Recipe(steps=12, warmup=0), tmp_path)
    assert "compiling" not in capsys.readouterr().err
    assert list(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["compiled"].values()) == [False]


@pytest.mark.parametrize("minutes", [None, 1e-12])
def test_a_long_run_is_compiled_unless_its_time_is_short(tmp_path, monkeypatch, capsys, minutes):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda model, **how: seen.append(how) or model)
    monkeypatch.setitem(compilation.COMPILE_SECONDS, "cpu", 1e-9)
    fit(Line(), batches, Recipe(steps=3, warmup=0, minutes=minutes), tmp_path)
    assert len(seen) == (minutes is None) == capsys.readouterr().err.count("compiling (about 1 minute, once): batches")


def test_each_shape_of_batch_is_compiled(tmp_path, monkeypatch, recwarn):
    """With torch's own wrapper of a compiled module; only the code generator is left out."""
    graphs = []
    how = dict(backend=lambda graph, inputs: graphs.append(graph) or graph.forward, dynamic=False)
    monkeypatch.setattr(compilation, "compile_model", lambda model: torch.compile(model, **how))

    def two_shapes(step):
        return {"input_ids": torch.ones(4 + step // 2, 2)}

    fit(Line(), two_shapes, Recipe(steps=4, warmup=0, compile=True), tmp_path)
    assert len(graphs) == 2 and not [each for each in recwarn if "torch.compile failed" in str(each.message)]


def test_a_decision_stays_when_a_run_is_resumed(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda model, **how: seen.append(how) or model)
    fit(Line(), batches, Recipe(steps=8, warmup=0, save_every=2, minutes=1e-9), tmp_path)
    monkeypatch.setitem(compilation.COMPILE_SECONDS, "cpu", 1e-9)  # it would pay now
    fit(Line(), batches, Recipe(steps=8, warmup=0, save_every=2), tmp_path)
    assert not seen


def test_a_compiler_that_fails_is_a_note_and_the_run_goes_on(tmp_path, monkeypatch):
    def broken(model, **how):
        raise RuntimeError("2,797 lines of C++")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(UserWarning, match=r"torch.compile failed \(RuntimeError\), so training goes on without it"):
        log = fit(Line(), batches, Recipe(steps=2, warmup=0, compile=True), tmp_path)
    assert log[-1]["step"] == 2


def test_a_trial_changes_nothing(tmp_path):
    """With a trial and without one, the same weights come out, dropout included."""

    class Noisy(Line):
        def forward(self, input_ids):
            return super().forward(torch.nn.functional.dropout(input_ids, 0.5))

    found = []
    for compiles in (None, False):
        torch.manual_seed(0)
        model = Noisy()
        fit(model, batches, Recipe(steps=5, warmup=0, compile=compiles), tmp_path / str(compiles))
        found.append(model.map.weight)
    assert torch.equal(*found)
