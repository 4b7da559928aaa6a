// The live page: the form, progress, and the view of the reading. The address holds the form's state.

import { element } from "./draw.js";
import { addPart, wholeOf } from "./parts.js";
import { answer } from "./server.js";
import { showReading } from "./view.js";

const $ = (id) => document.getElementById(id);
const FIELDS = ["model", "layers", "bank_layers", "top_k", "unique", "corpus", "word", "caption", "tokens", "answer", "correct", "fdr"];
const CORRECTIONS = { both: "hubs and the mean", hubs: "hubs", mean: "the mean" };
let about;
let chosen = null; // {file}, {picture} or {upload}, the key of a file that the server keeps
let job = null; // {id, events} of the reading in progress
let turn = 0; // number of the last request; answers to earlier ones are ignored

start().catch((error) => say(error.message, true));

async function start() {
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
  if (about.models.length > 1) $("model").append(...about.models.map((name) => element("option", {}, name)));
  $("corpus").append(...about.corpora.map((name) => element("option", {}, name)));
  for (const lens of about.lenses) {
    const box = element("input", { type: "checkbox", name: "lens", value: lens, checked: lens === "latent" });
    $("lenses").append(element("label", {}, box, ` ${about.lens_titles[lens]}`));
  }
  for (const mode of about.corrections) $("correct").append(element("option", { value: mode }, CORRECTIONS[mode] ?? mode));
  $("correct").value = about.correct ?? "none";
  for (const name of about.pictures) {
    const source = `api/pictures/${encodeURIComponent(name)}`;
    const button = element(
      "button",
      { type: "button", class: "thumb", "data-picture": name },
      element("img", { src: source, alt: "" }),
      element("span", {}, name),
    );
    button.addEventListener("click", () => (choose({ picture: name }), read()));
    $("pictures").append(button);
  }
  $("ask").hidden = false;
  $("ask").addEventListener("submit", (event) => (event.preventDefault(), read()));
  $("ask").addEventListener("change", refilter);
  $("cancel").addEventListener("click", () => job && drop(job.id));
  $("find").addEventListener("click", findWord);
  $("where").addEventListener("keydown", (event) => event.key === "Enter" && (event.preventDefault(), findWord()));
  $("file").addEventListener("change", () => $("file").files[0] && (choose({ file: $("file").files[0] }), read()));
  $("tabs").addEventListener("change", showTab);
  takeDrops();
  recall();
}

// -- the request ------------------------------------------------------------------------------

function kind() {
  return $("tabs").querySelector(":checked").value;
}

function showTab() {
  const text = kind() === "text";
  $("image-part").hidden = text;
  $("text-part").hidden = !text;
  $("where-part").hidden = text;
  $("model-part").hidden = text || about.models.length < 2;
  $("lenses").hidden = text;
  $("around-part").hidden = text;
  $("correct-part").hidden = text || !about.corrections.length;
  $("fdr-part").hidden = text || !about.corrections.length; // both need a calibration
  $("layers-name").textContent = text ? "Layers" : "Visual layers";
  $("layers").placeholder = text ? "the middle" : about.visual_layers.join(",");
}

function choose(what) {
  chosen = what;
  for (const button of $("pictures").children) {
    button.setAttribute("aria-pressed", String(button.dataset.picture === what.picture));
  }
}

function queryOf(change = {}) {
  const text = kind() === "text";
  const given = Object.fromEntries(FIELDS.map((name) => [name, $(name).value.trim()]));
  const lenses = [...$("lenses").querySelectorAll(":checked")].map((box) => box.value);
  given.lens = text ? "latent" : lenses.join(",") || "latent";
  if (text) Object.assign(given, { sentence: $("sentence").value.trim(), model: "", tokens: "", answer: "", correct: "", fdr: "" });
  else if (chosen?.picture) given.picture = chosen.picture;
  else if (chosen?.upload) given.upload = chosen.upload;
  const query = new URLSearchParams({ ...given, ...change });
  if (query.get("correct") === about.correct) query.delete("correct"); // what the page does anyway
  for (const [name, value] of [...query]) if (!value) query.delete(name);
  return query;
}

