"""The steps of `bash benchmarks/gpu.sh`: prepare a corpus here, run on a GPU elsewhere, harvest the results here.

`run` starts every part as a process of its own, so that a failure, a hang or a lack of memory ends this part only, and
saves results at once. A finished part does not run again; pretraining continues from its checkpoint.
"""

import argparse
import hashlib
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
HOME = Path(os.environ.get("CONVBERT_GPU") or ROOT / "runs" / "gpu").absolute()  # which git ignores
TOY = "-toy" if "--toy" in sys.argv else ""  # kept apart from a session's files
WORK, KEPT = HOME / f"work{TOY}", HOME / f"out{TOY}"  # files for the next part; files to bring back
MAX_UPLOAD, MAX_FILE = 64 * 2**20, 16 * 2**20  # bytes in all to carry there; of one file to bring back
PARTS = {"tests": 120.0, "speed": 180.0, "pretrain": float("inf")}  # seconds; the last one gets what is left
SPARE = 10.0  # seconds at the end, for packing


def write(path: Path, text: str) -> None:
    """Write to a temporary file and replace: after a crash there is the old file or the new one."""
    beside = path.with_name(f".{path.name}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def read(out: Path) -> dict:
    """The results so far."""
    file = out / "results.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"parts": {}, "cases": {}}


def record(out: Path, **news: dict) -> dict:
    """Add entries to the results, by name."""
    results = read(out)
    for name, rows in news.items():
        results[name] = results.get(name, {}) | rows
    write(out / "results.json", json.dumps(results, indent=1) + "\n")
    return results


# -- prepare


def fingerprint(files: list[Path], vocabulary: str) -> str:
    """A hash of the text files and the vocabulary that tokens were made from."""
    names = "\n".join(f"{file.name} {file.stat().st_size}" for file in files)
    return hashlib.sha256(f"{names}\n{vocabulary}".encode()).hexdigest()


def tokenise(files: list[Path], every: int) -> None:
    """Write training and held-out tokens, split as `convbert pretrain` splits them, with the bundled vocabulary."""
    from convbert import ConvBertTokenizerFast
    from convbert.training.data import check_files, encode_documents, hold_out, load_documents

    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    vocabulary = "\n".join(sorted(tokenizer.get_vocab()))
    facts = {"made_of": fingerprint([Path(file) for file in check_files(files)], f"{every} {vocabulary}")}
    notes, packed = HOME / "data" / "tokens.json", HOME / "data" / "tokens.xz"
    if notes.exists() and packed.exists() and json.loads(notes.read_text())["made_of"] == facts["made_of"]:
        return print("the tokens are there already")
    parts = [encode_documents(part, tokenizer) for part in hold_out(load_documents(files), every)]
    rows = np.concatenate(parts).astype("<u2")
    halves = rows.view(np.uint8).reshape(-1, 2).T  # low bytes before high ones compress 15 % better
    notes.parent.mkdir(parents=True, exist_ok=True)
    notes.unlink(missing_ok=True)
    with lzma.open(packed, "wb", preset=6) as file:
        file.write(halves.tobytes())
    facts |= dict(train=len(parts[0]), held=len(parts[1]), files=[file.name for file in files])
    write(notes, json.dumps(facts))


def load_tokens() -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out ids."""
    facts = json.loads((HOME / "data" / "tokens.json").read_text())
    with lzma.open(HOME / "data" / "tokens.xz") as file:
        halves = np.frombuffer(file.read(), np.uint8).reshape(2, -1)
    rows = np.ascontiguousarray(halves.T).view("<u2")[:, 0].astype(np.uint16)
    if len(rows) != facts["train"] + facts["held"]:
        raise SystemExit(f"{HOME / 'data'} is incomplete: run `prepare` again")
    return rows[: facts["train"]], rows[facts["train"] :]


def task_models() -> list[Path]:
    """The bundled models that are not needed there."""
    return sorted((ROOT / "convbert" / "models").glob("convbert-tiny-*"))


def prepare(args: argparse.Namespace) -> None:
    """Tokenise, check the size of what must be carried there, and print the next commands."""
    tokenise(args.files, args.hold_out_every)
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    state = subprocess.run(asked, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    write(HOME / "data" / "revision", state + "\n")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    stay = tuple(str(folder.relative_to(ROOT)) + "/" for folder in task_models())
    tracked = sum((ROOT / n).stat().st_size for n in listed.split("\0") if n and (ROOT / n).exists())
    left = sum((ROOT / n).stat().st_size for n in listed.split("\0") if n.startswith(stay) and (ROOT / n).exists())
    data = sum(file.stat().st_size for place in ("data", "out") for file in (HOME / place).glob("*"))
    total = tracked - left + data
    parts = {"tracked files": tracked, "task models among them": left, str(HOME): data}
    print(", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in parts.items()))
    print(f"without the task models {total / 2**20:.1f} MiB to carry, of {MAX_UPLOAD / 2**20:.0f} allowed")
    if total > MAX_UPLOAD:
        raise SystemExit("too large: choose a smaller corpus")
    place = HOME.relative_to(ROOT) if HOME.is_relative_to(ROOT) else HOME
    print(f"\ncarry {place}/data, and {place}/out if it is there; leave out {', '.join(stay)}")
    print("there: bash benchmarks/gpu.sh run")
    print("here, when its files are back: bash benchmarks/gpu.sh harvest FOLDER")


# -- run


def command(part: str, out: Path, seconds: float, args: argparse.Namespace) -> list[str]:
    """The command of a part."""
    if part == "tests":
        names = ["tests/test_triton.py", "tests/test_gpu.py"]
        many = ["-k", "packed_attention or one_token"] if args.toy else ["-n", str(max(1, (os.cpu_count() or 1) // 3))]
        return [sys.executable, "-m", "pytest", *names, "-q", "-p", "no:cacheprovider", "--durations=5", *many]
    toy = ["--toy"] if args.toy else []
    plans = {"pretrain": args.plan, "compile": args.trials or [",".join(args.plan)]}.get(part, args.trials)
    script = str(ROOT / "benchmarks" / ("gpu_speed.py" if part in ("compile", "speed") else "gpu_pretrain.py"))
    return [sys.executable, script, part, "--out", str(out), "--seconds", f"{seconds:.0f}", *toy, "--trials", *plans]


def stop(process: subprocess.Popen, patience: float = 15.0) -> None:
    """Interrupt a part and its child processes, so that it can save; then kill them."""
    for number, wait in ((signal.SIGINT, patience), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
            process.wait(wait)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def start(part: str, out: Path, seconds: float, args: argparse.Namespace) -> tuple[subprocess.Popen, Path]:
    """Start a part as a process; the process and its log."""
    log = WORK / f"{part}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "TQDM_MININTERVAL": "10", "TORCHINDUCTOR_CACHE_DIR": str(WORK / "cache")}
    env |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("w") as file:
        given = dict(cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        return subprocess.Popen(command(part, out, seconds, args), **given), log


def finish(part: str, out: Path, started: tuple, limit: float, began: float) -> None:
    """Wait for a part until its time limit, and record how it ended."""
    process, log = started
    how = "done"
    try:
        process.wait(max(0.0, limit - (time.monotonic() - began)))
    except subprocess.TimeoutExpired:
        how = "stopped at its time limit"
        stop(process)
    except KeyboardInterrupt:
        how = "interrupted"
        stop(process)
        raise
    finally:
        if how == "done" and process.returncode:
            how = f"failed with exit code {process.returncode}"
        output = log.read_text(errors="replace").replace("\r", "\n").splitlines()
        row = dict(ended=how, seconds=round(time.monotonic() - began, 1), output=output[-40:], revision=revision())
        record(out, parts={part: row})
        print(f"{part}: {how} after {row['seconds']:.0f} of {limit:.0f} s", *output[-12:], sep="\n    ", flush=True)


def restore(out: Path) -> None:
    """Restore results and checkpoint of an earlier run."""
    earlier, work = KEPT, WORK
    if earlier.is_dir() and earlier != out:
        for file in earlier.iterdir():
            if file.is_file() and not (out / file.name).exists():
                shutil.copy(file, out / file.name)
    pieces, whole = sorted(out.glob("checkpoint.pt.*")), work / "pretrain" / "checkpoint.pt"
    if pieces and not whole.exists():
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_bytes(b"".join(piece.read_bytes() for piece in pieces))


def split_files(out: Path) -> None:
    """Split files to bring back into pieces that are small enough."""
    work = WORK
    checkpoint = work / "pretrain" / "checkpoint.pt"
    if checkpoint.exists():
        whole = checkpoint.read_bytes()
        for number, at in enumerate(range(0, len(whole), MAX_FILE - 2**20)):
            (out / f"checkpoint.pt.{number:02}").write_bytes(whole[at : at + MAX_FILE - 2**20])
    logs = [f"== {log.stem}\n{log.read_text(errors='replace')[-200_000:]}" for log in sorted(work.glob("*.log"))]
    write(out / "log.txt", "\n".join(logs).replace("\r", "\n"))
    large = [file.name for file in out.iterdir() if file.stat().st_size > MAX_FILE]
    print("too large to bring back:" if large else "ready to bring back:", *(large or sorted(os.listdir(out))))


def revision() -> str:
    """The revision of the code, as `prepare` found it: the GPU machine has no git history."""
    file = HOME / "data" / "revision"
    return file.read_text().strip() if file.exists() else "unknown"


def is_done(part: str, row: dict) -> bool:
    """Whether a part need not run again: a model stays valid, measurements belong to a revision."""
    return row["ended"] == "done" and (part == "pretrain" or row.get("revision") == revision())


def end(number: int, frame: object) -> None:
    """Handle SIGTERM like Ctrl-C."""
    raise KeyboardInterrupt


def run(args: argparse.Namespace) -> None:
    """Run every part that is not done yet, within the time."""
    began, out = time.monotonic(), args.out or Path(os.environ.get("OUT") or KEPT)
    out.mkdir(parents=True, exist_ok=True)
    restore(out)
    done = {part for part, row in read(out)["parts"].items() if is_done(part, row)}
    signal.signal(signal.SIGTERM, end)  # the machine may be reclaimed
    parts = [part for part in args.only or PARTS if part not in done]
    print("to do:", *parts, *([f"(done already: {', '.join(sorted(done))})"] if done else []), flush=True)
    beside = []
    try:
        for part in parts:
            left = 60 * args.minutes - (time.monotonic() - began) - SPARE * min(1, args.minutes / 6)
            limit = min(args.limits.get(part, PARTS.get(part, 150.0) * min(1, args.minutes / 6)), left)
            if limit < 5:
                record(out, parts={part: dict(ended="not started: no time was left", seconds=0, output=[])})
                print(f"{part}: no time is left")
                continue
            since = time.monotonic()
            started = start(part, out, limit, args)
            if part == "tests" and not args.toy:  # nothing is timed: compile meanwhile
                beside = [start("compile", out, limit, args)]
            finish(part, out, started, limit, since)
            for process, _ in beside:
                try:
                    process.wait(max(0.0, limit - (time.monotonic() - since)))
                except subprocess.TimeoutExpired:
                    stop(process)
            beside = []
    finally:
        for process, _ in beside:
            stop(process)
        split_files(out)
        print(f"{time.monotonic() - began:.0f} s in all", flush=True)


# -- harvest


def harvest(args: argparse.Namespace) -> None:
    """Store numbers and figures, and evaluate the new model beside the bundled one."""
    from gpu_harvest import bring_in

    bring_in(args.folder or HOME / "out", args.unseen, args.results, args.figures)


def parse_limit(text: str) -> tuple[str, float]:
    """`tests=90` as a name and a number."""
    part, _, seconds = text.partition("=")
    if part not in (*PARTS, "trials") or not seconds.replace(".", "", 1).isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not PART=SECONDS with one of {', '.join(PARTS)}, trials")
    return part, float(seconds)


def main() -> None:
    """Run the named step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(required=True, metavar="STEP")
    here = steps.add_parser("prepare", help=prepare.__doc__, description=prepare.__doc__)
    here.add_argument("files", nargs="+", type=Path, help="plain text, also .xz: what `convbert pretrain` takes")
    here.add_argument("--hold-out-every", type=int, default=200, help="every n-th document is held out for evaluation")
    there = steps.add_parser("run", help=run.__doc__, description=run.__doc__)
    there.add_argument("--minutes", type=float, default=12.0, help="for all parts")
    there.add_argument("--only", nargs="+", choices=["tests", "speed", "trials", "pretrain"], help="these parts")
    there.add_argument(
        "--limits",
        nargs="+",
        type=parse_limit,
        default=[],
        metavar="PART=SECONDS",
        help="time limits other than the defaults",
    )
    there.add_argument("--out", type=Path, help="folder for files to bring back: $OUT, or runs/gpu/out")
    there.add_argument("--toy", action="store_true", help="small sizes, to try everything on a CPU first")
    there.add_argument("--trials", nargs="+", default=[], metavar="KEY=VALUE,…", help="short runs, to compare plans")
    there.add_argument("--plan", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the pretraining plan")
    back = steps.add_parser("harvest", help=harvest.__doc__, description=harvest.__doc__)
    back.add_argument("folder", nargs="?", type=Path, help="the session's files; runs/gpu/out by default")
    back.add_argument(
        "--unseen", nargs="+", type=Path, default=[], help="text that neither model was trained on, for evaluation"
    )
    back.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results-gpu.json")
    back.add_argument("--figures", type=Path, default=ROOT / "nbs" / "images" / "speed")
    for parser_of, step in ((here, prepare), (there, run), (back, harvest)):
        parser_of.set_defaults(step=step)
    args = parser.parse_args()
    args.limits = dict(getattr(args, "limits", []))
    try:
        args.step(args)
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the same command continues") from None


if __name__ == "__main__":
    main()
