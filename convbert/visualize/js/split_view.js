// Who does the work: layers by tokens, from attention's blue to convolution's orange. A cell opens its layer below.
import { listen, make, notesOf, runsLeft, show, tell } from "./common.js";
import { showView } from "./frame.js";
import { lengthsOf, shareOf, sum } from "./marks.js";
import { nameOf } from "./panel.js";
import { fit, makeStage, readText, reveal, soon, STATE } from "./stage.js";

const HOW = "Choose a cell to open its layer.";
const KEYS = [
  ["← → ↑ ↓", "another cell"],
  ["Home End", "the first token, the last"],
  ["Enter", "open a cell's layer, or close it"],
];

/** The attention heads' part of the work, `(L, T)`, and how far the scale reaches to either side of one half. */
function sharesOf(s) {
  const shares = Float64Array.from({ length: s.L * s.T }, (_, at) => {
    return shareOf(lengthsOf(s.norms, Math.floor(at / s.T), s.H, s.T, at % s.T), s.Ha);
  });
  const furthest = shares.reduce((most, share) => Math.max(most, Math.abs(share - 0.5)), 0);
  return { shares, reach: Math.max(0.1, Math.ceil(furthest * 20) / 20) };
}

/** What a cell says. */
function cellText(s, layer, token) {
  const lengths = lengthsOf(s.norms, layer, s.H, s.T, token);
  const [far, near] = [sum(lengths.subarray(0, s.Ha)), sum(lengths.subarray(s.Ha))];
  const share = shareOf(lengths, s.Ha);
  const attention = `attention ${show(share)} of the work (length ${show(far)})`;
  return `Layer ${layer}, ${nameOf(s, token)}: ${attention}, convolution ${show(1 - share)} (length ${show(near)})`;
}

/** From one end to the other: words, numbers and colours. */
function scaleOf(s, reach) {
  const end = show(0.5 + reach, 2);
  const steps = [...Array(16).keys()].map((i) => {
    const kind = i < 8 ? "cv-attention" : "cv-conv";
    return make("span", { class: `cv-step ${kind}`, style: `--deep: ${(100 * Math.abs(7.5 - i)) / 7.5}%` });
  });
  const ramp = make("span", { class: "cv-ramp" }, ...steps, make("span", { class: "cv-ramp-name" }, "even"));
  const words = [make("b", { class: "cv-attention" }, `attention ${end}`), ramp];
  const scale = make("div", { class: "cv-scale" }, ...words, make("b", { class: "cv-conv" }, `convolution ${end}`));
  return s.Hc ? scale : make("div", { class: "cv-scale" }, "This model has no convolution: all work is attention's.");
}

/** One cell: the further from one half, the stronger its colour. */
function makeCell(s, layer, token, share, reach) {
  const kind = share >= 0.5 ? "cv-attention" : "cv-conv";
  const options = { class: `cv-cell ${kind}`, role: "gridcell", tabindex: layer || token ? -1 : 0 };
  const cell = make("div", { ...options, "data-at": layer * s.T + token, "aria-label": cellText(s, layer, token) });
  cell.style.setProperty("--deep", `${((100 * Math.abs(share - 0.5)) / reach).toFixed(1)}%`);
  return cell;
}

/** The attention heads' part of the work, layers by tokens, as a table to copy. */
function shareRows(s, shares) {
  const rows = [...Array(s.L).keys()].map((layer) => [layer, ...shares.subarray(layer * s.T, (layer + 1) * s.T)]);
  return [["layer \\ attention's share", ...s.tokens.map((_, i) => nameOf(s, i))], ...rows];
}

/** The map: a row of names, then a row of cells per layer. */
function makeMap(s, { shares, reach }) {
  const corner = make("div", { class: "cv-side", role: "columnheader" }, "layer");
  const name = (i) => make("span", { dir: "auto" }, nameOf(s, i));
  const names = s.tokens.map((_, i) => make("div", { class: "cv-name", role: "columnheader" }, name(i)));
  const rows = [...Array(s.L).keys()].map((layer) => {
    const cells = s.tokens.map((_, token) => makeCell(s, layer, token, shares[layer * s.T + token], reach));
    const side = make("div", { class: "cv-side", role: "rowheader" }, String(layer));
    return make("div", { class: "cv-row", role: "row" }, side, ...cells);
  });
  const label = "share of attention and convolution in the work, layers by tokens";
  const head = make("div", { class: "cv-row cv-names", role: "row" }, corner, ...names);
  const grid = make("div", { class: "cv-map", role: "grid", "aria-label": label }, head, ...rows);
  grid.style.setProperty("--columns", s.T);
  return make("div", { class: "cv-scroll", dir: runsLeft(s.sources) ? "rtl" : "ltr" }, grid);
}

