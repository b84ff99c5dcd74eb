"""How fast, beside transformers, in turn in one process: python benchmarks/compare.py [CASE...] [--out FILE.json].

Every case runs two or more programs in each round, in random order, so that other load on the machine affects all of
them alike. Ours and transformers' have the same weights, and that their outputs are equal is checked first; BERT is
another model of the same size. The result is the median over rounds of the ratio of two times of a round, with its
quartiles, never a time alone. Peak memory is measured for each program in a process of its own. --figures plots
the results. --quick is a smoke test: smaller shapes, two rounds, meaningless numbers.
"""

import argparse
import copy
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
import transformers
from block import block
from machine import flops, machine, matrix_product, parts_of, products_of

import convbert
from convbert import ConvBertConfig, ConvBertForMaskedLM, ConvBertModel, pipeline
from convbert.backends.dispatch import use_backend
from convbert.pipelines import batches, parallel

CASES: dict[str, Callable] = {}
TOKENS: dict[str, int] = {}  # in a run of a case, padding not counted
MEMORY: set[str] = set()  # cases with peak memory


def case(tokens: int = 0, memory: bool = False) -> Callable:
    """Register a case; it takes `quick` and returns programs by name, ours first."""

    def register(function: Callable) -> Callable:
        CASES[function.__name__] = function
        if tokens:
            TOKENS[function.__name__] = tokens
        if memory:
            MEMORY.add(function.__name__)
        return function

    return register


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


def same_outputs(ours: Callable, theirs: Callable, batch: dict, limit: float = 1e-3) -> float:
    """The largest difference of outputs for the longest text, which has no padding; exits above a limit."""
    longest = {name: x[-1:] for name, x in batch.items()}
    with torch.inference_mode():
        difference = (ours(**longest)[0] - theirs(**longest)[0]).abs().max().item()
    if difference > limit:
        raise SystemExit(f"outputs differ by {difference:.3g}, more than {limit:g}: not the same work")
    return difference


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


@case(tokens=8 * 128)
def base_dense(quick):
    """Base model, 8 texts of 128 tokens."""
    return encoders(base(quick), batch_of([128] * (1 if quick else 8), 30522))


@case(tokens=sum(SST2))
def base_ragged(quick):
    """Base model, 32 film reviews of 4 to 64 tokens, padded."""
    return encoders(base(quick), batch_of(SST2[-4:] if quick else SST2, 30522))


def siblings(prefix: str, quick: bool, lengths: list[int]) -> dict[str, Callable]:
    """Forward passes of another family's base model, ours and transformers' with fused attention."""
    config = getattr(convbert, f"{prefix}Config").preset("base", **(dict(num_hidden_layers=1) if quick else {}))
    ours, theirs = twins(config, getattr(convbert, f"{prefix}Model"), getattr(transformers, f"{prefix}Model"))
    batch = batch_of(lengths, 30000)
    same_outputs(ours, theirs, batch)
    return {name: partial(model, **batch) for name, model in {"ours": ours, "transformers": theirs}.items()}


@case(tokens=8 * 128)
def electra_dense(quick):
    """ELECTRA, base size, 8 texts of 128 tokens."""
    return siblings("Electra", quick, [128] * (1 if quick else 8))


@case(tokens=sum(SST2))
def electra_ragged(quick):
    """ELECTRA, base size, 32 film reviews of 4 to 64 tokens, padded."""
    return siblings("Electra", quick, SST2[-4:] if quick else SST2)


@case(tokens=8 * 128)
def albert_dense(quick):
    """ALBERT, base size, 8 texts of 128 tokens."""
    return siblings("Albert", quick, [128] * (1 if quick else 8))


@case(tokens=sum(SST2))
def albert_ragged(quick):
    """ALBERT, base size, 32 film reviews of 4 to 64 tokens, padded."""
    return siblings("Albert", quick, SST2[-4:] if quick else SST2)


@case(tokens=8 * 128)
def distilbert_dense(quick):
    """DistilBERT, base size, 8 texts of 128 tokens."""
    return siblings("DistilBert", quick, [128] * (1 if quick else 8))


@case(tokens=sum(SST2))
def distilbert_ragged(quick):
    """DistilBERT, base size, 32 film reviews of 4 to 64 tokens, padded."""
    return siblings("DistilBert", quick, SST2[-4:] if quick else SST2)


