"""Token classification: equal to transformers, whole long texts, exact places, one label per word."""

import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convbert import AlbertConfig, AlbertForTokenClassification, AlbertTokenizerFast, pipeline
from convbert.families.convbert import ConvBertConfig
from convbert.modeling import ConvBertForTokenClassification
from convbert.pipelines.aggregation import STRATEGIES
from convbert.pipelines.batches import EncodedInput
from convbert.pipelines.preprocessing import plan_windows
from convbert.pipelines.tag_schemes import entity_ranges, split_tag, to_bio
from convbert.pipelines.token_classification import TokenClassificationPipeline
from convbert.pipelines.token_inputs import WindowSpan, own_scores

BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-creative-work", "I-creative-work"]
THEIRS = [strategy for strategy in STRATEGIES if strategy != "words"]
PLAIN = ["NOUN", "VERB", "PUNCT", "O"]
TEXTS = [
    "Zoë Müller's café in São Paulo opened on 3.10.2021, didn't it?",
    "Internationalization of straightforward counterrevolutionaries: O'Neill-Smith e-mailed j.doe@example.com!",
    "First line,\r\nsecond line\twith tabs\u00a0and\u3000wide spaces.\n\n\nEnd",
    "I ❤ 👩‍👩‍👧‍👦 and 🇩🇪 and 👋🏽 (so much)...",
    "字节跳动 is 北京. مرحبا بالعالم Привет, мир",
    "An unknown ☃ sign, 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 letters and “curly” – quotes…",
    "The [MASK] and the [SEP] stand in [UNK] text; ##ing too.",
    "x" * 150 + " is one long word",
    ".",
    "",
    "   ",
]
LETTERS = "aBé한ß字.'- \r\n\t\u0301\u200d\u00ad\ufe0f\u302e\u0bca\ud800\x00İ👩🏽🇩ﬁ#[]"
HOSTILE = st.text(st.sampled_from(LETTERS), max_size=40)


def make_model(labels, seed=0, limit=512, spread=30.0):
    torch.manual_seed(seed)
    sizes = dict(num_hidden_layers=2, hidden_size=32, embedding_size=16, intermediate_size=32, num_attention_heads=4)
    config = ConvBertConfig.preset("tiny", **sizes, id2label=dict(enumerate(labels)), max_position_embeddings=limit)
    model = ConvBertForTokenClassification(config)
    with torch.no_grad():  # so that labels change from token to token and scores are far apart
        for name, parameter in model.named_parameters():
            if "embeddings.word" in name or "classifier" in name:
                parameter.mul_(spread)
    return model.eval()


@pytest.fixture(scope="module")
def tag(tokenizer):
    return TokenClassificationPipeline(make_model(BIO), tokenizer)


def open_theirs(ours, folder):
    transformers = pytest.importorskip("transformers")
    ours.model.save_pretrained(folder)
    ours.tokenizer.save_pretrained(folder)
    return transformers.pipeline("token-classification", str(folder), device="cpu")


@pytest.fixture(scope="module", params=[BIO, PLAIN], ids=["BIO", "plain"])  # theirs reads no other scheme
def pair(request, tokenizer, tmp_path_factory):
    ours = TokenClassificationPipeline(make_model(request.param, seed=3), tokenizer)
    return ours, open_theirs(ours, tmp_path_factory.mktemp("model"))


def assert_same(got, expected):
    assert [list(row) for row in got] == [list(row) for row in expected]  # the same keys in the same order
    places = [{name: value for name, value in row.items() if name != "score"} for row in got]
    assert places == [{name: value for name, value in row.items() if name != "score"} for row in expected]
    assert [row["score"] for row in got] == pytest.approx([float(row["score"]) for row in expected], abs=1e-5)


@pytest.mark.parametrize("strategy", THEIRS)
@pytest.mark.parametrize("ignored", [("O",), (), ("PER", "B-LOC", "NOUN")], ids=["O", "nothing", "names"])
def test_answers_equal_transformers(pair, strategy, ignored):
    ours, theirs = pair
    answers = ours(TEXTS, aggregation_strategy=strategy, ignore_labels=ignored)
    for text, got in zip(TEXTS, answers, strict=True):
        assert_same(got, theirs(text, aggregation_strategy=strategy, ignore_labels=list(ignored)))
    if ignored == ():
        key = "entity" if strategy == "none" else "entity_group"
        kinds = {row[key] for rows in answers for row in rows}
        assert len(kinds) >= 3  # the model's answers vary


