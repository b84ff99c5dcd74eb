"""Folders of tokenizers: everything that changes ids is honoured, or refused by name."""

import json
import shutil
import warnings
from pathlib import Path

import pytest

import convbert
from convbert import ConvBertTokenizerFast

BUNDLED = Path(convbert.__file__).parent / "models" / "convbert-tiny"
TEXT = "a <one> ship<two>"


@pytest.fixture
def folder(tmp_path):
    ConvBertTokenizerFast.from_pretrained(BUNDLED).save_pretrained(tmp_path)
    shutil.copy(BUNDLED / "config.json", tmp_path)
    return tmp_path


def put(folder, name, **entries):
    file = folder / name
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | entries))


def edit(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


FLAGS = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}


@pytest.mark.parametrize("only_vocab", [False, True])
@pytest.mark.parametrize("file", ["special_tokens_map.json", "tokenizer_config.json"])
@pytest.mark.parametrize("name", ["additional_special_tokens", "extra_special_tokens"])
@pytest.mark.parametrize(
    "tokens",
    [["<one>", "<two>"], {"first": "<one>", "second": "<two>"}, [{"content": t, **FLAGS} for t in ("<one>", "<two>")]],
)
def test_declared_tokens_are_whole(folder, only_vocab, file, name, tokens):
    if only_vocab:
        (folder / "tokenizer.json").unlink()
    put(folder, file, **{name: tokens})
    tokenizer = ConvBertTokenizerFast.from_pretrained(folder)
    assert tokenizer.tokenize(TEXT) == ["a", "<one>", "ship", "<two>"]
    assert tokenizer.convert_tokens_to_ids(["<one>", "<two>"]) == [8192, 8193]
    assert {"<one>", "<two>"} <= set(tokenizer.all_special_tokens)
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"], skip_special_tokens=True) == "a ship"
    tokenizer.save_pretrained(folder / "again")
    assert ConvBertTokenizerFast.from_pretrained(folder / "again")(TEXT) == tokenizer(TEXT)


def test_declared_tokens_have_the_ids_of_transformers(folder):
    transformers = pytest.importorskip("transformers")
    put(folder, "tokenizer_config.json", additional_special_tokens=["<one>", "[MASK]", "<two>"])
    theirs = transformers.ConvBertTokenizerFast.from_pretrained(folder)
    assert ConvBertTokenizerFast.from_pretrained(folder)(TEXT)["input_ids"] == theirs(TEXT)["input_ids"]


def test_added_tokens_of_old_folders(folder):
    put(folder, "added_tokens.json", **{"<one>": 8192, "<two>": 8193})
    put(folder, "special_tokens_map.json", additional_special_tokens=["<two>", "<three>"])
    tokenizer = ConvBertTokenizerFast.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids(["<one>", "<two>", "<three>"]) == [8192, 8193, 8194]
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"], skip_special_tokens=True) == "a <one> ship"


@pytest.mark.parametrize(
    "entries",
    [
        {"tokenizer_class": "XLNetTokenizer"},
        {"tokenizer_class": "BertJapaneseTokenizer"},
        {"tokenizer_class": "RobertaTokenizerFast"},
        {"tokenizer_class": ["BertTokenizer"]},
        {"do_split_on_punc": False},
        {"split_special_tokens": True},
        {"subword_tokenizer_type": "character"},
        {"word_tokenizer_type": "mecab"},
        {"add_prefix_space": True},
        {"sp_model_kwargs": {"enable_sampling": True}},
    ],
)
@pytest.mark.parametrize("only_vocab", [False, True])
def test_other_algorithms_are_refused_by_name(folder, entries, only_vocab):
    if only_vocab:
        (folder / "tokenizer.json").unlink()
    put(folder, "tokenizer_config.json", **entries)
    with pytest.raises(ValueError, match=f"tokenizer_config.json says {next(iter(entries))}="):
        ConvBertTokenizerFast.from_pretrained(folder)


@pytest.mark.parametrize(
    "entries",
    [
        {"tokenizer_class": name}
        for name in ("BertTokenizer", "ElectraTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend", None)
    ]
    + [{"do_split_on_punc": True, "mecab_kwargs": None, "word_tokenizer_type": "basic", "chat_template": "x"}],
)
def test_the_same_algorithm_under_other_names(folder, entries):
    expected = ConvBertTokenizerFast.from_pretrained(folder)(TEXT)
    put(folder, "tokenizer_config.json", **entries)
    assert ConvBertTokenizerFast.from_pretrained(folder)(TEXT) == expected


def test_another_form_of_inputs_is_refused(folder):
    edit(folder, "tokenizer.json", lambda c: c["post_processor"]["single"].pop())
    with pytest.raises(ValueError, match="tokenizer.json gives inputs another form"):
        ConvBertTokenizerFast.from_pretrained(folder)


def test_no_form_at_all_is_said(folder):
    edit(folder, "tokenizer.json", lambda c: c.update(post_processor=None))
    with pytest.warns(UserWarning, match=r"puts no special tokens around a text; \[CLS\] and \[SEP\] are added"):
        ConvBertTokenizerFast.from_pretrained(folder)


