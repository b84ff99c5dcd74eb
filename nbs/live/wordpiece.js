/**
 * BERT's tokenizer, from a `tokenizer.json`: the same ids and the same characters as `ConvBertTokenizer` in Python.
 */

import { isBlank, isControl, isPunctuation, withoutAccents } from "./unicode.js";

const IDEOGRAPH = new RegExp(
  "^[\\u4e00-\\u9fff\\u3400-\\u4dbf\\uf900-\\ufaff\\u{20000}-\\u{2a6df}\\u{2a700}-\\u{2b73f}\\u{2b740}-\\u{2b81f}" +
    "\\u{2b920}-\\u{2ceaf}\\u{2f800}-\\u{2fa1f}]$",
  "u",
);

/**
 * @typedef {object} Token
 * @property {number} id
 * @property {string} text as the vocabulary has it
 * @property {number} start its first character in the text, in UTF-16 units as JavaScript counts
 * @property {number} end one past its last
 * @property {number} word the number of its word
 */

/**
 * @typedef {object} Character of a text after normalisation
 * @property {string} text
 * @property {number} start of the character of the original text that it comes from
 * @property {number} end
 */

/** Characters with their places; half of a surrogate pair counts as U+FFFD, as in Python. */
function charactersOf(text, start = 0) {
  return Array.from(text, (character) => {
    const end = start + character.length;
    const found = { text: /^[\ud800-\udfff]$/.test(character) ? "\ufffd" : character, start, end };
    start = end;
    return found;
  });
}

/** Greedy WordPiece tokenizer of one `tokenizer.json`. */
export class WordPiece {
  /** @param {object} file the content of `tokenizer.json` */
  constructor(file) {
    const { model, normalizer, pre_tokenizer: splitter, added_tokens: added } = file;
    const kinds = [model?.type, normalizer?.type, splitter?.type].join(", ");
    if (kinds !== "WordPiece, BertNormalizer, BertPreTokenizer") {
      throw new Error(`a tokenizer of ${kinds} is not BERT's, and cannot be read here`);
    }
    const odd = added.find((token) => token.single_word || token.lstrip || token.rstrip || token.normalized);
    if (odd) throw new Error(`the added token ${odd.content} has rules of its own, which cannot be followed here`);
    this.vocab = new Map([...Object.entries(model.vocab), ...added.map((token) => [token.content, token.id])]);
    this.tokens = [];
    for (const [token, id] of this.vocab) this.tokens[id] = token;
    this.special = new Set(added.filter((token) => token.special).map((token) => token.id));
    this.added = added.map((token) => token.content).sort((a, b) => b.length - a.length); // the longest match first
    this.options = { ...model, ...normalizer };
  }

  /** @returns {number} the id of a token that must exist, such as `[CLS]` */
  id(token) {
    const id = this.vocab.get(token);
    if (id === undefined) throw new Error(`the vocabulary has no ${token}`);
    return id;
  }

  /**
   * The tokens of a text, without special tokens around them.
   * @param {string} text
   * @returns {Token[]}
   */
  tokenize(text) {
    let word = 0;
    return this.#split(text).flatMap(({ token, characters }) => {
      if (token) return [{ ...token, word: word++ }];
      return this.#words(characters).flatMap((found) => {
        const pieces = this.#pieces(found).map((piece) => ({ ...piece, word }));
        word += 1;
        return pieces;
      });
    });
  }

  /**
   * What a model reads of a text, or of a text and its pair; of what is too long, the end of the last text is cut off.
   * @param {string} text
   * @param {string} [pair]
   * @param {number} [length] most tokens
   * @returns {{ids: number[], types: number[], tokens: Token[], offset: number, cut: boolean}}
   *   `tokens` are those of the last text, and `offset` the position of the first of them
   */
  encode(text, pair, length = Infinity) {
    const [cls, sep] = [this.id("[CLS]"), this.id("[SEP]")];
    const lead = pair === undefined ? [cls] : [cls, ...this.tokenize(text).map((token) => token.id), sep];
    const all = this.tokenize(pair ?? text);
    const tokens = all.slice(0, Math.max(0, length - lead.length - 1));
    const ids = [...lead, ...tokens.map((token) => token.id), sep];
    const types = ids.map((_, i) => Number(pair !== undefined && i >= lead.length));
    return { ids, types, tokens, offset: lead.length, cut: tokens.length < all.length };
  }

  /** Parts of a text: added tokens such as `[MASK]`, and the characters between them. */
  #split(text) {
    const parts = [];
    let from = 0;
    const flush = (to) => to > from && parts.push({ characters: charactersOf(text.slice(from, to), from) });
    for (let at = 0; at < text.length; ) {
      const token = this.added.find((content) => content && text.startsWith(content, at));
      if (!token) {
        at += 1;
        continue;
      }
      flush(at);
      parts.push({ token: { id: this.vocab.get(token), text: token, start: at, end: at + token.length } });
      at = from = at + token.length;
    }
    flush(text.length);
    return parts;
  }

  /** Normalised characters, in words: runs without white space, punctuation apart. */
  #words(characters) {
    const words = [];
    let open = false;
    for (const character of characters.flatMap((one) => this.#normalize(one))) {
      const blank = isBlank(character.text);
      const mark = isPunctuation(character.text);
      if (!blank && (mark || !open)) words.push([character]);
      else if (!blank) words.at(-1).push(character);
      open = !blank && !mark;
    }
    return words;
  }

  /** The characters that one becomes, all at its place. */
  #normalize({ text, start, end }) {
    const { clean_text, handle_chinese_chars, strip_accents, lowercase } = this.options;
    let found = clean_text && isControl(text) ? "" : text;
    if (clean_text && isBlank(found)) found = " ";
    if (handle_chinese_chars && IDEOGRAPH.test(found)) found = ` ${found} `;
    if (strip_accents ?? lowercase) found = withoutAccents(found);
    if (lowercase) found = Array.from(found, (one) => one.toLowerCase()).join(""); // one by one: no final sigma
    return Array.from(found, (one) => ({ text: one, start, end }));
  }

  /** The longest pieces of a word that the vocabulary has, from its front; one unknown token if there are none. */
  #pieces(word) {
    const { unk_token, continuing_subword_prefix: prefix, max_input_chars_per_word: most } = this.options;
    const unknown = [{ id: this.id(unk_token), text: unk_token, start: word[0].start, end: word.at(-1).end }];
    if (word.length > most) return unknown;
    const pieces = [];
    for (let from = 0, to; from < word.length; from = to) {
      let text;
      for (to = word.length; to > from; to -= 1) {
        text = (from ? prefix : "") + word.slice(from, to).map((one) => one.text).join("");
        if (this.vocab.has(text)) break;
      }
      if (to === from) return unknown;
      pieces.push({ id: this.vocab.get(text), text, start: word[from].start, end: word[to - 1].end });
    }
    return pieces;
  }
}
