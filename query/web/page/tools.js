// What stands at the top of every reading: the search within it, the link, the figure, and light or dark colours.

import { figureOf, pngOf, save } from "./figure.js";

const byId = (id) => document.getElementById(id);

/**
 * Make the tools work.
 *
 * @param now returns {reading, state} of the view, or null if none is shown
 * @param say shows a message
 */
export function makeTools(now, say) {
  makeTheme(byId("theme"));
  byId("link").addEventListener("click", async () => {
    say((await copied(location.href)) ? "The link is copied." : `The link: ${location.href}`);
  });
  const menu = byId("figure");
  for (const kind of ["svg", "png"]) {
    byId(`figure-${kind}`).addEventListener("click", async () => {
      menu.open = false;
      menu.querySelector("summary").focus();
      const shown = now();
      if (!shown) return say("There is nothing to draw yet.", true);
      const svg = figureOf(shown.reading, shown.state);
      const blob = kind === "svg" ? new Blob([svg], { type: "image/svg+xml" }) : await pngOf(svg);
      return save(blob, `${nameOf(shown)}.${kind}`);
    });
  }
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  document.addEventListener("click", (event) => {
    if (!menu.contains(event.target)) menu.open = false;
  });
}

/** The figure's file name: what was read, and the layer. */
function nameOf({ reading, state }) {
  const stem = reading.data.source.replace(/\.\w{1,5}$/, "").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "");
  return `${stem.slice(0, 60) || "reading"}-layer-${reading.data.layers[state.layer]}`;
}

/** Light or dark colours: at first those that the person prefers everywhere, then those chosen here. */
function makeTheme(toggle) {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  try {
    const kept = localStorage.getItem("latentbank-theme");
    if (kept === "light" || kept === "dark") root.dataset.theme = kept;
  } catch {
    // In a notebook's frame nothing is kept.
  }
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const show = () => {
    toggle.textContent = isDark() ? "☀" : "☾";
    toggle.setAttribute("aria-label", isDark() ? "Light colors" : "Dark colors");
    toggle.title = toggle.getAttribute("aria-label");
  };
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("latentbank-theme", root.dataset.theme);
    } catch {
      // As above.
    }
    show();
  });
  dark.addEventListener("change", show);
  show();
}

/** Copy a text; pages without TLS have no clipboard, there a selection is copied. */
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = document.createElement("textarea");
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}
