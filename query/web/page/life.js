// A token's life: its best word at each layer that was read, as one picture.

import { button, element } from "./elements.js";
import { shownScore } from "./reading.js";

/**
 * A line for each layer: the layer, the best word, and its score as a bar; a click goes to the layer.
 *
 * The lines come one frame later, into room that is kept for them, so that the token's neighbors need not wait.
 */
export function drawLife(reading, state, lens, number, go) {
  const title = state.lenses.length > 1 ? `Through the layers, ${reading.lensTitle(lens)}` : "Through the layers";
  const made = element("div", { class: "life", role: "group", "aria-label": title }, element("h4", {}, title));
  made.style.setProperty("--lines", reading.data.layers.length);
  const { layer } = state; // of now
  const fill = () => made.isConnected && made.append(...linesOf(reading, layer, lens, number, go));
  requestAnimationFrame(() => requestAnimationFrame(fill));
  return made;
}

function linesOf(reading, layer, lens, number, go) {
  const scores = reading.data.layers.map((_, at) => reading.bestScore(lens, at, number));
  const most = Math.max(1e-6, ...scores.filter((score) => score !== undefined));
  return reading.data.layers.map((name, at) => {
    const word = reading.bestWord(lens, at, number).trim();
    const unread = reading.isRead(at) ? (reading.isSilent(lens, at, number) ? "silent" : "nothing found") : "not read yet";
    const meter = element("span", { class: "meter", "aria-hidden": "true" }, element("span"));
    meter.firstChild.style.width = `${Math.max(0, (scores[at] ?? 0) / most) * 100}%`;
    const said = reading.saying(lens, at).tokens.has(number);
    return button(
      { class: said ? "moment" : "moment quiet", "aria-current": at === layer ? "step" : null },
      () => go(at),
      element("span", { class: "at" }, element("span", { class: "visually-hidden" }, "layer "), String(name)),
      element("span", { class: "found", dir: "auto" }, word || unread),
      meter,
      element("span", { class: "score" }, shownScore(scores[at])),
    );
  });
}
