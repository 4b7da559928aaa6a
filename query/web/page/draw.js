// Drawing: elements, colours, and one lens's picture of a reading.

import { shownScore } from "./reading.js";

const SVG = "http://www.w3.org/2000/svg";
// Nine colours of Viridis, which works for the colour-blind and in grey.
const RAMP = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"].map(
  (hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)),
);
const LETTER = 0.6; // width of a letter, relative to the font size
const SMALLEST = 0.21; // smallest font size, relative to the height of a patch
const AROUND = { answer: "Answer", prompt: "Prompt" };

/** Make an element; text becomes text nodes, never HTML. */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

function shape(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** The colour at `share` (0 to 1) of the ramp. */
export function colour(share) {
  const at = Math.min(1, Math.max(0, share)) * (RAMP.length - 1);
  const low = Math.min(RAMP.length - 2, Math.floor(at));
  const mixed = RAMP[low].map((value, i) => Math.round(value + (RAMP[low + 1][i] - value) * (at - low)));
  return `rgb(${mixed.join(" ")})`;
}

/** The colour of a bank layer among all of them. */
export function bankColour(bankLayers, bankLayer) {
  return colour(bankLayers.indexOf(bankLayer) / Math.max(1, bankLayers.length - 1));
}

/** Draw one lens's reading at one layer: the image with its tokens, or a sentence as tokens, and a legend. */
export function drawStage(reading, { lens, layer, tile, view }) {
  const name = reading.lensTitle(lens);
  const unread = reading.isRead(layer) ? "" : ": not read yet";
  const step = reading.data.frames ? `, ${reading.tileName(tile)}` : "";
  const silent = reading.tokens.filter((token) => reading.isSilent(lens, layer, token.number)).length;
  const quiet = silent ? `, ${silent} of ${reading.tokens.filter((token) => reading.pValue(lens, layer, token.number) !== undefined).length} tokens silent` : "";
  const parts = [element("figcaption", {}, `${name}, ${reading.layerName(layer)}${step}${quiet}${unread}`)];
  const tokens = reading.tokens.filter((token) => token.row >= 0 && token.tile === tile);
  const [low, high] = reading.range(lens, layer);
  const paint = (token) => {
    if (view === "heat") {
      if (reading.isText(token.number)) return null;
      const score = reading.bestScore(lens, layer, token.number);
      return score === undefined ? null : colour((score - low) / (high - low || 1));
    }
    if (view === "bank" && reading.hasBank(lens)) {
      const bankLayer = reading.bestBankLayer(lens, layer, token.number);
      return bankLayer === undefined ? null : bankColour(reading.data.bank_layers, bankLayer);
    }
    return null;
  };
  const labelOf = (token) => {
    const word = reading.bestWord(lens, layer, token.number);
    const from = reading.hasBank(lens) ? `, bank layer ${reading.bestBankLayer(lens, layer, token.number)}` : "";
    const p = shownScore(reading.pValue(lens, layer, token.number));
    if (reading.isSilent(lens, layer, token.number)) return `${reading.tokenName(token.number)} silent, p ${p}`;
    const none = reading.isRead(layer) ? "nothing found" : "not read yet";
    const found = word ? `${word}, ${reading.bestTold(lens, layer, token.number)}${from}` : none;
    return `${reading.tokenName(token.number)} ${found}`;
  };
  if (reading.data.size) {
    parts.push(picture(reading, tokens, name, { lens, layer, tile, view, paint, labelOf }));
    const rest = reading.tokens.filter((token) => token.kind === "visual" && token.row < 0);
    const lost = rest.some((token) => !token.box.length);
    if (lost) parts.push(element("p", { class: "about" }, `Tokens without a place in the image: ${reading.data.geometry}.`));
    const label = lost ? "Tokens without a place" : "Tokens outside the grid";
    if (rest.length) parts.push(chips(reading, rest, label, { lens, layer, view, paint, labelOf }));
  } else if (reading.data.seconds) {
    parts.push(timeline(reading, name, { lens, layer, view, paint, labelOf }));
  } else {
    parts.push(chips(reading, reading.tokens, `Tokens, read by ${name}`, { lens, layer, view, paint, labelOf }));
  }
  for (const [kind, title] of Object.entries(AROUND)) {
    const told = reading.tokens.filter((token) => token.kind === kind);
    if (!told.length) continue;
    parts.push(element("h4", {}, title), chips(reading, told, title, { lens, layer, view, paint, labelOf }));
  }
  if (view === "heat" && !unread) parts.push(heatLegend(reading.rankedBy(lens, layer), low, high));
  if (view === "bank") parts.push(bankLegend(reading, lens));
  return element("figure", { class: "stage", "data-lens": lens }, ...parts);
}

function picture(reading, tokens, name, { lens, layer, tile, view, paint, labelOf }) {
  const [width, height] = reading.data.size;
  const rows = byRow(tokens);
  const grid = shape("svg", {
    viewBox: `0 0 ${width} ${height}`,
    preserveAspectRatio: "none", // like the image: a token's box stays on its part of the image
    role: "grid",
    "aria-label": `Visual tokens of ${reading.data.source}, read by ${name}`,
  });
  for (const row of [...rows.keys()].sort((a, b) => a - b)) {
    const cells = rows.get(row).map((token) => {
      const [left, top, right, bottom] = token.box;
      const fill = paint(token);
      const cell = shape(
        "g",
        { role: "gridcell", tabindex: -1, "data-token": token.number, "aria-label": labelOf(token) },
        shape("rect", {
          class: fill ? "patch painted" : reading.isSilent(lens, layer, token.number) ? "patch silent" : "patch",
          x: left,
          y: top,
          width: Math.max(0, right - left),
          height: Math.max(0, bottom - top),
          fill: fill ?? "transparent",
        }),
      );
      if (view === "words") cell.append(...written(reading.bestWord(lens, layer, token.number), token.box));
      return cell;
    });
    grid.append(shape("g", { role: "row" }, ...cells));
  }
  const source = reading.imageOf(tile);
  const image = element("img", { alt: "", src: source ?? undefined, draggable: "false" });
  const frame = element("div", { class: "picture" }, ...(source ? [image] : []), grid);
  frame.style.aspectRatio = `${width} / ${height}`;
  frame.style.maxWidth = `${((80 * width) / height).toFixed(2)}vh`; // so that it fits into the window
  return frame;
}

function byRow(tokens) {
  const rows = new Map();
  for (const token of tokens) rows.set(token.row, [...(rows.get(token.row) ?? []), token]);
  return rows;
}

/** A word in the middle of its patch, as large as it fits; a long word is cut. */
function written(word, [left, top, right, bottom]) {
  const shown = word.trim();
  const [width, height] = [right - left, bottom - top];
  if (!shown || width <= 0 || height <= 0) return [];
  const letters = Array.from(shown);
  const fits = (count) => (width * 0.94) / (LETTER * count);
  let size = Math.min(height * 0.3, width * 0.3, fits(letters.length));
  let text = shown;
  const smallest = Math.min(height, width) * SMALLEST;
  if (size < smallest) {
    size = smallest;
    text = `${letters.slice(0, Math.max(1, Math.floor((width * 0.94) / (LETTER * size)) - 1)).join("")}…`;
  }
  const [x, y] = [(left + right) / 2, (top + bottom) / 2];
  const bar = Math.min(width, LETTER * size * Array.from(text).length + size * 0.5);
  return [
    shape("rect", {
      class: "shade",
      x: x - bar / 2,
      y: y - size * 0.7,
      width: bar,
      height: size * 1.4,
      rx: size * 0.3,
    }),
    shape("text", { class: "word", "aria-hidden": "true", x, y: y + size * 0.35, "font-size": size }, text),
  ];
}

/** Tokens as a row of chips: those of a sentence, or visual tokens without a place in the image. */
function chips(reading, tokens, label, { lens, layer, view, paint, labelOf }) {
  const made = tokens.map((token) => {
    const chip = element(
      "span",
      { class: "chip", role: "gridcell", tabindex: -1, "data-token": token.number, "aria-label": labelOf(token) },
      element("span", { class: "label" }, reading.tokenName(token.number)),
    );
    if (view === "words") {
      chip.append(" ", element("span", { class: "found" }, reading.bestWord(lens, layer, token.number)));
    }
    const fill = paint(token);
    if (fill) {
      const dot = element("span", { class: "swatch" });
      dot.style.background = fill;
      chip.append(dot);
    }
    return chip;
  });
  return element(
    "div",
    { class: "chips", role: "grid", "aria-label": label },
    element("div", { role: "row", class: "line" }, ...made),
  );
}

/** The tokens of a sound over time: a row for each second, each token as wide as its part of the second. */
function timeline(reading, name, { lens, layer, view, paint, labelOf }) {
  const rows = new Map();
  for (const token of reading.tokens.filter(({ kind }) => kind === "audio")) {
    const second = Math.floor(reading.secondsOf(token.number)[0] + 1e-6);
    rows.set(second, [...(rows.get(second) ?? []), token]);
  }
  const lines = [...rows].map(([second, tokens]) => {
    const cells = tokens.map((token) => {
      const [start, end] = reading.secondsOf(token.number);
      const word = view === "words" ? reading.bestWord(lens, layer, token.number).trim() : "";
      const cell = element(
        "span",
        { class: "beat", role: "gridcell", tabindex: -1, "data-token": token.number, "aria-label": labelOf(token) },
        element("span", { class: "found" }, word),
      );
      cell.style.flexGrow = Math.max(0.001, end - start);
      const fill = paint(token);
      if (fill) cell.style.background = fill;
      return cell;
    });
    const head = element("span", { class: "second", role: "rowheader" }, `${second} s`);
    return element("div", { class: "beats", role: "row" }, head, ...cells);
  });
  return element("div", { class: "timeline", role: "grid", "aria-label": `Tokens over time, read by ${name}` }, ...lines);
}

function heatLegend(what, low, high) {
  const bar = element("span", { class: "ramp" });
  bar.style.background = `linear-gradient(to right, ${RAMP.map((_, i) => colour(i / (RAMP.length - 1))).join(", ")})`;
  return element(
    "p",
    { class: "legend" },
    `${what} of the best neighbor: ${shownScore(low)} `,
    bar,
    ` ${shownScore(high)}`,
  );
}

function bankLegend(reading, lens) {
  if (!reading.hasBank(lens)) return element("p", { class: "legend" }, "This lens does not use a bank.");
  const keys = reading.data.bank_layers.map((bankLayer) => {
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = bankColour(reading.data.bank_layers, bankLayer);
    return element("span", { class: "key" }, swatch, ` ${bankLayer}`);
  });
  return element("p", { class: "legend" }, "bank layer of the best neighbor: ", ...keys);
}

/** A table of bars: the share of tokens whose best neighbor lies in each bank layer, for each layer read. */
export function drawShares(reading) {
  const head = element("tr", {}, element("th", { scope: "col" }, reading.data.size ? "visual layer" : "layer"));
  for (const bankLayer of reading.data.bank_layers) head.append(element("th", { scope: "col" }, `bank ${bankLayer}`));
  const searching = reading.data.lenses.find((lens) => reading.hasBank(lens)) ?? reading.data.lenses[0];
  const body = reading.data.layers.map((name, layer) => {
    const counts = reading.shares(searching, layer);
    const total = [...counts.values()].reduce((sum, count) => sum + count, 0);
    const cells = [...counts].map(([bankLayer, count]) => {
      const share = total ? count / total : 0;
      const bar = element("span", { class: "column", "aria-hidden": "true" });
      bar.style.height = `${(share * 2.5).toFixed(2)}rem`;
      bar.style.background = bankColour(reading.data.bank_layers, bankLayer);
      return element("td", {}, bar, element("span", {}, reading.isRead(layer) ? `${Math.round(share * 100)} %` : "…"));
    });
    return element("tr", {}, element("th", { scope: "row" }, String(name)), ...cells);
  });
  return element(
    "table",
    { class: "shares" },
    element("caption", {}, "Bank layer of the best neighbor, share of tokens"),
    element("thead", {}, head),
    element("tbody", {}, ...body),
  );
}