@case(tokens=8 * 128)
def base_bfloat16(quick, lengths=(128,) * 8):
    """Base model in bfloat16, 8 texts of 128 tokens; transformers' in both precisions."""
    ours, theirs = twins(base(quick))
    batch = batch_of(lengths[-1:] if quick else lengths, 30522)
    programs = {"ours": copy.deepcopy(ours).bfloat16(), "transformers": theirs}
    programs["transformers, bfloat16"] = copy.deepcopy(theirs).bfloat16()
    return {name: partial(model, **batch) for name, model in programs.items()}


@case(tokens=sum(SST2))
def base_bfloat16_ragged(quick):
    """The same, 32 film reviews of 4 to 64 tokens, padded."""
    return base_bfloat16(quick, SST2)


def exported(model, **options):
    """The model as a graph in ONNX Runtime."""
    from convbert.export import export
    from convbert.serving import OnnxModel

    with tempfile.TemporaryDirectory() as folder:
        export(model, folder, tokenizer="convbert-tiny", **options)
        return OnnxModel(folder)


@case(tokens=sum(SST2))
def int8(quick):
    """Base model as an int8 graph, 32 film reviews of 4 to 64 tokens, padded."""
    (ours, theirs), batch = twins(base(quick)), batch_of(SST2[-4:] if quick else SST2, 30522)
    graph = exported(ours, precision="int8")
    same_outputs(graph, theirs, batch, limit=0.5)
    programs = {"ours": graph, "transformers": theirs, "ours, float32 in torch": ours}
    return {name: partial(model, **batch) for name, model in programs.items()}


TIMES = 20  # passes per run: a single one is too short to be measured


@case(tokens=TIMES * 32)
def tiny_latency(quick):
    """The bundled model, one sentence of 32 tokens."""
    batch = batch_of([32], 8192)
    programs = encoders(ConvBertConfig.preset("tiny"), batch)
    programs["ours, products alone"] = products_of(programs["ours"])
    if not quick:
        programs["ours, exported"] = partial(exported(programs["ours"].func), **batch)
        programs["ours, compiled"] = partial(torch.compile(programs["ours"].func), **batch)
    return {name: partial(many, program, TIMES) for name, program in programs.items()}


def many(program: Callable, times: int) -> None:
    """A short program, several times."""
    for _ in range(times):
        program()


@case()
def classify(quick):
    """`pipeline("text-classification")` with the bundled sentiment model, texts of --texts."""
    texts = sentences()[: 16 if quick else None]
    ours = pipeline("text-classification")
    with tempfile.TemporaryDirectory() as folder:
        ours.model.save_pretrained(folder)
        model = transformers.ConvBertForSequenceClassification.from_pretrained(folder)
        ours.tokenizer.save_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = transformers.pipeline("text-classification", model, tokenizer=tokenizer)
    if [a["label"] for a in ours(texts, progress=False)] != [a["label"] for a in theirs(texts)]:
        raise SystemExit("the pipelines' labels differ: not the same work")
    graph = pipeline("text-classification", exported(ours.model), tokenizer=ours.tokenizer)
    small = partial(ours, texts, progress=False, batch_tokens=batches.MAX_THREAD_TOKENS)  # one batch of a thread

    def sequential():
        """All threads on one batch."""
        with patch.object(parallel, "is_thread_safe", lambda model: False):
            ours(texts, progress=False)

    return {
        "ours": lambda: ours(texts, progress=False),
        "ours, exported": lambda: graph(texts, progress=False),
        "ours, one batch after another": sequential,
        "ours, products alone": products_of(small, torch.get_num_threads()),
        "transformers": lambda: theirs(texts),
        "transformers, batch_size=32": lambda: theirs(texts, batch_size=32),
    }


@case(tokens=8 * 512, memory=True)
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


@case()
def start_up(quick):
    """A new process: the package and a class of models."""
    programs = {"ours": "from convbert import ConvBertForMaskedLM"}
    programs["transformers"] = "from transformers import ConvBertForMaskedLM"
    programs["torch alone"] = "import torch"
    return {name: partial(subprocess.run, [sys.executable, "-c", line], check=True) for name, line in programs.items()}


