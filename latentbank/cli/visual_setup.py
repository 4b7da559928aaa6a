"""What the commands that read images and videos share: the bank, the model, the lenses, and where readings go."""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from latentbank.cli.image_job import ImageJob, reading_folder
from latentbank.cli.options.banks import ModelBankOptions
from latentbank.cli.options.common import (
    GlobalOptions,
    LayerChoice,
    deepest_of,
    layers_for,
    named_visual_layers,
)
from latentbank.cli.options.correction import mode_of
from latentbank.cli.options.images import ReadingOutputs, SearchOptions
from latentbank.cli.options.models import VisualModelOptions
from latentbank.errors import ImageError, LatentBankError, QueryError
from latentbank.layers import PAPER
from latentbank.query.lenses.base import Lens, LensOptions
from latentbank.query.lenses.registry import lens_class, lens_names, lenses_of, needs_whole
from latentbank.text import listed

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.settings import Settings
    from latentbank.hub import Listing
    from latentbank.models.vision.sources import Images
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.calibration.correction import Correction, Mode
    from latentbank.query.reading.around import Around
    from latentbank.query.silence.silence import Silence

_FITTED = 32  # images that a random projector is fitted to


@dataclass(frozen=True)
class Choices:
    """What was asked for, besides images, bank, model and outputs; see the options.

    `correct` is as of --correct. `of_images` says whether the means that are kept with a VLM apply, `random_projector`
    whether its projector is replaced by one of random weights.
    """

    visual_layers: str | None
    lens: str
    search: SearchOptions
    prompt: str | None
    around: Around
    means: Path | None
    of_images: bool = True
    recipe: str | None = None
    random_projector: bool = False
    correct: str = "none"
    fdr: float | None = None

    def by_recipe(self) -> Choices:
        """Return what was asked for, and what its recipe says where nothing was.

        Raises:
            QueryError: there is no such recipe.
        """
        if self.recipe is None:
            return self
        if self.recipe != "latentlens":
            raise QueryError(
                f"There is no recipe '{self.recipe}' for reading; use latentlens.", argument="recipe"
            )
        search = replace(self.search, bank_layers=self.search.bank_layers or "all")
        return replace(self, visual_layers=self.visual_layers or PAPER, search=search)


@dataclass(frozen=True)
class Setup:
    """What is ready to read: the model, the lenses, the layers, the mean for a centred bank, and the job."""

    vlm: VisualModel
    lenses: list[Lens]
    layers: list[int]
    query_mean: Any
    job: ImageJob
    silence: Silence | None = None


