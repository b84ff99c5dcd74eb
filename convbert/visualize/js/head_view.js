import { make } from "./common.js";

const view = {
  render({ model, el }) {
    el.append(make("p", {}, model.get("title")));
  },
};
export default view;
