"""Our tokenizers beside transformers' on real and hostile text; folders both ways; bad input; threads."""

import copy
import json
import lzma
import pickle
import random
import subprocess
import sys
import unicodedata
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convbert.tokenizers.classes import ConvBertTokenizer, ConvBertTokenizerFast

transformers = pytest.importorskip("transformers")
legacy = pytest.importorskip("transformers.models.bert.tokenization_bert_legacy")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# letters of many scripts, marks, CJK, right-to-left, emoji with joiners, controls, odd white space
LETTERS = "abcdefxyzABCXYZ0189éÉßẞıİǅσςΣжЖאשعب한国中々あアｱ०ก𝒜𐐀"
MARKS = "\u0300\u0301\u0308\u0345\u05b7\u064b\u093c\u20e3\ufe0f\U0001f3fd"
NASTY = "\x00\x01\x1f\x7f\x85\xa0\xad\u061c\u1680\u180e\u200b\u200d\u202e\u2028\u3000\ue000\ufeff\ufffd\U000e0001"
SYMBOLS = ".,!?'-_[]#$`~¡—…،。「」😀👩🚀🏳"
ALPHABET = "".join(dict.fromkeys(unicodedata.normalize("NFD", LETTERS) + LETTERS.lower() + LETTERS + MARKS + SYMBOLS))
WORDS = ["ship", "##wright", "sail", "##s", "un", "##mask", "##able", "foo", "foo-bar", "U.S."]
VOCAB = {t: i for i, t in enumerate(dict.fromkeys([*SPECIAL, *WORDS, *ALPHABET, *("##" + c for c in ALPHABET)]))}

TEXTS = [
    "The ship's sails, UNMASKABLE shipwright!",
    "a [MASK] b[SEP]c [mask] 中国 fооbar",
    "",
    " \t\n",
    "x" * 150,
    "e\u0301É İ ß 👩\u200d🚀 foo-bar U.S.",
]


@pytest.fixture(scope="module")
def bert_vocab(shared_data):
    return shared_data / "vocab" / "bert-base-uncased-vocab.txt"


@pytest.fixture(scope="module")
def lines(shared_data):
    """10,000 lines, 2,000 of each file of the corpus, at most 200 characters of each."""
    found = []
    for file in sorted((shared_data / "corpus").glob("*.txt.xz")):
        with lzma.open(file, "rt", encoding="utf-8") as stream:
            found += islice((line[:200].rstrip("\n") for line in stream if line.strip()), 2000)
    assert len(found) == 10_000
    return found


@pytest.fixture(scope="module")
def ours():
    return ConvBertTokenizer(vocab=VOCAB)


@pytest.fixture(scope="module")
def theirs():
    return transformers.BertTokenizerFast(vocab=dict(VOCAB))


def columns(batch):
    """The columns of a batch of theirs or ours as a plain dictionary."""
    return {name: list(column) for name, column in batch.items()}


# --- the same ids -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lower, step", [(True, 1), (False, 4)])
def test_same_as_transformers_on_10_000_lines(bert_vocab, lines, lower, step):
    found = ConvBertTokenizerFast(bert_vocab, do_lower_case=lower)(lines[::step], return_offsets_mapping=True)
    for kind in {transformers.BertTokenizer, transformers.BertTokenizerFast}:  # one class in version 5
        wanted = kind(vocab=str(bert_vocab), do_lower_case=lower)(lines[::step], return_offsets_mapping=True)
        assert dict(found) == dict(wanted)


@pytest.mark.parametrize("lower", [True, False])
def test_same_as_the_pure_python_tokenizer(bert_vocab, lines, lower):
    wanted = legacy.BertTokenizerLegacy(str(bert_vocab), do_lower_case=lower)
    found = ConvBertTokenizer(vocab_file=bert_vocab, do_lower_case=lower)
    for line in lines[::50]:
        assert found(line)["input_ids"] == wanted(line)["input_ids"]


MATRIX = list(product((True, False), (None, True, False), (True, False)))


@pytest.fixture(scope="module")
def pairs_of_tokenizers():
    found = {}
    for key in MATRIX:
        options = dict(zip(("do_lower_case", "strip_accents", "tokenize_chinese_chars"), key, strict=True))
        found[key] = ConvBertTokenizer(VOCAB, **options), transformers.BertTokenizerFast(vocab=dict(VOCAB), **options)
    return found


