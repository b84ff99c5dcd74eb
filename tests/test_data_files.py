"""Files of users: every shape gives the same rows, nothing is lost or guessed silently, faults are named by line."""

import csv
import gzip
import json
import lzma
import string
import zipfile

import pytest
import torch
from conftest import CHOICES, DAYS, MapStyle
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

datasets = pytest.importorskip("datasets")
pandas = pytest.importorskip("pandas")

from convbert import cli  # noqa: E402
from convbert.training.data import hold_out, load_documents  # noqa: E402
from convbert.training.datasets import load_rows  # noqa: E402
from convbert.training.finetuning import finetune  # noqa: E402
from convbert.training.task_data import load_task_data  # noqa: E402

WORDS = [{"tokens": ["the", day, "is", what], "tags": ["O", "B-day", "O", "O"]} for day in DAYS for what in ("a", "b")]
REVIEWS = [{"text": f"{w} {day}", "label": k} for w, k in (("fine", "good"), ("grey", "bad")) for day in DAYS]
QUESTIONS = [
    {"question": f"what {w}?", "context": f"the {d} {w}.", "answers": {"text": [d], "answer_start": [4]}}
    for w in ("shone", "rained")
    for d in DAYS
]
ROWS = {
    "text-classification": REVIEWS,
    "token-classification": WORDS,
    "question-answering": QUESTIONS,
    "multiple-choice": CHOICES,
}


class Streamed(torch.utils.data.IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def write_rows(rows, file):
    """The rows in a file of the kind that its name says, as the usual writers write it."""
    frame = pandas.DataFrame(rows)
    if ".csv" in file.name or ".tsv" in file.name:
        with open(file, "w", newline="", encoding="utf-8") as lines:
            quoting = csv.QUOTE_ALL if ".tsv" in file.name else csv.QUOTE_MINIMAL
            table = csv.DictWriter(
                lines, list(rows[0]), delimiter="\t" if ".tsv" in file.name else ",", quoting=quoting
            )
            table.writeheader()
            table.writerows(rows)
    elif file.suffix == ".parquet":
        frame.to_parquet(file)
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows), encoding="utf-8")
    else:
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def columns_of(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


FILES = ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet"]
SHAPES = {
    "list": list,
    "generator": iter,
    "columns": columns_of,
    "splits": lambda rows: {"train": rows, "test": rows[:1]},
    "splits of columns": lambda rows: {"train": columns_of(rows), "validation": columns_of(rows)},
    "frame": pandas.DataFrame,
    "splits of frames": lambda rows: {"train": pandas.DataFrame(rows)},
    "dataset": datasets.Dataset.from_list,
    "splits of datasets": lambda rows: datasets.DatasetDict(train=datasets.Dataset.from_list(rows)),
    "stream": lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset(),
    "splits of streams": lambda rows: datasets.IterableDatasetDict(
        train=datasets.Dataset.from_list(rows).to_iterable_dataset()
    ),
    "torch": MapStyle,
    "torch subset": lambda rows: torch.utils.data.Subset(MapStyle(rows), range(len(rows))),
    "torch stream": Streamed,
    "arrow": lambda rows: datasets.Dataset.from_list(rows).with_format("arrow")[:],
}
TEXT = st.text(
    st.sampled_from(string.ascii_letters + "  ,;\t\n\r\"'{}[]#\\é日😀\x0b\x85\u2028"), min_size=1, max_size=12
)
TEXTS = TEXT.map(lambda text: f"{text}x" if not text.strip() else text)
NAMES = st.sampled_from(["pos", "neg", "NA", "None", "null", "nan", "é,", '"so"'])


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.fixed_dictionaries({"text": TEXTS, "label": NAMES}), min_size=1, max_size=6))
@pytest.mark.parametrize("name", FILES)
def test_any_texts_are_read_back_from_a_file(tmp_path, name, rows):
    try:
        read = list(load_rows(write_rows(rows, tmp_path / name)))
    except ValueError as error:  # each line would do as a row
        assert name == "a.csv" and "rows with line breaks in them" in str(error)
        reject()
    assert read == rows


@settings(deadline=None, max_examples=10)
@given(st.lists(st.fixed_dictionaries({"text": TEXTS, "label": NAMES}), min_size=1, max_size=6))
@pytest.mark.parametrize("shape", SHAPES)
def test_any_texts_are_read_back_from_memory(shape, rows):
    assert list(load_rows(SHAPES[shape](rows))) == rows


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("task", ROWS)
def test_every_task_takes_every_shape(task, shape):
    work = load_task_data(task, SHAPES[shape](ROWS[task]), ROWS[task])
    expected = load_task_data(task, ROWS[task], ROWS[task])
    assert list(work.train) == list(expected.train) and work.labels == expected.labels


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("task", ROWS)
def test_every_task_takes_every_file(tmp_path, task, name):
    """A csv writes lists and dictionaries as Python prints them; they are read as what they were."""
    file = write_rows(ROWS[task], tmp_path / name)
    work, expected = load_task_data(task, str(file), file), load_task_data(task, ROWS[task], ROWS[task])
    assert list(work.train) == list(expected.train) and work.labels == expected.labels


@pytest.mark.parametrize("pack", [gzip.open, lzma.open], ids=[".gz", ".xz"])
@pytest.mark.parametrize("name", ["a.csv", "A.TSV", "a.jsonl", "a.json"])
def test_packed_files_are_read(tmp_path, name, pack):
    plain = write_rows(REVIEWS, tmp_path / name.lower())
    packed = tmp_path / f"{name}{'.gz' if pack is gzip.open else '.xz'}"
    with pack(packed, "wb") as file:
        file.write(plain.read_bytes())
    assert list(load_rows(packed)) == REVIEWS


def test_splits_may_be_named_files(tmp_path):
    files = {name: write_rows(REVIEWS, tmp_path / f"{name}.csv") for name in ("train", "dev")}
    work = load_task_data("text-classification", files)
    assert list(work.train) == list(work.evaluation) == REVIEWS


def test_a_saved_dataset_is_a_folder(tmp_path):
    datasets.Dataset.from_list(REVIEWS).save_to_disk(tmp_path / "saved")
    assert list(load_rows(str(tmp_path / "saved"))) == REVIEWS
    with pytest.raises(ValueError, match="is a folder"):
        load_rows(str(tmp_path))


# what a table says


