"""The roofline of one layer of the base model: the time of each step, and the least that the machine allows."""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from machine import bandwidth, peak

from convbert import ConvBertConfig
from convbert.backends.dispatch import dispatch
from convbert.layers.attention import fused_attention, split_heads
from convbert.layers.encoder import Layer
from convbert.layers.mixed_attention import kernel_logits


def steps(layer: Layer, x: torch.Tensor) -> dict[str, tuple[Callable, int, int]]:
    """Of every step: what to run, its floating-point operations, and the numbers that it reads and writes."""
    mixer, feed_forward = layer.mixer, layer.feed_forward
    (B, T, D), A, H = x.shape, mixer.width, mixer.num_heads
    N, d, K, W = B * T, A // H, mixer.span_depthwise.shape[-1], feed_forward.up.out_features
    query, key, value, conv_value = mixer.qkv_proj(x).split(A, dim=-1)
    heads = [split_heads(part, H) for part in (query, key, value, conv_value)]
    backend = dispatch("auto", x)
    span = backend.depthwise(x, mixer.span_depthwise[:, 0])
    logits, up = kernel_logits(query, mixer.span_pointwise(span), mixer.kernel_proj, H), feed_forward.up(x)
    activated = torch.empty_like(up)
    joined = torch.cat([heads[2], heads[3]], dim=2)

    def product(linear, inputs, rows=N):
        i, o = linear.in_features, linear.out_features
        return lambda: linear(inputs), 2 * rows * i * o, rows * (i + o) + i * o

    def compute_logits():
        return kernel_logits(query, key, mixer.kernel_proj, H)

    return {
        "query, key, value, conv value": product(mixer.qkv_proj, x),
        "attention": (lambda: fused_attention(*heads[:3]), 4 * B * H * T * T * d, 4 * N * A),
        "depthwise": (lambda: backend.depthwise(x, mixer.span_depthwise[:, 0]), 2 * N * D * K, 2 * N * D),
        "span key": product(mixer.span_pointwise, span),
        "kernel logits": (compute_logits, 2 * N * A * H * K + N * A, 2 * N * A + N * H * K),
        "softmax and convolution": (lambda: backend.span_conv(heads[3], logits), 2 * N * A * K, 2 * N * A + N * H * K),
        "concatenation of heads": (lambda: torch.cat([heads[2], heads[3]], dim=2), 0, 4 * N * A),
        "output": product(mixer.output, joined.flatten(2)),
        "residual and norm, twice": (lambda: [layer.mixer_norm(x + span) for _ in range(2)], 0, 2 * 5 * N * D),
        "up projection": product(feed_forward.up, x),
        "activation": (lambda: F.gelu(up, out=activated), 0, 2 * N * W),
        "down projection": product(feed_forward.down, up),
    }


def block(quick: bool, rounds: int) -> dict:
    """A layer of the base model, 8 texts of 128 tokens: medians, and the least that the machine allows."""
    torch.manual_seed(0)
    config = ConvBertConfig.preset("base", num_hidden_layers=1)
    with torch.inference_mode():
        layer, x = Layer(config).eval(), torch.randn(1 if quick else 8, 128, config.hidden_size)
        todo = {**steps(layer, x), "the whole layer": (lambda: layer(x), 0, 0)}
        times = {name: [] for name in todo}
        for number in range(rounds + 1):
            for name, (run, _, _) in todo.items():
                start = time.perf_counter()
                run()
                if number:
                    times[name].append(1e3 * (time.perf_counter() - start))
    flop_rate, memory = peak(), bandwidth()
    rows = {
        name: {
            "ms": round(statistics.median(times[name]), 3),
            "gflop": round(work / 1e9, 3),
            "mbyte": round(4 * numbers / 1e6, 3),
            "least_ms": round(max(work / flop_rate, 4 * numbers / memory) / 1e6, 3),
        }
        for name, (_, work, numbers) in todo.items()
    }
    return {"what": block.__doc__, "peak_gflops": round(flop_rate), "bandwidth_gb_s": round(memory), "steps": rows}