pieces = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=8),  # any code point at all, surrogates included
    st.text(LETTERS + MARKS + NASTY + SYMBOLS + " ", max_size=12),
    st.sampled_from([*SPECIAL, *WORDS, "👩\u200d🚀", "e\u0301", "شב\u05b7", "\r\n"]),
    st.sampled_from(["\ud83d", "\udc00x", "a\ud83d\ude00b"]),
)
hostile = st.lists(pieces, max_size=6).map("".join)
quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def mended(text):
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


@quick
@given(text=hostile, pair=st.none() | hostile, key=st.sampled_from(MATRIX))
def test_hostile_text_is_encoded_as_by_transformers(pairs_of_tokenizers, text, pair, key):
    ours, theirs = pairs_of_tokenizers[key]
    options = {"return_offsets_mapping": True}
    wanted = theirs([mended(text)], None if pair is None else [mended(pair)], **options)
    assert columns(ours([text], None if pair is None else [pair], **options)) == columns(wanted)


def normal(text, lower):
    """What a slice of the text looks like to WordPiece."""
    if not lower:
        return text
    text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    return "".join(c.lower() for c in text)


@quick
@given(text=hostile, lower=st.booleans())
def test_offsets_point_at_the_original_characters(pairs_of_tokenizers, text, lower):
    tokenizer = pairs_of_tokenizers[lower, None, True][0]
    batch = tokenizer(text, return_offsets_mapping=True)
    end = 0
    for token, part, (start, stop) in zip(batch.tokens(), batch.sequence_ids(), batch.offset_mapping, strict=True):
        if part is None:
            continue
        assert end <= start <= stop <= len(text) or (end >= stop > start)  # in order; one character may give two tokens
        end = stop
        if token in SPECIAL and token != "[UNK]":
            assert text[start:stop] == token
        elif token != "[UNK]":
            assert token.removeprefix("##") in normal(text[start:stop], lower)


def test_surrogates_count_as_one_character(ours):
    text = "ab\ud83d c\udc00d foo"
    batch = ours(text, return_offsets_mapping=True)
    assert batch["input_ids"] == ours(text.replace("\ud83d", "\ufffd").replace("\udc00", "\ufffd"))["input_ids"]
    start, stop = batch["offset_mapping"][-2]
    assert text[start:stop] == "foo"


# --- the other options ------------------------------------------------------------------------------------------------


def test_text_that_is_not_cleaned():
    from tokenizers.implementations import BertWordPieceTokenizer

    vocab = VOCAB | {"\x01": len(VOCAB), "##\x01": len(VOCAB) + 1}
    wanted, found = BertWordPieceTokenizer(dict(vocab), clean_text=False), ConvBertTokenizer(vocab, clean_text=False)
    for text in [*TEXTS, "ship\x01wright\x01 \x00 a\u200bb"]:
        assert found(text)["input_ids"] == wanted.encode(text).ids
    assert len(vocab) - 1 in found("ship\x01")["input_ids"] != ConvBertTokenizer(vocab)("ship\x01")["input_ids"]


def test_another_prefix_says_the_same():
    other = ConvBertTokenizer({t.replace("##", "@@"): i for t, i in VOCAB.items()}, wordpieces_prefix="@@")
    same = ConvBertTokenizer(VOCAB)
    for text in TEXTS:
        ids = same(text)["input_ids"]
        assert other(text)["input_ids"] == ids and other.decode(ids) == same.decode(ids)
    trained = ConvBertTokenizer.train(["ship ships " * 9], 30, wordpieces_prefix="@@")
    assert "@@hip" in trained.get_vocab() or "@@h" in trained.get_vocab()


def write_vocab(folder, vocab=VOCAB):
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab), encoding="utf-8")
    return folder / "vocab.txt"


@pytest.mark.parametrize(
    "options",
    [{"do_basic_tokenize": False}, {"never_split": ["foo-bar"]}, {"never_split": ["U.S."], "do_lower_case": False}],
)
def test_basic_tokenize_and_never_split_are_the_python_tokenizers(tmp_path, options):
    wanted = legacy.BertTokenizerLegacy(str(write_vocab(tmp_path)), **options)
    found = ConvBertTokenizer(tmp_path / "vocab.txt", **options)
    for text in ["foo-bar U.S. x", "a foo-bar [MASK] Abc! ", "u.s. foo - bar xfoo-bar", "unmaskable sails", ""]:
        assert found(text)["input_ids"] == wanted(text)["input_ids"], text