@pytest.mark.parametrize("mark", ["\t", ","], ids=["tsv", "csv"])
@pytest.mark.parametrize(
    "text",
    ['"so good', 'good"', '"so" good', 'so "good" it is', '"', '""', '"so good"" he said', "'so"],
)
def test_a_quotation_mark_that_quotes_no_field_takes_no_line_with_it(tmp_path, mark, text):
    lines = ["text" + mark + "label", *(f"{text if i % 7 == 3 else 'fine'}{i}{mark}{'ab'[i % 2]}" for i in range(60))]
    file = tmp_path / ("a.tsv" if mark == "\t" else "a.csv")
    file.write_text("\n".join(lines) + "\n")
    rows = load_rows(file)
    assert len(rows) == 60 and rows[3]["text"] == f"{text}3" and set(rows["label"]) == {"a", "b"}


def test_one_lone_quotation_mark_in_the_last_line(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\nfine\ta\n"grey\tb\n')
    assert list(load_rows(tmp_path / "a.tsv"))[1] == {"text": '"grey', "label": "b"}


def test_lone_quotation_marks_that_swallow_lines_are_refused(tmp_path):
    lines = [f"text {i},{'ab'[i % 2]}" for i in range(60)]
    lines[10], lines[31] = '"hello,a', 'bar",b'
    for head in ("text,label", '"text","label"'):
        (tmp_path / "a.csv").write_text("\n".join([head, *lines]) + "\n")
        if head.startswith('"'):  # whoever quotes the header quotes fields
            assert len(load_rows(tmp_path / "a.csv")) == 39
        else:
            with pytest.raises(ValueError, match="a.csv, line 12: .* 60 rows .* or 39 rows"):
                load_rows(tmp_path / "a.csv")


def test_texts_with_line_breaks_and_commas_are_rows(tmp_path):
    rows = [{"text": f"one, {i}\ntwo", "label": "ab"[i % 2]} for i in range(30)]
    assert list(load_rows(write_rows(rows, tmp_path / "a.csv"))) == rows
    work = load_task_data("text-classification", tmp_path / "a.csv")
    assert "a.csv: 60 lines are 30 rows" in work.summary


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_empty_rows_of_one_column_are_counted(tmp_path, name):
    (tmp_path / name).write_text('text\nfine\n""\n\ngrey\n  \n"one\ntwo"\n')
    work = load_task_data("fill-mask", tmp_path / name, [{"text": day} for day in DAYS])
    assert work.train["text"][:] == ["fine", "grey", "one\ntwo"]
    assert f"2 empty rows left out, the first {name}, line 3" in work.summary
    (tmp_path / name).write_text('text\nfine\n""\ngrey\n')
    assert "span" not in load_task_data("fill-mask", tmp_path / name, [{"text": "a fine day"}]).summary


def test_columns_without_a_name_are_left_out(tmp_path):
    (tmp_path / "a.csv").write_text(",text,label,,\n0,fine,a,,\n1,grey,b,,\n")
    assert list(load_rows(tmp_path / "a.csv")) == [{"text": "fine", "label": "a"}, {"text": "grey", "label": "b"}]


def test_lists_without_words_are_left_out_and_counted(tmp_path):
    empty = [{"tokens": [], "tags": []}]
    for name in ("a.csv", "a.jsonl"):
        work = load_task_data("token-classification", write_rows(WORDS + empty, tmp_path / name), WORDS)
        assert list(work.train) == WORDS and "1 empty rows left out" in work.summary
    for words, tags in (("[ ]", "[]"), (None, "[]"), ("[]", None), ("", "[]")):
        rows = [{k: str(v) for k, v in row.items()} for row in WORDS] + [{"tokens": words, "tags": tags}]
        assert len(load_task_data("token-classification", rows, WORDS).train) == len(WORDS)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_line_of_json_is_named_as_a_line(tmp_path, name):
    lines = [json.dumps(row) for row in REVIEWS]
    lines[9] = json.dumps({"text": "", "label": "good"})
    (tmp_path / name).write_text("\n".join([lines[0], "", *lines[1:]]))
    with pytest.raises(ValueError, match=f"{name}, line 11: 'text' is empty"):
        load_task_data("text-classification", tmp_path / name)


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.json", "a"])
def test_utf16_is_no_text(tmp_path, name):
    (tmp_path / name).write_bytes("text,label\nfine,a\n".encode("utf-16-le"))
    for read in (load_rows, lambda file: load_documents([file])):
        if (name, read) != ("a", load_rows):
            with pytest.raises(ValueError, match="NUL.* save the file as UTF-8"):
                read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.tsv", 'text\tlabel\n"I go.\tpos\nfine\tneg\nCome."\tneg\n', r"a.tsv, line 2: .* 3 rows .* or 1 rows"),
        ("a.csv", 'text,label\nfine,a\n"one, two,b\nx,a\n', "a.csv, line 3"),
        ("a.csv", "text,label\nfine,a\none, two,b\n", "a.csv, line 3 has 3 fields and the header has 2"),
        ("a.csv", "text,label\nfine,a\none\n", "a.csv, line 3 has 1 fields"),
        ("a.csv", "text;label\nfine;a\n", "the header 'text;label' has ';'"),
        ("a.csv", "text,label,label\nfine,a,b\n", "names 'label' twice"),
        ("a.csv", "", "no rows in .*a.csv"),
        ("a.csv", "text,label\n", "no rows in .*a.csv"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": }\n', "a.jsonl, line 3 is not JSON"),
        ("a.jsonl", '{"text": "a"}\n["b"]\n', "a.jsonl, line 2 is a list"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": "x"}\n', "a.jsonl, line 2: 'label' is 'x'"),
        ("a.json", '{"text": "a", "label": 1}', "Put a single row into a list"),
        ("a.json", '{"text": ["a", "b"], "label": [1]}', "columns of one length"),
        ("a.dat", "fine", "cannot tell how to read .*a.dat.*one of .csv"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises((ValueError, TypeError), match=words):
        load_rows(tmp_path / name)


def test_a_byte_that_is_no_utf8_is_named(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text,label\nfine,a\ncaf\xe9,b\n")
    with pytest.raises(ValueError, match="a.csv, line 3 is not UTF-8 text"):
        load_rows(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_bytes("text,label\ncafé,b\n".encode("utf-8-sig"))
    assert list(load_rows(tmp_path / "b.csv")) == [{"text": "café", "label": "b"}]


def test_texts_that_look_like_something_else_stay_texts(tmp_path):
    texts = ["007", "1e5", "True", "2020-01-01", "NA", "1,000"]
    rows = [{"text": text, "label": i} for i, text in enumerate(texts)]
    for name in ("a.csv", "a.jsonl"):
        assert list(load_rows(write_rows(rows, tmp_path / name))) == rows


def test_a_key_that_the_first_row_has_not_is_kept():
    assert load_rows([{"text": "a"}, {"text": "b", "label": 1}])["label"][:] == [None, 1]


@pytest.mark.parametrize("names", [(0, 1), ("0", "1")])
def test_columns_of_a_frame_may_be_numbers(names):
    frame = pandas.DataFrame([[row["text"], row["label"]] for row in REVIEWS])
    work = load_task_data("text-classification", frame, frame, columns=dict(zip(("text", "label"), names, strict=True)))
    assert list(work.train) == REVIEWS
    spread = pandas.DataFrame([[row["question"], *row["choices"], row["label"]] for row in CHOICES])
    columns = {"question": 0, "choices": [1, 2], "label": 3}
    assert load_task_data("multiple-choice", spread, spread, columns=columns).train["choices"][:] == [
        row["choices"] for row in CHOICES
    ]
    with pytest.raises(ValueError, match="several columns of one name"):
        load_rows(pandas.DataFrame([["a", "b"]], columns=[0, "0"]))


@pytest.mark.parametrize("kind", ["float64", "int64"])
def test_a_stream_that_does_not_hold_what_it_declares_is_named(kind):
    def rows():
        yield from ({"text": "a", "label": 1}, {"text": "b", "label": 2}, {"text": "c", "label": [3]})

    features = datasets.Features(text=datasets.Value("string"), label=datasets.Value(kind))
    stream = datasets.IterableDataset.from_generator(rows, features=features)
    with pytest.raises(ValueError, match="row 2 .*does not fit the features"):
        load_rows(stream)


def test_a_table_of_columns_by_index(tmp_path):
    frame = pandas.DataFrame(REVIEWS, index=range(5, 5 + len(REVIEWS)))
    frame.to_json(tmp_path / "a.json")
    for source in (tmp_path / "a.json", frame.to_dict(), json.loads(frame.to_json())):
        assert list(load_rows(source)) == REVIEWS
    words = pandas.DataFrame(WORDS).to_dict()
    assert list(load_rows(words)) == WORDS


def test_errors_about_many_things_are_short(tmp_path):
    uneven = {str(i): "x" * i for i in range(9999)}
    texts = [f"A fine day {i}. " * 40 for i in range(999)]
    for source in (uneven, texts, pandas.Series(texts), ["short"] * 99):
        with pytest.raises((ValueError, OSError, TypeError)) as error:
            load_task_data("fill-mask", source)
        assert len(str(error.value)) < 400
        assert source is uneven or "a row is a dictionary" in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"no such file: gone.csv \(and 1 more\)$"):
        load_rows(["gone.csv", "lost.csv"])


@pytest.mark.parametrize("shape", [list, datasets.Dataset.from_list, pandas.DataFrame])
def test_an_empty_split_is_said_to_be_empty(shape):
    for name, splits in (
        ("train", {"train": shape([]), "validation": shape(REVIEWS)}),
        ("validation", {"train": shape(REVIEWS), "validation": shape([])}),
    ):
        with pytest.raises(ValueError, match=f"the split '{name}' is empty"):
            load_task_data("text-classification", splits)
    assert load_task_data("text-classification", {"train": shape(REVIEWS), "test": shape([])}).labels.names


# labels


def work_of(values, **options):
    rows = [{"text": f"text {i}", "label": value} for i, value in enumerate(values)]
    return load_task_data("text-classification", rows, rows, **options)


@pytest.mark.parametrize(
    ("labels", "options", "names", "kind"),
    [
        ([0.0, 1.0], dict(labels=["neg", "pos"]), ("neg", "pos"), "single"),
        ([0.0, 1.0], {}, (), "regression"),
        ([10234, 40551], {}, ("10234", "40551"), "single"),
        ([1, 2, 3, 4, 5], {}, ("1", "2", "3", "4", "5"), "single"),
        ([1, 2, 3], dict(labels=["3", "2", "1"]), ("3", "2", "1"), "single"),
        ([-1, 0, 1], dict(labels=["-1", "0", "1"]), ("-1", "0", "1"), "single"),
        ([0, 2], {}, ("LABEL_0", "LABEL_1", "LABEL_2"), "single"),
        ([True, False], dict(labels=["neg", "pos"]), ("neg", "pos"), "single"),
        (["NA", "None"], {}, ("NA", "None"), "single"),
        ([[0.0, 1.0], [1.0, 0.0]], {}, ("LABEL_0", "LABEL_1"), "multi"),
        ([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]], dict(labels=["a", "b", "c"]), ("a", "b", "c"), "multi"),
        ([[0, 1, 0], [1, 0, 1]], dict(labels=["a", "b", "c"]), ("a", "b", "c"), "multi"),
        ([[True, False], [False, False]], {}, ("LABEL_0", "LABEL_1"), "multi"),
        ([{"b", "a"}, {"a"}], {}, ("a", "b"), "multi"),
    ],
)
def test_labels_are_what_the_caller_says(labels, options, names, kind):
    work = work_of(labels * 15, **options)
    assert work.labels.names == names and work.labels.problem_type.startswith(kind)
    if kind == "single":
        assert [work.labels.id(label) for label in labels] == [
            names.index(str(label)) if str(label) in names else int(label) if not isinstance(label, str) else -1
            for label in labels
        ]


def test_places_of_several_labels_are_learnt_as_they_stand():
    from convbert.training.evaluation import references_of
    from convbert.training.examples import encode_label

    work = work_of([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]], labels=["a", "b", "c"])
    assert encode_label([0.0, 1.0, 0.0], work.labels) == [0.0, 1.0, 0.0]
    assert references_of(work.evaluation, "text-classification", work.labels) == [["b"], ["a", "c"]]


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        (["pos"] * 3, {}, "all 3 rows have the label 'pos'"),
        ([1] * 3, dict(labels=["neg", "pos"]), "all 3 rows have the label 1"),
        ([2.5] * 3, {}, "all 3 rows have the label 2.5"),
        ([["a"]] * 3, {}, r"all 3 rows have the label \['a'\]"),
        (["pos", "neg", "pos "], {}, r"row 2 .*the label 'pos ' is not 'pos' \(row 0 "),
        (["pos", "neg", "neg\xa0"], {}, "row 2 .*looks like it"),
        (["caf\xe9", "a", "cafe\u0301"], {}, "row 2 .*looks like it"),
        (["pos", "neg", " "], {}, "row 2 .*a row without a label"),
        (["pos", "neg", "ngu"], dict(labels=["neg", "pos"]), "row 2 .*label 'ngu' is not one of 'neg', 'pos'"),
        ([0.5, 1.0], dict(labels=["neg", "pos"]), "row 0 .*label 0.5 is not one of"),
        ([0, 1, -1], {}, "row 2 .*label -1 is not one of"),
        ([0.5, float("inf")], {}, "row 1 .*label inf is not a finite number, as"),
        ([0.0, float("inf")], dict(labels=["neg", "pos"]), "row 1 .*label inf is not one of"),
        ([[0.0], [1.0]], dict(labels=["a", "b"]), "1 place for 2 labels"),
        ([["a"], None], {}, "row 1 .*without a label"),
        ([0.5, float("nan")], {}, "row 1 .*without a label"),
        ([[0.2, 0.8], [1.0, 0.0]], {}, "a 0 or a 1 for each label"),
        ([[0.0, 1.0], [1.0, 0.0]], dict(labels=["a", "b", "c"]), "row 0 .*2 places for 3 labels"),
        ([[0, 1], [1, 0]], {}, "one place per label"),
        ([{"a": 1}, {"a": 2}], {}, "row 0 .*neither a name nor an id"),
        (["a", "b"], dict(labels="ab"), "must be a list of names"),
        (["a", "b"], dict(labels=["a", "b", "a"]), "names a label twice"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(labels, options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        work_of(labels, **options)


def test_names_are_refused_where_they_name_nothing():
    with pytest.raises(ValueError, match="has no meaning for question-answering"):
        load_task_data("question-answering", QUESTIONS, labels=["a"])


def test_missing_values_of_a_frame(tmp_path):
    frame = pandas.DataFrame({"text": ["a", "b", "c"], "label": [0, None, 1]}, index=[5, 7, 9])
    with pytest.raises(ValueError, match=r"row 1 \(counted from 0\), index 7: .*without a label"):
        load_task_data("text-classification", frame, frame)
    frame = pandas.DataFrame({"text": ["a", float("nan")], "label": ["x", "y"]})
    with pytest.raises(ValueError, match="row 1 .*'text' is empty"):
        load_task_data("text-classification", frame, frame)
    whole = pandas.DataFrame({"text": ["a", "b", "c"], "label": [0, None, 1]}).dropna()
    assert load_task_data("text-classification", whole, whole, labels=["n", "p"]).labels.names == ("n", "p")
    gaps = pandas.DataFrame({"text": ["a", "b"], "label": pandas.array([1, pandas.NA], dtype="Int64")})
    with pytest.raises(ValueError, match="row 1 .*without a label"):
        load_task_data("text-classification", gaps, gaps)


def test_labels_of_a_table_in_the_files_of_both_sides(tmp_path):
    """Names that look like numbers mean the same on both sides, whichever other names are there."""
    (tmp_path / "a.csv").write_text("text,label\na,1\nb,2\nc,x\n")
    (tmp_path / "b.csv").write_text("text,label\na,1\nb,2\n")
    work = load_task_data("text-classification", tmp_path / "a.csv", tmp_path / "b.csv")
    assert [work.labels.name(label) for label in work.evaluation["label"]] == ["1", "2"]


def table(file, labels, header="text,label", count=24):
    """A csv of as many rows, whose labels take turns."""
    lines = (f"some text {i},{labels[i % len(labels)]}\n" for i in range(count))
    file.write_text(f"{header}\n" + "".join(lines), encoding="utf-8")
    return file


def names_of(work, rows):
    return [work.labels.name(label) for label in rows["label"]]


@pytest.mark.parametrize(
    ("written", "given"),
    [
        (("TRUE", "FALSE"), ["TRUE", "FALSE"]),
        (("FALSE", "TRUE"), ["TRUE", "FALSE"]),
        (("true", "false"), ["True", "False"]),
        (("1", "2"), ["2", "1"]),
        (("-1", "+1"), ["-1", "+1"]),
        (("1.0", "2.0"), ["1.0", "2.0"]),
        (("0.5", "2.5"), ["2.5", "0.5"]),
    ],
)
def test_a_label_that_is_written_like_a_name_is_that_name(tmp_path, written, given):
    file = table(tmp_path / "a.csv", written)
    work = load_task_data("text-classification", file, file, labels=given)
    expected = {name.casefold(): name for name in given}
    assert names_of(work, work.train)[:2] == [expected[label.casefold()] for label in written]


@pytest.mark.parametrize("given", [["true", "not true"], ["True", "Other"]])
def test_a_truth_value_is_no_place_among_names_of_which_one_is_a_truth_value(tmp_path, given):
    file = table(tmp_path / "a.csv", ["TRUE", "FALSE"])
    with pytest.raises(ValueError, match="line 3: label False is not one of"):
        load_task_data("text-classification", file, file, labels=given)


def test_labels_that_differ_and_mean_one_class_are_one_class():
    rows = [{"text": f"text {i}", "label": "pos" if i % 2 else "1"} for i in range(24)]
    ids = [row | {"label": 1} for row in rows]
    assert load_task_data("text-classification", rows, ids, labels=["1", "pos"]).labels.id(1) == 0
    tags = [{"tokens": ["a", "b"], "tags": [True, True]}] * 12
    with pytest.raises(ValueError, match="nothing to tell apart"):
        load_task_data("token-classification", tags, tags, labels=["no", "yes"])


@pytest.mark.parametrize("given", [None, ["1", "2", "x"], ["x", "2", "1"]])
def test_names_of_numbers_are_the_same_on_both_sides(tmp_path, given):
    train, held = table(tmp_path / "a.csv", ["1", "2", "x"]), table(tmp_path / "b.csv", ["1", "2"])
    work = load_task_data("text-classification", train, held, labels=given)
    assert names_of(work, work.evaluation)[:2] == ["1", "2"]
    with pytest.raises(ValueError, match="evaluation: .*label 0 is not one of"):
        load_task_data("text-classification", train, table(tmp_path / "c.csv", ["0", "1"]), labels=given)


def test_tags_of_numbers_are_the_same_on_both_sides():
    train = [{"tokens": ["a", "b", "c"], "tags": ["1", "2", "x"]}] * 20
    held = [{"tokens": ["a", "b"], "tags": [1, 2]}]
    work = load_task_data("token-classification", train, held, labels=["1", "2", "x"])
    assert [work.labels.name(tag) for tag in work.evaluation["tags"][0]] == ["1", "2"]


@pytest.mark.parametrize("given", [None, ["maybe", "TRUE"]])
def test_truth_values_beside_names_are_the_same_on_both_sides(tmp_path, given):
    train, held = table(tmp_path / "a.csv", ["TRUE", "maybe"]), table(tmp_path / "b.csv", ["TRUE"])
    work = load_task_data("text-classification", train, held, labels=given)
    assert set(names_of(work, work.evaluation)) == {"TRUE"}


def listed(file, odd, kind="['pos']", count=30):
    """Rows whose labels are lists in words, and one that is something else."""
    cells = [kind, "['pos', 'neg']"] * (count // 2)
    cells[17] = odd
    return write_rows([{"text": f"text {i}", "label": cell} for i, cell in enumerate(cells)], file)


@pytest.mark.parametrize("odd", ["['pos' 'neg']", "pos", "['pos', 'neg'", "[0 1]"])
@pytest.mark.parametrize("side", ["train", "evaluation"])
def test_one_label_that_is_no_list_among_lists_is_named(tmp_path, odd, side):
    good, bad = listed(tmp_path / "good.csv", "['neg']"), listed(tmp_path / "bad.csv", odd)
    sides = (bad, good) if side == "train" else (good, bad)
    with pytest.raises(ValueError, match="bad.csv, line 19: .*list"):
        load_task_data("text-classification", *sides)


def test_labels_that_numpy_printed_are_no_names(tmp_path):
    for cells in (["['a' 'b']", "['b']"], ["[0 1]", "[1 0]"], ["[0. 1.]", "[1. 1.]"]):
        rows = [{"text": f"text {i}", "label": cells[i % 2]} for i in range(24)]
        file = write_rows(rows, tmp_path / "a.csv")
        with pytest.raises(ValueError, match="a.csv, line 2: .*is not a list"):
            load_task_data("text-classification", file, file)


def test_names_may_begin_with_a_bracket(tmp_path):
    file = table(tmp_path / "a.csv", ["[URGENT]", "[later]"])
    assert load_task_data("text-classification", file, file).labels.names == ("[URGENT]", "[later]")


@pytest.mark.parametrize(
    ("train", "held"),
    [
        ([[0, 1], [1, 1]], [["a", "b"]]),
        ([["a"], ["a", "b"]], [[0.0, 1.0]]),
        ([["a"], ["a", "b"]], [[True, False]]),
        ([["a", "b", "c"], ["b"]], [[0, 1, 0]]),
    ],
)
def test_both_sides_write_several_labels_in_one_way(train, held):
    given = dict(labels=["a", "b"]) if train[0] == [0, 1] else {}
    rows, judged = ([{"text": f"t {i}", "label": x} for i, x in enumerate(labels)] for labels in (train * 12, held))
    with pytest.raises(ValueError, match="evaluation: row 0 "):
        load_task_data("text-classification", rows, judged, **given)


@pytest.mark.parametrize(("task", "column"), [("text-classification", "text_pair"), ("multiple-choice", "context")])
@pytest.mark.parametrize("side", [0, 1])
def test_a_column_that_only_one_side_has_is_refused(task, column, side):
    sides = [ROWS[task], ROWS[task]]
    sides[side] = [row | {column: "more"} for row in ROWS[task]]
    with pytest.raises(ValueError, match=f"evaluation: .*{column!r}"):
        load_task_data(task, *sides)


# faults are found before the first step, and named as in the file

EMPTY = [
    ("text-classification", "text", ""),
    ("text-classification", "text", "  "),
    ("text-classification", "label", ""),
    ("question-answering", "context", ""),
    ("question-answering", "question", " "),
    ("question-answering", "answers", {"text": ["nowhere"], "answer_start": [3]}),
    ("token-classification", "tags", ["O"]),
    ("multiple-choice", "question", ""),
    ("multiple-choice", "choices", ["one", ""]),
    ("multiple-choice", "choices", ["one"]),
    ("multiple-choice", "label", 2),
]


@pytest.mark.parametrize("side", ["train", "evaluation"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet", "list"])
@pytest.mark.parametrize(("task", "column", "value"), EMPTY)
def test_a_row_that_is_wrong_is_named_as_its_file_counts(tmp_path, task, column, value, name, side):
    rows = [dict(row) for row in ROWS[task] * 3]
    rows[41][column] = value
    source = rows if name == "list" else write_rows(rows, tmp_path / name)
    line = {"a.csv": "line 43", "a.tsv": "line 43", "a.jsonl": "line 42"}.get(name, "row 41 ")
    sides = dict(dataset=source) if side == "train" else dict(dataset=ROWS[task], evaluation=source)
    with pytest.raises(ValueError, match=line) as error:
        load_task_data(task, **sides)
    assert name == "list" or name in str(error.value)
    assert side == "train" or "evaluation" in str(error.value)


def test_lines_are_counted_over_fields_that_span_several(tmp_path):
    rows = [{"text": f"one\n{'two' if i % 3 else ''}, {i}", "label": "ab"[i % 2]} for i in range(40)]
    rows[30]["text"] = ""
    file = write_rows(rows, tmp_path / "a.csv")
    with open(file, newline="") as lines:
        line = next(n for n, text in enumerate(lines, 1) if text.startswith(",") and text.strip() in (",a", ",b"))
    with pytest.raises(ValueError, match=f"a.csv, line {line}: 'text' is empty"):
        load_task_data("text-classification", file)


def test_splits_are_named():
    rows = REVIEWS + [{"text": None, "label": "good"}]
    with pytest.raises(ValueError, match=r"split 'dev', row 24 \(counted from 0\): 'text' is empty"):
        load_task_data("text-classification", {"train": REVIEWS, "dev": rows})


QUICK = dict(epochs=1, batch_size=8, max_length=24, device="cpu")


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        ("text-classification", dict(text=""), "row 7 .*'text' is empty"),
        ("question-answering", dict(question="\u200b"), "row 7 .*no words"),
        ("multiple-choice", dict(choices=["it rained", "the sun shone " * 20]), "row 7 .*shorten it"),
    ],
)
@pytest.mark.parametrize("side", ["dataset", "evaluation"])
def test_a_run_that_could_not_be_judged_does_not_begin(tmp_path, start, task, change, words, side):
    rows = [row | change if i == 7 else row for i, row in enumerate(ROWS[task])]
    sides = dict(dataset=ROWS[task], evaluation=ROWS[task]) | {side: rows}
    with pytest.raises(ValueError, match=words):
        finetune(str(start), task=task, folder=tmp_path / "m", **sides, **QUICK)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("side", ["dataset", "evaluation"])
def test_texts_too_short_to_mask_are_refused_before_the_first_step(tmp_path, start, side):
    rows = [{"text": f"a fine {day}"} for day in DAYS]
    sides = dict(dataset=rows, evaluation=rows) | {side: [{"text": "the"}]}
    with pytest.raises(ValueError, match="2 tokens, fewer than"):
        finetune(str(start), task="fill-mask", folder=tmp_path / "m", **sides, **QUICK)
    assert not (tmp_path / "m" / "training" / "checkpoint.pt").exists()


def test_texts_too_short_to_judge_by_are_said_to_be_short(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("a fine day")
    assert cli.main(["evaluate", str(tmp_path / "a.txt")]) == 1
    assert "the text has 4 tokens, fewer than one row of 128" in capsys.readouterr().err


def test_mistakes_are_named_as_the_file_counts(tmp_path, start):
    file = write_rows(REVIEWS * 4, tmp_path / "a.csv")
    finetune(str(start), file, "text-classification", tmp_path / "m", **QUICK)
    lines = file.read_text().splitlines()
    for line in (tmp_path / "m" / "mistakes.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert lines[int(row["place"].removeprefix("a.csv, line ")) - 1].split(",") == [row["text"], row["expected"]]


def test_what_was_decided_is_said_in_one_line_before_the_first_step(tmp_path, start, capsys):
    (tmp_path / "a.tsv").write_text("review\tlabel\n" + "".join(f'"{r["text"]}\t{r["label"]}\n' for r in REVIEWS))
    options = dict(columns={"text": "review"}, evaluation=tmp_path / "a.tsv", **QUICK)
    finetune(str(start), tmp_path / "a.tsv", "text-classification", tmp_path / "m", **options)
    said = capsys.readouterr().err
    line = next(line for line in said.splitlines() if "rows to train on" in line)
    for part in (
        "24 rows",
        "24 to evaluate on",
        "text=review",
        "2 labels",
        "good 12",
        "bad 12",
        "quotation marks are text",
    ):
        assert part in line, line


@pytest.mark.parametrize(
    ("task", "rows", "part"),
    [
        ("text-classification", [r | {"label": float(r["label"] == "good")} for r in REVIEWS], "regression"),
        ("text-classification", [r | {"label": [r["label"], "day"]} for r in REVIEWS], "3 labels of which a text may"),
        ("token-classification", [*WORDS, {"tokens": [], "tags": []}], "1 empty rows left out"),
        ("question-answering", [*QUESTIONS, QUESTIONS[0] | {"answers": None}], "1 questions without an answer"),
        ("multiple-choice", CHOICES, "2 choices"),
        ("fill-mask", [*({"text": d} for d in DAYS), {"text": " "}], "1 empty rows left out"),
    ],
)
def test_the_line_says_what_is_learnt(task, rows, part):
    assert part in load_task_data(task, rows, rows).summary and "\n" not in load_task_data(task, rows, rows).summary


# answers


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("monday", ["monday"]),
        (["monday"], ["monday"]),
        ([{"text": "monday", "answer_start": 4}], ["monday"]),
        ({"text": "monday", "answer_start": 4}, ["monday"]),
        ({"text": ["monday"]}, ["monday"]),
        ({"text": ["monday"], "answer_start": [4.0]}, ["monday"]),
        (None, []),
        ("", []),
        ([], []),
        ({"text": [], "answer_start": []}, []),
    ],
)
def test_answers_in_every_form(answers, expected):
    rows = [{"question": "what?", "context": "the monday was long.", "answers": answers}]
    held = load_task_data("question-answering", QUESTIONS, rows).evaluation
    assert held["answers"][0]["text"] == expected and held["answers"][0]["answer_start"] == [4] * len(expected)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ("o", "stands 2 times in its context"),
        ("tuesday", "stands 0 times in its context"),
        ({"text": ["monday", "day"], "answer_start": [4]}, "2 texts and 1 values of answer_start"),
        ({"text": ["monday"], "answer_start": [5]}, "answer_start counts characters"),
        ({"answer": "monday"}, "'text' is none of them"),
        (7, "holds 7"),
        ({"text": ["monday"], "answer_start": [float("inf")]}, "answer_start is inf"),
        ({"text": "monday", "answer_start": 4.5}, "answer_start is 4.5"),
        (["monday", 3], r"a list holds one kind of value, and here are int, str"),
    ],
)
def test_answers_that_say_nothing_are_refused(answers, words):
    rows = [{"question": "what?", "context": "the monday was long.", "answers": answers}]
    with pytest.raises(ValueError, match=f"row 0 .*{words}"):
        load_task_data("question-answering", QUESTIONS, rows)


def squad(version):
    qas = [
        {"id": str(i), "question": row["question"], "answers": [{"text": row["answers"]["text"][0], "answer_start": 4}]}
        for i, row in enumerate(QUESTIONS)
    ]
    if version == "v2.0":
        qas = [qa | {"is_impossible": False} for qa in qas]
        qas[3] |= {"is_impossible": True, "answers": [], "plausible_answers": [{"text": "x", "answer_start": 0}]}
    paragraphs = [{"context": row["context"], "qas": [qa]} for row, qa in zip(QUESTIONS, qas, strict=True)]
    return {
        "version": version,
        "data": [{"title": "days", "paragraphs": paragraphs[:9]}, {"paragraphs": paragraphs[9:]}],
    }


@pytest.mark.parametrize("version", ["1.1", "v2.0"])
@pytest.mark.parametrize("way", ["file", "memory"])
def test_squad_is_read_as_it_is_published(tmp_path, version, way):
    source = squad(version)
    if way == "file":
        (tmp_path / "train-v.json").write_text(json.dumps(source))
        source = str(tmp_path / "train-v.json")
    work = load_task_data("question-answering", source, source)
    none = {"text": [], "answer_start": []}
    expected = [row | {"answers": none} if version == "v2.0" and i == 3 else row for i, row in enumerate(QUESTIONS)]
    assert list(work.train) == list(work.evaluation) == expected


def test_a_fault_in_squad_is_named_by_its_path(tmp_path):
    source = squad("1.1")
    source["data"][1]["paragraphs"][2]["qas"][0]["answers"][0]["answer_start"] = 5
    (tmp_path / "t.json").write_text(json.dumps(source))
    with pytest.raises(ValueError, match=r"t.json, data\[1\].paragraphs\[2\].qas\[0\]: .*answer_start counts"):
        load_task_data("question-answering", tmp_path / "t.json", QUESTIONS)


@pytest.mark.parametrize("lost", ["question", "answers", "context", "qas"])
def test_squad_without_a_part_is_refused(lost):
    source = squad("1.1")
    paragraph = source["data"][1]["paragraphs"][0]
    del (paragraph if lost in paragraph else paragraph["qas"][0])[lost]
    with pytest.raises(ValueError, match=rf"data\[1\].paragraphs\[0\].* is not as SQuAD has it .*'{lost}'"):
        load_rows(source)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["qas"], ["x"]),
        (["qas"], [None]),
        (["qas"], None),
        (["qas"], "x"),
        (["qas", 0, "question"], None),
        (["qas", 0, "answers"], 7),
        (["qas", 0, "answers"], [3]),
        (["qas", 0, "answers"], {"answer": "monday"}),
        (["context"], None),
        ([], None),
        ([], "x"),
    ],
)
def test_squad_of_another_form_is_refused_by_its_path(path, value):
    source = squad("1.1")
    *before, last = ["paragraphs", 2, *path]
    part = source["data"][1]
    for key in before:
        part = part[key]
    part[last] = value
    with pytest.raises(
        ValueError, match=r"data\[1\].paragraphs\[2\].* is not as SQuAD has it \(.*expected|keys 'answer'"
    ):
        load_rows(source)


@pytest.mark.parametrize(
    "answers", [None, [], ["monday"], "monday", {"text": ["monday"], "answer_start": [4]}, [{"text": "monday"}]]
)
def test_answers_of_squad_in_every_form(answers):
    source = squad("1.1")
    source["data"][0]["paragraphs"][0]["qas"][0]["answers"] = answers
    found = load_task_data("question-answering", source, source).train["answers"][0]
    assert found == ({"text": ["monday"], "answer_start": [4]} if answers else {"text": [], "answer_start": []})


def test_rows_under_data(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"version": "1", "data": REVIEWS}))
    assert list(load_rows(tmp_path / "a.json")) == list(load_rows({"data": REVIEWS})) == REVIEWS


