// Which tokens have something to say at a layer, and the layer at which most is said. Both follow from the reading alone.

/** English words that name nothing. In the middle layers they are near to whatever shows nothing. */
const FUNCTION_WORDS = new Set(
  (
    "a an the and or but nor so yet if as at by for from in into of off on onto out over than then to under up upon with " +
    "within without about after before between through during against near beside behind below above along across around " +
    "is are was were be been being am do does did has have had having will would shall should can could may might must " +
    "not no it its he she him her his hers they them their we us our you your i me my this that these those there here " +
    "some any each which who whom whose what when where while because how all both other another such only very more most"
  ).split(" "),
);

/**
 * The tokens whose best word is shown at first.
 *
 * - Where p-values are known, those that are not silent.
 * - Where a token's neighbors can repeat a word, those whose best word at least half of their neighbors have, names
 *   something, and has a score that is not below the middle one of the layer.
 * - Elsewhere all of them: a sentence's tokens, and tokens with a single neighbor or neighbors of one word each.
 *
 * Text around an image is always shown.
 *
 * @returns {tokens, by, said}: the tokens' numbers; "p-values", "agreement" or "nothing"; and how much is said, the sum
 *   of the squares of the tokens' scores, which are cosines or probabilities
 */
export function speakingOf(reading, lens, layer) {
  const found = reading.foundAt(lens, layer);
  const given = reading.tokens.map(({ number }) => number).filter((number) => found[number]?.length);
  const described = given.filter((number) => !reading.isText(number));
  const amount = (numbers) => numbers.reduce((sum, number) => sum + (found[number][0][3] ?? found[number][0][2]) ** 2, 0);
  const all = new Set(given);
  if (reading.data.p_values) return { tokens: all, by: "p-values", said: amount(described) };
  const words = new Map(
    described.map((number) => [number, found[number].map(([context]) => reading.data.contexts[context][0].trim().toLowerCase())]),
  );
  const repeated = [...words.values()].some((list) => new Set(list).size < list.length);
  if (!reading.data.size || !repeated) return { tokens: all, by: "nothing", said: 0 };
  const scores = described.map((number) => found[number][0][2]).sort((a, b) => a - b);
  const middle = scores[Math.floor(scores.length / 2)];
  const speaking = described.filter((number) => {
    const [best, ...others] = words.get(number);
    const agreeing = 1 + others.filter((word) => word === best).length;
    return found[number][0][2] >= middle && agreeing * 2 >= others.length + 1 && !FUNCTION_WORDS.has(best);
  });
  const around = given.filter((number) => reading.isText(number));
  return { tokens: new Set([...speaking, ...around]), by: "agreement", said: amount(speaking) };
}

/** The place of the layer that is shown at first: that at which a lens says most; of equal ones the first. */
export function bestLayer(reading, lens) {
  const said = [...reading.data.layers.keys()].map((layer) => (reading.isRead(layer) ? reading.saying(lens, layer).said : -1));
  return said.indexOf(Math.max(...said));
}
