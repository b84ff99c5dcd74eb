"""What all parts of a GPU session share: the device, timing, peak rates, and operation counts."""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from gpu import read, record
from machine import flops
from torch._subclasses import FakeTensorMode

from convbert import ConvBertConfig, ConvBertModel
from convbert.backends.dispatch import use_backend

BEGAN = time.monotonic()
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    """Wait until the device has finished all queued work."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def timed(program: Callable, times: int = 1) -> float:
    """Mean seconds of a run, over several in a row."""
    wait()
    start = time.perf_counter()
    for _ in range(times):
        program()
    wait()
    return (time.perf_counter() - start) / times


def card(toy: bool) -> dict:
    """Hardware, versions, and the two peak rates."""
    n = 256 if toy else 8192
    a, b = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    whole, other = (torch.empty(2**18 if toy else 2**32, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    product = min(timed(partial(torch.mm, a, b), 10) for _ in range(3))
    copy = min(timed(partial(other.copy_, whole), 3) for _ in range(3))
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "no GPU: a trial on a CPU"
    versions = {"torch": torch.__version__}
    if DEVICE.type == "cuda":
        import triton

        versions |= {"triton": triton.__version__, "cuda": torch.version.cuda}
    rates = dict(peak_tflops=round(2 * n**3 / product / 1e12, 4), copy_tb_s=round(2 * whole.nbytes / copy / 1e12, 3))
    return {"device": name, **rates, **versions, "python": sys.version.split()[0]}


def card_of(out: Path, toy: bool) -> dict:
    """The same, measured unless it was before."""
    return read(out).get("machine") or record(out, machine=card(toy))["machine"]


def flops_per_token(config: ConvBertConfig, T: int) -> float:
    """Operations of the matrix products of a forward pass, attention over T tokens included."""
    with FakeTensorMode():
        model = ConvBertModel(config).eval()
        use_backend(model, "reference")
        counted = flops(partial(model.encoder, torch.zeros(1, T, dtype=torch.long)))
    return counted / T


def arguments(about: str | None) -> argparse.ArgumentParser:
    """Arguments of every part."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("part")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600.0, help="that the part may take")
    parser.add_argument("--toy", action="store_true", help="sizes for a CPU")
    parser.add_argument("--trials", nargs="*", default=[], metavar="KEY=VALUE,…")
    return parser