def test_never_split_wants_the_exact_word_and_minds_no_punctuation():
    found = ConvBertTokenizer(VOCAB, never_split=["foo-bar"])
    assert found.tokenize("(foo-bar)") == ["[UNK]", "foo-bar", "[UNK]"]
    assert "foo-bar" not in found.tokenize("Foo-Bar foo-barx xfoo-bar")


def test_other_special_tokens():
    vocab = {t: i for i, t in enumerate(["<pad>", "<unk>", "<s>", "</s>", "<mask>", "ship", "sail"])}
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), vocab, strict=False))
    found, wanted = ConvBertTokenizer(vocab, **names), transformers.BertTokenizerFast(vocab=dict(vocab), **names)
    for text in ["ship <mask> SAIL yacht", "<s> ship </s>"]:
        assert found(text, "sail")["input_ids"] == wanted(text, "sail")["input_ids"]
    for name in names:
        assert getattr(found, name) == names[name] and getattr(found, name + "_id") == vocab[names[name]]
    assert sorted(found.all_special_ids) == sorted(wanted.all_special_ids)


def test_going_without_a_special_token():
    bare = ConvBertTokenizer(vocab=["[UNK]", "ship"], pad_token=None, cls_token=None, sep_token=None, mask_token=None)
    assert bare("ship yacht", "ship")["input_ids"] == [1, 0, 1] and bare.mask_token_id is None
    assert bare.build_inputs_with_special_tokens([1], [1]) == [1, 1] and bare.num_special_tokens_to_add(True) == 0
    with pytest.raises(ValueError, match="needs a pad_token"):
        bare(["ship", "ship ship"], padding=True)


# --- calls ------------------------------------------------------------------------------------------------------------


def random_call(rng):
    """Arguments of a call: single, pairs, batches, split or not, padded, cut, in pieces."""

    def item():
        words = rng.choices(["ship", "shipwrights", "unmaskable", "Sails", "zz!", "中国", "foo"], k=rng.randint(1, 14))
        return words if split else " ".join(words)

    split, single, pair = rng.random() < 0.3, rng.random() < 0.3, rng.random() < 0.5
    many = [item() for _ in range(rng.randint(1, 4))]
    text = item() if single else many
    text_pair = None if not pair else item() if single else [item() for _ in many]
    options = {
        "padding": rng.choice([True, False, "longest", "max_length"]),
        "truncation": rng.choice([True, False, "longest_first", "only_first", "only_second", None, "do_not_truncate"]),
        "max_length": rng.choice([8, 12, 16, 40]),
        "stride": rng.choice([0, 0, 1, 2, 4]),
        "is_split_into_words": split,
        "pad_to_multiple_of": rng.choice([None, None, 8]),
        "padding_side": rng.choice([None, "left", "right"]),
        "add_special_tokens": rng.random() < 0.8,
        "return_overflowing_tokens": rng.random() < 0.5,
        "return_offsets_mapping": rng.random() < 0.5,
        "return_special_tokens_mask": rng.random() < 0.5,
        "return_length": rng.random() < 0.3,
        "return_token_type_ids": rng.choice([None, True, False]),
        "return_attention_mask": rng.choice([None, True, False]),
    }
    return text, text_pair, options


@pytest.mark.parametrize("side", ["right", "left"])
def test_calls_are_transformers_calls(side):
    rng = random.Random(side)
    ours = ConvBertTokenizer(VOCAB, truncation_side=side)
    theirs = transformers.BertTokenizerFast(vocab=dict(VOCAB), truncation_side=side)
    same = cut = 0
    for _ in range(500):
        text, pair, options = random_call(rng)
        try:
            found = ours(text, pair, **options)
        except ValueError:
            with pytest.raises(BaseException):  # noqa: B017 - they refuse it too, if by a panic, which is no Exception
                theirs(text, pair, **options)
            continue
        wanted = theirs(text, pair, **options)
        assert columns(found) == columns(wanted), (text, pair, options)
        assert list(found) == list(wanted)
        for row in range(len(found.encodings)):
            assert found.tokens(row) == wanted.tokens(row)
            assert found.word_ids(row) == wanted.word_ids(row)
            assert found.sequence_ids(row) == wanted.sequence_ids(row)
            assert found.char_to_token(row, 3) == wanted.char_to_token(row, 3)
        same, cut = same + 1, cut + bool(found.n_truncated)
    assert same > 300 and cut > 100  # the comparison did happen


