// The neighbors of the tokens that are pointed at or pinned.

import { bankColour } from "./colours.js";
import { button, element } from "./elements.js";
import { drawLife } from "./life.js";
import { CORRECTED, excerpt, shownScore, whySilent } from "./reading.js";

/**
 * A token's card: its neighbors by each lens, and its life through the layers.
 *
 * @param acts {pin(number), go(layer), like(token)}; `like` is null where no images are stored
 */
export function drawCard(reading, state, number, common, acts) {
  const pinned = state.pins.includes(number);
  const token = reading.tokens[number];
  const name = reading.tokenName(number);
  const norm = reading.data.norms[state.layer]?.[number];
  const head = element(
    "header",
    {},
    element("h3", {}, name),
    ...(acts.like && token.row >= 0 ? [button({ class: "small", "aria-label": `Like this, in all images: ${name}` }, () => acts.like(token), "Like this")] : []),
    button({ class: "small", "aria-pressed": String(pinned) }, () => acts.pin(number), pinned ? "Unpin" : "Pin"),
  );
  const where = reading.layerName(state.layer) + (norm === undefined ? "" : `, norm ${norm}`);
  const card = element("article", { class: pinned ? "card pinned-card" : "card", "aria-label": name }, head, element("p", { class: "about" }, where));
  const { kind, word } = token;
  if (reading.isText(number)) card.append(element("p", { class: "about" }, `a token of the ${kind}, of the word “${word}”`));
  for (const lens of state.lenses) card.append(...lensParts(reading, state, lens, number, common));
  if (reading.data.layers.length > 1) {
    for (const lens of state.lenses) card.append(drawLife(reading, state, lens, number, acts.go));
  }
  return card;
}

function lensParts(reading, { lenses, layer }, lens, number, common) {
  const about = (text) => element("p", { class: "about" }, text);
  const parts = [];
  const found = reading.neighbors(lens, layer, number);
  if (lenses.length > 1) parts.push(element("h4", {}, reading.lensTitle(lens)));
  if (reading.isText(number)) {
    const count = reading.namedBy(lens, layer, number).length;
    if (count) parts.push(about(`${count} visual token${count > 1 ? "s have" : " has"} this word among the neighbors.`));
  }
  const p = reading.pValue(lens, layer, number);
  const silent = reading.isSilent(lens, layer, number);
  if (p !== undefined && !silent) parts.push(about(`p = ${shownScore(p)}`));
  const read = silent ? whySilent(reading, lens, layer, number) : "No neighbors match the filter.";
  if (!found.length) parts.push(about(reading.isRead(layer) ? read : "Not read yet."));
  parts.push(element("ol", { class: "neighbors" }, ...found.map((neighbor) => drawNeighbor(reading, lens, layer, neighbor, common))));
  return parts;
}

function drawNeighbor(reading, lens, layer, found, common) {
  const bar = element("span", { class: "meter", "aria-hidden": "true" }, element("span"));
  const corrected = found.own !== undefined;
  // A corrected score has no largest value of its own, so the layer's best is a full bar.
  const share = corrected ? found.score / Math.max(1e-6, reading.range(lens, layer)[1]) : found.score;
  bar.firstChild.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  const word = element("b", { dir: "auto" }, found.word.trim() || JSON.stringify(found.token));
  if (common.has(found.word.toLowerCase())) word.classList.add("shared");
  const line = element(
    "div",
    { class: "neighbor" },
    word,
    bar,
    element("span", { class: "score", title: corrected ? CORRECTED : reading.scoreName(lens) }, shownScore(found.score)),
  );
  const item = element("li", {}, line);
  if (found.caption) {
    const [before, token, after] = excerpt(found);
    item.append(element("p", { class: "caption", dir: "auto" }, before, element("mark", {}, token), after));
  }
  const from = element("span", { class: "from" });
  if (found.bankLayer >= 0) {
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = bankColour(reading.data.bank_layers, found.bankLayer);
    from.append(swatch, ` layer ${found.bankLayer}`, ` · ${found.corpus}`);
  }
  if (corrected) from.append(found.bankLayer >= 0 ? " · " : "", `${reading.scoreName(lens)} ${shownScore(found.own)}`);
  if (from.childNodes.length) item.append(from);
  return item;
}

/** The words, in lower case, that two tokens have in common. */
export function wordsInCommon(reading, state, [first, second]) {
  const words = (token) =>
    state.lenses.flatMap((lens) => reading.neighbors(lens, state.layer, token).map((found) => found.word.toLowerCase()));
  const others = new Set(words(second));
  return new Set(words(first).filter((word) => word.trim() && others.has(word)));
}
