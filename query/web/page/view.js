// The view of one reading: controls, the grid of tokens, and the neighbors of the active token and of pinned tokens.

import { bankColour, drawShares, drawStage, element } from "./draw.js";
import { CORRECTED, excerpt, openReading, shownScore, whySilent } from "./reading.js";

const VIEWS = { words: "Words", heat: "Heat map", bank: "Bank layer" };
const CORRECTIONS = { hubs: "hubs", mean: "the mean", both: "hubs and the mean" };
const OF_IMAGES = { ...VIEWS, image: "Image alone" };
let previous; // aborts the listeners of the view shown before

/**
 * Show a reading in `root`, replacing its content. The address's fragment holds the state of the view.
 *
 * @param root an element
 * @param data what query/web/data.py wrote
 * @returns a function that updates the view with new data of the same reading
 */
export function showReading(root, data) {
  let reading = openReading(data);
  previous?.abort();
  const life = (previous = new AbortController());
  const plain = { layer: 0, view: "words", lenses: data.lenses, tile: reading.tiles[0] ?? 0, pins: [] };
  const state = { ...plain, token: null };

  const stages = element("div", { class: "stages" });
  const cards = element("section", { class: "cards", "aria-label": "Neighbors" });
  const shares = element("div", {});
  const status = element("p", { class: "visually-hidden", role: "status" });
  const controls = makeControls(reading, state, (change) => {
    Object.assign(state, change);
    draw();
  });
  root.replaceChildren(
    element("h2", { class: "title" }, data.source),
    element("p", { class: "about" }, about(data)),
    ...(data.note ? [element("p", { class: "note" }, data.note)] : []),
    controls.element,
    element("div", { class: "columns" }, element("div", { class: "left" }, stages, shares), cards),
    element(
      "p",
      { class: "help" },
      data.around ? "A word of the text marks the other tokens whose neighbors have it, and they mark the words they name. " : "",
      "Point at a token, or move with the arrow keys. Click, Enter or Space pins it; a second pinned token is ",
      "compared with the first. Escape unpins all. Page up and Page down change the layer.",
    ),
    status,
  );

  // -- state ---------------------------------------------------------------------------------

  function remember() {
    const kept = new URLSearchParams({ layer: data.layers[state.layer], view: state.view });
    if (state.lenses.length < data.lenses.length) kept.set("lens", state.lenses.join(","));
    if (reading.tiles.length > 1) kept.set("tile", state.tile);
    if (state.pins.length) kept.set("pins", state.pins.join(","));
    // Browsers limit how often an address changes, and this runs for each token pointed at.
    if (location.hash === `#${kept}`) return;
    try {
      history.replaceState(null, "", `#${kept}`);
    } catch {
      // In a notebook's frame the page has no address.
    }
  }

  function recall() {
    Object.assign(state, plain);
    const kept = new URLSearchParams(location.hash.slice(1));
    const layer = data.layers.indexOf(Number(kept.get("layer")));
    if (kept.has("layer") && layer >= 0) state.layer = layer;
    if (kept.get("view") in (data.size ? OF_IMAGES : VIEWS)) state.view = kept.get("view");
    const lenses = (kept.get("lens") ?? "").split(",").filter((lens) => data.lenses.includes(lens));
    if (lenses.length) state.lenses = lenses;
    if (reading.tiles.includes(Number(kept.get("tile")))) state.tile = Number(kept.get("tile"));
    const pins = (kept.get("pins") ?? "").split(",").filter((pin) => /^\d+$/.test(pin)).map(Number);
    state.pins = [...new Set(pins.filter((pin) => pin < reading.tokens.length))].slice(0, 2);
  }

  // -- drawing -------------------------------------------------------------------------------

  function draw() {
    const focused = stages.contains(document.activeElement) ? document.activeElement.dataset.token : null;
    const lens = document.activeElement?.closest?.("figure")?.dataset.lens;
    stages.replaceChildren(...state.lenses.map((name) => drawStage(reading, { ...state, lens: name })));
    shares.replaceChildren(...(state.view === "bank" && data.bank_layers.length ? [drawShares(reading)] : []));
    controls.update();
    mark();
    if (focused !== null) {
      stages.querySelector(`[data-lens="${lens}"] [data-token="${focused}"]`)?.focus({ preventScroll: true });
    }
  }

  /** Mark the active token and the pinned ones, and show their neighbors. */
  function mark() {
    for (const grid of stages.querySelectorAll("[role=grid]")) {
      const cells = [...grid.querySelectorAll("[data-token]")];
      const stop = cells.find((cell) => Number(cell.dataset.token) === state.token) ?? cells[0];
      for (const cell of cells) {
        const number = Number(cell.dataset.token);
        cell.classList.toggle("active", number === state.token);
        cell.classList.toggle("pinned", state.pins.includes(number));
        setTo(cell, "aria-selected", String(state.pins.includes(number)));
        setTo(cell, "tabindex", cell === stop ? "0" : "-1");
      }
    }
    const shown = [...state.pins];
    if (shown.length < 2 && state.token !== null && !shown.includes(state.token)) shown.push(state.token);
    if (data.around) markNamed(shown);
    if (!shown.length) {
      cards.replaceChildren(element("p", { class: "about" }, "Point at a token to see its neighbors."));
    } else {
      const common = shown.length === 2 ? wordsInCommon(reading, state, shown) : new Set();
      cards.replaceChildren(...shown.map((number) => drawCard(reading, state, number, common, pin)));
      if (shown.length === 2) {
        const words = [...common].join(", ") || "none";
        cards.append(element("p", { class: "common" }, `Words in common: ${words}`));
      }
    }
    remember();
  }

  /** Mark the patches that name the word of a shown text token, and the text that a shown patch names. */
  function markNamed(shown) {
    for (const figure of stages.querySelectorAll("figure")) {
      const { lens } = figure.dataset;
      const named = new Set(shown.flatMap((number) => reading.namedBy(lens, state.layer, number)));
      const patches = shown.filter((number) => !reading.isText(number));
      const names = new Set(patches.flatMap((number) => reading.namesOf(lens, state.layer, number)));
      for (const cell of figure.querySelectorAll("[data-token]")) {
        const token = reading.tokens[Number(cell.dataset.token)];
        const told = reading.isText(token.number) && names.has(token.word.toLowerCase());
        cell.classList.toggle("named", told || named.has(token.number));
      }
    }
  }

  function activate(number) {
    if (number === state.token) return;
    state.token = number;
    mark();
  }

  function pin(number) {
    const pinned = state.pins.includes(number);
    state.pins = pinned ? state.pins.filter((other) => other !== number) : [...state.pins.slice(0, 1), number];
    state.token = number;
    status.textContent = `${reading.tokenName(number)} ${pinned ? "unpinned" : "pinned"}`;
    mark();
  }

  // -- pointer and keys ----------------------------------------------------------------------

  const cellOf = (event) => event.target.closest?.("[data-token]");
  const listen = (kind, act) => stages.addEventListener(kind, act);
  for (const kind of ["pointerover", "focusin"]) {
    listen(kind, (event) => cellOf(event) && activate(Number(cellOf(event).dataset.token)));
  }
  listen("click", (event) => {
    const cell = cellOf(event);
    if (!cell) return;
    cell.focus({ preventScroll: true });
    pin(Number(cell.dataset.token));
  });
  listen("keydown", (event) => {
    const cell = cellOf(event);
    if (!cell || event.ctrlKey || event.metaKey || event.altKey) return;
    const number = Number(cell.dataset.token);
    const turn = { PageUp: -1, PageDown: 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      pin(number);
    } else if (event.key === "Escape" && state.pins.length) {
      state.pins = [];
      status.textContent = "All tokens unpinned";
      mark();
    } else if (turn) {
      state.layer = Math.min(data.layers.length - 1, Math.max(0, state.layer + turn));
      status.textContent = reading.layerName(state.layer);
      draw();
    } else {
      const next = neighboringCell(reading, cell, event.key);
      if (!next) return;
      next.focus();
    }
    event.preventDefault();
  });
  window.addEventListener("hashchange", () => (recall(), draw()), { signal: life.signal });

  recall();
  draw();
  return (more) => {
    reading = openReading(more);
    draw();
  };
}

