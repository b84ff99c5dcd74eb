// Heads as switches, and what the model answers without those that are off.
import { batched, isAnswered, listen, make, notesOf, numbersOf, show, tell } from "./common.js";
import { bar, columns, headRows, KINDS, makeBoard, makeCross, nameHead } from "./board.js";
import { niceEnd, onEscape, signed, sizesOf, tint } from "./board.js";
import { makeFields } from "./field.js";
import { showView } from "./frame.js";

/** The order in which Python keeps heads, so that a question is always written in the same way. */
const inOrder = (a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : a[1] - b[1] || a[2] - b[2]);

/** All heads behind a button: itself, its layer's of that kind, or all of that kind. */
export function headsOf([kind, layer, head], sizes) {
  const all = (value, count) => (value === "all" ? [...Array(count).keys()] : [value]);
  return all(layer, sizes.L).flatMap((l) => all(head, sizes[kind]).map((h) => [kind, l, h]));
}

/** `silenced` with some heads switched: on again if all of them are silenced, else all off. */
export function toggle(silenced, heads) {
  const written = new Map(silenced.map((head) => [head.join(), head]));
  const off = heads.every((head) => written.has(head.join()));
  for (const head of heads) off ? written.delete(head.join()) : written.set(head.join(), head);
  return [...written.values()].sort(inOrder);
}

/** Items in a sentence: "0, 2 and 3". */
const list = (items) => (items.length < 2 ? items.join("") : `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`);

/** Which heads of a kind are silenced, part by part. */
function nameKind(heads, kind, sizes) {
  const name = KINDS[kind];
  if (heads.length === sizes.L * sizes[kind]) return [`all ${name} heads`];
  const parts = [];
  for (let layer = 0; layer < sizes.L; layer++) {
    const mine = heads.filter((head) => head[1] === layer).map((head) => head[2]);
    if (mine.length === sizes[kind]) parts.push(`all ${name} heads of layer ${layer}`);
    else if (mine.length) parts.push(`${name} head${mine.length > 1 ? "s" : ""} ${list(mine)} of layer ${layer}`);
  }
  return parts;
}

/** Which heads are silenced, in as few words as will do. */
export function nameSilenced(silenced, sizes) {
  const of = (kind) => silenced.filter((head) => head[0] === kind);
  const kinds = Object.keys(KINDS).filter((kind) => of(kind).length);
  return list(kinds.flatMap((kind) => nameKind(of(kind), kind, sizes))) || "nothing";
}

/** The heads behind a button, in words. */
export function nameKey([kind, layer, head]) {
  if (layer === "all") return `all ${KINDS[kind]} heads`;
  return head === "all" ? `all ${KINDS[kind]} heads of layer ${layer}` : nameHead(kind, layer, head);
}

/** The text with its masks marked. */
function makeSentence(model) {
  const many = model.get("pieces").filter(([, mask]) => mask).length > 1;
  let count = 0;
  const mark = (text) => make("mark", { class: "cv-mask" }, text, many ? make("sub", {}, ++count) : null);
  const parts = model.get("pieces").map(([text, mask]) => (mask ? mark(text) : text));
  return make("p", { class: "cv-sentence", dir: "auto" }, ...parts);
}

/** The effect of a button's heads on the log-probability of the first answer. */
function effectOf(model, [kind, layer, head], sizes) {
  const column = kind === "attention" ? 0 : 1;
  const kinds = sizes.conv ? 2 : 1;
  if (layer === "all") return numbersOf(model.get("kind_effects"))[column];
  if (head === "all") return numbersOf(model.get("layer_effects"))[layer * kinds + column];
  return numbersOf(model.get("effects"))[(layer * kinds + column) * sizes[kind] + head];
}

/** What a button's heads are worth by themselves, in words. */
function worth(model, key, sizes) {
  const effect = effectOf(model, key, sizes);
  if (Number.isNaN(effect)) return "not computed yet";
  const [[answer, sure], ...more] = model.get("first");
  if (more.length) return `log-probability of the first answers ${signed(effect)} (mean of the masks)`;
  return `log-probability of “${answer}” ${signed(effect)}, ${show(sure)} → ${show(sure * Math.exp(effect))}`;
}

/** One answer: its word, two bars, two numbers. Without `known` only the first of each. */
function makeRow([answer, before, after], end, known, fresh) {
  const mark = fresh ? make("span", { class: "cv-fresh" }, "new") : null;
  const word = make("th", { scope: "row" }, make("bdi", {}, answer), mark);
  const bars = make("td", { class: "cv-bars" }, bar(before, end, "before"), known ? bar(after, end, "after") : null);
  const number = (value) => make("td", { class: "cv-figure" }, value);
  return make("tr", {}, word, bars, number(show(before)), number(known ? show(after) : "–"));
}