@case(tokens=sum(SST2))
def speed_up(quick, lengths=SST2):
    """A base model of transformers before and after `speed_up`, and ours: 32 film reviews, padded."""
    ours, theirs = twins(base(quick))
    fast = convbert.speed_up(copy.deepcopy(theirs))
    batch = batch_of(lengths[-4:] if quick else lengths, 30522)
    same_outputs(fast, theirs, batch, limit=1e-4)
    programs = {"ours, in their model": fast, "ours": ours, "transformers": theirs}
    return {name: partial(model, **batch) for name, model in programs.items()}


@case(tokens=8 * 128)
def speed_up_dense(quick):
    """The same with 8 texts of 128 tokens."""
    return speed_up(quick, [128] * 8)


# -- ablations: ours, and ours without one optimisation


def without(program: Callable, **replacements: Callable) -> Callable:
    """The program with functions of convbert replaced, by dotted name with `__` for `.`."""

    def run():
        with ExitStack() as stack:
            for name, other in replacements.items():
                stack.enter_context(patch(f"convbert.{name.replace('__', '.')}", other))
            program()

    return run


def with_reference(model):
    """A copy with the reference backend."""
    model = copy.deepcopy(model)
    use_backend(model, "reference")
    return model


def torch_attention(query, key, value, bias=None, p=0.0):
    """Attention with torch's dropout."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=p)


def loss_over_all_positions(predictions, x, words, logits, labels, chosen):
    """Cross entropy whose backward pass goes through all logits."""
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


@case(tokens=sum(SST2))
def steps_forward(quick):
    """Base model, 32 film reviews: ours, ours without one optimisation, transformers."""
    ours, theirs = twins(base(quick))
    batch = batch_of(SST2[-4:] if quick else SST2, 30522)
    whole = partial(ours, **batch)
    return {
        "ours": whole,
        "without packing": without(whole, layers__encoder__prepare_mask=lambda mask, *_: (mask.bool(), None)),
        "with the reference backend": partial(with_reference(ours), **batch),
        "without in-place activation": without(whole, layers__feed_forward__untouched=lambda *_: False),
        "transformers": partial(theirs, **batch),
    }


@case(tokens=8 * 512)
def train_steps(quick):
    """Small preset, forward and backward: ours, ours without one optimisation, transformers."""
    programs = train_step(quick)
    whole = programs["ours"]
    return {
        "ours": whole,
        "with torch's attention dropout": without(
            whole, layers__attention__scaled_dot_product_attention=torch_attention
        ),
        "with torch's dropout": without(
            whole, layers__encoder__dropout=F.dropout, layers__embeddings__dropout=F.dropout
        ),
        "with the loss over all positions": without(whole, heads__masked_lm_loss=loss_over_all_positions),
        "with the reference backend": partial(whole.func, with_reference(whole.args[0])),
        "transformers": programs["transformers"],
    }


TEXTS = [
    Path(__file__).parents[1] / "nbs" / "tutorials" / "data" / "subjects-dev.jsonl"
]  # --texts inserts another first


def sentences() -> list[str]:
    """Texts to classify."""
    return [json.loads(line)["text"] for line in TEXTS[0].read_text(encoding="utf-8").splitlines()]


# -- how it is measured


def seconds(program: Callable, grad: bool) -> float:
    """One run."""
    with torch.inference_mode(not grad):
        start = time.perf_counter()
        program()
        return time.perf_counter() - start


def measure(programs: dict[str, Callable], rounds: int, grad: bool) -> dict[str, list[float]]:
    """Seconds of every program in every round, in turn; the first round warms up.

    The order is random: what a program leaves in the allocator makes the next one faster or slower.
    """
    times = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name in random.Random(number).sample([*programs], len(programs)):
            spent = seconds(programs[name], grad)
            if number:
                times[name].append(spent)
    return times


def ratios(times: dict[str, list[float]]) -> dict[str, dict[str, dict[str, float]]]:
    """The speed-up of each of our programs over each other one: median and quartiles over rounds."""
    result = {}
    for mine in (name for name in times if name.startswith("ours")):
        result[mine] = {}
        for other in (name for name in times if not name.startswith("ours")):
            each = [b / a for a, b in zip(times[mine], times[other], strict=True)]
            low, middle, high = statistics.quantiles(each, n=4, method="inclusive")
            result[mine][other] = {"faster": round(middle, 3), "from": round(low, 3), "to": round(high, 3)}
    return result


def rates(spent: dict[str, float], amount: int) -> dict[str, int]:
    """The amount per second of each program, from the amount of a run."""
    return {program: round(amount / each) for program, each in spent.items()}


def compare_with_peak(result: dict, ours: Callable, rounds: int) -> None:
    """Add the ratio to one large matrix product of as many operations, measured in turn with it.

    After the others: such a product changes the state of the allocator, and thereby their times.
    """
    name, product = "the same work in one product", matrix_product(next(ours.func.parameters()).dtype)
    again = max(1, round(flops(ours) / flops(product)))
    times = measure({"ours": ours, name: partial(many, product, again)}, rounds, False)
    result["ratios"]["ours"] |= ratios(times)["ours"]


def is_training(name: str) -> bool:
    """Whether a case needs gradients."""
    return name.startswith("train")


def status(field: str) -> int:
    """A field of this process's status on Linux, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def memory(name: str, program: str, quick: bool) -> float:
    """Peak memory of two runs of a program in MiB, above what its process had before."""
    run = CASES[name](quick)[program]
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak from building the models
    before = status("VmRSS")
    for _ in range(2):
        seconds(run, is_training(name))
    return (status("VmHWM") - before) / 2**20


