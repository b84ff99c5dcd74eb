/**
 * The live box: a bundled model that answers while its reader types, in the reader's own browser.
 *
 * A page holds `<div class="convbert-live" data-task="fill-mask" data-text="…">` around a picture, and this module.
 * The picture stays until the reader asks for the model; where the model cannot run, it stays for good.
 */
import { answerQuestion, bandOf, classify, fillMask, headMap, tag } from "./answers.js";
import { drawMap } from "./heads.js";
import { loadModel, whatIsMissing } from "./model.js";

const TYPING = 80; // milliseconds without a key before the model answers
const SPEAKING = 900; // and before a screen reader is told
const MEGABYTES = 8; // of the runtime and a model, which tools/live.py checks
const LONGEST = { question: 200, text: 1000 }; // characters of a field

/** An element with its properties and its content. */
function make(name, properties = {}, ...content) {
  const { data = {}, ...rest } = properties;
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(rest)) {
    if (key in made && !key.startsWith("aria")) made[key] = value;
    else made.setAttribute(key, value);
  }
  Object.assign(made.dataset, data);
  made.append(...content);
  return made;
}

const percent = (score) => `${(100 * score).toFixed(score < 0.1 ? 1 : 0)} %`;

/** Call a function when it has not been asked for during some milliseconds. */
function debounce(call, milliseconds) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...values), milliseconds);
  };
}

/** A table of answers with a bar for each score. */
function scoreTable(caption, rows) {
  const line = ({ label, score }) =>
    make("tr", {},
      make("th", { scope: "row" }, label),
      make("td", { className: "bar" }, make("span", { style: `inline-size: ${100 * score}%` })),
      make("td", { className: "score" }, percent(score)));
  return make("table", { className: "scores" }, make("caption", {}, caption), make("tbody", {}, ...rows.map(line)));
}

/** A text with some of its parts as elements. */
function marked(text, parts, mark) {
  const content = [];
  let from = 0;
  for (const part of parts) {
    content.push(text.slice(from, part.start), mark(part));
    from = part.end;
  }
  return make("p", { className: "marked" }, ...content, text.slice(from));
}

/**
 * What each task asks its reader for, the model that it runs if its name is another, and how it answers: the elements
 * to show, and the same in a line that is said to a screen reader.
 */
const TASKS = {
  "fill-mask": {
    fields: { text: "A sentence with a [MASK]" },
    wrong: ({ text }) => (text.includes("[MASK]") ? "" : "Write [MASK] where a word is to be found."),
    answer: ({ encoded, outputs }, { tokenizer }) => {
      const masks = fillMask(encoded, outputs, tokenizer);
      const caption = (i) => (masks.length > 1 ? `Words for mask ${i + 1}` : "Words for the mask");
      return {
        shown: masks.map((rows, i) => scoreTable(caption(i), rows)),
        said: masks.map((rows) => rows.slice(0, 3).map(inWords).join(", ")).join("; "),
      };
    },
  },
  sentiment: {
    fields: { text: "A sentence" },
    answer: ({ outputs }, { config }) => {
      const rows = classify(outputs, config);
      return { shown: [scoreTable("Sentiment", rows)], said: inWords(rows[0]) };
    },
  },
  tagging: {
    fields: { text: "A sentence" },
    answer: ({ encoded, outputs }, { config }, { text }) => {
      const words = tag(text, encoded, outputs, config).filter(({ label }) => label !== "O");
      const word = (one) => make("span", { className: "word", title: percent(one.score) },
        make("span", {}, one.word), make("small", {}, one.label));
      return { shown: [marked(text, words, word)], said: words.map((one) => `${one.word} ${one.label}`).join(", ") };
    },
  },
  heads: {
    model: "fill-mask",
    fields: { text: "A sentence" },
    answer: () => ({ shown: [], said: "The maps show this sentence." }),
  },
  "question-answering": {
    fields: { question: "A question", text: "A text that answers it" },
    answer: ({ encoded, outputs }, _, { text }) => {
      const answers = answerQuestion(text, encoded, outputs);
      const rows = answers.map(({ answer, score }) => ({ label: answer, score }));
      const found = marked(text, answers.slice(0, 1), (one) => make("mark", {}, one.answer));
      return { shown: [found, scoreTable("Answers", rows)], said: inWords(rows[0]) };
    },
  },
};