/** Read again when a filter or the model changes, if there is something to read. */
function refilter(event) {
  if (["model", "corpus", "word", "caption", "unique", "tokens", "answer", "correct", "fdr"].includes(event.target.id) && (chosen || kind() === "text")) read();
}

function recall() {
  const query = new URLSearchParams(location.search);
  for (const name of FIELDS) if (query.has(name)) $(name).value = query.get(name);
  const lenses = query.get("lens")?.split(",");
  if (lenses) for (const box of $("lenses").querySelectorAll("input")) box.checked = lenses.includes(box.value);
  if (query.has("sentence")) {
    $("sentence").value = query.get("sentence");
    $("tabs").querySelector("[value=text]").checked = true;
  } else if (about.pictures.includes(query.get("picture"))) {
    choose({ picture: query.get("picture") });
  } else if (query.has("upload") && about.images) {
    choose({ upload: query.get("upload") });
  }
  showTab();
  if (query.has("model") && !about.models.includes(query.get("model"))) {
    [$("model").value] = about.models;
    return say(`There is no model ${query.get("model")} on this page; choose one of ${about.models.join(", ")}.`, true);
  }
  if (chosen || query.has("sentence")) read();
}

/** Show where a word or phrase is: a heat map of how near each token's nearest context with it is. */
function findWord() {
  const phrase = $("where").value.trim();
  if (!phrase) return say("Write the word to find.", true);
  if (!chosen) return say("Choose an image first.", true);
  const change = /\s/.test(phrase) ? { word: "", caption: phrase } : { word: phrase, caption: "" };
  const kept = new URLSearchParams(location.hash.slice(1));
  kept.set("view", "heat");
  kept.set("lens", "latent");
  return read({ ...change, lens: "latent", bank_layers: "all" }, `#${kept}`);
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
    choose({ file });
    read();
  });
}

// -- reading -----------------------------------------------------------------------------------

async function read(change = {}, hash = location.hash) {
  const query = queryOf(change);
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
    follow(id);
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

/** Cancel a job on the server. */
function drop(id) {
  return fetch(`api/jobs/${id}`, { method: "DELETE" }).catch(() => {});
}

/** Cancel the running job, as another request takes its place. */
function abandon() {
  if (!job) return;
  job.events.close();
  drop(job.id);
  job = null;
}

function follow(id) {
  const events = new EventSource(`api/jobs/${id}/events`);
  job = { id, events };
  const mine = turn;
  let whole; // the reading so far
  let showMore;
  events.addEventListener("part", (event) => {
    const part = JSON.parse(event.data);
    const first = !showMore;
    if (first) whole = wholeOf(part);
    addPart(whole, part);
    if (first) showMore = showReading($("view"), whole);
    else showMore(whole);
    $("save").hidden = true; // until the reading is complete
  });
  events.addEventListener("message", async (event) => {
    const now = JSON.parse(event.data);
    if (now.state === "waiting" || now.state === "running") {
      say(now.what);
      if (now.total) [$("progress").max, $("progress").value] = [now.total, now.done];
      else $("progress").removeAttribute("value");
      return;
    }
    events.close();
    job = null;
    busy(false);
    if (now.state !== "done") return say(now.error || "Cancelled.", now.state === "failed");
    try {
      const data = await (await answer(fetch(`api/readings/${now.reading}`))).json();
      if (mine !== turn) return;
      if (showMore) showMore(data);
      else showReading($("view"), data);
      $("save").href = `api/readings/${now.reading}/page`;
      $("save").hidden = false;
      say("done");
    } catch (error) {
      say(error.message, true);
    }
  });
  events.addEventListener("error", () => {
    if (events.readyState !== EventSource.CLOSED) return;
    job = null;
    busy(false);
    say("The connection is lost; is the page's server still running?", true);
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
    showReading($("view"), data);
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
}

function busy(on) {
  $("progress").hidden = !on;
  $("progress").removeAttribute("value");
  $("cancel").hidden = !on;
}