@pytest.mark.parametrize("strategy", THEIRS)
def test_answers_equal_transformers_on_real_text(pair, strategy, shared_data):
    ours, theirs = pair
    lines = (shared_data / "tasks" / "wnut17" / "dev.jsonl").read_text("utf-8").splitlines()[:24]
    texts = [" ".join(json.loads(line)["tokens"]) for line in lines]
    lines = (shared_data / "tasks" / "squad" / "dev.jsonl").read_text("utf-8").splitlines()[:100:25]
    texts += [json.loads(line)["context"] for line in lines]
    usual = [text for text in texts if not hidden_characters(text)]
    assert len(usual) > 20
    for text, got in zip(usual, ours(usual, aggregation_strategy=strategy), strict=True):
        assert_same(got, theirs(text, aggregation_strategy=strategy))


def hidden_characters(text):
    """Whether a character of this text is dropped by the tokenizer within a word, where transformers errs."""
    return any(c in "\u200b\u200d\u00ad\ufe0f" or "\u0300" <= c <= "\u036f" for c in text)


@pytest.mark.parametrize("strategy", THEIRS)
def test_split_words_equal_transformers_where_words_have_no_points(pair, strategy):
    ours, theirs = pair
    words = ["Zoë", "internationalizes", "São", "Paulo", "☃", "👩‍👩‍👧", "lives"]
    how = dict(aggregation_strategy=strategy, is_split_into_words=True, ignore_labels=[])
    expected = theirs(words, **how)
    assert_same(ours(words, **how), expected[0] if isinstance(expected[0], list) else expected)


def test_a_word_with_a_hidden_character_is_a_word(tag):
    for hidden in ("co\u00adoperative", "e\u0301tude", "no\u200dw"):
        text = f"the {hidden} works"
        rows = tag(text, aggregation_strategy="first", ignore_labels=())
        borders = {row["start"] for row in rows} | {row["end"] for row in rows}
        assert borders <= {0, 3, 4, 4 + len(hidden), 5 + len(hidden), len(text)}, rows


def test_a_label_with_a_hyphen_keeps_its_name(tokenizer):
    tag = TokenClassificationPipeline(make_model(["creative-work", "O"]), tokenizer)
    assert {r["entity_group"] for r in tag(TEXTS[0], aggregation_strategy="simple")} == {"creative-work"}


@settings(deadline=None)
@given(st.integers(0, 500), st.integers(1, 40), st.data())
def test_rows_cover_a_text_and_every_token_is_scored_where_it_sees_most(count, room, data):
    stride = data.draw(st.integers(0, room - 1))
    rows = plan_windows(count, room, stride)
    assert [i for _, _, low, high in rows for i in range(low, high)] == list(range(count))
    for (start, stop, *_), (after, *_) in zip(rows, rows[1:], strict=False):
        assert stop - start == room and start < after and stop - after >= stride

    def depth(i, start, stop):  # tokens to the nearest border that cuts the text
        return min(i - start if start else count, stop - 1 - i if stop < count else count)

    for start, stop, low, high in rows:
        for i in range(low, high):
            assert start <= i < stop <= count
            assert depth(i, start, stop) == max(depth(i, a, b) for a, b, *_ in rows if a <= i < b)


@settings(deadline=None, max_examples=150)
@given(st.lists(HOSTILE, min_size=1, max_size=4), st.sampled_from(STRATEGIES))
def test_places_are_places_in_the_text(tag, texts, strategy):
    for text, rows in zip(texts, tag(texts, aggregation_strategy=strategy, ignore_labels=()), strict=True):
        assert json.loads(json.dumps(rows)) == rows
        at = 0
        for row in rows:
            assert 0 <= row["start"] < row["end"] <= len(text)
            assert {type(row["start"]), type(row["end"]), type(row["score"])} == {int, float}
            assert 0 < row["score"] <= 1
            if strategy != "none":
                assert row["start"] >= at
            at = row["end"]
        if strategy not in ("none", "simple"):  # no border within a run of letters
            for row in rows:
                for i in (row["start"], row["end"]):
                    assert not text[max(0, i - 1) : i + 1].encode("ascii", "replace").isalpha() or i in (0, len(text))
        rows._repr_html_().encode()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(HOSTILE, max_size=6), min_size=1, max_size=3))
