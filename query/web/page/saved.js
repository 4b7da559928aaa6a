// The start of a saved page: its reading, and the tools.

import { makeTools } from "./tools.js";
import { showReading } from "./view.js";

/** Show the reading that the page holds. */
export function startSaved() {
  const places = { seen: document.getElementById("seen"), told: document.getElementById("told") };
  const view = showReading(places, JSON.parse(document.getElementById("reading").textContent));
  const status = places.seen.querySelector("[role=status]");
  const say = (text) => (status.textContent = text);
  makeTools(() => ({ reading: view.reading(), state: view.state }), say);
  const where = document.getElementById("where");
  where.value = view.state.find;
  document.getElementById("search").addEventListener("submit", (event) => {
    event.preventDefault();
    view.find(where.value.trim());
  });
  where.addEventListener("search", () => where.value || view.find(""));
}
