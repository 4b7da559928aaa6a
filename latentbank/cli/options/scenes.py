"""Options of the commands that score lenses on scenes, and what these commands load."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentbank.cli.options.banks import ModelBankOptions
from latentbank.cli.options.common import (
    BankLayersOption,
    JsonOption,
    LayerChoice,
    VisualLayersOption,
    bank_layers_of,
    layers_for,
    named_visual_layers,
)
from latentbank.cli.options.models import LoadingOptions, SceneModelOptions
from latentbank.errors import LatentBankError

if TYPE_CHECKING:
    from latentbank.bank.layers import BankLayers
    from latentbank.bank.settings import Settings
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.progress import Progress
    from latentbank.query.calibration.correction import Mode
    from latentbank.query.evaluation.experiments.compare import Setup
    from latentbank.query.evaluation.labelled import LabelledImage

CorrectScenesOption = Annotated[
    str,
    typer.Option(
        "--correct",
        help="Correct scores for hubs, for the mean of visual tokens, or for both; none: as they are. The VLM is "
        "calibrated on other scenes if it is not yet.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class ResultOptions:
    """Where scores go."""

    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the figures and the JSON.")
    ] = None
    as_json: JsonOption = False

    def give(
        self,
        data: Mapping[str, Any],
        name: str,
        draw: Callable[[Path], object],
        show: Callable[[], None],
    ) -> None:
        """Write JSON and figures to the folder, and print JSON or tables.

        Args:
            data: the scores, JSON-ready.
            name: the JSON file's name, without ending.
            draw: draws figures into a folder.
            show: prints tables.

        Raises:
            LatentBankError: a file cannot be written, or matplotlib is not installed.
        """
        from latentbank.cli.output.scores import write_scores
        from latentbank.cli.output.text import print_json

        write_scores(data, self.output, name, draw)
        if self.as_json:
            print_json(data)
        else:
            show()


@dataclass(frozen=True)
class SceneInputs:
    """A VLM, the same VLM with a projector of random weights, and the scenes made for its grid of patches."""

    model: VisualModel
    random: VisualModel | None
    scenes: Sequence[LabelledImage]
    calibration: Sequence[LabelledImage]
    layers: list[int]
    coverage: float

    def setup(self, progress: Progress, correct: Mode | None = None, fdr: float | None = None) -> Setup:
        """Return what the evaluations of a comparison share."""
        from latentbank.query.evaluation.experiments.compare import Setup

        return Setup(self.scenes, self.layers, self.calibration, self.coverage, progress, correct, fdr)


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """The scenes, the layers and the control that lenses are scored with."""

    visual_layers: VisualLayersOption = None
    scenes: Annotated[int, typer.Option(help="Held-out scenes, at most 300.")] = 300
    calibration: Annotated[
        int,
        typer.Option(
            help="Other scenes whose visual tokens give the means for a centred bank, and a correction."
        ),
    ] = 100
    coverage: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Share of a patch that an object must cover to make it an object patch."
        ),
    ] = 0.5
    random: Annotated[
        bool,
        typer.Option("--random/--no-random", help="Also score a projector of random weights, as a control."),
    ] = True

    def inputs(
        self,
        name: str,
        loading: LoadingOptions,
        settings: Settings,
        *,
        bank_layers: list[int] | Callable[[int], list[int]] | None = None,
        whole: bool = False,
    ) -> SceneInputs:
        """Load a VLM and make the scenes.

        Args:
            name: the VLM: hub id, folder, projector file or "demo".
            loading: how it is loaded.
            settings: settings with the folder of the banks.
            bank_layers: further layers the LLM must have, or a function that returns them from the number of layers.
            whole: load the whole LLM.

        Raises:
            LatentBankError: a number of scenes is out of range.
        """
        from latentbank.demo.scenes import EVALUATION, VALIDATION, load_things, make_scene
        from latentbank.query.evaluation.controls import with_random_projector
        from latentbank.query.evaluation.evaluate import evaluation_layers
        from latentbank.query.evaluation.patches import grid_of

        if not 2 <= self.scenes <= len(EVALUATION):
            raise LatentBankError(f"--scenes is {self.scenes}; it can be 2 to {len(EVALUATION)}.")
        if not 0 <= self.calibration <= len(VALIDATION):
            raise LatentBankError(f"--calibration is {self.calibration}; it can be 0 to {len(VALIDATION):,}.")
        choice: LayerChoice = named_visual_layers(self.visual_layers) or evaluation_layers

        def deepest(count: int) -> int:
            stored = layers_for(bank_layers, count) or []
            layers = layers_for(choice, count) or []
            return count if whole else max(layers + stored)

        model = loading.load_vlm(name, deepest, settings)
        grid = grid_of(model)
        things = load_things()
        scenes = [make_scene(things, seed, grid).labelled() for seed in EVALUATION[: self.scenes]]
        others = [make_scene(things, seed, grid).labelled() for seed in VALIDATION[: self.calibration]]
        control = (
            with_random_projector(model, [scene.image for scene in scenes[:32]]) if self.random else None
        )
        if self.random and control is None:
            print(
                f"{model.name} has no projector that can be replaced; the random control is left out.",
                file=sys.stderr,
            )
        layers = layers_for(choice, model.num_layers) or []
        return SceneInputs(model, control, scenes, others, layers, self.coverage)


@dataclass(frozen=True, kw_only=True)
class ScoringOptions(ModelBankOptions, SceneOptions, SceneModelOptions, ResultOptions):
    """What the commands share that score lenses over a bank: the bank, the scenes, the model, and where scores go."""

    bank_layers: BankLayersOption = "all"

    def searched(self) -> BankLayers:
        """Return the bank layers that are searched."""
        return bank_layers_of(self.bank_layers)

    def loaded(self, settings: Settings, *, whole: bool = False) -> SceneInputs:
        """Load the model and make the scenes; see `SceneOptions.inputs`."""
        return self.inputs(self.model, self, settings, whole=whole)