/** Where an arrow leads from a cell; undefined for other keys. */
function arrowFrom(key, at, s, sign) {
  const [layer, token] = [Math.floor(at / s.T), at % s.T];
  const inside = (row, column) => Math.min(Math.max(row, 0), s.L - 1) * s.T + Math.min(Math.max(column, 0), s.T - 1);
  return {
    ArrowLeft: inside(layer, token - sign),
    ArrowRight: inside(layer, token + sign),
    ArrowUp: inside(layer - 1, token),
    ArrowDown: inside(layer + 1, token),
    Home: inside(layer, 0),
    End: inside(layer, s.T - 1),
  }[key];
}

/** Open a cell, or close it when it is open. */
function toggle(model, s, at) {
  const [layer, token] = [Math.floor(at / s.T), at % s.T];
  const open = model.get("layer") === layer && model.get("token") === token;
  tell(model, open ? { layer: -1, token: -1 } : { layer, token });
}

/** Pointer and keys of the map. `read(at)` shows the numbers of a cell, or of none. */
function listenToMap(map, model, s, read) {
  const sign = map.dir === "rtl" ? -1 : 1;
  const atOf = (event) => Number(event.target.closest(".cv-cell")?.dataset.at ?? -1);
  const focusOn = (at) => {
    for (const cell of map.querySelectorAll('.cv-cell[tabindex="0"]')) cell.tabIndex = -1;
    const cell = map.querySelector(`[data-at="${at}"]`);
    cell.tabIndex = 0;
    cell.focus();
  };
  map.addEventListener("pointerover", (event) => read(atOf(event)));
  map.addEventListener("pointerleave", () => read(-1));
  map.addEventListener("focusin", (event) => read(atOf(event)));
  map.addEventListener("click", (event) => atOf(event) >= 0 && (focusOn(atOf(event)), toggle(model, s, atOf(event))));
  map.addEventListener("keydown", (event) => {
    const at = atOf(event);
    if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const next = arrowFrom(event.key, at, s, sign);
    if (next !== undefined) focusOn(next);
    else if (event.key === "Enter" || event.key === " ") toggle(model, s, at);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
}

const view = {
  render({ model, el }) {
    const s = readText(model);
    const scaled = sharesOf(s);
    const map = makeMap(s, scaled);
    const stage = makeStage(model);
    const words = make("p", { class: "cv-caption cv-pointed", "aria-live": "polite" }, HOW);
    const close = make("button", { class: "cv-close", onclick: () => tell(model, { layer: -1, token: -1 }) });
    const below = make("div", { class: "cv-below" }, close, stage.element);
    const scale = scaleOf(s, scaled.reach);
    const root = make("div", {}, ...notesOf(model), scale, map, words, below);
    const mark = soon(() => {
      const [layer, token] = [model.get("layer"), model.get("token")];
      if (layer < 0 && below.contains(document.activeElement)) map.querySelector('.cv-cell[tabindex="0"]').focus();
      below.hidden = layer < 0;
      close.textContent = `Close layer ${layer}`;
      map.querySelectorAll(".cv-open").forEach((cell) => cell.classList.remove("cv-open"));
      if (layer >= 0) map.querySelectorAll(".cv-row")[layer + 1].classList.add("cv-open");
      if (layer < 0 || token < 0) return;
      const cell = map.querySelector(`[data-at="${layer * s.T + token}"]`);
      cell.classList.add("cv-open");
      reveal(map, cell);
    });
    const read = (at) => (at < 0 ? HOW : cellText(s, Math.floor(at / s.T), at % s.T));
    listenToMap(map, model, s, (at) => (words.textContent = read(at)));
    root.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && model.get("layer") >= 0) tell(model, { layer: -1, token: -1 });
    });
    const forget = listen(model, ["layer", "token"], mark);
    mark();
    const seen = new ResizeObserver(() => map.offsetWidth && fit(map, map.firstChild));
    seen.observe(map);
    const picture = () => [scale, map.firstChild, ...(model.get("layer") < 0 ? [] : stage.picture())];
    const numbers = () => [...shareRows(s, scaled.shares), ...(model.get("layer") < 0 ? [] : [[], ...stage.numbers()])];
    const keys = [...KEYS, ...stage.keys.slice(0, -1).map(([key, does]) => [key, `${does}, in an open layer`])];
    const stops = [stage.stop, mark.stop, forget, () => seen.disconnect()];
    keys.push(["Esc", "choose no token; close the layer"]);
    return showView(model, el, { asks: ["layer"], state: STATE, parts: [root], picture, numbers, keys, stops });
  },
};
export default view;