const reason = (error) => error?.message ?? error; // WebAssembly may throw a number

const inWords = ({ label, score }) => `${label} ${percent(score)}`;

let boxes = 0;

/** One box on a page. */
class Box {
  /** @param {HTMLElement} host the element around the picture */
  constructor(host) {
    this.host = host;
    this.task = TASKS[host.dataset.task];
    this.modelName = this.task.model ?? host.dataset.task;
    this.number = boxes++;
    this.asked = 0; // the last text that was sent to the model
    this.picture = [...host.childNodes];
  }

  /** Put the fields and the button above the picture. */
  show() {
    const missing = whatIsMissing();
    if (missing) return this.host.append(note(`This browser has no ${missing}, which the model needs to run here.`));
    this.fields = Object.entries(this.task.fields).map(([name, label]) => this.makeField(name, label));
    this.button = make("button", { type: "button" }, `Run it here (${MEGABYTES} MB)`);
    this.status = note("The model runs in your browser: what you type is not sent anywhere.");
    this.speech = make("p", { className: "unseen", "aria-live": "polite" });
    this.answers = make("div", { className: "answers", tabIndex: -1, role: "group", "aria-label": "Answers" });
    this.heads = new Heads(this.number, "heads" in this.host.dataset);
    this.button.addEventListener("click", () => this.load());
    const form = this.fields.map(({ label, input }) => make("div", { className: "field" }, label, input));
    const still = make("div", { className: "still" }, ...this.picture);
    this.host.replaceChildren(...form, this.button, this.status, still, this.answers, this.heads.element, this.speech);
    this.host.dataset.state = "picture";
    this.still = still;
  }

  makeField(name, text) {
    const id = `convbert-live-${this.number}-${name}`;
    const properties = { id, rows: name === "question" ? 1 : 2, maxLength: LONGEST[name], spellcheck: false };
    const input = make("textarea", { ...properties, value: this.host.dataset[name] ?? "" });
    input.addEventListener("focus", () => this.load(), { once: true });
    input.addEventListener("input", debounce(() => this.model && this.update(), TYPING));
    return { name, input, label: make("label", { htmlFor: id }, text) };
  }

  /** Download the model, once, and answer. */
  async load() {
    if (this.host.dataset.state !== "picture") return;
    this.host.dataset.state = "loading";
    const bar = make("progress", { max: 1, value: 0, "aria-label": "Download of the model" });
    const pressed = document.activeElement === this.button;
    this.button.replaceWith(bar);
    this.say(`Loading the model: ${MEGABYTES} MB, once…`);
    const refocus = (element) => {
      const lost = pressed && document.activeElement === document.body; // what had the focus is gone
      if (lost) element.focus({ preventScroll: true });
    };
    try {
      this.model = await loadModel(this.modelName, (share) => (bar.value = share));
    } catch (error) {
      this.host.dataset.state = "picture";
      bar.replaceWith(this.button);
      refocus(this.button);
      return this.say(`The model could not be loaded: ${reason(error)}. Try again.`);
    }
    this.host.dataset.state = "ready";
    this.still.remove();
    bar.remove();
    await this.update();
    refocus(this.answers);
  }

