// The colours of scores and of bank layers.

// Nine colours of Viridis, which works for the colour-blind and in grey.
const RAMP = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"].map(
  (hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)),
);

/** The colour at `share` (0 to 1) of the ramp. */
export function colour(share) {
  const at = Math.min(1, Math.max(0, share)) * (RAMP.length - 1);
  const low = Math.min(RAMP.length - 2, Math.floor(at));
  const mixed = RAMP[low].map((value, i) => Math.round(value + (RAMP[low + 1][i] - value) * (at - low)));
  return `rgb(${mixed.join(" ")})`;
}

/** The colours of the whole ramp. */
export function ramp() {
  return RAMP.map((_, at) => colour(at / (RAMP.length - 1)));
}

/** The colour of a bank layer among all of them. */
export function bankColour(bankLayers, bankLayer) {
  return colour(bankLayers.indexOf(bankLayer) / Math.max(1, bankLayers.length - 1));
}
