// What every view shares: numbers, elements, the traits of a model, and what stands in for Python in an exported page.

/** Ten-thousandths as they come from Python, `(…)` in one row. */
export function weightsOf(view) {
  return new Uint16Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

/** float32 numbers as they come from Python. */
export function numbersOf(view) {
  return new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

/** A weight as it is read: four decimals, which is what travels. */
export function show(weight, digits = 4) {
  return (weight).toFixed(digits);
}

/** An element with attributes, listeners (`onclick`) and children; `class` and `style` as in HTML. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** What stands above a view: its title on a page of its own. */
export function titleOf(model) {
  return model.exported ? make("h1", {}, model.get("title")) : null;
}

/** What was said while the text was read. */
export function notesOf(model) {
  return model.get("notes").map((note) => make("p", { class: "cv-note", role: "note" }, note));
}

/** Whether a text runs from right to left: most of its letters do. `sources` are its parts. */
export function runsLeft(sources) {
  const text = sources.join("");
  const right = text.match(/[\p{sc=Hebrew}\p{sc=Arabic}\p{sc=Syriac}\p{sc=Thaana}\p{sc=Nko}]/gu) ?? [];
  return right.length > (text.match(/\p{L}/gu) ?? []).length / 2;
}

/**
 * A row of choices of which one is taken, as radio buttons: arrows move, and screen readers know them.
 * `take(value)` takes one without telling anybody; `gauge(value, amounts, title)` sets what style.css draws under it.
 */
export function choices(label, options, chosen, choose) {
  const name = `cv-${Math.random().toString(36).slice(2)}`;
  const group = make("fieldset", { class: "cv-choices" }, make("legend", {}, label));
  const inputs = new Map();
  for (const [value, text, kind] of options) {
    const input = make("input", { type: "radio", name, onchange: () => choose(value) });
    input.checked = value === chosen;
    inputs.set(value, input);
    group.append(make("label", { class: kind ? `cv-${kind}` : null }, input, make("span", {}, text)));
  }
  group.take = (value) => inputs.get(value) && (inputs.get(value).checked = true);
  group.gauge = (value, amounts, title) => {
    const button = inputs.get(value).parentElement;
    button.title = title;
    button.classList.add("cv-gauge");
    for (const [name, amount] of Object.entries(amounts)) button.style.setProperty(`--${name}`, amount);
  };
  return group;
}

/** Whether the answer that is known belongs to what is asked: the present values of some traits. */
export function isAnswered(model, asks) {
  return JSON.stringify(model.get("answered")) === JSON.stringify(asks.map((name) => model.get(name)));
}

/** Listen to several traits; returns how to stop. */
export function listen(model, names, changed) {
  for (const name of names) model.on(`change:${name}`, changed);
  return () => names.forEach((name) => model.off(`change:${name}`, changed));
}

/** `action`, once for all traits that change with one message. */
export function batched(action) {
  let asked = false;
  const act = () => ((asked = false), action());
  return () => asked || ((asked = true), queueMicrotask(act));
}

/** Set traits and tell Python. */
export function tell(model, traits) {
  for (const [name, value] of Object.entries(traits)) model.set(name, value);
  model.save_changes();
}

/** Undo base 85 as Python writes it, with a dot for "<". */
function fromBase85(text) {
  const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;.=>?@^_`{|}~";
  const value = new Uint8Array(128);
  for (let i = 0; i < 85; i++) value[digits.charCodeAt(i)] = i;
  const missing = (5 - (text.length % 5)) % 5;
  const whole = text + "~".repeat(missing);
  const bytes = new DataView(new ArrayBuffer((whole.length / 5) * 4));
  for (let i = 0; i < whole.length; i += 5) {
    let word = 0;
    for (let k = i; k < i + 5; k++) word = word * 85 + value[whole.charCodeAt(k)];
    bytes.setUint32((i / 5) * 4, word);
  }
  return new Uint8Array(bytes.buffer, 0, bytes.byteLength - missing);
}

/** Undo `shrink` of widgets.py: base 85, zlib, byte planes. */
async function unshrink({ packed, size }) {
  const stream = new Blob([fromBase85(packed)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const count = planes.length / size;
  const whole = new Uint8Array(planes.length);
  for (let b = 0; b < size; b++) for (let i = 0, at = b * count; i < count; i++) whole[i * size + b] = planes[at + i];
  return new DataView(whole.buffer);
}

/** A value of the page's data as the widget would have it. */
const unpack = (value) => (value && typeof value === "object" && "packed" in value ? unshrink(value) : value);

/** Draw a view from the data of an exported page: the answers that Python gave beforehand take Python's place. */
export async function replay(element, data, view) {
  const traits = {};
  const listeners = new Map();
  const put = (name, value) => {
    traits[name] = value;
    for (const changed of listeners.get(`change:${name}`) ?? []) changed();
  };
  const model = {
    exported: true,
    answers: (...asked) => JSON.stringify(asked) in data.answers,
    get: (name) => traits[name],
    on: (event, changed) => listeners.set(event, [...(listeners.get(event) ?? []), changed]),
    off: (event, changed) => listeners.set(event, (listeners.get(event) ?? []).filter((other) => other !== changed)),
    save_changes: () => {},
    send: () => {},
    set: (name, value) => {
      put(name, value);
      if (data.asks.includes(name)) answer();
    },
  };
  const question = () => JSON.stringify(data.asks.map((name) => traits[name]));
  async function answer() {
    const asked = question();
    const entries = Object.entries(data.answers[asked] ?? {});
    const values = await Promise.all(entries.map(([, value]) => unpack(value)));
    if (asked !== question()) return; // asked something else meanwhile
    entries.forEach(([name], i) => (traits[name] = values[i]));
    entries.forEach(([name], i) => put(name, values[i]));
  }
  for (const [name, value] of Object.entries(data.state)) traits[name] = await unpack(value);
  await answer();
  await view.render({ model, el: element });
  element.dataset.ready = "true";
}
