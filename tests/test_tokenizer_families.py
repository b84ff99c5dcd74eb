"""The four families' tokenizers beside transformers' and SentencePiece itself, on real and hostile text."""

import base64
import copy
import json
import lzma
import pickle
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tokenization import LETTERS, NASTY, SYMBOLS, columns, hostile, mended, quick

import convbert
from convbert.tokenizers.classes import (
    AlbertTokenizer,
    AlbertTokenizerFast,
    ConvBertTokenizer,
    DistilBertTokenizer,
    DistilBertTokenizerFast,
    ElectraTokenizer,
    ElectraTokenizerFast,
)

transformers = pytest.importorskip("transformers")
sentencepiece = pytest.importorskip("sentencepiece", reason="ALBERT's model files are read with it")

FAMILIES = [ConvBertTokenizer, ElectraTokenizer, DistilBertTokenizer, AlbertTokenizer]
TYPES = {"return_token_type_ids": True, "return_offsets_mapping": True, "return_special_tokens_mask": True}
TEXT = "The ship's sails (9,900 in 1999, 2,000 more): ``x-ray'' À la [MASK] café!"


@pytest.fixture(scope="session")
def model_file(shared_data):
    return shared_data / "vocab" / "albert-30k-clean.model"


@pytest.fixture(scope="session")
def vocab_files(shared_data, model_file):
    return dict.fromkeys(FAMILIES[:3], shared_data / "vocab" / "bert-base-uncased-vocab.txt") | {
        AlbertTokenizer: model_file
    }


@pytest.fixture(scope="session")
def real_text(shared_data):
    """10,000 lines: the beginnings of the corpus and of the tasks, as they stand in their files."""
    found = []
    for file in sorted((shared_data / "corpus").glob("*.txt.xz")):
        with lzma.open(file, "rt", encoding="utf-8") as stream:
            found += islice((line[:200].rstrip("\n") for line in stream if line.strip()), 1600)
    tasks = sorted(file for file in (shared_data / "tasks").rglob("*") if file.suffix in (".jsonl", ".txt"))
    for file in tasks:
        with file.open(encoding="utf-8") as stream:
            found += islice((line[:200].rstrip("\n") for line in stream if line.strip()), 100)
    return found[:10_000]


@pytest.fixture(scope="session")
def both(vocab_files, tmp_path_factory):
    """For each family our tokenizer and transformers' of the folder that ours wrote."""
    made = {}
    for family, file in vocab_files.items():
        folder = tmp_path_factory.mktemp(family.__name__)
        ours = family(file)
        ours.save_pretrained(folder)
        made[family] = ours, transformers.AutoTokenizer.from_pretrained(folder)
    return made


def by_google(processor, text, keep_accents=False, lower=True):
    """ALBERT's original algorithm, written anew: SentencePiece, and numbers split again from the comma behind them."""
    text = " ".join(text.split()).replace("``", '"').replace("''", '"')
    if not keep_accents:
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    pieces = []
    for piece in processor.encode(text.lower() if lower else text, out_type=str):
        if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit():
            inner = processor.encode(piece[:-1].replace("▁", ""), out_type=str)
            if piece[0] != "▁":
                inner = inner[1:] if inner[0] == "▁" else [inner[0].removeprefix("▁"), *inner[1:]]
            pieces += [*inner, ","]
        else:
            pieces.append(piece)
    return pieces


# --- the same ids -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES[1:])  # ConvBERT's lines are in test_tokenization.py
def test_same_as_transformers_on_10_000_lines(both, real_text, family):
    ours, theirs = both[family]
    assert type(theirs).__name__.removesuffix("Fast") in (family.__name__, "BertTokenizer")  # theirs for ELECTRA
    found, wanted = ours(real_text, return_offsets_mapping=True), theirs(real_text, return_offsets_mapping=True)
    assert list(found) == list(wanted) and ("token_type_ids" in found) == (family is not DistilBertTokenizer)
    for name in found:
        assert found[name] == wanted[name], name