def prepared(
    stack: ExitStack,
    ctx: typer.Context,
    found: Images,
    choices: Choices,
    bank: ModelBankOptions,
    model: VisualModelOptions,
    outputs: ReadingOutputs,
    **more: Any,
) -> Setup:
    """Open the bank, load the model and make the job; `more` is what a folder of readings depends on besides.

    Raises:
        QueryError: options that do not go together.
    """
    from latentbank.cli.output.text import show_ways
    from latentbank.query.lenses.centring import load_means
    from latentbank.query.output.push import check_settings
    from latentbank.query.reading.visual import chosen_layers

    if outputs.as_json and outputs.parquet is not None:
        raise QueryError("Readings go to one place: choose --json or --parquet.")
    pushed_to = _prepared_push(outputs)
    choices = choices.by_recipe()
    search, around = choices.search, choices.around
    names, choice = lens_names(choices.lens), named_visual_layers(choices.visual_layers)
    mode = mode_of(choices.correct)
    condition, unique = search.condition(), search.once()
    files = outputs.files(found.total)
    settings = GlobalOptions.of(ctx).settings()
    opened = None
    needs_bank = mode is not None or choices.fdr is not None
    if needs_bank or model.model is None or any(lens_class(name).needs_bank for name in names):
        opened = stack.enter_context(bank.opened(settings, include_incomplete=search.include_incomplete))
        opened.choose_layers(search.layers())
        stack.callback(show_ways, opened)
    vlm = _load_for(model, opened, settings, choice, around, whole=needs_whole(names))
    if choices.random_projector:
        vlm, more = _randomized(vlm, found), {**more, "projector": "random"}
    layers = layers_for(choice, vlm.num_layers) or chosen_layers(vlm.num_layers, opened, around)
    means = choices.means or (kept_means_file(vlm, opened) if choices.of_images else None)
    query_mean = load_means(means, vlm.language.identity()) if means is not None else None
    correction = None if mode is None or opened is None else correction_of(mode, opened, vlm)
    options = LensOptions(
        vlm,
        opened,
        search.layers(),
        condition,
        unique,
        correction=correction,
        data_dir=settings.data_dir,
        search=search.way(),
    )
    lenses = lenses_of(names, options)
    if versions := {lens.name: lens.version() for lens in lenses if lens.version()}:
        more = {**more, "lens_versions": versions}
    if correction is not None:
        more = {**more, **_corrected(correction, lenses)}
    silence = None if choices.fdr is None else _silence(opened, vlm, lenses, layers, choices.fdr)
    if silence is not None:
        more = {**more, "fdr": silence.fdr, "calibration": silence.calibration.pictures_folder.name}
    job = ImageJob(ctx, found, as_json=outputs.as_json, pictures=outputs.pictures, files=files)
    if outputs.parquet is not None:
        asked = (
            _choice(names, layers, search, choices.prompt, query_mean, means) | _text_choice(around) | more
        )
        job.folder = reading_folder(outputs.parquet, vlm, opened, search.layers(), asked)
        if pushed_to is not None:
            check_settings(pushed_to, job.folder.folder)
            job.pushed_to = pushed_to
    return Setup(vlm, lenses, layers, query_mean, job, silence)


def _silence(
    bank: Bank | None, vlm: VisualModel, lenses: list[Lens], layers: list[int], fdr: float
) -> Silence:
    """Return which tokens fall silent, once it is known what the lenses find by chance."""
    from latentbank.progress import shown
    from latentbank.query.silence.silence import open_silence

    assert bank is not None
    silence = open_silence(bank, vlm, fdr)
    with shown("measuring chance", "tokens") as progress:
        silence.prepare(lenses, layers, progress)
    return silence


def _prepared_push(outputs: ReadingOutputs) -> Listing | None:
    """Return the repository that the readings are pushed to, before any work; None if they are not.

    Raises:
        QueryError: there is no folder to push.
    """
    if outputs.push is None:
        return None
    if outputs.parquet is None:
        raise QueryError("A folder of Parquet files is pushed; name one.", argument="parquet")
    from latentbank.query.output.push import prepare_readings

    return prepare_readings(outputs.push, public=outputs.public)


def find_files(sources: list[str], what: str, error: type[LatentBankError]) -> Images:
    """Return files and folders that exist, and what globs match.

    Args:
        sources: paths or globs.
        what: what they are, for the message.
        error: what is raised if one does not exist, or a glob matches nothing.
    """
    from latentbank.models.vision.sources import Images

    paths: list[Path] = []
    for given in sources:
        path = os.path.expanduser(given)
        if os.path.exists(path):
            paths.append(Path(path))
        elif matches := sorted(glob.glob(path, recursive=True)):
            paths += map(Path, matches)
        else:
            raise error(f"No such {what}: {given}; check the path.")
    return Images(list(dict.fromkeys(paths)), [], None)


def load_as_deep(
    model: VisualModelOptions,
    bank: Bank | None,
    settings: Settings,
    layers: LayerChoice,
    deepest: Callable[[int], int],
) -> VisualModel:
    """Load the VLM, by default the bank's, as deep as `layers`, else as `deepest` says."""
    name, revision = model.model, None
    if name is None:
        assert bank is not None
        name, revision = bank.find_model(), bank.manifest.revision
    asked = deepest_of(layers)
    return model.load_vlm(name, deepest if asked is None else asked, settings, revision=revision)


