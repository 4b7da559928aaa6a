"""Commands that move banks: `bank export`, `import`, `pull`, `push`; `ingest official`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.cli.options import (
    BankOption,
    Common,
    DeviceOption,
    DtypeOption,
    JsonOption,
    LayersOption,
    ModelOption,
    NameOption,
    RevisionOption,
    TrustOption,
    known_bank,
    load_llm,
    numbers,
    writer_settings,
)
from latentbank.errors import LatentBankError

if TYPE_CHECKING:
    from latentbank.bank.settings import Settings
    from latentbank.bank.transfer.snapshots import Way

_SampleOption = Annotated[
    int, typer.Option("--sample", min=0, help="Vectors of each layer that are verified at the end.")
]
_CopyLayersOption = Annotated[
    str | None, typer.Option("--layers", help="Only these layers, such as 8,12; by default all.")
]
_CorporaOption = Annotated[
    list[str] | None,
    typer.Option("--corpus", help="Only this corpus (can be repeated); by default all complete ones."),
]
_FolderArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[DIR]", help="Folder of embedded banks; by default LATENTBANK_DATA_DIR."),
]


_ByOption = Annotated[
    str | None,
    typer.Option(
        "--by",
        help="snapshot or scroll; by default snapshots, where both sides allow them and they are faster.",
    ),
]


def bank_export(
    bank: Annotated[str, typer.Argument()],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write, or to go on with.")],
    as_json: JsonOption = False,
) -> None:
    """Write a bank as safetensors and Parquet files. Run again, it goes on where it stopped."""
    from latentbank.bank.opening import open_bank
    from latentbank.bank.transfer.export import export_bank
    from latentbank.cli.output.tables import show_export
    from latentbank.progress import shown

    settings = Common.settings()
    with open_bank(bank, settings) as opened, shown("exporting", "contexts") as progress:
        report = export_bank(opened, directory, progress)
    show_export(report, as_json=as_json)


def bank_import(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `bank export` wrote.")],
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Name of the bank; by default the exported one's.")
    ] = None,
    sample: _SampleOption = 1000,
    as_json: JsonOption = False,
) -> None:
    """Read an export into a bank, and verify it. Run again, it goes on where it stopped."""
    from latentbank.bank.transfer.load import import_bank
    from latentbank.cli.output.tables import show_move
    from latentbank.progress import shown

    settings = writer_settings()
    with shown("importing", "contexts") as progress:
        report = import_bank(directory, settings, name, progress, sample)
    show_move(report, _place(settings), as_json=as_json)
    if report.wrong:
        raise typer.Exit(1)


def bank_pull(
    bank: Annotated[str, typer.Argument()],
    directory: _FolderArgument = None,
    layers: _CopyLayersOption = None,
    corpus: _CorporaOption = None,
    by: _ByOption = None,
    sample: _SampleOption = 1000,
    as_json: JsonOption = False,
) -> None:
    """Copy a server's bank into an embedded one, and compare both. Run again, it goes on where it stopped."""
    server, here = _both_sides(directory, Common.settings())
    _copy(bank, server, here, layers, corpus, sample, as_json, _way(by))


def bank_push(
    bank: Annotated[str, typer.Argument()],
    directory: _FolderArgument = None,
    layers: _CopyLayersOption = None,
    corpus: _CorporaOption = None,
    sample: _SampleOption = 1000,
    as_json: JsonOption = False,
) -> None:
    """Copy an embedded bank to the server, and compare both. Run again, it goes on where it stopped."""
    server, here = _both_sides(directory, writer_settings())
    _copy(bank, here, server, layers, corpus, sample, as_json)


def ingest_official(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DIR|HUB_ID",
            help="Folder with layer_N/embeddings_cache.pt of latentlens, or a repository of the hub.",
        ),
    ],
    model: ModelOption = None,
    bank: BankOption = None,
    layers: LayersOption = None,
    name: NameOption = None,
    quantization: Annotated[str | None, typer.Option(help="int8, turbo or none; for a new bank.")] = None,
    sample: _SampleOption = 1000,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Import a cache of the reference library, latentlens, as a corpus. Run again, it goes on where it stopped."""
    from latentbank.cli.output.tables import show_official
    from latentbank.ingest.banks import create_bank
    from latentbank.ingest.corpus import Corpus
    from latentbank.ingest.defaults import bank_name
    from latentbank.ingest.latentlens.caches import import_official, official_layers
    from latentbank.ingest.latentlens.hub import fetch_cache
    from latentbank.progress import shown

    settings = writer_settings(quantization=quantization)
    corpus = Corpus(name or Path(source).expanduser().resolve().name, ())
    known = known_bank(bank, model, settings)
    wanted = numbers(layers) or (list(known.layers) if known else None)
    directory = fetch_cache(source, wanted)
    found = official_layers(directory, wanted)
    llm = load_llm(
        model or (known.model if known else None), list(found), device, dtype, revision, trust_remote_code
    )
    with (
        create_bank(
            bank or settings.bank or (known.bank if known else bank_name(llm.name)),
            llm,
            list(found),
            metric=known.metric if known else "cosine",
            settings=settings,
        ) as opened,
        shown("checking", "rows") as progress,
    ):
        report = import_official(opened, llm, directory, corpus.name, progress, sample)
    show_official(report, _place(settings), as_json=as_json)
    if report.move.wrong:
        raise typer.Exit(1)


def _both_sides(directory: Path | None, settings: Settings) -> tuple[Settings, Settings]:
    if not settings.url:
        raise LatentBankError("Name the server with --url before the command, or LATENTBANK_URL.")
    folder = settings.data_dir if directory is None else directory.expanduser()
    return settings, settings.model_copy(update={"url": "", "data_dir": folder})


def _copy(
    bank: str,
    source: Settings,
    target: Settings,
    layers: str | None,
    corpora: list[str] | None,
    sample: int,
    as_json: bool,
    by: Way | None = None,
) -> None:
    from latentbank.bank.opening import open_bank
    from latentbank.bank.transfer.copy import copy_bank
    from latentbank.cli.output.tables import show_move
    from latentbank.progress import shown

    with open_bank(bank, source) as opened, shown("copying", "contexts") as progress:
        report = copy_bank(opened, target, numbers(layers) or "all", corpora, progress, sample, by)
    show_move(report, _place(target), as_json=as_json)
    if report.wrong:
        raise typer.Exit(1)


def _way(by: str | None) -> Way | None:
    if by is None:
        return None
    for way in ("snapshot", "scroll"):
        if by == way:
            return way
    raise LatentBankError(f"'{by}' is no way to copy a bank; write --by snapshot or --by scroll.")


def _place(settings: Settings) -> str:
    return settings.url or str(settings.data_dir)