def memories(name: str, programs: list[str], quick: bool) -> dict[str, int]:
    """Peak memory of each program, in a process of its own."""
    command = [sys.executable, __file__, name, *(["--quick"] if quick else []), "--memory-of"]
    result = {}
    for program in programs:
        done = subprocess.run([*command, program], check=True, stdout=subprocess.PIPE, text=True)
        result[program] = round(float(done.stdout.split()[-1]))
    return result


def report(name: str, quick: bool, rounds: int) -> dict:
    """Measure a case."""
    if name == "block":
        return block(quick, rounds)
    programs = CASES[name](quick)
    result = {"what": CASES[name].__doc__}
    times = measure(programs, rounds, is_training(name))
    result["ratios"] = ratios(times)
    result["seconds"] = {program: round(statistics.median(each), 5) for program, each in times.items()}
    if name in TOKENS:
        result["tokens_per_second"] = rates(result["seconds"], TOKENS[name])
    if name.startswith("base_"):
        compare_with_peak(result, programs["ours"], rounds)
    if name == "classify":
        result["texts_per_second"] = rates(result["seconds"], len(sentences()))
        result["parts"] = parts_of(programs["ours"])
        result["texts"] = f"{len(sentences())} of {TEXTS[0].parent.name}/{TEXTS[0].name}"
    if name in MEMORY and Path("/proc/self/clear_refs").exists():
        result["memory"] = memories(name, list(CASES[name](quick)), quick)
    return result


def main():
    """Run the named cases, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*CASES, "block"]
    parser.add_argument("cases", nargs="*", default=names, metavar="CASE", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    parser.add_argument("--out", type=Path, help="JSON file for the results; other cases in it are kept")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="folder for plots, as SVG")
    parser.add_argument("--texts", type=Path, help='what `classify` reads: JSON lines with a "text" each')
    parser.add_argument(
        "--memory-of", metavar="PROGRAM", help="only measure the peak memory of this program of the case"
    )
    args = parser.parse_args()
    if unknown := set(args.cases) - set(names):
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if args.texts:
        TEXTS.insert(0, args.texts)
    if args.figures:
        from figures import save_figures  # a missing matplotlib should be reported before anything is measured
    if args.memory_of:
        return print(memory(args.cases[0], args.memory_of, args.quick))
    results = {"machine": machine(), "cases": {}}
    if args.out and args.out.exists():
        earlier = json.loads(args.out.read_text(encoding="utf-8"))
        for what in ("cpu", "threads", "torch", "transformers"):
            if earlier["machine"][what] != results["machine"][what]:
                parser.error(
                    f"{args.out} was measured with another {what}: {earlier['machine'][what]}; name another file"
                )
        results["cases"] = earlier["cases"]
    print(json.dumps(results["machine"]))
    for name in args.cases:
        results["cases"][name] = report(name, args.quick, 2 if args.quick else args.rounds)
        print(name, json.dumps(results["cases"][name]), flush=True)
        if args.out:
            beside = args.out.with_name(f".{args.out.name}")  # an interruption while writing must not lose results
            beside.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            beside.replace(args.out)
    if args.figures:
        print("figures:", *save_figures(results["cases"], args.figures))


if __name__ == "__main__":
    main()
