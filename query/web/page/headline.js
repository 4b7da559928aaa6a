// What one sees, in a sentence; and what is not shown, in another.

import { element } from "./elements.js";

const SHOWN = 4; // words that a sentence tells

/** The words that are shown on tokens at a layer, with the numbers of their tokens, the commonest first. */
export function wordsShown(reading, lens, layer) {
  const words = new Map();
  const shown = reading.saying(lens, layer).tokens;
  for (const { number } of reading.tokens) {
    const word = reading.isText(number) || !shown.has(number) ? "" : reading.bestWord(lens, layer, number).trim();
    if (!word) continue;
    const key = word.toLowerCase();
    if (!words.has(key)) words.set(key, { word, numbers: [] });
    words.get(key).numbers.push(number);
  }
  return [...words.values()].sort((a, b) => b.numbers.length - a.numbers.length);
}

/** The sentence that says what one sees, as nodes; `asked` is the word that the reading was asked for, if any. */
export function sentenceOf(reading, { lenses, layer, view }, asked) {
  const [lens] = lenses;
  const { data } = reading;
  if (!reading.isRead(layer)) return [`${capital(reading.layerName(layer))} is not read yet.`];
  const each = data.size ? "Each square is a visual token" : data.seconds ? "Each field is a token of the sound" : "Each box is a token";
  if (view === "heat") {
    return asked
      ? ["The brighter a token, the nearer it is to a context of ", element("b", {}, asked), "."]
      : ["The brighter a token, the nearer it is to what the lens finds for it."];
  }
  if (view === "bank") return [`${each}; its color is the bank layer in which its best neighbor lies.`];
  if (view === "image") return [`${each}. Point at one to see what it means.`];
  const words = wordsShown(reading, lens, layer);
  if (!words.length) return [`${each}. At ${reading.layerName(layer)}, ${reading.lensTitle(lens)} has nothing to say.`];
  if (!data.size) return [`${each}, with the word that ${reading.lensTitle(lens)} finds nearest to it.`];
  const told = words.slice(0, SHOWN).flatMap(({ word, numbers }, at) => [
    at === 0 ? "" : at === Math.min(words.length, SHOWN) - 1 ? " and " : ", ",
    element("b", { dir: "auto" }, word),
    ` on ${numbers.length}`,
  ]);
  const more = words.length > SHOWN ? `, and ${words.length - SHOWN} more word${words.length > SHOWN + 1 ? "s" : ""}` : "";
  if (more) told.splice(told.findIndex((part) => part === " and "), 1, ", ");
  return [`${each}. At ${reading.layerName(layer)} ${reading.lensTitle(lens)} reads `, ...told, `${more}.`];
}

/** The sentence that says which words are hidden and why; "" if none are. */
export function hiddenOf(reading, { lenses: [lens], layer, view, all }) {
  const { tokens, by } = reading.saying(lens, layer);
  const given = reading.tokens.filter(({ number }) => !reading.isText(number) && reading.bestWord(lens, layer, number));
  const hidden = given.filter(({ number }) => !tokens.has(number)).length;
  if (view !== "words" || by !== "agreement" || !hidden) return "";
  const which = "fewer than half of their neighbors agree on the word, it is one like “the”, or its score is in this layer's lower half";
  return all ? `${hidden} of these ${given.length} tokens say little: ${which}.` : `${hidden} of ${given.length} words are hidden: ${which}.`;
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
