// Heads as a board of buttons: layers down, heads across, attention left of convolution. One Tab stop; arrows move.
import { make } from "./common.js";
import { drawing } from "./picture.js";

/** The kinds of heads, as they are called. */
export const KINDS = { attention: "attention", conv: "convolution" };

/** How many heads a model has: `L`, and heads per layer of either kind. */
export function sizesOf(model) {
  return { L: model.get("layers"), attention: model.get("attention_heads"), conv: model.get("conv_heads") };
}

/** A head's name in a sentence. */
export const nameHead = (kind, layer, head) => `${KINDS[kind]} head ${head} of layer ${layer}`;

/** A word with a large first letter. */
export const capital = (text) => text[0].toUpperCase() + text.slice(1);

/** A number with its sign, a minus as wide as a plus. */
export const signed = (number, digits = 4) => (number < 0 ? "−" : "+") + Math.abs(number).toFixed(digits);

/** One button: `key` is [kind, layer, head]; head is "all" for a whole layer, layer too for a whole kind. */
function makeButton(key, on) {
  const whole = key.includes("all");
  const heard = {
    onclick: () => on.press(key),
    onfocus: () => on.point(key),
    onmouseenter: () => on.point(key),
    onblur: () => on.leave(),
    onmouseleave: () => on.leave(),
  };
  const inside = whole ? ["all"] : [make("span", { class: "cv-fill", "aria-hidden": "true" }), makeCross()];
  const look = { class: `cv-head${whole ? " cv-whole" : ""}`, "data-key": key.join(" ") };
  return make("button", { type: "button", tabindex: "-1", ...look, ...heard }, ...inside);
}

/** What crosses out a head that is off. */
export function makeCross() {
  const line = drawing("path", { d: "M0 0L10 10M10 0L0 10", "vector-effect": "non-scaling-stroke" });
  const look = { class: "cv-cross", viewBox: "0 0 10 10", preserveAspectRatio: "none", "aria-hidden": "true" };
  return drawing("svg", look, line);
}

/** The board of one kind, and its rows of buttons; the first row holds the button of the whole kind, or nothing. */
function makeBlock(kind, sizes, wholes, on) {
  const label = (text) => make("span", { class: "cv-number-of", "aria-hidden": "true" }, text);
  const numbers = [...Array(sizes[kind]).keys()];
  const button = (layer, head) => makeButton([kind, layer, head], on);
  const rows = [wholes ? [...numbers.map(() => null), button("all", "all")] : []];
  for (let layer = 0; layer < sizes.L; layer++) {
    rows.push([...numbers, ...(wholes ? ["all"] : [])].map((head) => button(layer, head)));
  }
  const grid = make("div", { class: "cv-cells", style: `--columns: ${numbers.length + (wholes ? 1 : 0)}` });
  grid.append(label(""), ...numbers.map((head) => label(head)), ...rows[0].filter(Boolean));
  for (let layer = 0; layer < sizes.L; layer++) grid.append(label(`layer ${layer}`), ...rows[layer + 1]);
  const title = make("div", { class: "cv-kind" }, `${capital(KINDS[kind])} heads`);
  return { element: make("div", { class: `cv-block cv-${kind}` }, title, grid), rows };
}

/** The button that a key leads to from `row`, `column` of a table with gaps, or nothing. */
export function step(rows, row, column, key) {
  const across = { ArrowLeft: -1, ArrowRight: 1 }[key];
  const down = { ArrowUp: -1, ArrowDown: 1 }[key];
  if (across) {
    const ahead = across > 0 ? rows[row].slice(column + 1) : rows[row].slice(0, column).reverse();
    return ahead.find(Boolean);
  }
  const next = down && rows[row + down];
  if (next) return next.find((button, c) => button && c >= column) ?? next.findLast(Boolean);
  if (key === "Home") return rows[row].find(Boolean);
  if (key === "End") return rows[row].findLast(Boolean);
}

/**
 * All heads of a model. `on.press(key)`, `on.point(key)`, `on.leave()` hear what is done to a button;
 * `each(change)` of what is returned calls `change(button, key)` for every button.
 */
export function makeBoard(sizes, { label, wholes = false, on }) {
  const kinds = ["attention", "conv"].filter((kind) => sizes[kind]);
  const blocks = kinds.map((kind) => makeBlock(kind, sizes, wholes, on));
  const rows = blocks[0].rows.map((_, row) => blocks.flatMap((block) => block.rows[row]));
  const buttons = rows.flat().filter(Boolean);
  const dense = sizes.L > 8 || sizes.attention + sizes.conv > 8 ? " cv-dense" : "";
  const board = make("div", { class: `cv-board${dense}`, role: "group", "aria-label": label });
  board.append(...blocks.map((block) => block.element));
  const settle = (button) => buttons.forEach((other) => (other.tabIndex = other === button ? 0 : -1));
  settle(rows[1][0]);
  board.addEventListener("focusin", (event) => settle(event.target));
  board.addEventListener("keydown", (event) => {
    const row = rows.findIndex((cells) => cells.includes(event.target));
    const next = row >= 0 && step(rows, row, rows[row].indexOf(event.target), event.key);
    if (!next) return;
    event.preventDefault();
    next.focus();
  });
  return { element: board, each: (change) => buttons.forEach((button) => change(button, keyOf(button))) };
}

/** What a button stands for. */
function keyOf(button) {
  const [kind, ...numbers] = button.dataset.key.split(" ");
  return [kind, ...numbers.map((part) => (part === "all" ? part : Number(part)))];
}

/** Colour of a button: how strong a head is, 0 to 1, and whether it is in the way rather than of help. */
export function tint(button, strength, hinders = false) {
  button.style.setProperty("--strength", `${(100 * Math.min(1, strength)).toFixed(1)}%`);
  button.classList.toggle("cv-hinders", hinders);
}

/** The end of a scale on which probabilities are drawn as bars. */
export function niceEnd(largest) {
  return [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1].find((end) => largest <= end) ?? 1;
}

/** Rows of a table to copy: `read(key)` is a number of the head at `[kind, layer, head]`. */
export function headRows(sizes, title, read) {
  const kinds = ["attention", "conv"].filter((kind) => sizes[kind]);
  const heads = kinds.flatMap((kind) => [...Array(sizes[kind]).keys()].map((head) => [kind, head]));
  const row = (layer) => [layer, ...heads.map(([kind, head]) => read([kind, layer, head]))];
  const names = heads.map(([kind, head]) => `${KINDS[kind]} ${head}`);
  return [[`layer \\ ${title}`, ...names], ...[...Array(sizes.L).keys()].map(row)];
}

/** A bar for a probability, on a scale that ends at `end`. */
export function bar(probability, end, kind) {
  const width = (100 * Math.min(1, probability / end)).toFixed(2);
  return make("div", { class: `cv-bar-${kind}`, style: `width: ${width}%` });
}

/** The head of a table of answers: pairs of text and class. */
export function columns(...named) {
  const cells = named.map(([text, kind]) => make("th", { scope: "col", class: kind }, text));
  return make("thead", {}, make("tr", {}, ...cells));
}

/** Escape anywhere in an element calls `clear`. */
export function onEscape(element, clear) {
  element.addEventListener("keydown", (event) => event.key === "Escape" && (event.preventDefault(), clear()));
}
