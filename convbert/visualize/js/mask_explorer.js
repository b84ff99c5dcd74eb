// A text of which any word can be masked: the predictions there, and the heads behind them.
import { batched, isAnswered, listen, make, notesOf, numbersOf, show, tell, weightsOf } from "./common.js";
import { bar, capital, columns, headRows, makeBoard, nameHead, niceEnd, onEscape, sizesOf, tint } from "./board.js";
import { makeTokens, wordOf } from "./chips.js";
import { makeFields } from "./field.js";
import { showView } from "./frame.js";

/** Ten-thousandths that a head gives to each token from the masked one, and how much falls beyond the text. */
export function looksOf(model, [kind, layer, head], sizes) {
  const T = model.get("tokens").length;
  const part = (weights, size) => weights.subarray((layer * sizes[kind] + head) * size).subarray(0, size);
  if (kind === "attention") return [part(weightsOf(model.get("attention")), T), 0];
  const kernels = weightsOf(model.get("conv_kernel"));
  const K = kernels.length / (sizes.L * sizes.conv);
  const weights = new Uint16Array(T);
  let beyond = 0;
  part(kernels, K).forEach((weight, k) => {
    const i = model.get("place") + k - (K - 1) / 2;
    if (i >= 0 && i < T) weights[i] = weight;
    else beyond += weight;
  });
  return [weights, beyond];
}

/** The length of what a head adds, and its part of what all heads of its layer add. */
function workOf(model, [kind, layer, head], sizes) {
  const H = sizes.attention + sizes.conv;
  const row = numbersOf(model.get("norms")).subarray(layer * H, (layer + 1) * H);
  const length = row[head + (kind === "attention" ? 0 : sizes.attention)];
  return [length, length / (row.reduce((sum, norm) => sum + norm, 0) || 1)];
}

/** The strongest places of a row of weights, best first. */
const strongest = (weights, count) => [...weights.keys()].sort((i, j) => weights[j] - weights[i]).slice(0, count);

const ASKS = ["text", "place"];

/** Whether an exported page has no answer for a token. */
const isHeld = (model, i) => model.exported && !model.answers(model.get("text"), i);

/** Show where a head looks, or nothing for no head. */
function paintTokens(model, tokens, head, sizes) {
  const weights = head ? looksOf(model, head, sizes)[0] : null;
  const largest = weights ? Math.max(...weights) || 1 : 1;
  for (const kind of ["attention", "conv"]) tokens.element.classList.toggle(`cv-${kind}`, head?.[0] === kind);
  tokens.each((chip, i) => {
    const masked = i === model.get("place");
    chip.classList.toggle("cv-masked", masked);
    chip.classList.toggle("cv-given", masked && !model.get("truth").length); // it is a [MASK] of the text
    if (chip.hasAttribute("role")) chip.setAttribute("aria-pressed", String(masked));
    chip.style.setProperty("--look", weights ? (weights[i] / largest).toFixed(4) : "0");
    chip.lastChild.textContent = weights && weights[i] >= 50 ? show(weights[i] / 10000) : "";
  });
}

/** One prediction. */
function makeRow([rank, word, score], end, isTrue) {
  const mark = isTrue ? make("span", { class: "cv-fresh" }, "true word") : null;
  const cells = [
    make("td", { class: "cv-rank" }, rank),
    make("th", { scope: "row" }, make("bdi", {}, word), mark),
    make("td", { class: "cv-bars" }, bar(score, end, "one")),
    make("td", { class: "cv-figure" }, show(score)),
  ];
  return make("tr", { class: isTrue ? "cv-true" : null }, ...cells);
}

/** The likeliest words, the true one marked; if it is not among them it comes last, with its rank. */
function makeWords(model) {
  const [truth, chance, rank] = model.get("truth");
  const rows = model.get("words").map((word, i) => [i + 1, word, model.get("scores")[i]]);
  if (truth && !model.get("words").includes(truth)) rows.push([rank, truth, chance]);
  const end = niceEnd(Math.max(...rows.map((row) => row[2])));
  const body = rows.map((row) => makeRow(row, end, row[1] === truth));
  const head = columns(["rank", "cv-rank"], ["word"], [`0 to ${end}`], ["probability", "cv-number-head"]);
  const there = make("bdi", {}, wordOf(model, model.get("place")));
  const caption = make("caption", {}, ...(truth ? ["In place of “", there, "”"] : ["Behind the mask"]));
  return make("table", { class: "cv-answers" }, caption, head, make("tbody", {}, ...body));
}

/** What a head does at the masked token, in a sentence. */
function describe(model, head, sizes) {
  const [length, share] = workOf(model, head, sizes);
  const [weights, beyond] = looksOf(model, head, sizes);
  const does = head[0] === "conv" ? "mixes" : "looks at";
  const name = (i) => make("bdi", { class: "cv-strong" }, i === model.get("place") ? "the mask" : wordOf(model, i));
  const said = [
    `${capital(nameHead(...head))} adds a vector of length ${show(length)} at the mask, `,
    `${show(share)} of its layer's work. It ${does} `,
  ];
  const best = strongest(weights, 4);
  best.forEach((i, n) => said.push(n ? ", " : "", name(i), ` ${show(weights[i] / 10000)}`));
  return [...said, beyond ? `; ${show(beyond / 10000)} falls beyond the text.` : "."];
}

const FREE = "Enter applies the text. A [MASK] in it is kept.";
const FIXED = "This page was made beforehand, so its text stays as it is: mask_explorer in a notebook takes any other.";

