// What the weights of a layer look like as arcs and bars: pure functions over numbers, no element is touched here.

const WHOLE = 10000; // a weight of one, in the ten-thousandths that travel
const LEVELS = 8; // of thickness of an arc

/** One head's `(T, width)` of `(H + 1, T, width)`; behind the last head stands the mean of all, which is head -1. */
export function headOf(weights, head, heads, T, width) {
  const start = (head < 0 ? heads : head) * T * width;
  return weights.subarray(start, start + T * width);
}

/** Which arcs pass: `from(i)` and `to(j)`, by sentence ("all", "AA", "AB", "BA", "BB") and special tokens. */
export function sieve({ sentences, segments, special, special_tokens }) {
  const [a, b] = sentences === "all" ? [-1, -1] : [...sentences].map((sentence) => "AB".indexOf(sentence));
  return {
    from: (i) => a < 0 || segments[i] === a,
    to: (j) => (b < 0 || segments[j] === b) && (special_tokens || !special[j]),
  };
}

/** The `most` strongest pairs `[i, j, weight]` of some rows, largest first: counted, as 512 tokens have 262,144. */
export function strongest(map, rows, T, passes, most) {
  const targets = [...Array(T).keys()].filter(passes.to);
  const sources = rows.filter(passes.from);
  const counts = new Uint32Array(WHOLE + 1);
  for (const i of sources) for (const j of targets) counts[map[i * T + j]]++;
  let least = WHOLE;
  let left = most;
  while (least > 1 && counts[least] <= left) left -= counts[least--];
  const pairs = [];
  for (const i of sources) {
    for (const j of targets) {
      const weight = map[i * T + j];
      if (weight > least || (weight === least && left-- > 0)) pairs.push([i, j, weight]);
    }
  }
  return pairs.sort((p, q) => q[2] - p[2]);
}

/** A bridge from one place to another: the further the higher, flat on top when it is long. */
function bridge(from, to, steps, base, T) {
  if (steps === 0) return `M${from - 5} ${base}c-9 -24 19 -24 10 0`;
  const rise = 16 + (base - 24) * Math.sqrt(steps / Math.max(T - 1, 8));
  const way = Math.sign(to - from);
  const run = way * Math.min(Math.abs(to - from) / 2, 80);
  const up = `c0 ${-0.55 * rise} ${0.45 * run} ${-rise} ${run} ${-rise}`;
  return `M${from} ${base}${up}H${to - run}c${0.55 * run} 0 ${run} ${0.45 * rise} ${run} ${rise}`;
}

/** Path data of arcs, one string per level of thickness, thinnest first; a head that looks everywhere has thin ones. */
export function arcs(pairs, centres, base) {
  const levels = Array(LEVELS).fill("");
  const most = Math.max(pairs.length ? pairs[0][2] : 0, WHOLE / 20);
  for (const [i, j, weight] of pairs) {
    const level = Math.ceil((weight / most) * LEVELS) - 1;
    levels[level] += bridge(centres[i], centres[j], Math.abs(i - j), base, centres.length);
  }
  return levels;
}

/** A kernel's window on a text: `[neighbour, weight]` where there is a token, and the weight beyond the text. */
export function windowOf(kernel, token, T) {
  const half = (kernel.length - 1) / 2;
  const inside = [];
  let beyond = 0;
  kernel.forEach((weight, k) => {
    const j = token + k - half;
    if (j >= 0 && j < T) inside.push([j, weight]);
    else beyond += weight;
  });
  return { inside, beyond };
}

/** Path data of a bar that hangs down. */
export const bar = (x, width, top, height) => `M${x} ${top}h${width}v${height}h${-width}z`;

/** Every token's kernel as a small picture under it: path data. `sign` is -1 where text runs from right to left. */
export function smallKernels(kernels, K, centres, widths, height, sign) {
  const most = Math.max(1, ...kernels);
  let path = "";
  centres.forEach((centre, i) => {
    const step = Math.min(widths[i] - 10, 8 * K) / K;
    for (let k = 0; k < K; k++) {
      const x = centre + sign * (k - (K - 1) / 2) * step - step / 2;
      const tall = Math.max(0.5, (kernels[i * K + k] / most) * height);
      path += bar(x.toFixed(1), (step * 0.8).toFixed(1), 6, tall.toFixed(1));
    }
  });
  return path;
}

/** Each head's part of a layer's work, `(H,)`: the mean over all tokens of its length over that of all heads. */
export function workOf(norms, layer, H, T) {
  const lengths = norms.subarray(layer * H * T, (layer + 1) * H * T);
  const work = new Float64Array(H);
  for (let t = 0; t < T; t++) {
    let total = 0;
    for (let h = 0; h < H; h++) total += lengths[h * T + t];
    for (let h = 0; h < H; h++) work[h] += lengths[h * T + t] / (total || 1) / T;
  }
  return work;
}

/** What each head added to one token: lengths `(H,)`. */
export function lengthsOf(norms, layer, H, T, token) {
  return Float64Array.from({ length: H }, (_, h) => norms[(layer * H + h) * T + token]);
}

/** Sum of some numbers. */
export const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

/** The attention heads' part of the work on a token, 0 to 1. */
export function shareOf(lengths, attentionHeads) {
  return sum(lengths.subarray(0, attentionHeads)) / (sum(lengths) || 1);
}
