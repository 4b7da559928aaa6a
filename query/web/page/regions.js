// Words on the image: where adjacent tokens have the same best word, it is written once, across them.

const LETTER = 0.66; // width of a letter, relative to the font size
const SMALLEST = 0.135; // smallest font size, relative to the height of a token; more where tokens are many
const MANY = 120; // tokens in a picture

/**
 * Group tokens that touch and have the same word.
 *
 * @param tokens those of one tile, with row, column and box
 * @param wordOf the word of a token, or "" if it has none to show
 * @returns a list of {word, tokens}
 */
export function regionsOf(tokens, wordOf) {
  const at = new Map(tokens.map((token) => [`${token.row},${token.column}`, token]));
  const words = new Map(tokens.map((token) => [token, wordOf(token).trim()]));
  const left = new Set(tokens.filter((token) => words.get(token)));
  const regions = [];
  for (const first of left) {
    const word = words.get(first);
    const found = [first];
    left.delete(first);
    for (const { row, column } of found) {
      for (const [down, right] of [[0, 1], [1, 0], [0, -1], [-1, 0]]) {
        const next = at.get(`${row + down},${column + right}`);
        if (next && left.has(next) && words.get(next).toLowerCase() === word.toLowerCase()) {
          left.delete(next);
          found.push(next);
        }
      }
    }
    regions.push({ word, tokens: found });
  }
  return regions;
}

/** The borders of regions as the data of one path. */
export function bordersOf(regions) {
  const parts = [];
  for (const { tokens } of regions) {
    const own = new Set(tokens.map(({ row, column }) => `${row},${column}`));
    for (const { row, column, box: [left, top, right, bottom] } of tokens) {
      if (!own.has(`${row - 1},${column}`)) parts.push(`M${left} ${top}H${right}`);
      if (!own.has(`${row + 1},${column}`)) parts.push(`M${left} ${bottom}H${right}`);
      if (!own.has(`${row},${column - 1}`)) parts.push(`M${left} ${top}V${bottom}`);
      if (!own.has(`${row},${column + 1}`)) parts.push(`M${right} ${top}V${bottom}`);
    }
  }
  return parts.join("");
}

/**
 * Where and how large a region's word is written: in the middle of the largest rectangle of its tokens. A word that is
 * too long even in the smallest letters is cut.
 *
 * @param count the number of tokens in the picture
 * @returns {text, x, y, size}, in pixels of the image; null if there is no room
 */
export function labelOf({ word, tokens }, count) {
  const [left, top, right, bottom] = largest(tokens);
  const [, cellTop, , cellBottom] = tokens[0].box;
  const [width, height, cell] = [right - left, bottom - top, cellBottom - cellTop];
  if (width <= 0 || height <= 0) return null;
  const letters = Array.from(word);
  const smallest = cell * (count > MANY ? 1.4 : 1) * SMALLEST;
  const most = Math.min(height * 0.3, cell * (height > 1.5 * cell ? 0.3 : 0.22));
  let size = Math.min(most, (width * 0.97) / (LETTER * letters.length));
  let text = word;
  if (size < smallest) {
    size = Math.min(most, smallest);
    const room = Math.floor((width * 0.97) / (LETTER * size));
    if (letters.length > room) text = `${letters.slice(0, Math.max(1, room - 1)).join("")}…`;
  }
  return { text, x: (left + right) / 2, y: (top + bottom) / 2 + size * 0.35, size };
}

/** The box of the largest rectangle of tokens; of equal ones the first. */
function largest(tokens) {
  const at = new Map(tokens.map((token) => [`${token.row},${token.column}`, token]));
  let best = null;
  let most = 0;
  for (const token of tokens) {
    let wide = Infinity;
    for (let down = 0; at.has(`${token.row + down},${token.column}`); down += 1) {
      let count = 0;
      while (count < wide && at.has(`${token.row + down},${token.column + count}`)) count += 1;
      wide = count;
      if (wide * (down + 1) > most) {
        most = wide * (down + 1);
        best = [token, at.get(`${token.row + down},${token.column + wide - 1}`)];
      }
    }
  }
  const [first, last] = best;
  return [first.box[0], first.box[1], last.box[2], last.box[3]];
}