@pytest.mark.parametrize("kind", ["pt", "np"])
def test_tensors(ours, theirs, kind):
    options = {"padding": True, "truncation": True, "max_length": 9, "stride": 2, "return_tensors": kind}
    options |= {"return_overflowing_tokens": True, "return_length": True, "return_offsets_mapping": True}
    found, wanted = ours(TEXTS, TEXTS[::-1], **options), theirs(TEXTS, TEXTS[::-1], **options)
    assert list(found) == list(wanted)
    for name in found:
        assert type(found[name]) is type(wanted[name]) and found[name].dtype == wanted[name].dtype
        assert (found[name] == wanted[name]).all()
    assert ours("ship", return_tensors=kind)["input_ids"].shape == (1, 3)
    if kind == "pt":
        assert found.to("meta")["input_ids"].device.type == "meta"


def test_pairs_may_stand_in_the_batch(ours):
    questions, contexts = ["ship?", "sail?"], ["a ship", "a sail!"]
    pairs = list(zip(questions, contexts, strict=True))
    assert ours(pairs) == ours([list(pair) for pair in pairs]) == ours(questions, contexts)
    split = [([q], c.split()) for q, c in pairs]
    both = ours([q for q, _ in split], [c for _, c in split], is_split_into_words=True)
    assert ours(split, is_split_into_words=True) == both


def test_any_sequence_of_texts_is_a_batch(ours):
    texts = ["ship", "sail"]
    assert ours(tuple(texts)) == ours(np.array(texts)) == ours(texts)


def test_truncation_is_counted_and_a_long_text_reported_once():
    tokenizer = ConvBertTokenizer(VOCAB, model_max_length=6)
    assert tokenizer(["ship", "ship " * 9, "sail " * 5], truncation=True).n_truncated == 2
    with pytest.warns(UserWarning, match="11 tokens.*takes 6.*truncation=True") as said:
        tokenizer(["ship " * 9])
    assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer(["ship " * 99])
        ConvBertTokenizer(VOCAB, model_max_length=6)("ship " * 9, verbose=False)


def test_options_of_a_built_tokenizer(ours):
    tokenizer = ConvBertTokenizer(VOCAB)
    tokenizer.model_max_length = 4
    assert len(tokenizer("ship " * 9, truncation=True)["input_ids"]) == 4
    with pytest.raises(ValueError, match="padding_side='lfet'.*Did you mean 'left'"):
        tokenizer.padding_side = "lfet"
    with pytest.raises(AttributeError, match="do_lower_case is fixed"):
        tokenizer.do_lower_case = False
    with pytest.raises(AttributeError, match="no attribute 'do_lowercase'"):
        _ = tokenizer.do_lowercase


# --- tokens and ids ---------------------------------------------------------------------------------------------------


def test_tokens_ids_and_text_are_transformers(ours, theirs):
    for text in TEXTS:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text) == ids and ours.tokenize(text) == theirs.tokenize(text)
        tokens = theirs.convert_ids_to_tokens(ids)
        assert ours.convert_ids_to_tokens(ids) == tokens and ours.convert_tokens_to_ids(tokens) == ids
        assert ours.convert_tokens_to_string(tokens) == theirs.convert_tokens_to_string(tokens)
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
            assert ours.convert_ids_to_tokens(ids, skip) == theirs.convert_ids_to_tokens(ids, skip)
        plain = ours.decode(ids, clean_up_tokenization_spaces=False)
        assert plain == " ".join(tokens).replace(" ##", "")
    assert ours.batch_decode(np.array([[5, 7], [8, 7]])) == theirs.batch_decode([[5, 7], [8, 7]])
    assert ours.get_vocab() == theirs.get_vocab() and len(ours) == len(theirs) and ours.vocab_size == theirs.vocab_size
    assert ours.convert_tokens_to_ids("no such token") == ours.unk_token_id


def test_building_inputs_by_hand(ours, theirs):
    a, b = ours.encode("ship", add_special_tokens=False), ours.encode("foo sails", add_special_tokens=False)
    for second, pair in ((None, None), (b, "foo sails")):
        wanted = theirs("ship", pair, return_special_tokens_mask=True)
        assert ours.build_inputs_with_special_tokens(a, second) == wanted["input_ids"]
        assert ours.create_token_type_ids_from_sequences(a, second) == wanted["token_type_ids"]
        assert ours.get_special_tokens_mask(a, second) == wanted["special_tokens_mask"]
        mask = ours.get_special_tokens_mask(wanted["input_ids"], already_has_special_tokens=True)
        assert mask == wanted["special_tokens_mask"]
        assert ours.num_special_tokens_to_add(pair is not None) == theirs.num_special_tokens_to_add(pair is not None)


