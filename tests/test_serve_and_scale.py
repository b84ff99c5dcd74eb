"""The page "Serve and scale", run: its cells as a script, its app under real servers, its cluster, its commands."""

import asyncio
import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection

import pytest
from conftest import ROOT

BENCHMARK = runpy.run_path(str(ROOT / "benchmarks" / "serve.py"))
CELLS, PROSE = BENCHMARK["cells"]("code"), "\n".join(BENCHMARK["cells"]("markdown"))
HERE = [cell for cell in CELLS if not cell.startswith("#| eval: false")]  # what nbdev-test runs too
APP, RAY, SPARK = ([c for c in CELLS if word in c] for word in ("fastapi", "import ray", "import SparkSession"))
APP += [cell for cell in CELLS if "# app.py" in cell and cell not in APP]
pytestmark = pytest.mark.filterwarnings("ignore:.*could not be answered")
TEXTS = ["A quiet, beautiful film.", "Bad.", "I left after ten minutes."]


def run_apart(scenario):
    """Run a coroutine in a thread of its own: a browser that another test opened may keep a loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, scenario).result()


def run(folder, *parts):
    """Run parts of the page as one script."""
    script = folder / "page.py"
    script.write_text("\n\n\n".join(parts), encoding="utf-8")
    quiet = {"PYTHONWARNINGS": "ignore", "HOME": str(folder)}  # Ray keeps a token at home, and data sets a cache
    env = {**os.environ, "PYTHONPATH": str(ROOT), **quiet}
    done = subprocess.run([sys.executable, script], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]


CHECKS = """
import itertools

