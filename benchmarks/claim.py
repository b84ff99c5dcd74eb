"""Whether span-based convolution pays at equal training FLOPs: python benchmarks/claim.py TEXT... --tasks FOLDER.

Pretrains small encoders of three kinds, self-attention alone, mixed with span-based dynamic convolution (ConvBERT), and
mixed with plain dynamic convolution, each until it has spent --flops in forward and backward passes; fine-tunes them
on the tasks in a folder (`qc`, `ewt_pos` and `sst2`, each with train.jsonl and dev.jsonl); then tries other kernel
sizes, other learning rates, and a longer run of each kind.

Every finished run is written to --out at once and skipped by the next call, so the command can be stopped at any time;
--only takes the runs whose names contain one of some words, --list names all of them. --quick is a smoke test:
meaningless numbers.
"""

import argparse
import json
import math
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from convbert.auto import AutoModelForMaskedLM, AutoModelForPreTraining, AutoTokenizer
from convbert.backends.dispatch import use_backend
from convbert.config import EncoderConfig
from convbert.families.convbert import ConvBertConfig
from convbert.families.electra import ElectraConfig
from convbert.files import replace_file
from convbert.layers.mixed_attention import MixedAttention
from convbert.training.data import RunningText, encode_documents, hold_out, load_documents
from convbert.training.evaluation import HELD_OUT_MASKING, masked_scores, unigram_scores
from convbert.training.finetuning import finetune
from convbert.training.initial_model import load_initial_model
from convbert.training.loop import fit
from convbert.training.optim import Recipe
from convbert.training.pretraining.masking import Masker, PreparedBatches
from convbert.training.pretraining.plan import MASKINGS
from convbert.training.pretraining.replaced_tokens import ReplacedTokens, detection_scores, generator_config
from convbert.training.task_data import load_task_data

SIZES = dict(hidden_size=64, embedding_size=64, num_attention_heads=4, intermediate_size=256, num_hidden_layers=2)
SIZES["initializer_range"] = 0.07  # BERT's 0.02 for a width of 768, in proportion to the root of the width
NO_DROPOUT = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)  # no text is seen twice
KINDS = {"self-attention": ElectraConfig, "span-based": ConvBertConfig, "plain": ConvBertConfig}
OBJECTIVES, NOTHING = ("masked-lm", "replaced-tokens"), "nothing"  # the last is what pretraining is compared with
RATE, OTHER_RATES = 8e-3, (4e-3, 16e-3)
KERNELS = 3, 5, 13  # beside 9
LONGER = 3  # times the FLOPs
GENERATOR_WIDTH = 0.5  # a quarter of so narrow a model would be one head
LENGTH, ROWS = 128, 4  # of a batch
POINTS, CURVE, FINAL = 8, 4, 20  # evaluations of a run, and batches of one on the way and of the last
TASKS = {"qc": "text-classification", "ewt_pos": "token-classification", "sst2": "text-classification"}
TUNING = dict(epochs=2, batch_size=16, learning_rate=1e-3, layer_decay=1.0, precision="float32")


@dataclass(frozen=True)
class Trial:
    """A pretraining run."""

    objective: str
    kind: str
    seed: int = 0
    kernel: int = 9  # tokens
    rate: float = RATE  # learning rate
    times: int = 1  # the FLOPs of other runs

    @property
    def name(self) -> str:
        """Words that tell it from all others."""
        kernel = "" if self.kind == "self-attention" else f" kernel {self.kernel}"
        longer = f" times {self.times}" if self.times > 1 else ""
        return f"{self.objective} {self.kind}{kernel} rate {self.rate:g}{longer} seed {self.seed}"


# -- models


