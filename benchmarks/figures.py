"""Plot the results of compare.py, without measuring again: python benchmarks/figures.py [FOLDER]."""

import json
import sys
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
OURS, OTHERS, LEAST = "#1f77a8", "#a0aab4", "#2e8b57"

FASTER = {  # label: case, program of ours, baseline
    "base, 8 x 128 tokens": ("base_dense", "ours", "transformers"),
    "base, 8 x 128 tokens, beside BERT": ("base_dense", "ours", "BERT"),
    "base, 32 film reviews, padded": ("base_ragged", "ours", "transformers"),
    "base, 32 film reviews, beside BERT": ("base_ragged", "ours", "BERT"),
    "bundled model, one sentence": ("tiny_latency", "ours", "transformers"),
    "one sentence, torch.compile": ("tiny_latency", "ours, compiled", "transformers"),
    "one sentence, exported to ONNX": ("tiny_latency", "ours, exported", "transformers"),
    "pipeline, many texts": ("classify", "ours", "transformers"),
    "pipeline, beside batch_size=32": ("classify", "ours", "transformers, batch_size=32"),
    "training step, small, 8 x 512": ("train_step", "ours", "transformers"),
    "their model after speed_up, 8 x 128": ("speed_up_dense", "ours, in their model", "transformers"),
    "their model after speed_up, film reviews": ("speed_up", "ours, in their model", "transformers"),
    "import": ("start_up", "ours", "transformers"),
}
SMALLER = {
    "bfloat16, 8 x 128, beside their bfloat16": ("base_bfloat16", "ours", "transformers, bfloat16"),
    "bfloat16, 8 x 128, beside their float32": ("base_bfloat16", "ours", "transformers"),
    "bfloat16, film reviews, beside their bfloat16": ("base_bfloat16_ragged", "ours", "transformers, bfloat16"),
    "bfloat16, film reviews, beside their float32": ("base_bfloat16_ragged", "ours", "transformers"),
    "int8, film reviews, beside their float32": ("int8", "ours", "transformers"),
}
GPU = {
    "forward, 32 x 512": "gpu_forward_dense",
    "forward, 55 % padding": "gpu_forward_ragged",
    "training step, 32 x 512": "gpu_train_dense",
    "training step, 55 % padding": "gpu_train_ragged",
}
READ = {"base_dense": "base, 8 x 128", "base_ragged": "base, film reviews", "train_step": "training step"}


# -- kinds of plots


def panel(rows: int, title: str, xlabel: str):
    """Axes for a number of bars."""
    axis = plt.subplots(figsize=(6, 0.8 + 0.3 * rows), layout="constrained")[1]
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel(xlabel, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.12)
    return axis


def bars(ratios: dict[str, dict[str, float]], title: str):
    """A figure of speed-ups: medians, with lines between their quartiles."""
    axis = panel(len(ratios), title, "times faster")
    for place, ratio in enumerate(ratios.values()):
        axis.barh(place, ratio["faster"], color=OURS if ratio["faster"] >= 1 else OTHERS, alpha=0.8)
        axis.plot([ratio["from"], ratio["to"]], [place, place], color="black", linewidth=1)
        axis.text(max(ratio["faster"], ratio["to"]), place, f"  {ratio['faster']:.2f}", va="center", fontsize=8)
    axis.set_yticks(range(len(ratios)), list(ratios))
    axis.axvline(1, color="black", linewidth=0.5)
    axis.invert_yaxis()
    return axis.figure


def amounts(values: dict[str, float], title: str, xlabel: str, form: str = "{:,.0f}"):
    """A figure with a number per program; the matrix products alone have a colour of their own."""
    axis = panel(len(values), title, xlabel)
    others = "transformers", "BERT"
    colours = [LEAST if "alone" in n else OTHERS if any(other in n for other in others) else OURS for n in values]
    plotted = axis.barh(list(values), list(values.values()), color=colours, alpha=0.8)
    axis.bar_label(plotted, [form.format(value) for value in values.values()], padding=3, fontsize=8)
    axis.invert_yaxis()
    return axis.figure


def pairs(values: dict[str, tuple[float, float]], title: str, labels: tuple[str, str]):
    """A figure with two times per row, measured and least possible."""
    axis = panel(len(values), title, "milliseconds")
    for number, (shift, colour, label) in enumerate(((-0.2, OURS, labels[0]), (0.2, LEAST, labels[1]))):
        places, spent = [place + shift for place in range(len(values))], [each[number] for each in values.values()]
        axis.barh(places, spent, height=0.4, color=colour, alpha=0.8, label=label)
    axis.set_yticks(range(len(values)), list(values))
    axis.legend(fontsize=8, frameon=False, loc="upper right")
    axis.invert_yaxis()
    return axis.figure


# -- one function per figure; None where nothing was measured


def beside(wanted: dict[str, tuple[str, str, str]], title: str, cases: dict):
    """Ratios of many cases."""
    found = {name: cases.get(case, {}).get("ratios", {}).get(a) for name, (case, a, _) in wanted.items()}
    ratios = {name: each[wanted[name][2]] for name, each in found.items() if each}
    return bars(ratios, title) if ratios else None


def ablation(name: str, title: str, cases: dict):
    """Ours beside ours without one optimisation."""
    return bars(cases[name]["ratios"]["ours"], title) if name in cases else None