/** Set an attribute if it differs: of thousands of cells, few change. */
function setTo(cell, name, value) {
  if (cell.getAttribute(name) !== value) cell.setAttribute(name, value);
}

/** The cell that a key leads to, within the same grid. */
function neighboringCell(reading, cell, key) {
  const grid = cell.closest("[role=grid]");
  const at = reading.tokens[Number(cell.dataset.token)];
  const cells = [...grid.querySelectorAll("[data-token]")];
  const place = cells.indexOf(cell);
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[key];
  if (key === "Home" || key === "End") {
    const row = cells.filter((other) => other.parentNode === cell.parentNode);
    return row.at(key === "Home" ? 0 : -1);
  }
  if (step === undefined) return null;
  if (key === "ArrowLeft" || key === "ArrowRight" || at.row < 0) return cells[place + step];
  return cells.find((candidate) => {
    const other = reading.tokens[Number(candidate.dataset.token)];
    return other.row === at.row + step && other.column === at.column;
  });
}

function wordsInCommon(reading, state, [first, second]) {
  const words = (token) =>
    state.lenses.flatMap((lens) => reading.neighbors(lens, state.layer, token).map((found) => found.word));
  const others = new Set(words(second).map((word) => word.toLowerCase()));
  return new Set(words(first).map((word) => word.toLowerCase()).filter((word) => word.trim() && others.has(word)));
}

