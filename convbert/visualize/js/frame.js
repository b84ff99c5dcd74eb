// What stands around every view: title, tools, keys, and what is said when Python is silent.
import { isAnswered, listen, make, titleOf } from "./common.js";
import { asPng, asSvg, pictureOf } from "./picture.js";

const GONE = "Python is no longer behind this view: its kernel has ended or was restarted. What is on screen stays; "
  + "to ask for more, run the cell again.";
const LATE = "Python has not answered yet: its kernel is busy, or gone.";
const QUIET = 300; // milliseconds without another answer until Python is told which one is shown
const PATIENCE = 4000; // until a missing answer is said to be late

/**
 * Keys in a view are the view's. JupyterLab looks for this mark on the element in focus before its own shortcuts, so
 * each gets it with the focus; others, like VS Code, listen on the window, where the key does not arrive.
 */
function keepKeys(root) {
  root.addEventListener("focusin", (event) => event.target.setAttribute("data-lm-suppress-shortcuts", "true"));
  const stop = (event) => event.stopPropagation();
  for (const type of ["keydown", "keypress", "keyup"]) root.addEventListener(type, stop);
  const leave = ({ target }) => !root.contains(target) && root.contains(document.activeElement) && unfocus();
  const unfocus = () => document.activeElement.blur(); // JupyterLab leaves the focus where it is in a notebook
  document.addEventListener("pointerdown", leave, true);
  return () => document.removeEventListener("pointerdown", leave, true);
}

/** The widget's own model, and not anywidget's proxy of it; nothing where there is none. */
const widgetOf = (model) => (model.exported ? null : model.set({}));

/** Say that the kernel has ended. ipywidgets would mark the view, but anywidget (0.11) takes its listener away. */
function watchKernel(model, gone) {
  const draw = () => (gone.hidden = widgetOf(model)?.comm_live !== false);
  model.on("comm_live_update", draw);
  draw();
  return () => model.off("comm_live_update", draw);
}

/**
 * Let messages from Python reach the model. anywidget (0.11) keeps them until the module of a view is loaded, and drops
 * all that ever come if that takes more than two seconds. A view that draws is loaded: ipywidgets' own handler will do.
 */
function hearPython(model) {
  const widget = widgetOf(model);
  const kind = widget && Object.getPrototypeOf(widget);
  if (!kind || !Object.hasOwn(kind, "_handle_comm_msg")) return;
  const handle = Object.getPrototypeOf(kind)._handle_comm_msg;
  widget.comm?.on_msg((message) => handle.call(widget, message));
}

/** Tell Python what is shown, so that what was lost is sent again; say so when there is no answer for long. */
function keepUp(model, { asks, state }, late, gone) {
  if (model.exported) return () => {};
  let quiet, patience;
  const shown = () => Object.fromEntries(["answered", ...state].map((name) => [name, model.get(name)]));
  const report = () => gone.hidden && model.send({ ask: "state", shown: shown() });
  const watch = () => {
    clearTimeout(patience);
    late.hidden = true;
    if (!isAnswered(model, asks)) patience = setTimeout(() => ((late.hidden = !gone.hidden), report()), PATIENCE);
  };
  const answered = () => {
    clearTimeout(quiet);
    quiet = setTimeout(report, QUIET);
    watch();
  };
  hearPython(model);
  report();
  watch();
  const stops = [listen(model, ["answered"], answered), listen(model, asks, watch)];
  return () => (stops.forEach((stop) => stop()), clearTimeout(quiet), clearTimeout(patience));
}

/** Rules that hide the picture of a view, which stands below it in a notebook, and JupyterLab's room for it. */
const hide = (still) => `.${still} { display: none; } .jp-OutputArea-child:has(> * .${still}) { display: none; }`;

/** Offer a file to the reader. */
function save(root, blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name, hidden: true });
  root.append(link); // VS Code takes only what is clicked in its document
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

/** Rows of numbers and words as a spreadsheet takes them. */
export function asTable(rows) {
  const number = (value) => String(Number(value.toFixed(6)));
  const cell = (value) => (typeof value === "number" ? number(value) : String(value).replace(/\s+/gu, " "));
  return rows.map((row) => row.map(cell).join("\t")).join("\n");
}

