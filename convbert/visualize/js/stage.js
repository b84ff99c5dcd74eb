// One layer on a text: arcs above the tokens for attention, bars below for convolution. Both views share it.
import { listen, make, numbersOf, runsLeft, tell, weightsOf } from "./common.js";
import { arcs, bar, headOf, sieve, smallKernels, strongest, windowOf } from "./marks.js";
import { attentionCaption, convCaption, hiddenCaption, pointed, tables, tokenRows, layerRows } from "./panel.js";
import { makeSelectors, nameOf, splitTitle } from "./panel.js";
import { drawing } from "./picture.js";

const TOP = 168; // pixels above the tokens
const BOTTOM = 108; // and below
const MOST = 64; // arcs from one token
const MOST_OF_ALL = 160; // arcs of all tokens; fewer in a short text
/** The traits that a reader changes. */
export const STATE = ["layer", "attention_head", "conv_head", "token", "sentences", "special_tokens", "answered"];
const TEXT = ["tokens", "sources", "segments", "special"];

/** What a view shows and does not change: the text, and the work of the heads; sizes have the letters of the docs. */
export function readText(model) {
  const s = Object.fromEntries(TEXT.map((name) => [name, model.get(name)]));
  [s.Ha, s.Hc, s.T] = [model.get("attention_heads"), model.get("conv_heads"), s.tokens.length];
  s.H = s.Ha + s.Hc;
  s.norms = numbersOf(model.get("norms"));
  s.L = s.norms.length / s.H / s.T;
  return s;
}

/** What is chosen now. */
const readState = (model) => Object.fromEntries(STATE.map((name) => [name, model.get(name)]));

/** Run `action` once before the next picture, however often it is asked for. */
export function soon(action) {
  let asked = 0;
  const ask = () => (asked ||= requestAnimationFrame(() => ((asked = 0), action())));
  ask.stop = () => cancelAnimationFrame(asked);
  return ask;
}

/** How to read the picture, in one line. */
function legend(s) {
  const key = (kind, text) => make("span", { class: `cv-key cv-${kind}` }, text);
  const look = key("attention", "arcs: where attention heads look");
  if (!s.Hc) return [look, "This model has no convolution: all its heads are attention heads."];
  const mix = key("conv", "bars: how convolution heads mix the tokens around");
  return [look, mix, key("both", "strip: whose work it is")];
}

/** What keys do. */
const keysOf = (s) => [
  ["← → Enter", "choose a token"],
  ["Home End", "the first token, the last"],
  ["Shift ← →", "point at a second token"],
  ["↑ ↓", "another layer"],
  ["a", "another attention head"],
  ...(s.Hc ? [["c", "another convolution head"]] : []),
  ["Esc", "choose no token"],
];

/** The row of tokens with the drawings above and below it. */
function makeLane(s) {
  const columns = s.tokens.map((token, i) => {
    const unknown = nameOf(s, i) !== token;
    const name = make("span", { class: "cv-token-name", dir: "auto" }, nameOf(s, i));
    const text = make("span", { class: unknown ? "cv-token cv-unknown" : "cv-token" }, name);
    const spoken = { role: "option", "aria-label": `${nameOf(s, i)}, token ${i}`, "aria-selected": "false" };
    const options = { class: "cv-column", tabindex: i ? -1 : 0, "data-i": i, ...spoken };
    const strip = make("span", { class: "cv-strip" }, make("span", { class: "cv-share" }));
    const column = make("div", options, text, strip);
    column.classList.toggle("cv-special", s.special[i]);
    column.classList.toggle("cv-second", i > 0 && s.segments[i] !== s.segments[i - 1]);
    return column;
  });
  const above = drawing("svg", { class: "cv-arcs", height: TOP, "aria-hidden": "true" });
  const below = drawing("svg", { class: "cv-bars", height: BOTTOM, "aria-hidden": "true" });
  const row = { class: "cv-tokens", role: "listbox", "aria-label": "tokens", "aria-orientation": "horizontal" };
  const [dir, sign] = runsLeft(s.sources) ? ["rtl", -1] : ["ltr", 1];
  const lane = make("div", { class: "cv-lane" }, above, make("div", row, ...columns), ...(s.Hc ? [below] : []));
  return { element: make("div", { class: "cv-scroll", dir }, lane), lane, columns, above, below, sign };
}

