// The words of a layer as a list; one that is chosen is marked on the image.

import { button, element } from "./elements.js";
import { wordsShown } from "./headline.js";
import { excerpt } from "./reading.js";

const LISTED = 12;

/**
 * The list of words that the first lens shows.
 *
 * @param acts {find(word), point(numbers)}; `point` marks tokens while a word is pointed at
 */
export function drawWords(reading, state, acts) {
  const [lens] = state.lenses;
  const words = wordsShown(reading, lens, state.layer);
  const made = element("section", { class: "words" }, element("h3", {}, `Words at ${reading.layerName(state.layer)}`));
  const entries = words.slice(0, LISTED).map((entry) => drawEntry(reading, state, entry, acts));
  if (entries.length) made.append(element("div", { class: "entries" }, ...entries));
  made.append(element("p", { class: "about" }, "Point at a token to see its neighbors. Click a word to mark the tokens that have it among their neighbors."));
  return made;
}

/** A word with the number of its tokens, and the best of its contexts. */
function drawEntry(reading, { find, lenses: [lens], layer }, { word, numbers }, acts) {
  const chosen = find.trim().toLowerCase() === word.toLowerCase();
  const best = numbers.reduce((a, b) => (reading.bestScore(lens, layer, b) > reading.bestScore(lens, layer, a) ? b : a));
  const [before, token, after] = excerpt(reading.neighbors(lens, layer, best)[0], 32);
  const entry = button(
    { class: "entry", "aria-pressed": String(chosen) },
    () => acts.find(chosen ? "" : word),
    element("b", { dir: "auto" }, word),
    element("span", { class: "count" }, String(numbers.length), element("span", { class: "visually-hidden" }, " tokens")),
    element("span", { class: "caption", dir: "auto" }, ...(token ? [before, element("mark", {}, token), after] : [])),
  );
  for (const kind of ["pointerenter", "focus"]) entry.addEventListener(kind, () => acts.point(numbers));
  for (const kind of ["pointerleave", "blur"]) entry.addEventListener(kind, () => acts.point([]));
  return entry;
}

/** The tokens that have a word or phrase among their neighbors' words, by one lens at one layer. */
export function tokensOf(reading, lens, layer, phrase) {
  const word = phrase.trim().toLowerCase();
  if (!word) return [];
  return reading.described.filter(({ number }) => reading.namesOf(lens, layer, number).includes(word)).map(({ number }) => number);
}
