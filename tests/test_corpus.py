"""A corpus on disk: killed and resumed, reused or refused, of any size in the same memory, with bad documents in it."""

import json
import os
import shutil
import signal
import textwrap

import numpy as np
import pytest
import torch
from processes import Process

pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")

import pyarrow.parquet as pq  # noqa: E402
from datasets import Dataset, IterableDataset  # noqa: E402

from convbert.families.convbert import ConvBertConfig  # noqa: E402
from convbert.modeling import ConvBertModel  # noqa: E402
from convbert.tokenizers.classes import ConvBertTokenizerFast  # noqa: E402
from convbert.training.corpus.rows import DocumentRows  # noqa: E402
from convbert.training.corpus.shards import MANIFEST, open_corpus, read_manifest  # noqa: E402
from convbert.training.corpus.tokenization import tokenize_corpus  # noqa: E402
from convbert.training.data import encode_documents, load_documents  # noqa: E402

TALES = [f"Number {i}: the {who} saw the {what}." for i in range(60) for who, what in [("fox", "hen"), ("cat", "sea")]]

STREAM = textwrap.dedent(
    """
    import sys
    from convbert.tokenizers.classes import ConvBertTokenizerFast
    from convbert.training.corpus.tokenization import tokenize_corpus

    class Rows:
        def __iter__(self):
            for number in range(int(sys.argv[2])):
                print(number, flush=True)
                yield {"text": None if number % 10 == 9 else f"Number {number}: the fox saw the hen."}

    tokenize_corpus(Rows(), ConvBertTokenizerFast.from_pretrained("convbert-tiny"), sys.argv[1], shard_tokens=100)
    """
)


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "tales.txt"
    file.write_text("\n\n".join(TALES), encoding="utf-8")
    return file


def stamps(folder):
    return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}


def test_the_ids_are_those_of_the_documents_in_memory(tmp_path, text, tokenizer):
    corpus = tokenize_corpus(text, tokenizer, tmp_path / "corpus", shard_tokens=200)
    assert len(corpus.manifest.shards) > 3
    expected = encode_documents(load_documents(text), tokenizer)
    assert np.array_equal(corpus.running_text(tokenizer.sep_token_id), expected)
    assert corpus.documents == len(TALES) and corpus.tokens == len(expected) - len(TALES)


def test_a_corpus_is_used_again_and_another_one_is_refused(tmp_path, text, tokenizer):
    folder = tmp_path / "corpus"
    corpus = tokenize_corpus(text, tokenizer, folder, shard_tokens=200)
    before = stamps(folder)
    os.utime(text, (1, 1))  # copied to another machine: the content is the same
    again = tokenize_corpus(text, tokenizer, folder)
    assert again.fingerprint == corpus.fingerprint and stamps(folder) == before
    text.write_text(text.read_text().replace("hen", "cow"))
    with pytest.raises(ValueError, match=r"holds another corpus \(its tales.txt differs\)"):
        tokenize_corpus(text, tokenizer, folder)
    other = ConvBertTokenizerFast.from_pretrained("convbert-tiny", do_lower_case=False)
    with pytest.raises(ValueError, match=r"its column, files, tokenizer differ"):
        tokenize_corpus([text, text], other, folder, column="body")
    assert stamps(folder) == before


@pytest.mark.parametrize("change", ["cut", "flip", "remove", "manifest"])
def test_a_corpus_that_was_changed_is_refused(tmp_path, text, tokenizer, change):
    folder = tmp_path / "corpus"
    tokenize_corpus(text, tokenizer, folder, shard_tokens=200)
    shard = folder / "00001.arrow"
    data = bytearray(shard.read_bytes())
    if change == "manifest":
        (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:-9])
    elif change == "remove":
        shard.unlink()
    else:
        data[len(data) // 2] ^= 1
        shard.write_bytes(data[:-8] if change == "cut" else data)
    with pytest.raises(ValueError, match="00001.arrow (has been changed|is missing)|not valid JSON"):
        open_corpus(folder, verify=True)
    if change != "flip":  # which only `verify` finds
        with pytest.raises(ValueError):
            tokenize_corpus(text, tokenizer, folder)


def test_tokenization_that_was_killed_goes_on_to_the_same_corpus(tmp_path):
    whole = Process(STREAM, tmp_path / "whole", 400, folder=tmp_path / "said")
    _, said = whole.communicate(timeout=120)
    assert whole.returncode == 0, said
    assert "40 documents were skipped (40 null): row 9 (counted from 0) (null);" in said
    for kill_at in (0, 33, 150, 260, 399, None):
        part = Process(STREAM, tmp_path / "parts", 400, folder=tmp_path / "said")
        for line in part.stdout:
            if kill_at is not None and int(line) == kill_at:
                part.send_signal(signal.SIGKILL)
                break
        _, said = part.communicate(timeout=120)
        if kill_at is not None:
            with pytest.raises(ValueError, match="tokenization was stopped|holds no corpus"):
                open_corpus(tmp_path / "parts")
    assert read_manifest(tmp_path / "parts") == read_manifest(tmp_path / "whole")
    assert open_corpus(tmp_path / "parts", verify=True).documents == 360
    assert not [file.name for file in (tmp_path / "parts").iterdir() if file.suffix not in (".arrow", ".json")]


def test_several_processes_ask_and_one_tokenizes(tmp_path):
    both = [Process(STREAM, tmp_path / "corpus", 200, folder=tmp_path / f"said{i}") for i in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(len(out.split()) for out, _ in said) == [0, 200]


def test_bad_documents_are_skipped_counted_and_named(tmp_path, tokenizer, capsys):
    good = "The fox saw the hen."
    blob = "QUJD" * 900
    (tmp_path / "a.txt").write_bytes(b"\n\n".join([good.encode(), b"caf\xe9", b"a\0b", blob.encode(), good.encode()]))
    rows = [{"text": good}, {"text": None}, {"text": 3}, {"text": " "}, {"other": 1}]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "b.jsonl").write_bytes("\n".join([*lines, "{no JSON"]).encode() + b'\n{"text": "caf\xe9"}\n')
    (tmp_path / "c.csv").write_bytes(b"id,text\n1," + good.encode() + b"\n2\n3,caf\xe9\n4,\n")
    damaged = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 4], np.int32)), pa.py_buffer(b"caf\xe9")]
    )
    column = pa.chunked_array([pa.array([good, None]), damaged])
    pq.write_table(pa.table({"text": column}), tmp_path / "d.parquet")
    files = [tmp_path / name for name in ("a.txt", "b.jsonl", "c.csv", "d.parquet")]
    corpus = tokenize_corpus(files, tokenizer, tmp_path / "corpus")
    assert corpus.running_text(0).tolist() == [*tokenizer(good, add_special_tokens=False)["input_ids"], 0] * 5
    counts = corpus.manifest.skipped
    assert counts == {
        "not UTF-8": 4,
        "NUL": 1,
        "thousands of characters without a space": 1,
        "null": 3,
        "not text but int": 1,
        "empty": 2,
        "no 'text'": 1,
        "not JSON (JSONDecodeError)": 1,
    }
    said = capsys.readouterr().err
    assert "14 documents were skipped" in said and "a.txt, line 3 (not UTF-8); a.txt, line 5 (NUL)" in said


