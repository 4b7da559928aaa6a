// The view of one reading: the image with its tokens, what is said about it, its controls, and the panel beside it.

import { makeBar, OF_IMAGES, VIEWS } from "./bar.js";
import { drawCard, wordsInCommon } from "./cards.js";
import { element, setTo } from "./elements.js";
import { hiddenOf, sentenceOf } from "./headline.js";
import { neighboringCell } from "./keys.js";
import { drawShares } from "./legends.js";
import { openReading } from "./reading.js";
import { drawStage } from "./stage.js";
import { drawWords, tokensOf } from "./words.js";

const CORRECTIONS = { hubs: "hubs", mean: "the mean", both: "hubs and the mean" };
let previous; // aborts the listeners of the view shown before

/**
 * Show a reading, replacing what was shown. The address's fragment holds the state of the view.
 *
 * @param places {seen, told}: elements for the reading itself, and for the panel beside it
 * @param data what query/web/data.py wrote
 * @param live {asked, complete, below, like}: the word that the reading was asked for; whether all layers are read; a
 *   function that returns elements to show below the list of words, given the reading, the state, and a function that
 *   changes the state; and one that asks the bank's images for what a token shows, null if there are none. A saved page
 *   has none of them
 * @returns {update(data, complete), state, reading(), find(word), list()}
 */
