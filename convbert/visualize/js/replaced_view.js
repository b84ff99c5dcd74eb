// A text with replaced tokens: what was masked, what the generator put there, and what the discriminator suspects.
import { batched, isAnswered, listen, make, notesOf, show, tell } from "./common.js";
import { bar, columns } from "./board.js";
import { makeTokens, wordOf } from "./chips.js";
import { makeFields } from "./field.js";
import { showView } from "./frame.js";

const ASKS = ["text", "masked", "seed"];

/** Whether the discriminator suspects a token. */
const isSuspected = (model, i) => model.get("suspicion")[i] > 0.5;

/** How a token was judged, in a word; nothing for one of the text's own that is left alone. */
function verdictOf(model, i) {
  if (model.get("special")[i]) return "";
  if (model.get("replaced")[i]) return isSuspected(model, i) ? "found" : "missed";
  return isSuspected(model, i) ? "suspected" : "";
}

/** Whether that is wrong. */
const isWrong = (verdict) => verdict === "missed" || verdict === "suspected";

/** Masked tokens once a token was pressed: without it, or with it. */
function turned(model, i) {
  const masked = model.get("masked");
  return masked.includes(i) ? masked.filter((place) => place !== i) : [...masked, i].sort((a, b) => a - b);
}

/** Ask, unless an exported page has no answer, or another text is on its way. */
function makeAsking(model, refusal) {
  const why = "This page holds a few samples, and one token masked or shown in its turn. "
    + "The live notebook has all others.";
  return (traits) => {
    const query = ASKS.map((name) => traits[name] ?? model.get(name));
    const held = !model.exported || model.answers(...query);
    refusal.textContent = held ? "" : why;
    if (held && model.get("answered")[0] === model.get("text")) tell(model, traits);
  };
}

/** The next samples; an exported page begins again after its last. */
function nextSeed(model) {
  const seed = model.get("seed") + 1;
  return model.exported && !model.answers(model.get("text"), model.get("masked"), seed) ? 0 : seed;
}

/** What stands at each token now, and how the discriminator judges it. */
function paintTokens(model, tokens) {
  tokens.each((chip, i) => {
    const masked = model.get("masked").includes(i);
    const verdict = verdictOf(model, i);
    const chance = show(model.get("suspicion")[i], 2);
    const text = masked ? model.get("shown")[i] : wordOf(model, i);
    chip.classList.toggle("cv-masked", masked);
    chip.classList.toggle("cv-misjudged", isWrong(verdict));
    chip.style.setProperty("--look", model.get("special")[i] ? "0" : chance);
    chip.querySelector(".cv-chip-text").textContent = text;
    chip.lastChild.replaceChildren(chance, make("span", { class: "cv-verdict" }, verdict));
    if (!chip.hasAttribute("role")) return;
    const before = masked ? ` in place of ${wordOf(model, i)}` : "";
    chip.setAttribute("aria-pressed", String(masked));
    const judged = `replaced with probability ${chance}${verdict && `, ${verdict}`}`;
    chip.setAttribute("aria-label", `${text}${before}: ${judged}`);
  });
}

/** One masked token: what the text had, what the generator put there, and what the discriminator says. */
function makeRow(model, place, m) {
  const chance = model.get("suspicion")[place];
  const kept = model.get("replaced")[place] ? null : make("span", { class: "cv-fresh" }, "as in the text");
  const cells = [
    make("th", { scope: "row" }, make("bdi", {}, wordOf(model, place))),
    make("td", { class: "cv-figure" }, show(model.get("truth")[m])),
    make("td", { class: "cv-sampled" }, make("bdi", {}, model.get("shown")[place]), kept),
    make("td", { class: "cv-figure" }, show(model.get("scores")[m])),
    make("td", { class: "cv-bars" }, bar(chance, 1, "one")),
    make("td", { class: "cv-figure" }, show(chance)),
    make("td", { class: "cv-judged" }, verdictOf(model, place) || "left alone"),
  ];
  return make("tr", {}, ...cells);
}