def test_rows_datasets_and_streams_give_the_same_corpus(tmp_path, tokenizer, capsys):
    rows = [{"id": i, "content": tale} for i, tale in enumerate(TALES)]
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources = {
        "rows": rows,
        "dataset": Dataset.from_list(rows),
        "stream": IterableDataset.from_generator(lambda: iter(rows)),
        "hub": str(folder.parent),  # a folder is loaded as a dataset on the hub is
    }
    found = {}
    for name, source in sources.items():
        corpus = tokenize_corpus(source, tokenizer, tmp_path / name, streaming=name == "hub", shard_tokens=200)
        found[name] = corpus.running_text(tokenizer.sep_token_id)
        assert "the texts are in the column 'content'" in capsys.readouterr().err
    assert all(np.array_equal(ids, found["rows"]) for ids in found.values())
    few = tokenize_corpus(str(folder.parent), tokenizer, tmp_path / "few", streaming=True, limit=100)
    assert 100 <= few.tokens < 100 + 20


def test_no_row_looks_into_another_document(tmp_path, text, tokenizer):
    """The outputs of a row stay what they are when its neighbours become others."""
    corpus = tokenize_corpus(text, tokenizer, tmp_path / "corpus")
    rows = DocumentRows(corpus, tokenizer, length=16, tokens_per_batch=100)
    batch, other = rows.rows(0), rows.rows(1)
    assert (batch["document"][:, None] == other["document"]).sum() == 0
    torch.manual_seed(0)
    config = ConvBertConfig.preset("tiny", num_hidden_layers=2, hidden_size=32, embedding_size=8, intermediate_size=32)
    model = ConvBertModel(config.replace(vocab_size=len(tokenizer), initializer_range=0.5)).eval()
    with torch.inference_mode():
        names = "input_ids", "attention_mask"
        whole = model(**{name: batch[name] for name in names}).last_hidden_state
        mixed = model(**{name: torch.cat([batch[name][:1], other[name][1:]]) for name in names}).last_hidden_state
    torch.testing.assert_close(mixed[0], whole[0], atol=1e-5, rtol=0)


MEMORY = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from resource import RUSAGE_SELF, getrusage
    from convbert.tokenizers.classes import ConvBertTokenizerFast
    from convbert.training.corpus.rows import DocumentRows
    from convbert.training.corpus.tokenization import tokenize_corpus

    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    document = "the fox saw the hen and the cat saw the sea . " * 100

    class Rows:
        def __iter__(self):
            return ({"text": document} for _ in range(count))

    def private():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    for name, count in (("small", 2000), ("large", 10_000)):
        corpus = tokenize_corpus(Rows(), tokenizer, f"{sys.argv[1]}/{name}", shard_tokens=2**17)
        rows = DocumentRows(corpus, tokenizer, tokens_per_batch=4096)
        for step in range(rows.per_epoch):
            rows.rows(step)
        size = sum(file.stat().st_size for file in Path(sys.argv[1], name).iterdir())
        print(size // 1024, count * len(document) // 1024, getrusage(RUSAGE_SELF).ru_maxrss, private(), flush=True)
    """
)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_memory_is_that_of_a_buffer_whatever_the_size_of_the_corpus(tmp_path):
    """A stream of 45 MB of text, in shards of a quarter of a megabyte, takes the memory of one of a fifth of it."""
    process = Process(MEMORY, tmp_path, folder=tmp_path / "said")
    out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    before, after = ([*map(int, line.split())] for line in out.splitlines())
    mapped, text, peak, private = (large - small for small, large in zip(before, after, strict=True))
    assert text > 30_000 and mapped > 18_000  # KB, much more than allocators keep
    assert private < 0.25 * mapped, "a pass over the rows keeps what it has read"
    # the system drops what is mapped when it must
    assert peak - mapped < 0.75 * text, "tokenization keeps texts or ids"
    shutil.rmtree(tmp_path / "large")