/** Fit a text to the width there is: with less room around tokens, then with upright tokens; else it scrolls. */
export function fit(scroller, content) {
  for (const look of ["", "cv-snug", "cv-upright"]) {
    scroller.classList.remove("cv-snug", "cv-upright");
    if (look) scroller.classList.add(look);
    if (content.offsetWidth <= scroller.clientWidth) return;
  }
}

/** Where the tokens stand. Read all at once, before anything is drawn. */
function measure(scene) {
  fit(scene.lane.element, scene.lane.lane);
  scene.upright = scene.lane.element.classList.contains("cv-upright");
  scene.centres = scene.lane.columns.map((column) => column.offsetLeft + column.offsetWidth / 2);
  scene.widths = scene.lane.columns.map((column) => column.offsetWidth);
}

/** The arcs and, when one token is looked from, the numbers above its targets. */
function drawArcs(scene, pairs, from) {
  const base = from < 0 ? TOP - 2 : TOP - (scene.upright ? 46 : 19);
  const draw = (d, level) => drawing("path", { d, class: `cv-arc cv-arc-${level}` });
  const paths = arcs(pairs, scene.centres, base).map(draw);
  const read = from < 0 ? [] : pairs.filter(([, , weight], rank) => rank < 60 && weight >= 50);
  const numbers = read.map(([, j, weight]) => number(scene, scene.centres[j], TOP - 7, weight, "start"));
  scene.lane.above.replaceChildren(...paths, ...numbers);
}

/** A weight at a place; upright where tokens are, from there up ("start") or down ("end"). */
function number(scene, x, y, weight, anchor) {
  const turned = { transform: `translate(${x + 4} ${y}) rotate(-90)`, style: `text-anchor: ${anchor}` };
  const place = scene.upright ? turned : { x, y };
  return drawing("text", { class: "cv-number", ...place }, (weight / 10000).toFixed(4));
}

/** The window of one token's kernel, or every token's kernel in small. */
function drawBars(scene, s, kernels, from) {
  const { centres, widths, lane } = scene;
  if (from < 0) {
    const d = smallKernels(kernels, s.K, centres, widths, BOTTOM - 40, lane.sign);
    return lane.below.replaceChildren(drawing("path", { d, class: "cv-bar" }));
  }
  const { inside } = windowOf(kernels.subarray(from * s.K, (from + 1) * s.K), from, s.T);
  const most = Math.max(1, ...kernels);
  const height = (weight) => (weight / most) * (BOTTOM - (scene.upright ? 52 : 26));
  const wide = Math.min(22, Math.min(...widths) - 6);
  const d = inside.map(([j, weight]) => bar(centres[j] - wide / 2, wide, 5, Math.max(1, height(weight)))).join("");
  const ends = [inside[0][0], inside[inside.length - 1][0]];
  const [left, right] = lane.sign > 0 ? ends : ends.reverse();
  const x = centres[left] - widths[left] / 2 + 2;
  const width = centres[right] + widths[right] / 2 - 2 - x;
  const frame = { x, y: 1, width, height: BOTTOM - 3, rx: 6, class: "cv-window" };
  const even = 5 + height(10000 / s.K);
  const line = drawing("path", { d: `M${x} ${even}h${width}`, class: "cv-even" });
  const below = scene.upright ? 9 : 17;
  const at = (weight) => below + Math.max(1, height(weight));
  const numbers = inside.map(([j, weight]) => number(scene, centres[j], at(weight), weight, "end"));
  lane.below.replaceChildren(drawing("rect", frame), drawing("path", { d, class: "cv-bar" }), line, ...numbers);
}

/** Whose work each token is, in the layer that is shown. */
function markWork(scene, s) {
  if (scene.marked.layer === s.layer) return;
  scene.marked.layer = s.layer;
  scene.lane.columns.forEach((column, i) => {
    const { share, title } = splitTitle(s, i);
    column.title = s.Hc ? title : nameOf(s, i);
    column.style.setProperty("--share", `${(100 * share).toFixed(2)}%`);
  });
}