# words and tags

SENTENCES = [
    [("EU", "NNP", "B-NP", "B-ORG"), ("rejects", "VBZ", "B-VP", "O"), ("#", "NN", "B-NP", "O")],
    [("Peter", "NNP", "B-NP", "B-PER"), ("Blackburn", "NNP", "I-NP", "I-PER")],
]
EXPECTED = [{"tokens": [word for word, *_ in s], "tags": [fields[-1] for fields in s]} for s in SENTENCES]


@pytest.mark.parametrize("name", ["eng.conll", "eng.txt", "eng.train", "eng.tsv", "eng.bio"])
@pytest.mark.parametrize("mark", [" ", "\t"], ids=["spaces", "tabs"])
@pytest.mark.parametrize(
    "head", ["", "-DOCSTART- -X- -X- O\n\n", "# newdoc id = 1\n# text\n"], ids=["", "doc", "comment"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_conll_files_are_read(tmp_path, name, mark, head, end):
    if name == "eng.tsv" and mark == " ":
        pytest.skip("a tsv has tabs")
    blocks = ["\n".join(mark.join(fields) for fields in sentence) for sentence in SENTENCES]
    (tmp_path / name).write_text((head + "\n\n".join(blocks) + "\n\n").replace("\n", end), newline="")
    work = load_task_data("ner", str(tmp_path / name), tmp_path / name)
    assert list(work.train) == EXPECTED
    assert "words from column 1, tags from column 4 of 4" in work.summary


CONLLU = """# sent_id = 1
# text = Vámonos al mar
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\t_\tMood=Ind\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\t_
2.1\tsí\t_\tX\t_\t_\t_\t_\t_\t_
3\t#\t#\tSYM\t_\t_\t1\tobl\t_\tSpaceAfter=No

# sent_id = 2
1\tSí\tsí\tINTJ\t_\t_\t0\troot\t_\t_

"""


@pytest.mark.parametrize("name", ["es.conllu", "es.conll", "es.txt"])
def test_universal_dependencies_are_read(tmp_path, name):
    (tmp_path / name).write_text(CONLLU, encoding="utf-8")
    work = load_task_data("token-classification", tmp_path / name, tmp_path / name)
    assert list(work.train) == [
        {"tokens": ["Vamos", "nos", "#"], "tags": ["VERB", "PRON", "SYM"]},
        {"tokens": ["Sí"], "tags": ["INTJ"]},
    ]
    assert "words from column 2, tags from column 4 of 10" in work.summary


def test_words_that_begin_with_the_mark_of_comments_are_words(tmp_path):
    (tmp_path / "a.conll").write_text("# one\nI PRP\nsaw VBD\n#sun3 HT\n\n# two words here\nHe PRP\n# O\n#sun4 HT\n")
    work = load_task_data("token-classification", tmp_path / "a.conll", tmp_path / "a.conll")
    assert list(work.train) == [
        {"tokens": ["I", "saw", "#sun3"], "tags": ["PRP", "VBD", "HT"]},
        {"tokens": ["He", "#", "#sun4"], "tags": ["PRP", "O", "HT"]},
    ]
    assert "2 comments left out, the first in line 1" in work.summary


def test_sentences_of_hashtags_alone_are_sentences(tmp_path):
    (tmp_path / "a.conll").write_text("#sun HT\n#rain OT\n\n#fog HT\n")
    assert len(load_task_data("token-classification", tmp_path / "a.conll", tmp_path / "a.conll").train) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("EU B-ORG\nrejects\n\nPeter B-PER\n", "a.conll, line 2 has 1 columns"),
        ("EU\nrejects\n", "a.conll, line 1 has 1 columns, and a word and its tag"),
        ("EU O\n\nPeter O\n", "all 2 rows have the tag 'O'"),
        ("\n\n", "no rows in .*a.conll"),
    ],
)
def test_conll_files_with_faults_are_refused(tmp_path, content, words):
    (tmp_path / "a.conll").write_text(content)
    with pytest.raises(ValueError, match=words):
        load_task_data("token-classification", tmp_path / "a.conll", WORDS)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ("the monday is a", "a list is expected"),
        ("['the' 'monday' 'is' 'a']", "is not a list"),
        ([1, 2, 3, 4], "holds 1"),
    ],
)
def test_words_that_are_no_list_are_refused(tokens, words):
    rows = [{"tokens": tokens, "tags": ["O"] * 4}]
    with pytest.raises(ValueError, match=f"row 0 .*{words}"):
        load_task_data("token-classification", WORDS, rows)