/** The answers for one mask, or for the text; the first `top` rows are those that are likeliest with all heads. */
function makeAnswers(rows, top, title, known) {
  const shown = known ? rows : rows.slice(0, top);
  const end = niceEnd(Math.max(...shown.flatMap(([, before, after]) => (known ? [before, after] : [before]))));
  const head = columns(["answer"], [`0 to ${end}`], ["all heads", "cv-first"], ["without", "cv-second-of"]);
  const body = shown.map((row, i) => makeRow(row, end, known, i >= top));
  return make("table", { class: "cv-answers" }, make("caption", {}, title), head, make("tbody", {}, ...body));
}

/** What became of the first answer, in a sentence for eye and ear. */
function summary(model, sizes) {
  const silenced = model.get("silenced");
  if (!silenced.length) return "Nothing is silenced: press a head to switch it off.";
  const told = model.get("changes").map((rows) => {
    const [answer, before, after] = rows[0];
    const now = rows.reduce((best, row) => (row[2] > best[2] ? row : best));
    const next = now[0] === answer ? "still first" : `now “${now[0]}” ${show(now[2])}`;
    return `“${answer}” ${show(before)} → ${show(after)}, ${next}`;
  });
  return `Without ${nameSilenced(silenced, sizes)}: ${told.join("; ")}.`;
}

/** In a page on its own: why there is no answer, what there is, and a way back to it. */
function makeApology(model, sizes, last, choose) {
  const said = `This page has no answer without ${nameSilenced(model.get("silenced"), sizes)}. `
    + "It was made beforehand, for nothing silenced, each head by itself, all heads of a kind in one layer, and all "
    + "heads of a kind. Other combinations need the live notebook: knockout_view in Python.";
  const button = (text, heads) => {
    const attributes = { type: "button", class: "cv-action", onclick: () => choose(heads) };
    return make("button", attributes, text);
  };
  const only = last && headsOf(last, sizes);
  const one = only ? button(`Only ${nameSilenced(only, sizes)}`, only) : null;
  const ways = make("p", {}, one, " ", button("All heads on", []));
  return make("div", { class: "cv-note" }, make("p", {}, said), ways);
}

/** What the looks of the switches mean. */
function makeLegend() {
  const key = ([look, text]) => {
    const square = { class: `cv-head ${look}`, "aria-hidden": "true" };
    const inside = [make("span", { class: "cv-fill" }), makeCross()];
    return make("span", { class: "cv-sample" }, make("span", square, ...inside), text);
  };
  const keys = [["", "helps: the first answer needs it"], ["cv-hinders", "is in the way"], ["cv-off", "silenced"]];
  return make("p", { class: "cv-legend" }, ...keys.map(key));
}

/** Draw the state of the switches, which is known to Python and browser alike. */
function drawSwitches(model, board, sizes) {
  const silenced = new Set(model.get("silenced").map((head) => head.join()));
  const known = numbersOf(model.get("effects")).filter((effect) => !Number.isNaN(effect));
  const largest = Math.max(0, ...known.map(Math.abs)) || 1;
  board.each((button, key) => {
    const off = headsOf(key, sizes).map((head) => silenced.has(head.join()));
    button.setAttribute("aria-pressed", off.every(Boolean) ? "true" : off.some(Boolean) ? "mixed" : "false");
    button.setAttribute("aria-label", `silence ${nameKey(key)}: ${worth(model, key, sizes)}`);
    const effect = effectOf(model, key, sizes);
    if (!key.includes("all")) tint(button, Math.abs(effect || 0) / largest, effect > 0);
    button.classList.toggle("cv-unknown-effect", Number.isNaN(effect));
  });
}

/** Draw the answers when they belong to what is silenced now; say so when a page has none. */
function drawAnswers(model, sizes, { said, answers, clear }, apology) {
  const silenced = model.get("silenced");
  const known = isAnswered(model, ASKS);
  const never = !known && model.exported && !model.answers(model.get("texts"), silenced);
  answers.toggleAttribute("aria-busy", !known && !never);
  clear.disabled = !silenced.length;
  if ((!known && !never) || model.get("problem")) return;
  said.replaceChildren(never ? apology() : make("p", {}, summary(model, sizes)));
  const lists = model.get("changes");
  const one = model.get("task") === "fill-mask" ? "Answers for the mask" : "Labels";
  const title = (i) => (lists.length > 1 ? `Answers for mask ${i + 1}` : one);
  const top = model.get("top_k");
  answers.replaceChildren(...lists.map((rows, i) => makeAnswers(rows, top, title(i), known)));
}

