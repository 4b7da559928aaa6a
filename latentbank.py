"""latentbank: what do a vision-language model's tokens mean? The public face and the command line.

The library and the command line are the same thing: every command is a few calls of what this module
exports. Names are imported when they are first used, so that `latentbank --help` is quick.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from latentbank_errors import BankMismatch, LatentBankError

if TYPE_CHECKING:
    from bank.bank import BankLayers
    from bank.manifest import Manifest
    from bank.settings import Settings
    from models.language import LanguageModel

_HOME = {
    "latentbank_errors": (
        "BankBusy",
        "BankMismatch",
        "BankNotFound",
        "BankUnavailable",
        "CorpusError",
        "LayerNotFound",
        "ModelError",
        "QueryError",
    ),
    "bank.bank": ("Bank", "create_bank", "delete_bank", "list_banks", "open_bank"),
    "bank.points": ("Neighbor",),
    "bank.settings": ("Settings", "load_settings"),
    "bank.where": ("Where",),
    "ingest.corpus": ("Corpus", "corpus_from_sentences", "open_corpus"),
    "ingest.job": ("ready_plan", "run"),
    "ingest.plan": ("Plan", "PlanSettings", "load_plan", "make_plan"),
    "models.language": ("LanguageModel", "load_language_model"),
    "query.lenses": ("LatentLens",),
    "query.reading": ("Reading", "read_hidden", "read_text"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["LatentBankError", *_MODULE]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'latentbank' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULE[name]), name)


# -- the command line --------------------------------------------------------------------------

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="What do a vision-language model's tokens mean? Fill banks of contexts, and read them.",
)
ingest_app = typer.Typer(no_args_is_help=True, help="Fill a bank from a corpus.")
bank_app = typer.Typer(no_args_is_help=True, help="Look after banks.")
query_app = typer.Typer(no_args_is_help=True, help="Read hidden states against a bank.")
app.add_typer(ingest_app, name="ingest")
app.add_typer(bank_app, name="bank")
app.add_typer(query_app, name="query")

BankOption = Annotated[
    str | None,
    typer.Option("--bank", "-b", help="The bank; by default LATENTBANK_BANK, else the only one there is."),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Hub id, folder or .gguf file; by default the bank's own model."),
]
LayersOption = Annotated[
    str | None, typer.Option("--layers", help="Bank layers of a new bank, such as 4,8,12,16.")
]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1; by default a GPU where there is one.")
]
DtypeOption = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16; by default by the device.")
]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")]
SourcesArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Files, globs, - for standard input, or a hub dataset.", show_default=False),
]
NameOption = Annotated[
    str | None, typer.Option("--name", "-n", help="Name of the corpus; by default the file's.")
]
ColumnOption = Annotated[
    str | None, typer.Option(help="Column that holds the sentences; by default it is found.")
]
ConfigOption = Annotated[str | None, typer.Option("--config", help="Configuration of a hub dataset.")]
SplitOption = Annotated[str | None, typer.Option(help="Split of a hub dataset.")]
LimitOption = Annotated[int | None, typer.Option(help="Read only the first so many sentences.")]
BosOption = Annotated[
    str, typer.Option(help="tokenizer: as it does by itself; always: BOS before each sentence.")
]
SkipOption = Annotated[int, typer.Option(help="Leading tokens of a sentence that are left out.")]
CapOption = Annotated[int, typer.Option("--contexts-per-token", help="Contexts of one token id at most.")]
MaxTokensOption = Annotated[int, typer.Option(help="Cut sentences after so many tokens.")]
PlanOption = Annotated[
    Path | None, typer.Option("--plan", help="Folder of the plan; by default beside the banks.")
]
BatchOption = Annotated[
    int | None, typer.Option(help="Tokens in one forward pass; by default by the device.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON (docs/json.md describes it).")]


class _Common:
    """What stands before the command."""

    url: str | None = None
    data_dir: Path | None = None
    debug = False

    @classmethod
    def settings(cls, **given: Any) -> Settings:
        from bank.settings import load_settings

        return load_settings(url=cls.url, data_dir=cls.data_dir, **given)


@app.callback()
def _common(
    url: Annotated[str | None, typer.Option(help="URL of a Qdrant server; LATENTBANK_URL.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of embedded banks; LATENTBANK_DATA_DIR.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    _Common.url, _Common.data_dir, _Common.debug = url, data_dir, debug


@ingest_app.command(
    "plan", epilog="Example: latentbank ingest plan captions.txt --model HuggingFaceTB/SmolLM2-135M"
)
def ingest_plan(
    sources: SourcesArgument = None,
    bank: BankOption = None,
    model: ModelOption = None,
    layers: LayersOption = None,
    name: NameOption = None,
    plan: PlanOption = None,
    column: ColumnOption = None,
    config: ConfigOption = None,
    split: SplitOption = None,
    limit: LimitOption = None,
    bos: BosOption = "tokenizer",
    skip: SkipOption = 1,
    contexts_per_token: CapOption = 50,
    max_tokens: MaxTokensOption = 512,
    quantization: Annotated[str | None, typer.Option(help="int8, turbo or none.")] = None,
    calibrate: Annotated[
        bool, typer.Option(help="Estimate the time by running the LLM for a few seconds.")
    ] = True,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Plan an ingestion: what would be stored, how large it is and how long it takes. Stores nothing."""
    from ingest.estimate import calibrate as measure
    from ingest.estimate import estimate
    from ingest.plan import PlanSettings, make_plan
    from latentbank_progress import shown
    from latentbank_show import show_plan

    settings = _Common.settings(quantization=quantization)
    choice = PlanSettings(cast("Any", bos), skip, contexts_per_token, max_tokens)
    corpus = _corpus(sources, name, column, config, split, revision=None, limit=limit)
    known = _known(bank, model, settings)
    wanted = _numbers(layers) or (list(known.layers) if known else None)
    chosen = model or (known.model if known else None)
    llm = _load(chosen, wanted, device, dtype, revision, trust_remote_code)
    wanted = wanted or default_layers(llm.num_layers)
    where = plan or _plan_folder(
        settings, bank or settings.bank or (known.bank if known else _bank_name(llm.name)), corpus.name
    )
    with shown("planning", "sentences") as progress:
        made = make_plan(corpus, llm, where, choice, progress)
    speed = measure(made, llm, wanted) if calibrate else None
    costs = estimate(made, llm.hidden_size, wanted, settings, speed)
    show_plan(made, costs, llm.packing, as_json=as_json)