assert [row["label"] for row in answers[:3]] == ["positive", "negative", "negative"]
assert labelled["label"][:] == [row["label"] for row in answers] and labelled["text"][:] == texts
endless = (pd.DataFrame({"text": texts[:3], "place": [at] * 3}) for at in itertools.count())
first, second = itertools.islice(label_frames(endless), 2)  # as they come
assert list(second.columns) == ["text", "place", "label", "score"] and set(second["place"]) == {1}
assert first["label"].tolist() == [row["label"] for row in answers[:3]]
assert [len(frame) for frame in label_frames(iter([first, first[:0], first[:1]]))] == [3, 0, 1]
"""


def test_every_cell_is_run_by_one_of_these_tests():
    assert sorted([*HERE, *APP, *RAY, *SPARK]) == sorted(CELLS) and len(RAY) == len(SPARK) == 1


def test_what_needs_no_server(tmp_path):
    pytest.importorskip("datasets", reason="the page maps a data set")
    run(tmp_path, *HERE, CHECKS)


@pytest.mark.slow
def test_two_workers_of_a_ray_cluster(tmp_path):
    pytest.importorskip("ray", reason="the page's cluster is Ray's: pip install \"convbert[serve]\"")
    check = """
    assert len(done) == len(texts) and sorted(row["text"] for row in done) == sorted(texts)
    assert {row["text"]: row["label"] for row in done} == {text: row["label"] for text, row in zip(texts, answers)}
    """
    guard = "\n".join(f"    {line}" for line in [*RAY[0].splitlines(), *map(str.strip, check.splitlines())])
    run(tmp_path, *HERE[:4], "if __name__ == '__main__':\n" + guard)


@pytest.mark.slow
def test_spark(tmp_path):
    pytest.importorskip("pyspark", reason="Spark is not installed: pip install pyspark, and Java")
    if not shutil.which("java"):
        pytest.skip("Spark needs Java")
    rows = 'rows = frame.mapInPandas(label_frames, "text string, label string, score double").collect()'
    run(tmp_path, *HERE, *SPARK, rows, "assert [row.label for row in rows] == [row['label'] for row in answers]")


# -- the endpoint


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The page's `app.py`, imported."""
    pytest.importorskip("fastapi", reason='the endpoint is FastAPI\'s: pip install "convbert[serve]"')
    file = tmp_path_factory.mktemp("app") / "app.py"
    file.write_text(BENCHMARK["app_source"](), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("app", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def served(app):
    """A real uvicorn around the app, in a thread; its address."""
    uvicorn = pytest.importorskip("uvicorn", reason='the app runs under uvicorn: pip install "convbert[serve]"')
    ready = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, *args, **options):
            await super().startup(*args, **options)
            ready.set()

    server = Server(uvicorn.Config(app.app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    ready.wait()
    try:
        yield "{}:{}".format(*server.servers[0].sockets[0].getsockname())
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def hooked(app, hook):
    """Call a function with the ids of each batch that the model reads."""
    read = lambda _, args, given: hook(given["input_ids"])  # noqa: E731
    handle = app.classify.model.register_forward_pre_hook(read, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def post(address, inputs):
    """The status and the content of one answer."""
    http = HTTPConnection(address, timeout=120)
    http.request("POST", "/classify", json.dumps({"inputs": inputs}), {"Content-Type": "application/json"})
    response = http.getresponse()
    found = response.status, response.read().decode()
    http.close()
    return found[0], json.loads(found[1]) if found[1].startswith("{") else found[1]


def test_many_at_once_share_batches_and_each_gets_its_own(app):
    texts = [f"{TEXTS[i % 3]} {i}" for i in range(150)]
    inputs = [text if i % 10 else {"txt": text} for i, text in enumerate(texts)]
    sizes, threads = [], set()

    def look(ids):
        sizes.append(len(ids))
        threads.add(threading.get_ident())

    with served(app) as address, hooked(app, look), ThreadPoolExecutor(50) as clients:
        found = list(clients.map(lambda each: post(address, each), inputs))
        count = threading.active_count()
        list(clients.map(lambda each: post(address, each), inputs))
        assert threading.active_count() == count and len(threads) == 1
    assert sum(sizes) == 2 * 135 and len(sizes) < 100 and max(sizes) <= app.MOST
    expected = app.classify(texts, progress=False)
    for i, (status, answer) in enumerate(found):
        assert status == (200 if i % 10 else 422)
        if status == 200:
            assert answer["label"] == expected[i]["label"]
            assert answer["score"] == pytest.approx(expected[i]["score"], abs=1e-5)
        else:
            assert answer == {"detail": "expected the key 'text', got 'txt'"}


@pytest.mark.parametrize(
    ("inputs", "said"), [(3, "got int: 3"), (None, "got NoneType"), (["a"], "got list"), ({}, "expected")]
)
def test_bad_input_is_told_in_our_words(app, inputs, said):
    from fastapi.testclient import TestClient

    with TestClient(app.app) as client:
        answer = client.post("/classify", json={"inputs": inputs})
        assert answer.status_code == 422 and said in answer.json()["detail"]
        assert client.post("/classify", json={}).status_code == 422
        assert client.post("/classify", json={"inputs": {"text": "Bad.", "text_pair": "Good."}}).status_code == 200


def test_a_full_queue_says_so_and_those_who_wait_are_answered(app, monkeypatch):
    monkeypatch.setattr(app, "WAITING", 2)
    begun, go_on = threading.Event(), threading.Event()

    def hold(ids):
        begun.set()
        go_on.wait()

    async def scenario():
        async with app.lifespan(app.app):
            ask = [asyncio.create_task(app.ask("Bad."))]
            await asyncio.to_thread(begun.wait)  # the first is being answered
            ask += [asyncio.create_task(app.ask("Bad.")) for _ in range(3)]
            first_done, _ = await asyncio.wait(ask, return_when=asyncio.FIRST_COMPLETED)
            assert first_done == {ask[3]}
            go_on.set()
            return await asyncio.gather(*ask, return_exceptions=True)

    with hooked(app, hold):
        *answered, refused = run_apart(scenario())
    assert [answer["label"] for answer in answered] == ["negative"] * 3
    assert refused.status_code == 503 and "try again" in refused.detail


def test_a_model_that_fails_costs_one_batch_and_a_client_that_leaves_costs_nobody(app):
    def fail(ids):
        raise RuntimeError("out of memory")

    async def scenario():
        async with app.lifespan(app.app):
            with hooked(app, fail):
                ask = [app.ask("Bad.") for _ in range(3)]
                failed = await asyncio.gather(*ask, return_exceptions=True)
            gone, stays = (asyncio.create_task(app.ask(text)) for text in TEXTS[:2])
            await asyncio.sleep(0)  # both have asked
            gone.cancel()
            return failed, await stays

    failed, answer = run_apart(scenario())
    assert [str(error) for error in failed] == ["out of memory"] * 3 and answer["label"] == "negative"


def test_the_cell_that_asks_it(app):
    (cell,) = [cell for cell in APP if "TestClient" in cell]
    names = dict(vars(app))
    exec(cell, names)
    assert names["good"].json()["label"] == "positive" and names["bad"].status_code == 422


def test_the_app_is_short():
    lines = [line for line in BENCHMARK["app_source"]().splitlines() if line.strip()]
    assert len([line for line in lines if not re.match(r"#|import |from |\s+\"", line)]) <= 40


TELL = """

@app.get("/threads")
async def threads():
    return torch.get_num_threads()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_gunicorn_forks_and_answers(app, tmp_path):
    pytest.importorskip("gunicorn", reason='the page starts gunicorn: pip install "convbert[serve]"')
    pytest.importorskip("uvicorn_worker", reason='the page starts gunicorn: pip install "convbert[serve]"')
    (command,) = re.findall(r"^gunicorn app:app .*--preload.*$", PROSE, re.M)
    source = "import torch\ntorch.set_num_threads(2)\n" + BENCHMARK["app_source"]() + TELL
    with BENCHMARK["serving"](tmp_path, command, source) as url:
        answers, _ = BENCHMARK["ask_all"](url, TEXTS * 20, 8)
        http = HTTPConnection(url.removeprefix("http://"))
        http.request("GET", "/threads")
        threads = json.loads(http.getresponse().read())
        http.close()
    assert [answer["label"] for answer in answers] == ["positive", "negative", "negative"] * 20
    assert threads == 1


@pytest.mark.slow
def test_the_benchmark_measures_the_app_of_the_page(app):
    pytest.importorskip("uvicorn", reason='the app runs under uvicorn: pip install "convbert[serve]"')
    command = [sys.executable, ROOT / "benchmarks" / "serve.py", "--requests", "40", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.fullmatch(r"with the queue: \d+ .*\nbatches of one: \d+ .*\nratio: \d+\.\d+\n", done.stdout)
