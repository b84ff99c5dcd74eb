// A part of a page as an SVG file: boxes, text and drawings where they stand, and no HTML, so any program opens it.
import { make } from "./common.js";

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element. */
export function drawing(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A function from any colour of CSS to `[#rrggbb, opacity]`: other programs do not know `color-mix` and the like. */
function makeColours() {
  const pen = make("canvas", { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  const known = new Map();
  return (colour) => {
    if (!known.has(colour)) {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = colour;
      pen.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
      const hex = [r, g, b].map((part) => part.toString(16).padStart(2, "0"));
      known.set(colour, [`#${hex.join("")}`, a / 255]);
    }
    return known.get(colour);
  };
}

/** Fill or stroke in a colour, or nothing when it is transparent. */
function inked(scene, name, colour, attributes) {
  const [hex, opacity] = scene.colours(colour);
  return opacity ? { ...attributes, [name]: hex, ...(opacity < 1 ? { [`${name}-opacity`]: opacity } : {}) } : null;
}

/** Background, border and outline of an element. */
function boxOf(scene, element, style) {
  const { left, top, width, height } = element.getBoundingClientRect();
  if (!width || !height) return [];
  const found = [];
  const rect = (name, colour, inset, options) => {
    const place = { x: left + inset, y: top + inset, width: width - 2 * inset, height: height - 2 * inset };
    const ink = inked(scene, name, colour, { ...place, rx: parseFloat(style.borderTopLeftRadius) || 0, ...options });
    if (ink) found.push(drawing("rect", ink));
  };
  rect("fill", style.backgroundColor, 0, {});
  const dashes = (kind) => (kind === "dashed" || kind === "dotted" ? { "stroke-dasharray": "3 2" } : {});
  const frame = (kind, colour, wide, inset) => {
    const options = { fill: "none", "stroke-width": wide, ...dashes(kind) };
    if (kind !== "none" && wide) rect("stroke", colour, inset, options);
  };
  const sides = ["Top", "Right", "Bottom", "Left"].map((side) => parseFloat(style[`border${side}Width`]));
  const [wide] = sides;
  if (sides.every((side) => side === wide)) frame(style.borderTopStyle, style.borderTopColor, wide, wide / 2);
  else if (wide) {
    const line = { x1: left, x2: left + width, y1: top, y2: top, "stroke-width": wide };
    found.push(drawing("line", inked(scene, "stroke", style.borderTopColor, line)));
  }
  const around = parseFloat(style.outlineWidth);
  if (element !== document.activeElement) frame(style.outlineStyle, style.outlineColor, around, around / 2);
  return found;
}

/** The lines of a text node: text and rectangle of each. */
function linesOf(node) {
  const range = document.createRange();
  const lines = [];
  for (const { index, 0: piece } of node.data.matchAll(/\S+/gu)) {
    range.setStart(node, index);
    range.setEnd(node, index + piece.length);
    const box = range.getBoundingClientRect();
    const last = lines[lines.length - 1];
    if (last && Math.abs(last.box.top - box.top) < 2 && Math.abs(last.box.left - box.left) > 0.5) {
      range.setStart(node, last.start);
      Object.assign(last, { text: range.toString(), box: range.getBoundingClientRect() });
    } else if (box.width) lines.push({ start: index, text: piece, box });
  }
  return lines.map(({ text, box }) => [text.replace(/\s+/gu, " ").trim(), box]);
}

/** A text node, line by line; what stands upright is turned. */
function textOf(scene, node, style) {
  const ink = inked(scene, "fill", style.color, {});
  if (!ink) return [];
  const font = { "font-size": style.fontSize, "font-weight": style.fontWeight, "font-family": scene.family };
  scene.pen.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
  const { fontBoundingBoxAscent: ascent, fontBoundingBoxDescent: descent } = scene.pen.measureText("x");
  const upright = style.writingMode.startsWith("vertical");
  const struck = style.textDecorationLine.includes("line-through");
  return linesOf(node).map(([text, box]) => {
    const [long, thick] = upright ? [box.height, box.width] : [box.width, box.height];
    const base = (thick + ascent - descent) / 2;
    const turn = `translate(${box.left + base} ${box.bottom}) rotate(-90)`;
    const place = upright ? { transform: turn } : { x: box.left, y: box.top + base };
    const fit = text.length > 1 ? { textLength: long, lengthAdjust: "spacingAndGlyphs" } : {};
    const line = struck ? { "text-decoration": "line-through" } : {};
    return drawing("text", { ...place, ...ink, ...font, ...fit, ...line, "xml:space": "preserve" }, text);
  });
}

const INK = ["fill", "stroke"];
const LOOK = ["stroke-opacity", "stroke-width", "stroke-dasharray", "stroke-linecap", "paint-order"];
const TYPE = ["font-size", "text-anchor"];

/** A drawing of the page, with its look written into it. */
function copyOf(scene, element) {
  const style = getComputedStyle(element);
  if (style.display === "none") return null;
  const copy = drawing(element.localName);
  const kept = [...element.attributes].filter(({ name }) => name !== "class" && name !== "style");
  for (const { name, value } of kept) copy.setAttribute(name, value);
  for (const name of LOOK) copy.setAttribute(name, style.getPropertyValue(name));
  for (const name of INK) copy.setAttribute(name, style[name] === "none" ? "none" : scene.colours(style[name])[0]);
  if (element.localName === "text") {
    for (const name of TYPE) copy.setAttribute(name, style.getPropertyValue(name));
    copy.setAttribute("font-family", scene.family);
  }
  const inside = (node) => (node.nodeType === Node.ELEMENT_NODE ? copyOf(scene, node) : node.cloneNode());
  copy.append(...[...element.childNodes].map(inside).filter(Boolean));
  if (element.localName === "svg") {
    const { left: x, top: y, width, height } = element.getBoundingClientRect();
    for (const [name, value] of Object.entries({ x, y, width, height })) copy.setAttribute(name, value);
  }
  return copy;
}

/** An element and all that is in it, back to front. */
function paint(scene, element) {
  const style = getComputedStyle(element);
  if (style.display === "none" || style.visibility === "hidden" || element.matches(".cv-unseen")) return [];
  if (element.localName === "svg") return [copyOf(scene, element)].filter(Boolean);
  const inside = [...element.childNodes].flatMap((node) => {
    if (node.nodeType === Node.TEXT_NODE) return textOf(scene, node, style);
    return node.nodeType === Node.ELEMENT_NODE ? paint(scene, node) : [];
  });
  return [...boxOf(scene, element, style), ...inside];
}

/** Some elements of a page, where they stand, as an SVG element on the background of the first. */
export function pictureOf(elements, background) {
  const pen = make("canvas").getContext("2d");
  const scene = { pen, colours: makeColours(), family: "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif" };
  const marks = elements.flatMap((element) => paint(scene, element));
  const all = elements.map((element) => element.getBoundingClientRect());
  const boxes = all.filter(({ width, height }) => width && height);
  const [left, top] = ["left", "top"].map((side) => Math.floor(Math.min(...boxes.map((box) => box[side]))) - 12);
  const [right, bottom] = ["right", "bottom"].map((side) => Math.ceil(Math.max(...boxes.map((box) => box[side]))) + 12);
  const [width, height] = [right - left, bottom - top];
  const place = { x: left, y: top, width, height };
  const paper = drawing("rect", inked(scene, "fill", background, place));
  return drawing("svg", { width, height, viewBox: `${left} ${top} ${width} ${height}` }, paper, ...marks);
}

/** A picture as a file. */
export const asSvg = (picture) => new Blob([new XMLSerializer().serializeToString(picture)], { type: "image/svg+xml" });

/** A picture as pixels, two for each of the screen's. */
export async function asPng(picture) {
  const text = new XMLSerializer().serializeToString(picture);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const scale = Math.min(2, 16000 / Math.max(image.width, image.height));
  const canvas = make("canvas", { width: Math.round(scale * image.width), height: Math.round(scale * image.height) });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}
