// One layer of a model on one text: arcs for attention, bars for convolution.
import { make, notesOf, titleOf } from "./common.js";
import { makeStage } from "./stage.js";

const view = {
  render({ model, el }) {
    const stage = makeStage(model);
    const parts = [titleOf(model), ...notesOf(model), stage.element];
    el.append(make("div", { class: "cv", "data-lm-suppress-shortcuts": true }, ...parts));
    return stage.stop;
  },
};
export default view;
