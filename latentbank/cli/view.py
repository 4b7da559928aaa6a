"""`latentbank view`: show the page."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.cli.options.banks import ModelBankOptions
from latentbank.cli.options.common import GlobalOptions
from latentbank.cli.options.models import LoadingOptions
from latentbank.errors import LatentBankError, ModelError
from latentbank.files import existing

if TYPE_CHECKING:
    import uvicorn

    from latentbank.bank.bank import Bank
    from latentbank.bank.settings import Settings
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.web.guard import Guard
    from latentbank.query.web.service import ReadingService

# Held-out scenes that the page offers if the demo's pictures are installed.
_SCENES = (0, 3, 8)
_CONNECTIONS = 500  # at once; beyond them a request gets 503


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
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any that is free.")
    ] = 8265,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="LATENTBANK_TOKEN", help="Secret that visitors must give; needed beyond this machine."
        ),
    ] = None,
    saved_only: Annotated[
        bool, typer.Option("--saved-only", help="Load no model: only saved readings can be opened.")
    ] = False,
    loading: LoadingOptions,
) -> None:
    """Show a page that reads any image and any sentence against a bank. Ctrl-C ends it."""
    try:
        import uvicorn

        from latentbank.query.web.guard import Guard
        from latentbank.query.web.server import create_app
    except ImportError:
        raise LatentBankError("The page needs fastapi and uvicorn: install both.") from None
    _check(host, token, model, loading)
    settings = GlobalOptions.of(ctx).settings()
    with ExitStack() as stack:
        listening = stack.enter_context(_listen(host, port))  # first: loading a model takes a while
        service, pictures = None, {}
        if not saved_only:
            print("opening the bank and loading the model ...", file=sys.stderr)
            opened = stack.enter_context(bank.opened(settings))
            service = _service(opened, model, loading, settings)
            pictures = shipped_pictures() if service.reads_images else {}
        app = Guard(create_app(service, pictures), token)
        print(f"The page is at {_address(listening)}; Ctrl-C ends it.", file=sys.stderr)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(served(app)).run(sockets=[listening])


def served(app: Guard) -> uvicorn.Config:
    """Return how the page's app is served. There is no access log: it would hold what people typed."""
    import uvicorn

    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=2,
    )


def _check(host: str, token: str | None, models: list[str] | None, loading: LoadingOptions) -> None:
    """Raise LatentBankError for options that do not go together."""
    from latentbank.query.web.guard import LOOPBACK, SHORTEST_TOKEN

    if token is None and host not in LOOPBACK:
        raise LatentBankError(
            f"On {host} others can reach the page: give a --token (or LATENTBANK_TOKEN) that visitors must give."
        )
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise LatentBankError(
            f"The token is short enough to guess; give one of {SHORTEST_TOKEN} letters or more."
        )
    if loading.revision is not None and models and len(models) > 1:
        raise LatentBankError("--revision is for one model: leave it out, or give one --model.")


def _service(
    bank: Bank, models: list[str] | None, loading: LoadingOptions, settings: Settings
) -> ReadingService:
    """Load the first model; the others are loaded when they are chosen. An LLM alone reads sentences."""
    from latentbank.models.visual import why_no_images
    from latentbank.query.web.service import ReadingService

    revision = None if models else bank.manifest.revision

    def load(path: str, say: Callable[[str], None] | None = None) -> VisualModel:
        return loading.load_vlm(path, lambda count: count, settings, revision=revision, say=say)

    (name, first), *others = shown_names(models or [bank.find_model()]).items()
    trusted, wanted = loading.trust_remote_code, loading.revision or revision
    if not others and (why := why_no_images(first, revision=wanted, trust_remote_code=trusted)):
        print(
            f"{why} The page reads sentences alone; for images, name a vision-language model over this LLM with "
            "--model (or LATENTBANK_VLM).",
            file=sys.stderr,
        )
        language = loading.load_language(first, lambda count: count, revision=revision)
        return ReadingService(bank, language, name=name)
    return ReadingService(bank, load(first), {other: partial(load, path) for other, path in others}, name)


def shipped_pictures() -> dict[str, bytes]:
    """Return the images that the page offers: a photo, and scenes if the demo's pictures are installed."""
    from latentbank.demo.scenes import EVALUATION, load_things, make_scene
    from latentbank.demo.vlm import PHOTO
    from latentbank.query.output.pictures import png_bytes

    pictures = {"a cat": PHOTO.read_bytes()}
    try:
        things = load_things()
    except ModelError:
        return pictures
    for number, seed in enumerate(_SCENES, 1):
        pictures[f"scene {number}"] = png_bytes(make_scene(things, EVALUATION[seed]).image)
    return pictures


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


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise LatentBankError(
            f"The page cannot be shown on {host}, port {port} ({error.strerror or error}): give another --port or "
            "--host."
        ) from None


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