def test_albert_is_sentencepiece_and_the_comma_rule(model_file, real_text):
    """The algorithm that ALBERT was trained with; in 10,000 lines one split is as probable as another at most twice."""
    ours, processor = AlbertTokenizer(model_file), sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    lines = [line.replace("<unk>", "") for line in real_text]  # which we take for the token, as transformers does
    found = ours(lines, add_special_tokens=False)["input_ids"]
    wanted = [processor.piece_to_id(by_google(processor, line)) for line in lines]
    assert sum(one != other for one, other in zip(found, wanted, strict=True)) <= 2


@pytest.mark.parametrize("lower, accents", [(True, True), (False, False), (False, True)])
def test_albert_with_case_and_accents(model_file, real_text, lower, accents):
    ours = AlbertTokenizer(model_file, do_lower_case=lower, keep_accents=accents)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    for line in [TEXT.replace("[MASK]", ""), "ÀÉÎ Ǆ Straße İ", *real_text[:3000:10]]:
        assert ours.tokenize(line) == by_google(processor, line, accents, lower), line


def test_where_transformers_reads_a_model_file_in_another_way(model_file, real_text, tmp_path):
    """Version 5.23 makes added tokens of `(` and its like, after which a word begins, and forgets the comma rule."""
    (tmp_path / "spiece.model").write_bytes(model_file.read_bytes())
    theirs, ours = transformers.AlbertTokenizer.from_pretrained(tmp_path), AlbertTokenizer.from_pretrained(tmp_path)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    for text in ("x-ray", "9,9"):
        assert ours.tokenize(text) == by_google(processor, text) != theirs.tokenize(text)
    symbols = set('()"-.–£€')
    for line in real_text[::10]:
        tokens = ours.tokenize(line)
        if not symbols & set("".join(tokens)) and not any(t[-1:].isdigit() for t in tokens):
            wanted = theirs(line, return_offsets_mapping=True, return_token_type_ids=True)
            assert dict(ours(line, return_offsets_mapping=True)) == dict(wanted)
    assert theirs("a", "b").get("token_type_ids") is None  # without which a pair looks like one text
    assert ours("a", "b")["token_type_ids"] == [0, 0, 0, 1, 1]


def test_a_folder_of_transformers_gives_its_ids(model_file, real_text, tmp_path):
    (tmp_path / "spiece.model").write_bytes(model_file.read_bytes())
    theirs = transformers.AlbertTokenizer.from_pretrained(tmp_path)
    theirs.add_tokens(["shipwrightery"])
    theirs.save_pretrained(tmp_path / "saved")
    ours = AlbertTokenizer.from_pretrained(tmp_path / "saved")
    lines = [*real_text[::10], TEXT, "a shipwrightery"]
    assert columns(ours(lines, **TYPES)) == columns(theirs(lines, **TYPES))


tricky = st.lists(
    st.one_of(
        hostile, st.text("▁ \u2581`'9,٣９²()\"-–", max_size=8), st.sampled_from(["<unk>", "<pad>", "[mask]", "9,9"])
    ),
    max_size=4,
).map("".join)


@quick
@given(text=tricky, pair=st.none() | tricky, family=st.sampled_from(FAMILIES))
def test_hostile_text_is_encoded_as_by_transformers(both, text, pair, family):
    ours, theirs = both[family]
    for more in ({}, {"truncation": True, "max_length": 9, "return_overflowing_tokens": True, "stride": 1}):
        wanted = theirs([mended(text)], None if pair is None else [mended(pair)], **TYPES, **more)
        assert columns(ours([text], None if pair is None else [pair], **TYPES, **more)) == columns(wanted)