# pretraining


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.json", "a.parquet", "a.jsonl.gz"])
def test_documents_in_files_of_rows(tmp_path, name):
    rows = [{"id": i, "text": f"A {day}.\nIt was long, and {{fine}}."} for i, day in enumerate(DAYS)]
    file = write_rows(rows, tmp_path / name.removesuffix(".gz"))
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(file.read_bytes()))
    assert load_documents([tmp_path / name])["text"][:] == [row["text"] for row in rows]


def zipped(file, *contents):
    """A zip with files of these names and contents."""
    with zipfile.ZipFile(file, "w") as box:
        for name, content in contents:
            box.writestr(name, content)
    return file


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonlines", "p.jl", "p.ndjson", "p.json", "p.csv", "p.tsv"])
@pytest.mark.parametrize("box", ["", "{name}.zip", "box.zip"])
def test_rows_in_files_of_every_name_are_rows(tmp_path, name, box):
    rows = [{"text": f"A {day}, {{fine}}."} for day in DAYS]
    file = write_rows(rows, tmp_path / name)
    if box:
        noise = ("__MACOSX/._p", b"\x00\x05"), ("inside/", "")
        file = zipped(tmp_path / box.format(name=name), (f"inside/{name}", file.read_bytes()), *noise)
    assert load_documents([file])["text"][:] == [row["text"] for row in rows]
    assert list(load_rows(file)) == rows
    assert list(load_rows(str(file))) == rows


