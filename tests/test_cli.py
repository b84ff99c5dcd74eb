"""The command line as a user meets it: answers, exit codes, one-line errors."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from convbert import __version__, cli, pipeline
from convbert.commands.finetuning import asking_command
from convbert.commands.options import parse_column
from convbert.commands.pipelines import TASKS, given_input, read_inputs

CONVBERT = [sys.executable, "-c", "from convbert.cli import main; raise SystemExit(main())"]


def run(*words, text=None):
    return subprocess.run([*CONVBERT, *words], capture_output=True, text=True, input=text, timeout=120)


def commands():
    """The parser of each command, by name."""
    parser = cli.make_parser()
    (choices,) = (action.choices for action in parser._actions if action.dest == "command")
    return choices


@pytest.mark.parametrize("name", commands())
def test_help_explains_every_option_with_its_default(name):
    parser = commands()[name]
    parser.format_help()
    for action in parser._actions:
        if action.option_strings and action.dest != "help":
            told = re.search(r"\(default: \S.*\)$|\(required\)$|when it is left out|left out: ", action.help)
            assert told, f"{action.option_strings}: {action.help}"
            assert "None" not in action.help and "in Python" not in action.help, action.help


def test_parsing_does_not_wait_for_the_words_of_the_help():
    code = "import sys; from convbert.cli import make_parser; make_parser(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_the_readme_command_prints_the_answers():
    done = run("fill-mask", "The ship sailed across the [MASK].")
    assert done.returncode == 0, done.stderr
    expected = pipeline("fill-mask", device="cpu")("The ship sailed across the [MASK].")
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 5 and all(row["sequence"] in line for row, line in zip(expected, lines, strict=True))


def test_an_alias_has_a_model_of_its_own():
    done = run("ner", "--json", "Anna Smith works in Paris.")
    (row,) = map(json.loads, done.stdout.splitlines())
    assert [found["entity_group"] for found in row["answers"]] == ["PER", "LOC"]


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
        (["fill-mask", "[MASK]", "--top-k", "0"], 1, "--top-k 0"),
        (["fill-mask", "[MASK]", "--file", "x.txt"], 1, "either --file, or an input"),
        (["fill-mask", "--file", "nowhere.txt"], 1, "no such file: nowhere.txt"),
        (["question-answering", "Who?", "--question", "Who?", "--context", "Ada."], 1, "and not the text 'Who?'"),
        (["zero-shot-classification", "a text"], 2, "--candidate-labels"),
        (["finetune", "text-classification", "nowhere.csv", "--out", "never-made"], 1, "no such file: nowhere.csv"),
        (["finetune", "glue/sst-2", "--out", "never-made"], 1, "Did you mean 'glue/sst2'"),
        (["finetune", "glue/sst2", "--out", "never-made", "--evaluation", "x.csv"], 1, "must be a recipe"),
        (["finetune", "ner", "x.csv", "--out", "o", "--columns", "tokens"], 1, "must look like text=sentence"),
        (["pretrain", "nowhere.txt", "--out", "never-made"], 1, "no such file: nowhere.txt"),
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


WORDS = '"[""a"", ""b""]"'  # a list in a csv
OK = "text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(30))
TUNE = "finetune text-classification rows.csv --out o".split()


def rows_of(text):
    """`pretrain` and `evaluate` read rows too."""
    return [(["pretrain", "rows.csv", "--out", "o"], text), (["evaluate", "rows.csv"], text)]


@pytest.mark.parametrize(
    ("words", "text", "said"),
    [
        (TUNE, "text,label\nfine,a\n,b\n", ["rows.csv, line 3", "'text' is empty", "fill it in"]),
        (TUNE, 'text,label\n"two\nlines",a\ntext,\n', ["rows.csv, line 4", "without a label"]),
        (TUNE, "text,label\nfine,1.5\nbad,\n", ["rows.csv, line 3", "without a label"]),
        (TUNE, "sentence,label\nfine,a\n", ["'text'", "'sentence'", "--columns text=sentence"]),
        (TUNE, "id,my text,kind\n3,fine,a\n", ["--columns 'text=my text' label=id"]),
        ([*TUNE, "--columns", "text=sentense"], "sentence,label\nfine,a\n", ["'sentense'", "--columns text=sentence"]),
        (
            [*TUNE, "--columns", "txt=sentence"],
            "sentence,label\nfine,a\n",
            ["--columns txt=sentence", "Did you mean 'text'"],
        ),
        ([*TUNE, "--evaluation", "rows.csv"], "text,label\nfine,a\nbad,\n", ["rows.csv, line 3", "without a label"]),
        ([*TUNE, "--epochs", "0"], OK, ["--epochs 0.0 must be positive"]),
        ([*TUNE, "--labels", "a"], OK, ["rows.csv, line 3", "label 'b' is not one of 'a'"]),
        ([*TUNE, "--watch", "f3"], OK, ["--watch f3 is not scored"]),
        (TUNE, "text,label\nfine,a\nbad,b\n", ["pass --evaluation ... with rows"]),
        (
            "finetune token-classification rows.csv --out o".split(),
            f"tokens,tags\n{WORDS},{WORDS}\n{WORDS},\n",
            ["rows.csv, line 3", "'tags' is empty"],
        ),
        (
            "finetune token-classification rows.csv --out o".split(),
            f"words,upos\n{WORDS},{WORDS}\n",
            ["--columns tokens=words tags=upos"],
        ),
        (
            "finetune multiple-choice rows.csv --out o".split(),
            f"question,choices,label\nwho?,{WORDS},0\nwho?,{WORDS},\n",
            ["rows.csv, line 3", "'label' is empty"],
        ),
        ("finetune multiple-choice rows.csv --out o".split(), f"q,choices,label\nwho?,{WORDS},0\n", ["question=q"]),
        (
            "finetune question-answering rows.csv --out o".split(),
            "question,context,answers\nwho?,Ada.,Ada\n,Ada.,Ada\n",
            ["rows.csv, line 3", "'question' is empty"],
        ),
        *(
            (words, text, ["rows.csv", "--columns text=sentence"])
            for words, text in rows_of("sentence,n\nA fine day.,1\n")
            if words[0] != "pretrain"  # which finds the column
        ),
        (["pretrain", "rows.csv", "--out", "o", "--mask-rate", "2"], "text\na\nb\n", ["--mask-rate 2.0"]),
        (["pretrain", "rows.csv", "--out", "o", "--steps", "0"], "text\na\nb\n", ["--steps 0 must be positive"]),
        (
            ["text-classification", "--file", "rows.csv"],
            "sentence\nfine\n",
            ["rows.csv, line 2", "--columns text=sentence"],
        ),
        (["question-answering", "--file", "rows.csv"], "question,context\n,Ada.\n", ["rows.csv, line 2", "is empty"]),
        (["zero-shot-classification", "a", "--candidate-labels", "b"], "", ["--model MODEL"]),
        (["question-answering", "who?"], "", ["takes --question and --context, or rows", "'who?'"]),
        (["multiple-choice", "who?", "--choices", "a", "b"], "", ["--question and --context and --choices", "'who?'"]),
        (
            ["token-classification", "a", "--aggregation-strategy", "frist"],
            "",
            ["--aggregation-strategy frist", "'first'"],
        ),
    ],
)
def test_errors_speak_of_files_lines_and_flags(tmp_path, run_command, words, text, said):
    (tmp_path / "rows.csv").write_text(text)
    code, error = run_command(*words)
    last = error.strip().splitlines()[-1]
    assert code == 1 and all(part in last for part in said), error
    assert last.startswith("convbert: ") and "columns={" not in last and "Traceback" not in error


def test_columns_of_a_file_may_have_other_names(tmp_path):
    (tmp_path / "rows.csv").write_text("id,sentence\n7,A fine day.\n8,\n")
    done = run("text-classification", "--file", str(tmp_path / "rows.csv"), "--columns", "text=sentence")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["answers"]["label"] for line in done.stdout.splitlines()]
    documents = "n,sentence\n" + "".join(f"{i},The ship {i} sailed across the wide sea.\n" for i in range(30))
    (tmp_path / "rows.csv").write_text(documents)
    done = run("evaluate", str(tmp_path / "rows.csv"), "--columns", "text=sentence", "--length", "16")
    assert done.returncode == 0 and "top1" in done.stdout, done.stderr


def test_a_stream_says_which_lines_have_no_answer(tmp_path):
    (tmp_path / "rows.csv").write_text('question,context\nWho wrote?,"Ada\nwrote."\nWho?,\n')
    done = run("question-answering", "--file", str(tmp_path / "rows.csv"))
    first, second = (json.loads(line)["answers"] for line in done.stdout.splitlines())
    assert done.returncode == 0 and "answer" in first and "rows.csv, line 4: " in second["error"]
    assert done.stderr.startswith("note: 1 of 2 inputs") and "rows.csv, line 4" in done.stderr


def test_lists_in_a_table_are_read_as_lists(tmp_path):
    (tmp_path / "rows.csv").write_text(f"question,choices\nwho?,{WORDS}\n")
    done = run("multiple-choice", "--file", str(tmp_path / "rows.csv"))
    assert done.returncode == 0 and json.loads(done.stdout)["answers"]["choice"] in ("a", "b"), done.stderr


def test_columns_are_gathered_and_parsed_under_our_names_and_lines_are_left_alone(tmp_path):
    (tmp_path / "rows.csv").write_text(f"q,first,second,endings\nwho?,a,b,{WORDS}\n")
    (tmp_path / "lines.txt").write_text("a sentence with a [MASK]\n")
    for choices in ("first,second", "endings"):
        columns = dict([parse_column("question=q"), parse_column(f"choices={choices}")])
        ((_, row),) = read_inputs(tmp_path / "rows.csv", columns)
        assert (row["question"], row["choices"]) == ("who?", ["a", "b"])
    ((_, line),) = read_inputs(tmp_path / "lines.txt", {"text": "sentence"})
    assert line == "a sentence with a [MASK]"


def test_a_cell_may_hold_a_book(tmp_path):
    (tmp_path / "rows.csv").write_text(f"text\n{'word ' * 30_000}\n")
    ((place, row),) = read_inputs(tmp_path / "rows.csv")
    assert place.endswith("rows.csv, line 2") and len(row["text"]) == 150_000


@pytest.mark.parametrize("task", [task for task in TASKS if task != "zero-shot-classification"])  # no task to tune for
def test_the_command_that_fine_tuning_ends_with_is_one(task):
    _, *words = shlex.split(asking_command(task, Path("my model")))
    args = cli.make_parser().parse_args(words)
    assert len(given_input(args)) == 1 and args.model == "my model"


def test_best_is_a_word_for_the_shell(run_command):
    assert cli.make_parser().parse_args(["text-classification", "a", "--top-k", "best"]).top_k == "best"
    code, error = run_command("text-classification", "a", "--top-k", "worst")
    assert code == 2 and "--top-k" in error


def test_libraries_are_silent(tmp_path):
    """No bars of `datasets`, and no warnings for authors of libraries: each command's own lines only."""
    text, rows = tmp_path / "text.txt", tmp_path / "rows.csv"
    text.write_text("\n\n".join(f"The ship {i} sailed across the wide sea." for i in range(60)))
    rows.write_text(OK)
    done = run("evaluate", str(text), "--length", "16")
    assert (done.returncode, done.stderr) == (0, "")
    done = run("pretrain", str(text), "--out", str(tmp_path / "a"), "--tokens-per-batch", "8")
    assert done.stderr.startswith("convbert: ") and done.stderr.count("\n") == 1
    done = run("finetune", "text-classification", str(rows), "--out", str(tmp_path / "b"), "--epochs", "1")
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip()]
    assert done.returncode == 0 and lines
    assert all(line.startswith(("text-classification: ", "train:", "saved in ")) for line in lines), lines
    assert done.stdout.splitlines()[-1] == f'or in the shell: convbert text-classification "…" --model {tmp_path / "b"}'


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

    from convbert.commands import finetuning, pipelines, pretraining
    from convbert.pipelines import TASKS
    from convbert.training.finetuning import Tuning
    from convbert.training.optim import Recipe
    from convbert.training.pretraining import Plan
    from convbert.training.pretraining.distillation import TripleLoss

    assert set(pipelines.TASKS) == set(TASKS)
    for task, options in pipelines.TASKS.items():
        assert set(options) <= set(inspect.signature(TASKS[task].__call__).parameters), task
    known = {Tuning: finetuning.TUNING_OPTIONS, Plan: pretraining.PLAN_OPTIONS, Recipe: pretraining.RECIPE_OPTIONS}
    for kind, options in {**known, TripleLoss: pretraining.LOSS_OPTIONS}.items():
        assert set(options) <= set(kind.__dataclass_fields__), kind


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
