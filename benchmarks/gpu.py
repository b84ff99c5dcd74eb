"""What `bash benchmarks/gpu.sh` does: prepare a corpus here, use a GPU there for some minutes, look at the result here.

`run` starts every part as a process of its own, so that one that fails, hangs or runs out of memory takes nobody with
it, and writes what is done at once. A part that is done is not done again; pretraining goes on from its checkpoint.
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
TOY = "-toy" if "--toy" in sys.argv else ""  # whose leavings must not be taken for a session's
WORK, KEPT = HOME / f"work{TOY}", HOME / f"out{TOY}"  # what a part leaves for the next one; what comes back
TRAVELS, COMES_BACK = 64 * 2**20, 16 * 2**20  # bytes in all; of a file
PARTS = {"tests": 120.0, "speed": 180.0, "pretrain": float("inf")}  # seconds; the last one gets what is left
SPARE = 10.0  # seconds at the end, for packing


def write(path: Path, text: str) -> None:
    """Write beside, then put in place: whoever is killed leaves the old file or the new one."""
    beside = path.with_name(f".{path.name}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def read(out: Path) -> dict:
    """What is known so far."""
    file = out / "results.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"parts": {}, "cases": {}}


def record(out: Path, **news: dict) -> dict:
    """Add to what is known so far: the rows of each name are added to those that it has."""
    results = read(out)
    for name, rows in news.items():
        results[name] = results.get(name, {}) | rows
    write(out / "results.json", json.dumps(results, indent=1) + "\n")
    return results


# -- prepare


def fingerprint(files: list[Path], vocabulary: str) -> str:
    """Which text and which vocabulary a file of tokens was made of."""
    names = "\n".join(f"{file.name} {file.stat().st_size}" for file in files)
    return hashlib.sha256(f"{names}\n{vocabulary}".encode()).hexdigest()


def tokenise(files: list[Path], every: int) -> None:
    """Write training and held-out tokens, split as `convbert pretrain` splits them, in the bundled vocabulary."""
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
    halves = rows.view(np.uint8).reshape(-1, 2).T  # low bytes, then high ones: 15 % smaller
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
        raise SystemExit(f"{HOME / 'data'} is not whole: run `prepare` again")
    return rows[: facts["train"]], rows[facts["train"] :]


def task_models() -> list[Path]:
    """The bundled models that need not travel."""
    return sorted((ROOT / "convbert" / "models").glob("convbert-tiny-*"))


def prepare(args: argparse.Namespace) -> None:
    """Tokenise, weigh what travels, and say what to do."""
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
    print(f"without the task models {total / 2**20:.1f} MiB travel, of {TRAVELS / 2**20:.0f} that may")
    if total > TRAVELS:
        raise SystemExit("too much: take a smaller corpus")
    place = HOME.relative_to(ROOT) if HOME.is_relative_to(ROOT) else HOME
    print(f"\ncarry {place}/data, and {place}/out if it is there; leave out {', '.join(stay)}")
    print("there: bash benchmarks/gpu.sh run")
    print("here, when its files are back: bash benchmarks/gpu.sh harvest FOLDER")


# -- run


def command(part: str, out: Path, seconds: float, args: argparse.Namespace) -> list[str]:
    """What a part runs."""
    if part == "tests":
        names = ["tests/test_triton.py", "tests/test_gpu.py"]
        many = ["-k", "packed_attention or one_token"] if args.toy else ["-n", str(max(1, (os.cpu_count() or 1) // 3))]
        return [sys.executable, "-m", "pytest", *names, "-q", "-p", "no:cacheprovider", "--durations=5", *many]
    toy = ["--toy"] if args.toy else []
    plans = {"pretrain": args.plan, "compile": args.trials or [",".join(args.plan)]}.get(part, args.trials)
    script = str(ROOT / "benchmarks" / ("gpu_speed.py" if part in ("compile", "speed") else "gpu_pretrain.py"))
    return [sys.executable, script, part, "--out", str(out), "--seconds", f"{seconds:.0f}", *toy, "--trials", *plans]


def stop(process: subprocess.Popen, patience: float = 15.0) -> None:
    """Ctrl-C for a part and all that it started, so that it can save; then the end."""
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
    """A part as a process, and where it writes what it says."""
    log = WORK / f"{part}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "TQDM_MININTERVAL": "10", "TORCHINDUCTOR_CACHE_DIR": str(WORK / "cache")}
    env |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("w") as file:
        given = dict(cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        return subprocess.Popen(command(part, out, seconds, args), **given), log


def finish(part: str, out: Path, started: tuple, box: float, began: float) -> None:
    """Wait for a part until its box is full, and write down how it ended."""
    process, log = started
    how = "done"
    try:
        process.wait(max(0.0, box - (time.monotonic() - began)))
    except subprocess.TimeoutExpired:
        how = "stopped: its time was up"
        stop(process)
    except KeyboardInterrupt:
        how = "interrupted"
        stop(process)
        raise
    finally:
        if how == "done" and process.returncode:
            how = f"failed with exit code {process.returncode}"
        said = log.read_text(errors="replace").replace("\r", "\n").splitlines()
        row = dict(ended=how, seconds=round(time.monotonic() - began, 1), said=said[-40:], revision=revision())
        record(out, parts={part: row})
        print(f"{part}: {how} after {row['seconds']:.0f} of {box:.0f} s", *said[-12:], sep="\n    ", flush=True)


def unpack(out: Path) -> None:
    """Bring back what an earlier run left: results and checkpoint."""
    earlier, work = KEPT, WORK
    if earlier.is_dir() and earlier != out:
        for file in earlier.iterdir():
            if file.is_file() and not (out / file.name).exists():
                shutil.copy(file, out / file.name)
    pieces, whole = sorted(out.glob("checkpoint.pt.*")), work / "pretrain" / "checkpoint.pt"
    if pieces and not whole.exists():
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_bytes(b"".join(piece.read_bytes() for piece in pieces))


def pack(out: Path) -> None:
    """Lay out what comes back, in pieces that are small enough."""
    work = WORK
    checkpoint = work / "pretrain" / "checkpoint.pt"
    if checkpoint.exists():
        whole = checkpoint.read_bytes()
        for number, at in enumerate(range(0, len(whole), COMES_BACK - 2**20)):
            (out / f"checkpoint.pt.{number:02}").write_bytes(whole[at : at + COMES_BACK - 2**20])
    logs = [f"== {log.stem}\n{log.read_text(errors='replace')[-200_000:]}" for log in sorted(work.glob("*.log"))]
    write(out / "log.txt", "\n".join(logs).replace("\r", "\n"))
    large = [file.name for file in out.iterdir() if file.stat().st_size > COMES_BACK]
    print("too large to come back:" if large else "ready to come back:", *(large or sorted(os.listdir(out))))


def revision() -> str:
    """Which state of the code this is, as `prepare` saw it: the card's machine has no history to ask."""
    file = HOME / "data" / "revision"
    return file.read_text().strip() if file.exists() else "unknown"


