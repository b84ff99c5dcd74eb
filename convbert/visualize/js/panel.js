// The words and numbers around the picture: selectors, captions, read-outs.
import { choices, make, show, tell } from "./common.js";
import { lengthsOf, shareOf, sum, windowOf, workOf } from "./marks.js";

const PAIRS = [["all", "all"], ["AA", "A → A"], ["AB", "A → B"], ["BA", "B → A"], ["BB", "B → B"]];

/** What a token is called: its piece, or what stood in the text where the vocabulary has no piece for it. */
export const nameOf = (s, i) => (s.tokens[i] === "[UNK]" && s.sources[i] ? s.sources[i] : s.tokens[i]);

/** A ten-thousandth as it is read. */
const asWeight = (weight) => show(weight / 10000);

/** A distance in tokens, with its sign. */
const asDistance = (steps) => (steps > 0 ? `+${steps}` : steps < 0 ? `−${-steps}` : "0");

/** Which head is drawn. */
const headName = (head, heads) => (head < 0 ? `mean of ${heads} heads` : `head ${head}`);

/** A token in a sentence: text of either direction does not disturb what stands around it. */
const word = (s, i) => make("bdi", { class: "cv-word" }, nameOf(s, i));

/** Choices of layer, heads, sentences and special tokens. `update(s)` follows the traits. */
export function makeSelectors(model, s) {
  const row = (count, kind) => [...Array(count).keys()].map((i) => [i, String(i), kind]);
  const heads = (count, kind) => [[-1, "mean", kind], ...row(count, kind)];
  const pick = (trait) => (value) => tell(model, { [trait]: value });
  const groups = {
    layer: choices("Layer", row(s.L, "layer"), s.layer, pick("layer")),
    attention_head: choices("Attention head", heads(s.Ha, "attention"), s.attention_head, pick("attention_head")),
  };
  if (s.Hc) groups.conv_head = choices("Convolution head", heads(s.Hc, "conv"), s.conv_head, pick("conv_head"));
  if (s.segments.includes(1)) groups.sentences = choices("Sentences", PAIRS, s.sentences, pick("sentences"));
  const special = [[true, "shown"], [false, "hidden"]];
  groups.special_tokens = choices("[CLS], [SEP]", special, s.special_tokens, pick("special_tokens"));
  for (const name of ["layer", "attention_head", "conv_head"]) groups[name]?.classList.add("cv-gauges");
  const element = make("div", { class: "cv-selectors" }, ...Object.values(groups));
  const update = (now) => {
    for (const [name, group] of Object.entries(groups)) group.take(now[name]);
    gaugeHeads(groups, now);
  };
  gaugeLayers(groups.layer, s);
  return { element, update };
}

/** Under each layer's number, how its work is split. */
function gaugeLayers(group, s) {
  for (let layer = 0; layer < s.L; layer++) {
    const share = sum(workOf(s.norms, layer, s.H, s.T).subarray(0, s.Ha));
    const text = `layer ${layer}: attention ${show(share)} of the work, convolution ${show(1 - share)}`;
    group.gauge(layer, { share: `${100 * share}%` }, s.Hc ? text : `layer ${layer}`);
  }
}

/** Under each head's number, how much of the layer's work it does. */
function gaugeHeads(groups, s) {
  const work = workOf(s.norms, s.layer, s.H, s.T);
  const most = Math.max(...work) || 1;
  work.forEach((share, h) => {
    const [group, head] = h < s.Ha ? [groups.attention_head, h] : [groups.conv_head, h - s.Ha];
    group.gauge(head, { work: share / most }, `head ${head} does ${show(share)} of the work in layer ${s.layer}`);
  });
}

