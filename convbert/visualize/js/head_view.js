// One layer of a model on one text: arcs for attention, bars for convolution.
import { make } from "./common.js";
import { makeStage } from "./stage.js";
import { heading } from "./panel.js";

const view = {
  render({ model, el }) {
    const stage = makeStage(model);
    el.append(make("div", { class: "cv", "data-lm-suppress-shortcuts": true }, ...heading(model), stage.element));
    return stage.stop;
  },
};
export default view;
