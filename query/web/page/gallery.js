// The bank's images that show a word: a gallery of ranked pictures, with the patches that show it marked.

import { button, element, shape } from "./elements.js";
import { drop, followJob } from "./jobs.js";
import { shownScore } from "./reading.js";
import { answer } from "./server.js";

/** The word whose gallery the address asks for; "" if it asks for none. */
export function askedOfAll() {
  return new URLSearchParams(location.search).get("images") ?? "";
}

/**
 * Make the gallery.
 *
 * @param place the section that holds it
 * @param modelOf returns the name of the chosen VLM; "" for the first
 * @param open called with a picture's file when it is chosen, and the word
 * @returns {ask(word), close}
 */
export function makeGallery(place, modelOf, open) {
  let job = null;
  let turn = 0; // answers to earlier questions are ignored

  function remember(word) {
    const query = new URLSearchParams(location.search);
    if (word) query.set("images", word);
    else query.delete("images");
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
    remember("");
    place.hidden = true;
    place.parentNode.classList.remove("with-gallery");
    place.replaceChildren();
    document.getElementById("where").focus();
  }

  function show(word, ...parts) {
    const title = element("h2", { id: "gallery-title", tabindex: -1 }, element("span", { dir: "auto" }, `“${word}”`), " in all images");
    place.replaceChildren(element("header", {}, title, button({ class: "small" }, close, "Close the gallery")), ...parts);
    place.hidden = false;
    place.parentNode.classList.add("with-gallery");
  }

  function fail(word, text) {
    job = null;
    show(word, element("p", { class: "status wrong", role: "alert" }, text), button({ class: "small" }, () => ask(word), "Try again"));
  }

  async function ask(word) {
    stop();
    const mine = turn;
    remember(word);
    const status = element("p", { role: "status" }, "sent");
    const progress = element("progress", { "aria-label": "Searching the images" });
    show(word, status, progress);
    place.scrollIntoView({ block: "nearest" });
    try {
      const query = new URLSearchParams({ word, model: modelOf() });
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
          if (now.state !== "done") return fail(word, now.error || "Cancelled.");
          try {
            const found = await (await answer(fetch(`api/gallery/${now.reading}`))).json();
            if (mine === turn) show(word, ...partsOf(found, (file) => open(file, word)));
          } catch (error) {
            if (mine === turn) fail(word, error.message);
          }
        },
        lost: () => fail(word, "The connection is lost; is the page's server still running?"),
      });
    } catch (error) {
      if (mine === turn) fail(word, error.message);
    }
  }

  return { ask, close };
}

function partsOf(found, open) {
  const { images } = found;
  if (!images.length) return [element("p", { role: "status" }, "No image is stored.")];
  const layers = found.visual_layers.join(", ");
  const corrected = found.correction ? ` · ${found.correction}` : "";
  const told = `${images.length} image${images.length === 1 ? "" : "s"}, best first · ${found.model}, visual layer ${layers}${corrected}`;
  return [
    element("p", { class: "about", role: "status" }, told),
    element("ol", { class: "ranked" }, ...images.map((image, at) => element("li", {}, drawImage(image, at + 1, open)))),
    element("p", { class: "about" }, "Choose a picture to read it. What is read is the small picture that the bank keeps, not the file itself."),
  ];
}

function drawImage({ image, size: [width, height], picture, patches }, rank, open) {
  const [{ row, column, score }] = patches;
  const canvas = shape("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  if (picture) canvas.append(shape("image", { href: `data:image/jpeg;base64,${picture}`, width, height, preserveAspectRatio: "none" }));
  for (const { box } of patches.filter((patch) => patch.box)) {
    const [left, top, right, bottom] = box;
    const place = { x: left, y: top, width: Math.max(0, right - left), height: Math.max(0, bottom - top) };
    canvas.append(shape("rect", { class: "halo", ...place }), shape("rect", { class: "mark", ...place }));
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

/** A picture as a file, as if it had been chosen. */
function fileOf(picture, name) {
  return new File([Uint8Array.from(atob(picture), (letter) => letter.charCodeAt(0))], name, { type: "image/jpeg" });
}