def keep_centre(model: nn.Module, scale: float = 1.0) -> None:
    """Let the kernels of convolution heads depend on their own token alone: other taps are 0 and stay 0."""
    for part in model.modules():
        if isinstance(part, MixedAttention):
            taps = torch.zeros(part.span_depthwise.shape[-1])
            taps[len(taps) // 2] = 1
            part.span_depthwise.data.mul_(scale * taps)
            part.span_depthwise.register_hook(partial(torch.mul, taps))


def make_model(trial: Trial, vocab_size: int) -> nn.Module:
    """The model of a run with random weights; its generator, where there is one, is of the same kind in all runs."""
    torch.manual_seed(trial.seed)
    sizes = dict(SIZES, **NO_DROPOUT, vocab_size=vocab_size)
    kernel = {} if trial.kind == "self-attention" else {"conv_kernel_size": trial.kernel}
    config = KINDS[trial.kind](**sizes, **kernel)
    if trial.objective == "replaced-tokens":
        generator = AutoModelForMaskedLM.from_config(generator_config(ElectraConfig(**sizes), GENERATOR_WIDTH))
        model = ReplacedTokens(AutoModelForPreTraining.from_config(config), generator)
    else:
        model = AutoModelForMaskedLM.from_config(config)
    if trial.kind == "plain":
        keep_centre(model, scale=trial.kernel**0.5)  # one tap of the variance that all K have together
    return model


# -- operations


def count_convolutions(config: EncoderConfig, tokens: int, taps: int) -> int:
    """Operations of both convolutions of all layers, forward and backward: two for each tap and feature."""
    depthwise, dynamic = config.hidden_size * taps, config.mixed_width * config.conv_kernel_size
    return 3 * 2 * tokens * (depthwise + dynamic) * config.num_hidden_layers


def count_step(trial: Trial, batch: dict[str, Tensor], vocab_size: int) -> int:
    """Operations of a forward and a backward pass: torch counts matrix products, we add the convolutions."""
    model = make_model(trial, vocab_size)
    use_backend(model, "reference")  # shifted products, which the counter does not count, instead of banded matrices
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it knows no fused kernel of a CPU
        model(**batch, return_dict=True).loss.backward()
    found = counter.get_total_flops()
    if trial.kind == "self-attention":
        return found
    taps = 1 if trial.kind == "plain" else trial.kernel  # what is zero need not be computed
    return found + count_convolutions(model.config, batch["input_ids"].numel(), taps)


# -- pretraining


def read_tokens(files: list[Path], tokenizer, cache: Path) -> dict[str, np.ndarray]:  # `train` and `held`
    """The ids of the text, tokenised once."""
    if not cache.exists():
        train, held = (encode_documents(part, tokenizer) for part in hold_out(load_documents(files)))
        np.savez(cache, train=train, held=held)
    with np.load(cache) as saved:
        return {name: saved[name] for name in ("train", "held")}


def score(model: nn.Module, batches: PreparedBatches, steps: int) -> dict[str, float]:
    """The loss on held-out text, and the share of what was guessed or found."""
    if isinstance(model, ReplacedTokens):
        torch.manual_seed(1)  # of the samples
        scores = detection_scores(model, batches, steps)
        return dict(loss=scores["detection_loss"], f1=scores["f1"], generator=scores["generator"])
    scores = masked_scores(model, batches, steps)
    return dict(loss=math.log(scores["perplexity"]), top1=scores["top1"])


def pretrain(trial: Trial, args: argparse.Namespace, tokens: dict[str, np.ndarray], tokenizer) -> dict:
    """Train until the FLOPs are spent; the model is kept for the tasks."""
    prepare = Masker(tokenizer)
    masking = MASKINGS[trial.objective]
    held_masking = HELD_OUT_MASKING if trial.objective == "masked-lm" else masking
    rows = RunningText(tokens["train"], tokenizer, (LENGTH,), ROWS * LENGTH, trial.seed).rows
    held = RunningText(tokens["held"], tokenizer, (LENGTH,), 32 * LENGTH, 1).rows
    batches = PreparedBatches(rows, prepare, masking, seed=trial.seed)
    step_flops = count_step(trial, batches(0), len(tokenizer))
    steps = max(2, round(trial.times * args.flops / step_flops))
    every = -(-steps // (1 if args.quick else POINTS))
    recipe = Recipe(steps, trial.rate, warmup=steps // 10, weight_decay=0.1, optimizer="muon", precision="float32")
    recipe = replace(recipe, compile=False, seed=trial.seed, save_every=steps, evaluate_every=every)
    model, began = make_model(trial, len(tokenizer)), time.process_time()
    check = partial(score, batches=PreparedBatches(held, prepare, held_masking, seed=1))
    with tempfile.TemporaryDirectory() as folder:
        log = fit(model, batches, recipe, folder, partial(check, steps=CURVE))
    kept = model.discriminator if isinstance(model, ReplacedTokens) else model
    kept.save_pretrained(args.work / trial.name)
    curve = [row for row in log if "seconds" not in row]
    told = dict(step_flops=step_flops, steps=steps, parameters=kept.num_parameters(), curve=curve)
    with torch.inference_mode():
        told["scores"] = check(model.eval(), steps=FINAL)
    return asdict(trial) | told | dict(cpu_seconds=round(time.process_time() - began, 1))


# -- tasks


def tune(trial: Trial, task: str, args: argparse.Namespace, tokenizer) -> dict:
    """Fine-tune what a run has left on a task."""
    train, dev = ([json.loads(line) for line in open(args.tasks / task / f"{part}.jsonl")] for part in ("train", "dev"))
    train, dev = train[: args.rows], dev[:1000]
    labels = load_task_data(TASKS[task], train, dev).labels
    folder = args.work / trial.name
    if trial.objective == NOTHING:
        make_model(trial, len(tokenizer)).save_pretrained(folder)
    model = load_initial_model(folder, TASKS[task], labels, dropout=0.1, seed=trial.seed)
    if trial.kind == "plain":
        keep_centre(model)
    began, how = time.process_time(), dict(TUNING, seed=trial.seed, evaluate_every=TUNING["epochs"])
    with tempfile.TemporaryDirectory() as folder:
        done = finetune(model, train, TASKS[task], folder, evaluation=dev, tokenizer=tokenizer, **how)
    name, value = next(iter(done.scores.items()))
    told = dict(task=task, score=name, value=value, baseline=done.baseline[name])
    return asdict(trial) | told | dict(cpu_seconds=round(time.process_time() - began, 1))


# -- all runs


def pretraining_trials(seeds: int) -> Iterator[Trial]:
    """The pretraining runs that the tasks need."""
    for objective, seed, kind in product(OBJECTIVES, range(seeds), KINDS):
        yield Trial(objective, kind, seed)


def tuning_trials(seeds: int) -> Iterator[tuple[Trial, str]]:
    """All fine-tuning runs."""
    for seed, objective, task, kind in product(range(seeds), (*OBJECTIVES, NOTHING), TASKS, KINDS):
        yield Trial(objective, kind, seed), task


def other_trials(seeds: int) -> Iterator[Trial]:
    """What else is varied, for masked words alone."""
    for seed, kernel in product(range(seeds), KERNELS):
        yield Trial("masked-lm", "span-based", seed, kernel)
    for rate, kind in product(OTHER_RATES, KINDS):
        yield Trial("masked-lm", kind, rate=rate)
    for kind in KINDS:
        yield Trial("masked-lm", kind, times=LONGER)


def main() -> None:
    """Run what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="TEXT", help="to pretrain on, as of `convbert pretrain`")
    parser.add_argument("--tasks", type=Path, metavar="FOLDER", help="of labelled sets; none: no fine-tuning")
    parser.add_argument("--flops", type=float, default=4e11, help="of a run (default: %(default)g)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=1000, help="of a task (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORDS", help="runs whose names contain one of them")
    parser.add_argument("--work", type=Path, default=Path("claim"), help="for ids and models (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("claim.json"), help="results (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="name the runs, and which are done")
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    args = parser.parse_args()
    if args.quick:
        args.flops, args.seeds, args.rows = 1.0, 1, 300
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "ConvBert|Electra")  # heads that a task has no use for
    run_all(args)


def run_all(args: argparse.Namespace) -> None:
    """Pretrain, then fine-tune; each result is kept when it is there."""
    results = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    results = {"torch": torch.__version__, "flops": args.flops, "runs": {}, "tasks": {}} | results
    if results["flops"] != args.flops:
        raise SystemExit(f"{args.out} holds runs of {results['flops']:g} FLOPs, not of {args.flops:g}: choose another")
    args.work.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained("convbert-tiny")
    tokens = read_tokens(args.files, tokenizer, args.work / "tokens.npz")
    results["unigram"] = math.log(unigram_scores(**tokens, size=len(tokenizer))["perplexity"])  # loss without a context

    def due(name: str, part: str) -> bool:
        chosen = any(words in name for words in args.only)
        if chosen and args.list:
            print(f"{'done' if name in results[part] else 'due '} {name}")
        return chosen and not args.list and name not in results[part]

    def keep(name: str, part: str, result: dict) -> None:
        results[part][name] = result
        with replace_file(args.out) as beside:
            beside.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    def run(trial: Trial) -> None:
        if due(trial.name, "runs"):
            keep(trial.name, "runs", pretrain(trial, args, tokens, tokenizer))

    for trial in pretraining_trials(args.seeds):
        run(trial)
    for trial, task in tuning_trials(args.seeds) if args.tasks else ():
        if due(name := f"{task} after {trial.name}", "tasks"):
            keep(name, "tasks", tune(trial, task, args, tokenizer))
    for trial in other_trials(args.seeds):
        run(trial)


if __name__ == "__main__":
    main()
