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
    command = [sys.executable, ROOT / "benchmarks" / "compare.py", "base_ragged", "train_step", "--quick", "--out", out]
    subprocess.run(command, check=True, capture_output=True)
    cases = json.loads(out.read_text())["cases"]
    assert cases.keys() == {"base_ragged", "train_step"}
    assert all(ratio["faster"] > 0 for case in cases.values() for ratio in case["ratios"].values())