/** What the arcs show, in a sentence. `from` is the token that is looked from, or -1; `pairs` are the arcs. */
export function attentionCaption(s, from, pairs) {
  const where = `, layer ${s.layer}, ${headName(s.attention_head, s.Ha)}: `;
  const weakest = pairs.length ? asWeight(pairs[pairs.length - 1][2]) : "";
  const words = [make("b", { class: "cv-attention" }, "Attention"), where];
  const some = pairs.length < s.T ? `, its ${pairs.length} strongest` : "";
  if (from >= 0 && pairs.length) words.push("where ", word(s, from), ` looks${some}`);
  else if (pairs.length) words.push(`the ${pairs.length} strongest looks of all tokens, ${weakest} and above`);
  if (!pairs.length) words.push(from < 0 ? "no token" : word(s, from), " looks nowhere that the choices above show");
  return words;
}

/** What is left out, in a sentence, or nothing. `row` are the weights of the token that is looked from. */
export function hiddenCaption(s, from, row) {
  if (s.special_tokens) return [];
  const hidden = from < 0 ? null : sum([...row].filter((_, j) => s.special[j]));
  const part = hidden === null ? "" : ` (${asWeight(hidden)} of this row)`;
  return [`. Arcs to special tokens are hidden${part}; the other weights are not renormalised`];
}

/** What the bars show, in a sentence. */
export function convCaption(s, from, kernel) {
  const where = `, layer ${s.layer}, ${headName(s.conv_head, s.Hc)}: `;
  const words = [make("b", { class: "cv-conv" }, "Convolution"), where];
  if (from < 0) return [...words, `each token's own kernel over its ${s.K} nearest`];
  const { beyond } = windowOf(kernel, from, s.T);
  const lost = beyond ? `; ${asWeight(beyond)} of it lies beyond the text` : "";
  return [...words, "how ", word(s, from), ` mixes its ${s.K} nearest; dotted: all alike, ${show(1 / s.K)}${lost}`];
}

/** The values under the cursor, in words for eye and ear. */
export function pointed(s, from, other, row, kernel) {
  if (from < 0) return ["Point at a token, or choose one, to read its numbers."];
  const words = [`Token ${from} `, word(s, from), ...sourceOf(s, from)];
  if (other < 0) return words;
  const near = s.Hc ? kernel[other - from + (s.K - 1) / 2] : undefined;
  const bars = near === undefined ? "" : `, kernel weight ${asWeight(near)}`;
  const numbers = `: attention ${asWeight(row[other])} at distance ${asDistance(other - from)}${bars}`;
  return [...words, ` → token ${other} `, word(s, other), ...sourceOf(s, other), numbers];
}

/** What stood in the text there, and in which sentence. */
function sourceOf(s, i) {
  const sentence = s.segments.includes(1) ? ` in sentence ${"AB"[s.segments[i]]}` : "";
  if (s.special[i]) return [" (special)"];
  return [" (“", make("bdi", {}, s.sources[i]), `”${sentence})`];
}

/** A small table; a cell is text or an element. */
function table(kind, title, head, rows) {
  const cells = (tag, row) => row.map((cell) => make(tag, tag === "th" ? { scope: "col" } : {}, cell));
  const body = rows.map((row) => make("tr", {}, ...cells("td", row)));
  const caption = make("caption", { class: kind ? `cv-${kind}` : null }, ...title);
  const top = make("thead", {}, make("tr", {}, ...cells("th", head)));
  return make("table", {}, caption, top, make("tbody", {}, ...body));
}

/** The tables below the picture: the strongest looks, the strongest of the kernel, and who did the work. */
export function tables(s, from, best, kernel) {
  const shown = [looks(s, from, best.slice(0, 5))];
  if (s.Hc && from >= 0) shown.push(mixes(s, from, kernel));
  return [...shown, from < 0 ? layerWork(s) : tokenWork(s, from)];
}

const looks = (s, from, pairs) => {
  const way = (i, j) => (from < 0 ? make("span", {}, word(s, i), " → ", word(s, j)) : word(s, j));
  const rows = pairs.map(([i, j, weight]) => [way(i, j), asWeight(weight), asDistance(j - i)]);
  const title = from < 0 ? ["Strongest looks"] : [word(s, from), " looks at"];
  return table("attention", title, ["token", "weight", "distance"], rows);
};