/** How far the ablations are; the browser asks for each batch, unless a cell computes them. */
function makeProgress(model) {
  const line = make("progress", { max: 1, "aria-label": "ablations" });
  const text = make("span");
  const element = make("p", { class: "cv-progress" }, line, text);
  const draw = () => {
    const [done, total] = [model.get("computed"), model.get("total")];
    element.hidden = done >= total;
    [line.max, line.value] = [total, done];
    text.textContent = `${done} of ${total} ablations`;
    if (done < total && !model.exported) model.send({ ask: "more" });
  };
  return { element, draw };
}

/** Effects and answers, as a table to copy. */
function rowsOf(model, sizes) {
  const effects = headRows(sizes, "change of log-probability", (key) => effectOf(model, key, sizes));
  const answers = model.get("changes").flatMap((rows, i) => rows.map((row) => [i + 1, ...row]));
  const without = `without ${nameSilenced(model.get("silenced"), sizes)}`;
  return [...effects, [], ["mask", "answer", "with all heads", without], ...answers];
}

const ASKS = ["texts", "silenced"];
const KEYS = [
  ["← → ↑ ↓", "another head"],
  ["Home End", "the first head of a layer, the last"],
  ["Space", "switch a head off, or on again"],
  ["Esc", "all heads on"],
  ["Enter", "in the text: apply it"],
];
const FREE = "Enter applies the text. A [MASK] is what the model fills.";
const PLAIN = "Enter applies the text.";
const HINT = "Point at a head, or move to it with the arrow keys, to read what it is worth.";

/** The whole view; `draw` follows the traits. */
function build(model) {
  const sizes = sizesOf(model);
  let last = null;
  const choose = (silenced) => tell(model, { silenced });
  const pointed = make("p", { class: "cv-pointed", "aria-live": "polite" });
  const on = {
    press: (key) => ((last = key), choose(toggle(model.get("silenced"), headsOf(key, sizes)))),
    point: (key) => (pointed.textContent = `Without ${nameKey(key)} alone: ${worth(model, key, sizes)}`),
    leave: () => (pointed.textContent = HINT),
  };
  on.leave();
  const board = makeBoard(sizes, { label: "Heads as switches: press to silence", wholes: true, on });
  const parts = {
    said: make("div", { class: "cv-said", "aria-live": "polite" }),
    answers: make("div"),
    clear: make("button", { type: "button", class: "cv-action", onclick: () => choose([]) }, "All heads on"),
  };
  const reset = make("p", { class: "cv-reset" }, parts.clear);
  const progress = makeProgress(model);
  const left = make("div", { class: "cv-left" }, progress.element, board.element, makeLegend(), pointed, reset);
  const right = make("div", { class: "cv-right" }, parts.said, parts.answers);
  const halves = make("div", { class: "cv-halves" }, left, right);
  onEscape(halves, () => choose([]));
  const [notes, text, field] = [make("div"), make("div"), makeText(model)];
  const draw = () => {
    field.draw();
    notes.replaceChildren(...notesOf(model));
    text.replaceChildren(makeSentence(model));
    drawSwitches(model, board, sizes);
    drawAnswers(model, sizes, parts, () => makeApology(model, sizes, last, choose));
  };
  draw();
  progress.draw();
  const picture = () => [text, board.element, parts.said, parts.answers];
  return { elements: [field.element, notes, text, halves], draw, advance: progress.draw, picture };
}

/** The fields for the text, in a notebook. */
function makeText(model) {
  if (model.exported) return { element: null, draw: () => {} };
  const texts = () => model.get("texts");
  const labels = texts().length > 1 ? ["First text", "Second text"] : ["Text"];
  const hint = model.get("task") === "fill-mask" ? FREE : PLAIN;
  return makeFields(model, { labels, texts, hint, fixed: false, apply: (typed) => tell(model, { texts: typed }) });
}

const view = {
  render({ model, el }) {
    const { elements, draw, advance, picture } = build(model);
    const drawn = batched(draw);
    const traits = ["texts", "silenced", "changes", "answered", "problem", "computed", "effects"];
    const stops = [listen(model, traits, drawn), listen(model, ["computed"], advance)];
    const numbers = () => rowsOf(model, sizesOf(model));
    const parts = elements.filter(Boolean);
    const state = [...ASKS, "computed", "problem"];
    return showView(model, el, { look: "cv-knockout", asks: ASKS, state, parts, picture, numbers, keys: KEYS, stops });
  },
};
export default view;
