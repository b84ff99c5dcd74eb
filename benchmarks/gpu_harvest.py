"""Results from a GPU: numbers for the page on speed, and a model that is evaluated beside the bundled one."""

import json
import shutil
from pathlib import Path

from figures import ROOT, load_results, save_figures
from gpu import HOME, read, write

from convbert import ConvBertConfig, ConvBertTokenizerFast
from convbert.training.pretraining import evaluate

BUNDLED = ROOT / "convbert" / "models" / "convbert-tiny"
SAME = "device", "torch", "transformers", "triton", "cuda"  # only numbers that agree in these are comparable
KEPT = "machine", "checks", "cases", "trials", "pretraining"  # of the results, for the repository


def bring_in(folder: Path, unseen: list[Path], results: Path, figures: Path) -> None:
    """Store and plot the numbers, evaluate the model."""
    if not (folder / "results.json").exists():
        raise SystemExit(f"{folder} has no results.json: name the folder with the session's files")
    found = read(folder)
    for part, row in found["parts"].items():
        print(f"{part}: {row['ended']} after {row['seconds']:.0f} s")
    keep_numbers(found, results)
    plots = save_figures(load_results(results), figures)
    print("figures:", *[file.name for file in plots if file.stem.startswith("gpu")])
    if not (folder / "model.safetensors").exists():
        return print("there is no model in it: the bundled one stays")
    new, objective = build(folder, found["pretraining"]), found["pretraining"]["plan"].get("objective", "masked-lm")
    if objective == "replaced-tokens":
        return print(f"{new} is a discriminator to fine-tune: python tools/task_models.py DATA RUNS --model {new}")
    if not unseen:
        return print(f"{new} is complete; to evaluate it beside the bundled one, name texts with --unseen")
    both = {"new": new, "old": BUNDLED}
    scores = {name: {file.name: evaluate([file], model) for file in unseen} for name, model in both.items()}
    compare_models(new, scores, found["pretraining"], found["machine"])


def keep_numbers(found: dict, results: Path) -> None:
    """Add to the numbers in the repository; those of another GPU or other software are dropped."""
    known = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    here, there = ([each.get("machine", {}).get(name) for name in SAME] for each in (found, known))
    if known and here != there:
        print(f"measured on {here}, where there was {there}: the earlier numbers are dropped")
        known = {}
    for name in KEPT:
        if found.get(name):
            known[name] = known.get(name, {}) | found[name]
    if known:
        write(results, json.dumps(known, indent=1) + "\n")


def build(folder: Path, run: dict) -> Path:
    """The model as a folder that `from_pretrained` opens."""
    new = HOME / "convbert-tiny"
    shutil.rmtree(new, ignore_errors=True)
    ConvBertConfig.from_dict(run["config"]).save_pretrained(new)
    ConvBertTokenizerFast.from_pretrained(BUNDLED).save_pretrained(new)
    shutil.copy(folder / "model.safetensors", new)
    write(new / "training_log.json", json.dumps(run["log"]))
    return new


def percent(share: float) -> str:
    """A share as text."""
    return f"{100 * share:.1f} %"


def compare_models(new: Path, scores: dict, run: dict, machine: dict) -> None:
    """Print both models' scores on every text, and write the card of the new one."""
    for file in scores["new"]:
        for name in ("new", "old"):
            row = scores[name][file]
            numbers = f"top-1 {percent(row['top1'])}, top-5 {percent(row['top5'])}, perplexity {row['perplexity']:.1f}"
            print(f"{file}: {name:3} {numbers}")
    held = {key: run[key] for key in ("top1", "top5", "perplexity")}
    write(new / "scores.json", json.dumps({"held-out documents": held, **scores["new"]}, indent=1) + "\n")
    write(new / "README.md", card(scores["new"], held, run, machine))
    better = all(scores["new"][file]["top1"] > scores["old"][file]["top1"] for file in scores["new"])
    if not better:
        return print(f"the bundled model stays: {new} is not better on every text")
    print(f"better on every text. Look at {new}, then: cp {new}/* {BUNDLED}/")


def card(scores: dict, held: dict, run: dict, machine: dict) -> str:
    """The bundled model's card with the new numbers; its sections on data, licences and limits stay."""
    intro, *sections = (BUNDLED / "README.md").read_text(encoding="utf-8").split("\n## ")
    kept = [section for section in sections if not section.startswith(("Scores", "Training"))]
    rows = {"held-out documents of the training kinds (every 200th)": held, **scores}
    lines = [f"| {n} | {percent(r['top1'])} | {percent(r['top5'])} | {r['perplexity']:.1f} |" for n, r in rows.items()]
    asked = "Share of masked tokens guessed at once (top-1) and among the first five (top-5), "
    asked += "when 15 % of the tokens of rows of 128 are shown as `[MASK]`:"
    table = ["Scores", "", asked, "", "| text | top-1 | top-5 | perplexity |"]
    return "\n## ".join([intro, "\n".join([*table, "|---|---|---|---|", *lines, ""]), training(run, machine), *kept])


def training(run: dict, machine: dict) -> str:
    """How the weights were made."""
    plan = run["plan"]
    rows = {
        "command": "`bash benchmarks/gpu.sh run`",
        "steps": f"{run['step']:,} of {plan['tokens']:,} tokens, of which {percent(plan['rate'])} are masked",
        "tokens seen": f"{run['tokens'] / 1e6:,.0f} million",
        "time": f"{run['minutes']:.1f} minutes on one {machine['device']}, bfloat16, `torch.compile`",
        "speed": f"{run['tokens_per_second']:,} tokens a second, {percent(run['share_of_peak'])} of the card's peak",
        "optimizer": f"Muon for the layers' matrices, AdamW for the rest; peak learning rate {plan['learning_rate']}",
    }
    return "\n".join(["Training", "", "| | |", "|---|---|", *[f"| {k} | {v} |" for k, v in rows.items()], ""])
