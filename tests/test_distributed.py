"""Two processes train as one does; killed or interrupted, they resume to the same weights."""

import os
import re
import signal
import subprocess
import sys
import textwrap
from functools import partial
from itertools import pairwise

import pytest
import torch
from conftest import ROOT

pytestmark = pytest.mark.slow

SCRIPT = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path

    import torch

    torch.set_num_threads(1)
    from convbert.families.convbert import ConvBertConfig
    from convbert.modeling import ConvBertForTokenClassification
    from convbert.training.distributed import join_process_group
    from convbert.training.loop import fit
    from convbert.training.optim import Recipe


    pause = -1  # at this step the script waits for a signal
    arrived, tell = os.pipe()


    def tagger(dropout):
        torch.manual_seed(0)
        sizes = dict(hidden_size=16, embedding_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
        drop = dict(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
        return ConvBertForTokenClassification(
            ConvBertConfig(vocab_size=40, max_position_embeddings=16, num_labels=5, **sizes, **drop)
        )


    def batches(step):
        "Sentences of very different length; in step 2 one sentence, in step 3 the second process has no labels."
        generator = torch.Generator().manual_seed(step)
        rows = 1 if step == 2 else 5
        ids = torch.randint(1, 40, (rows, 12), generator=generator)
        labels = torch.randint(5, (rows, 12), generator=generator)
        lengths = torch.randint(1, 13, (rows, 1), generator=generator)
        if step == 3:
            lengths[1::2] = 0
        return {"input_ids": ids, "labels": labels.where(torch.arange(12) < lengths, -100)}


    def evaluate(model):
        print("evaluated by", os.getpid(), flush=True)
        batch = batches(99)
        return {"loss_on_others": model(**batch).loss}


    def train_alike(folder, steps, accumulate=1):
        "Batches of 32 sentences, AdamW, no dropout: what must not depend on how the batch is divided."
        def batches(step):
            generator = torch.Generator().manual_seed(step)
            ids, labels = (torch.randint(1, 5, (32, 12), generator=generator) for _ in range(2))
            lengths = torch.randint(1, 13, (32, 1), generator=generator)
            return {"input_ids": ids, "labels": labels.where(torch.arange(12) < lengths, -100)}

        model = tagger(0.0)
        print("sharded:", join_process_group(model).sharded, flush=True)
        plan = dict(warmup=2, decay=0, compile=False, precision="float32", save_every=5, evaluate_every=10)
        recipe = Recipe(steps=steps, accumulate=accumulate, watch="loss_on_others", watch_lower=True, **plan)
        log = fit(model, batches, recipe, folder, lambda model: {"loss_on_others": model(**batches(99)).loss})
        torch.save([model.state_dict(), log], Path(folder) / f"result{os.environ.get('RANK', '0')}.pt")


    def train(folder, steps, dropout, model=None, said=False):
        def told(step):
            if said:
                os.write(1, f"step {step} {os.getpid()}\\n".encode())  # in one piece: two processes write here
                if step == pause:
                    os.read(arrived, 1)  # until the test's signal is here, or at once when it was quicker
            return batches(step)

        model = model or tagger(dropout)
        recipe = Recipe(
            steps=steps, warmup=2, decay=0, optimizer="muon", layer_decay=0.8, label_smoothing=0.1, compile=False,
            precision="float32", save_every=2, evaluate_every=3, watch="loss_on_others", watch_lower=True,
        )
        log = fit(model, told, recipe, folder, evaluate)
        rank = os.environ.get("RANK", "0")
        torch.save([model.state_dict(), log], Path(folder) / f"result{rank}.pt")
        return model


    if __name__ == "__main__":
        folder, job, pause = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
        os.set_blocking(tell, False)
        signal.set_wakeup_fd(tell)
        if job == "same":  # twice in one process group: half of the run, and the rest with the same model
            train(folder, 10, 0.0, train(folder, 5, 0.0))
        elif job == "alike":
            train_alike(folder, 20, accumulate=pause)
        else:
            train(folder, 12, 0.2, said=True)
    """
)


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """Start the script in two processes; `--multi_gpu`, since `--cpu` starts only one unless there is MPI."""
    home = tmp_path_factory.mktemp("accelerate")
    (home / "script.py").write_text(SCRIPT)
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HOME": str(home)}
    options = ["--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    options += ["--num_cpu_threads_per_process=1", "--main_process_port=0"]

    def start(folder, job, pause=-1, how=("--multi_gpu",)):
        command = [sys.executable, "-m", "accelerate.commands.launch", *how, *options]
        command += ["script.py", str(folder), job, str(pause)]
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job in the background is started deaf to it
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=home, env=env, stdout=pipe, stderr=pipe, text=True, preexec_fn=heed)

    return start


def finish(process, seconds=900):
    """What a launch printed, when it ended well."""
    out, said = process.communicate(timeout=seconds)
    assert process.returncode == 0, said[-4000:]
    return out


def result(folder, rank=0):
    weights, log = torch.load(folder / f"result{rank}.pt", weights_only=True)
    return weights, log


def mean_loss(log):
    """The mean over all steps of a run: each row of its log is about the steps since the one before."""
    rows = [(0, 0.0), *((row["step"], row["loss"]) for row in log if "loss" in row)]
    return sum(loss * (step - last) for (last, _), (step, loss) in pairwise(rows)) / rows[-1][0]


def test_two_processes_train_as_one_does(tmp_path, launch):
    two = launch(tmp_path / "two", "same")
    script = {"__name__": "script"}
    exec(compile(SCRIPT, "script.py", "exec"), script)
    script["train"](tmp_path / "one", 10, 0.0)
    evaluated = re.findall(r"evaluated by (\d+)", finish(two))
    assert len(set(evaluated)) == 1, "only one process evaluates"
    (one, log), (weights, log_two) = result(tmp_path / "one"), result(tmp_path / "two")
    other, log_other = result(tmp_path / "two", rank=1)
    assert all(torch.equal(weights[name], other[name]) for name in weights)
    for name, value in one.items():
        torch.testing.assert_close(
            weights[name], value, atol=1e-6, rtol=0, msg=lambda text, name=name: f"{name} {text}"
        )
    scores = [[row["loss_on_others"] for row in rows if "loss_on_others" in row] for rows in (log, log_two, log_other)]
    assert scores[1] == scores[2]
    # the two calls of the launch evaluate at step 5, too: its last
    assert scores[0] == pytest.approx([s for i, s in enumerate(scores[1]) if i != 1], rel=1e-5)
    assert log[-1]["best_step"] == log_two[-1]["best_step"]
    assert mean_loss(log) == pytest.approx(mean_loss(log_two), rel=1e-5)


def stop_at(process, step, number):
    """Send a signal when a step begins: SIGKILL to both processes, as in a power cut, SIGINT to the launcher."""
    pids, first = set(), None
    for line in process.stdout:
        if found := re.match(r"step (\d+) (\d+)", line):
            pids.add(int(found[2]))
            first = int(found[1]) if first is None else first
            if int(found[1]) >= step and len(pids) == 2:
                break
    if number == signal.SIGKILL:
        for pid in pids:
            os.kill(pid, number)
    else:
        process.send_signal(number)
    _, said = process.communicate(timeout=900)
    assert process.returncode != 0, said
    return first, said


def test_a_run_of_two_that_was_killed_and_interrupted_ends_with_the_same_weights(tmp_path, launch):
    finish(launch(tmp_path / "whole", "stopped"))
    parts = tmp_path / "parts"
    first, _ = stop_at(launch(parts, "stopped", pause=5), 5, signal.SIGKILL)
    assert first == 0 and not (parts / "result0.pt").exists()
    for pause, number in ((8, signal.SIGINT), (10, signal.SIGTERM)):
        first, said = stop_at(launch(parts, "stopped", pause=pause), pause, number)
        assert first >= 4 and not (parts / "result0.pt").exists()
        assert "the same call resumes" in said, said[-4000:]
    out = finish(launch(parts, "stopped"))
    first = min(int(step) for step in re.findall(r"^step (\d+)", out, re.M))
    assert first >= 11, "Ctrl-C and SIGTERM save the step that they came in"
    for rank in (0, 1):
        (whole, log), (weights, log_parts) = result(tmp_path / "whole", rank), result(parts, rank)
        assert all(torch.equal(weights[name], whole[name]) for name in whole)
        assert log[-1] == log_parts[-1] and log[-1]["best_step"] % 3 == 0


FSDP = "--use_fsdp", "--fsdp_version=2", "--fsdp_auto_wrap_policy=TRANSFORMER_BASED_WRAP"


def test_a_batch_gives_the_same_steps_however_it_is_divided(tmp_path, launch):
    """32 rows at once, as 2 x 16 in turn, in two processes, in two that take 2 x 8 in turn, and in two sharded ones."""
    script = {"__name__": "script"}
    exec(compile(SCRIPT, "script.py", "exec"), script)
    script["train_alike"](tmp_path / "whole", 20)
    script["train_alike"](tmp_path / "parts", 20, accumulate=2)
    for name, how, accumulate in (("ddp", ["--multi_gpu"], 1), ("ddp-parts", ["--multi_gpu"], 2), ("fsdp", FSDP, 1)):
        said = finish(launch(tmp_path / name, "alike", accumulate, how=how))
        assert f"sharded: {name == 'fsdp'}" in said
    (expected, log), found = result(tmp_path / "whole"), {}
    for name in ("parts", "ddp", "ddp-parts", "fsdp"):
        weights, found[name] = result(tmp_path / name)
        for part, value in expected.items():
            torch.testing.assert_close(weights[part], value, atol=2e-5, rtol=0)
        assert mean_loss(log) == pytest.approx(mean_loss(found[name]), rel=1e-5)
    other, _ = result(tmp_path / "fsdp", rank=1)
    assert all(torch.equal(other[part], result(tmp_path / "fsdp")[0][part]) for part in other)
    saved = torch.load(tmp_path / "fsdp" / "checkpoint.pt", weights_only=True)
    plain = torch.load(tmp_path / "whole" / "checkpoint.pt", weights_only=True)
    torch.testing.assert_close(saved["optimizers"], plain["optimizers"], atol=1e-5, rtol=1e-3)
    for name in ("whole", "fsdp"):  # what two processes began goes on in one
        script["train_alike"](tmp_path / name, 30)
    (alone, _), (resumed, _) = result(tmp_path / "whole"), result(tmp_path / "fsdp")
    torch.testing.assert_close(resumed, alone, atol=2e-5, rtol=0)
