"""What `calibrate` measured, as text or JSON (docs/json.md)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from latentbank.cli.output.text import print_json
from latentbank.text import listed, public_name

if TYPE_CHECKING:
    from latentbank.query.calibration.calibrate import Calibrated


def show_calibrated(done: Calibrated, model: str, bank: str, means: Path | None, *, as_json: bool) -> None:
    """Print what a calibration holds now; `means` is the file of mean visual tokens that was written."""
    if as_json:
        print_json(
            {
                "model": public_name(model),
                "bank": bank,
                "folder": str(done.folder),
                "pictures": done.pictures,
                "tokens": done.tokens,
                "nearest": done.nearest,
                "visual_layers": done.visual_layers,
                "bank_layers": done.bank_layers,
                "contexts": done.contexts,
                "computed": done.computed,
                "means": None if means is None else str(means),
            }
        )
        return
    print(
        f"{public_name(model)} is calibrated for the bank '{bank}' on {done.tokens:,} {done.kind} at each visual layer:"
    )
    print(f"visual layers {listed(done.visual_layers)}, bank layers {listed(done.bank_layers)},")
    layers = len(done.bank_layers)
    print(
        f"{done.contexts:,} contexts in each, {done.computed:,} of {done.contexts * layers:,} computed now."
    )
    if means is not None:
        print(f"The mean visual tokens are in {means}.")
