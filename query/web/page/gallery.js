// The bank's images that show a word, or what a patch shows: ranked pictures, with the patches that show it marked.

import { button, element, shape } from "./elements.js";
import { drop, followJob } from "./jobs.js";
import { shownScore } from "./reading.js";
import { answer } from "./server.js";

/** What an address asks all images for, as a query: `images`, a word, or `like`, a patch. Empty if it asks for nothing. */
export function askedOfAll() {
  const query = new URLSearchParams(location.search);
  return Object.fromEntries(["images", "like"].filter((name) => query.get(name)?.trim()).map((name) => [name, query.get(name).trim()]));
}

/** Whether an address's `like` is a patch of the image that the address names, and not a stored one. */
const isOfImage = (like) => like?.includes(",");

/**
 * Make the gallery.
 *
 * @param place the section that holds it
 * @param modelOf returns the name of the chosen VLM; "" for the first
 * @param imageOf returns the query of the image that is shown, {picture} or {upload}
 * @param open called with a picture's file when it is chosen, and the word; "" if a patch was asked for
 * @returns {ask(what), forget}: `what` is {images}, a word, or {like}: the id of a stored patch, or row, column and tile
 *   of a patch of the image that is shown, with commas. `forget` takes such a patch out of the address
 */
export function makeGallery(place, modelOf, imageOf, open) {
  let job = null;
  let turn = 0; // answers to earlier questions are ignored

  function remember(what) {
    const query = new URLSearchParams(location.search);
    for (const name of ["images", "like"]) query.delete(name);
    for (const [name, value] of Object.entries(what)) query.set(name, value);
    history.replaceState(null, "", `${query.size ? `?${query}` : location.pathname}${location.hash}`);
  }

  function stop() {
    turn += 1;
    if (job) {
      job.close();
      drop(job.id);
    }
    job = null;
  }

  function close() {
    stop();
    remember({});
    place.hidden = true;
    place.parentNode.classList.remove("with-gallery");
    place.replaceChildren();
    document.getElementById("where").focus();
  }

  function forget() {
    if (isOfImage(askedOfAll().like)) remember({});
  }

  function show(what, ...parts) {
    const sought = what.images ? `“${what.images}”` : (what.told ?? "Like this patch");
    const title = element("h2", { id: "gallery-title", tabindex: -1 }, element("span", { dir: "auto" }, sought), what.images ? " in all images" : ", in all images");
    const within = place.contains(document.activeElement); // what was pressed goes
    place.replaceChildren(element("header", {}, title, button({ class: "small" }, close, "Close the gallery")), ...parts);
    place.hidden = false;
    place.parentNode.classList.add("with-gallery");
    if (within) title.focus({ preventScroll: true });
  }

  function fail(what, text) {
    job = null;
    show(what, element("p", { class: "status wrong", role: "alert" }, text), button({ class: "small" }, () => ask(what), "Try again"));
  }

  async function ask(what) {
    stop();
    const mine = turn;
    const { images: word = "", like = "" } = what;
    remember(word ? { images: word } : { like });
    const status = element("p", { role: "status" }, "sent");
    const progress = element("progress", { "aria-label": "Searching the images" });
    show(what, status, progress);
    place.scrollIntoView({ block: "nearest" });
    try {
      const query = new URLSearchParams({ word, like, model: modelOf(), ...(isOfImage(like) ? imageOf() : {}) });
      const { job: id } = await (await answer(fetch(`api/gallery?${query}`, { method: "POST" }))).json();
      if (mine !== turn) return drop(id);
      place.append(button({ class: "small" }, () => drop(id), "Cancel"));
      job = followJob(id, {
        state(now) {
          status.textContent = now.what || now.state;
          if (now.total) [progress.max, progress.value] = [now.total, now.done];
        },
        async end(now) {
          job = null;
          if (now.state !== "done") return fail(what, now.error || "Cancelled.");
          try {
            const found = await (await answer(fetch(`api/gallery/${now.reading}`))).json();
            if (mine === turn) show({ ...what, told: toldOf(found) }, ...partsOf(found, (file) => open(file, word), ask));
          } catch (error) {
            if (mine === turn) fail(what, error.message);
          }
        },
        lost: () => fail(what, "The connection is lost; is the page's server still running?"),
      });
    } catch (error) {
      if (mine === turn) fail(what, error.message);
    }
  }

  return { ask, forget };
}

/** What was asked for, as a title. */
const toldOf = ({ question }) => question[0].toUpperCase() + question.slice(1);

function partsOf(found, open, ask) {
  const { images } = found;
  if (!images.length) return [element("p", { role: "status" }, "No image is stored.")];
  const layers = found.visual_layers.join(", ");
  const corrected = found.correction ? ` · ${found.correction}` : "";
  const told = `${images.length} image${images.length === 1 ? "" : "s"}, best first · ${found.model}, visual layer ${layers}${corrected}`;
  return [
    element("p", { class: "about", role: "status" }, told),
    element("ol", { class: "ranked" }, ...images.map((image, at) => element("li", {}, drawImage(image, at + 1, open), drawLike(image, ask)))),
    element("p", { class: "about" }, "Choose a picture to read it. What is read is the small picture that the bank keeps, not the file itself."),
  ];
}

function drawImage({ image, size: [width, height], picture, patches }, rank, open) {
  const [{ row, column, score }] = patches;
  const canvas = shape("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  if (picture) canvas.append(shape("image", { href: `data:image/jpeg;base64,${picture}`, width, height, preserveAspectRatio: "none" }));
  const boxes = patches.flatMap(({ box }) => (box ? [box] : []));
  const holes = boxes.map(([left, top, right, bottom]) => `M${left} ${top}H${right}V${bottom}H${left}Z`).join("");
  if (holes) canvas.append(shape("path", { class: "shade", d: `M0 0H${width}V${height}H0Z${holes}` }));
  for (const [left, top, right, bottom] of boxes) {
    canvas.append(shape("rect", { class: "mark", x: left, y: top, width: Math.max(0, right - left), height: Math.max(0, bottom - top) }));
  }
  const where = row < 0 ? "" : `row ${row}, column ${column}, `;
  const hidden = (text) => element("span", { class: "visually-hidden" }, text);
  const caption = [
    element("span", { class: "name", dir: "auto" }, hidden(picture ? "Read image " : "Image "), element("b", {}, `${rank} `), image),
    element("span", { class: "about" }, where, hidden("score "), shownScore(score)),
  ];
  if (!picture) return element("div", { class: "shown" }, canvas, ...caption);
  return button({ class: "shown" }, () => open(fileOf(picture, image)), canvas, ...caption);
}

/** A button that asks for patches with the meaning of an image's best one. */
function drawLike({ image, patches: [{ id, row, column }] }, ask) {
  const where = row < 0 ? "" : `row ${row}, column ${column} of `;
  return button({ class: "small", "aria-label": `Like this, in all images: ${where}${image}` }, () => ask({ like: id }), "Like this");
}

/** A picture as a file, as if it had been chosen. */
function fileOf(picture, name) {
  return new File([Uint8Array.from(atob(picture), (letter) => letter.charCodeAt(0))], name, { type: "image/jpeg" });
}