def is_done(part: str, row: dict) -> bool:
    """Whether a part need not run again: a model is one, whatever code made it; numbers belong to their code."""
    return row["ended"] == "done" and (part == "pretrain" or row.get("revision") == revision())


def end(number: int, frame: object) -> None:
    """A polite end is a Ctrl-C."""
    raise KeyboardInterrupt


def run(args: argparse.Namespace) -> None:
    """Every part that is not done yet, within the minutes."""
    began, out = time.monotonic(), args.out or Path(os.environ.get("OUT") or KEPT)
    out.mkdir(parents=True, exist_ok=True)
    unpack(out)
    done = {part for part, row in read(out)["parts"].items() if is_done(part, row)}
    signal.signal(signal.SIGTERM, end)  # a machine that is taken back
    parts = [part for part in args.only or PARTS if part not in done]
    print("to do:", *parts, *([f"(done already: {', '.join(sorted(done))})"] if done else []), flush=True)
    beside = []
    try:
        for part in parts:
            left = 60 * args.minutes - (time.monotonic() - began) - SPARE * min(1, args.minutes / 6)
            box = min(args.boxes.get(part, PARTS.get(part, 150.0) * min(1, args.minutes / 6)), left)
            if box < 5:
                record(out, parts={part: dict(ended="not begun: no time was left", seconds=0, said=[])})
                print(f"{part}: no time is left")
                continue
            since = time.monotonic()
            started = start(part, out, box, args)
            if part == "tests" and not args.toy:  # which need no quiet: others compile meanwhile
                beside = [start("compile", out, box, args)]
            finish(part, out, started, box, since)
            for process, _ in beside:
                try:
                    process.wait(max(0.0, box - (time.monotonic() - since)))
                except subprocess.TimeoutExpired:
                    stop(process)
            beside = []
    finally:
        for process, _ in beside:
            stop(process)
        pack(out)
        print(f"{time.monotonic() - began:.0f} s in all", flush=True)


# -- harvest


def harvest(args: argparse.Namespace) -> None:
    """Numbers, figures, and the new model beside the bundled one."""
    from gpu_harvest import bring_in

    bring_in(args.folder or HOME / "out", args.unseen, args.results, args.figures)


def box_of(text: str) -> tuple[str, float]:
    """`tests=90` as a name and a number."""
    part, _, seconds = text.partition("=")
    if part not in (*PARTS, "trials") or not seconds.replace(".", "", 1).isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not PART=SECONDS with one of {', '.join(PARTS)}, trials")
    return part, float(seconds)


def main() -> None:
    """The step that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(required=True, metavar="STEP")
    here = steps.add_parser("prepare", help=prepare.__doc__, description=prepare.__doc__)
    here.add_argument("files", nargs="+", type=Path, help="plain text, also .xz: what `convbert pretrain` takes")
    here.add_argument("--hold-out-every", type=int, default=200, help="one document in so many is for evaluation")
    there = steps.add_parser("run", help=run.__doc__, description=run.__doc__)
    there.add_argument("--minutes", type=float, default=12.0, help="for everything, packing included")
    there.add_argument("--only", nargs="+", choices=["tests", "speed", "trials", "pretrain"], help="these parts")
    there.add_argument("--boxes", nargs="+", type=box_of, default=[], metavar="PART=SECONDS", help="not the usual ones")
    there.add_argument("--out", type=Path, help="where all that comes back is written: $OUT, or runs/gpu/out")
    there.add_argument("--toy", action="store_true", help="small enough for a CPU: to try everything before")
    there.add_argument("--trials", nargs="+", default=[], metavar="KEY=VALUE,…", help="short runs, to choose a plan")
    there.add_argument("--plan", nargs="+", default=[], metavar="KEY=VALUE", help="what pretraining does differently")
    back = steps.add_parser("harvest", help=harvest.__doc__, description=harvest.__doc__)
    back.add_argument("folder", nargs="?", type=Path, help="what came back; runs/gpu/out when not named")
    back.add_argument("--unseen", nargs="+", type=Path, default=[], help="text that no model was trained on: the judge")
    back.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results-gpu.json")
    back.add_argument("--figures", type=Path, default=ROOT / "nbs" / "images" / "speed")
    for parser_of, step in ((here, prepare), (there, run), (back, harvest)):
        parser_of.set_defaults(step=step)
    args = parser.parse_args()
    args.boxes = dict(getattr(args, "boxes", []))
    try:
        args.step(args)
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the same command goes on") from None


if __name__ == "__main__":
    main()
