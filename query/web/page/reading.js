// A reading, as query/web/data.py writes it, and what the page asks of it.

/**
 * Wrap a reading's data.
 *
 * Tokens are counted from 0 in the order of the data, layers by their place in `data.layers`.
 */
export function openReading(data) {
  if (!data || data.format !== 1) {
    throw new Error("This is no reading of a format that this page knows; make it anew.");
  }
  const tokens = data.tokens.map(([label, tile, row, column, ...box], number) => ({
    number,
    label,
    tile: tile ?? 0,
    row: row ?? -1,
    column: column ?? -1,
    box,
  }));

  // A layer that is not read yet has no neighbors.
  const foundAt = (lens, layer) => data.found[lens][layer] ?? [];

  function neighbors(lens, layer, token) {
    return (foundAt(lens, layer)[token] ?? []).map(([context, bankLayer, score]) => {
      const [word, text, caption, start, end, corpus] = data.contexts[context];
      return {
        word,
        token: text,
        caption: data.captions[caption],
        start,
        end,
        corpus: data.corpora[corpus],
        bankLayer,
        score,
      };
    });
  }

  /** The best neighbor's [context, bank layer, score], or undefined. */
  const best = (lens, layer, token) => foundAt(lens, layer)[token]?.[0];

  /** The lowest and highest best score of a lens at one layer. */
  function range(lens, layer) {
    const scores = foundAt(lens, layer).flatMap((found) => (found.length ? [found[0][2]] : []));
    return scores.length ? [Math.min(...scores), Math.max(...scores)] : [0, 1];
  }

  /** Of how many tokens the best neighbor lies in each bank layer, at one layer. */
  function shares(lens, layer) {
    const counts = new Map(data.bank_layers.map((bankLayer) => [bankLayer, 0]));
    for (const found of foundAt(lens, layer)) {
      if (found.length && counts.has(found[0][1])) counts.set(found[0][1], counts.get(found[0][1]) + 1);
    }
    return counts;
  }

  const tiles = [...new Set(tokens.filter((t) => t.row >= 0).map((t) => t.tile))].sort((a, b) => a - b);
  return {
    data,
    tokens,
    tiles,
    neighbors,
    range,
    shares,
    /** Whether a layer is read; while the server reads, the later ones are not. */
    isRead: (layer) => data.norms[layer] !== null,
    bestWord: (lens, layer, token) => {
      const found = best(lens, layer, token);
      return found ? data.contexts[found[0]][0] : "";
    },
    bestScore: (lens, layer, token) => best(lens, layer, token)?.[2],
    bestBankLayer: (lens, layer, token) => best(lens, layer, token)?.[1],
    /** What people call a lens. */
    lensTitle: (lens) => data.about_lenses[lens].title,
    /** Whether a lens's neighbors come from a bank. */
    hasBank: (lens) => data.about_lenses[lens].bank && data.bank_layers.length > 0,
    /** What a lens's scores are: cosine or probability. */
    scoreName: (lens) => data.about_lenses[lens].score,
    layerName: (layer) => {
      if (data.layers[layer] < 0) return "layer not known";
      return `${data.size ? "visual layer" : "layer"} ${data.layers[layer]}`;
    },
    tokenName: (number) => {
      const token = tokens[number];
      if (!data.size) return token.label.trim() || "␣";
      const tile = tiles.length > 1 ? `tile ${token.tile}, ` : "";
      return token.row < 0 ? `token ${token.label}` : `${tile}row ${token.row}, column ${token.column}`;
    },
  };
}

/** A caption around its token: [before, token, after], cut with "…" where long. Offsets count code points. */
export function excerpt({ caption, start, end }, room = 90) {
  const letters = Array.from(caption);
  if (start < 0) return [caption, "", ""];
  const first = Math.max(0, start - room);
  const last = Math.min(letters.length, end + room);
  return [
    (first ? "…" : "") + letters.slice(first, start).join(""),
    letters.slice(start, end).join(""),
    letters.slice(end, last).join("") + (last < letters.length ? "…" : ""),
  ];
}

/** A score as people read it. */
export function shownScore(score) {
  if (score === undefined || score === null) return "";
  return score > 0 && score < 0.001 ? score.toExponential(1) : score.toFixed(3);
}
