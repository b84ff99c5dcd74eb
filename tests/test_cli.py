"""The command line as a user meets it: answers, exit codes, one-line errors."""

import json
import subprocess
import sys

import pytest

from convbert import __version__, pipeline

CONVBERT = [sys.executable, "-c", "from convbert.cli import main; raise SystemExit(main())"]


def run(*words, text=None):
    return subprocess.run([*CONVBERT, *words], capture_output=True, text=True, input=text, timeout=120)


def test_the_readme_command_prints_the_answers():
    done = run("fill-mask", "The ship sailed across the [MASK].")
    assert done.returncode == 0, done.stderr
    expected = pipeline("fill-mask", device="cpu")("The ship sailed across the [MASK].")
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 5 and all(row["sequence"] in line for row, line in zip(expected, lines, strict=True))


def test_lines_of_standard_input_become_lines_of_json():
    done = run("fill-mask", "--json", "--top-k", "2", text="A [MASK].\n\nThe [MASK] is blue.\n")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["input"] for row in rows] == ["A [MASK].", "The [MASK] is blue."]
    assert [len(row["answers"]) for row in rows] == [2, 2]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["fill-mask", "no mask"], 1, "no [MASK]"),
        (["fill-mask", "[MASK]", "--model", "convbert-tny"], 1, "Did you mean 'convbert-tiny'"),
        (["fill-mask", "[MASK]", "--top-k", "0"], 1, "top_k=0"),
        (["fill-mask", "[MASK]", "--file", "x.txt"], 1, "either --file, or an input"),
        (["fill-mask", "--file", "nowhere.txt"], 1, "no such file: nowhere.txt"),
        (["question-answering", "Who?", "--question", "Who?", "--context", "Ada."], 1, "no text goes with --question"),
        (["zero-shot-classification", "a text"], 2, "--candidate-labels"),
        (["finetune", "text-classification", "nowhere.csv", "--out", "never-made"], 1, "no such file: nowhere.csv"),
        (["finetune", "glue/sst-2", "--out", "never-made"], 1, "Did you mean 'glue/sst2'"),
        (["finetune", "glue/sst2", "--out", "never-made", "--evaluation", "x.csv"], 1, "must be a recipe"),
        (["finetune", "ner", "x.csv", "--out", "o", "--columns", "tokens"], 1, "must look like text=sentence"),
        (["pretrain", "nowhere.txt", "--out", "never-made"], 1, "no such text file: nowhere.txt"),
        (["pretrain", "x", "--out", "never-made", "--preset", "tny"], 1, "Did you mean 'tiny'"),
        (["fil-mask", "[MASK]"], 2, "fill-mask"),
        ([], 2, "COMMAND"),
    ],
)
def test_errors_are_one_line_and_say_what_to_do(tmp_path, run_command, words, code, said):
    found, error = run_command(*words)
    assert found == code and said in error and "Traceback" not in error
    assert code == 2 or len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_no_text_at_all_is_an_error():
    done = run("fill-mask", text="")
    assert done.returncode == 1 and "there is nothing to answer" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_debug_shows_the_traceback(run_command):
    with pytest.raises(ValueError, match=r"no \[MASK\]"):
        run_command("--debug", "fill-mask", "no mask")


def test_version():
    assert run("--version").stdout.strip() == f"convbert {__version__}"


def test_options_have_the_names_that_they_have_in_python():
    import inspect

    from convbert.commands import pipelines, training
    from convbert.pipelines import TASKS
    from convbert.training.finetuning import Tuning

    assert set(pipelines.TASKS) == set(TASKS)
    for task, options in pipelines.TASKS.items():
        assert set(options) <= set(inspect.signature(TASKS[task].__call__).parameters), task
    assert set(training.TUNING_OPTIONS) <= set(Tuning.__dataclass_fields__)


def test_files_of_rows_with_a_bad_byte_a_mark_and_a_surrogate(tmp_path):
    (tmp_path / "a.csv").write_bytes("\ufefftext,label\nA [MASK].,x\n".encode())
    (tmp_path / "a.txt").write_bytes(b"A caf\xe9 [MASK].\nno mask\nThe [MASK].\n")
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d [MASK]", "answers": "gold"}\n')
    found = {}
    for file in ("a.csv", "a.txt", "a.jsonl"):
        done = run("fill-mask", "--top-k", "1", "--file", str(tmp_path / file))
        assert done.returncode == 0, done.stderr
        found[file] = [json.loads(line) for line in done.stdout.splitlines()]
    assert found["a.csv"][0]["input"] == {"text": "A [MASK].", "label": "x"}
    assert ["error" in row["answers"] for row in found["a.txt"]] == [False, True, False]
    assert found["a.jsonl"][0]["input"] == {"text": "\ud83d [MASK]", "answers": "gold"}


def test_whoever_has_seen_enough_may_stop_reading():
    lines = "A [MASK].\n" * 3000
    shell = f"{' '.join(CONVBERT[:1])} -c '{CONVBERT[2]}' fill-mask --json | head -1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, input=lines, timeout=120)
    assert json.loads(done.stdout)["input"] == "A [MASK]." and "Traceback" not in done.stderr, done.stderr