def test_a_zip_holds_one_file(tmp_path):
    file = zipped(tmp_path / "a.csv.zip", ("a.csv", "text,label\na,b\n"), ("b.csv", "text,label\nc,d\n"))
    for read in (load_rows, lambda file: load_documents([file])):
        with pytest.raises(ValueError, match="a.csv.zip holds 2 files"):
            read(file)


@pytest.mark.parametrize("name", ["a.txt", "a", "a.text", "a.txt.gz"])
def test_json_that_is_called_plain_text_is_refused(tmp_path, name, capsys):
    content = "\n".join(json.dumps({"text": f"A {day}."}) for day in DAYS)
    pack = gzip.compress if name.endswith(".gz") else bytes
    (tmp_path / name).write_bytes(pack(content.encode()))
    with pytest.raises(ValueError, match=f"{name} .*JSON object.*call it .*jsonl"):
        load_documents([tmp_path / name])
    assert cli.main(["evaluate", str(tmp_path / name)]) == 1 and ".jsonl" in capsys.readouterr().err
    if ".txt" in name:
        with pytest.raises(ValueError, match=f"{name} .*JSON object"):
            load_task_data("fill-mask", tmp_path / name)


def test_a_text_may_have_a_json_object_in_it(tmp_path):
    (tmp_path / "a.txt").write_text('{"a": 1}\n\nis an object.\n')
    assert load_documents([tmp_path / "a.txt"])["text"][:] == ['{"a": 1}', "is an object.\n"]


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_corpus_without_text_is_refused(tmp_path, content):
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(ValueError, match="there is no text in .*a.txt$"):
        load_documents([tmp_path / "a.txt"])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"content": "fine"}\n', "'text' is not among 'content': .*columns={'text': 'content'}"),
        ("a.csv", "review,label\nfine,1\n", "'text' is not among 'review', 'label': .*columns={'text': 'review'}"),
        ("a.conll", "EU B-ORG\n", "'text' is not among 'tokens', 'tags'"),
        ("a.jsonl", '{"text": "a"}\n{"text": 5}\n', "a.jsonl, line 2: 'text' is 5"),
    ],
)
def test_rows_without_a_text_are_no_corpus(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=words):
        load_documents([tmp_path / name])


