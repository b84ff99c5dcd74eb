"""The live boxes of the site: their tokenizer in Node, their answers and themselves in a browser without a network."""

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path

import live
import numpy as np
import pytest
import readme
from conftest import ROOT
from hypothesis import given
from page_checks import CONTRAST, TOO_FAINT, TOO_WIDE, serving

from convbert import pipeline

SOURCE = ROOT / "nbs" / "live"
TEXTS = [json.loads(line)["text"] for line in (ROOT / "nbs/tutorials/data/subjects-dev.jsonl").open(encoding="utf-8")]
MASK = "He knocked at the [MASK] and waited for an answer."
LIGHTHOUSE = (
    "The lighthouse was built in 1854 by a Scottish engineer named Robert Gray, after three ships had been lost on the "
    "rocks in one winter. It stands on the north side of the bay."
)
QUESTIONS = "Who built the lighthouse?", "When was it built?", "How many ships were lost?", "Where does it stand?"


# -- the tokenizer, in Node

NODE = """
import { createInterface } from "node:readline";
const { WordPiece } = await import(process.argv[2]);
let tokenizer;
for await (const line of createInterface({ input: process.stdin })) {
  const { file, text, pair } = JSON.parse(line);
  try {
    if (file) tokenizer = new WordPiece(file);
    const { ids, types, tokens } = tokenizer.encode(text ?? "", pair ?? undefined);
    const spans = tokens.map((token) => [token.start, token.end]);
    console.log(JSON.stringify({ ids, types, spans, words: tokens.map((token) => token.word) }));
  } catch (error) {
    console.log(JSON.stringify({ error: error.message }));
  }
}
"""


class Node:
    """A process of Node that encodes texts, a line each."""

    def __init__(self, folder: Path):
        for file in SOURCE.glob("*.js"):
            shutil.copy(file, folder)
        (folder / "package.json").write_text('{"type": "module"}')
        (folder / "encode.js").write_text(NODE)
        command = ["node", folder / "encode.js", folder / "wordpiece.js"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **question) -> dict:
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    if not shutil.which("node"):
        pytest.skip("no node on this machine: https://nodejs.org")
    made = Node(tmp_path_factory.mktemp("node"))
    yield made
    made.process.kill()
    made.process.wait()


def tokenizer_file(tokenizer, folder):
    tokenizer.save_pretrained(folder)
    return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))


def in_characters(text, spans):
    """Places in UTF-16, as JavaScript counts, as Python counts."""
    places = [0]
    for at, character in enumerate(text):
        places += [at + 1] * (1 + (ord(character) > 0xFFFF))
    return [(places[start], places[end]) for start, end in spans]


def well_formed(text):
    """Pairs of surrogates as the character that they are, and halves of them as U+FFFD: so JavaScript reads JSON."""
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in joined)


def assert_same_tokens(node, tokenizer, text, pair=None):
    """JavaScript and Python encode a text, or a pair, in the same way."""
    found, wanted = node.ask(text=text, pair=pair), tokenizer(text, pair, return_offsets_mapping=True)
    assert found["ids"] == wanted["input_ids"], (text, pair)
    assert found["types"] == wanted["token_type_ids"]
    last, part = (text, 0) if pair is None else (pair, 1)
    own = [i for i, sequence in enumerate(wanted.sequence_ids()) if sequence == part]
    assert in_characters(last, found["spans"]) == [tuple(wanted["offset_mapping"][i]) for i in own]
    words = [wanted.word_ids()[i] for i in own]
    assert [a == b for a, b in zip(words, words[1:], strict=False)] == [
        a == b for a, b in zip(found["words"], found["words"][1:], strict=False)
    ]


@pytest.mark.long
@pytest.mark.slow
def test_javascript_encodes_hostile_text_as_python_does(node, tmp_path):
    hostile = pytest.importorskip("test_tokenization")
    texts = hostile.hostile.map(well_formed)

    @hostile.quick
    @given(text=texts, pair=hostile.st.none() | texts)
    def same(tokenizer, text, pair):
        assert_same_tokens(node, tokenizer, text, pair)

    for at, key in enumerate(hostile.MATRIX):
        options = dict(zip(("do_lower_case", "strip_accents", "tokenize_chinese_chars"), key, strict=True))
        tokenizer = hostile.ConvBertTokenizer(hostile.VOCAB, **options)
        node.ask(file=tokenizer_file(tokenizer, tmp_path / str(at)))
        for text in hostile.TEXTS:
            assert_same_tokens(node, tokenizer, text)
        same(tokenizer)