def test_places_of_split_words(tag, sentences):
    assert sum(map(len, sentences)) == sum(map(len, tag.tag_words(sentences)))
    found = tag([{"tokens": words} for words in sentences], aggregation_strategy="first", ignore_labels=())
    for words, rows in zip(sentences, found, strict=True):
        text, at = " ".join(words), 0
        assert len(rows) <= len(words)
        for row in rows:
            assert at <= row["start"] < row["end"] <= len(text)
            at = row["end"]


def test_where_a_name_stands(tag):
    text = "Ünïcödé\r\n👩‍👩‍👧 naïve cafe\u0301, 北京!"
    found = [text[row["start"] : row["end"]] for row in tag(text, aggregation_strategy="none", ignore_labels=())]
    assert "".join(found) == "Ünïcödé👩‍👩‍👧naïvecafe,北京!"


def test_every_word_has_one_label(tag):
    words = ["\u200b", "Straightforwardness", "", "isn't", "\ufe0f", "\ud800", "👩‍👩‍👧", "[SEP]", "U.S.", " ", "a b"]
    labels = tag.tag_words(words)
    assert len(labels) == len(words) and set(labels) <= set(BIO)
    assert [labels[i] for i in (0, 2, 4, 5, 9)] == ["O"] * 5
    assert tag.tag_words([words, ["one"], []]) == [labels, tag.tag_words(["one"]), []]
    assert type(tag.tag_words([words])[0]) is list


def test_the_label_of_a_word_is_that_of_its_first_token(tag):
    words = ["Straightforwardness", "isn't", "internationalization", "."]
    encoded = tag.tokenizer(words, is_split_into_words=True, return_tensors="pt")
    with torch.inference_mode():
        best = tag.model(**encoded).logits[0].argmax(-1).tolist()
    first = [encoded.word_ids().index(i) for i in range(len(words))]
    assert tag.tag_words(words) == [BIO[best[i]] for i in first]


def test_words_without_a_token_take_a_neighbours_label_where_there_is_no_outside(tokenizer):
    tag = TokenClassificationPipeline(make_model(["NOUN", "VERB", "ADJ"]), tokenizer)
    before, after = tag.tag_words(["fine", "\u200b"]), tag.tag_words(["\u200b", "fine"])
    assert before[0] == before[1] and after[0] == after[1]
    assert tag.tag_words(["\u200b"]) == ["NOUN"]


def test_a_long_text_is_read_whole_and_scored_in_the_deepest_row(tokenizer):
    tag = TokenClassificationPipeline(make_model(BIO, limit=34), tokenizer)
    text = " ".join(f"{word} number {i}." for i, word in enumerate(TEXTS[1].split() * 8))
    rows = tag(text, aggregation_strategy="none", ignore_labels=(), stride=12)
    ids = tokenizer(text, verbose=False)["input_ids"]
    assert [row["index"] for row in rows] == list(range(1, len(ids) - 1))
    assert text.replace(" ", "") == "".join(text[row["start"] : row["end"]] for row in rows)
    for start, stop, low, high in plan_windows(len(ids) - 2, 32, 12):
        own = torch.tensor([[ids[0], *ids[1 + start : 1 + stop], ids[-1]]])
        with torch.inference_mode():
            best = tag.model(own).logits[0].softmax(-1).max(-1)
        for i in range(low, high):
            assert rows[i]["entity"] == BIO[best.indices[1 + i - start]]
            assert rows[i]["score"] == pytest.approx(best.values[1 + i - start].item(), abs=1e-5)
    words = text.split()
    assert len(tag.tag_words(words, stride=12)) == len(words)
    assert len(tag.tag_words(words)) == len(words)


@pytest.mark.parametrize("limits", [dict(batch_size=1), dict(batch_size=2), dict(batch_tokens=30), {}])
def test_how_texts_are_batched_does_not_matter(tag, limits):
    texts = [*TEXTS, "and " * 700, *TEXTS[::-1]]
    for strategy in ("none", "average"):
        together = tag(texts, aggregation_strategy=strategy, **limits)
        for text, got in zip(texts, together, strict=True):
            assert_same(got, tag(text, aggregation_strategy=strategy))


def test_a_stream_gives_an_error_in_the_place_of_what_is_no_text(tag):
    stream = iter([TEXTS[0], None, {"tokens": ["Ada", 3]}, {"text": TEXTS[0]}, "word " * 600])
    with pytest.warns(UserWarning, match="2 inputs could not be answered"):
        results = list(tag(stream, aggregation_strategy="first"))
    for result in (results[0], results[3]):
        assert_same(result, tag(TEXTS[0], aggregation_strategy="first"))
    assert "must be text" in results[1]["error"] and "word 1" in results[2]["error"]
    assert isinstance(results[4], list)


