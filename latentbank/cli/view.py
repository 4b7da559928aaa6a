"""`latentbank view`: show the page."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.cli.options.banks import ModelBankOptions
from latentbank.cli.options.common import GlobalOptions
from latentbank.cli.options.correction import CorrectOption, mode_of
from latentbank.cli.options.models import LoadingOptions
from latentbank.cli.options.pages import PageOptions
from latentbank.cli.serving import listen, require_web, serve
from latentbank.errors import LatentBankError, ModelError
from latentbank.files import existing
from latentbank.text import listed

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.settings import Settings
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.calibration.correction import Mode
    from latentbank.query.web.service import ReadingService

# Held-out scenes that the page offers if the demo's pictures are installed, by the numbers in their names. It opens
# with the first.
_SCENES = {2: 3, 1: 0, 3: 8}


def view(
    ctx: typer.Context,
    *,
    bank: ModelBankOptions,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            envvar="LATENTBANK_VLM",
            help="As for `query image`; by default the bank's own model. Give several to choose from on the page. With "
            "an LLM alone, the page reads sentences and no images.",
        ),
    ] = None,
    correct: CorrectOption = "none",
    page: PageOptions,
    saved_only: Annotated[
        bool, typer.Option("--saved-only", help="Load no model: only saved readings can be opened.")
    ] = False,
    loading: LoadingOptions,
) -> None:
    """Show a page that reads any image and any sentence against a bank. Ctrl-C ends it."""
    require_web()
    from latentbank.query.web.guard import Guard
    from latentbank.query.web.server import create_app

    page.check()
    mode = mode_of(correct)
    if loading.revision is not None and model and len(model) > 1:
        raise LatentBankError("--revision is for one model: leave it out, or give one --model.")
    settings = GlobalOptions.of(ctx).settings()
    with ExitStack() as stack:
        listening = stack.enter_context(listen(page.host, page.port))  # first: loading a model takes a while
        service, pictures = None, {}
        if not saved_only:
            opened = stack.enter_context(bank.opened(settings))
            service = _service(opened, model, loading, settings, mode)
            pictures = shipped_pictures() if service.reads_images else {}
        serve(Guard(create_app(service, pictures, next(iter(pictures), "")), page.token), listening)


def _service(
    bank: Bank,
    models: list[str] | None,
    loading: LoadingOptions,
    settings: Settings,
    correct: Mode | None,
) -> ReadingService:
    """Load the first model; the others are loaded when they are chosen. An LLM alone reads sentences."""
    from latentbank.models.visual import why_no_images
    from latentbank.query.web.service import ReadingService

    revision = None if models else bank.manifest.revision

    def load(path: str, say: Callable[[str], None] | None = None) -> VisualModel:
        return loading.load_vlm(path, lambda count: count, settings, revision=revision, say=say)

    (name, first), *others = shown_names(models or [bank.find_model()]).items()
    corpora = f"corpora {listed(sorted(bank.shown_corpora))}, " if bank.shown_corpora else ""
    print(f"loading {name} for bank {bank.name} ({corpora}layers {listed(bank.layers)}) ...", file=sys.stderr)
    trusted, wanted = loading.trust_remote_code, loading.revision or revision
    if not others and (why := why_no_images(first, revision=wanted, trust_remote_code=trusted)):
        print(
            f"{why} The page reads sentences alone; for images, name a vision-language model over this LLM with "
            "--model (or LATENTBANK_VLM).",
            file=sys.stderr,
        )
        language = loading.load_language(first, lambda count: count, revision=revision)
        return ReadingService(bank, language, name=name)
    loaders = {other: partial(load, path) for other, path in others}
    return ReadingService(bank, load(first), loaders, name, correct)


def shipped_pictures() -> dict[str, bytes]:
    """Return the images that the page offers: scenes if the demo's pictures are installed, and a photo.

    The page opens with the first one.
    """
    from latentbank.demo.scenes import EVALUATION, load_things, make_scene
    from latentbank.demo.vlm import PHOTO
    from latentbank.query.output.pictures import png_bytes

    photo = {"a cat": PHOTO.read_bytes()}
    try:
        things = load_things()
    except ModelError:
        return photo
    scenes = {
        f"scene {number}": png_bytes(make_scene(things, EVALUATION[seed]).image)
        for number, seed in _SCENES.items()
    }
    return scenes | photo


def shown_names(models: Sequence[str]) -> dict[str, str]:
    """Return the models by the names that visitors see: of a path only the last part, as the rest is private."""
    found: dict[str, str] = {}
    for model in dict.fromkeys(models):
        path = existing(model)
        plain = path.name if path else model
        name, number = plain, 1
        while name in found:
            number += 1
            name = f"{plain} ({number})"
        found[name] = model
    return found
