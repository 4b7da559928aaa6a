// The controls below the image: layers as a strip that plays, views, lenses, and the steps of time or the tiles.

import { button, element, setTo } from "./elements.js";

export const VIEWS = { words: "Words", heat: "Heat map", bank: "Bank layer" };
export const OF_IMAGES = { ...VIEWS, image: "Image alone" };
const STEP = 900; // milliseconds that a layer is shown while layers play

/**
 * Make the controls.
 *
 * @param now returns the reading, which may have grown since
 * @param state of the view
 * @param change called with what changes in the state
 * @param life its abort ends what plays
 * @returns {element, update}
 */
export function makeBar(now, state, change, life) {
  const { data } = now();
  const strip = makeStrip(now, state, change, life);
  const views = choices("View", "radio", data.size ? OF_IMAGES : VIEWS, (key) => change({ view: key }));
  const lensNames = Object.fromEntries(data.lenses.map((lens) => [lens, now().lensTitle(lens)]));
  const lenses = choices("Lenses", "checkbox", lensNames, () => {
    const chosen = data.lenses.filter((lens) => lenses.inputs[lens].checked);
    change({ lenses: chosen.length ? chosen : state.lenses });
  });
  const place = makePlace(now(), state, change);
  const made = element("div", { class: "bar" }, strip.element, views.element);
  if (data.lenses.length > 1) made.append(lenses.element);
  if (place) made.append(place.element);
  return {
    element: made,
    update() {
      strip.update();
      for (const [key, input] of Object.entries(views.inputs)) input.checked = key === state.view;
      for (const [key, input] of Object.entries(lenses.inputs)) input.checked = state.lenses.includes(key);
      place?.update();
    },
  };
}

/** The layers: a slider, above it for each layer a bar of how much the lens says there, and a button that plays them. */
function makeStrip(now, state, change, life) {
  const { data } = now();
  const last = data.layers.length - 1;
  const kind = data.size ? "Visual layer " : "Layer ";
  const slider = element("input", { type: "range", id: "layer", min: 0, max: last, step: 1 });
  const shown = element("output", { for: "layer" });
  const bars = data.layers.map(() => element("span", { class: "amount" }));
  const names = data.layers.map((name, at) => element("span", { class: "tick" }, element("span", { class: "well" }, bars[at]), String(name)));
  const best = element("span", { class: "best" });
  const play = makePlay(() => change({ layer: state.layer === last ? 0 : state.layer + 1, following: false }), life);
  slider.addEventListener("input", () => {
    play.stop();
    change({ layer: Number(slider.value), following: false });
  });
  const scale = element("div", { class: "scale" }, element("div", { class: "ticks", "aria-hidden": "true" }, ...names), slider);
  scale.style.setProperty("--count", data.layers.length);
  const made = element("div", { class: "strip" }, element("label", { for: "layer" }, kind, shown, best), ...(last ? [play.element, scale] : []));
  return {
    element: made,
    update() {
      const reading = now();
      const said = data.layers.map((_, at) => (reading.isRead(at) ? reading.saying(state.lenses[0], at).said : 0));
      const most = Math.max(1, ...said);
      const first = reading.bestLayer(state.lenses[0]);
      said.forEach((amount, at) => {
        bars[at].style.height = `${(100 * amount) / most}%`;
        names[at].classList.toggle("current", at === state.layer);
        names[at].classList.toggle("first", at === first && amount > 0);
      });
      best.textContent = state.layer === first && said[first] > 0 && last ? ", where most is said" : "";
      slider.value = state.layer;
      setTo(slider, "aria-valuetext", `${reading.layerName(state.layer)}${best.textContent}`);
      shown.textContent = data.layers[state.layer];
    },
  };
}

/** A button that plays and pauses; for people who want less motion, each press is one step. */
function makePlay(step, life) {
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    name();
  };
  const made = button({ class: "play" }, () => {
    if (still.matches) return step();
    if (timer !== null) return stop();
    step();
    timer = setInterval(step, STEP);
    return name();
  });
  function name() {
    const told = still.matches ? "Next layer" : timer === null ? "Play the layers" : "Pause";
    setTo(made, "aria-label", told);
    made.title = told;
    made.textContent = still.matches ? "⏭" : timer === null ? "▶" : "⏸";
  }
  still.addEventListener("change", stop, { signal: life });
  life.addEventListener("abort", () => clearInterval(timer));
  name();
  return { element: made, stop };
}

/** The steps of a video as a slider, or the tiles of an image as a list; null where there is one alone. */
function makePlace(reading, state, change) {
  const { data, tiles } = reading;
  if (data.frames) {
    const slider = element("input", { type: "range", id: "tile", min: 0, max: tiles.length - 1, step: 1 });
    const time = element("output", { for: "tile" });
    slider.addEventListener("input", () => change({ tile: tiles[Number(slider.value)] }));
    return {
      element: element("label", { for: "tile", class: "time" }, "Time ", time, slider),
      update() {
        slider.value = tiles.indexOf(state.tile);
        time.textContent = reading.tileName(state.tile);
        setTo(slider, "aria-valuetext", reading.tileName(state.tile));
      },
    };
  }
  if (tiles.length < 2) return null;
  const list = element("select", { id: "tile" }, ...tiles.map((tile) => element("option", { value: tile }, reading.tileName(tile))));
  list.addEventListener("change", () => change({ tile: Number(list.value) }));
  return { element: element("label", {}, "Tile ", list), update: () => (list.value = state.tile) };
}

function choices(legend, type, names, act) {
  const inputs = {};
  const labels = Object.entries(names).map(([key, name]) => {
    inputs[key] = element("input", { type, name: legend.toLowerCase(), value: key });
    inputs[key].addEventListener("change", () => act(key));
    return element("label", {}, inputs[key], ` ${name}`);
  });
  const group = element("fieldset", { class: type === "radio" ? "segments" : "checks" }, element("legend", {}, legend), ...labels);
  return { element: group, inputs };
}
