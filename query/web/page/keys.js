// Moving between tokens by keys.

/** The cell that a key leads to, within the same grid; null or undefined if there is none. */
export function neighboringCell(reading, cell, key) {
  const grid = cell.closest("[role=grid]");
  const at = reading.tokens[Number(cell.dataset.token)];
  const cells = [...grid.querySelectorAll("[data-token]")];
  const place = cells.indexOf(cell);
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[key];
  if (key === "Home" || key === "End") {
    const row = cells.filter((other) => other.parentNode === cell.parentNode);
    return row.at(key === "Home" ? 0 : -1);
  }
  if (step === undefined) return null;
  if (key === "ArrowLeft" || key === "ArrowRight" || at.row < 0) return cells[place + step];
  return cells.find((candidate) => {
    const other = reading.tokens[Number(candidate.dataset.token)];
    return other.row === at.row + step && other.column === at.column;
  });
}