def test_added_tokens_are_transformers():
    ours, theirs = ConvBertTokenizer(VOCAB), transformers.BertTokenizerFast(vocab=dict(VOCAB))
    for tokenizer in (ours, theirs):
        tokenizer.add_tokens(["shipwrightery", "foo"])
        assert tokenizer.add_tokens("[NEW]", special_tokens=True) == 1
    for text in ["a SHIPWRIGHTERY [NEW] foo", "[new] shipwrighteryx"]:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert len(ours) == len(theirs) == len(VOCAB) + 2 and ours.all_special_tokens[-1] == "[NEW]"


# --- vocabularies and folders -----------------------------------------------------------------------------------------


def test_vocab_files_as_they_are_found(tmp_path):
    lines = [*SPECIAL, "ship", "", "sail", "ship", "##s"]
    (tmp_path / "vocab.txt").write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    tokenizer = ConvBertTokenizer(tmp_path / "vocab.txt")
    assert tokenizer("ship sails", add_special_tokens=False)["input_ids"] == [8, 7, 9]
    assert len(tokenizer) == tokenizer.vocab_size == len(lines)  # the rows that a model needs
    tokenizer.save_vocabulary(tmp_path)
    again = ConvBertTokenizer(tmp_path / "vocab.txt")
    assert again.get_vocab() == tokenizer.get_vocab()


def test_repeated_lines_move_no_id(bert_vocab, tmp_path):
    """The shared file names some tokens twice; its ids are line numbers all the same."""
    tokenizer = ConvBertTokenizer(bert_vocab)
    lines = bert_vocab.read_bytes().decode().split("\n")
    assert len(tokenizer) == len(lines) - (lines[-1] == "")
    tokenizer.save_pretrained(tmp_path)
    text = (tmp_path / "vocab.txt").read_text(encoding="utf-8").split("\n")
    assert all(text[i] == line.rstrip() for i, line in enumerate(lines) if not text[i].startswith("[unused_"))


FOLDERS = [
    {},
    {"do_lower_case": False},
    {"strip_accents": False, "tokenize_chinese_chars": False},
    {"model_max_length": 77, "padding_side": "left", "truncation_side": "left"},
    {"do_basic_tokenize": False},
    {"clean_text": False},
    {"never_split": ("foo-bar",)},
    {"mask_token": None},
]


def agree(one, other):
    """Both give the same columns, padded and cut."""
    for options in ({}, {"padding": True, "truncation": True, "max_length": 8}):
        assert columns(one(TEXTS, TEXTS[::-1], **options)) == columns(other(TEXTS, TEXTS[::-1], **options))
    assert len(one) == len(other) and one.model_max_length == other.model_max_length
    assert sorted(one.all_special_ids) == sorted(other.all_special_ids)


@pytest.mark.parametrize("options", FOLDERS, ids=lambda options: ",".join(options) or "plain")
def test_our_folder_in_transformers_and_here(tmp_path, options):
    ours = ConvBertTokenizer(VOCAB, **options)
    ours.add_tokens("shipwrightery")
    ours.add_tokens("[NEW]", special_tokens=True)
    files = ours.save_pretrained(tmp_path / "new" / "folder")
    assert sorted(files) == sorted(str(file) for file in (tmp_path / "new" / "folder").iterdir())
    agree(ours, transformers.AutoTokenizer.from_pretrained(tmp_path / "new" / "folder"))
    again = ConvBertTokenizer.from_pretrained(tmp_path / "new" / "folder")
    agree(ours, again)
    assert again.options == ours.options
    (tmp_path / "new" / "folder" / "tokenizer.json").unlink()  # the other files say it all, too
    agree(ours, ConvBertTokenizer.from_pretrained(tmp_path / "new" / "folder"))


@pytest.mark.parametrize("options", FOLDERS[:4], ids=lambda options: ",".join(options) or "plain")
@pytest.mark.parametrize("kind", ["BertTokenizerFast", "ConvBertTokenizer"])
def test_transformers_folder_here(tmp_path, options, kind):
    theirs = getattr(transformers, kind)(vocab=dict(VOCAB), extra_special_tokens=["[NEW]"], **options)
    theirs.add_tokens("shipwrightery")
    theirs.save_pretrained(tmp_path)
    agree(ConvBertTokenizer.from_pretrained(tmp_path), theirs)


