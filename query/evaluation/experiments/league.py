"""Lenses side by side: what each names on the same scenes with the same controls, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from latentbank.memory import with_peak
from latentbank.progress import Progress
from latentbank.query.evaluation.evaluate import TOP_K, queries_of
from latentbank.query.evaluation.experiments.compare import Line, Setup, lines
from latentbank.query.evaluation.patches import labelled_patches
from latentbank.query.evaluation.tables import Evaluation
from latentbank.query.lenses.base import Lens, LensOptions
from latentbank.query.lenses.registry import lens_class

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from latentbank.models.vision.tokens import VisualModel

COSTED = 1000
"""Hidden states that a lens reads to measure its cost."""
_SCENES = 40  # they have enough patches


@dataclass(frozen=True)
class Cost:
    """What reading `COSTED` hidden states through a lens takes.

    Attributes:
        lens: the lens's name.
        layer: the visual layer they are of.
        seconds: of the second reading; the first one loads things.
        processor: the processor seconds of all threads meanwhile, which others' work does not change.
        peak: bytes by which this process's memory rose while the lens was made and first read; what it shares with the
            model does not count, nor does a GPU's memory. None: that cannot be measured on this system.
    """

    lens: str
    layer: int
    seconds: float
    processor: float
    peak: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return the cost as JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True)
class League:
    """Lenses on the same scenes.

    Attributes:
        evaluation: all shares, by lens and layer.
        lines: a line for each lens.
        costs: what each lens costs, in the same order.
    """

    evaluation: Evaluation
    lines: tuple[Line, ...]
    costs: tuple[Cost, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready data (docs/json.md describes it)."""
        return {
            "summary": [line.to_dict() for line in self.lines],
            "costs": [cost.to_dict() for cost in self.costs],
            "evaluation": self.evaluation.to_dict(),
        }


def compare_lenses(
    setup: Setup,
    model: VisualModel,
    names: Sequence[str],
    options: LensOptions,
    random: VisualModel | None = None,
) -> League:
    """Compare lenses by their shares of named patches, and by their cost.

    Args:
        setup: scenes, layers and progress.
        model: the VLM.
        names: the lenses' names.
        options: what the lenses are made from.
        random: the VLM with a projector of random weights.

    Raises:
        QueryError: a lens was not trained yet, or needs a bank and there is none; or as for `evaluate`.
    """
    lenses = [lens_class(name).make(options) for name in names]
    layers = list(setup.layers or ())
    for lens in lenses:
        lens.check_layers(layers)
    costs = measure_costs(setup, model, names, options, layers[len(layers) // 2])
    evaluation = setup.run(model, lenses, random)
    return League(evaluation, tuple(lines([("", evaluation)])), tuple(costs))


def measure_costs(
    setup: Setup, model: VisualModel, names: Sequence[str], options: LensOptions, layer: int
) -> list[Cost]:
    """Return what each lens takes to read object patches of the scenes at one layer."""
    progress: Progress | None = setup.progress
    if progress is not None:
        progress.stage("measuring costs", "scenes")
    patches = labelled_patches(model, setup.scenes[:_SCENES], [layer], progress)
    rows = _repeated(patches.states[layer], COSTED)
    costs = []
    for name in names:

        def read(name: str = name) -> Lens:
            made = lens_class(name).make(options)
            made.read(queries_of(made, None, layer, rows), TOP_K)
            return made

        lens, peak = with_peak(read)
        started = time.perf_counter(), time.process_time()
        lens.read(queries_of(lens, None, layer, rows), TOP_K)
        seconds, processor = time.perf_counter() - started[0], time.process_time() - started[1]
        costs.append(Cost(name, layer, seconds, processor, peak))
    return costs


def _repeated(rows: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
    """Return so many rows: the first ones, or all of them several times."""
    import numpy as np

    return np.tile(rows, (-(-count // len(rows)), 1))[:count]
