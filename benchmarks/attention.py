"""Forward and backward pass of attention on a CPU: torch's kernel beside the plain formula, eager and compiled.

`python benchmarks/attention.py` measures rows of several lengths, 8,192 tokens at a time, by turns, and prints the
medians in milliseconds. `convbert.runtime.dropout.SHORT` is chosen by it.
"""

import statistics
import time

import torch
import torch.nn.functional as F

from convbert.runtime.dropout import attention_weights


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The formula."""
    return attention_weights(query, key, None) @ value


def seconds(attention, inputs: list[torch.Tensor]) -> float:
    """Of one pass in both directions."""
    began = time.perf_counter()
    out = attention(*(x.transpose(1, 2) for x in inputs))
    torch.autograd.grad(out, inputs, out.detach())
    return time.perf_counter() - began


def measure(dtype: torch.dtype, length: int, heads: int = 4, size: int = 32, rounds: int = 9) -> dict[str, float]:
    """Milliseconds of each way."""
    torch.compiler.reset()
    ways = {"torch": F.scaled_dot_product_attention, "plain": plain}
    ways |= {f"{name}, compiled": torch.compile(way, dynamic=False) for name, way in ways.items()}
    shape = 8192 // length, length, heads, size
    inputs = [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)]
    times = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(seconds(way, inputs))
    return {name: 1000 * statistics.median(found[2:]) for name, found in times.items()}


def main() -> None:
    """A row for each type and length."""
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    for dtype in (torch.bfloat16, torch.float32):
        for length in (32, 128, 256, 512):
            found = measure(dtype, length)
            print(dtype, length, {name: round(value, 1) for name, value in found.items()}, flush=True)


if __name__ == "__main__":
    main()