def test_berts_own_form_is_the_same(folder):
    expected = ConvBertTokenizerFast.from_pretrained(folder)(TEXT, TEXT)
    form = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    edit(folder, "tokenizer.json", lambda c: c.update(post_processor=form))
    assert ConvBertTokenizerFast.from_pretrained(folder)(TEXT, TEXT) == expected


def test_longest_words_are_the_files(folder):
    word = "sea" * 40
    assert ConvBertTokenizerFast.from_pretrained(folder).tokenize(word) == ["[UNK]"]
    edit(folder, "tokenizer.json", lambda c: c["model"].update(max_input_chars_per_word=200))
    edit(folder, "tokenizer_config.json", lambda c: c.pop("max_input_chars_per_word"))
    tokenizer = ConvBertTokenizerFast.from_pretrained(folder)
    assert len(tokenizer.tokenize(word)) > 1
    tokenizer.save_pretrained(folder / "again")
    assert ConvBertTokenizerFast.from_pretrained(folder / "again").tokenize(word) == tokenizer.tokenize(word)


@pytest.mark.parametrize(
    ("file", "entries", "said"),
    [
        ("tokenizer_config.json", {"do_lower_case": False}, "do_lower_case=True, tokenizer_config.json False"),
        ("special_tokens_map.json", {"mask_token": "<m>"}, "mask_token='<m>', tokenizer_config.json"),
    ],
)
def test_files_that_contradict_each_other_are_named(folder, file, entries, said):
    put(folder, file, **entries)
    with pytest.warns(UserWarning, match=said):
        ConvBertTokenizerFast.from_pretrained(folder)


@pytest.mark.parametrize("limit", [None, int(1e30), 512, 10**6])
def test_the_models_own_limit_counts(folder, limit):
    put(folder, "tokenizer_config.json", model_max_length=limit)
    edit(folder, "config.json", lambda c: c.update(max_position_embeddings=16))
    tokenizer = ConvBertTokenizerFast.from_pretrained(folder)
    assert len(tokenizer("ship " * 40, truncation=True)["input_ids"]) == tokenizer.model_max_length == 16
    assert ConvBertTokenizerFast.from_pretrained(folder, model_max_length=30).model_max_length == 30


def test_truncation_without_a_limit_is_said_once():
    tokenizer = ConvBertTokenizerFast.from_pretrained(BUNDLED, model_max_length=int(1e30))
    with pytest.warns(UserWarning, match="truncation=True cuts nothing.*max_length="):
        tokenizer("ship " * 40, truncation=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer("ship " * 40, truncation=True)
        tokenizer("ship " * 40, truncation=True, max_length=8)


@pytest.mark.parametrize("only_vocab", [False, True])
@pytest.mark.parametrize("file", ["special_tokens_map.json", "tokenizer_config.json"])
@pytest.mark.parametrize("token", ["<one>", {"content": "<one>", **FLAGS}])
@pytest.mark.parametrize("name", ["bos_token", "eos_token", "image_token"])
def test_tokens_of_other_names_are_whole(folder, only_vocab, file, token, name):
    if only_vocab:
        (folder / "tokenizer.json").unlink()
    put(folder, file, **{name: token, "pad_token": "[PAD]", "add_bos_token": False})
    assert ConvBertTokenizerFast.from_pretrained(folder).tokenize("a <one>") == ["a", "<one>"]


def test_a_list_in_the_configuration_wins_as_in_transformers(folder):
    transformers = pytest.importorskip("transformers")
    put(folder, "special_tokens_map.json", additional_special_tokens=["<one>"])
    put(folder, "tokenizer_config.json", additional_special_tokens=["<two>"])
    theirs = transformers.ConvBertTokenizerFast.from_pretrained(folder)
    assert ConvBertTokenizerFast.from_pretrained(folder)(TEXT)["input_ids"] == theirs(TEXT)["input_ids"]


@pytest.mark.parametrize("entries", [{"added_tokens_decoder": {"8192": {"content": "<unk>"}}}, {}])
def test_an_unknown_token_must_be_a_piece(folder, entries):
    put(folder, "tokenizer_config.json", unk_token="<unk>", **entries)
    with pytest.raises(ValueError, match="unk_token='<unk>' is not in the vocabulary"):
        ConvBertTokenizerFast.from_pretrained(folder)
    tokenizer = ConvBertTokenizerFast.from_pretrained(BUNDLED)
    with pytest.raises(ValueError, match="unk_token='<unk>' must be in the vocabulary itself"):
        tokenizer.add_special_tokens({"unk_token": "<unk>"})


@pytest.mark.parametrize("tokens", ["<one>", ["<one>"], {"image_token": "<one>"}])
@pytest.mark.parametrize("name", ["additional_special_tokens", "extra_special_tokens"])
def test_special_tokens_may_be_given_in_any_form(tokens, name):
    tokenizer = ConvBertTokenizerFast.from_pretrained(BUNDLED)
    assert tokenizer.add_special_tokens({name: tokens}) == 1 and tokenizer.tokenize("cat<one>")[-1] == "<one>"
    again = ConvBertTokenizerFast.from_pretrained(BUNDLED, **{name: tokens})
    assert again.tokenize("cat<one>") == tokenizer.tokenize("cat<one>")
    with pytest.raises(TypeError, match="special tokens need their names"):
        tokenizer.add_special_tokens(["<two>"])
