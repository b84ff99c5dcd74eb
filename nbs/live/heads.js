/**
 * Maps of attention and convolution heads as SVG: one row for each token, one column for each token that it looks at.
 */

const CELL = 18;
const LETTER = 8; // wide enough for most
const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes, content = []) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

const shorten = (token) => (token.length > 11 ? `${token.slice(0, 10)}…` : token);

/** What a map shows, in words: each token and the one with its largest weight. */
function describe(map, tokens, title) {
  const seen = map.map((weights, t) => {
    const best = weights.indexOf(Math.max(...weights));
    return `${tokens[t]}: ${tokens[best]} ${weights[best].toFixed(2)}`;
  });
  return `${title}. Largest weight of each token: ${seen.join(", ")}.`;
}

/** Names of the tokens, along the rows and above the columns. */
function labels(tokens, margin) {
  return tokens.flatMap((token, t) => {
    const middle = margin + (t + 0.5) * CELL;
    const text = shorten(token);
    return [
      element("text", { x: margin - 6, y: middle + 4, "text-anchor": "end" }, [text]),
      element("text", { transform: `translate(${middle + 4} ${margin - 6}) rotate(-90)` }, [text]),
    ];
  });
}

/** A square for each weight that can be seen. */
function cells(map, tokens, margin) {
  const strongest = Math.max(...map.map((weights) => Math.max(...weights)));
  return map.flatMap((weights, t) =>
    Array.from(weights, (weight, s) => {
      if (weight < 0.02 * strongest) return null;
      const place = { x: margin + s * CELL, y: margin + t * CELL, width: CELL - 1, height: CELL - 1 };
      const title = element("title", {}, [`${tokens[t]} → ${tokens[s]}: ${weight.toFixed(2)}`]);
      return element("rect", { ...place, "fill-opacity": (weight / strongest).toFixed(3) }, [title]);
    }).filter(Boolean),
  );
}

/**
 * Draw a map.
 * @param {ArrayLike<number>[]} map `(T, T)`
 * @param {string[]} tokens T
 * @param {string} kind "attention" or "conv", for its colour
 * @param {string} title
 * @returns {SVGElement}
 */
export function drawMap(map, tokens, kind, title) {
  const margin = 10 + LETTER * Math.max(...tokens.map((token) => shorten(token).length));
  const [side, size] = [tokens.length * CELL, margin + tokens.length * CELL];
  const frame = { class: "frame", x: margin, y: margin, width: side, height: side };
  const attributes = { class: `map ${kind}`, viewBox: `0 0 ${size} ${size}`, width: size, height: size, role: "img" };
  const content = [element("rect", frame), ...cells(map, tokens, margin), ...labels(tokens, margin)];
  return element("svg", { ...attributes, "aria-label": describe(map, tokens, title) }, content);
}
