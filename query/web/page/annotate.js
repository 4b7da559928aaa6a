// The page of questions: an image with a box, words, and a kind or none for each word. The address's fragment holds the
// annotator's name and the question.

import { element } from "./elements.js";
import { answer } from "./server.js";

const $ = (id) => document.getElementById(id);
const KINDS = { c: "concrete", a: "abstract", g: "global" };
let rater = "";
let total = 0;
let answered = new Set();
let number = 0; // of the question that is shown
let kinds = []; // of its words, as they are marked now; "" stands for none
let hello = ""; // said with the first question
let saving = false;
let turn = 0; // number of the last question asked for; those that come later than another are not shown
const drafts = new Map(); // marks that are not saved, by question: shown again when one comes back
const ahead = new Map(); // questions that were fetched before they are needed, by number

start().catch((error) => say(error.message, true));

async function start() {
  $("who").addEventListener("submit", (event) => (event.preventDefault(), begin($("name").value)));
  $("none").addEventListener("click", () => save(kinds.map(() => "")));
  $("save").addEventListener("click", () => save(kinds));
  $("back").addEventListener("click", () => go(number - 1));
  $("forth").addEventListener("click", () => go(number + 1));
  $("again").addEventListener("click", () => go(number));
  document.addEventListener("keydown", press);
  const kept = new URLSearchParams(location.hash.slice(1));
  if (kept.get("name")) await begin(kept.get("name"), Number(kept.get("question")));
  else ask();
}

function ask() {
  $("who").hidden = false;
  $("name").focus();
}

/** Take a name, and show the question of that number (from 1), or the first open one. */
async function begin(name, wanted = 0) {
  try {
    const about = await (await answer(fetch(`api/annotators?${new URLSearchParams({ name })}`))).json();
    ({ name: rater, questions: total } = about);
    answered = new Set(about.answered);
  } catch (error) {
    ask();
    return complain(error);
  }
  $("who").hidden = true;
  const open = nextOpen(-1);
  if (answered.size && open !== null) hello = `Welcome back, ${rater}: your ${answered.size} answers are kept.`;
  if (wanted >= 1 && wanted <= total) await go(wanted - 1);
  else if (open === null) finish();
  else await go(open);
}

/** The first open question after `from`, going round; null if all are answered. */
function nextOpen(from) {
  for (let step = 1; step <= total; step += 1) {
    const at = (from + step) % total;
    if (!answered.has(at)) return at;
  }
  return null;
}

// -- showing -----------------------------------------------------------------------------------

/** Fetch a question and its pictures; what was fetched ahead is used. */
function fetched(at) {
  if (!ahead.has(at)) ahead.set(at, load(at).catch((error) => (ahead.delete(at), Promise.reject(error))));
  return ahead.get(at);
}

async function load(at) {
  const query = new URLSearchParams({ rater });
  const question = await (await answer(fetch(`api/questions/${at}?${query}`))).json();
  const [width, height] = question.size;
  const pictures = [
    element("img", { class: "whole", src: `api/questions/${at}/whole`, alt: "The image, with a red box", width, height }),
    element("img", { class: "crop", src: `api/questions/${at}/crop`, alt: "The box, enlarged" }),
  ];
  for (const image of pictures) {
    await image.decode().catch(async () => {
      await answer(fetch(image.src)); // says why there is no picture
      throw new Error("The picture cannot be shown; go on to another question.");
    });
  }
  return { ...question, pictures };
}

async function go(to) {
  if (to < 0 || to >= total || saving) return;
  const mine = ++turn;
  try {
    const question = await fetched(to);
    if (mine === turn) show(to, question);
  } catch (error) {
    if (mine !== turn) return;
    show(to, { shown: [], pictures: [] }); // nothing that could be answered
    complain(error);
  }
}

function show(at, question) {
  number = at;
  kinds = [...(drafts.get(at) ?? question.kinds ?? question.shown.map(() => ""))];
  $("done").hidden = true;
  $("task").hidden = false;
  $("picture").replaceChildren(...question.pictures);
  $("words").replaceChildren(...question.shown.map(rowOf));
  say(hello || (drafts.has(at) ? "These marks are not saved yet." : answered.has(at) ? "Answered; you can change it." : ""));
  hello = "";
  $("back").disabled = at === 0;
  $("forth").disabled = at === total - 1;
  mark();
  count();
  $("words").firstElementChild?.focus({ preventScroll: true });
  scrollTo(0, 0); // on a small screen the image comes first
  history.replaceState(null, "", `#${new URLSearchParams({ name: rater, question: at + 1 })}`);
  for (const kept of [...ahead.keys()]) if (Math.abs(kept - at) > 2) ahead.delete(kept);
  const next = nextOpen(at);
  if (next !== null && next !== at) fetched(next).catch(() => {}); // asked for again when it is needed
}