function shownPercent(share) {
  return `${Number((share * 100).toPrecision(3))} %`;
}

function about(data) {
  const parts = [data.model];
  if (data.bank) parts.push(`bank ${data.bank}, layers ${data.bank_layers.join(", ")}`);
  if (data.metric !== "cosine") parts.push(data.metric);
  if (data.correction) parts.push(`scores of visual tokens corrected for ${CORRECTIONS[data.correction] ?? data.correction}`);
  if (data.fdr) parts.push(`silent where it says no more than chance: at most ${shownPercent(data.fdr)} of the words may be false`);
  if (data.geometry) parts.push(`${data.size ? "boxes" : "seconds"}: ${data.geometry}`);
  return parts.join(" · ");
}

// -- controls ----------------------------------------------------------------------------------

function makeControls(reading, state, change) {
  const { data } = reading;
  const slider = element("input", { type: "range", id: "layer", min: 0, max: data.layers.length - 1, step: 1 });
  const shown = element("output", { for: "layer" });
  slider.addEventListener("input", () => change({ layer: Number(slider.value) }));
  const views = choices("View", "radio", data.size ? OF_IMAGES : VIEWS, (key) => change({ view: key }));
  const lensNames = Object.fromEntries(data.lenses.map((lens) => [lens, reading.lensTitle(lens)]));
  const lenses = choices("Lenses", "checkbox", lensNames, () => {
    const chosen = data.lenses.filter((lens) => lenses.inputs[lens].checked);
    change({ lenses: chosen.length ? chosen : state.lenses });
  });
  const made = element(
    "div",
    { class: "controls" },
    element("label", { for: "layer", class: "layer" }, data.size ? "Visual layer " : "Layer ", shown, slider),
    views.element,
  );
  if (data.lenses.length > 1) made.append(lenses.element);
  // The steps of a video are a slider, the tiles of an image a list.
  const tiles = data.frames
    ? element("input", { type: "range", id: "tile", min: 0, max: reading.tiles.length - 1, step: 1 })
    : element("select", { id: "tile" });
  const time = element("output", { for: "tile" });
  if (data.frames) {
    tiles.addEventListener("input", () => change({ tile: reading.tiles[Number(tiles.value)] }));
    made.append(element("label", { for: "tile", class: "layer time" }, "Time ", time, tiles));
  } else if (reading.tiles.length > 1) {
    for (const tile of reading.tiles) {
      tiles.append(element("option", { value: tile }, reading.tileName(tile)));
    }
    tiles.addEventListener("change", () => change({ tile: Number(tiles.value) }));
    made.append(element("label", {}, "Tile ", tiles));
  }
  return {
    element: made,
    update() {
      slider.value = state.layer;
      slider.setAttribute("aria-valuetext", reading.layerName(state.layer));
      shown.textContent = data.layers[state.layer];
      for (const [key, input] of Object.entries(views.inputs)) input.checked = key === state.view;
      for (const [key, input] of Object.entries(lenses.inputs)) input.checked = state.lenses.includes(key);
      tiles.value = data.frames ? reading.tiles.indexOf(state.tile) : state.tile;
      if (data.frames) {
        time.textContent = reading.tileName(state.tile);
        tiles.setAttribute("aria-valuetext", reading.tileName(state.tile));
      }
    },
  };
}

