"""Peak rates of the machine, and the work of a program."""

import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import convbert
from convbert.pipelines.parallel import parallel_map


def best(program: Callable, times: int = 10) -> float:
    """Seconds of the quickest run."""
    spent = []
    with torch.inference_mode():
        for _ in range(times):
            start = time.perf_counter()
            program()
            spent.append(time.perf_counter() - start)
    return min(spent)


def matrix_product(dtype: torch.dtype = torch.float32) -> Callable:
    """The product that defines the peak: a base model's up projection on 1024 tokens."""
    return partial(F.linear, torch.randn(1024, 768).to(dtype), torch.randn(3072, 768).to(dtype))


def peak(dtype: torch.dtype = torch.float32) -> float:
    """GFLOP/s of that product."""
    product = matrix_product(dtype)
    return flops(product) / best(product) / 1e9


def bandwidth() -> float:
    """Reading and writing 256 MiB, in GB/s."""
    a, b = torch.ones(2**25), torch.empty(2**25)
    return 2 * a.nbytes / best(partial(b.copy_, a)) / 1e9


def flops(program: Callable) -> int:
    """Operations of all matrix products of a run: zeros of bands count, fused attention on a CPU does not."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        program()
    return counter.get_total_flops()


class Products(TorchDispatchMode):
    """Records the products of activations with a weight matrix while it is active."""

    def __init__(self):
        """Start with no records."""
        super().__init__()
        self.products = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Run, and record it if it is one."""
        if function in (torch.ops.aten.addmm.default, torch.ops.aten.mm.default, torch.ops.aten.linear.default):
            self.products.append(partial(function, *args, **(kwargs or {})))
        return function(*args, **(kwargs or {}))


def products_of(program: Callable, workers: int = 1) -> Callable:
    """The matrix products of a run and nothing else: a lower bound for any program that makes these calls."""
    with torch.inference_mode(), Products() as products:
        program()

    @torch.inference_mode()
    def again(share: list[Callable]) -> None:
        """Call them, freeing each result at once, as the program does."""
        for product in share:
            product()

    shares = [products.products[i::workers] for i in range(workers)]
    return lambda: list(parallel_map(again, shares, workers))


KINDS = {
    "aten::addmm": "matrix products",
    "aten::gelu": "activation",
    "aten::native_layer_norm": "norms",
    "aten::scaled_dot_product_attention": "attention",
}


def parts_of(program: Callable) -> dict[str, float]:
    """Shares of torch's time in a run, by torch's profiler."""
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as seen:
        program()
    events = seen.key_averages()
    spent = dict.fromkeys(KINDS.values(), 0.0)
    for each in events:
        if each.key.rstrip("_") in KINDS:  # or its in-place variant
            spent[KINDS[each.key.rstrip("_")]] += each.cpu_time_total
    whole = sum(each.self_cpu_time_total for each in events)
    spent["convolutions, packing, residuals and the rest"] = whole - sum(spent.values())
    return {kind: round(time / whole, 3) for kind, time in spent.items()}


def machine() -> dict:
    """Hardware and versions."""
    import transformers

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    versions = {m.__name__: m.__version__ for m in (convbert, torch, transformers)}
    return {
        "cpu": model,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "peak_gflops": round(peak()),
        "bandwidth_gb_s": round(bandwidth()),
        **versions,
    }
