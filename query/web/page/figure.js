// A reading as a figure: what the view shows, as an SVG file of its own or as a PNG.

import { bankColour, ramp } from "./colours.js";
import { shape } from "./elements.js";
import { excerpt, shownScore } from "./reading.js";
import { captionOf, drawStage } from "./stage.js";

const PANEL = 480; // width of one lens's picture
const GAP = 24;
const LINE = 18;
const SCALE = 2; // pixels of a PNG for each unit of the SVG
const STYLE = `
text { font: 13px system-ui, sans-serif; fill: #1a1d21 }
.quiet { fill: #565d66 }
.title, .strong { font-weight: 600 }
.title { font-size: 16px }
.patch { fill: transparent; stroke: rgb(255 255 255 / 0.3); vector-effect: non-scaling-stroke }
.patch.painted { fill-opacity: 0.78 }
.patch.quiet { fill: rgb(18 21 26 / 0.34) }
.border { fill: none; stroke: #fff; stroke-width: 1.5; vector-effect: non-scaling-stroke }
.border.under { stroke: rgb(0 0 0 / 0.55); stroke-width: 3.5 }
.word { fill: #fff; stroke: rgb(10 12 16 / 0.86); stroke-width: 0.3em; stroke-linejoin: round; paint-order: stroke; text-anchor: middle; font-weight: 600 }
.pinned .patch { stroke: #ff3bd4; stroke-width: 4 }
.named .patch { stroke: #ff7a1a; stroke-width: 4 }
`;
let canvas; // measures text

/** What the view shows, as the text of an SVG file. */
export function figureOf(reading, state) {
  const parts = [];
  const width = state.lenses.length * (PANEL + GAP) + GAP;
  let y = GAP + 16;
  parts.push(text(GAP, y, reading.data.source, "title", width - 2 * GAP));
  y += LINE;
  let bottom = y;
  state.lenses.forEach((lens, at) => {
    const x = GAP + at * (PANEL + GAP);
    const made = panelOf(reading, { ...state, lens }, x, y);
    parts.push(...made.parts);
    bottom = Math.max(bottom, made.bottom);
  });
  y = bottom;
  state.pins.forEach((number, at) => {
    const made = cardOf(reading, state, number, GAP + at * (PANEL + GAP), y);
    parts.push(...made.parts);
    bottom = Math.max(bottom, made.bottom);
  });
  const { model, bank, bank_layers: layers } = reading.data;
  const from = `${model}${bank ? ` · bank ${bank}, layers ${layers.join(", ")}` : ""} · latentbank`;
  bottom += LINE;
  parts.push(text(GAP, bottom, from, "quiet", width - 2 * GAP));
  const wide = Math.max(width, state.pins.length * (PANEL + GAP) + GAP);
  const root = shape(
    "svg",
    { xmlns: "http://www.w3.org/2000/svg", viewBox: `0 0 ${wide} ${bottom + GAP}`, width: wide, height: bottom + GAP },
    shape("style", {}, STYLE),
    shape("rect", { width: "100%", height: "100%", fill: "#ffffff" }),
    ...parts,
  );
  return new XMLSerializer().serializeToString(root);
}

/** One lens's picture at (x, y), and where it ends. */
function panelOf(reading, state, x, y) {
  const parts = [];
  const { data } = reading;
  let bottom = y;
  if (data.size) {
    const height = (PANEL * data.size[1]) / data.size[0];
    const grid = drawStage(reading, state).querySelector(".picture svg");
    for (const cell of grid.querySelectorAll("[data-token]")) {
      const number = Number(cell.dataset.token);
      cell.classList.toggle("pinned", state.pins.includes(number));
      cell.classList.toggle("named", Boolean(state.find) && reading.namesOf(state.lens, state.layer, number).includes(state.find.toLowerCase()));
      for (const name of ["aria-label", "tabindex", "role", "data-token"]) cell.removeAttribute(name);
    }
    for (const [name, value] of Object.entries({ x, y: bottom, width: PANEL, height })) grid.setAttribute(name, value);
    const source = reading.imageOf(state.tile);
    if (source) parts.push(shape("image", { href: source, x, y: bottom, width: PANEL, height, preserveAspectRatio: "none" }));
    parts.push(grid);
    bottom += height;
  }
  const texts = reading.tokens.filter(({ kind, row }) => !data.size || kind !== "visual" || row < 0);
  const flow = flowOf(reading, state, texts, x, bottom + (data.size ? LINE : 0));
  parts.push(...flow.parts);
  bottom = texts.length ? flow.bottom : bottom;
  bottom += LINE;
  parts.push(text(x, bottom, captionOf(reading, state), "quiet", PANEL));
  if (state.view === "heat") {
    bottom += LINE;
    const [low, high] = reading.range(state.lens, state.layer);
    parts.push(...rampOf(x, bottom, `${reading.rankedBy(state.lens, state.layer)} ${shownScore(low)}`, shownScore(high)));
  } else if (state.view === "bank" && reading.hasBank(state.lens)) {
    bottom += LINE;
    parts.push(text(x, bottom, "bank layer", "quiet", PANEL));
    data.bank_layers.forEach((bankLayer, at) => {
      const left = x + 80 + at * 40;
      parts.push(shape("rect", { x: left, y: bottom - 10, width: 11, height: 11, fill: bankColour(data.bank_layers, bankLayer) }));
      parts.push(text(left + 15, bottom, String(bankLayer), "quiet", 30));
    });
  }
  return { parts, bottom };
}