  /** Answer what the fields hold now; an answer that a newer text has overtaken is dropped. */
  async update() {
    const texts = Object.fromEntries(this.fields.map(({ name, input }) => [name, input.value]));
    const empty = this.fields.find(({ input }) => !input.value.trim());
    const wrong = empty ? `${empty.label.textContent} is missing.` : (this.task.wrong?.(texts) ?? "");
    const asked = (this.asked += 1);
    if (wrong) return this.say(wrong);
    const began = performance.now();
    const inputs = "question" in texts ? [texts.question, texts.text] : [texts.text];
    let result;
    try {
      result = await this.model.run(...inputs);
    } catch (error) {
      return this.say(`The model could not answer: ${reason(error)}.`);
    }
    if (asked !== this.asked) return;
    if (!result.encoded.tokens.length) return this.say("There are no words in this text.");
    const { shown, said } = this.task.answer(result, this.model, texts);
    this.answers.replaceChildren(...shown);
    this.heads.update(result, this.model.tokenizer);
    const cut = result.encoded.cut ? " Only the beginning of this text is read." : "";
    this.say(`Answered in ${Math.round(performance.now() - began)} ms, in your browser.${cut}`, said + cut);
  }

  /** Show a line, and have the same or another one read out. */
  say(text, spoken = text) {
    this.status.textContent = text;
    this.speak(spoken);
  }

  speak = debounce((text) => (this.speech.textContent = text), SPEAKING);
}

/** The heads of one layer, under the answers. */
class Heads {
  constructor(number, open) {
    this.choices = [["layer", "Layer"], ["attention", "Attention head"], ["conv", "Convolution head"]].map(
      ([name, text]) => {
        const select = make("select", { id: `convbert-live-${number}-${name}` });
        select.addEventListener("change", () => this.draw());
        return { name, select, label: make("label", { htmlFor: select.id }, text) };
      },
    );
    this.maps = make("div", { className: "maps" });
    const choices = this.choices.map(({ label, select }) => make("span", {}, label, select));
    const summary = make("summary", {}, "What its heads see");
    this.element = make("details", { open, hidden: true },
      summary, make("div", { className: "choices" }, ...choices), this.maps);
    this.element.addEventListener("toggle", () => this.draw());
  }

  /** Keep the maps of an answer, and draw them. */
  update({ encoded, outputs }, tokenizer) {
    if (!outputs.attentions) return;
    this.outputs = outputs;
    this.tokens = encoded.ids.map((id) => tokenizer.tokens[id]);
    const { attentions, conv_kernels: kernels } = outputs;
    const counts = { layer: attentions.dims[0], attention: attentions.dims[2], conv: kernels?.dims[2] ?? 0 };
    const first = { layer: Math.min(1, counts.layer - 1), attention: Math.min(1, counts.attention - 1), conv: 0 };
    for (const { name, select } of this.choices) {
      if (select.length) continue;
      select.append(...Array.from({ length: counts[name] }, (_, i) => make("option", { value: i }, String(i))));
      select.value = String(first[name]);
    }
    this.element.hidden = false;
    this.draw();
  }

  draw() {
    if (!this.outputs || !this.element.open) return;
    const { layer, attention, conv } = Object.fromEntries(this.choices.map(({ name, select }) => [name, +select.value]));
    const { attentions, conv_kernels: kernels } = this.outputs;
    const titles = [`Attention head ${attention} of layer ${layer}`, `Convolution head ${conv} of layer ${layer}`];
    const maps = [[headMap(attentions, layer, attention), "attention", titles[0]]];
    if (kernels) maps.push([bandOf(headMap(kernels, layer, conv)), "conv", titles[1]]);
    const figures = maps.map(([map, kind, title]) =>
      make("figure", { className: kind },
        make("figcaption", {}, title),
        make("div", { className: "scroll", tabIndex: 0, role: "group", "aria-label": `${title}, scrolls` },
          drawMap(map, this.tokens, kind, title))));
    this.maps.replaceChildren(...figures);
  }
}

const note = (text) => make("p", { className: "note" }, text);

/** Bring every box of the page to life. */
function start() {
  const hosts = document.querySelectorAll(".convbert-live:not([data-state])");
  if (!hosts.length) return;
  document.head.append(make("link", { rel: "stylesheet", href: new URL("box.css", import.meta.url).href }));
  for (const host of hosts) {
    host.dataset.state = "found";
    new Box(host).show();
  }
}

start();