@ingest_app.command(
    "run", epilog="Example: latentbank ingest run captions.txt --model HuggingFaceTB/SmolLM2-135M"
)
def ingest_run(
    sources: SourcesArgument = None,
    bank: BankOption = None,
    model: ModelOption = None,
    layers: LayersOption = None,
    name: NameOption = None,
    plan: PlanOption = None,
    column: ColumnOption = None,
    config: ConfigOption = None,
    split: SplitOption = None,
    limit: LimitOption = None,
    bos: BosOption = "tokenizer",
    skip: SkipOption = 1,
    contexts_per_token: CapOption = 50,
    max_tokens: MaxTokensOption = 512,
    quantization: Annotated[str | None, typer.Option(help="int8, turbo or none; for a new bank.")] = None,
    batch: BatchOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Store a corpus's contexts in a bank, made if it is new. Run again, it continues where it stopped."""
    from bank.bank import create_bank
    from ingest import job
    from ingest.plan import PlanSettings, load_plan
    from latentbank_progress import shown
    from latentbank_show import show_job

    settings = _Common.settings(quantization=quantization)
    choice = PlanSettings(cast("Any", bos), skip, contexts_per_token, max_tokens)
    made = load_plan(plan) if plan and not sources else None
    if plan and not sources and made is None:
        raise LatentBankError(f"There is no plan in {plan}; make one with `latentbank ingest plan`.")
    corpus = _corpus(sources, name, column, config, split, None, limit) if made is None else None
    model = model or (made.model if made else None)
    known = _known(bank, model, settings)
    if known and quantization not in (None, known.quantization):
        raise BankMismatch(
            f"The bank '{known.bank}' is quantized as {known.quantization}; leave --quantization out."
        )
    wanted = _numbers(layers) or (list(known.layers) if known else None)
    chosen = model or (known.model if known else None)
    llm = _load(chosen, wanted, device, dtype, revision, trust_remote_code)
    with create_bank(
        bank or settings.bank or (known.bank if known else _bank_name(llm.name)),
        settings,
        model=llm.name,
        revision=llm.revision,
        fingerprint=llm.fingerprint(),
        layers=wanted or default_layers(llm.num_layers),
        num_layers=llm.num_layers,
        hidden_size=llm.hidden_size,
    ) as opened:
        print(f"{llm.packing} on {llm.device}, {str(llm.dtype).removeprefix('torch.')}", file=sys.stderr)
        if made is None:
            assert corpus is not None
            where = plan or _plan_folder(settings, opened.name, corpus.name)
            with shown("planning", "sentences") as progress:
                made = job.ready_plan(opened, corpus, llm, where, choice, progress)
        with shown("ingesting", "contexts") as progress:
            report = job.run(opened, made, llm, progress, batch=batch)
        show_job(report, opened.name, opened.layers, as_json=as_json)


@ingest_app.command("status", epilog="Example: latentbank ingest status --bank SmolLM2-135M")
def ingest_status(bank: BankOption = None, as_json: JsonOption = False) -> None:
    """Show how far each corpus's ingestion is."""
    from bank.bank import open_bank
    from bank.where import Where
    from latentbank_show import show_status

    settings = _Common.settings()
    with open_bank(_only_bank(bank, settings), settings) as opened:
        rows = [
            (entry, min(opened.count(layer, Where(corpus=entry.name)) for layer in opened.layers))
            for entry in opened.corpora.values()
        ]
        show_status(opened.name, rows, as_json=as_json)


@bank_app.command("list", epilog="Example: latentbank bank list")
def bank_list(as_json: JsonOption = False) -> None:
    """List the banks."""
    from bank.bank import list_banks
    from latentbank_show import show_banks

    settings = _Common.settings()
    show_banks(list_banks(settings), settings.url or str(settings.data_dir), as_json=as_json)


@bank_app.command("info", epilog="Example: latentbank bank info SmolLM2-135M")
def bank_info(bank: Annotated[str | None, typer.Argument()] = None, as_json: JsonOption = False) -> None:
    """Show what a bank is and holds."""
    from bank.bank import open_bank
    from latentbank_show import show_info

    settings = _Common.settings()
    with open_bank(_only_bank(bank, settings), settings) as opened:
        show_info(opened.info(), as_json=as_json)


@bank_app.command("verify", epilog="Example: latentbank bank verify SmolLM2-135M")
def bank_verify(
    bank: Annotated[str | None, typer.Argument()] = None,
    sample: Annotated[int, typer.Option(help="Vectors of each layer whose length is checked.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Check a bank: counts, equal contexts in all layers, sound vectors. Exits 1 if something is wrong."""
    from bank.bank import open_bank
    from latentbank_progress import shown
    from latentbank_show import show_verified

    settings = _Common.settings()
    with open_bank(_only_bank(bank, settings), settings) as opened:
        with shown("comparing", "contexts") as progress:
            wrong = opened.verify(sample, progress)
        show_verified(opened.name, wrong, as_json=as_json)
    if wrong:
        raise typer.Exit(1)


@bank_app.command("drop-corpus", epilog="Example: latentbank bank drop-corpus SmolLM2-135M captions")
def bank_drop_corpus(
    bank: Annotated[str, typer.Argument()], corpus: Annotated[str, typer.Argument()]
) -> None:
    """Remove one corpus from a bank."""
    from bank.bank import open_bank

    settings = _Common.settings()
    with open_bank(bank, settings) as opened:
        held = opened.drop_corpus(corpus)
    shutil.rmtree(_plan_folder(settings, bank, corpus), ignore_errors=True)
    typer.echo(f"Dropped '{corpus}' from '{bank}': {held:,} contexts in each layer.")


@bank_app.command("delete", epilog="Example: latentbank bank delete SmolLM2-135M --yes")
def bank_delete(
    bank: Annotated[str, typer.Argument()],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a bank with everything in it."""
    from bank.bank import delete_bank

    if not yes:
        typer.confirm(f"Delete bank '{bank}' with all its layers?", abort=True)
    settings = _Common.settings()
    delete_bank(bank, settings)
    shutil.rmtree(_plan_folder(settings, bank, ""), ignore_errors=True)
    typer.echo(f"Deleted '{bank}'.")


@query_app.command(
    "text", epilog="Example: latentbank query text 'The dog chased a cat.' --token dog --top-k 3"
)
def query_text(
    sentence: Annotated[str, typer.Argument()],
    bank: BankOption = None,
    model: ModelOption = None,
    token: Annotated[str | None, typer.Option(help="Read only this word or token.")] = None,
    layer: Annotated[
        str | None, typer.Option("--layer", help="Layers the sentence is read at, such as 8,12.")
    ] = None,
    bank_layers: Annotated[str, typer.Option(help="mid, all, or numbers such as 8,12.")] = "mid",
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Neighbors per token.")] = 5,
    where: Annotated[
        list[str] | None, typer.Option(help="Filter, such as word=dog|cat or corpus!=news; all must hold.")
    ] = None,
    unique: Annotated[str | None, typer.Option(help="One neighbor per context or per word.")] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare with every context in full precision.")
    ] = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read the tokens of a sentence against a bank."""
    from bank.bank import open_bank
    from bank.where import parse_where
    from latentbank_show import show_reading
    from query.reading import read_text

    settings = _Common.settings()
    chosen = _numbers(layer)
    condition = parse_where(where or [])
    with open_bank(_only_bank(bank, settings), settings) as opened:
        deepest = chosen or opened.layers
        llm = _load(
            model or opened.manifest.model,
            deepest,
            device,
            dtype,
            revision or (None if model else opened.manifest.revision),
            trust_remote_code,
        )
        reading = read_text(
            opened,
            llm,
            sentence,
            chosen,
            token=token,
            bank_layers=_bank_layers(bank_layers),
            top_k=top_k,
            where=condition,
            unique=cast("Any", unique),
            exact=exact,
        )
    show_reading(reading, as_json=as_json)


def default_layers(num_layers: int) -> list[int]:
    """Give the layers of a new bank when none are named: four, evenly spaced up to the middle of the LLM."""
    return sorted({max(1, round(num_layers * eighth / 8)) for eighth in (1, 2, 3, 4)})


def _corpus(
    sources: list[str] | None,
    name: str | None,
    column: str | None,
    config: str | None,
    split: str | None,
    revision: str | None,
    limit: int | None,
) -> Any:
    from ingest.corpus import open_corpus

    if not sources:
        raise LatentBankError("Name a corpus: files, a hub dataset, or - for standard input.")
    stem = Path(sources[0]).name.split(".")[0]
    if name is None and stem in ("", "-"):
        raise LatentBankError("Give the corpus a name with --name.")
    return open_corpus(
        name or stem, sources, column=column, config=config, split=split, revision=revision, limit=limit
    )


def _load(
    name: str | None,
    layers: list[int] | None,
    device: str | None,
    dtype: str | None,
    revision: str | None,
    trust_remote_code: bool,
) -> LanguageModel:
    if name is None:
        raise LatentBankError("Name the LLM with --model: a hub id, a folder or a .gguf file.")
    from transformers.utils import logging

    from models.language import load_language_model

    if name.endswith(".gguf") and Path(name).is_file():
        print(f"unpacking {name}, up to a minute ...", file=sys.stderr)
    if not sys.stderr.isatty():
        # transformers draws its bar into pipes and files too. Its function has no types.
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return load_language_model(
        name,
        device=device,
        dtype=dtype,
        revision=revision,
        deepest_layer=max(layers) if layers else lambda count: max(default_layers(count)),
        trust_remote_code=trust_remote_code,
    )


def _known(bank: str | None, model: str | None, settings: Settings) -> Manifest | None:
    """Give the manifest of the bank that an ingestion means, if it is there already.

    That is the one named, else the one called like the model, else, without a model, the only one.
    """
    from bank.bank import list_banks, open_bank

    banks = list_banks(settings)
    name = bank or settings.bank or (_bank_name(model) if model else banks[0] if len(banks) == 1 else None)
    if name not in banks:
        return None
    with open_bank(name, settings) as opened:
        return opened.manifest


def _only_bank(bank: str | None, settings: Settings) -> str:
    from bank.bank import list_banks

    if bank or settings.bank:
        return bank or settings.bank
    banks = list_banks(settings)
    if len(banks) == 1:
        return banks[0]
    found = (
        f"there are {', '.join(banks)}" if banks else "there is none yet: `latentbank ingest run` makes one"
    )
    raise LatentBankError(f"Name a bank; {found}.")


def _bank_name(model: str) -> str:
    return Path(model).name.removesuffix(".gguf").replace("--", "-")


def _plan_folder(settings: Settings, bank: str, corpus: str) -> Path:
    return settings.data_dir / ".plans" / bank / corpus  # no bank's name begins with a dot


def _bank_layers(text: str) -> BankLayers:
    return cast("BankLayers", text) if text in ("mid", "all") else _numbers(text) or []


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise LatentBankError(
            f"'{text}' names no layers; write numbers with commas, such as 4,8,12."
        ) from None


def main() -> None:
    """Run the command line: one line and exit code 2 for what the user can mend."""
    try:
        app()
    except LatentBankError as error:
        if _Common.debug:
            traceback.print_exc()
        print(f"latentbank: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as done:
        if done.code == 130:  # typer's way of saying Ctrl-C
            print(
                "latentbank: stopped; what was stored is safe, the same command continues.", file=sys.stderr
            )
        raise


if __name__ == "__main__":
    main()