/** Copy a text; where the page may not, as over plain HTTP, by way of a selection. */
async function copy(root, text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = make("textarea", { class: "cv-unseen" }, text);
  root.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

/** The list of keys, behind its button. */
function makeKeys(keys) {
  const id = `cv-${Math.random().toString(36).slice(2)}`;
  const rows = [...keys, ["?", "this list"]].flatMap(([key, does]) => {
    const caps = key.split(" ").map((name) => make("kbd", {}, name));
    return [make("dt", {}, ...caps), make("dd", {}, does)];
  });
  const list = make("dl", { class: "cv-keylist", id, hidden: true }, ...rows);
  const toggle = () => {
    list.hidden = !list.hidden;
    if (!list.hidden) list.scrollIntoView({ block: "nearest" });
    button.setAttribute("aria-expanded", String(!list.hidden));
  };
  const state = { "aria-expanded": "false", "aria-controls": id };
  const options = { type: "button", class: "cv-tool", title: "or press ?", ...state, onclick: toggle };
  const button = make("button", options, "Keys");
  return { button, list, toggle };
}

/** What can be taken out of a view: pictures, numbers, a page. */
function makeTools(model, root, { picture, numbers, keys }) {
  const said = make("span", { class: "cv-tool-said", role: "status" });
  const name = model.get("title").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/gu, "").slice(0, 60) || "view";
  const say = (text) => (said.textContent = text);
  const drawn = () => pictureOf(picture().filter(Boolean), getComputedStyle(root).backgroundColor);
  const tool = (text, title, act) => {
    const onclick = () => Promise.resolve().then(act).catch((error) => say(`That did not work: ${error.message}`));
    return make("button", { type: "button", class: "cv-tool", title, onclick }, text);
  };
  const page = () => (say("Writing the page…"), model.send({ ask: "page" }));
  const tools = [
    tool("SVG", "save the picture as SVG", () => (save(root, asSvg(drawn()), `${name}.svg`), say("Saved"))),
    tool("PNG", "save the picture as PNG", async () => (save(root, await asPng(drawn()), `${name}.png`), say("Saved"))),
    model.exported ? null : tool("HTML", "save the view as a page that needs neither Python nor a network", page),
    tool("Copy numbers", "copy the numbers as a table, for a spreadsheet", async () => {
      await copy(root, asTable(numbers()));
      say("Copied");
    }),
  ];
  const arrived = (content) => {
    if (content.page) save(root, new Blob([content.page], { type: "text/html" }), `${name}.html`);
    if (content.page || content.problem) say(content.page ? "Saved" : `Not saved: ${content.problem}`);
  };
  model.on("msg:custom", arrived);
  const help = makeKeys(keys);
  const row = make("div", { class: "cv-tools", role: "group", "aria-label": "save, copy, keys" });
  row.append(...tools.filter(Boolean), help.button, said);
  return { row, help, stop: () => model.off("msg:custom", arrived) };
}

/**
 * Show a view: `parts` are its elements, `asks` the traits that Python answers, `state` all that may change,
 * `picture()` the elements of the picture to save, `numbers()` the rows to copy, `keys` pairs of a key and what it
 * does, `stops` what ends with the view.
 */
export function showView(model, el, { look = "", asks, state, parts, picture, numbers, keys, stops }) {
  const root = make("div", { class: `cv ${look}`, tabindex: "-1" });
  const late = make("p", { class: "cv-note cv-late", role: "status", hidden: true }, LATE);
  const gone = make("p", { class: "cv-note cv-gone", role: "status", hidden: true }, GONE);
  const { row, help, stop } = makeTools(model, root, { picture, numbers, keys });
  if (model.get("still")) root.append(make("style", {}, hide(model.get("still"))));
  root.append(...[titleOf(model), gone, late, ...parts, row, help.list].filter(Boolean));
  root.addEventListener("keydown", (event) => {
    if (event.key === "?" && !event.target.matches("input[type=text]:not([readonly])")) help.toggle();
  });
  el.append(root);
  const ends = [...stops, stop, keepKeys(root), watchKernel(model, gone), keepUp(model, { asks, state }, late, gone)];
  return () => ends.forEach((end) => end());
}

