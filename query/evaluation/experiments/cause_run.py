"""The whole experiment on causes: ablations, and contexts written into tokens, on the same scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentbank.models.visual import unembedding_of
from latentbank.progress import Progress, Silent
from latentbank.query.evaluation.experiments.cause_tables import CauseTables, tables_of
from latentbank.query.evaluation.experiments.causes import CauseSetup, Kept, Row, ablate_scenes, mean_states
from latentbank.query.evaluation.experiments.writings import WrittenRow, write_scenes
from latentbank.query.evaluation.patches import object_means
from latentbank.text import public_name

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.evaluation.labelled import LabelledImage
    from latentbank.query.lenses.base import Lens


def run_causes(
    model: VisualModel,
    lens: Lens,
    bank: Bank,
    scenes: Sequence[LabelledImage],
    calibration: Sequence[LabelledImage],
    setup: CauseSetup,
    written: CauseSetup | None = None,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> CauseTables:
    """Ablate named tokens beside others on scenes, and write contexts into tokens; return all numbers.

    Args:
        model: the VLM, loaded whole.
        lens: says which tokens are named.
        bank: where written contexts come from, of plain cosine if any are written.
        scenes: labelled images, made for the VLM's grid, at least two.
        calibration: others, whose visual tokens give the mean; of things, that for a centred bank's queries too.
        setup: what is ablated; nothing if it has no layers.
        written: what is written; None: nothing.
        folder: where the rows of each scene are kept, so that a run continues; None: nowhere.
        progress: receives the number of scenes done.

    Raises:
        BankMismatch: the bank belongs to another LLM.
        LayerNotFound: a layer that the model or the lens does not have.
        QueryError: contexts of a centred bank are to be written.
    """
    lens.check(model)
    lens.check_layers(setup.layers)
    progress = progress or Silent()
    about = _about(model, lens, bank) | {"calibration_scenes": len(calibration)}

    def kept(name: str, made: CauseSetup, kind: type) -> Kept | None:
        return None if folder is None else Kept(folder / name, about | asdict(made), kind)

    unembedding = unembedding_of(model)
    rows: list[Row] = []
    told = 0
    if setup.layers:
        reference = mean_states(model, calibration, range(min(setup.layers), model.num_layers))
        means = object_means(model, calibration, setup.layers) if bank.metric == "centred" else None
        progress.stage("ablating", "scenes")
        rows, told = ablate_scenes(
            model,
            unembedding,
            lens,
            scenes,
            setup,
            reference=reference,
            means=means,
            kept=kept("ablated", setup, Row),
            progress=progress,
        )
    found: list[WrittenRow] = []
    if written is not None:
        progress.stage("writing", "scenes")
        of_writing = kept("written", written, WrittenRow)
        found = write_scenes(model, unembedding, bank, scenes, written, kept=of_writing, progress=progress)
        told = told or len({row.scene for row in found})
    about |= asdict(setup) | {"scenes": len(scenes), "told": told}
    return tables_of(rows, found, len(scenes), about)


def _about(model: VisualModel, lens: Lens, bank: Bank) -> dict[str, Any]:
    return {
        "model": public_name(model.name),
        "fingerprint": model.fingerprint(),
        "bank": bank.name,
        "corpora": {name: entry.contexts for name, entry in bank.shown_corpora.items()},
        "bank_layers": lens.searched_layers(),
        "metric": bank.metric,
        "lens": lens.name,
        "correction": lens.correction.mode if lens.correction is not None else "",
    }