function rowOf([before, word, after], row) {
  const shown = element("span", { class: "shown", dir: "auto" });
  if (before || after) shown.append(before, element("mark", {}, word), after);
  else shown.append(element("span", { class: "word" }, word));
  const buttons = Object.entries(KINDS).map(([key, kind]) => {
    const button = element(
      "button",
      { type: "button", class: "kind", "data-kind": kind, "aria-pressed": "false" },
      `${kind} `,
      element("kbd", { "aria-hidden": "true" }, key.toUpperCase()),
    );
    button.addEventListener("click", () => toggle(row, kind));
    return button;
  });
  return element(
    "li",
    { tabindex: "-1", "data-row": row, "aria-label": `${row + 1}: ${before}${word}${after}` },
    element("kbd", { "aria-hidden": "true" }, String(row + 1)),
    shown,
    element("span", { class: "kindset", role: "group", "aria-label": `Kind of ${word}` }, ...buttons),
  );
}

function mark() {
  for (const row of $("words").children) {
    for (const button of row.querySelectorAll(".kind")) {
      button.setAttribute("aria-pressed", String(kinds[row.dataset.row] === button.dataset.kind));
    }
  }
}

function count() {
  $("about").textContent = `${rater}: ${answered.size} of ${total} questions answered`;
  $("number").textContent = `question ${number + 1} of ${total}`;
  [$("progress").max, $("progress").value] = [total, answered.size];
}

function finish() {
  count();
  $("task").hidden = true;
  $("done").hidden = false;
  number = Math.min(number, total - 1);
  $("thanks").textContent = `All ${total} questions are answered. Thank you, ${rater}! You can close the page.`;
  $("thanks").focus();
}

// -- answering ---------------------------------------------------------------------------------

function toggle(row, kind) {
  kinds[row] = kinds[row] === kind ? "" : kind;
  drafts.set(number, kinds);
  say("");
  mark();
}

async function save(chosen) {
  if (saving || !kinds.length) return;
  if (chosen === kinds && !kinds.some(Boolean)) {
    return say("Give at least one word a kind, or press N if none of them fits.", true);
  }
  saving = true;
  const [at, given] = [number, [...chosen]];
  try {
    const query = new URLSearchParams({ rater, question: at, kinds: given.join(",") });
    await answer(fetch(`api/answers?${query}`, { method: "POST" }));
  } catch (error) {
    saving = false;
    drafts.set(at, given);
    kinds = given;
    mark();
    return complain(error, "Not saved: ");
  }
  saving = false;
  drafts.delete(at);
  answered.add(at);
  ahead.delete(at); // its answer is another now
  const next = nextOpen(at);
  if (next === null) finish();
  else await go(next);
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("task").hidden) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const rows = [...$("words").children];
  const within = rows.find((one) => one.contains(document.activeElement));
  const at = within ? rows.indexOf(within) : 0;
  const on = (row) => row && (row.focus(), true);
  const elsewhere = !within && document.activeElement !== document.body;
  let done = true;
  if (/^[1-9]$/.test(key)) on(rows[Number(key) - 1]);
  else if (key === "ArrowDown") on(rows[Math.min(at + 1, rows.length - 1)]);
  else if (key === "ArrowUp") on(rows[Math.max(at - 1, 0)]);
  else if (KINDS[key]) on(rows[at]) && toggle(at, KINDS[key]);
  else if (key === "n") save(kinds.map(() => ""));
  else if (key === "ArrowLeft") go(number - 1);
  else if (key === "ArrowRight") go(number + 1);
  else if (key === "Enter" && !elsewhere) save(kinds);
  else done = false;
  if (done) event.preventDefault();
}

// -- messages ----------------------------------------------------------------------------------

function complain(error, before = "") {
  say(before + error.message, true);
}

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}
