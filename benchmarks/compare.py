"""How fast, beside transformers, in turn in one process: python benchmarks/compare.py [CASE...] [--out FILE.json].

Every case runs two or more programs one after the other in each round, so that whatever else the machine does meets
them all. Ours and transformers' have the same weights, and that they give the same answers is checked first; BERT is
another model of the same size. What is told is the median over rounds of the ratio of two times
that were measured next to each other, with its quartiles, never a time alone. --quick is a smoke test: smaller
shapes, two rounds, numbers without a meaning.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import transformers

import convbert
from convbert import ConvBertConfig, ConvBertForMaskedLM, ConvBertModel, pipeline

CASES: dict[str, Callable] = {}


def case(function: Callable) -> Callable:
    """Put a case under its name; it takes `quick` and gives programs by name, ours first."""
    CASES[function.__name__] = function
    return function


# -- what is compared


def twins(config: ConvBertConfig, ours: type = ConvBertModel, theirs: type = transformers.ConvBertModel) -> tuple:
    """A model with random weights, and transformers' with the same."""
    torch.manual_seed(0)
    model = ours(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return model, theirs.from_pretrained(folder).eval()


def bert(config: ConvBertConfig) -> transformers.BertModel:
    """A BERT of the same size with fused attention."""
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    same = {name: getattr(config, name) for name in names}
    return transformers.BertModel(transformers.BertConfig(**same), add_pooling_layer=False).eval()


def batch_of(lengths: list[int], vocabulary: int) -> dict[str, torch.Tensor]:
    """Random tokens of these lengths, padded to the longest."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, vocabulary, mask.shape, generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids * mask, "attention_mask": mask.long()}


def same_outputs(ours: Callable, theirs: Callable, batch: dict, limit: float = 1e-3) -> None:
    """Refuse to compare programs that compute different things: looked at is the longest text, which has no padding."""
    longest = {name: x[-1:] for name, x in batch.items()}
    with torch.inference_mode():
        apart = (ours(**longest)[0] - theirs(**longest)[0]).abs().max().item()
    if apart > limit:
        raise SystemExit(f"outputs differ by {apart:.3g}, more than {limit:g}: not the same work")


def encoders(config: ConvBertConfig, batch: dict) -> dict[str, Callable]:
    """Forward passes of our model, of transformers' ConvBERT, and of a BERT."""
    ours, theirs = twins(config)
    same_outputs(ours, theirs, batch)
    programs = {"ours": ours, "transformers": theirs, "BERT": bert(config)}
    return {name: partial(model, **batch) for name, model in programs.items()}


def base(quick: bool) -> ConvBertConfig:
    """The published base model."""
    return ConvBertConfig.preset("base", **(dict(num_hidden_layers=1) if quick else {}))


SST2 = [4, 9, 12, 13, 14, 15, 17, 18, 19, 20, 21, 21, 23, 25, 26, 26]  # tokens of film reviews, half of them
SST2 += [27, 28, 29, 30, 30, 33, 34, 35, 38, 40, 41, 44, 46, 49, 57, 64]


# -- cases


@case
def base_dense(quick):
    """Base model, 8 texts of 128 tokens."""
    return encoders(base(quick), batch_of([128] * (1 if quick else 8), 30522))


@case
def base_ragged(quick):
    """Base model, 32 film reviews of 4 to 64 tokens, padded."""
    return encoders(base(quick), batch_of(SST2[-4:] if quick else SST2, 30522))


@case
def int8(quick):
    """Base model as an int8 graph, 32 film reviews of 4 to 64 tokens, padded."""
    from convbert.export import export
    from convbert.serving import OnnxModel

    (ours, theirs), batch = twins(base(quick)), batch_of(SST2[-4:] if quick else SST2, 30522)
    with tempfile.TemporaryDirectory() as folder:
        export(ours, folder, tokenizer="convbert-tiny", precision="int8")
        graph = OnnxModel(folder)
    same_outputs(graph, theirs, batch, limit=0.5)
    programs = {"ours": graph, "transformers": theirs, "ours, float32 in torch": ours}
    return {name: partial(model, **batch) for name, model in programs.items()}


@case
def tiny_latency(quick):
    """The bundled model, one sentence of 32 tokens."""
    return encoders(ConvBertConfig.preset("tiny"), batch_of([32], 8192))


@case
def classify(quick):
    """`pipeline("text-classification")` on sentences, the bundled sentiment model."""
    texts = sentences(16 if quick else 512)
    ours = pipeline("text-classification")
    with tempfile.TemporaryDirectory() as folder:
        ours.model.save_pretrained(folder)
        model = transformers.ConvBertForSequenceClassification.from_pretrained(folder)
        ours.tokenizer.save_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = transformers.pipeline("text-classification", model, tokenizer=tokenizer)
    if [a["label"] for a in ours(texts, progress=False)] != [a["label"] for a in theirs(texts)]:
        raise SystemExit("the pipelines answer differently: not the same work")
    return {
        "ours": lambda: ours(texts, progress=False),
        "transformers": lambda: theirs(texts),
        "transformers, batch_size=32": lambda: theirs(texts, batch_size=32),
    }


@case
def train_step(quick):
    """Forward, backward: small preset, masked words in 8 texts of 512 tokens."""
    config = ConvBertConfig.preset("small", **(dict(num_hidden_layers=1) if quick else {}))
    batch = batch_of([64] * 2 if quick else [512] * 8, config.vocab_size)
    labels = batch["input_ids"].where(torch.rand(batch["input_ids"].shape) < 0.15, -100)
    models = twins(config, ConvBertForMaskedLM, transformers.ConvBertForMaskedLM)
    same_outputs(*(lambda m=m, **b: (m(**b).logits,) for m in models), batch)

    def step(model):
        model.zero_grad(set_to_none=True)
        model(**batch, labels=labels).loss.backward()

    names = ("ours", "transformers")
    return {name: partial(step, model.train()) for name, model in zip(names, models, strict=True)}


def sentences(count: int) -> list[str]:
    """Sentences of the tutorials' data."""
    file = Path(__file__).parents[1] / "nbs" / "tutorials" / "data" / "subjects-dev.jsonl"
    rows = [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]
    return (rows * (count // len(rows) + 1))[:count]


# -- how it is measured


def seconds(program: Callable, grad: bool) -> float:
    """One run."""
    with torch.inference_mode(not grad):
        began = time.perf_counter()
        program()
        return time.perf_counter() - began


def measure(programs: dict[str, Callable], rounds: int, grad: bool) -> dict[str, list[float]]:
    """Seconds of every program in every round, in turn; the first round warms up."""
    times = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, program in programs.items():
            spent = seconds(program, grad)
            if number:
                times[name].append(spent)
    return times


def ratios(times: dict[str, list[float]]) -> dict[str, dict]:
    """How many times faster the first program is than each other: median and quartiles over rounds."""
    ours, *others = times
    told = {}
    for name in others:
        each = [b / a for a, b in zip(times[ours], times[name], strict=True)]
        low, middle, high = statistics.quantiles(each, n=4, method="inclusive")
        told[name] = {"faster": round(middle, 3), "from": round(low, 3), "to": round(high, 3)}
    return told


def peak() -> float:
    """The machine's matrix product in float32, in GFLOP/s: the best of ten."""
    a, b = torch.randn(1024, 768), torch.randn(768, 3072)
    best = min(seconds(lambda: a @ b, grad=False) for _ in range(10))
    return 2 * 1024 * 768 * 3072 / best / 1e9


def machine() -> dict:
    """What it was measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    versions = {m.__name__: m.__version__ for m in (convbert, torch, transformers)}
    return {"cpu": model, "threads": torch.get_num_threads(), "peak_gflops": round(peak()), **versions}


def main():
    """Run the cases that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    parser.add_argument("--out", type=Path, help="where the numbers go, as JSON")
    args = parser.parse_args()
    results = {"machine": machine(), "cases": {}}
    print(json.dumps(results["machine"]))
    for name in args.cases:
        times = measure(CASES[name](args.quick), 2 if args.quick else args.rounds, grad=name.startswith("train"))
        middle = {program: round(statistics.median(each), 5) for program, each in times.items()}
        results["cases"][name] = {"what": CASES[name].__doc__, "ratios": ratios(times), "seconds": middle}
        print(name, json.dumps(results["cases"][name]), flush=True)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
