// Text fields, and what is wrong with what was typed into them.
import { make } from "./common.js";

/** One field. `apply` is called when Enter is pressed in it. */
function makeField(label, fixed, apply) {
  const id = `cv-${Math.random().toString(36).slice(2)}`;
  const names = { type: "text", id, class: "cv-field", dir: "auto" };
  const input = make("input", { ...names, spellcheck: "false", autocomplete: "off", readonly: fixed });
  input.addEventListener("keydown", (event) => event.key === "Enter" && !event.isComposing && !fixed && apply());
  return [make("label", { for: id }, label), input];
}

/**
 * The fields of a view: `texts()` are those shown, `apply(texts)` takes others, `hint` is said below, `fixed` is for a
 * page without Python. What is being typed stays until there is another text.
 */
export function makeFields(model, { labels, texts, apply, hint, fixed }) {
  const id = `cv-${Math.random().toString(36).slice(2)}`;
  const rows = labels.map((label) => makeField(label, fixed, () => apply(rows.map(([, input]) => input.value))));
  const problem = make("p", { class: "cv-problem", role: "alert" });
  let last = [];
  const draw = () => {
    texts().forEach((text, i) => {
      const input = rows[i][1];
      if (text !== last[i]) input.value = text;
      input.setAttribute("aria-describedby", `${id}-hint`);
      input.setAttribute("aria-invalid", String(Boolean(model.get("problem"))));
    });
    last = texts();
    problem.textContent = model.get("problem") ? `Not shown: ${model.get("problem")}` : "";
  };
  const under = make("p", { class: "cv-hint", id: `${id}-hint` }, hint);
  return { element: make("div", { class: "cv-typing" }, ...rows.flat(), under, problem), draw };
}
