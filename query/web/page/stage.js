// One lens's picture of a reading at one layer: the image with its tokens, a sentence as tokens, or a sound over time.

import { bankColour, colour } from "./colours.js";
import { element, shape } from "./elements.js";
import { legendOf } from "./legends.js";
import { shownScore } from "./reading.js";
import { bordersOf, labelOf, regionsOf } from "./regions.js";

const AROUND = { answer: "Answer", prompt: "Prompt" };

/** Draw one lens's reading at one layer, and a legend; `all` shows words also where the lens has nothing to say. */
export function drawStage(reading, state) {
  const { lens, layer } = state;
  const name = reading.lensTitle(lens);
  const how = { ...state, name, paint: painter(reading, state), told: teller(reading, state), word: writer(reading, state) };
  const parts = [];
  if (reading.data.size) parts.push(...imageParts(reading, how));
  else if (reading.data.seconds) parts.push(timeline(reading, how));
  else parts.push(chips(reading, reading.tokens, `Tokens, read by ${name}`, how));
  parts.push(element("figcaption", {}, captionOf(reading, state)));
  for (const [kind, title] of Object.entries(AROUND)) {
    const around = reading.tokens.filter((token) => token.kind === kind);
    if (around.length) parts.push(element("h3", { class: "kind" }, title), chips(reading, around, title, how));
  }
  const legend = legendOf(reading, state);
  if (legend && reading.isRead(layer)) parts.push(legend);
  return element("figure", { class: "stage", "data-lens": lens }, ...parts);
}

/** What a picture shows, as its caption. */
export function captionOf(reading, { lens, layer, tile }) {
  const step = reading.data.frames ? `, ${reading.tileName(tile)}` : "";
  const silent = reading.tokens.filter((token) => reading.isSilent(lens, layer, token.number)).length;
  const judged = reading.tokens.filter((token) => reading.pValue(lens, layer, token.number) !== undefined).length;
  const quiet = silent ? `, ${silent} of ${judged} tokens silent` : "";
  const unread = reading.isRead(layer) ? "" : ": not read yet";
  return `${reading.lensTitle(lens)}, ${reading.layerName(layer)}${step}${quiet}${unread}`;
}

/** The colour of a token; null if it has none. */
function painter(reading, { lens, layer, view }) {
  const [low, high] = reading.range(lens, layer);
  return ({ number }) => {
    if (view === "heat" && !reading.isText(number)) {
      const score = reading.bestScore(lens, layer, number);
      return score === undefined ? null : colour((score - low) / (high - low || 1));
    }
    if (view === "bank" && reading.hasBank(lens)) {
      const bankLayer = reading.bestBankLayer(lens, layer, number);
      return bankLayer === undefined ? null : bankColour(reading.data.bank_layers, bankLayer);
    }
    return null;
  };
}

/** What is said of a token to those who do not see it. */
function teller(reading, { lens, layer }) {
  return ({ number }) => {
    const name = reading.tokenName(number);
    if (reading.isSilent(lens, layer, number)) {
      return `${name} silent, p ${shownScore(reading.pValue(lens, layer, number))}`;
    }
    const word = reading.bestWord(lens, layer, number);
    const from = reading.hasBank(lens) ? `, bank layer ${reading.bestBankLayer(lens, layer, number)}` : "";
    const none = reading.isRead(layer) ? "nothing found" : "not read yet";
    return `${name} ${word ? `${word}, ${reading.bestTold(lens, layer, number)}${from}` : none}`;
  };
}

/** The word that is written on a token; "" if none is. */
function writer(reading, { lens, layer, view, all }) {
  if (view !== "words") return () => "";
  const shown = reading.saying(lens, layer).tokens;
  return ({ number }) => (all || shown.has(number) ? reading.bestWord(lens, layer, number) : "");
}