@pytest.mark.parametrize("lower", [True, False])
def test_one_file_is_enough(tmp_path, lower):
    tokenizer = ConvBertTokenizer(VOCAB, do_lower_case=lower)
    tokenizer.save_pretrained(tmp_path / "json")
    for file in (tmp_path / "json").iterdir():
        if file.name != "tokenizer.json":
            file.unlink()
    agree(tokenizer, ConvBertTokenizer.from_pretrained(tmp_path / "json"))
    write_vocab(tmp_path)
    agree(tokenizer, ConvBertTokenizer.from_pretrained(tmp_path, do_lower_case=lower))
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 512}')
    assert ConvBertTokenizer.from_pretrained(tmp_path).model_max_length == 512


def test_the_files_of_older_transformers(tmp_path):
    """A slow tokenizer's folder of version 4: special tokens as objects, added tokens in a file of their own."""
    write_vocab(tmp_path)
    mask = {"content": "[MASK]", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"mask_token": mask, "unk_token": "[UNK]"}))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"shipwrightery": len(VOCAB)}))
    config = {"do_lower_case": False, "never_split": None, "strip_accents": None, "model_max_length": 512}
    config |= {"tokenizer_class": "ConvBertTokenizer", "name_or_path": "x/y"}
    config |= {"mask_token": mask | {"__type": "AddedToken"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = ConvBertTokenizer.from_pretrained(tmp_path)
    assert not tokenizer.do_lower_case and tokenizer.model_max_length == 512 and len(tokenizer) == len(VOCAB) + 1
    assert tokenizer("[MASK] shipwrightery", add_special_tokens=False)["input_ids"] == [VOCAB["[MASK]"], len(VOCAB)]


def test_files_that_disagree(tmp_path):
    ConvBertTokenizer(VOCAB).save_pretrained(tmp_path)
    write_vocab(tmp_path, list(VOCAB)[::-1])
    with pytest.warns(UserWarning, match="vocab.txt and tokenizer.json disagree"):
        tokenizer = ConvBertTokenizer.from_pretrained(tmp_path)
    assert tokenizer.get_vocab() == VOCAB


def test_saving_leaves_no_stale_added_tokens(tmp_path):
    (tmp_path / "added_tokens.json").write_text('{"old": 5}')
    ConvBertTokenizer(VOCAB).save_pretrained(tmp_path)
    assert len(ConvBertTokenizer.from_pretrained(tmp_path)) == len(VOCAB)


def test_saving_where_it_cannot_be(ours, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="could not save"):
        ours.save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine" and [f.name for f in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "files, message",
    [
        ({}, "neither vocab.txt nor tokenizer.json"),
        ({"tokenizer.json": "{"}, "tokenizer.json is broken"),
        ({"tokenizer.json": "[1]"}, "should hold an object"),
        ({"tokenizer.json": '{"model": {"type": "BPE", "vocab": {}}}'}, "no WordPiece vocabulary.*'BPE'"),
        ({"tokenizer.json": '{"model": {"vocab": {"a": 0}}, "pre_tokenizer": {"type": "Metaspace"}}'}, "Metaspace"),
        ({"vocab.txt": "a\n", "tokenizer_config.json": "{,}"}, "tokenizer_config.json is broken"),
        ({"vocab.txt": "[PAD]\n[UNK]\nship\n"}, r"sep_token='\[SEP\]' is not in the vocabulary of 3 tokens"),
        ({"vocab.txt": b"\xff\xfe"}, "not UTF-8"),
        ({"vocab.txt": ""}, "0 tokens"),
    ],
)
def test_folders_that_cannot_be_read(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ConvBertTokenizer.from_pretrained(tmp_path)


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_is_the_librarys(lines):
    some = lines[::20]
    first, second = ConvBertTokenizer.train(iter(some), 600), ConvBertTokenizer.train([some[:250], some[250:]], 600)
    tokens = first.convert_ids_to_tokens(range(600))
    assert len(first) == len(second) == 600 and tokens[:5] == SPECIAL
    pieces = [t for t in tokens[5:] if not t.startswith("##") and len(t) > 1]
    assert pieces == sorted(pieces)  # ids have an order that does not depend on the library's
    theirs = transformers.BertTokenizerFast(vocab=dict(VOCAB))
    wanted = theirs.train_new_from_iterator(some, 600, min_frequency=2, limit_alphabet=1000, show_progress=False)
    assert first.get_vocab() == second.get_vocab()
    # left to itself the library breaks ties by chance: its last few pieces may differ
    assert len(first.get_vocab().keys() ^ wanted.get_vocab().keys()) <= 24


def test_training_in_the_manner_of_a_tokenizer():
    parent = ConvBertTokenizer(VOCAB, do_lower_case=False, model_max_length=99, never_split=["foo-bar"])
    parent.add_tokens("[NEW]", special_tokens=True)
    child = parent.train_new_from_iterator(["The Ship sailed \ud83d. " * 9], 60)
    assert child.options == parent.options and child.tokenize("Ship [NEW] foo-bar") == ["Ship", "[NEW]", "foo-bar"]
    assert "[NEW]" in child.all_special_tokens


@pytest.mark.parametrize(
    "iterator, size, message",
    [
        ("one text", 99, "iterator of texts, not str"),
        ([b"ship"], 99, "text 0 must be text"),
        ([["ship"], ["sail", None]], 99, "a text of batch 1 must be text"),
        ([], 99, "gave no text"),
        (["ship sail"], 3, "vocab_size=3 must be at least"),
        (["ship sail"], 7, "limit_alphabet"),
        (["ship sail"], 9.5, "vocab_size=9.5 must be a whole number"),
    ],
)
def test_training_that_cannot_be(iterator, size, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ConvBertTokenizer.train(iterator, size)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, options, message",
    [
        ((None,), {}, "text must be text .str., not NoneType"),
        ((b"ship",), {}, "decode the bytes first"),
        ((7,), {}, "not int .7."),
        (([],), {}, "empty"),
        ((["ship", None],), {}, "text 1 must be text"),
        ((["ship", 3.5],), {}, "text 1 must be text"),
        (([["a", "b", "c"]],), {}, "is_split_into_words=True"),
        (({"text": "ship"},), {}, "not dict"),
        ((["ship"], "sail"), {}, "batch of 1 texts needs a list"),
        ((["ship"], ["sail", "foo"]), {}, "batch of 1 texts needs a list"),
        (("ship", ["sail"]), {}, "text_pair must be text"),
        (("ship",), {"is_split_into_words": True}, "list of words"),
        (([["ship", 3]],), {"is_split_into_words": True}, "word 1 of text 0"),
        (("ship",), {"padding": "longst"}, "padding='longst'.*Did you mean 'longest'"),
        (("ship",), {"padding": 1}, "padding=1 must be one of"),
        (("ship",), {"truncation": "only_frist"}, "Did you mean 'only_first'"),
        (("ship",), {"return_tensors": "torch"}, "return_tensors='torch' must be one of"),
        (("ship",), {"max_lenght": 9}, "unknown option max_lenght=9.*Did you mean 'max_length'"),
        (("ship",), {"truncation": True, "max_length": 2}, "max_length=2 leaves 0 tokens of text"),
        (("ship",), {"truncation": True, "max_length": 0}, "max_length=0 must be at least 1"),
        (("ship",), {"truncation": True, "max_length": "8"}, "max_length='8' must be a whole number"),
        (("ship",), {"truncation": True, "max_length": 5, "stride": 3}, "stride=3"),
        (("ship",), {"stride": -1}, "stride=-1 must be at least 0"),
        (("ship " * 9,), {"truncation": "only_second", "max_length": 5}, "no text_pair"),
        (("ship " * 9, "sail"), {"truncation": "only_second", "max_length": 8}, "text 0 and its pair have 9 and 1"),
        (("ship " * 9, "sail " * 9), {"truncation": True, "max_length": 11, "stride": 4}, "stride=4 must be less"),
        (("ship",), {"padding": "max_length"}, "needs max_length="),
        (("ship",), {"padding": True, "truncation": True, "max_length": 9, "pad_to_multiple_of": 8}, "multiple of"),
        ((["ship", "ship sail"],), {"return_tensors": "np"}, "pass padding=True"),
    ],
)
def test_calls_that_cannot_be(ours, args, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ours(*args, **options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "pass vocab_file or vocab"),
        ({"vocab": VOCAB, "vocab_file": "x"}, "pass vocab_file or vocab"),
        ({"vocab_file": "/no/such/vocab.txt"}, "no vocabulary file '/no/such/vocab.txt'"),
        ({"vocab": 7}, "a vocabulary is a path"),
        ({"vocab": {"a": "b"}}, "not 'a': 'b'"),
        ({"vocab": {"a": 0, "b": 0}}, "id of its own"),
        ({"vocab": {"a": 10**9}}, "id of its own"),
        ({"vocab": VOCAB, "mask_token": "[MSK]"}, "mask_token=.*not in the vocabulary.*Did you mean '.MASK.'"),
        ({"vocab": VOCAB, "never_split": "foo"}, "never_split='foo' must be a list"),
        ({"vocab": VOCAB, "never_split": ["foo-bar!"]}, "never_split='foo-bar!' is not in the vocabulary"),
        ({"vocab": VOCAB, "do_lower_case": "yes"}, "do_lower_case='yes' must be one of True, False"),
        ({"vocab": VOCAB, "lowercase": True}, "unknown option lowercase=True.*Did you mean 'do_lower_case'"),
        ({"vocab": VOCAB, "model_max_length": 0}, "model_max_length=0"),
        ({"vocab": VOCAB, "pad_token": 0}, "pad_token=0 must be text, or None"),
    ],
)
def test_tokenizers_that_cannot_be(options, message):
    with pytest.raises((TypeError, ValueError, FileNotFoundError), match=message):
        ConvBertTokenizer(**options)


@pytest.mark.parametrize("ids", [[-100], [10**9], [2**40], ["ship"], [None], [True, 99999]])
def test_ids_outside_the_vocabulary(ours, ids):
    with pytest.raises(ValueError, match=r"id .* is not in the vocabulary, whose ids go from 0 to"):
        ours.decode(ids)


def test_several_texts_need_batch_decode(ours):
    with pytest.raises(TypeError, match="batch_decode"):
        ours.decode([[5], [6]])


# --- threads, processes, imports --------------------------------------------------------------------------------------


def test_threads_do_not_disturb_each_other(ours):
    calls = [random_call(random.Random(seed)) for seed in range(60)]

    def run(call):
        text, pair, options = call
        try:
            return columns(ours(text, pair, **options))
        except ValueError as error:
            return str(error)

    wanted = [run(call) for call in calls]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(run, calls)) == wanted