@pytest.mark.slow
def test_a_megabyte_is_read(tokenizer):
    tag = TokenClassificationPipeline(make_model(BIO), tokenizer)
    text = "The ship sailed from Hamburg to New York on a fine day. " * 18725
    assert len(text) > 10**6
    rows = tag(text, aggregation_strategy="first", ignore_labels=())
    assert rows[0]["start"] == 0 and rows[-1]["end"] == len(text) - 1
    assert all(a["end"] <= b["start"] for a, b in zip(rows, rows[1:], strict=False))


def test_of_a_row_only_its_own_scores_are_kept():
    row = EncodedInput([0] * 9, metadata=WindowSpan(None, 2, 5))
    kept = own_scores(np.arange(40.0).reshape(20, 2), row)
    assert kept.tolist() == [[4, 5], [6, 7], [8, 9]]
    assert kept.base is None  # the batch that they were in is free


def test_one_result_per_input(tag):
    one = tag(TEXTS[0])
    assert tag([TEXTS[0]]) == [one] and tag({"text": TEXTS[0]}) == one and list(tag(iter([TEXTS[0]]))) == [one]
    words = TEXTS[0].split()
    split = tag(words, is_split_into_words=True)
    assert tag([words], is_split_into_words=True) == [split] == tag([{"tokens": words}])
    assert split.text == TEXTS[0] and one.text == TEXTS[0]
    assert "<mark" in tag([TEXTS[0], ""])._repr_html_()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda f: f([]), ValueError, "list of inputs is empty"),
        (lambda f: f(None), TypeError, "NoneType"),
        (lambda f: f(["a", 3]), TypeError, "inputs[1]"),
        (lambda f: f([["a", "b"]]), TypeError, "is_split_into_words=True"),
        (lambda f: f("a", is_split_into_words=True), TypeError, "expected a list of words, got str"),
        (lambda f: f({"txt": "a"}), ValueError, "expected the key 'text' or 'tokens', got 'txt'"),
        (lambda f: f("a", aggregation_strategy="averge"), ValueError, "Did you mean 'average'"),
        (lambda f: f("a", aggregation_strategy=3), ValueError, "aggregation_strategy=3 is unknown"),
        (lambda f: f("a", stride=510), ValueError, "stride=510"),
        (lambda f: f("a", stride=-1), ValueError, "stride=-1"),
        (lambda f: f("a", batch_size=0), ValueError, "batch_size=0"),
        (lambda f: f.tag_words(["a", 3]), TypeError, "inputs[0]: expected a list of words, got str"),
        (lambda f: f.tag_words([["a", 3]]), TypeError, "word 1"),
        (lambda f: f.tag_words("a b"), TypeError, "expected a list of words"),
    ],
)
def test_bad_input_is_named(tag, call, error, words):
    with pytest.raises(error) as caught:
        call(tag)
    assert words in str(caught.value)


# -- schemes of tags

SPANS = st.lists(st.tuples(st.sampled_from(["PER", "O", "creative-work", None]), st.integers(1, 4)), max_size=8)
PLACED = {"BIOES": "BIES", "BILOU": "BILU", "BMEOW": "BMEW"}


def write_tags(spans, scheme):
    """The tags of entities, one after another; None stands for words outside."""
    tags, before = [], None
    for name, size in spans:
        if name is None:
            tags += ["O"] * size
        elif scheme == "BIO":
            tags += [f"B-{name}", *[f"I-{name}"] * (size - 1)]
        elif scheme == "IOB1":
            tags += [f"{'B' if before == name else 'I'}-{name}", *[f"I-{name}"] * (size - 1)]
        else:
            begin, inside, end, alone = PLACED[scheme]
            tags += [f"{alone}-{name}"] if size == 1 else [
                f"{begin}-{name}", *[f"{inside}-{name}"] * (size - 2), f"{end}-{name}"
            ]  # fmt: skip
        before = name
    return tags


@settings(deadline=None, max_examples=200)
@given(SPANS, st.sampled_from(["BIO", "IOB1", *PLACED]))
def test_entities_come_back_from_any_scheme(spans, scheme):
    tags, at, expected = write_tags(spans, scheme), 0, []
    for name, size in spans:
        expected += [(name, range(at, at + size))] if name else []
        at += size
    found = [(split_tag(tags[run[0]])[1], run) for run in entity_ranges(tags)]
    assert [(name, run) for name, run in found if tags[run[0]] != "O"] == expected
    assert to_bio(tags) == write_tags(spans, "BIO")