function choices(legend, type, names, act) {
  const inputs = {};
  const labels = Object.entries(names).map(([key, name]) => {
    inputs[key] = element("input", { type, name: legend.toLowerCase(), value: key });
    inputs[key].addEventListener("change", () => act(key));
    return element("label", {}, inputs[key], ` ${name}`);
  });
  return { element: element("fieldset", {}, element("legend", {}, legend), ...labels), inputs };
}

// -- neighbors ---------------------------------------------------------------------------------

function drawCard(reading, state, number, common, pin) {
  const pinned = state.pins.includes(number);
  const button = element("button", { type: "button", "aria-pressed": String(pinned) }, pinned ? "Unpin" : "Pin");
  button.addEventListener("click", () => pin(number));
  const name = reading.tokenName(number);
  const norm = reading.data.norms[state.layer]?.[number];
  const card = element(
    "article",
    { class: pinned ? "card pinned-card" : "card", "aria-label": name },
    element("header", {}, element("h3", {}, name), button),
    element("p", { class: "about" }, reading.layerName(state.layer) + (norm === undefined ? "" : `, norm ${norm}`)),
  );
  const { kind, word } = reading.tokens[number];
  if (reading.isText(number)) card.append(element("p", { class: "about" }, `a token of the ${kind}, of the word “${word}”`));
  for (const lens of state.lenses) {
    const found = reading.neighbors(lens, state.layer, number);
    if (state.lenses.length > 1) card.append(element("h4", {}, reading.lensTitle(lens)));
    if (reading.isText(number)) {
      const count = reading.namedBy(lens, state.layer, number).length;
      if (count) card.append(element("p", { class: "about" }, `${count} visual token${count > 1 ? "s have" : " has"} this word among the neighbors.`));
    }
    const p = reading.pValue(lens, state.layer, number);
    const silent = reading.isSilent(lens, state.layer, number);
    if (p !== undefined && !silent) card.append(element("p", { class: "about" }, `p = ${shownScore(p)}`));
    const read = silent ? whySilent(reading, lens, state.layer, number) : "No neighbors match the filter.";
    const none = reading.isRead(state.layer) ? read : "Not read yet.";
    if (!found.length) card.append(element("p", { class: "about" }, none));
    card.append(element("ol", {}, ...found.map((neighbor) => drawNeighbor(reading, lens, state.layer, neighbor, common))));
  }
  return card;
}

function drawNeighbor(reading, lens, layer, found, common) {
  const bar = element("span", { class: "bar", "aria-hidden": "true" }, element("span"));
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
  if (from.childNodes.length) line.append(from);
  return item;
}
