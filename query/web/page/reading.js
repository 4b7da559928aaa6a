// A reading's data, as query/web/data.py writes them, and functions to look things up in them.

import { bestLayer, speakingOf } from "./speaking.js";

/** Lenses of readings that were saved before readings described their lenses. */
const OLD_LENSES = {
  latent: { title: "LatentLens", score: "cosine", bank: true },
  logit: { title: "LogitLens", score: "probability", bank: false },
  embedding: { title: "EmbeddingLens", score: "cosine", bank: false },
};

/** The name of scores that are corrected. */
export const CORRECTED = "corrected score";

/**
 * Wrap a reading's data.
 *
 * Tokens are counted from 0 in the order of the data, layers by their place in `data.layers`.
 */
export function openReading(data) {
  if (!data || data.format !== 1) {
    throw new Error("This file is not a reading in a format that this page knows; write it again.");
  }
  const tokens = data.tokens.map(([label, tile, row, column, ...box], number) => ({
    number,
    label,
    tile: tile ?? 0,
    row: row ?? -1,
    column: column ?? -1,
    box,
    // What the token is: visual, or of the text around an image (prompt, answer); a sentence's tokens are text.
    kind: data.around?.[number][0] ?? (data.size ? "visual" : data.seconds ? "audio" : "text"),
    word: data.around?.[number][1] ?? "", // the whole word of the text around an image
  }));
  const spanOf = (tile) => data.seconds?.[tokens.find((token) => token.row >= 0 && token.tile === tile)?.number];
  const isText = (number) => tokens[number].kind === "prompt" || tokens[number].kind === "answer";

  const aboutLens = (lens) => (data.about_lenses ?? OLD_LENSES)[lens];
  // A layer that is not read yet has no neighbors.
  const foundAt = (lens, layer) => data.found[lens][layer] ?? [];

  function neighbors(lens, layer, token) {
    return (foundAt(lens, layer)[token] ?? []).map(([context, bankLayer, score, own]) => {
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
        own, // cosine or probability, where the score is a corrected one
      };
    });
  }

  /** The best neighbor's [context, bank layer, score] and its own score if that is corrected, or undefined. */
  const best = (lens, layer, token) => foundAt(lens, layer)[token]?.[0];

  /** The p-value of a token's best neighbor; undefined if none is known. */
  const pValue = (lens, layer, token) => data.p_values?.[lens][layer]?.[token] ?? undefined;

  /** Whether a token's neighbors were left out, because they say no more than chance. */
  const isSilent = (lens, layer, token) =>
    pValue(lens, layer, token) !== undefined && !foundAt(lens, layer)[token]?.length;

  /** The lowest and highest best score of a lens at one layer. Text around an image is nearer to the bank, so it does not count. */
  function range(lens, layer) {
    const scores = foundAt(lens, layer).flatMap((found, number) => (found.length && !isText(number) ? [found[0][2]] : []));
    return scores.length ? [Math.min(...scores), Math.max(...scores)] : [0, 1];
  }

  /** The number of tokens (of an image: visual tokens) whose best neighbor lies in each bank layer, at one layer. */
  function shares(lens, layer) {
    const counts = new Map(data.bank_layers.map((bankLayer) => [bankLayer, 0]));
    for (const [number, found] of foundAt(lens, layer).entries()) {
      if (isText(number) || !found.length || !counts.has(found[0][1])) continue;
      counts.set(found[0][1], counts.get(found[0][1]) + 1);
    }
    return counts;
  }

  /** The words of a token's neighbors, in lower case. */
  function namesOf(lens, layer, token) {
    return (foundAt(lens, layer)[token] ?? []).map(([context]) => data.contexts[context][0].toLowerCase());
  }

  /** The visual tokens among whose neighbors the word of a text token is. */
  function namedBy(lens, layer, token) {
    const word = tokens[token].word.toLowerCase();
    if (!isText(token) || !/[\p{L}\p{N}]/u.test(word)) return [];
    return tokens.filter((t) => !isText(t.number) && namesOf(lens, layer, t.number).includes(word)).map((t) => t.number);
  }

  const spoken = new Map(); // for each lens and layer, what its tokens have to say, as it is asked for
  function saying(lens, layer) {
    const key = `${lens} ${layer}`;
    if (!spoken.has(key)) spoken.set(key, speakingOf(told, lens, layer));
    return spoken.get(key);
  }

  const tiles = [...new Set(tokens.filter((t) => t.row >= 0).map((t) => t.tile))].sort((a, b) => a - b);
  const told = {
    data,
    tokens,
    tiles,
    foundAt,
    saying,
    /** The tokens that a lens describes: not the text around an image. */
    described: tokens.filter((token) => !isText(token.number)),
    /** The place of the layer that is shown at first, among those that are read. */
    bestLayer: (lens) => bestLayer(told, lens),
    neighbors,
    range,
    shares,
    isText,
    pValue,
    isSilent,
    /** What people call a tile: of a video, its seconds. */
    tileName: (tile) => {
      const span = spanOf(tile);
      if (span) return `${span[0].toFixed(2)} to ${span[1].toFixed(2)} s`;
      return tile ? `tile ${tile}` : "whole image";
    },
    /** Start and end of the seconds of a token of a video or a sound. */
    secondsOf: (token) => data.seconds?.[token],
    /** The image of a tile: of a video, the frame of that step of time. */
    imageOf: (tile) => data.frames?.[tile] ?? data.image,
    namesOf,
    namedBy,
    /** Whether a layer is read; while the server is reading, later layers are not. */
    isRead: (layer) => data.norms[layer] !== null,
    bestWord: (lens, layer, token) => {
      const found = best(lens, layer, token);
      return found ? data.contexts[found[0]][0] : "";
    },
    bestScore: (lens, layer, token) => best(lens, layer, token)?.[2],
    bestBankLayer: (lens, layer, token) => best(lens, layer, token)?.[1],
    /** What people call a lens. */
    lensTitle: (lens) => aboutLens(lens).title,
    /** Whether a lens's neighbors come from a bank. */
    hasBank: (lens) => aboutLens(lens).bank && data.bank_layers.length > 0,
    /** What a lens's own scores are: cosine or probability. */
    scoreName: (lens) => aboutLens(lens).score,
    /** What the visual tokens of a layer are ranked by. */
    rankedBy: (lens, layer) =>
      foundAt(lens, layer).some((found) => found[0]?.[3] !== undefined) ? CORRECTED : aboutLens(lens).score,
    /** The best neighbor's score and what it is, for people; a corrected score with the neighbor's own. */
    bestTold: (lens, layer, token) => {
      const [, , score, own] = best(lens, layer, token) ?? [];
      const name = aboutLens(lens).score;
      if (own === undefined) return `${name} ${shownScore(score)}`;
      return `${CORRECTED} ${shownScore(score)}, ${name} ${shownScore(own)}`;
    },
    layerName: (layer) => {
      if (data.layers[layer] < 0) return "unknown layer";
      return `${data.size ? "visual layer" : "layer"} ${data.layers[layer]}`;
    },
    tokenName: (number) => {
      const token = tokens[number];
      if (!data.size || isText(number)) return token.label.trim() || JSON.stringify(token.label).slice(1, -1).replace(" ", "␣");
      const tile = data.frames ? `${spanOf(token.tile)[0].toFixed(2)} s, ` : tiles.length > 1 ? `tile ${token.tile}, ` : "";
      return token.row < 0 ? `token ${token.label}` : `${tile}row ${token.row}, column ${token.column}`;
    },
  };
  return told;
}

/** A caption as [before, token, after], cut at `room` letters from the token. Offsets count code points. */
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

/** Why a token is silent, in sentences. */
export function whySilent(reading, lens, layer, token) {
  const p = shownScore(reading.pValue(lens, layer, token));
  return `Silent: the best neighbor says no more than what this lens finds in pictures with nothing to see (p = ${p}).`;
}

/** A score for people. */
export function shownScore(score) {
  if (score === undefined || score === null) return "";
  return score > 0 && score < 0.001 ? score.toExponential(1) : score.toFixed(3);
}