/** The masked tokens. */
function makeTable(model) {
  const masked = model.get("masked");
  const none = "No token is masked: the discriminator reads the text as it is.";
  if (!masked.length) return make("p", { class: "cv-hint" }, none);
  const number = "cv-number-head";
  const names = [["masked"], ["probability", number], ["sampled", "cv-sampled"], ["probability", number]];
  const head = columns(...names, ["0 to 1", "cv-bars"], ["replaced", number], ["judged", "cv-judged"]);
  const caption = make("caption", {}, "Generator and discriminator at the masked tokens");
  const body = make("tbody", {}, ...masked.map((place, m) => makeRow(model, place, m)));
  return make("table", { class: "cv-answers" }, caption, head, body);
}

/** How the discriminator did, in a sentence. */
function describe(model) {
  const all = model.get("tokens").map((_, i) => verdictOf(model, i));
  const count = (verdict) => all.filter((other) => other === verdict).length;
  const replaced = count("found") + count("missed");
  const own = model.get("special").filter((special) => !special).length - replaced;
  return `${count("found")} of ${replaced} replaced tokens found; ${count("suspected")} of ${own} others suspected.`;
}

const FREE = "Enter applies the text. Which of its tokens are masked is drawn at random, until one is pressed.";
const FIXED = "This page was made beforehand, so its text stays as it is: replaced_view in a notebook takes any other.";

/** The field for the text. */
function makeText(model) {
  const fixed = Boolean(model.exported);
  const apply = ([text]) => tell(model, { text, masked: null });
  const texts = () => [model.get("text")];
  return makeFields(model, { labels: ["Text"], texts, apply, hint: fixed ? FIXED : FREE, fixed });
}

/** Every token and every masked one, as a table to copy. */
function rowsOf(model) {
  const tokens = model.get("tokens").map((_, i) => {
    const verdict = verdictOf(model, i) || "left alone";
    return [i, wordOf(model, i), model.get("shown")[i], model.get("suspicion")[i], verdict];
  });
  const masked = model.get("masked").map((place, m) => [place, model.get("truth")[m], model.get("scores")[m]]);
  const head = ["token", "text", "shown", "probability of replaced", "judged"];
  return [head, ...tokens, [], ["token", "probability of the truth", "probability of the sample"], ...masked];
}

const KEYS = [
  ["← → ↑ ↓", "another token"],
  ["Enter", "mask the token, or show it; apply the text"],
];

/** The whole view; `draw` follows the traits. */
function build(model) {
  const refusal = make("p", { class: "cv-hint cv-refusal", role: "status" });
  const [field, notes, table] = [makeText(model), make("div"), make("div", { class: "cv-left" })];
  const said = make("p", { class: "cv-pointed", "aria-live": "polite" });
  const ask = makeAsking(model, refusal);
  let last = null; // the token that was pressed last
  const press = (i) => ((last = i), ask({ masked: turned(model, i) }));
  const first = () => model.get("masked")[0] ?? model.get("special").indexOf(false);
  const place = () => (last !== null && model.get("special")[last] === false ? last : first());
  const label = "Text: choose tokens to mask";
  const tokens = makeTokens(model, { label, above: (i) => wordOf(model, i), place, press });
  const again = () => ask({ seed: nextSeed(model) });
  const button = make("button", { type: "button", class: "cv-action", onclick: again }, "Sample again");
  const what = "Press a token to mask it. Below each: how probable it is that it was replaced.";
  const how = make("p", { class: "cv-hint cv-how" }, what);
  const element = make("div", {}, field.element, notes, how, tokens.element, refusal, said, button, table);
  let drawn = null;
  const draw = () => {
    field.draw();
    const waiting = !isAnswered(model, ASKS);
    table.toggleAttribute("aria-busy", waiting);
    if (waiting || model.get("problem")) return;
    if (drawn !== model.get("text")) (last = null), tokens.fill();
    drawn = model.get("text");
    notes.replaceChildren(...notesOf(model));
    said.textContent = describe(model);
    table.replaceChildren(makeTable(model));
    paintTokens(model, tokens);
    tokens.bring();
  };
  return { element, draw, picture: () => [tokens.element, said, table] };
}

const view = {
  render({ model, el }) {
    const { element, picture, draw } = build(model);
    const numbers = () => rowsOf(model);
    const stops = [listen(model, ["text", "masked", "seed", "problem", "answered"], batched(draw))];
    const state = [...ASKS, "problem"];
    const options = { look: "cv-detection", asks: ASKS, state, parts: [element], picture, numbers, keys: KEYS, stops };
    const stop = showView(model, el, options);
    draw();
    return stop;
  },
};
export default view;