def test_empty_rows_of_a_corpus_are_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": ""}\n{"text": "b"}\n')
    with pytest.warns(UserWarning, match="1 empty rows left out"):
        assert load_documents([tmp_path / "a.jsonl"])["text"][:] == ["a", "b"]


def test_a_corpus_without_empty_lines_is_told_about_them(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(DAYS))
    with pytest.raises(ValueError, match="an empty line ends a document"):
        hold_out(load_documents([tmp_path / "a.txt"]))
    with pytest.raises(ValueError, match="in other files each row is one"):
        hold_out(load_documents([write_rows([{"text": "a fine day"}], tmp_path / "a.jsonl")]))


# the shell


def shell(*words):
    return cli.main(list(map(str, words)))


def test_the_shell_says_what_was_decided_and_what_is_wrong(tmp_path, start, capsys):
    file = write_rows([row | {"label": float(row["label"] == "good")} for row in REVIEWS], tmp_path / "a.csv")
    words = ["finetune", "text-classification", file, "--evaluation", file, "--model", start, "--epochs", 1]
    words += ["--max-length", 24, "--device", "cpu"]
    assert shell(*words, "--labels", "neg", "pos", "--out", tmp_path / "m") == 0
    said = capsys.readouterr()
    assert "24 rows to train on" in said.err and "neg 12, pos 12" in said.err and "accuracy" in said.out
    broken = file.read_text().splitlines()
    broken[5] = ",0.0"
    file.write_text("\n".join(broken))
    assert shell(*words, "--out", tmp_path / "n") == 1
    assert "a.csv, line 6: 'text' is empty" in capsys.readouterr().err
    assert not (tmp_path / "n").exists()