const mixes = (s, from, kernel) => {
  const { inside } = windowOf(kernel, from, s.T);
  const best = inside.sort((p, q) => q[1] - p[1]).slice(0, 5);
  const rows = best.map(([j, weight]) => [word(s, j), asWeight(weight), asDistance(j - from)]);
  return table("conv", [word(s, from), " mixes"], ["token", "weight", "distance"], rows);
};

/** Rows of a table of work: both kinds, the chosen heads, then those that work most. `cells` reads an amount. */
function workRows(s, amounts, cells) {
  const rows = [["attention", ...cells(sum(amounts.subarray(0, s.Ha)))]];
  if (s.Hc) rows.push(["convolution", ...cells(sum(amounts.subarray(s.Ha)))]);
  const chosen = (h) => h === s.attention_head || (s.conv_head >= 0 && h === s.Ha + s.conv_head);
  const heads = [...amounts.keys()].sort((g, h) => chosen(h) - chosen(g) || amounts[h] - amounts[g]);
  const name = (h) => (h < s.Ha ? `attention head ${h}` : `convolution head ${h - s.Ha}`);
  return [...rows, ...heads.map((h) => [name(h), ...cells(amounts[h])])].slice(0, 5);
}

const layerWork = (s) => {
  const rows = workRows(s, workOf(s.norms, s.layer, s.H, s.T), (share) => [show(share)]);
  return table("", [`Who does the work in layer ${s.layer}`], ["heads", "mean share"], rows);
};

const tokenWork = (s, from) => {
  const lengths = lengthsOf(s.norms, s.layer, s.H, s.T, from);
  const total = sum(lengths) || 1;
  const rows = workRows(s, lengths, (length) => [show(length), show(length / total)]);
  return table("", ["Who works on ", word(s, from)], ["heads", "length added", "share"], rows);
};

/** Under a token: how its work is split, as a title for the pointer. */
export function splitTitle(s, i) {
  const share = shareOf(lengthsOf(s.norms, s.layer, s.H, s.T, i), s.Ha);
  return { share, title: `${nameOf(s, i)}: attention ${show(share)} of the work, convolution ${show(1 - share)}` };
}

/** A chosen token's row of weights and its kernel, as a table to copy. */
export function tokenRows({ s, from, row, kernel }) {
  const half = (s.K - 1) / 2;
  const rows = s.tokens.map((_, j) => {
    const near = kernel[j - from + half];
    return [j, nameOf(s, j), j - from, row[j] / 10000, ...(s.Hc ? [near === undefined ? "" : near / 10000] : [])];
  });
  const attention = `attention of ${nameOf(s, from)}, layer ${s.layer}, ${headName(s.attention_head, s.Ha)}`;
  const conv = s.Hc ? [`its kernel, ${headName(s.conv_head, s.Hc)}`] : [];
  return [["token", "text", "distance", attention, ...conv], ...rows];
}

/** All tokens' weights, then all kernels, as a table to copy. */
export function layerRows({ s, map, kernels }) {
  const names = s.tokens.map((_, i) => nameOf(s, i));
  const part = (weights, i, width) => [...weights.subarray(i * width, (i + 1) * width)].map((weight) => weight / 10000);
  const rows = (weights, width) => names.map((name, i) => [name, ...part(weights, i, width)]);
  const attention = `attention, layer ${s.layer}, ${headName(s.attention_head, s.Ha)}`;
  if (!s.Hc) return [[attention, ...names], ...rows(map, s.T)];
  const steps = [...Array(s.K).keys()].map((k) => k - (s.K - 1) / 2);
  const conv = `kernels, layer ${s.layer}, ${headName(s.conv_head, s.Hc)}`;
  return [[attention, ...names], ...rows(map, s.T), [], [conv, ...steps], ...rows(kernels, s.K)];
}