def tokens(cases: dict):
    """Tokens per second of every program."""
    found = {words: cases.get(name, {}).get("tokens_per_second", {}) for name, words in READ.items()}
    rates = {f"{words}: {program}": rate for words, each in found.items() for program, rate in each.items()}
    return amounts(rates, "Throughput", "tokens per second, padding not counted") if rates else None


def texts(cases: dict):
    """Texts per second of every pipeline."""
    case = cases.get("classify", {})
    rates, title = case.get("texts_per_second"), f"pipeline('text-classification'), {case.get('texts')}"
    return amounts(rates, title, "texts per second") if rates else None


def sentence(cases: dict):
    """Latency of every program for one sentence of 32 tokens."""
    rates = cases.get("tiny_latency", {}).get("tokens_per_second", {})
    spent = {name: 32e3 / rate for name, rate in rates.items()}
    return amounts(spent, "The bundled model, one sentence of 32 tokens", "milliseconds", "{:.1f}") if spent else None


def memory(cases: dict):
    """Peak memory of a training step."""
    most = cases.get("train_step", {}).get("memory")  # measured on Linux only
    return amounts(most, "A training step, small, 8 x 512 tokens", "MiB above the model") if most else None


def shares(cases: dict):
    """Shares of a pipeline's time."""
    parts = sorted(cases.get("classify", {}).get("parts", {}).items(), key=lambda part: -part[1])
    percents = {part: 100 * share for part, share in parts}
    return (
        amounts(percents, "Our pipeline, film reviews", "percent of the time in torch's operators") if parts else None
    )


def roofline(cases: dict):
    """The time of each step of a layer, beside the least that the machine allows."""
    steps = {name: step for name, step in cases.get("block", {}).get("steps", {}).items() if step["least_ms"]}
    if not steps:
        return None
    spent = {name: (step["ms"], step["least_ms"]) for name, step in steps.items()}
    return pairs(spent, "A layer of the base model, 8 x 128 tokens", ("measured", "least possible"))


def gpu_faster(cases: dict):
    """Ratios of every program of ours to every other program on a GPU."""
    found = {}
    for words, name in GPU.items():
        for mine, others in cases.get(name, {}).get("ratios", {}).items():
            names = {other: " / ".join(name.replace(",", "") for name in (mine, other)) for other in others}
            found |= {f"{words}: {names[other]}": ratio for other, ratio in others.items()}
    return bars(found, "On a GPU, in bfloat16") if found else None


def gpu_memory(cases: dict):
    """Peak memory of a training step on a GPU."""
    found = {words: cases.get(name, {}).get("memory", {}) for words, name in GPU.items() if "train" in name}
    most = {f"{words}: {program}": peak for words, each in found.items() for program, peak in each.items()}
    return amounts(most, "A training step on a GPU", "MiB above the model") if most else None


def gpu_waiting(cases: dict):
    """Times on a GPU, and the part that its kernels take; for the rest it waits for the CPU."""
    found = {}
    for words, name in GPU.items():
        case = cases.get(name, {})
        for program, kernels in case.get("kernels", {}).items():
            if kernels:  # a profiler may record nothing
                found[f"{words}: {program}"] = 1e3 * case["seconds"][program], kernels["all kernels"]
    return pairs(found, "Time on a GPU", ("of a call", "in GPU kernels")) if found else None


def gpu_pretraining(cases: dict):
    """The training loss of the bundled model's size on a GPU, over time."""
    rows = [row for row in cases.get("gpu_pretraining", {}).get("log", []) if "loss" in row]
    if not rows:
        return None
    axis = panel(6, "convbert-tiny on a GPU", "minutes")
    spent = [sum(row["seconds"] for row in rows[: i + 1]) / 60 for i in range(len(rows))]
    axis.plot(spent, [row["loss"] for row in rows], color=OURS)
    axis.set_ylabel("loss", fontsize=8)
    return axis.figure


FIGURES = {  # file name: the function that plots it
    "faster": partial(beside, FASTER, "Ours beside transformers"),
    "smaller": partial(beside, SMALLER, "The base model"),
    "tokens": tokens,
    "texts": texts,
    "sentence": sentence,
    "memory": memory,
    "without-forward": partial(ablation, "steps_forward", "Ablation, 32 film reviews: speed-up over"),
    "without-training": partial(ablation, "train_steps", "Ablation, a training step: speed-up over"),
    "block": roofline,
    "parts": shares,
    "gpu-faster": gpu_faster,
    "gpu-memory": gpu_memory,
    "gpu-waiting": gpu_waiting,
    "gpu-pretraining": gpu_pretraining,
}


def load_results(gpu: Path = ROOT / "benchmarks" / "results-gpu.json") -> dict:
    """All results in the repository: on a CPU, and on a GPU if there are any."""
    cpu = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    gpu_results = json.loads(gpu.read_text(encoding="utf-8")) if gpu.exists() else {"cases": {}}
    return cpu["cases"] | gpu_results.get("cases", {}) | {"gpu_pretraining": gpu_results.get("pretraining", {})}


def save_figures(cases: dict, folder: Path) -> list[Path]:
    """Plot all results, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    with plt.rc_context({"svg.hashsalt": "convbert", "font.sans-serif": ["DejaVu Sans"]}):
        for name, figure_of in FIGURES.items():
            if figure := figure_of(cases):
                files.append(folder / f"{name}.svg")
                figure.savefig(files[-1], metadata={"Date": None}, facecolor="white")
                plt.close(figure)
    return files


if __name__ == "__main__":
    save_figures(load_results(), Path(sys.argv[1]) if sys.argv[1:] else ROOT / "nbs" / "images" / "speed")
