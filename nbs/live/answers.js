/**
 * From a model's outputs to answers: the same numbers as the pipelines in Python give.
 *
 * `outputs` are those of `Model.run`: each has `data`, flat, and `dims`; the batch is one text.
 */

/** @typedef {import("./wordpiece.js").Token} Token */
/** @typedef {{ids: number[], tokens: Token[], offset: number}} Encoded as `WordPiece.encode` returns it */
/** @typedef {{data: Float32Array, dims: number[]}} Output */

const logSumExp = (values) => {
  const most = values.reduce((a, b) => Math.max(a, b), -Infinity);
  return most + Math.log(values.reduce((sum, value) => sum + Math.exp(value - most), 0));
};

/** @returns {number[]} probabilities that sum to 1 */
export function softmax(logits) {
  const total = logSumExp(logits);
  return Array.from(logits, (logit) => Math.exp(logit - total));
}

/** Positions of the largest values, the largest first. */
function largest(values, count) {
  const order = Array.from(values, (_, i) => i).sort((a, b) => values[b] - values[a] || a - b);
  return order.slice(0, count);
}

/** One row of `(1, T, N)`. */
function row({ data, dims }, position) {
  const size = dims.at(-1);
  return data.subarray(position * size, (position + 1) * size);
}

/** @returns {string[]} a model's labels, by id */
export const labelsOf = (config) => Object.keys(config.id2label).map((_, i) => config.id2label[i]);

/**
 * The most probable tokens of each mask.
 * @returns {{label: string, score: number}[][]} one list for each mask, the best first
 */
export function fillMask({ ids }, { logits }, tokenizer, count = 5) {
  const mask = tokenizer.id("[MASK]");
  const masks = ids.flatMap((id, position) => (id === mask ? [position] : []));
  return masks.map((position) => {
    const scores = softmax(row(logits, position));
    return largest(scores, count).map((id) => ({ label: tokenizer.tokens[id], score: scores[id] }));
  });
}

/**
 * The labels of a text; several may hold where the config says so.
 * @returns {{label: string, score: number}[]} the best first
 */
export function classify({ logits }, config) {
  const several = config.problem_type === "multi_label_classification" || logits.dims.at(-1) === 1;
  const scores = several ? Array.from(logits.data, (logit) => 1 / (1 + Math.exp(-logit))) : softmax(logits.data);
  const labels = labelsOf(config);
  return largest(scores, scores.length).map((id) => ({ label: labels[id], score: scores[id] }));
}

const LETTER = "[\\p{L}\\p{Nl}\\p{No}]";
const JOINING = new RegExp( // punctuation inside a word, as in convbert.pipelines.aggregation
  `(?<=${LETTER})['’](?=${LETTER})` +
    `|(?<=(?<![\\p{L}\\p{N}_])${LETTER})\\.(?=${LETTER}(?![\\p{L}\\p{N}_]))|(?<=\\p{Nd})[.,](?=\\p{Nd})`,
  "gu",
);

/**
 * Groups of tokens that a reader takes for one word.
 * @param {string} text
 * @param {Token[]} tokens
 * @returns {number[][]} positions in `tokens`
 */
export function spelledWords(text, tokens) {
  const inside = new Set(Array.from(text.matchAll(JOINING), (match) => match.index));
  const words = [];
  let end = 0;
  tokens.forEach((token, i) => {
    const last = tokens[i - 1];
    let same = last !== undefined && token.word === last.word;
    if (last?.end === token.start && token.start < token.end) {
      const border = [last.end - 1, token.start].filter((at) => /\p{P}/u.test(text[at]));
      if (border.length) same = border.every((at) => inside.has(at));
    }
    if (!same && token.start >= end) words.push([]);
    words.at(-1).push(i);
    end = Math.max(end, token.end);
  });
  return words;
}

/**
 * A label for each word: that of its first token.
 * @returns {{word: string, label: string, score: number, start: number, end: number}[]}
 */
export function tag(text, { tokens, offset }, { logits }, config) {
  const labels = labelsOf(config);
  return spelledWords(text, tokens).map((group) => {
    const scores = softmax(row(logits, offset + group[0]));
    const [best] = largest(scores, 1);
    const [start, end] = [tokens[group[0]].start, Math.max(...group.map((i) => tokens[i].end))];
    return { word: text.slice(start, end), label: labels[best], score: scores[best], start, end };
  });
}

/** Spans of at most `longest` tokens, the most probable first. */
function bestSpans(start, end, count, longest) {
  const spans = [];
  start.forEach((score, first) => {
    for (let last = first; last < Math.min(first + longest, end.length); last += 1) {
      spans.push({ first, last, score: score + end[last] });
    }
  });
  return spans.sort((a, b) => b.score - a.score || a.first - b.first || a.last - b.last).slice(0, count);
}

/** A span of tokens, widened to whole words. */
function wholeWords(tokens, first, last) {
  while (first > 0 && tokens[first - 1].word === tokens[first].word) first -= 1;
  while (last + 1 < tokens.length && tokens[last + 1].word === tokens[last].word) last += 1;
  return [tokens[first].start, tokens[last].end];
}

/**
 * The parts of a text that answer a question; equal texts are one answer.
 * @returns {{answer: string, score: number, start: number, end: number}[]} the best first
 */
export function answerQuestion(text, { tokens, offset }, outputs, count = 3, longest = 15) {
  const [start, end] = [outputs.start_logits, outputs.end_logits].map(({ data }) =>
    Array.from(data.subarray(offset, offset + tokens.length), (logit) => logit - data[0]),
  ); // relative to no answer, which is the first position
  const total = logSumExp([0, ...start]) + logSumExp([0, ...end]);
  const answers = new Map();
  for (const { first, last, score } of bestSpans(start, end, 2 * count + 10, longest)) {
    const [from, to] = wholeWords(tokens, first, last);
    const answer = text.slice(from, to);
    const key = answer.toLowerCase();
    const found = answers.get(key) ?? { answer, score: 0, start: from, end: to };
    found.score += Math.exp(score - total);
    answers.set(key, found);
  }
  return [...answers.values()].sort((a, b) => b.score - a.score).slice(0, count);
}

/**
 * The maps of one layer and head.
 * @param {Output} maps `(L, 1, H, T, N)`: attention weights, or convolution kernels
 * @returns {Float32Array[]} T rows of N
 */
export function headMap({ data, dims }, layer, head) {
  const [, , H, T, N] = dims;
  const at = (layer * H + head) * T * N;
  return Array.from({ length: T }, (_, t) => data.subarray(at + t * N, at + (t + 1) * N));
}

/**
 * Kernels as maps over the text: each token's kernel where its window lies.
 * @param {Float32Array[]} kernels T rows of K
 * @returns {number[][]} T rows of T
 */
export const bandOf = (kernels) =>
  kernels.map((kernel, t) => kernels.map((_, s) => kernel[s - t + Math.floor(kernel.length / 2)] ?? 0));