function imageParts(reading, how) {
  const tokens = reading.tokens.filter((token) => token.row >= 0 && token.tile === how.tile);
  const parts = [picture(reading, tokens, how)];
  const rest = reading.tokens.filter((token) => token.kind === "visual" && token.row < 0);
  const lost = rest.some((token) => !token.box.length);
  if (lost) parts.push(element("p", { class: "about" }, `Tokens without a place in the image: ${reading.data.geometry}.`));
  if (rest.length) parts.push(chips(reading, rest, lost ? "Tokens without a place" : "Tokens outside the grid", how));
  return parts;
}

function picture(reading, tokens, how) {
  const [width, height] = reading.data.size;
  const grid = shape("svg", {
    viewBox: `0 0 ${width} ${height}`,
    preserveAspectRatio: "none", // like the image: a token's box stays on its part of the image
    role: "grid",
    "aria-label": `Visual tokens of ${reading.data.source}, read by ${how.name}`,
  });
  const rows = new Map();
  for (const token of tokens) rows.set(token.row, [...(rows.get(token.row) ?? []), token]);
  for (const row of [...rows.keys()].sort((a, b) => a - b)) {
    grid.append(shape("g", { role: "row" }, ...rows.get(row).map((token) => cell(token, how))));
  }
  const regions = regionsOf(tokens, how.word);
  const borders = bordersOf(regions);
  const marks = regions.map((region) => labelOf(region, tokens.length)).filter(Boolean).map(({ text, x, y, size }) =>
    shape("text", { class: "word", x: short(x), y: short(y), "font-size": short(size) }, text),
  );
  const written = shape("g", { class: "written", "aria-hidden": "true" });
  if (borders) written.append(shape("path", { class: "border under", d: borders }), shape("path", { class: "border", d: borders }));
  written.append(...marks);
  grid.append(written);
  const source = reading.imageOf(how.tile);
  const image = element("img", { alt: "", src: source ?? undefined, draggable: "false" });
  const frame = element("div", { class: "picture" }, ...(source ? [image] : []), grid);
  frame.style.setProperty("--ratio", width / height);
  return frame;
}

function cell(token, { paint, told, word, view }) {
  const [left, top, right, bottom] = token.box;
  const fill = paint(token);
  const quiet = view === "words" && !word(token).trim();
  return shape(
    "g",
    { role: "gridcell", tabindex: -1, "data-token": token.number, "aria-label": told(token) },
    shape("rect", {
      class: fill ? "patch painted" : quiet ? "patch quiet" : "patch",
      x: left,
      y: top,
      width: Math.max(0, right - left),
      height: Math.max(0, bottom - top),
      fill: fill ?? undefined,
    }),
  );
}

const short = (number) => Number(number.toFixed(2));

/** Tokens as a row of chips: those of a sentence, or visual tokens without a place in the image. */
function chips(reading, tokens, label, { lens, layer, view, paint, told }) {
  const made = tokens.map((token) => {
    const chip = element(
      "span",
      { class: "chip", role: "gridcell", tabindex: -1, "data-token": token.number, "aria-label": told(token) },
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
function timeline(reading, { name, lens, layer, view, paint, told }) {
  const rows = new Map();
  for (const token of reading.tokens.filter(({ kind }) => kind === "audio")) {
    const second = Math.floor(reading.secondsOf(token.number)[0] + 1e-6);
    rows.set(second, [...(rows.get(second) ?? []), token]);
  }
  const lines = [...rows].map(([second, tokens]) => {
    const cells = tokens.map((token) => {
      const [start, end] = reading.secondsOf(token.number);
      const word = view === "words" ? reading.bestWord(lens, layer, token.number).trim() : "";
      const beat = element(
        "span",
        { class: "beat", role: "gridcell", tabindex: -1, "data-token": token.number, "aria-label": told(token) },
        element("span", { class: "found" }, word),
      );
      beat.style.flexGrow = Math.max(0.001, end - start);
      const fill = paint(token);
      if (fill) beat.style.background = fill;
      return beat;
    });
    const head = element("span", { class: "second", role: "rowheader" }, `${second} s`);
    return element("div", { class: "beats", role: "row" }, head, ...cells);
  });
  return element("div", { class: "timeline", role: "grid", "aria-label": `Tokens over time, read by ${name}` }, ...lines);
}
