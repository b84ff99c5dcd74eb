"""The benchmark runs; what it measures here means nothing."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

pytest.importorskip("transformers", reason="benchmarks measure us beside transformers")


@pytest.mark.slow
def test_a_quick_run_writes_its_numbers(tmp_path):
    out = tmp_path / "numbers.json"
    names = ["base_ragged", "train_step", "steps_forward", "block"]
    command = [sys.executable, ROOT / "benchmarks" / "compare.py", *names, "--quick", "--out", out]
    subprocess.run(command, check=True, capture_output=True)
    cases = json.loads(out.read_text())["cases"]
    assert [*cases] == names
    for name in names[:3]:
        assert all(ratio["faster"] > 0 for mine in cases[name]["ratios"].values() for ratio in mine.values())
    assert "transformers" in cases["train_step"]["memory"]
    assert all(step["ms"] > 0 for step in cases["block"]["steps"].values())
