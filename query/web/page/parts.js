// A reading in progress: the server sends it layer by layer.

/** Make a reading's data from the first part, with all layers and none of them read yet. */
export function wholeOf({ layers, reading }) {
  const none = () => layers.map(() => null);
  const found = Object.fromEntries(reading.lenses.map((lens) => [lens, none()]));
  const pValues = reading.p_values && Object.fromEntries(reading.lenses.map((lens) => [lens, none()]));
  return { ...reading, layers, norms: none(), captions: [], corpora: [], contexts: [], found, p_values: pValues };
}

/** Add a part's layer to the whole reading. */
export function addPart(whole, { number, reading }) {
  const [captions, corpora, contexts] = [whole.captions, whole.corpora, whole.contexts].map((table) => table.length);
  whole.captions = whole.captions.concat(reading.captions);
  whole.corpora = whole.corpora.concat(reading.corpora);
  whole.contexts = whole.contexts.concat(
    reading.contexts.map(([word, token, caption, start, end, corpus]) => [
      word,
      token,
      caption + captions,
      start,
      end,
      corpus + corpora,
    ]),
  );
  whole.norms[number] = reading.norms[0];
  for (const lens of reading.lenses) {
    if (whole.p_values) [whole.p_values[lens][number]] = reading.p_values[lens];
    whole.found[lens][number] = reading.found[lens][0].map((neighbors) =>
      neighbors.map(([context, ...rest]) => [context + contexts, ...rest]),
    );
  }
}
