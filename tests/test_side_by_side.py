"""Pipelines that read several batches side by side: the same answers, nobody disturbed, an end when asked to end."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from convbert import pipeline
from convbert.pipelines.batches import MAX_THREAD_TOKENS, MIN_THREAD_TOKENS, plan_batches
from convbert.pipelines.parallel import parallel_map, plan_parallel_batches
from convbert.runtime.half_precision import EMULATED

WORDS = "the old ship sailed across the grey sea and nobody on board knew where the wind would take it".split()
TEXTS = [" ".join(WORDS[: 1 + 7 * i % len(WORDS)]) + f" {i}." for i in range(400)]  # about 4,800 tokens


@pytest.fixture(autouse=True)
def two_threads():
    """Tests may run with one thread each; these want two."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sentiment():
    return pipeline("text-classification", device="cpu")


def threads_of(pipe, run):
    """In which threads the model was called, while `run` ran."""
    seen = set()
    hook = pipe.model.register_forward_pre_hook(lambda *_: seen.add(threading.current_thread()))
    try:
        run()
    finally:
        hook.remove()
    return seen


def same(found, expected):
    """Equal labels, and scores that are equal but for rounding."""
    assert [a["label"] for a in found] == [a["label"] for a in expected]
    assert [a["score"] for a in found] == pytest.approx([a["score"] for a in expected], abs=1e-5)


def test_answers_are_those_of_one_thread(sentiment):
    found = []
    seen = threads_of(sentiment, lambda: found.extend(sentiment(TEXTS)))
    assert len(seen) == 2 and threading.current_thread() not in seen
    torch.set_num_threads(1)
    alone = []
    assert threads_of(sentiment, lambda: alone.extend(sentiment(TEXTS))) == {threading.current_thread()}
    same(found, alone)


def test_a_little_work_stays_in_the_callers_thread(sentiment):
    here = {threading.current_thread()}
    assert threads_of(sentiment, lambda: sentiment(TEXTS[0])) == here
    assert threads_of(sentiment, lambda: sentiment(TEXTS[:50])) == here
    assert threads_of(sentiment, lambda: sentiment(TEXTS, batch_tokens=MAX_THREAD_TOKENS)) == here


def workers_for(pipe):
    """How many threads a pipeline would use for much work."""
    return plan_parallel_batches(pipe.model, [16] * 1000, 8192)[1]


def test_what_holds_for_the_callers_thread_alone_is_heeded(sentiment):
    expected, here = sentiment(TEXTS), {threading.current_thread()}
    with FlopCounterMode(display=False) as counter:
        assert threads_of(sentiment, lambda: same(sentiment(TEXTS), expected)) == here
    assert counter.get_total_flops() > 0
    assert workers_for(sentiment) == 2
    with torch.autocast("cpu", torch.bfloat16):
        assert workers_for(sentiment) == 1
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        assert workers_for(sentiment) == 1


def test_models_that_cannot_be_shared_are_not():
    narrow = pipeline("text-classification", device="cpu", dtype=torch.bfloat16)
    alone = threads_of(narrow, lambda: narrow(TEXTS)) == {threading.current_thread()}
    assert alone == (torch.bfloat16 in EMULATED) == (workers_for(narrow) == 1)
    whole = pipeline("text-classification", device="cpu")
    whole.model.encoder.layers[0].compile(backend="eager")
    assert workers_for(whole) == 1
    whole = pipeline("text-classification", device="cpu")
    assert workers_for(whole) == 2
    whole.model.forward = torch.compile(whole.model.forward, backend="eager")
    assert workers_for(whole) == 1


def test_other_threads_keep_their_number_of_threads(sentiment):
    seen, first = [], threading.Event()

    def look(*_):
        """A thread that starts in the middle of the work."""
        if not first.is_set():
            first.set()
            with ThreadPoolExecutor(1) as other:
                seen.append(other.submit(torch.get_num_threads).result())

    hook = sentiment.model.register_forward_hook(look)
    sentiment(TEXTS)
    hook.remove()
    with ThreadPoolExecutor(1) as other:
        seen.append(other.submit(torch.get_num_threads).result())
    assert seen == [2, 2] and torch.get_num_threads() == 2


def test_callers_in_several_new_threads(sentiment):
    expected = sentiment(TEXTS)
    with ThreadPoolExecutor(3) as callers:
        for found in callers.map(lambda _: sentiment(TEXTS), range(3)):
            same(found, expected)