@pytest.mark.parametrize(
    "text",
    ["", " \u3000\u2028", "\x00", "a\x00b", "▁", "▁▁ ▁a▁", "x" * 5000, "9," * 300,
     "\uff21\uff22\uff23 \ufb01 ①²½", "👩\u200d🚀🏳️\u200d🌈", "中国 の ア", "שָׁלוֹם \u202eabc",
     "e\u0301\u0308\u20e3", "\u200b\ufeff\xad", LETTERS, NASTY, SYMBOLS],
)  # fmt: skip
@pytest.mark.parametrize("family", FAMILIES)
def test_hostile_examples(both, family, text):
    ours, theirs = both[family]
    assert columns(ours([text], [text], **TYPES)) == columns(theirs([text], [text], **TYPES))
    assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))


@quick
@given(text=tricky)
def test_offsets_of_albert_point_into_the_text(both, text):
    ours, _ = both[AlbertTokenizer]
    batch, end = ours(text, **TYPES), 0
    for special, (start, stop) in zip(batch.special_tokens_mask, batch.offset_mapping, strict=True):
        assert 0 <= start <= stop <= len(text) and (special or stop >= end)
        end = max(end, stop)


# --- what a tokenizer does, for each family ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_methods_of_transformers(both, family):
    ours, theirs = both[family]
    for text in (TEXT, "", "a [SEP] b", "do n't ."):
        ids = theirs(text)["input_ids"]
        tokens = theirs.convert_ids_to_tokens(ids)
        assert ours.encode(text) == ids and ours.tokenize(text) == theirs.tokenize(text)
        assert ours.convert_ids_to_tokens(ids) == tokens and ours.convert_tokens_to_ids(tokens) == ids
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
        if family is AlbertTokenizer:
            clean = {"clean_up_tokenization_spaces": True}
            assert ours.decode(ids, **clean) == theirs.clean_up_tokenization(ours.decode(ids))
    assert ours.get_vocab() == theirs.get_vocab() and len(ours) == len(theirs)
    assert sorted(ours.all_special_ids) == sorted(theirs.all_special_ids)
    a, b = ours.encode("ship", add_special_tokens=False), ours.encode("two sails", add_special_tokens=False)
    for second, pair in ((None, None), (b, "two sails")):
        wanted = theirs("ship", pair, **TYPES)
        assert ours.build_inputs_with_special_tokens(a, second) == wanted["input_ids"]
        assert ours.create_token_type_ids_from_sequences(a, second) == wanted["token_type_ids"]
        assert ours.get_special_tokens_mask(a, second) == wanted["special_tokens_mask"]


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_are_padded_and_cut_as_by_transformers(both, family):
    ours, theirs = both[family]
    texts, pairs = [TEXT, "ship", ""], ["sail", TEXT, "mast"]
    for more in (
        {"padding": True},
        {"padding": "max_length", "truncation": True, "max_length": 12},
        {"truncation": "only_second", "max_length": 48, "stride": 2, "return_overflowing_tokens": True},
        {"padding": True, "padding_side": "left", "return_tensors": "np"},
    ):
        found, wanted = ours(texts, pairs, **more), theirs(texts, pairs, **more)
        assert list(found) == list(wanted)
        assert all(
            (found[n] == wanted[n]) if "return_tensors" not in more else (found[n] == wanted[n]).all() for n in found
        )
    rows = [ours(text) for text in texts]
    assert columns(ours.pad(rows)) == columns(theirs.pad(rows))


