// What the tokens of a word do: they are ablated on the server, beside as many others, and the model's answer is scored.

import { button, element } from "./elements.js";
import { drop, followJob } from "./jobs.js";
import { answer } from "./server.js";

const TEN_TIMES = Math.log(10);
const GROUPS = { showing: "the tokens of the word", random: "as many at random", near: "as many as near to other words" };

/**
 * What the panel shows about the word that is marked: a button, progress, or what was found.
 *
 * @param queryOf returns the query of the reading that is shown, without the word and the layer
 * @param changed called when something else is to be shown
 * @returns {draw(reading, state), stop}: `draw` returns elements
 */
export function makeCauses(queryOf, changed) {
  const found = new Map(); // by what was asked: {result}, {error}, or {job, what}
  let running = null;

  async function ask(key, word, layer, lens) {
    const entry = { what: "sent" };
    found.set(key, entry);
    const update = (what) => {
      Object.assign(entry, what);
      changed();
    };
    changed();
    try {
      const query = queryOf();
      query.set("lens", lens);
      query.set("of", word);
      query.set("at", layer);
      const { job } = await (await answer(fetch(`api/causes?${query}`, { method: "POST" }))).json();
      running = followJob(job, {
        state: (now) => update({ id: job, what: now.total ? `${now.what}, ${now.done} of ${now.total}` : now.what }),
        lost: () => update({ error: "The connection is lost; is the page's server still running?" }),
        async end(now) {
          running = null;
          if (now.state !== "done") return update({ error: now.error || "Cancelled." });
          try {
            update({ result: await (await answer(fetch(`api/causes/${now.reading}`))).json() });
          } catch (error) {
            update({ error: error.message });
          }
        },
      });
    } catch (error) {
      update({ error: error.message });
    }
  }

  function draw(reading, state, change) {
    const query = queryOf();
    if (!state.find || !query || !reading.data.size) return [];
    const [lens] = state.lenses;
    const layer = reading.data.layers[state.layer];
    query.delete("layers");
    const key = `${query} ${lens} ${layer} ${state.find.toLowerCase()}`;
    const start = () => {
      change({ cause: true, following: false });
      ask(key, state.find, layer, lens);
    };
    const entry = found.get(key);
    if (!entry && state.cause) queueMicrotask(() => found.has(key) || ask(key, state.find, layer, lens)); // a link asked for it
    const made = element("section", { class: "causes" }, element("h3", {}, "What do the tokens of ", element("b", { dir: "auto" }, `“${state.find}”`), " do?"));
    if (!entry && !state.cause) {
      made.append(
        element("p", { class: "about" }, "The model answers; then its answer is scored again without these tokens, and without as many others."),
        button({ class: "small", id: "cause" }, start, "Take them out"),
      );
    } else if (entry?.result) {
      made.append(...resultParts(entry.result));
    } else if (entry?.error) {
      made.append(element("p", { class: "status wrong", role: "alert" }, entry.error), button({ class: "small" }, start, "Try again"));
    } else {
      made.append(element("p", { role: "status" }, entry?.what ?? "sent"), element("progress", { "aria-label": "Taking tokens out" }));
      if (entry?.id) made.append(button({ class: "small" }, () => drop(entry.id), "Cancel"));
    }
    return [made];
  }

  return { draw, stop: () => running && (running.close(), drop(running.id)) };
}

/** What was found: a sentence, the answer with the words that fall, and the numbers. */
function resultParts(result) {
  const own = result.effects.find(({ group }) => group === "showing");
  const random = result.effects.find(({ group }) => group === "random");
  const told = [
    `Without the ${own.count} token${own.count > 1 ? "s" : ""} that show `,
    element("b", { dir: "auto" }, result.word),
    `, the model’s word is ${timesOf(own.word.mean)}`,
  ];
  if (random?.word) told.push(`; without as many at random, it is ${timesOf(random.word.mean)}`);
  const words = result.words.flatMap(({ text }, at) => {
    const change = own.by_word[at];
    return [at ? " " : "", change <= -TEN_TIMES ? element("del", { title: `${timesOf(change)}` }, text) : text];
  });
  const rows = result.effects.filter(({ draws }) => draws).map(({ group, word, others }) =>
    element("tr", {}, element("th", { scope: "row" }, GROUPS[group]), element("td", {}, signed(word.mean)), element("td", {}, others ? signed(others.mean) : "")),
  );
  return [
    element("p", {}, ...told, "."),
    element("p", { class: "caption" }, "“", ...words, "”"),
    element("p", { class: "about" }, result.said ? "The model’s answer. Words at least ten times less likely without the tokens are struck out." : "The model’s answer does not say the word; it was scored as the next one after the prompt."),
    element(
      "table",
      { class: "shares" },
      element("caption", {}, "Change of log-probability without"),
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "tokens"), element("th", { scope: "col" }, "the word"), element("th", { scope: "col" }, "other words"))),
      element("tbody", {}, ...rows),
    ),
  ];
}

/** A change of log-probability, in nats, as a factor for people. */
function timesOf(change) {
  const factor = Math.exp(Math.abs(change));
  if (factor < 1.05) return "as likely as before";
  const shown = factor >= 1e6 ? "more than a million" : Number(factor.toPrecision(2)).toLocaleString("en");
  return `${shown} times ${change < 0 ? "less" : "more"} likely`;
}

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