def _load_for(
    model: VisualModelOptions,
    bank: Bank | None,
    settings: Settings,
    layers: LayerChoice,
    around: Around,
    *,
    whole: bool,
) -> VisualModel:
    """Load the VLM as deep as it will be read; whole if it is to write an answer, or a lens runs it to its end."""
    from latentbank.query.reading.visual import chosen_layers

    if around.answer or whole:
        return load_as_deep(model, bank, settings, None, lambda count: count)
    return load_as_deep(model, bank, settings, layers, lambda count: max(chosen_layers(count, bank, around)))


def _randomized(vlm: VisualModel, images: Images) -> VisualModel:
    """Return the VLM with a projector of random weights, fitted to the first images.

    Raises:
        QueryError: it has no projector of ours.
        ImageError: none of the first images can be read.
    """
    from latentbank.models.vision.sources import opened
    from latentbank.query.evaluation.controls import with_random_projector

    # Those that cannot be read are named when they are read.
    sample = [image for _, image in opened(itertools.islice(images, _FITTED), lambda *_: None)]
    if not sample:
        raise ImageError(
            "None of the first images can be read, so no random projector can be fitted to them."
        )
    found = with_random_projector(vlm, sample)
    if found is None:
        raise QueryError(
            f"{vlm.name} was not loaded from a projector's file, so its projector cannot be replaced by one of random "
            "weights.",
            argument="random_projector",
        )
    return found


def correction_of(mode: Mode, bank: Bank, vlm: VisualModel) -> Correction:
    """Return the correction of a kind, as the VLM was calibrated for the bank."""
    from latentbank.query.calibration.calibration import load_calibration
    from latentbank.query.calibration.correction import Correction

    return Correction(load_calibration(bank, vlm), mode)


def _corrected(correction: Correction, lenses: Sequence[Lens]) -> dict[str, str]:
    """Return what a folder of readings depends on if they are corrected.

    Raises:
        QueryError: none of the lenses can be corrected.
    """
    if not any(lens.correction for lens in lenses):
        names = listed(lens.title for lens in lenses)
        raise QueryError(f"{names} cannot be corrected; leave the correction out.", argument="correct")
    return {"correction": correction.mode, "calibration": correction.calibration.pictures_folder.name}


def kept_means_file(vlm: VisualModel, bank: Bank | None) -> Path | None:
    """Return the file of means kept with the VLM, which a centred bank's queries are centred with."""
    if bank is None or bank.metric != "centred" or vlm.means_file is None:
        return None
    return vlm.means_file if vlm.means_file.is_file() else None


def _text_choice(around: Around) -> dict[str, Any]:
    """Return what a folder of readings depends on besides `_choice`; nothing for visual tokens alone."""
    return {"prompt_tokens": around.prompt, "answer": around.answer} if around else {}


def _choice(
    lenses: list[str],
    layers: list[int],
    search: SearchOptions,
    prompt: str | None,
    query_mean: Any,
    means: Path | None,
) -> dict[str, Any]:
    """Return the options that a folder of readings depends on."""
    from latentbank.query.lenses.centring import described

    return {
        "lenses": lenses,
        "visual_layers": layers,
        "top_k": search.top_k,
        "unique": search.unique,
        "prompt": prompt,
        "where": search.where or [],
        "exact": search.way() == "exact",
        # A folder of an earlier version, which had no other way, can be continued.
        **({"search": "graph"} if search.way() == "graph" else {}),
        "query_mean": described(query_mean),
        # Two sets of images may have means of the same description.
        "means": None if means is None else hashlib.blake2b(means.read_bytes(), digest_size=16).hexdigest(),
    }


def warn(text: str) -> None:
    """Print the library's warning that norms are beyond the model's dtype, with the option that helps."""
    print(f"warning: {text.removesuffix('.')} (--dtype).", file=sys.stderr)
