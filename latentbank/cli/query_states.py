"""`latentbank query states`."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from latentbank.cli.grouping import command
from latentbank.cli.options.banks import ModelBankOptions
from latentbank.cli.options.common import GlobalOptions, JsonOption, LensOption, numbers
from latentbank.cli.options.images import SearchOptions
from latentbank.cli.options.models import ModelOptions
from latentbank.cli.query import app
from latentbank.errors import QueryError
from latentbank.text import first_line

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.models.language.model import LanguageModel
    from latentbank.query.lenses.centring import QueryMean


@command(
    app,
    "states",
    example="query states steps.safetensors --layer 8,16 --lens latent,logit",
    first="file bank layer labels tensor lens",
)
def query_states(
    ctx: typer.Context,
    *,
    file: Annotated[
        Path,
        typer.Argument(
            help="A .safetensors, .npy or .parquet file of hidden states [tokens, hidden], or VLM-Lens' .db.",
            show_default=False,
        ),
    ],
    bank: ModelBankOptions,
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            help="Layers of the file to read, such as 8,16; where it does not say, the one its states come from.",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="What the tokens are called: names with commas, or a file with one on each line."),
    ] = None,
    tensor: Annotated[
        str | None,
        typer.Option(help="The tensor to read, if there are several: a name, column or module of the file."),
    ] = None,
    lens: LensOption = "latent",
    search: SearchOptions,
    query_mean: Annotated[
        str | None,
        typer.Option(
            "--query-mean",
            help="For a centred bank, the mean that is subtracted: text (the bank's), batch (the states' own), or a "
            "file of means.",
        ),
    ] = None,
    model: ModelOptions,
    as_json: JsonOption = False,
) -> None:
    """Read hidden states that another program has saved."""
    from latentbank.cli.output.readings import show_reading
    from latentbank.cli.output.text import show_ways
    from latentbank.models.vision.alone import LanguageAlone
    from latentbank.query.lenses.base import LensOptions
    from latentbank.query.lenses.registry import lens_class, lens_names, lenses_of, needs_whole
    from latentbank.query.reading.states import read_states
    from latentbank.query.states.files import load_states

    names = lens_names(lens)
    condition = search.condition()
    states = load_states(file, numbers(layer), tensor=tensor, labels=_labels(labels))
    settings = GlobalOptions.of(ctx).settings()
    with ExitStack() as stack:
        opened = None
        if model.model is None or any(lens_class(name).needs_bank for name in names):
            opened = stack.enter_context(bank.opened(settings, include_incomplete=search.include_incomplete))
        llm = LanguageAlone(partial(_load, model, opened, whole=needs_whole(names)))
        options = LensOptions(
            llm,
            opened,
            search.layers(),
            condition,
            search.once(),
            data_dir=settings.data_dir,
            search=search.way(),
        )
        reading = read_states(
            states, lenses_of(names, options), top_k=search.top_k, query_mean=_mean(query_mean)
        )
        if opened is not None:
            show_ways(opened)
    show_reading(reading, as_json=as_json)


def _load(model: ModelOptions, bank: Bank | None, *, whole: bool) -> LanguageModel:
    """Load the LLM, by default the bank's, whole or its embeddings alone. It must be the bank's."""
    default = None if bank is None or model.model else bank.find_model()
    revision = None if bank is None else bank.manifest.revision
    layers = (lambda count: [count]) if whole else [0]
    llm = model.load_llm(layers, default=default, default_revision=revision)
    if bank is not None:
        bank.require_model(llm.name, llm.identity())
    return llm


def _labels(given: str | None) -> list[str] | None:
    """Return the labels of --labels: a file's lines, or names with commas.

    Raises:
        QueryError: the file cannot be read as text.
    """
    if given is None:
        return None
    path = Path(given).expanduser()
    if not path.is_file():
        return [label.strip() for label in given.split(",")]
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(f"{given} cannot be read as text: {first_line(error)}.", argument="labels") from None


def _mean(given: str | None) -> QueryMean | None:
    """Return the mean that --query-mean names: text, batch or a file of means."""
    from latentbank.query.lenses.centring import load_means

    if given is None or given in ("text", "batch"):
        return cast("QueryMean | None", given)
    return load_means(given)
