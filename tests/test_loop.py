"""What a run leaves behind: older checkpoints, logs, a batch that was not finite; killed often, and on a full disk."""

import ctypes
import json
import os
import random
import signal
import sys
import textwrap

import pytest
import torch
from processes import Process
from safetensors.torch import load_file

from convbert.training import logs
from convbert.training.loop import fit
from convbert.training.optim import Recipe
from convbert.training.runs import read_checkpoint

pytest.importorskip("accelerate")


class Line(torch.nn.Module):
    """Dropout makes a run depend on torch's random numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.map = torch.nn.Linear(2, 1)

    def forward(self, input_ids):
        loss = (self.map(torch.nn.functional.dropout(input_ids, 0.3)) - 1).square().mean()
        return type("Output", (), {"loss": loss})


def batches(step):
    return {"input_ids": torch.randn(8, 2, generator=torch.Generator().manual_seed(step))}


PLAN = dict(warmup=2, decay=0, compile=False, learning_rate=0.1)


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_the_last_checkpoints_are_kept(tmp_path, keep):
    fit(Line(), batches, Recipe(steps=23, save_every=3, keep=keep, **PLAN), tmp_path)
    steps = [21, 18, 15][: keep - 1]
    assert {path.name for path in tmp_path.glob("*.pt")} == {"checkpoint.pt", *(f"checkpoint-{at}.pt" for at in steps)}
    assert [read_checkpoint(tmp_path / f"checkpoint-{at}.pt")["step"] for at in steps] == steps


def test_the_newest_checkpoint_that_can_be_read_is_resumed(tmp_path):
    whole, parts = Line(), Line()
    fit(whole, batches, Recipe(steps=30, save_every=5, **PLAN), tmp_path / "whole")
    fit(parts, batches, Recipe(steps=20, save_every=5, **PLAN), tmp_path / "parts")
    (tmp_path / "parts" / "checkpoint.pt").write_bytes(b"a disk that fails")
    with pytest.warns(UserWarning, match="checkpoint.pt cannot be read .*; going on from checkpoint-15.pt"):
        log = fit(resumed := Line(), batches, Recipe(steps=30, save_every=5, **PLAN), tmp_path / "parts")
    assert torch.equal(resumed.map.weight, whole.map.weight) and log[-1]["step"] == 30


def test_a_damaged_checkpoint_takes_the_place_of_no_sound_one(tmp_path):
    fit(Line(), batches, Recipe(steps=10, save_every=5, **PLAN), tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"a disk that fails")
    with pytest.warns(UserWarning, match="going on from checkpoint-5.pt"):
        fit(Line(), batches, Recipe(steps=8, save_every=3, **PLAN), tmp_path)
    assert {path.name: read_checkpoint(path)["step"] for path in tmp_path.glob("*.pt")}["checkpoint.pt"] == 8


def test_a_folder_with_one_checkpoint_of_an_earlier_version_goes_on(tmp_path):
    """Written by hand as before there were older checkpoints, a clock and decisions about the compiler."""
    fit(Line(), batches, Recipe(steps=8, keep=1, **PLAN), tmp_path)
    state = read_checkpoint(tmp_path / "checkpoint.pt")
    old = {name: state[name] for name in ("model", "optimizers", "facts", "step", "log")} | {"plan": state["plan"][:2]}
    torch.save(old, tmp_path / "checkpoint.pt")
    (tmp_path / "log.jsonl").unlink()
    log = fit(Line(), batches, Recipe(steps=12, **PLAN), tmp_path)
    assert log[-1]["step"] == 12 and (tmp_path / "checkpoint-8.pt").exists()


def test_the_log_on_disk_is_that_of_the_run(tmp_path):
    seen = []

    def evaluate(model):
        seen.append([json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()])
        return {"score": 0.5}

    recipe = Recipe(steps=50, evaluate_every=25, save_every=25, **PLAN)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(Line(), lambda step: batches(step) if step < 45 else power_cut(), recipe, tmp_path, evaluate)
    assert [row["step"] for row in rows(tmp_path)] == [20, 25, 25, 40]
    log = fit(Line(), batches, recipe, tmp_path, evaluate)
    assert rows(tmp_path) == log and [row["step"] for row in seen[-1]] == [20, 25, 25, 40, 50]


def power_cut():
    raise RuntimeError("power cut")


def rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_batch_that_is_not_finite_is_kept(tmp_path):
    def spoiled(step):
        return {"input_ids": batches(step)["input_ids"] * (torch.inf if step == 7 else 1)}

    recipe = Recipe(steps=20, save_every=5, **PLAN)
    with pytest.raises(FloatingPointError, match="at step 7.*its batch is in .*nonfinite-7.safetensors") as caught:
        fit(Line(), spoiled, recipe, tmp_path)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__, "one error"
    kept = load_file(tmp_path / "nonfinite-7.safetensors")
    torch.testing.assert_close(kept["input_ids"], spoiled(7)["input_ids"], equal_nan=True)
    assert read_checkpoint(tmp_path / "checkpoint.pt")["step"] == 5


def test_tensorboard_is_asked_for_and_a_missing_one_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        fit(Line(), batches, Recipe(steps=1, **PLAN), tmp_path, logs=["tensorboard"])
    assert not (tmp_path / "checkpoint.pt").exists()
    with pytest.raises(ValueError, match="no log 'wandb'"):
        fit(Line(), batches, Recipe(steps=1, **PLAN), tmp_path, logs=["wandb"])


def test_tensorboard_reads_the_numbers_of_a_run(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = Recipe(steps=40, evaluate_every=20, **PLAN)
    fit(Line(), batches, recipe, tmp_path, lambda model: {"score": 0.5}, logs=["tensorboard"])
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert set(read.Tags()["scalars"]) == {"loss", "tokens per second", "evaluation/score"}
    assert [event.step for event in read.Scalars("loss")] == [20, 40]


def test_a_notebook_sees_the_loss_fall(tmp_path, monkeypatch):
    """The picture is shown once and then replaced, at the end with all rows in it."""
    pytest.importorskip("matplotlib")
    import IPython.display

    shown, drawn = [], []

    class Handle:
        def update(self, image):
            shown.append(image)

    def plot(log):
        drawn.append([row["step"] for row in log])
        return plot_loss(log)

    plot_loss = logs.plot_loss
    monkeypatch.setattr(logs, "plot_loss", plot)
    monkeypatch.setattr(logs, "notebook", lambda: True)
    monkeypatch.setattr(IPython.display, "display", lambda image, display_id: shown.append(image) or Handle())
    fit(Line(), batches, Recipe(steps=60, evaluate_every=30, **PLAN), tmp_path, lambda m: {"score": 0.5}, logs=["plot"])
    assert len(shown) >= 2 and all(image.format == "png" for image in shown)
    assert drawn[-1] == [20, 30, 40, 60, 60]
    monkeypatch.setattr(logs, "notebook", lambda: None)
    before = len(shown)
    fit(Line(), batches, Recipe(steps=20, **PLAN), tmp_path / "shell", logs=["plot"])
    assert len(shown) == before


RUN = textwrap.dedent(
    """
    import sys, torch
    torch.set_num_threads(1)
    from convbert.training.loop import fit
    from convbert.training.optim import Recipe

    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.map = torch.nn.Linear(64, 64)

        def forward(self, input_ids):
            loss = (self.map(torch.nn.functional.dropout(input_ids, 0.3)) - 1).square().mean()
            return type("Output", (), {"loss": loss})

    def batches(step):
        print(step, flush=True)
        return {"input_ids": torch.randn(8, 64, generator=torch.Generator().manual_seed(step))}

    recipe = Recipe(steps=400, warmup=2, decay=100, compile=False, save_every=3, evaluate_every=9, watch="score",
                    optimizer="muon", precision="float32", keep=3)
    fit(model := Line(), batches, recipe, sys.argv[1], lambda model: {"score": model.map.weight.norm()})
    torch.save(model.state_dict(), sys.argv[2])
    """
)


@pytest.mark.slow
def test_a_run_that_is_killed_twenty_times_ends_with_the_same_weights(tmp_path):
    """SIGKILL comes at a random moment after a step began, so also while files are written."""
    chance, folder = random.Random(0), tmp_path / "run"
    whole = Process(RUN, tmp_path / "whole", tmp_path / "whole.pt", folder=tmp_path / "said")
    assert whole.communicate(timeout=300) and whole.returncode == 0
    done = 0
    for _ in range(20):
        process = Process(RUN, folder, tmp_path / "parts.pt", folder=tmp_path / "said")
        at = done + chance.randint(1, 19)
        for line in process.stdout:
            if line.strip().isdigit() and int(line) >= at:
                for _ in range(chance.randint(0, 30_000)):  # some part of a step or of a checkpoint
                    pass
                process.send_signal(signal.SIGKILL)
                break
        process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL
        for file in folder.glob("*.pt"):
            done = read_checkpoint(file)["step"]
        for line in (folder / "log.jsonl").read_text().splitlines()[:-1]:
            json.loads(line)
    last = Process(RUN, folder, tmp_path / "parts.pt", folder=tmp_path / "said")
    _, said = last.communicate(timeout=300)
    assert last.returncode == 0, said
    one, other = (torch.load(tmp_path / name, weights_only=True) for name in ("whole.pt", "parts.pt"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    scores = [[row for row in rows(at) if "score" in row] for at in (tmp_path / "whole", folder)]
    assert scores[0] == scores[1] and len(scores[0]) == 400 // 9 + 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB; skipped where mounting is not allowed."""
    place, libc = tmp_path / "disk", ctypes.CDLL(None, use_errno=True)
    place.mkdir()
    if not hasattr(libc, "mount") or libc.mount(b"tmpfs", bytes(place), b"tmpfs", 0, b"size=200k"):
        pytest.skip(f"cannot mount a tmpfs ({os.strerror(ctypes.get_errno())})")
    yield place
    libc.umount2(bytes(place), 2)


def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(small_disk):
    """Each checkpoint of this model takes 50 kB, and all of them are kept."""
    model = torch.nn.Sequential(torch.nn.Linear(64, 64))

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids):
            return type("Output", (), {"loss": self.model(input_ids).square().mean()})

    def inputs(step):
        return {"input_ids": torch.ones(2, 64)}

    recipe = Recipe(steps=100, save_every=5, keep=99, **PLAN)
    with pytest.raises(OSError, match="could not write the checkpoint .*the previous one is intact: free some space"):
        fit(Loss(), inputs, recipe, small_disk / "run")
    files = {path.name for path in (small_disk / "run").iterdir()}
    assert "checkpoint.pt" in files and not [name for name in files if name.endswith(".part")]
    step = read_checkpoint(small_disk / "run" / "checkpoint.pt")["step"]
    for file in (small_disk / "run").glob("checkpoint-*.pt"):
        file.unlink()
    log = fit(Loss(), inputs, Recipe(steps=step + 5, save_every=5, keep=1, **PLAN), small_disk / "run")
    assert log[-1]["step"] == step + 5