@pytest.mark.parametrize("family", FAMILIES)
def test_folders_and_added_tokens(vocab_files, tmp_path, family):
    ours = family(vocab_files[family], model_max_length=77, padding_side="left")
    assert ours.add_tokens(["shipwrightery"]) == 1
    assert ours.add_special_tokens({"additional_special_tokens": ["[NEW]"]}) == 1
    files = ours.save_pretrained(tmp_path)
    assert sorted(files) == sorted(str(file) for file in tmp_path.iterdir())
    again, theirs = family.from_pretrained(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = TEXT + " shipwrightery[NEW] x"
    wanted = columns(ours(text, text, **TYPES))
    assert again.options == ours.options and columns(again(text, text, **TYPES)) == wanted
    assert columns(theirs(text, text, **TYPES)) == wanted and theirs.model_max_length == 77
    (tmp_path / "again").mkdir()
    assert again.save_vocabulary(tmp_path / "again") == (str(tmp_path / "again" / family.algorithm.vocab_file),)
    assert (tmp_path / "again" / family.algorithm.vocab_file).read_bytes() == again.vocab_file_content()


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_and_threads(both, family):
    ours, _ = both[family]
    wanted = columns(ours([TEXT, "ship"], padding=True))
    for other in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        assert other.options == ours.options and columns(other([TEXT, "ship"], padding=True)) == wanted
        assert other.vocab_file_content() == ours.vocab_file_content()

    def cut(length):
        return {len(ours(TEXT, truncation=True, max_length=length)["input_ids"]) for _ in range(20)}

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(cut, [3, 4, 5, 6])) == [{3}, {4}, {5}, {6}]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_text_is_read_only_as_far_as_it_is_kept(both, family):
    ours, theirs = both[family]
    text = (TEXT + " 中国 (x) ") * 200
    for limit in (5, 40):
        found = ours(text, truncation=True, max_length=limit, return_offsets_mapping=True)
        assert columns(found) == columns(theirs(text, truncation=True, max_length=limit, return_offsets_mapping=True))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "call, message",
    [
        (lambda t: t([]), "empty"),
        (lambda t: t(None), "text must be text"),
        (lambda t: t("a", paddin=True), "Did you mean 'padding'"),
        (lambda t: t.decode([10**9]), "not in the vocabulary, whose ids go from 0 to"),
        (lambda t: type(t)(vocab=None), "pass vocab_file or vocab"),
        (lambda t: type(t)("/no/such/file"), "no vocabulary file '/no/such/file'"),
        (lambda t: type(t)("/no/such/file", lower=True), "unknown option lower=True"),
        (lambda t: t.add_special_tokens({"mask": "x"}), "the name of a special token='mask'"),
    ],
)
def test_errors(both, family, call, message):
    with pytest.raises((TypeError, ValueError, FileNotFoundError), match=message):
        call(both[family][0])


@pytest.mark.parametrize("family", FAMILIES)
def test_training_is_reproducible(family, real_text):
    lines = real_text[::50]
    first, second = family.train(lines, 400), family.train([lines[100:], lines[:100]], 400)
    assert first.get_vocab() == second.get_vocab() and len(first) == 400
    assert json.loads(first.backend_tokenizer.to_str()) == json.loads(second.backend_tokenizer.to_str())
    named = [first.pad_token, first.unk_token, first.cls_token, first.sep_token, first.mask_token]
    assert first.convert_ids_to_tokens(range(5)) == named
    assert first.unk_token not in first.tokenize("the ship sailed")
    child = first.train_new_from_iterator(lines, 300, new_special_tokens=["[NEW]"])
    assert child.options == first.options and "[NEW]" in child.tokenize("a [NEW] b") and len(child) == 300


def test_two_names_for_one_class_and_all_at_the_top():
    assert AlbertTokenizer is AlbertTokenizerFast and ElectraTokenizer is ElectraTokenizerFast
    assert DistilBertTokenizer is DistilBertTokenizerFast
    for family in FAMILIES:
        assert getattr(convbert, family.__name__) is getattr(convbert, f"{family.__name__}Fast") is family


# --- ALBERT's files ---------------------------------------------------------------------------------------------------


def test_mask_takes_the_space_before_it(both):
    ours, _ = both[AlbertTokenizer]
    assert ours("a [MASK] b", return_offsets_mapping=True)["offset_mapping"][2] == (1, 8)


