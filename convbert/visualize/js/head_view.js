// One layer of a model on one text: arcs for attention, bars for convolution.
import { notesOf } from "./common.js";
import { showView } from "./frame.js";
import { makeStage, STATE } from "./stage.js";

const view = {
  render({ model, el }) {
    const stage = makeStage(model);
    const { picture, numbers, keys, stop } = stage;
    const parts = [...notesOf(model), stage.element];
    return showView(model, el, { asks: ["layer"], state: STATE, parts, picture, numbers, keys, stops: [stop] });
  },
};
export default view;
