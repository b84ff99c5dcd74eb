"""benchmarks/gpu.sh at toy size on a CPU: prepare, run, harvest; stopped, resumed, and with parts that fail."""

import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch
from conftest import ROOT

from convbert import ConvBertForMaskedLM

pytest.importorskip("transformers", reason="a GPU session measures us beside transformers")
pytest.importorskip("datasets", reason="text is read through datasets")
pytestmark = [
    pytest.mark.long,
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="the toy is for a CPU"),
]


class Session:
    """The three steps in folders of their own."""

    def __init__(self, folder):
        self.home, self.out = folder / "gpu", folder / "out"
        self.env = {**os.environ, "CONVBERT_GPU": str(self.home), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}

    def start(self, *words, **env):
        command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), *map(str, words)]
        # a shell that runs the tests in the background lets all its children ignore Ctrl-C
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return subprocess.Popen(command, env=self.env | env, preexec_fn=heed, **pipes)

    def call(self, *words, code=0, **env):
        process = self.start(*words, **env)
        out, output = process.communicate(timeout=300)
        assert process.returncode == code, out[-2000:] + output[-2000:]
        return out + output

    def run(self, *words, **env):
        return self.call("run", "--toy", "--minutes", 2, "--out", self.out, *words, **env)

    @property
    def results(self):
        return json.loads((self.out / "results.json").read_text())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder of a session after its first step."""
    folder = tmp_path_factory.mktemp("prepared")
    who, where = ("fox", "hen", "cat", "dog", "crow"), ("sea", "barn", "wood", "town")
    tales = [f"The {a} saw the {b} by the {c} and told the {b} about it." for a in who for b in who for c in where]
    text = folder / "tales.txt"
    text.write_text("\n\n".join(tales * 12), encoding="utf-8")
    made = Session(folder)
    output = made.call("prepare", text, "--hold-out-every", 20)
    assert "MiB to carry" in output and "there already" not in output
    assert "there already" in made.call("prepare", text, "--hold-out-every", 20)
    return folder


@pytest.fixture
def session(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return Session(tmp_path)


def test_all_three_steps(session, tmp_path):
    output = session.run("--limits", "tests=30", "speed=20", "--plan", "steps=40", "learning_rate=0.01")
    ended = {part: row["ended"] for part, row in session.results["parts"].items()}
    assert ended["tests"] == ended["pretrain"] == "done", output
    case = session.results["cases"]["gpu_forward_dense"]
    assert not case["errors"] and {"ours", "ours, compiled"} <= set(case["ratios"]), case
    run = session.results["pretraining"]
    assert run["step"] == 40 and run["tokens_per_second"] > 0 and run["log"]
    assert "to do: (done already" in session.run("--only", "tests", "pretrain")
    unseen = tmp_path / "unseen.txt"
    unseen.write_text("The crow saw the sea by the wood.\n\n" * 60, encoding="utf-8")
    kept, figures = tmp_path / "results.json", tmp_path / "figures"
    given = ["--unseen", unseen, "--results", kept, "--figures", figures]
    assert "perplexity" in session.call("harvest", session.out, *given)
    assert {"gpu-faster", "gpu-pretraining"} <= {file.stem for file in figures.iterdir()}
    assert json.loads(kept.read_text())["pretraining"]["step"] == 40
    model = ConvBertForMaskedLM.from_pretrained(session.home / "convbert-tiny")
    assert model.config.hidden_size == 32 and all(torch.isfinite(p).all() for p in model.parameters())
    card = (session.home / "convbert-tiny" / "README.md").read_text()
    assert "| unseen.txt |" in card and "bash benchmarks/gpu.sh run" in card and "## Data and licences" in card


def test_replaced_tokens_are_learnt_there_too(session, tmp_path):
    output = session.run("--only", "pretrain", "--plan", "steps=6", "objective=replaced-tokens")
    run = session.results["pretraining"]
    assert session.results["parts"]["pretrain"]["ended"] == "done", output
    assert run["step"] == 6 and run["plan"]["rate"] == 0.15 and 0 <= run["recall"] <= 1
    assert {"model.safetensors", "generator.safetensors"} <= {file.name for file in session.out.iterdir()}
    given = ["--results", tmp_path / "results.json", "--figures", tmp_path / "figures"]
    assert "discriminator to fine-tune" in session.call("harvest", session.out, *given)


def test_ctrl_c_loses_nothing_even_on_a_fresh_machine(session):
    """The files to bring back hold the checkpoint in pieces; a fresh machine continues from them."""
    only = "--only", "pretrain", "--plan", "steps=200", "--minutes", 2
    first = session.start("run", "--toy", "--out", session.out, *only)
    log = session.home / "work-toy" / "pretrain.log"
    log.parent.mkdir(parents=True)
    log.touch()
    follow = f"tail -n +1 -F {log} 2>/dev/null | stdbuf -o0 tr '\\r' '\\n' | grep -q -m1 loss="
    subprocess.run(["sh", "-c", follow], check=True, timeout=120)  # some steps are done
    first.send_signal(signal.SIGINT)
    _, output = first.communicate(timeout=60)
    assert first.returncode != 0 and "the same command continues" in output and "Traceback" not in output, output
    assert session.results["parts"]["pretrain"]["ended"] == "interrupted"
    state = torch.load(session.home / "work-toy" / "pretrain" / "checkpoint.pt", weights_only=True)
    pieces = list(session.out.glob("checkpoint.pt.*"))
    assert state["step"] >= 20 and pieces and all(file.stat().st_size <= 16 * 2**20 for file in pieces)
    shutil.rmtree(session.home / "work-toy")
    session.call("run", "--toy", "--out", session.out, *only)
    run = session.results["pretraining"]
    assert session.results["parts"]["pretrain"]["ended"] == "done" and run["step"] > state["step"]
    assert run["log"][: len(state["log"])] == state["log"], "the log continues where it stopped"


def test_a_part_that_fails_fails_alone(session, tmp_path):
    """Without transformers there, speed fails with a reason, and the model is trained nevertheless."""
    (tmp_path / "broken" / "transformers").mkdir(parents=True)
    (tmp_path / "broken" / "transformers" / "__init__.py").write_text("raise ImportError('transformers is not here')")
    output = session.run("--only", "speed", "pretrain", "--plan", "steps=20", PYTHONPATH=str(tmp_path / "broken"))
    parts = session.results["parts"]
    assert parts["speed"]["ended"] == "failed with exit code 1" and parts["pretrain"]["ended"] == "done"
    assert "transformers is not here" in output


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("run", "--limits", "tests"), "not PART=SECONDS"),
        (("run", "--only", "speeed"), "invalid choice"),
        (("harvest", "nowhere"), "nowhere has no results.json"),
        (("prepare", "nowhere.txt"), "no such text file: nowhere.txt"),
    ],
)
def test_typing_errors_are_reported(tmp_path, words, error):
    process = Session(tmp_path).start(*words)
    assert error in process.communicate(timeout=120)[1] and process.returncode != 0