def test_remove_space_is_about_odd_white_space_alone(model_file, real_text, tmp_path):
    plain, kept = AlbertTokenizer(model_file), AlbertTokenizer(model_file, remove_space=False)
    lines = [*real_text[::100], "  a   b ", "a\tb\nc"]
    assert kept(lines)["input_ids"] == plain(lines)["input_ids"]
    kept.save_pretrained(tmp_path)
    again, theirs = AlbertTokenizer.from_pretrained(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (
        not again.remove_space and again(lines)["input_ids"] == theirs(lines)["input_ids"] == kept(lines)["input_ids"]
    )


def test_tokenizer_json_needs_no_sentencepiece(both, tmp_path):
    ours, _ = both[AlbertTokenizer]
    ours.save_pretrained(tmp_path)
    code = (
        "import sys; sys.modules['sentencepiece'] = None; from convbert import AlbertTokenizer as T\n"
        f"print(T.from_pretrained({str(tmp_path)!r})({TEXT!r})['input_ids'])\n"
        f"try: T({str(tmp_path / 'spiece.model')!r})\nexcept ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    ids, error = done.stdout.splitlines()
    assert json.loads(ids) == ours(TEXT)["input_ids"] and 'pip install "convbert[albert]"' in error, done.stderr


def test_a_tokenizer_without_a_model_file_writes_none(both, tmp_path):
    ours, _ = both[AlbertTokenizer]
    ours.save_pretrained(tmp_path)
    trained = AlbertTokenizer.train(["the ship sailed"] * 5, 30)
    trained.save_pretrained(tmp_path)
    assert not (tmp_path / "spiece.model").exists()
    assert AlbertTokenizer.from_pretrained(tmp_path).get_vocab() == trained.get_vocab()
    with pytest.raises(ValueError, match="did not come with a spiece.model"):
        trained.save_vocabulary(tmp_path)


def test_a_child_keeps_the_charsmap(model_file):
    child = AlbertTokenizer(model_file).train_new_from_iterator(["the ship sailed ⅷ"] * 5, 30)
    assert child.tokenize("ＳＨＩＰ") == child.tokenize("ship")


def small_model(**options):
    written = __import__("io").BytesIO()
    defaults = {"vocab_size": 30, "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "minloglevel": 2}
    defaults |= {"control_symbols": ["[CLS]", "[SEP]", "[MASK]"], "hard_vocab_limit": False}
    sentences = iter(["the ship sailed, and a shipyard had 9,900 ships"] * 9)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences, model_writer=written, **{**defaults, **options}
    )
    return written.getvalue()


@pytest.mark.parametrize(
    "content, message",
    [
        (lambda: b"", "spiece.model says .*|is broken"),
        (lambda: b"version https://git-lfs.github.com/spec/v1\n", "is broken"),
        (lambda: small_model()[:300], "is broken"),
        (lambda: small_model(model_type="bpe", vocab_size=40), "says model_type=2"),
        (lambda: small_model(byte_fallback=True, vocab_size=300), "says byte_fallback=True"),
        (lambda: small_model(add_dummy_prefix=False), "says add_dummy_prefix=False"),
        (lambda: small_model(control_symbols=["[CLS]", "[SEP]"]), r"mask_token='\[MASK\]' is not in the vocabulary"),
        (lambda: small_model(pad_id=-1), "pad_token='<pad>' is not in the vocabulary"),
    ],
)
def test_model_files_that_cannot_be_read(tmp_path, content, message):
    (tmp_path / "spiece.model").write_bytes(content())
    for read in (AlbertTokenizer, AlbertTokenizer.from_pretrained):
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "spiece.model" if read is AlbertTokenizer else tmp_path)


def broken(change):
    backend = AlbertTokenizer.train(["the ship sailed"] * 5, 30).backend_tokenizer
    content = json.loads(backend.to_str())
    change(content)
    return json.dumps(content)


def charsmap_of(content: bytes):
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(content).decode()}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["model"].update(type="BPE"), "holds no unigram vocabulary like ALBERT's .model type 'BPE'"),
        (lambda c: c["model"].update(byte_fallback=True), "holds no unigram vocabulary"),
        (lambda c: c["model"].update(vocab=[]), "needs at least one piece"),
        (lambda c: c["model"]["vocab"].append(["▁a"]), "pairs of a piece and its score"),
        (lambda c: c["model"]["vocab"].append(["<unk>", 0]), "'<unk>' has two ids"),
        (lambda c: c["model"].update(unk_id=999), "is broken"),
        (lambda c: c["model"].update(unk_id="1"), "is broken"),
        (lambda c: c.update(normalizer={"type": "NFC"}), "normalizes text with NFC, not as ALBERT"),
        (lambda c: c["normalizer"]["normalizers"].pop(2), "normalizes text with .*, not as ALBERT"),
        (lambda c: c["normalizer"]["normalizers"].append(charsmap_of(b"\0" * 64)), "charsmap of 64 bytes is broken"),
        (
            lambda c: c["normalizer"]["normalizers"].append({"type": "Precompiled", "precompiled_charsmap": "?"}),
            "is broken",
        ),
        (lambda c: c.update(pre_tokenizer={"type": "Whitespace"}), "splits text with Whitespace, not as ALBERT"),
        (lambda c: c["pre_tokenizer"]["pretokenizers"][1].update(prepend_scheme="never"), "not as ALBERT"),
        (lambda c: c["post_processor"]["single"].pop(), "gives inputs another form"),
    ],
)
def test_tokenizer_json_that_cannot_be_read(tmp_path, change, message):
    (tmp_path / "tokenizer.json").write_text(broken(change))
    with pytest.raises(ValueError, match=message):
        AlbertTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "family, entries, message",
    [
        (
            AlbertTokenizer,
            {"tokenizer_class": "BertTokenizer"},
            "says tokenizer_class='BertTokenizer', which is not a Unigram",
        ),
        (AlbertTokenizer, {"tokenizer_class": "XLNetTokenizer"}, "says tokenizer_class='XLNetTokenizer'"),
        (AlbertTokenizer, {"add_prefix_space": False}, "says add_prefix_space=False"),
        (AlbertTokenizer, {"sp_model_kwargs": {"enable_sampling": True}}, "says sp_model_kwargs="),
        (ElectraTokenizer, {"tokenizer_class": "AlbertTokenizer"}, "which is not a WordPiece tokenizer"),
    ],
)
def test_folders_of_another_tokenizer(tmp_path, family, entries, message):
    family.train(["the ship sailed"] * 5, 30).save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))
    with pytest.raises(ValueError, match=message):
        family.from_pretrained(tmp_path)


