"""Commands of `latentbank bank` that move banks: export, import, pull, push."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.cli.bank import app
from latentbank.cli.grouping import command
from latentbank.cli.options.banks import SampleOption, place
from latentbank.cli.options.common import GlobalOptions, JsonOption, bank_layers_of
from latentbank.cli.options.hub import LicenseOption, PushOptions
from latentbank.errors import LatentBankError

if TYPE_CHECKING:
    from latentbank.bank.layers import BankLayers
    from latentbank.bank.settings import Settings
    from latentbank.bank.transfer.snapshots import Way


ImagesOption = Annotated[
    bool,
    typer.Option(
        "--images/--no-images", help="Also what the bank holds of images, with their small pictures."
    ),
]


@command(
    app,
    "export",
    example="bank export SmolLM2-135M export",
    first="bank directory push public license",
)
def bank_export(
    ctx: typer.Context,
    *,
    bank: Annotated[str, typer.Argument()],
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]",
            help="Folder to write, or to continue in; with --push by default one that is removed.",
        ),
    ] = None,
    push: PushOptions,
    license: LicenseOption = None,
    images: ImagesOption = True,
    as_json: JsonOption = False,
) -> None:
    """Write a bank as safetensors and Parquet files, or push them to the hub. Run again, it continues.

    Images go into a folder of the export, but never to the hub.
    """
    from latentbank.bank.opening import open_bank
    from latentbank.bank.transfer.export import export_bank
    from latentbank.bank.transfer.images import export_images
    from latentbank.bank.transfer.push import push_bank
    from latentbank.cli.output.moves import show_export
    from latentbank.progress import shown

    settings = GlobalOptions.of(ctx).settings()
    pushed, held = None, []
    with open_bank(bank, settings) as opened, shown("exporting", "contexts") as progress:
        if push.push is not None:
            report, pushed = push_bank(
                opened,
                push.push,
                directory,
                public=push.public,
                licenses=license or (),
                data_dir=settings.data_dir,
                progress=progress,
            )
        elif license:
            raise LatentBankError("A licence stands in what is pushed; name a repository.", argument="push")
        elif directory is None:
            raise LatentBankError("Name a folder to export to, or a repository on the hub.", argument="push")
        else:
            report = export_bank(opened, directory, progress)
            held = export_images(bank, settings, directory, progress) if images else []
    show_export(report, pushed, held, as_json=as_json)


@command(app, "import", example="bank import export --name SmolLM2-135M", first="source layers name sample")
def bank_import(
    ctx: typer.Context,
    *,
    source: Annotated[
        str,
        typer.Argument(
            metavar="DIR|USER/NAME[@REVISION]",
            help="Folder or repository on the hub that `bank export` wrote.",
        ),
    ],
    layers: Annotated[
        str | None, typer.Option("--layers", help="Only these layers, such as 8,12; by default all.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Name of the bank; by default the exported one's.")
    ] = None,
    sample: SampleOption = 1000,
    images: ImagesOption = True,
    as_json: JsonOption = False,
) -> None:
    """Read an export into a bank, and verify it. Run again, it continues where it stopped."""
    from latentbank.bank.transfer.images import import_images
    from latentbank.bank.transfer.load import import_bank
    from latentbank.cli.output.moves import show_moves
    from latentbank.progress import shown

    settings = GlobalOptions.of(ctx).writer_settings()
    chosen: BankLayers = bank_layers_of(layers or "all")
    with shown("importing", "contexts") as progress:
        report = import_bank(source, settings, name, progress, sample, chosen)
        held = import_images(source, settings, report.bank, progress, sample) if images else []
    show_moves(report, held, place(settings), as_json=as_json)
    if report.wrong or any(one.wrong for one in held):
        raise typer.Exit(1)


@dataclass(frozen=True, kw_only=True)
class CopyOptions:
    """What is copied between a server and an embedded bank."""

    bank: Annotated[str, typer.Argument()]
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="Folder of embedded banks; by default LATENTBANK_DATA_DIR."),
    ] = None
    layers: Annotated[
        str | None, typer.Option("--layers", help="Only these layers, such as 8,12; by default all.")
    ] = None
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            "--corpus",
            help="Only this corpus (can be repeated), and no images; by default all complete ones.",
        ),
    ] = None
    sample: SampleOption = 1000
    images: ImagesOption = True
    as_json: JsonOption = False

    def sides(self, settings: Settings) -> tuple[Settings, Settings]:
        """Return the settings of the server and of the embedded banks.

        Raises:
            LatentBankError: no server is named.
        """
        from latentbank.bank.store.backends import backend

        if not backend(settings).shared:
            raise LatentBankError("Name the server with --url before the command, or LATENTBANK_URL.")
        folder = settings.data_dir if self.directory is None else self.directory.expanduser()
        return settings, settings.model_copy(update={"url": "", "data_dir": folder})

    def copy(self, source: Settings, target: Settings, by: Way | None = None) -> None:
        """Copy the bank, compare both sides and print the report; exits 1 if they differ."""
        from latentbank.bank.opening import open_bank
        from latentbank.bank.transfer.copy import copy_bank
        from latentbank.bank.transfer.images import copy_images
        from latentbank.cli.output.moves import show_moves
        from latentbank.progress import shown

        layers: BankLayers = bank_layers_of(self.layers or "all")
        with open_bank(self.bank, source) as opened, shown("copying", "contexts") as progress:
            report = copy_bank(opened, target, layers, self.corpus, progress, self.sample, by)
            wanted = self.images and not self.corpus
            held = copy_images(self.bank, source, target, progress, self.sample, by) if wanted else []
        show_moves(report, held, place(target), as_json=self.as_json)
        if report.wrong or any(one.wrong for one in held):
            raise typer.Exit(1)


@command(
    app,
    "pull",
    example="--url https://qdrant.example.org:6333 bank pull SmolLM2-135M",
    first="bank directory layers corpus by",
)
def bank_pull(
    ctx: typer.Context,
    *,
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            help="snapshot or scroll; by default snapshots, where both sides allow them and they are faster.",
        ),
    ] = None,
    options: CopyOptions,
) -> None:
    """Copy a server's bank into an embedded one, and compare both. Run again, it continues where it stopped."""
    server, here = options.sides(GlobalOptions.of(ctx).settings())
    options.copy(server, here, _way(by))


@command(app, "push", example="--url https://qdrant.example.org:6333 bank push SmolLM2-135M")
def bank_push(ctx: typer.Context, *, options: CopyOptions) -> None:
    """Copy an embedded bank to the server, and compare both. Run again, it continues where it stopped."""
    server, here = options.sides(GlobalOptions.of(ctx).writer_settings())
    options.copy(here, server)


def _way(by: str | None) -> Way | None:
    if by is None:
        return None
    for way in ("snapshot", "scroll"):
        if by == way:
            return way
    raise LatentBankError(f"Unknown value '{by}' for --by; use snapshot or scroll.")
