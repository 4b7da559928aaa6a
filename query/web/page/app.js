// The live page: choosing what is read, its progress, and the view of the reading. The address holds the form's state.

import { makeCauses } from "./causes.js";
import { element } from "./elements.js";
import { askedOfAll, makeGallery } from "./gallery.js";
import { drop, followJob } from "./jobs.js";
import { addPart, wholeOf } from "./parts.js";
import { fillForm, FILTERS, hashForAnother, kindOf, queryOf } from "./request.js";
import { answer } from "./server.js";
import { makeTools } from "./tools.js";
import { showImage, showReading } from "./view.js";

const $ = (id) => document.getElementById(id);
const CORRECTIONS = { both: "hubs and the mean", hubs: "hubs", mean: "the mean" };
let about;
let chosen = null; // {file}, {picture} or {upload}, the key of a file that the server keeps
let job = null; // the reading in progress
let view = null; // what is shown
let turn = 0; // number of the last request; answers to earlier ones are ignored
const places = { seen: $("seen"), told: $("told") };

let shownQuery = null; // of the reading that is shown; null if it has no image here
const causes = makeCauses(() => shownQuery && new URLSearchParams(shownQuery), () => view?.list());
const gallery = makeGallery($("gallery"), () => $("model").value, () => named(chosen), (file, word) => {
  $("tabs").querySelector("[value=image]").checked = true;
  showTab();
  if (word) $("where").value = word;
  scrollTo(0, 0);
  another({ file });
});

makeTools(() => view && { reading: view.reading(), state: view.state }, say);
start().catch((error) => say(error.message, true));

async function start() {
  $("search").addEventListener("submit", (event) => (event.preventDefault(), findWord()));
  about = await (await answer(fetch("api/about"))).json();
  $("saved").addEventListener("change", () => $("saved").files[0] && openSaved($("saved").files[0]));
  if (!about.models.length) {
    $("about").textContent = "No model is loaded: open a saved reading.";
    return;
  }
  const corpora = about.corpora.length ? `, corpora ${about.corpora.join(", ")}` : "";
  $("about").textContent = `${about.models.join(", ")} · bank ${about.bank}, layers ${about.bank_layers.join(", ")}${corpora}`;
  if (!about.images) {
    $("alone").textContent = `This page reads sentences alone: ${about.models[0]} takes no images. Whoever runs the page can name a vision-language model for them.`;
    $("alone").hidden = false;
    $("tabs").hidden = true;
    $("tabs").querySelector("[value=text]").checked = true;
  }
  fillChoices();
  $("ask").hidden = false;
  $("ask").addEventListener("submit", (event) => (event.preventDefault(), read()));
  $("ask").addEventListener("change", refilter);
  $("cancel").addEventListener("click", () => job && drop(job.id));
  $("file").addEventListener("change", () => $("file").files[0] && another({ file: $("file").files[0] }));
  $("tabs").addEventListener("change", showTab);
  $("model").addEventListener("change", showTab);
  $("everywhere").addEventListener("click", () => {
    const word = $("where").value.trim();
    return word ? gallery.ask({ images: word }) : say("Write the word to find.", true);
  });
  takeDrops();
  recall();
}

function fillChoices() {
  if (about.models.length > 1) $("model").append(...about.models.map((name) => element("option", {}, name)));
  $("corpus").append(...about.corpora.map((name) => element("option", {}, name)));
  for (const lens of about.lenses) {
    const box = element("input", { type: "checkbox", name: "lens", value: lens, checked: lens === "latent" });
    $("lenses").append(element("label", {}, box, ` ${about.lens_titles[lens]}`));
  }
  for (const mode of about.corrections) $("correct").append(element("option", { value: mode }, CORRECTIONS[mode] ?? mode));
  $("correct").value = about.correct ?? "none";
  $("fdr").value = about.fdr || "";
  for (const name of about.pictures) {
    const image = element("img", { src: pictureAt(name), alt: "", width: 56, height: 56 });
    const thumb = element("button", { type: "button", class: "thumb", "data-picture": name, "aria-label": name, title: name }, image);
    thumb.addEventListener("click", () => another({ picture: name }));
    $("pictures").append(thumb);
  }
}