def test_older_folders_of_albert(both, tmp_path):
    """A tokenizer.json as the hub has it: another way to write Metaspace, and a step for spaces."""
    ours, _ = both[AlbertTokenizer]
    content = json.loads(ours.backend_tokenizer.to_str())
    content["normalizer"]["normalizers"].append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    metaspace = {"type": "Metaspace", "replacement": "▁", "str_rep": "▁", "add_prefix_space": True}
    content["pre_tokenizer"]["pretokenizers"][1] = metaspace
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert AlbertTokenizer.from_pretrained(tmp_path, add_prefix_space=True)(TEXT) == ours(TEXT)
    with pytest.raises(TypeError, match="add_prefix_space=False is not taken here"):
        AlbertTokenizer.from_pretrained(tmp_path, add_prefix_space=False)


@pytest.mark.parametrize(
    "iterator, size, message",
    [
        ("one text", 99, "iterator of texts, not str"),
        ([], 99, "gave no text"),
        (["ship sail"], 3, "vocab_size=3 must be at least"),
        (["ship sail"], 7, "limit_alphabet"),
    ],
)
def test_unigram_training_that_cannot_be(iterator, size, message):
    with pytest.raises((TypeError, ValueError), match=message):
        AlbertTokenizer.train(iterator, size)


def test_unigram_training_leaves_out_long_words_and_rare_characters():
    texts = ["the ship sailed", "a shipyard had ships"] * 5
    plain = AlbertTokenizer.train(texts, 40).get_vocab()
    assert AlbertTokenizer.train([*texts, "z" * 300_000], 40).get_vocab() == plain
    few = AlbertTokenizer.train([*texts, "q"], 40, limit_alphabet=12)
    assert "q" not in few.get_vocab() and "▁ship" in few.get_vocab()