/** Tokens as they are now: chosen, pointed at, looked at. Only those that change are touched: there may be 512. */
function markTokens(scene, s, from, other, pairs) {
  const { marked, lane: { columns } } = scene;
  const looked = new Map(from < 0 ? [] : pairs.map(([, j, weight]) => [j, weight / pairs[0][2]]));
  for (const i of marked.looked.keys()) if (!looked.has(i)) columns[i].style.removeProperty("--looked");
  for (const [i, part] of looked) columns[i].style.setProperty("--looked", `${(40 * part).toFixed(1)}%`);
  for (const i of [marked.from, marked.other, marked.token]) columns[i]?.classList.remove("cv-from", "cv-other");
  columns[from]?.classList.add("cv-from");
  columns[other]?.classList.add("cv-other");
  columns[marked.token]?.setAttribute("aria-selected", "false");
  columns[s.token]?.setAttribute("aria-selected", "true");
  columns[Math.max(marked.token, 0)].tabIndex = -1;
  columns[Math.max(s.token, 0)].tabIndex = 0;
  s.special.forEach((special, i) => special && columns[i].classList.toggle("cv-out", !s.special_tokens));
  Object.assign(marked, { looked, from, other, token: s.token });
}

/** Move a row so that one of its elements is seen; the page itself stays where it is. */
export function reveal(scroller, element) {
  const [view, at] = [scroller.getBoundingClientRect(), element.getBoundingClientRect()];
  const inside = at.left >= view.left + 40 && at.right <= view.right - 40;
  if (!inside) scroller.scrollLeft += (at.left + at.right - view.left - view.right) / 2;
}

/** What there is to draw: the token looked from, the one pointed at besides, arcs, and the rows of weights. */
function choose(scene, s) {
  const [from, other] = s.token >= 0 ? [s.token, scene.hover] : [scene.hover, -1];
  const map = headOf(s.far, s.attention_head, s.Ha, s.T, s.T);
  const kernels = s.Hc ? headOf(s.near, s.conv_head, s.Hc, s.T, s.K) : [];
  const rows = from < 0 ? [...Array(s.T).keys()] : [from];
  const most = from < 0 ? Math.min(MOST_OF_ALL, 2 * s.T + 16) : MOST;
  const best = strongest(map, rows, s.T, sieve(s), most);
  const pairs = best.filter(([, , weight]) => weight >= best[0][2] / 50); // fainter ones would only blur the picture
  const row = map.subarray(from * s.T, (from + 1) * s.T);
  const kernel = s.Hc && from >= 0 ? kernels.subarray(from * s.K, (from + 1) * s.K) : [];
  return { from, other, best, pairs, map, row, kernel, kernels };
}

/** Draw what the traits say. While Python has not answered yet, the picture before stays, and is marked as such. */
function drawStage(scene) {
  const { captions } = scene;
  scene.shown = null;
  const s = { ...scene.text, ...readState(scene.model), ...scene.layer };
  if (s.layer < 0) return;
  scene.selectors.update(s);
  const waiting = s.answered[0] !== s.layer;
  scene.element.setAttribute("aria-busy", String(waiting));
  if (waiting || !scene.centres.length) return;
  const chosen = choose(scene, s);
  const { from, other, best, pairs, row, kernel, kernels } = chosen;
  scene.shown = { s, from, ...chosen };
  drawArcs(scene, pairs, from);
  if (s.Hc) drawBars(scene, s, kernels, from);
  markWork(scene, s);
  markTokens(scene, s, from, other, pairs);
  captions.far.replaceChildren(...attentionCaption(s, from, pairs), ...hiddenCaption(s, from, row));
  if (s.Hc) captions.near.replaceChildren(...convCaption(s, from, kernel));
  captions.pointed.replaceChildren(...pointed(s, from, other, row, kernel));
  captions.tables.replaceChildren(...tables(s, from, best, kernel));
}

/** What a key does: traits to set, or nothing. */
function keyed(event, s, scene) {
  const turn = (head, heads) => ((head + 2) % (heads + 1)) - 1;
  const step = { ArrowLeft: -scene.lane.sign, ArrowRight: scene.lane.sign }[event.key];
  const inRange = (i, count) => Math.min(Math.max(i, 0), count - 1);
  const focused = Number(event.target.dataset?.i ?? 0);
  if (step && event.shiftKey && s.token >= 0) {
    scene.hover = inRange((scene.hover < 0 ? s.token : scene.hover) + step, s.T);
    return {};
  }
  if (step) return { token: s.token < 0 ? focused : inRange(s.token + step, s.T) };
  return {
    Home: { token: 0 },
    End: { token: s.T - 1 },
    Enter: { token: focused },
    " ": { token: focused },
    ArrowUp: { layer: inRange(s.layer - 1, s.L) },
    ArrowDown: { layer: inRange(s.layer + 1, s.L) },
    a: { attention_head: turn(s.attention_head, s.Ha) },
    c: { conv_head: s.Hc ? turn(s.conv_head, s.Hc) : -1 },
    Escape: s.token >= 0 ? { token: -1 } : undefined,
  }[event.key];
}