// -- the request ------------------------------------------------------------------------------

const pictureAt = (name) => `api/pictures/${encodeURIComponent(name)}`;

function showTab() {
  const text = kindOf() === "text";
  $("image-part").hidden = text;
  $("text-part").hidden = !text;
  $("search").hidden = text;
  $("everywhere").hidden = !hasGallery();
  $("model-part").hidden = text || about.models.length < 2;
  $("lenses").hidden = text;
  $("around-part").hidden = text;
  $("correct-part").hidden = text || !about.corrections.length;
  $("fdr-part").hidden = text || !about.corrections.length; // both need a calibration
  $("layers-name").textContent = text ? "Layers" : "Visual layers";
  $("layers").placeholder = text ? "the middle" : about.visual_layers.join(",");
}

/** Whether the bank holds images of the chosen VLM. */
function hasGallery() {
  return about.gallery.includes($("model").value || about.models[0]);
}

/** How an address names an image: {picture} or {upload}; nothing if it cannot. */
function named(what) {
  return what?.picture ? { picture: what.picture } : what?.upload ? { upload: what.upload } : {};
}

function choose(what) {
  chosen = what;
  for (const button of $("pictures").children) {
    button.setAttribute("aria-pressed", String(button.dataset.picture === what.picture));
  }
}

/** Read another image. It is shown at once, before anything is read. */
function another(what) {
  choose(what);
  gallery.forget();
  const source = what.picture ? pictureAt(what.picture) : URL.createObjectURL(what.file);
  view = null;
  causes.stop();
  showImage(places, source, what.picture ?? what.file.name, () => what.file && URL.revokeObjectURL(source));
  return read({}, hashForAnother());
}

/** Read again when a filter or the model changes, if there is something to read. */
function refilter(event) {
  if (FILTERS.includes(event.target.id) && (chosen || kindOf() === "text")) read();
}

function recall() {
  const query = new URLSearchParams(location.search);
  if (query.size) $("fdr").value = ""; // an address says it where it is asked for
  fillForm(query);
  if (about.pictures.includes(query.get("picture"))) choose({ picture: query.get("picture") });
  else if (query.has("upload") && about.images) choose({ upload: query.get("upload") });
  if (new URLSearchParams(location.hash.slice(1)).get("view") === "heat") {
    $("where").value = query.get("word") ?? query.get("caption") ?? "";
  }
  showTab();
  const { images: word, like } = askedOfAll();
  if (word) $("where").value ||= word;
  if ((word || like) && hasGallery()) gallery.ask(word ? { images: word } : { like });
  if (query.has("model") && !about.models.includes(query.get("model"))) {
    [$("model").value] = about.models;
    return say(`There is no model ${query.get("model")} on this page; choose one of ${about.models.join(", ")}.`, true);
  }
  if (chosen || query.has("sentence")) return read();
  for (const name of ["images", "like"]) query.delete(name);
  if (about.start && !query.size) return another({ picture: about.start });
}

/** Show where a word or phrase is: a heat map of how near each token's nearest context with it is. */
function findWord() {
  const phrase = $("where").value.trim();
  if (!phrase) return say("Write the word to find.", true);
  if (!chosen) {
    if (!view) return say("Choose an image first.", true);
    return say(view.find(phrase)); // in an opened file
  }
  const change = /\s/.test(phrase) ? { word: "", caption: phrase } : { word: phrase, caption: "" };
  const kept = new URLSearchParams(location.hash.slice(1));
  for (const name of ["layer", "find", "cause"]) kept.delete(name);
  kept.set("view", "heat");
  kept.set("lens", "latent");
  return read({ ...change, lens: "latent", bank_layers: "all" }, `#${kept}`);
}

/** Ask all images for what a token shows. */
function likeThis({ row, column, tile }) {
  gallery.ask({ like: [row, column, tile].join(",") });
}

function takeDrops() {
  const over = (event, on) => (event.preventDefault(), $("drop").classList.toggle("over", on));
  document.addEventListener("dragover", (event) => over(event, true));
  document.addEventListener("dragleave", (event) => over(event, false));
  document.addEventListener("drop", (event) => {
    over(event, false);
    const [file] = event.dataTransfer.files;
    if (!file) return;
    if (/\.html?$/i.test(file.name)) return openSaved(file);
    if (!about.images) return say("This page reads sentences alone.", true);
    $("tabs").querySelector("[value=image]").checked = true;
    showTab();
    another({ file });
  });
}

