// What colours stand for, and the shares of bank layers.

import { bankColour, ramp } from "./colours.js";
import { element } from "./elements.js";
import { shownScore } from "./reading.js";

/** The legend of a view; null if it needs none. */
export function legendOf(reading, { lens, layer, view }) {
  if (view === "heat") return heatLegend(reading.rankedBy(lens, layer), ...reading.range(lens, layer));
  return view === "bank" ? bankLegend(reading, lens) : null;
}

function heatLegend(what, low, high) {
  const bar = element("span", { class: "ramp" });
  bar.style.background = `linear-gradient(to right, ${ramp().join(", ")})`;
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