function rampOf(x, y, low, high) {
  const first = x + widthOf(low) + 8;
  const colours = ramp();
  const fields = colours.map((fill, at) => shape("rect", { x: first + at * 14, y: y - 10, width: 14.5, height: 11, fill }));
  return [text(x, y, low, "quiet", PANEL), ...fields, text(first + colours.length * 14 + 8, y, high, "quiet", 80)];
}

/** Tokens of text or of a sound, each with its best word below it, in lines. */
function flowOf(reading, { lens, layer, view, pins }, tokens, x, y) {
  const parts = [];
  let [left, top] = [x, y];
  for (const { number } of tokens) {
    const [label, word] = [reading.tokenName(number), view === "words" ? reading.bestWord(lens, layer, number).trim() : ""];
    const wide = Math.min(PANEL, Math.max(widthOf(label), widthOf(word)) + 12);
    if (left + wide > x + PANEL && left > x) [left, top] = [x, top + 2.6 * LINE];
    const pinned = pins.includes(number);
    parts.push(shape("rect", { x: left, y: top, width: wide, height: 2.3 * LINE, rx: 4, fill: "#f4f5f7", stroke: pinned ? "#ff3bd4" : "#d9dde3", "stroke-width": pinned ? 2 : 1 }));
    parts.push(text(left + 6, top + 15, label, "", PANEL - 12), text(left + 6, top + 33, word, "quiet", PANEL - 12));
    left += wide + 6;
  }
  return { parts, bottom: tokens.length ? top + 2.6 * LINE : y };
}

/** The neighbors of a pinned token by the first lens. */
function cardOf(reading, { lenses: [lens], layer }, number, x, y) {
  const parts = [];
  let bottom = y + 1.6 * LINE;
  parts.push(text(x, bottom, `${reading.tokenName(number)}, ${reading.layerName(layer)}`, "strong", PANEL));
  for (const found of reading.neighbors(lens, layer, number)) {
    bottom += LINE;
    parts.push(text(x, bottom, shownScore(found.score), "quiet", 60), text(x + 52, bottom, found.word.trim(), "strong", 100));
    const [before, token, after] = excerpt(found, 26);
    parts.push(text(x + 160, bottom, `${before}${token}${after}`, "", PANEL - 160));
  }
  return { parts, bottom };
}

/** A line of text, cut where it is wider than `room`. */
function text(x, y, words, kind, room) {
  let shown = words;
  if (widthOf(shown) > room) {
    const letters = Array.from(words);
    while (letters.length > 1 && widthOf(`${letters.join("")}…`) > room) letters.pop();
    shown = `${letters.join("")}…`;
  }
  return shape("text", { x, y, class: kind || undefined }, shown);
}

function widthOf(words) {
  canvas ??= document.createElement("canvas").getContext("2d");
  canvas.font = "13px system-ui, sans-serif";
  return canvas.measureText(words).width;
}

/** An SVG file's text drawn as a PNG. */
export async function pngOf(svg) {
  const image = new Image();
  // Not a blob's address, which a saved page's policy would block.
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const drawn = document.createElement("canvas");
  [drawn.width, drawn.height] = [image.naturalWidth * SCALE, image.naturalHeight * SCALE];
  drawn.getContext("2d").drawImage(image, 0, 0, drawn.width, drawn.height);
  return new Promise((done) => drawn.toBlob(done, "image/png"));
}

/** Let the browser keep a file. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