// -- reading -----------------------------------------------------------------------------------

async function read(change = {}, hash = location.hash) {
  const query = queryOf(about, chosen, change);
  const missing = about.images ? "Choose an image or write a sentence first." : "Write a sentence first.";
  if (!query.has("sentence") && !chosen) return say(missing, true);
  abandon();
  const mine = ++turn;
  // An image that was uploaded before is named by its key.
  const file = query.has("sentence") || query.has("upload") ? null : chosen.file;
  if (file && file.size > about.limits.bytes) {
    return say(`The image is larger than ${Math.floor(about.limits.bytes / 1e6)} MB; make it smaller.`, true);
  }
  history.replaceState(null, "", `?${query}${hash}`);
  if (file) query.set("name", file.name);
  say("sent");
  busy(true);
  try {
    const response = await answer(fetch(`api/readings?${query}`, { method: "POST", body: file }));
    const { job: id, upload } = await response.json();
    if (mine !== turn) return drop(id);
    if (file) {
      choose({ upload, file }); // named by its key from now on
      query.delete("name");
      query.set("upload", upload);
      history.replaceState(null, "", `?${query}${location.hash}`);
    }
    follow(id, query);
  } catch (error) {
    if (mine !== turn) return;
    if (error.status === 404 && query.has("upload") && chosen?.file) {
      choose({ file: chosen.file }); // the server no longer keeps it: upload it again
      return read(change, hash);
    }
    busy(false);
    say(error.message, true);
  }
}

/** Cancel the running job, as another request takes its place. */
function abandon() {
  if (!job) return;
  job.close();
  drop(job.id);
  job = null;
}

function follow(id, query) {
  const mine = turn;
  const asked = query.get("word") ?? query.get("caption") ?? "";
  let whole; // the reading so far
  let shown = null;
  const show = (data, complete) => {
    if (shown) return shown.update(data, complete);
    shownQuery = query.has("picture") || query.has("upload") ? query : null;
    shown = view = showReading(places, data, { asked, complete, below: causes.draw, like: shownQuery && hasGallery() ? likeThis : null });
  };
  const ended = () => {
    job = null;
    busy(false);
  };
  job = followJob(id, {
    part(part) {
      whole ??= wholeOf(part);
      addPart(whole, part);
      show(whole, false);
      $("save").hidden = true; // until the reading is complete
    },
    state(now) {
      say(now.what);
      if (now.total) [$("progress").max, $("progress").value] = [now.total, now.done];
      else $("progress").removeAttribute("value");
    },
    async end(now) {
      ended();
      if (now.state !== "done") return say(now.error || "Cancelled.", now.state === "failed");
      try {
        const data = await (await answer(fetch(`api/readings/${now.reading}`))).json();
        if (mine !== turn) return;
        show(data, true);
        $("save").href = `api/readings/${now.reading}/page`;
        $("save").hidden = false;
        say("done");
      } catch (error) {
        say(error.message, true);
      }
    },
    lost() {
      ended();
      say("The connection is lost; is the page's server still running?", true);
    },
  });
}

async function openSaved(file) {
  try {
    // The JSON has no "<" (see query/web/data.py), so it ends at the next one.
    const saved = /<script type="application\/json" id="reading">([^<]*)</.exec(await file.text());
    if (!saved) throw new Error("This file holds no reading; choose a page that latentbank wrote.");
    const data = JSON.parse(saved[1]);
    abandon(); // otherwise the running job's reading would replace it
    turn += 1;
    busy(false);
    shownQuery = null;
    view = showReading(places, data);
    $("save").hidden = true;
    say(`opened ${file.name}`);
  } catch (error) {
    say(error.message, true);
  }
}

// -- messages ----------------------------------------------------------------------------------

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
  $("status").classList.toggle("visually-hidden", text === "done"); // one sees it
}

function busy(on) {
  $("progress").hidden = !on;
  $("progress").removeAttribute("value");
  $("cancel").hidden = !on;
}
