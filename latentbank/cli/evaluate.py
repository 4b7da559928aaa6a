"""`evaluate scenes`, which scores lenses on scenes with known contents, and what it shares with the experiments."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.cli.images import VisualLayersOption, load_vlm
from latentbank.cli.options import (
    BankOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    RevisionOption,
    TrustOption,
    bank_layers_of,
    numbers,
    opened_bank,
)
from latentbank.cli.output.scores import show_evaluation, write_scores
from latentbank.errors import LatentBankError
from latentbank.query.lenses.base import LensOptions
from latentbank.query.lenses.registry import lens_names, lenses_of

if TYPE_CHECKING:
    from latentbank.models.vision.vision_language import VisualModel
    from latentbank.progress import Progress
    from latentbank.query.evaluation.experiments.compare import Setup
    from latentbank.query.evaluation.labelled import LabelledImage

evaluate_app = typer.Typer(no_args_is_help=True, help="Score lenses where the truth is known.")

ModelsOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="Hub id or folder of a VLM, a projector's .safetensors file, or demo."
    ),
]
BankLayersOption = Annotated[str, typer.Option(help="mid, all, or numbers such as 8,12.")]
LensOption = Annotated[str, typer.Option("--lens", help="latent, logit, embedding, or several with commas.")]
WhereOption = Annotated[
    list[str] | None, typer.Option(help="Filter of the contexts, such as corpus=concepts; all must hold.")
]
ScenesOption = Annotated[int, typer.Option(help="Held-out scenes, at most 300.")]
CalibrationOption = Annotated[
    int, typer.Option(help="Other scenes whose visual tokens give the means for a centred bank.")
]
CoverageOption = Annotated[
    float, typer.Option(help="Share of a patch that its thing covers in an object patch.")
]
RandomOption = Annotated[
    bool, typer.Option("--random/--no-random", help="Beside it the same with a projector of random weights.")
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for the figures and the JSON.")
]


@dataclass(frozen=True)
class Bench:
    """What scoring takes: the VLM, with random weights too, and the scenes made for its grid."""

    model: VisualModel
    random: VisualModel | None
    scenes: Sequence[LabelledImage]
    calibration: Sequence[LabelledImage]
    layers: list[int]

    def setup(self, progress: Progress, coverage: float) -> Setup:
        """Give what the evaluations of a comparison share."""
        from latentbank.query.evaluation.experiments.compare import Setup

        return Setup(self.scenes, self.layers, self.calibration, coverage, progress)


def make_bench(
    name: str,
    layers: str | None,
    scenes: int,
    calibration: int,
    random: bool,
    device: str | None,
    dtype: str | None,
    revision: str | None,
    trust_remote_code: bool,
    bank_layers: list[int] | Callable[[int], list[int]] | None = None,
) -> Bench:
    """Load the VLM as deep as the visual layers, and `bank_layers` where they are given, and make the scenes."""
    from latentbank.demo.scenes import EVALUATION, VALIDATION, load_things, make_scene
    from latentbank.query.evaluation.controls import with_random_projector
    from latentbank.query.evaluation.evaluate import evaluation_layers, grid_of

    if not 2 <= scenes <= len(EVALUATION):
        raise LatentBankError(f"--scenes is {scenes}; it can be 2 to {len(EVALUATION)}.")
    if not 0 <= calibration <= len(VALIDATION):
        raise LatentBankError(f"--calibration is {calibration}; it can be 0 to {len(VALIDATION):,}.")
    chosen = numbers(layers)

    def deepest(count: int) -> int:
        stored = bank_layers(count) if callable(bank_layers) else bank_layers or []
        return max([*(chosen or evaluation_layers(count)), *stored])

    model = load_vlm(name, deepest, device, dtype, revision, trust_remote_code)
    grid = grid_of(model)
    things = load_things()
    held_out = [make_scene(things, seed, grid).labelled() for seed in EVALUATION[:scenes]]
    others = [make_scene(things, seed, grid).labelled() for seed in VALIDATION[:calibration]]
    blind = with_random_projector(model, [scene.image for scene in held_out[:32]]) if random else None
    if random and blind is None:
        print(
            f"{model.name} has no projector that can be replaced: no random one beside it.", file=sys.stderr
        )
    return Bench(model, blind, held_out, others, chosen or evaluation_layers(model.num_layers))


@evaluate_app.command("scenes", epilog="Example: latentbank evaluate scenes --bank demo --output scores")
def evaluate_scenes(
    bank: BankOption = None,
    model: ModelsOption = "demo",
    visual_layers: VisualLayersOption = None,
    bank_layers: BankLayersOption = "all",
    lens: LensOption = "latent,logit,embedding",
    where: WhereOption = None,
    scenes: ScenesOption = 300,
    calibration: CalibrationOption = 100,
    coverage: CoverageOption = 0.5,
    random: RandomOption = True,
    output: OutputOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score lenses on held-out scenes: the share of patches that they name, with two controls."""
    from latentbank.bank.where import parse_where
    from latentbank.progress import shown
    from latentbank.query.evaluation.evaluate import evaluate
    from latentbank.query.evaluation.figures import draw_evaluation

    condition = parse_where(where or [])
    names = lens_names(lens)
    with opened_bank(bank) as opened:
        bench = make_bench(
            model, visual_layers, scenes, calibration, random, device, dtype, revision, trust_remote_code
        )
        lenses = lenses_of(names, LensOptions(bench.model, opened, bank_layers_of(bank_layers), condition))
        with shown("evaluating", "scenes") as progress:
            found = evaluate(
                bench.model,
                lenses,
                bench.scenes,
                bench.layers,
                random=bench.random,
                calibration=bench.calibration,
                coverage=coverage,
                alone=bench.layers[:1],
                progress=progress,
            )
    data = {"where": list(where or []), **found.to_dict()}
    write_scores(data, output, "evaluation", lambda folder: draw_evaluation(found, folder))
    if as_json:
        print(json.dumps(data, ensure_ascii=False, indent=1))
    else:
        show_evaluation(found)