def test_half_a_surrogate_pair_counts_as_one_character(node, tokenizer, tmp_path):
    node.ask(file=tokenizer_file(tokenizer, tmp_path))
    text = "ab\ud83d c\udc00d ship"
    found = node.ask(text=text)
    assert found["ids"] == tokenizer(text)["input_ids"]
    start, end = found["spans"][-1]
    assert text[start:end] == "ship"


@pytest.mark.long
@pytest.mark.slow
def test_every_character_has_the_category_that_it_has_in_python(node, tmp_path):
    """Between two letters it is dropped, split off, a space, an accent or a letter."""
    from convbert import ConvBertTokenizer

    tokenizer = ConvBertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##b"])
    node.ask(file=tokenizer_file(tokenizer, tmp_path))
    codes = [code for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
    for start in range(0, len(codes), 50_000):
        text = " ".join(f"a{chr(code)}b" for code in codes[start : start + 50_000])
        found, wanted = node.ask(text=text), tokenizer(text, return_offsets_mapping=True, verbose=False)
        assert in_characters(text, found["spans"]) == wanted["offset_mapping"][1:-1]
        assert found["ids"] == wanted["input_ids"]


def test_a_tokenizer_that_is_not_berts_is_refused(node):
    file = {"model": {"type": "Unigram"}, "added_tokens": []}
    assert "a tokenizer of Unigram" in node.ask(file=file)["error"]


# -- the models, in a browser


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The boxes' files with what tools/live.py builds, in a folder."""
    folder = tmp_path_factory.mktemp("site")
    for file in SOURCE.iterdir():
        if file.is_file():
            (folder / "live").mkdir(exist_ok=True)
            shutil.copy(file, folder / "live")
    shutil.copytree(ROOT / "nbs" / "images", folder / "images")
    shutil.copy(ROOT / "nbs" / "styles.css", folder)
    if os.environ.get("CONVBERT_LIVE"):  # a build that is there already
        shutil.copytree(os.environ["CONVBERT_LIVE"], folder / "live" / "build")
        return folder
    try:
        live.write_build(folder / "live" / "build")
    except (FileNotFoundError, subprocess.SubprocessError) as error:
        pytest.skip(f"npm cannot bring onnxruntime-web: {error}")
    return folder


@pytest.fixture(scope="module")
def folders(site):
    """The exported models, as Python reads them."""
    build = site / "live" / "build" / "models"
    for file in build.rglob("*.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
    return build


@pytest.fixture(scope="module")
def address(site):
    with serving(site) as found:
        yield found


HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,"><link rel="stylesheet" href="styles.css"><title>test</title>"""


@pytest.fixture
def visit(chromium, site, address):
    """`visit(html)`: a page of the static server; requests to anywhere else and errors on the console fail the test.

    `failing` names files about which there are such errors.
    """
    contexts, wrong, expected = [], [], []

    def open_page(body, init="", dark=False, failing=(), **options):
        def hear(message):
            if message.type in ("error", "warning"):
                wrong.append(f"{message.text} {message.location['url']}")

        expected.extend(failing)
        scheme = "dark" if dark else "light"
        text = f"{HEAD}<body class=quarto-{scheme}><main>{body}</main></body></html>"
        (site / "page.html").write_text(text, encoding="utf-8")
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        page.add_init_script(init)
        page.route(lambda url: not url.startswith((address, "blob:", "data:")), lambda route: route.abort())
        page.on("requestfailed", lambda request: wrong.append(request.url))
        page.on("console", hear)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{address}page.html")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not [what for what in wrong if not what.endswith(tuple(expected))]


RUN = """async ([task, inputs, wanted = task]) => {
  const { loadModel } = await import("/live/model.js");
  const answers = await import("/live/answers.js");
  const model = await loadModel(task);
  const found = [];
  for (const texts of inputs) {
    const { encoded, outputs } = await model.run(...texts);
    const text = texts.at(-1);
    found.push({
      "fill-mask": () => answers.fillMask(encoded, outputs, model.tokenizer),
      sentiment: () => answers.classify(outputs, model.config),
      tagging: () => answers.tag(text, encoded, outputs, model.config),
      "question-answering": () => answers.answerQuestion(text, encoded, outputs),
      maps: () => [answers.headMap(outputs.attentions, 1, 2), answers.headMap(outputs.conv_kernels, 3, 1)]
        .map((map) => map.map((row) => Array.from(row))),
    }[wanted]());
  }
  return found;
}"""


def masked(text, at):
    words = text.split()
    words[at % (len(words) - 1)] = "[MASK]"
    return " ".join(words)


def close(found, wanted, name, tolerance):
    """The same names in the same places, with scores as close as that; ties may change places."""
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=tolerance)
        tied = [row[name] for row in wanted if abs(row["score"] - ours["score"]) < tolerance]
        assert ours[name] in tied


@pytest.mark.long
@pytest.mark.slow
def test_the_browser_fills_masks_as_python_does(visit, folders):
    texts = [masked(text, at) for at, text in enumerate(TEXTS[:50])]
    found = visit("").evaluate(RUN, ["fill-mask", [[text] for text in texts]])
    for rows, wanted in zip(found, pipeline("fill-mask", folders / "fill-mask")(texts), strict=True):
        renamed = [{"label": row["token_str"], "score": row["score"]} for row in wanted]
        close(rows[0], renamed, "label", 1e-3)


@pytest.mark.long
@pytest.mark.slow
def test_the_browser_labels_texts_as_python_does(visit, folders):
    found = visit("").evaluate(RUN, ["sentiment", [[text] for text in TEXTS[:50]]])
    wanted = pipeline("text-classification", folders / "sentiment")(TEXTS[:50], top_k=None)
    for rows, expected in zip(found, wanted, strict=True):
        close(rows, expected, "label", 1e-3)


@pytest.mark.long
@pytest.mark.slow
def test_the_browser_tags_words_as_python_does(visit, folders):
    texts = [*TEXTS[:47], "Mr. O'Neil didn't pay $3.50, U.S.A. or not!", "naïve café 👩\u200d🚀 e\u0301", "x"]
    found = visit("").evaluate(RUN, ["tagging", [[text] for text in texts]])
    for text, rows, expected in zip(
        texts, found, pipeline("token-classification", folders / "tagging")(texts), strict=True
    ):
        assert [(row["word"], row["label"]) for row in rows] == [(row["word"], row["entity"]) for row in expected]
        spans = in_characters(text, [(row["start"], row["end"]) for row in rows])
        assert spans == [(row["start"], row["end"]) for row in expected]
        assert [row["score"] for row in rows] == pytest.approx([row["score"] for row in expected], abs=1e-3)


@pytest.mark.long
@pytest.mark.slow
def test_the_browser_answers_questions_as_python_does(visit, folders):
    pairs = [[question, LIGHTHOUSE] for question in QUESTIONS]
    pairs += [[f"Who is {text.split()[0]}?", text] for text in TEXTS[:46]]
    found = visit("").evaluate(RUN, ["question-answering", pairs])
    answer = pipeline("question-answering", folders / "question-answering")
    for (question, context), rows in zip(pairs, found, strict=True):
        close(rows, answer(question=question, context=context, top_k=3), "answer", 1e-3)


@pytest.mark.long
@pytest.mark.slow
def test_the_browser_has_the_maps_of_the_graph(visit, folders, tokenizer):
    from convbert.serving import open_session

    ((attention, kernels),) = visit("").evaluate(RUN, ["fill-mask", [[MASK]], "maps"])
    graph = open_session(folders / "fill-mask" / "onnx" / "model_quantized.onnx")
    feeds = {name: np.asarray([values]) for name, values in tokenizer(MASK).items()}
    attentions, conv_kernels = graph.run(["attentions", "conv_kernels"], feeds)
    np.testing.assert_allclose(attention, attentions[1, 0, 2], atol=1e-4)
    np.testing.assert_allclose(kernels, conv_kernels[3, 0, 1], atol=1e-4)


# -- the box

BOX = """<h1>Title</h1>
<div class="convbert-live" data-task="{task}" {data}><p><img alt="A picture" src="images/heads.svg"></p></div>
<script type="module" src="live/box.js"></script>"""


@pytest.mark.long
@pytest.mark.slow
def test_a_box_shows_its_picture_until_it_is_asked(visit):
    page = visit(BOX.format(task="fill-mask", data=f'data-text="{MASK}" data-heads'))
    page.wait_for_selector("[data-state=picture]")
    assert page.get_by_role("img", name="A picture").is_visible()
    assert page.evaluate("performance.getEntriesByType('resource').every(({ name }) => !name.includes('/build/'))")
    page.keyboard.press("Tab")  # into the field, which loads the model
    page.wait_for_selector("[data-state=ready] table")
    assert page.get_by_label("A sentence with a [MASK]").input_value() == MASK
    assert not page.get_by_role("img", name="A picture").is_visible()
    assert page.get_by_role("rowheader").first.inner_text() == "door"
    assert page.get_by_role("img", name="Attention head 1 of layer 1").is_visible()
    assert page.get_by_role("img", name="Convolution head 0 of layer 1").is_visible()


@pytest.mark.long
@pytest.mark.slow
def test_a_box_answers_while_its_reader_types(visit):
    page = visit(BOX.format(task="fill-mask", data=f'data-text="{MASK}" data-heads'))
    page.get_by_role("button", name="Run it here").click()
    page.wait_for_selector("table")
    page.get_by_label("A sentence with a [MASK]").fill("He opened the [MASK] and read the letter twice.")
    page.wait_for_function("document.querySelector('tbody th').innerText === 'letter'")
    page.wait_for_function("document.querySelector('[aria-live=polite]').textContent.startsWith('letter 3')")
    page.get_by_label("A sentence with a [MASK]").fill("No mask here.")
    page.wait_for_function("document.querySelector('.note').textContent.includes('Write [MASK]')")
    page.get_by_label("A sentence with a [MASK]").fill(MASK)
    page.wait_for_function("document.querySelector('tbody th').innerText === 'door'")
    page.get_by_label("Layer", exact=True).select_option("3")
    assert page.get_by_role("img", name="Attention head 1 of layer 3").is_visible()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("task", ["sentiment", "tagging", "question-answering", "heads"])
def test_every_task_has_a_box_that_fits_a_phone(task, visit):
    texts = (
        f'data-question="{QUESTIONS[0]}" data-text="{LIGHTHOUSE}"'
        if task == "question-answering"
        else f'data-text="{TEXTS[0]}"'
    )
    page = visit(BOX.format(task=task, data=f"{texts} data-heads"), dark=True, viewport={"width": 360, "height": 700})
    page.get_by_role("button", name="Run it here").click()
    page.wait_for_selector("[data-state=ready] svg.map")
    assert not page.evaluate(TOO_WIDE)
    assert all(bar.bounding_box()["width"] > 40 for bar in page.locator(".bar").all())
    for scheme in ("light", "dark"):
        page.evaluate(f"document.body.className = 'quarto-{scheme}'")
        assert not page.evaluate(TOO_FAINT, CONTRAST)
    shown = {"sentiment": "negative", "tagging": "DET", "question-answering": "Robert Gray", "heads": "Attention head"}
    assert shown[task] in page.locator(".convbert-live").inner_text()


@pytest.mark.parametrize("missing", ["WebAssembly", "DecompressionStream"])
@pytest.mark.long
@pytest.mark.slow
def test_a_browser_that_cannot_run_it_is_told_kindly(missing, visit):
    page = visit(BOX.format(task="sentiment", data=""), init=f"delete globalThis.{missing}")
    page.wait_for_selector(".note")
    assert f"This browser has no {missing}" in page.locator(".note").inner_text()
    assert page.get_by_role("img", name="A picture").is_visible() and not page.get_by_role("button").count()


@pytest.mark.long
@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_leaves_the_picture_and_the_button(visit):
    init = 'globalThis.fetch = async () => new Response("", { status: 404 })'
    page = visit(BOX.format(task="sentiment", data='data-text="A fine film."'), init=init)
    for _ in range(2):
        page.get_by_role("button", name="Run it here").click()
        page.wait_for_function("document.querySelector('.note').textContent.includes('could not be loaded')")
    assert page.get_by_role("img", name="A picture").is_visible()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("name", ["ort.js", "ort.wasm.gz", "tokenizer.json.gz"])
def test_a_download_that_fails_can_be_tried_again(name, visit, site):
    (file,) = (site / "live" / "build").glob(f"**/{'fill-mask/' * name.startswith('token')}{name}")
    page = visit(BOX.format(task="fill-mask", data=f'data-text="{MASK}"'), failing=[name])
    button = page.get_by_role("button", name="Run it here")
    away = file.rename(file.with_name("away"))
    button.press("Enter")
    page.get_by_text("Try again.").first.wait_for()
    away.rename(file)
    assert button.evaluate("button => button === document.activeElement")
    button.press("Enter")
    page.wait_for_selector("[data-state=ready] table")
    page.wait_for_function("document.activeElement.getAttribute('aria-label') === 'Answers'")


FAIL_ONCE = """async () => {
  const { Model } = await import("/live/model.js");
  const { run } = Model.prototype;
  Model.prototype.run = async () => { Model.prototype.run = run; throw 1234; };
}"""


@pytest.mark.long
@pytest.mark.slow
def test_a_model_that_fails_while_it_runs_says_so_and_answers_again(visit):
    page = visit(BOX.format(task="fill-mask", data=f'data-text="{MASK}"'))
    page.evaluate(FAIL_ONCE)
    page.get_by_role("button", name="Run it here").click()
    page.get_by_text("The model could not answer: 1234.").first.wait_for()
    page.get_by_label("A sentence with a [MASK]").press("End")
    page.get_by_label("A sentence with a [MASK]").press("Space")
    page.wait_for_selector("table")


def test_the_readme_shows_the_picture_and_no_box():
    text = readme.readme()
    assert "convbert-live" not in text and "<script" not in text and "nbs/images/heads.svg" in text


# -- transformers.js

IMPORTS = {"onnxruntime-common": "/live/build/ort/ort.js", "onnxruntime-web/webgpu": "/live/build/ort/ort.js"}
TRANSFORMERS = """async ([folder, texts]) => {
  const { env, pipeline } = await import("/transformers.web.js");
  const file = (await fetch("/live/build/ort/ort.wasm.gz")).body.pipeThrough(new DecompressionStream("gzip"));
  const wasmBinary = await new Response(file).arrayBuffer();
  Object.assign(env, { allowLocalModels: true, allowRemoteModels: false, localModelPath: "/", useBrowserCache: false });
  Object.assign(env.backends.onnx.wasm, { numThreads: 1, wasmPaths: undefined, wasmBinary });
  const fillMask = await pipeline("fill-mask", folder, { dtype: "q8", device: "wasm" });
  const found = [];
  for (const text of texts) found.push(await fillMask(text));
  return found;
}"""


@pytest.mark.long
@pytest.mark.slow
def test_transformers_js_loads_an_exported_folder(visit, site, run_command, tmp_path):
    try:
        library = live.unpack("@huggingface/transformers", tmp_path)
    except (FileNotFoundError, subprocess.SubprocessError) as error:
        pytest.skip(f"npm cannot bring transformers.js: {error}")
    shutil.copy(library / "dist" / "transformers.web.js", site)
    exported = site / "exported"
    code, error = run_command("export", "convbert-tiny", str(exported), "--layout", "browser", "--precision", "int8")
    assert code in (0, None), error
    assert (exported / "onnx" / "model_quantized.onnx").stat().st_size < 6e6 and not (exported / "model.onnx").exists()
    texts = [masked(text, at) for at, text in enumerate(TEXTS[:20])]
    page = visit(f'<script type="importmap">{json.dumps({"imports": IMPORTS})}</script>')
    found = page.evaluate(TRANSFORMERS, ["exported", texts])
    for rows, wanted in zip(found, pipeline("fill-mask", exported)(texts), strict=True):
        close(rows, wanted, "token_str", 1e-3)