/** The field for the text. */
function makeText(model) {
  const fixed = Boolean(model.exported);
  const apply = ([text]) => tell(model, { text, place: null });
  const texts = () => [model.get("text")];
  return makeFields(model, { labels: ["Text"], texts, apply, hint: fixed ? FIXED : FREE, fixed });
}

/** The board of lengths. */
function paintBoard(model, board, sizes) {
  const largest = Math.max(...numbersOf(model.get("norms"))) || 1;
  board.each((button, head) => {
    const [length] = workOf(model, head, sizes);
    tint(button, length / largest);
    button.setAttribute("aria-label", `${nameHead(...head)}: length ${show(length)}`);
    button.setAttribute("aria-pressed", String(head.join() === model.get("head").join()));
  });
}

/** How a token is masked, or why it cannot be. */
function makeMasking(model, refusal) {
  const answered = () => model.get("tokens").filter((_, i) => !isHeld(model, i)).length;
  return (i) => {
    const why = `“${wordOf(model, i)}” cannot be masked here: this page holds the answers for ${answered()} tokens `
      + "of this text. The live notebook has all of them.";
    refusal.textContent = isHeld(model, i) ? why : "";
    const old = model.get("answered")[0] !== model.get("text"); // another text is on its way: these are not its tokens
    if (!isHeld(model, i) && !old) tell(model, { place: i });
  };
}

const LEGEND = "The stronger the colour of a square, the longer the vector that its head adds at the masked token. "
  + "Press one to keep it in view.";

/** Predictions, lengths and where the chosen head looks, as a table to copy. */
function rowsOf(model) {
  const sizes = sizesOf(model);
  const words = model.get("words").map((word, i) => [i + 1, word, model.get("scores")[i]]);
  const lengths = headRows(sizes, "length added", (head) => workOf(model, head, sizes)[0]);
  const head = model.get("head");
  const table = [["rank", "word", "probability"], ...words, [], ...lengths];
  if (!head.length) return table;
  const weights = [...looksOf(model, head, sizes)[0]].map((weight, i) => [i, wordOf(model, i), weight / 10000]);
  return [...table, [], ["token", "text", `weight, ${nameHead(...head)}`], ...weights];
}

const KEYS = [
  ["← → ↑ ↓", "another token, or another head"],
  ["Enter", "mask the token; keep the head in view; apply the text"],
  ["Home End", "the first head of a layer, the last"],
  ["Esc", "keep no head in view"],
];

/** The whole view; `draw` follows the traits. */
function build(model) {
  const sizes = sizesOf(model);
  let under = null; // the head under the pointer or the focus
  const parts = {
    field: makeText(model),
    notes: make("div"),
    pointed: make("p", { class: "cv-pointed", "aria-live": "polite" }),
    refusal: make("p", { class: "cv-hint cv-refusal", role: "status" }),
    words: make("div", { class: "cv-left" }),
  };
  const press = makeMasking(model, parts.refusal);
  const label = "Text: choose a token to mask";
  const tokens = makeTokens(model, { label, above: () => "[MASK]", place: () => model.get("place"), press });
  const look = () => {
    const head = under ?? (model.get("head").length ? model.get("head") : null);
    paintTokens(model, tokens, head, sizes);
    const hint = "Point at a head, or move to it with the arrow keys, to see where it looks.";
    parts.pointed.replaceChildren(...(head ? describe(model, head, sizes) : [hint]));
  };
  const keep = (head) => tell(model, { head: head.join() === model.get("head").join() ? [] : head });
  const on = { press: keep, point: (head) => ((under = head), look()), leave: () => ((under = null), look()) };
  const board = makeBoard(sizes, { label: "Heads, and how much each adds at the masked token", on });
  const right = make("div", { class: "cv-right" }, board.element, make("p", { class: "cv-legend" }, LEGEND));
  const halves = make("div", { class: "cv-halves" }, parts.words, right);
  const how = make("p", { class: "cv-hint cv-how" }, "Press a word to mask it.");
  const { field, notes, refusal, pointed } = parts;
  const element = make("div", {}, field.element, notes, how, tokens.element, refusal, pointed, halves);
  onEscape(element, () => ((under = null), tell(model, { head: [] })));
  const picture = () => [tokens.element, parts.pointed, parts.words, board.element];
  return { element, picture, draw: makeDraw(model, sizes, { ...parts, tokens, board, halves, look }) };
}

/** How everything is drawn again: tokens only when they are others, answers only when they are those asked for. */
function makeDraw(model, sizes, { field, notes, words, tokens, board, halves, look }) {
  let drawn = null;
  return () => {
    field.draw();
    const waiting = !isAnswered(model, ASKS);
    halves.toggleAttribute("aria-busy", waiting);
    if (waiting || model.get("problem")) return;
    if (drawn !== model.get("text")) tokens.fill();
    drawn = model.get("text");
    notes.replaceChildren(...notesOf(model));
    words.replaceChildren(makeWords(model));
    paintBoard(model, board, sizes);
    look();
    tokens.bring();
  };
}

const view = {
  render({ model, el }) {
    const { element, picture, draw } = build(model);
    const numbers = () => rowsOf(model);
    const stops = [listen(model, ["text", "place", "head", "problem", "answered"], batched(draw))];
    const state = [...ASKS, "head", "problem"];
    const options = { look: "cv-explorer", asks: ASKS, state, parts: [element], picture, numbers, keys: KEYS, stops };
    const stop = showView(model, el, options);
    draw();
    return stop;
  },
};
export default view;