# -- what is missing, and where

WITHOUT = {  # a column of each task that a row may lack, and its value then
    "text-classification": ("label", None),
    "token-classification": ("tags", None),
    "question-answering": ("question", ""),
    "multiple-choice": ("label", None),
}
ORIGINS = {
    **{
        name: lambda rows, folder, name=name: write_rows(rows, folder / name) for name in ("a.csv", "a.jsonl", "a.json")
    },
    "a.parquet": lambda rows, folder: write_rows(rows, folder / "a.parquet"),
    "list": lambda rows, folder: rows,
    "pandas": lambda rows, folder: pandas.DataFrame(rows),
    "datasets": lambda rows, folder: datasets.Dataset.from_list(rows),
}


def as_cells(row):
    """A row whose lists are JSON, as a csv has them."""
    return {k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()}


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("task", WITHOUT)
def test_a_missing_value_is_located(tmp_path, task, origin):
    name, nothing = WITHOUT[task]
    rows = [dict(row) for row in ROWS[task]]
    rows[5][name] = nothing
    source = ORIGINS[origin]([as_cells(row) for row in rows] if origin == "a.csv" else rows, tmp_path)
    where = "a.csv, line 7" if origin == "a.csv" else "a.jsonl, line 6" if origin == "a.jsonl" else "row 5 (counted"
    for sources in ([source], [ROWS[task], source]):  # to train on, and to evaluate on
        with pytest.raises(ValueError) as caught:
            load_task_data(task, *sources)
        assert where in str(caught.value) and "leave" in str(caught.value)


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize(
    ("task", "ours", "theirs"),
    [
        ("text-classification", "text", "sentence"),
        ("text-classification", "label", "verdict"),
        ("token-classification", "tokens", "words"),
        ("question-answering", "context", "passage"),
        ("multiple-choice", "choices", "endings"),
    ],
)
def test_a_missing_column_is_guessed(tmp_path, task, ours, theirs, origin):
    rows = [{theirs if name == ours else name: value for name, value in row.items()} for row in ROWS[task]]
    source = ORIGINS[origin]([as_cells(row) for row in rows] if origin == "a.csv" else rows, tmp_path)
    with pytest.raises(ValueError, match=f"columns={{'{ours}': '{theirs}'}}"):
        load_task_data(task, source)
    named = load_task_data(task, source, columns={ours: theirs})
    assert ours in named.train.column_names
