// A text as tokens that can be pressed.
import { make, runsLeft } from "./common.js";

/** What a token is called: what stood in the text, or its piece where nothing did. */
export const wordOf = (model, i) => model.get("sources")[i] || model.get("tokens")[i];

/** One token: its text, and below it the weight that a head gives to it. */
function makeToken(model, i, { above, press }) {
  const special = model.get("special")[i];
  const goesOn = (j) => model.get("tokens")[j]?.startsWith("##"); // a piece of the word before it
  const joints = `${goesOn(i) ? " cv-joined" : ""}${goesOn(i + 1) ? " cv-goes-on" : ""}`;
  const look = `cv-chip${special ? " cv-apart" : ""}${joints}`;
  const onclick = () => String(getSelection()) || press(i); // who selects text does not want to mask it
  const role = special ? {} : { role: "button", tabindex: "-1", "aria-label": wordOf(model, i), onclick };
  const text = make("span", { class: "cv-chip-text", dir: "auto" }, wordOf(model, i));
  const masked = make("span", { class: "cv-mask-name", "aria-hidden": "true" }, above(i));
  return make("span", { class: look, "data-token": i, ...role }, masked, text, make("span", { class: "cv-weight" }));
}

/** Which way a key leads through a text that is written to the left or to the right. */
function ahead(key, direction) {
  const way = { ArrowRight: 1, ArrowLeft: -1 }[key];
  return way ? way * (direction === "rtl" ? -1 : 1) : { ArrowDown: 1, ArrowUp: -1 }[key];
}

/** Focus the next token in a direction that can be masked. */
function moveTo(chips, i, way) {
  for (let j = i + way; chips[j]; j += way) if (chips[j].hasAttribute("role")) return chips[j].focus();
}

/**
 * The text as tokens: one Tab stop, arrows move, Enter is `press(i)`. `above(i)` is written over a masked token, and
 * `place()` is the one to begin with.
 */
export function makeTokens(model, { label, above, place, press }) {
  const element = make("div", { class: "cv-chips", role: "group", "aria-label": label });
  let chips = [];
  const settle = (chip) => {
    for (const other of chips) if (other.hasAttribute("role")) other.tabIndex = other === chip ? 0 : -1;
  };
  const fill = () => {
    const held = element.contains(document.activeElement);
    chips = model.get("tokens").map((_, i) => makeToken(model, i, { above, press }));
    element.replaceChildren(...chips);
    element.dir = runsLeft(model.get("sources")) ? "rtl" : "ltr";
    if (held) chips[place()].focus(); // or the next key would be the notebook's
  };
  element.addEventListener("focusin", (event) => settle(event.target));
  element.addEventListener("keydown", (event) => {
    const i = chips.indexOf(event.target);
    const way = ahead(event.key, element.dir);
    if (i < 0 || !(way || event.key === "Enter" || event.key === " ")) return;
    event.preventDefault();
    if (way) moveTo(chips, i, way);
    else press(i);
  });
  const bring = () => {
    const chip = chips[place()];
    const top = chip.offsetTop - 14; // what it was is written over it
    const below = top + chip.offsetHeight + 16 - element.clientHeight;
    element.scrollTop = Math.min(Math.max(element.scrollTop, below), top);
    settle(chip);
  };
  return { element, fill, bring, each: (change) => chips.forEach(change) };
}