def test_copies(ours):
    batch = ours(TEXTS, padding=True, return_tensors="pt")
    for tokenizer in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        assert tokenizer.options == ours.options and tokenizer(TEXTS) == ours(TEXTS)
    again = pickle.loads(pickle.dumps(batch))
    assert again.input_ids.equal(batch.input_ids) and again.word_ids(1) == batch.word_ids(1)


def test_importing_and_building_need_no_torch():
    code = (
        "import sys; from convbert import ConvBertTokenizer as T; lazy = 'tokenizers' not in sys.modules; "
        "T(vocab='[PAD] [UNK] [CLS] [SEP] [MASK] a'.split())('a', return_tensors='np'); "
        "print(lazy, [m for m in ('torch', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "True []", done.stderr


# -- learning a vocabulary

LEARN = """
import random, sys
from convbert import ConvBertTokenizerFast
rng = random.Random(int(sys.argv[1]))
words = ["".join(rng.choice("abcdefghéß中") for _ in range(rng.randint(1, 7))) for _ in range(300)]
texts = [" ".join(rng.choice(words) for _ in range(40)) for _ in range(40)]
learnt = ConvBertTokenizerFast.train(texts, vocab_size=200, limit_alphabet=int(sys.argv[2]))
print(sorted(learnt.get_vocab().items(), key=lambda item: item[1]))
"""


@pytest.mark.parametrize("limit", [1000, 6])
def test_the_same_text_gives_the_same_vocabulary(limit):
    """Ties are many here; what settles them is not the order of a hash table, which is another in every process."""
    commands = [[sys.executable, "-c", LEARN, str(seed), str(limit)] for seed in (0, 0, 0, 0, 1)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    first, *same, other = [process.communicate(timeout=120)[0] for process in running]
    assert first and same == [first] * 3 and other != first


def test_the_order_of_texts_does_not_matter():
    texts = ["the ship sailed", "a shipyard had ships", "she shaped the mast", "masts are shaped by hand"] * 3
    one, other = (ConvBertTokenizerFast.train(lines, vocab_size=60).get_vocab() for lines in (texts, texts[::-1]))
    assert one == other
    assert ConvBertTokenizerFast.train([texts[:5], texts[5:]], vocab_size=60).get_vocab() == one  # batches


def test_a_word_that_is_too_long_to_spell_teaches_nothing():
    texts = ["the ship sailed", "a shipyard had ships"] * 3
    plain = ConvBertTokenizerFast.train(texts, vocab_size=40).get_vocab()
    assert ConvBertTokenizerFast.train([*texts, "z" * 300_000], vocab_size=40).get_vocab() == plain
    assert "z" in ConvBertTokenizerFast.train([*texts, "z" * 100], vocab_size=60).get_vocab()
