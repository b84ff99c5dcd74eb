"""Processes that tests stop or kill: forked from a server that has imported torch, so that each begins at once."""

import multiprocessing
import os
import sys
from pathlib import Path
from threading import Timer

SERVER = multiprocessing.get_context("forkserver")
PRELOADED = "accelerate", "datasets", "matplotlib.figure", "seqeval.metrics", "torch._dynamo", "torchmetrics"
SERVER.set_forkserver_preload([*PRELOADED, "convbert.training.finetuning"])  # what is not installed is left out


def run_code(code: str, words: list[str], out: str, error: str) -> None:
    """In the new process: what `python -c` does, with its output in two files."""
    for stream, file in enumerate((out, error), 1):
        os.dup2(os.open(file, os.O_WRONLY), stream)
    sys.argv = ["-c", *words]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


class Process:
    """What these tests use of `subprocess.Popen([sys.executable, "-c", code, *words], stdout=PIPE, stderr=PIPE)`."""

    def __init__(self, code: str, *words: object, folder: Path):
        """Start it; the folder, which may be new, is for its output."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{len(list(folder.iterdir()))}"
        out, self.error = folder / f"{name}.out", folder / f"{name}.error"
        os.mkfifo(out)
        self.error.touch()
        files = str(out), str(self.error)
        self.process = SERVER.Process(target=run_code, args=(code, [*map(str, words)], *files))
        self.process.start()
        self.stdout = open(out, encoding="utf-8")  # waits until the process opens it, too

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.process.pid, number)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for its end: what it still had to say, and its errors."""
        late = Timer(timeout, self.process.kill)
        late.start()
        with self.stdout:
            said = self.stdout.read()
        self.process.join()
        late.cancel()
        return said, self.error.read_text(encoding="utf-8")

    @property
    def returncode(self) -> int | None:
        """Its exit code, below zero for a signal; None while it runs."""
        return self.process.exitcode
