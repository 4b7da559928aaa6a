"""`latentbank calibrate`: measure what corrects the lenses for a VLM and a bank."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.cli.grouping import message_of
from latentbank.cli.options.banks import ModelBankOptions
from latentbank.cli.options.common import (
    GlobalOptions,
    JsonOption,
    LensOption,
    VisualLayersOption,
    bank_layers_of,
    deepest_of,
    layers_for,
    named_visual_layers,
)
from latentbank.cli.options.correction import CalibrationImages
from latentbank.cli.options.images import ImageBatchOption, PromptOption
from latentbank.cli.options.models import LoadingOptions
from latentbank.errors import LatentBankError, ModelError
from latentbank.query.lenses.registry import lens_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latentbank.bank.bank import Bank
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.progress import Progress
    from latentbank.query.calibration.calibrate import Calibrated
    from latentbank.query.lenses.centring import Means


def calibrate(
    ctx: typer.Context,
    *,
    model: Annotated[
        str,
        typer.Argument(
            help="The VLM: hub id or folder, a projector's .safetensors file, or demo.", show_default=False
        ),
    ],
    images: CalibrationImages,
    bank: ModelBankOptions,
    visual_layers: VisualLayersOption = None,
    bank_layers: Annotated[
        str, typer.Option(help="Bank layers to calibrate: all, mid, paper, or numbers such as 8,12.")
    ] = "all",
    lens: LensOption = "latent,logit,embedding",
    prompt: PromptOption = None,
    batch: ImageBatchOption = 8,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File for the mean visual tokens, for query image --means; by default beside the VLM's own files, if "
            "there is none yet.",
        ),
    ] = None,
    loading: LoadingOptions,
    as_json: JsonOption = False,
) -> None:
    """Measure what corrects lenses for a VLM and a bank, from pictures without labels.

    Afterwards --correct can be used. Run again, it computes what is missing: after a kill, for a new corpus, for
    further layers. Other pictures replace those of before. Exits 1 if a picture could not be read.
    """
    from latentbank.cli.output.calibrated import show_calibrated
    from latentbank.progress import shown
    from latentbank.query.calibration.calibrate import calibrate as measure
    from latentbank.query.reading.visual import default_visual_layers

    choice, settings = named_visual_layers(visual_layers), GlobalOptions.of(ctx).settings()
    names = lens_names(lens)
    failed = list[str]()

    def broken(name: str, error: LatentBankError) -> None:
        failed.append(name)
        print(f"skipped: {message_of(error, ctx)}", file=sys.stderr)

    pictures, what = images.find()
    with bank.opened(settings) as opened, shown("calibrating", "images") as progress:
        deepest = deepest_of(choice)
        vlm = loading.load_vlm(model, _default_depth if deepest is None else deepest, settings)
        done = measure(
            opened,
            vlm,
            pictures,
            layers_for(choice, vlm.num_layers) or default_visual_layers(vlm.num_layers),
            bank_layers=bank_layers_of(bank_layers),
            what=what,
            prompt=prompt,
            batch=batch,
            broken=broken,
            progress=progress,
        )
        name = opened.name
        _calibrate_vocabulary(opened, vlm, done, names, progress)
    means = _keep_means(vlm, done.means, output)
    show_calibrated(done, vlm.name, name, means, as_json=as_json)
    if failed:
        raise typer.Exit(1)


def _calibrate_vocabulary(
    bank: Bank, vlm: VisualModel, done: Calibrated, lenses: Sequence[str], progress: Progress
) -> None:
    """Measure what corrects the lenses that read the vocabulary; of an LLM without unembedding, without LogitLens."""
    from latentbank.query.calibration.calibration import load_calibration
    from latentbank.query.calibration.vocabulary import LENSES, calibrate_vocabulary

    calibration = load_calibration(bank, vlm)
    for lens in (lens for lens in lenses if lens in LENSES):
        try:
            calibrate_vocabulary(calibration, vlm, done.visual_layers, [lens], progress)
        except ModelError as error:
            print(f"not calibrated, the {lens} lens: {error}", file=sys.stderr)


def _default_depth(num_layers: int) -> int:
    from latentbank.query.reading.visual import default_visual_layers

    return max(default_visual_layers(num_layers))


def _keep_means(vlm: VisualModel, means: Means, output: Path | None) -> Path | None:
    """Write the mean visual tokens, and return the file; None if none was written.

    A file beside the VLM stays as it is: it may hold better means, of chosen tokens.

    Raises:
        LatentBankError: the file that was named cannot be written.
    """
    from latentbank.query.lenses.centring import save_means

    if output is not None:
        save_means(output, means)
        return output
    if vlm.means_file is None or vlm.means_file.exists():
        return None
    try:
        save_means(vlm.means_file, means)
    except LatentBankError:  # others' folder
        return None
    return vlm.means_file