def test_callers_in_new_threads_have_all_threads_and_leave_them():
    def call(_):
        """Begin to work, in a thread that torch has not seen."""
        list(parallel_map(len, ["a", "b"], workers=2))
        return torch.get_num_threads()

    for _ in range(30):
        with ThreadPoolExecutor(3) as callers:
            assert list(callers.map(call, range(3))) == [2, 2, 2]
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == 2


def test_shares_use_all_threads():
    torch.set_num_threads(5)
    together = threading.Barrier(3)

    def share(_):
        """A worker's number, when all are at work."""
        together.wait(timeout=60)
        return torch.get_num_threads()

    assert sorted(parallel_map(share, range(3), workers=3)) == [1, 2, 2]


def work_of(moment, began):
    """Something that takes a moment, and notes that it was begun."""
    never = threading.Event()
    return lambda item: (began.append(item), never.wait(moment))


def test_an_error_comes_out_and_ends_the_work():
    began = []
    work = work_of(0.01, began)

    def fail(item):
        """A broken model."""
        if item == 0:
            raise RuntimeError("the model is broken")
        work(item)

    with pytest.raises(RuntimeError, match="the model is broken"):
        list(parallel_map(fail, range(2000), workers=2))
    assert len(began) < 1000


def test_a_pipeline_answers_after_an_error(sentiment):
    def fail(*_):
        """What a broken model does."""
        raise RuntimeError("the model is broken")

    hook = sentiment.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="the model is broken"):
        sentiment(TEXTS)
    hook.remove()
    same(sentiment(TEXTS[:3]), [sentiment(text) for text in TEXTS[:3]])


def test_a_thread_that_cannot_start_is_told_and_nobody_waits_for_it(monkeypatch):
    start, started = threading.Thread.start, []

    def refuse(thread):
        """The second thread finds no room."""
        started.append(thread)
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    set_threads = torch.set_num_threads

    def set_late(number):
        """The first thread is slow to take its share."""
        if threading.current_thread().name.startswith("convbert"):
            threading.Event().wait(0.2)
        set_threads(number)

    monkeypatch.setattr(torch, "set_num_threads", set_late)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.warns(UserWarning, match="batches are computed one after another, because .*: can't start new thread"):
        assert list(parallel_map(len, ["a", "bc", "d"], workers=2)) == [1, 2, 1]
    monkeypatch.undo()
    started[0].join(timeout=60)
    assert not started[0].is_alive()
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == 2


def test_an_error_of_who_reads_the_results_ends_the_work():
    began = []
    work = parallel_map(work_of(0.01, began), range(2000), workers=2)
    with pytest.raises(ZeroDivisionError), closing(work) as results:
        next(results)
        1 / 0  # noqa: B018
    assert len(began) < 1000
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("convbert")]


LATE = """
import threading, time, torch
from convbert import pipeline
torch.set_num_threads(2)
pipe = pipeline("text-classification", device="cpu")

def late():
    threading.main_thread().join()
    print(len(pipe(["the ship sailed " * 30] * 100, progress=False)), flush=True)

threading.Thread(target=late).start()
"""


def test_a_thread_that_outlives_the_main_thread_is_answered():
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, timeout=300)
    assert done.stdout == "100\n", done.stderr
    assert "batches are computed one after another" in done.stderr


SCRIPT = """
import os, sys, threading, torch
from convbert import pipeline
torch.set_num_threads(2)
pipe = pipeline("text-classification", device="cpu")
pipe.model.register_forward_hook(lambda *_: os.write(1, b"called\\n") and None)  # whole lines from any thread
try:
    pipe(["the ship sailed " * 60] * 1000, progress=False)
except KeyboardInterrupt:
    left = [t.name for t in threading.enumerate() if t.name.startswith("convbert")]
    print("ended, at work:", left, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_it_soon():
    heed = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=heed
    ) as process:
        assert process.stdout.readline() == "called\n"
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=120)[0].splitlines()
    assert rest[-1] == "ended, at work: []"
    assert rest.count("called") < 20  # of 88 batches: what was at work is finished, the rest is not begun


def test_batches_of_several_threads_end_at_about_the_same_time():
    batches = plan_batches([16] * 2000, MAX_THREAD_TOKENS, workers=2)
    sizes = [16 * len(batch) for batch in batches]
    assert sorted(i for batch in batches for i in batch) == list(range(2000))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == MAX_THREAD_TOKENS and min(sizes[:-1]) >= MIN_THREAD_TOKENS // 2
    work = [0, 0]
    for size in sizes:
        work[work.index(min(work))] += size
    assert abs(work[0] - work[1]) <= MIN_THREAD_TOKENS
