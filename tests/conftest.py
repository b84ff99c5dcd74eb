"""What all tests share: the data folder and seeded random numbers."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The project's text data: `$CONVBERT_DATA`, or `../shared/data` beside the checkout."""
    folder = Path(os.environ.get("CONVBERT_DATA") or ROOT.parent / "shared" / "data")
    missing = [name for name in ("corpus", "tasks", "vocab") if not (folder / name).is_dir()]
    if missing:
        pytest.skip(f"no {', '.join(missing)} in {folder}; set CONVBERT_DATA to the folder that holds the text data")
    return folder


@pytest.fixture
def generator():
    """A torch generator that gives every test the same numbers, whatever ran before."""
    import torch

    return torch.Generator().manual_seed(0)
