// What the form asks for, as the query of an address: an address holds all of it, and fills the form again.

import { askedOfAll } from "./gallery.js";

const FIELDS = ["model", "layers", "bank_layers", "top_k", "unique", "corpus", "word", "caption", "tokens", "answer", "correct", "fdr"];
/** Fields whose change reads again at once. */
export const FILTERS = ["model", "corpus", "word", "caption", "unique", "tokens", "answer", "correct", "fdr"];

const field = (id) => document.getElementById(id);

/** Whether a "text" or an "image" is to be read. */
export function kindOf() {
  return field("tabs").querySelector(":checked").value;
}

/**
 * The query of what the form asks for.
 *
 * @param about what the server offers
 * @param chosen the image: {picture} or {upload}
 * @param change values that take the place of the form's
 */
export function queryOf(about, chosen, change = {}) {
  const text = kindOf() === "text";
  const given = Object.fromEntries(FIELDS.map((name) => [name, field(name).value.trim()]));
  const lenses = [...field("lenses").querySelectorAll(":checked")].map((box) => box.value);
  given.lens = text ? "latent" : lenses.join(",") || "latent";
  if (text) Object.assign(given, { sentence: field("sentence").value.trim(), model: "", tokens: "", answer: "", correct: "", fdr: "" });
  else if (chosen?.picture) given.picture = chosen.picture;
  else if (chosen?.upload) given.upload = chosen.upload;
  const query = new URLSearchParams({ ...given, ...change, ...askedOfAll() }); // a gallery stays
  if (query.get("correct") === about.correct) query.delete("correct"); // what the page does anyway
  for (const [name, value] of [...query]) if (!value) query.delete(name);
  return query;
}

/** Fill the form from an address's query. */
export function fillForm(query) {
  for (const name of FIELDS) if (query.has(name)) field(name).value = query.get(name);
  const lenses = query.get("lens")?.split(",");
  if (lenses) for (const box of field("lenses").querySelectorAll("input")) box.checked = lenses.includes(box.value);
  if (query.has("sentence")) {
    field("sentence").value = query.get("sentence");
    field("tabs").querySelector("[value=text]").checked = true;
  }
}

/** What a reading's address keeps for another image: how it is looked at, and not which layer, tokens or tile. */
export function hashForAnother() {
  const kept = new URLSearchParams(location.hash.slice(1));
  for (const name of ["layer", "pins", "tile", "find", "cause"]) kept.delete(name);
  return kept.size ? `#${kept}` : "";
}
