/**
 * A model that `convbert export --layout browser` wrote, downloaded with its progress and run by ONNX Runtime.
 */
import { WordPiece } from "./wordpiece.js";

const BUILD = new URL("build/", import.meta.url); // what tools/live.py writes

/** Why a model cannot run in this browser, or an empty text. */
export function whatIsMissing(scope = globalThis) {
  const found = { WebAssembly: scope.WebAssembly, DecompressionStream: scope.DecompressionStream };
  return Object.keys(found).filter((name) => found[name] === undefined).join(" and ");
}

/** The content of a file of the build, which fails with its name. */
async function request(name) {
  const response = await fetch(new URL(name, BUILD));
  if (!response.ok) throw new Error(`the server answers ${response.status} for ${name}`);
  return response;
}

/** What `gzip` made smaller; a server may have inflated it already. */
async function inflate(bytes) {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A file, whose bytes are counted as they come. */
async function download(name, count) {
  const chunks = [];
  const reader = (await request(name)).body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    chunks.push(part.value);
    count(part.value.length);
  }
  return inflate(new Uint8Array(await new Blob(chunks).arrayBuffer()));
}

/** What is computed once, for all boxes of a page; a failure is forgotten, so that it can be tried again. */
function once(compute) {
  const made = new Map();
  return (key, ...rest) => {
    if (!made.has(key)) {
      const promise = compute(key, ...rest);
      promise.catch(() => made.delete(key));
      made.set(key, promise);
    }
    return made.get(key);
  };
}

const loadRuntime = once(async (wasm, script, count) => {
  const [runtime, binary] = await Promise.all([import(new URL(script.file, BUILD)), download(wasm, count)]);
  count(script.bytes);
  runtime.env.wasm.numThreads = 1; // more threads need headers that static servers do not send
  runtime.env.wasm.wasmBinary = binary;
  return runtime;
});

/** A tokenizer and a graph. */
export class Model {
  constructor(runtime, session, tokenizer, config) {
    Object.assign(this, { runtime, session, tokenizer, config });
  }

  /**
   * Encode a text, or a pair of texts, and run the graph.
   * @param {string} text
   * @param {string} [pair]
   * @returns {Promise<{encoded: object, outputs: Object<string, {data: Float32Array, dims: number[]}>}>}
   */
  async run(text, pair) {
    const encoded = this.tokenizer.encode(text, pair, this.config.max_position_embeddings);
    const columns = { input_ids: encoded.ids, token_type_ids: encoded.types, attention_mask: encoded.ids.map(() => 1) };
    const tensor = (column) => new this.runtime.Tensor("int64", BigInt64Array.from(column, BigInt), [1, column.length]);
    const feeds = Object.fromEntries(this.session.inputNames.map((name) => [name, tensor(columns[name])]));
    return { encoded, outputs: await this.session.run(feeds) };
  }
}

/**
 * Download and set up the model of a task.
 * @param {string} task a key of the manifest's `models`
 * @param {(share: number) => void} [progress] is told the part that has come, from 0 to 1
 * @returns {Promise<Model>}
 */
export const loadModel = once(async (task, progress = () => {}) => {
  const { runtime: parts, models } = await (await request("manifest.json")).json();
  const { graph, tokenizer, config } = models[task].files;
  const files = [...Object.values(parts), graph, tokenizer, config];
  const total = files.reduce((sum, file) => sum + file.bytes, 0);
  let come = 0;
  const count = (bytes) => progress(Math.min(1, (come += bytes) / total));
  const json = async ({ file }) => JSON.parse(new TextDecoder().decode(await download(file, count)));
  const [runtime, bytes, vocabulary, options] = await Promise.all([
    loadRuntime(parts.wasm.file, parts.script, count), download(graph.file, count), json(tokenizer), json(config),
  ]);
  const settings = { disable_quant_qdq: "1" }; // int8 weights become float32 when the graph is loaded, not in every run
  const how = { executionProviders: ["wasm"], extra: { session: settings } };
  const session = await runtime.InferenceSession.create(bytes, how);
  return new Model(runtime, session, new WordPiece(vocabulary), options);
});