/** Keys of the whole stage; radio buttons keep their own arrows. */
function onKey(event, scene, draw) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inRow = scene.lane.element.contains(event.target);
  if (!inRow && !["a", "c", "Escape"].includes(event.key)) return;
  const traits = keyed(event, { ...scene.text, ...readState(scene.model) }, scene);
  if (!traits) return;
  event.preventDefault();
  event.stopPropagation();
  if ("token" in traits) scene.hover = -1;
  tell(scene.model, traits);
  if (inRow && traits.token >= 0) scene.lane.columns[traits.token].focus({ preventScroll: true });
  draw();
}

/** Pointing at tokens and choosing them. A drag that selects text chooses nothing. */
function listenToPointer(scene, draw) {
  const tokenAt = (event) => Number(event.target.closest(".cv-column")?.dataset.i ?? -1);
  const point = (i) => i !== scene.hover && ((scene.hover = i), draw());
  const row = scene.lane.element;
  row.addEventListener("pointerover", (event) => point(tokenAt(event)));
  row.addEventListener("pointerleave", () => point(-1));
  row.addEventListener("click", (event) => {
    const token = tokenAt(event);
    if (token < 0 || !getSelection().isCollapsed) return;
    scene.hover = -1;
    tell(scene.model, { token: token === scene.model.get("token") ? -1 : token });
    draw();
  });
}

/** The stage of a view: its element, `draw` to draw it soon, and `stop` for when it is taken away. */
export function makeStage(model) {
  const text = readText(model);
  const s = { ...text, ...readState(model) };
  const line = (name, options = {}) => make("p", { class: `cv-caption cv-${name}`, ...options });
  const captions = { far: line("far"), near: line("near"), pointed: line("pointed", { "aria-live": "polite" }) };
  captions.tables = make("div", { class: "cv-tables" });
  const marked = { looked: new Map(), token: -1 };
  const parts = { captions, lane: makeLane(s), selectors: makeSelectors(model, s) };
  const scene = { model, text, marked, hover: -1, centres: [], ...parts };
  const below = s.Hc ? [captions.near] : [];
  const how = make("p", { class: "cv-legend" }, ...legend(s));
  const words = [how, scene.selectors.element, captions.far, scene.lane.element];
  const all = [...words, ...below, captions.pointed, captions.tables];
  scene.element = make("section", { class: "cv-stage", "aria-label": "heads of one layer" }, ...all);
  const draw = soon(() => drawStage(scene));
  const stops = [follow(scene, draw), draw.stop];
  scene.element.addEventListener("keydown", (event) => onKey(event, scene, draw));
  listenToPointer(scene, draw);
  const picture = () => [captions.far, scene.lane.lane, ...below];
  const numbers = () => numbersShown(scene);
  return { element: scene.element, picture, numbers, keys: keysOf(s), stop: () => stops.forEach((stop) => stop()) };
}

/** The numbers behind the picture: a token's weights, or those of all tokens. */
function numbersShown({ shown }) {
  if (!shown) return [];
  return shown.from < 0 ? layerRows(shown) : tokenRows(shown);
}

/** Draw again when a trait changes or the place does. */
function follow(scene, draw) {
  const { model } = scene;
  const unpack = () => {
    const near = weightsOf(model.get("conv_kernel"));
    const [H, T] = [model.get("conv_heads"), model.get("tokens").length];
    scene.layer = { far: weightsOf(model.get("attention")), near, K: H ? near.length / (H + 1) / T : 0 };
  };
  unpack();
  const { element, columns } = scene.lane;
  const chosen = () => model.get("token") >= 0 && scene.width && reveal(element, columns[model.get("token")]);
  const stops = [listen(model, ["answered"], unpack), listen(model, STATE, draw), listen(model, ["token"], chosen)];
  const seen = new ResizeObserver(() => {
    const [before, width] = [scene.width, scene.lane.lane.offsetWidth];
    scene.width = width; // 0 while it is hidden
    if (!width) return;
    measure(scene);
    draw();
    if (!before) chosen();
  });
  seen.observe(scene.lane.lane);
  seen.observe(scene.lane.element);
  return () => (stops.forEach((stop) => stop()), seen.disconnect());
}