export function showReading({ seen, told }, data, { asked = "", complete = true, below = () => [], like = null } = {}) {
  let reading = openReading(data);
  previous?.abort();
  const life = (previous = new AbortController());
  const plain = { layer: 0, view: "words", lenses: data.lenses, tile: reading.tiles[0] ?? 0, pins: [], all: false, find: "", cause: false };
  const state = { ...plain, token: null, following: true };
  let cells = new Map(); // of each token, those in all pictures
  let marked = []; // cells that are active or pinned

  const title = element("h2", { class: "title" }, data.source);
  const sentence = element("p", { class: "sentence" });
  const hidden = element("p", { class: "hidden-words" });
  const all = element("input", { type: "checkbox", id: "all" });
  const allWords = element("label", {}, all, " All words");
  const hiddenText = element("span", {});
  hidden.append(allWords, " ", hiddenText);
  const stages = element("div", { class: "stages" });
  const shares = element("div", {});
  const cards = element("section", { class: "cards", "aria-label": "Neighbors" });
  const status = element("p", { class: "visually-hidden", role: "status" });
  const bar = makeBar(() => reading, state, change, life.signal);
  all.addEventListener("change", () => change({ all: all.checked }));
  if (data.size) {
    seen.style.setProperty("--ratio", data.size[0] / data.size[1]);
  }
  seen.classList.toggle("pictured", Boolean(data.size));
  seen.replaceChildren(
    element("div", { class: "headline" }, title, sentence),
    stages,
    bar.element,
    hidden,
    shares,
    ...(data.note ? [element("p", { class: "note" }, data.note)] : []),
    element("p", { class: "about source" }, about(data)),
    status,
  );
  const words = element("div", { class: "below" });
  told.replaceChildren(cards, words, help(data));

  // -- state ---------------------------------------------------------------------------------

  function change(what) {
    Object.assign(state, what);
    draw();
  }

  function remember() {
    const kept = new URLSearchParams();
    if (!state.following) kept.set("layer", data.layers[state.layer]);
    kept.set("view", state.view);
    if (state.lenses.length < data.lenses.length) kept.set("lens", state.lenses.join(","));
    if (reading.tiles.length > 1) kept.set("tile", state.tile);
    if (state.pins.length) kept.set("pins", state.pins.join(","));
    if (state.all) kept.set("all", "1");
    if (state.find) kept.set("find", state.find);
    if (state.find && state.cause) kept.set("cause", "1");
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
    state.following = !(kept.has("layer") && layer >= 0);
    if (kept.get("view") in (data.size ? OF_IMAGES : VIEWS)) state.view = kept.get("view");
    const lenses = (kept.get("lens") ?? "").split(",").filter((lens) => data.lenses.includes(lens));
    if (lenses.length) state.lenses = lenses;
    if (reading.tiles.includes(Number(kept.get("tile")))) state.tile = Number(kept.get("tile"));
    const pins = (kept.get("pins") ?? "").split(",").filter((pin) => /^\d+$/.test(pin)).map(Number);
    state.pins = [...new Set(pins.filter((pin) => pin < reading.tokens.length))].slice(0, 2);
    state.all = kept.get("all") === "1";
    state.find = kept.get("find") ?? "";
    state.cause = kept.get("cause") === "1";
    if (state.following) follow();
    else state.layer = layer;
  }

  /** Show the best layer, or while layers are being read, the last one. */
  function follow() {
    const read = [...data.layers.keys()].filter((layer) => reading.isRead(layer));
    state.layer = complete ? reading.bestLayer(state.lenses[0]) : Math.max(0, ...read);
  }

  // -- drawing -------------------------------------------------------------------------------

  function draw() {
    const focused = stages.contains(document.activeElement) ? document.activeElement.dataset.token : null;
    const lens = document.activeElement?.closest?.("figure")?.dataset.lens;
    seen.style.setProperty("--stages", state.lenses.length);
    stages.replaceChildren(...state.lenses.map((name) => drawStage(reading, { ...state, lens: name })));
    cells = new Map();
    marked = [];
    for (const cell of stages.querySelectorAll("[data-token]")) {
      const number = Number(cell.dataset.token);
      cells.set(number, [...(cells.get(number) ?? []), cell]);
    }
    shares.replaceChildren(...(state.view === "bank" && data.bank_layers.length ? [drawShares(reading)] : []));
    sentence.replaceChildren(...sentenceOf(reading, state, asked));
    hiddenText.textContent = hiddenOf(reading, state);
    hidden.hidden = !hiddenText.textContent;
    all.checked = state.all;
    bar.update();
    list();
    mark();
    if (focused !== null) {
      stages.querySelector(`[data-lens="${lens}"] [data-token="${focused}"]`)?.focus({ preventScroll: true });
    }
  }

  function list() {
    words.replaceChildren(drawWords(reading, state, { find, point }), ...(complete ? below(reading, state, (what) => (Object.assign(state, what), remember())) : []));
  }

  /** Mark the active token and the pinned ones, and show their neighbors. */
  function mark() {
    const shown = [...state.pins];
    if (shown.length < 2 && state.token !== null && !shown.includes(state.token)) shown.push(state.token);
    for (const cell of marked) {
      cell.classList.remove("active", "pinned");
      cell.querySelector(".halo")?.remove();
    }
    marked = [...new Set([...state.pins, state.token])].flatMap((number) => cells.get(number) ?? []);
    for (const cell of marked) {
      const number = Number(cell.dataset.token);
      cell.classList.toggle("active", number === state.token);
      if (number === state.token) haloOf(cell);
      cell.classList.toggle("pinned", state.pins.includes(number));
    }
    for (const grid of stages.querySelectorAll("[role=grid]")) markStops(grid);
    markNamed(shown);
    const common = shown.length === 2 ? wordsInCommon(reading, state, shown) : new Set();
    const acts = { pin, like, go: (layer) => change({ layer, following: false }) };
    cards.replaceChildren(...shown.map((number) => drawCard(reading, state, number, common, acts)));
    cards.classList.toggle("two", shown.length === 2);
    if (shown.length === 2) {
      cards.append(element("p", { class: "common" }, `Words in common: ${[...common].join(", ") || "none"}`));
    }
    remember();
  }

  /** Let the Tab key stop at the active token, or at the first one, and tell which tokens are pinned. */
  function markStops(grid) {
    const stop = grid.querySelector(".active") ?? grid.querySelector("[data-token]");
    for (const cell of grid.querySelectorAll('[tabindex="0"], [aria-selected="true"]')) {
      if (cell !== stop) setTo(cell, "tabindex", "-1");
      if (!cell.classList.contains("pinned")) setTo(cell, "aria-selected", "false");
    }
    if (stop) setTo(stop, "tabindex", "0");
    for (const cell of grid.querySelectorAll(".pinned")) setTo(cell, "aria-selected", "true");
  }

  /** Mark the patches that name the word of a shown text token, the text that a shown patch names, and what was looked for. */
  function markNamed(shown) {
    for (const figure of stages.querySelectorAll("figure")) {
      const { lens } = figure.dataset;
      const named = new Set(shown.flatMap((number) => reading.namedBy(lens, state.layer, number)));
      if (state.find) for (const number of tokensOf(reading, lens, state.layer, state.find)) named.add(number);
      const patches = shown.filter((number) => !reading.isText(number));
      const names = data.around ? new Set(patches.flatMap((number) => reading.namesOf(lens, state.layer, number))) : new Set();
      setNamed(figure, (token) => named.has(token.number) || (reading.isText(token.number) && names.has(token.word.toLowerCase())));
    }
  }

  function setNamed(figure, isNamed) {
    const before = new Set(figure.querySelectorAll(".named"));
    for (const token of reading.tokens) {
      if (!isNamed(token)) continue;
      for (const cell of cells.get(token.number) ?? []) {
        if (!figure.contains(cell)) continue;
        cell.classList.add("named");
        before.delete(cell);
      }
    }
    for (const cell of before) cell.classList.remove("named");
  }

  /** Mark tokens while a word of the list is pointed at. */
  function point(numbers) {
    for (const cell of stages.querySelectorAll(".pointed")) cell.classList.remove("pointed");
    for (const cell of numbers.flatMap((number) => cells.get(number) ?? [])) cell.classList.add("pointed");
  }

  /** Mark the tokens that have a word among their neighbors; "" marks none. */
  function find(word) {
    state.find = word;
    state.cause = false;
    const count = tokensOf(reading, state.lenses[0], state.layer, word).length;
    status.textContent = word ? `${count} token${count === 1 ? " has" : "s have"} “${word}” among the neighbors at ${reading.layerName(state.layer)}` : "";
    const within = words.contains(document.activeElement);
    list();
    if (within) words.querySelector(".entry[aria-pressed=true]")?.focus({ preventScroll: true });
    mark();
    return status.textContent;
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
    state.following = false; // what is looked at stays
    status.textContent = `${reading.tokenName(number)} ${pinned ? "unpinned" : "pinned"}`;
    mark();
  }

  function release() {
    status.textContent = state.pins.length ? "All tokens unpinned" : "";
    state.pins = [];
    state.token = null;
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
      release();
    } else if (turn) {
      const layer = Math.min(data.layers.length - 1, Math.max(0, state.layer + turn));
      status.textContent = reading.layerName(layer);
      change({ layer, following: false });
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
  return {
    state,
    find,
    list,
    reading: () => reading,
    update(more, whole) {
      reading = openReading(more);
      complete = whole;
      if (state.following) follow();
      draw();
    },
  };
}

/** Show an image alone, large, before it is read. */
export function showImage({ seen, told }, source, title, then) {
  previous?.abort();
  const image = element("img", { alt: "", src: source });
  const frame = element("div", { class: "picture" }, image);
  const fit = () => {
    const ratio = image.naturalWidth / image.naturalHeight || 1;
    frame.style.setProperty("--ratio", ratio);
    seen.style.setProperty("--ratio", ratio);
    then();
  };
  image.addEventListener("load", fit);
  image.addEventListener("error", then);
  seen.classList.add("pictured");
  seen.style.setProperty("--stages", 1);
  const headline = element("div", { class: "headline" }, element("h2", { class: "title" }, title), element("p", { class: "sentence" }, "The image is being read."));
  seen.replaceChildren(headline, element("div", { class: "stages" }, element("figure", { class: "stage" }, frame)));
  told.replaceChildren();
}

/** Draw a dark frame around an active patch's light one, so that it is seen on any image. */
function haloOf(cell) {
  const patch = cell.querySelector(".patch");
  if (!patch) return; // a token of text
  const halo = patch.cloneNode();
  halo.removeAttribute("fill");
  setTo(halo, "class", "halo");
  cell.prepend(halo);
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

function help(data) {
  const around = data.around ? "A word of the text marks the other tokens whose neighbors have it, and they mark the words they name. " : "";
  return element(
    "p",
    { class: "help" },
    around,
    "Arrow keys move between tokens. Click, Enter or Space pins one; a second pinned token is compared with the first. ",
    "Escape unpins all. Page up and Page down change the layer.",
  );
}