@settings(deadline=None, max_examples=50)
@given(SPANS, SPANS, st.sampled_from(list(PLACED)))
def test_the_score_of_entities_reads_the_same(first, second, scheme):
    metrics = pytest.importorskip("convbert.training.metrics")
    pytest.importorskip("seqeval")
    rows = [[write_tags(spans, kind) for spans in (first, second)] for kind in (scheme, "BIO")]
    size = min(map(len, rows[0]))
    scores = [metrics.entity_f1([to_bio(a)[:size]], [to_bio(b)[:size]]) for a, b in rows]
    assert scores[0] == scores[1]
    assert metrics.entity_f1([rows[0][0]], [rows[0][0]]) == float(any(name for name, _ in first))


def test_a_tagger_with_another_scheme(tag):
    """Six words, of which the first two are a person, and the next two one each."""
    labels = ["B-PER", "E-PER", "S-PER", "S-PER", "O", "U-LOC"]
    config = tag.model.config.replace(id2label=dict(enumerate(labels)))

    class Teller(torch.nn.Module):
        """Says the labels in their order."""

        device = torch.device("cpu")

        def __init__(self):
            super().__init__()
            self.config = config

        def forward(self, input_ids, **inputs):
            place = torch.arange(input_ids.shape[1]) - 1
            logits = (place[:, None] == torch.arange(6)).float() * 9
            return type("Output", (), {"logits": logits.expand(len(input_ids), -1, -1)})

    find = TokenClassificationPipeline(Teller(), tag.tokenizer)
    rows = find({"tokens": ["the", "man", "of", "a", "new", "city"]}, aggregation_strategy="first")
    assert [(row["entity_group"], row["word"]) for row in rows] == [
        ("PER", "the man"), ("PER", "of"), ("PER", "a"), ("LOC", "city")
    ]  # fmt: skip


# -- what a model tags


@pytest.fixture(scope="module")
def words_of(tokenizer):
    """A call that gives one row per word, of a model whose config says that it tags words."""
    model = make_model(["NOUN", "VERB", "PUNCT"])
    model.config = model.config.replace(tagging="words")
    return TokenClassificationPipeline(model, tokenizer)


def shown(rows):
    return [row["word"] for row in rows]


def test_the_bundled_tagger_gives_one_row_per_word():
    rows = pipeline("token-classification", device="cpu")("She drove the zookeeper home.")
    assert [(row["word"], row["entity"]) for row in rows] == [
        ("She", "PRON"), ("drove", "VERB"), ("the", "DET"), ("zookeeper", "NOUN"), ("home", "ADV"), (".", "PUNCT")
    ]  # fmt: skip


def test_neighbours_with_one_tag_stay_apart(words_of):
    model = words_of.model
    alike = TokenClassificationPipeline(make_model(["NOUN"]), words_of.tokenizer, aggregation_strategy="words")
    assert shown(alike("three straightforward zookeepers")) == ["three", "straightforward", "zookeepers"]
    assert shown(alike("three zookeepers", aggregation_strategy="first")) == ["three zookeepers"]
    assert model.config.to_dict()["tagging"] == "words"


def test_a_word_has_the_label_and_the_score_of_its_first_token(words_of):
    text = "Internationalization of straightforward zookeepers"
    tokens = {row["start"]: row for row in words_of(text, aggregation_strategy="none")}
    for row in words_of(text):
        first = tokens[row["start"]]
        assert list(row) == list(first) and row["index"] == first["index"]
        assert (row["entity"], row["score"]) == (first["entity"], pytest.approx(first["score"], abs=1e-6))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("She doesn't know O’Brien's dog.", ["She", "doesn't", "know", "O’Brien's", "dog", "."]),
        ("In the U.S. 3.5 of 10,000 do, e.g. Ann.", "In|the|U.S|.|3.5|of|10,000|do|,|e.g|.|Ann|.".split("|")),
        ("He left.She 'stayed' well-known", "He|left|.|She|'|stayed|'|well|-|known".split("|")),
        ("北京 is far", ["北", "京", "is", "far"]),
        ("a co\u00adoperative e\u0301tude", ["a", "co\u00adoperative", "e\u0301tude"]),
    ],
)
def test_what_a_word_is(words_of, text, words):
    assert shown(words_of(text)) == words


