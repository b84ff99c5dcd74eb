"""A model that was loaded before a process forked answers in the children: gunicorn --preload, pools, datasets."""

import os
import subprocess
import sys

import pytest

BEFORE = """
import multiprocessing, os, sys, torch
from convbert import pipeline

torch.set_num_threads(2)
classify = pipeline("text-classification")
texts = ["A quiet, beautiful film.", "Bad."] * 100
expected = [row["label"] for row in classify(texts, progress=False)]  # torch has started its threads


def answer(part):
    return [row["label"] for row in classify(texts[part::2], progress=False)], torch.get_num_threads()
"""

CASES = {
    "fork": """
child = os.fork()
if not child:
    os._exit(0 if answer(0)[0] == expected[0::2] else 1)
sys.exit(os.waitpid(child, 0)[1])
""",
    "a pool": """
with multiprocessing.get_context("fork").Pool(2) as pool:
    found = pool.map(answer, [0, 1])
assert [labels for labels, _ in found] == [expected[0::2], expected[1::2]]
assert [threads for _, threads in found] == [1, 1] and torch.get_num_threads() == 2
assert answer(0)[0] == expected[0::2]  # the parent goes on as before
""",
    "a fork of a fork": """
child = os.fork()
if not child:
    answer(0)
    grandchild = os.fork()
    if not grandchild:
        os._exit(0 if answer(1)[0] == expected[1::2] else 1)
    os._exit(os.waitpid(grandchild, 0)[1])
sys.exit(os.waitpid(child, 0)[1])
""",
    "datasets": """
from datasets import Dataset
rows = Dataset.from_dict({"text": texts})
done = rows.map(lambda batch: {"label": [row["label"] for row in classify(batch["text"], progress=False)]},
                batched=True, batch_size=50, num_proc=2)
assert done["label"][:] == expected
""",
}

SPAWN = """
import multiprocessing
from convbert import pipeline


def answer(text):
    return pipeline("text-classification")(text)["label"]


if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(answer, ["A quiet, beautiful film."]) == [answer("A quiet, beautiful film.")]
"""


def run(code, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(code)
    env = {**os.environ, "OMP_NUM_THREADS": "2", "HF_HOME": str(tmp_path)}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("case", CASES)
def test_children_answer(case, tmp_path):
    if case == "datasets":
        pytest.importorskip("datasets")
    run(BEFORE + CASES[case], tmp_path)


def test_a_spawned_process_answers(tmp_path):
    run(SPAWN, tmp_path)