def test_words_that_are_given_stay_whole(words_of):
    words = ["I", "do", "n't", "e-mail", "U.S.", "zookeepers"]
    assert shown(words_of(words, is_split_into_words=True)) == words
    assert [row["entity"] for row in words_of(words, is_split_into_words=True)] == words_of.tag_words(words)


def test_sentencepiece_knows_punctuation_too():
    tokenizer = AlbertTokenizerFast.train(["She doesn't know the city. (The U.S. is large.)"] * 9, vocab_size=60)
    sizes = dict(num_hidden_layers=1, hidden_size=8, embedding_size=8, intermediate_size=8, num_attention_heads=2)
    config = AlbertConfig(vocab_size=len(tokenizer), id2label={0: "X"}, tagging="words", **sizes)
    tag = TokenClassificationPipeline(AlbertForTokenClassification(config), tokenizer)
    assert shown(tag("She doesn't know (the city).")) == ["She", "doesn't", "know", "(", "the", "city", ")", "."]
    assert shown(tag(["U.S.", "(the)"], is_split_into_words=True)) == ["U.S.", "(the)"]


@pytest.mark.parametrize(
    ("labels", "tagging", "key"),
    [
        (BIO, None, "entity_group"),
        (["PER", "LOC", "O"], None, "entity_group"),
        (["NOUN", "VERB"], None, "index"),
        (["NOUN", "VERB"], "words", "index"),
        (["NOUN", "VERB"], "entities", "entity_group"),
        (BIO, "words", "index"),
    ],
)
def test_the_default_follows_from_the_model_and_an_explicit_strategy_wins(tokenizer, labels, tagging, key):
    model = make_model(labels)
    model.config = model.config.replace(**({"tagging": tagging} if tagging else {}))
    tag = TokenClassificationPipeline(model, tokenizer)
    rows = tag("Straightforward zookeepers", ignore_labels=())
    assert rows and key in rows[0]
    assert (len(rows) > 2) == (tagging is None and labels == ["NOUN", "VERB"])  # tokens, where nothing is known
    for strategy in ("none", "average"):
        explicit = tag("Straightforward zookeepers", ignore_labels=(), aggregation_strategy=strategy)
        made = TokenClassificationPipeline(model, tokenizer, aggregation_strategy=strategy)
        assert explicit == made("Straightforward zookeepers", ignore_labels=())
        assert ("entity_group" in explicit[0]) == (strategy == "average")


def test_what_a_model_tags_survives_its_folder(words_of, tmp_path):
    words_of.model.save_pretrained(tmp_path)
    words_of.tokenizer.save_pretrained(tmp_path)
    again = pipeline("token-classification", tmp_path, device="cpu")
    assert again("Straightforward zookeepers") == words_of("Straightforward zookeepers")
    assert len(again("Straightforward zookeepers")) == 2


def test_a_config_that_says_what_no_model_tags_is_refused(tokenizer):
    model = make_model(["NOUN", "VERB"])
    model.config = model.config.replace(tagging="word")
    with pytest.raises(ValueError, match="tagging='word'.*Did you mean 'words'"):
        TokenClassificationPipeline(model, tokenizer)


def test_a_notebook_shows_every_word_with_its_tag(words_of):
    html = words_of("<b>Straightforward</b> zookeepers")._repr_html_()
    assert html.count("<mark") == len(words_of("<b>Straightforward</b> zookeepers"))
    assert "<b>" not in html and "&lt;" in html


def test_a_tag_has_one_colour_in_all_texts(words_of):
    rows = [words_of(text)._repr_html_() for text in ("zookeepers", "Straightforward zookeepers drove, home")]
    colours = [
        {tag: style for style, tag in re.findall(r"<mark style='([^']*)'>.*?>(\w+)</small>", html)} for html in rows
    ]
    assert all(colours[1].get(tag, style) == style for tag, style in colours[0].items())
    assert len(set(colours[1].values())) == len(colours[1]) > 1


@settings(deadline=None, max_examples=150)
@given(HOSTILE)
def test_words_cover_the_tokens_once(words_of, text):
    rows = words_of(text, ignore_labels=())
    tokens = words_of(text, ignore_labels=(), aggregation_strategy="none")
    assert all(a["end"] <= b["start"] for a, b in zip(rows, rows[1:], strict=False))
    assert {row["start"] for row in rows} <= {row["start"] for row in tokens}
    assert all(any(row["start"] <= t["start"] and t["end"] <= row["end"] for row in rows) for t in tokens)
    assert [rows.text[row["start"] : row["end"]] for row in rows] == shown(rows)
