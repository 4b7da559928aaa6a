"""`latentbank bank`: list, info, verify, index, use, upgrade, token, replicate, drop; `bank_move` has the others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.cli.grouping import command
from latentbank.cli.options.banks import only_bank, place
from latentbank.cli.options.common import GlobalOptions, JsonOption, numbers
from latentbank.errors import BankUnavailable, LatentBankError, QueryError
from latentbank.ingest.defaults import plan_folder
from latentbank.text import count_text, layer_numbers

if TYPE_CHECKING:
    from latentbank.bank.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Manage banks.")


@command(app, "list", example="bank list")
def bank_list(ctx: typer.Context, *, as_json: JsonOption = False) -> None:
    """List the banks and their versions."""
    from latentbank.bank.images.opening import list_all_images
    from latentbank.bank.opening import list_versions
    from latentbank.cli.output.banks import show_banks

    settings = GlobalOptions.of(ctx).settings()
    banks = list_versions(settings)
    images = list_all_images(settings)
    show_banks(banks, images, place(settings), as_json=as_json)


@command(app, "info", example="bank info SmolLM2-135M")
def bank_info(
    ctx: typer.Context,
    *,
    bank: Annotated[str | None, typer.Argument()] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a bank is and holds."""
    from latentbank.bank.images.opening import list_images
    from latentbank.bank.opening import bank_versions, open_bank
    from latentbank.cli.output.banks import show_info

    settings = GlobalOptions.of(ctx).settings()
    with open_bank(only_bank(bank, settings), settings) as opened:
        versions, images = bank_versions(opened.name, settings), list_images(opened.name, settings)
        show_info(opened.info(), opened.version, versions, images, as_json=as_json)


@command(app, "verify", example="bank verify SmolLM2-135M")
def bank_verify(
    ctx: typer.Context,
    *,
    bank: Annotated[str | None, typer.Argument()] = None,
    sample: Annotated[int, typer.Option(min=0, help="Vectors of each layer whose length is checked.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Check a bank and its images: counts, equal contexts in all layers, sound vectors. Exits 1 if it is wrong."""
    from latentbank.bank.images.opening import verify_images
    from latentbank.bank.opening import open_bank
    from latentbank.cli.output.banks import show_verified
    from latentbank.progress import shown

    settings = GlobalOptions.of(ctx).settings()
    with open_bank(only_bank(bank, settings), settings) as opened:
        with shown("comparing", "contexts") as progress:
            wrong = opened.verify(sample, progress)
            wrong += verify_images(opened.name, settings, sample, progress)
        show_verified(opened.name, wrong, as_json=as_json)
    if wrong:
        raise typer.Exit(1)


@command(app, "index", example="bank index SmolLM2-135M")
def bank_index(
    ctx: typer.Context,
    *,
    bank: Annotated[str | None, typer.Argument()] = None,
    as_json: JsonOption = False,
) -> None:
    """Index what a killed job has left unindexed (`bank verify` finds it), also of images."""
    from latentbank.bank.images.opening import open_collections, stored_images
    from latentbank.bank.opening import open_bank
    from latentbank.bank.upkeep import index_waiting
    from latentbank.bank.versions import split_name
    from latentbank.cli.output.banks import show_indexed
    from latentbank.progress import shown

    settings = GlobalOptions.of(ctx).writer_settings()
    with open_bank(only_bank(bank, settings), settings) as opened, shown("indexing", "layers") as progress:
        layers = index_waiting(opened, progress)
        for stored in stored_images(split_name(opened.name)[0], settings):
            with open_collections(stored, settings) as images:
                index_waiting(images, progress)
    show_indexed(opened.name, layers, as_json=as_json)


@command(app, "use", example="bank use SmolLM2-135M@2")
def bank_use(
    ctx: typer.Context,
    *,
    version: Annotated[
        str, typer.Argument(metavar="BANK@N", help="A version of a bank, such as SmolLM2-135M@2.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Make a bank's plain name mean one of its versions, for all layers and readers at once."""
    from latentbank.bank.opening import bank_versions, use_bank
    from latentbank.cli.output.banks import show_use

    settings = GlobalOptions.of(ctx).writer_settings()
    before = use_bank(version, settings)
    show_use(bank_versions(version, settings), before, as_json=as_json)


@command(app, "drop-corpus", example="bank drop-corpus SmolLM2-135M captions")
def bank_drop_corpus(
    ctx: typer.Context,
    *,
    bank: Annotated[str, typer.Argument()],
    corpus: Annotated[str, typer.Argument()],
) -> None:
    """Remove one corpus from a bank."""
    from latentbank.bank.opening import open_bank
    from latentbank.ingest.plan_files import remove_plans

    settings = GlobalOptions.of(ctx).writer_settings()
    with open_bank(bank, settings) as opened:
        dropped = opened.drop_corpus(corpus)
    remove_plans(plan_folder(settings, bank, corpus))
    typer.echo(f"Dropped '{corpus}' from '{bank}': {count_text(dropped, 'context')} in each layer.")


@command(app, "delete", example="bank delete SmolLM2-135M --yes")
def bank_delete(
    ctx: typer.Context,
    *,
    bank: Annotated[str, typer.Argument()],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a bank with its images, or one of its versions (such as SmolLM2-135M@1) that is not in use."""
    from latentbank.bank.opening import check_deletion, delete_bank
    from latentbank.ingest.plan_files import remove_plans

    settings = GlobalOptions.of(ctx).writer_settings()
    if not yes:
        check_deletion(bank, settings)  # checked before the user is asked
        confirm(f"Delete bank '{bank}' with all its layers{_and_images(bank, settings)}?")
    delete_bank(bank, settings)
    remove_plans(plan_folder(settings, bank, ""))
    typer.echo(f"Deleted '{bank}'.")


@command(app, "upgrade", example="--url https://qdrant.example.org:6333 bank upgrade SmolLM2-135M")
def bank_upgrade(
    ctx: typer.Context,
    *,
    bank: Annotated[str, typer.Argument()],
    finish: Annotated[
        bool, typer.Option("--finish", help="Remove the old manifest, once everybody has a new token.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Give a server's bank of an earlier version a ledger of its own. Run again, it continues where it stopped."""
    from latentbank.bank.upgrade import upgrade_bank
    from latentbank.cli.output.banks import show_upgrade

    show_upgrade(upgrade_bank(bank, GlobalOptions.of(ctx).writer_settings(), finish=finish), as_json=as_json)


@command(app, "token", example="bank token --read --expires 30d --banks SmolLM2-135M --layers 4,8,12,16")
def bank_token(
    ctx: typer.Context,
    *,
    banks: Annotated[str, typer.Option(help="Banks that the key opens, with commas.")],
    layers: Annotated[str, typer.Option(help="Their layers, such as 4,8,12,16 (`bank info` shows them).")],
    expires: Annotated[str, typer.Option(help="When the key expires, from now: 12h, 30d, 8w.")],
    versions: Annotated[
        str | None,
        typer.Option(help="Versions that the key opens of banks named without a version; by default 1 to 5."),
    ] = None,
    read: Annotated[
        bool, typer.Option("--read", help="Allow reading; there is no other permission.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Create a key that can only read some banks on a server, signed here with the admin key."""
    from latentbank.bank.opening import check_name
    from latentbank.bank.token import VERSIONS, expiry, read_token
    from latentbank.cli.output.banks import show_token

    names = list(dict.fromkeys(name.strip() for name in banks.split(",")))
    chosen, until = numbers(layers) or [], expiry(expires)
    opened = list(VERSIONS) if versions is None else _version_numbers(versions)
    for name in names:
        check_name(name)
    if not read:
        raise LatentBankError("Say what the token allows: --read. Writers need the admin key itself.")
    key = GlobalOptions.of(ctx).settings().key()
    if key is None:
        raise LatentBankError(
            "Tokens are signed with the server's admin key; set LATENTBANK_API_KEY or LATENTBANK_API_KEY_FILE."
        )
    images = _images_of(names, GlobalOptions.of(ctx).settings())
    made = read_token(key, names, chosen, until, opened, images)
    show_token(made, names, chosen, opened, until, list(images), as_json=as_json)


@command(app, "replicate", example="bank replicate SmolLM2-135M --copies 2")
def bank_replicate(
    ctx: typer.Context,
    *,
    banks: Annotated[
        list[str] | None, typer.Argument(metavar="[BANK]...", help="By default every version of every bank.")
    ] = None,
    copies: Annotated[
        int | None,
        typer.Option(
            min=1, help="Copies of each shard, at least; by default as many as the bank was made with."
        ),
    ] = None,
    leaving: Annotated[
        str | None,
        typer.Option(
            metavar="NODE", help="Move everything away from this node: its host's name, or its number."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a bank's shards to the nodes of a cluster, evenly. Run again, it continues where it stopped."""
    from latentbank.bank.replication import replicate_banks
    from latentbank.cli.output.banks import show_replicated
    from latentbank.progress import shown

    settings = GlobalOptions.of(ctx).writer_settings()
    with shown("copying and removing", "copies of shards") as progress:
        done = replicate_banks(banks or (), settings, copies, leaving, progress)
    show_replicated(done, leaving, as_json=as_json)


def _and_images(bank: str, settings: Settings) -> str:
    """Return a clause of what a bank holds of images that goes with it; "" if it is nothing."""
    from latentbank.bank.images.opening import list_images
    from latentbank.bank.versions import split_name

    found = list_images(bank, settings) if split_name(bank)[1] is None else []
    count = sum(entry.sentences for images in found for entry in images.corpora.values())
    return f" and the visual tokens of {count_text(count, 'image')}" if found else ""


def _images_of(banks: Sequence[str], settings: Settings) -> dict[str, Sequence[int]]:
    """Return the visual layers of banks' images on the server, by the names that these are stored under."""
    from latentbank.bank.images.opening import list_images
    from latentbank.bank.store.backends import backend

    if not backend(settings).shared:
        return {}
    try:
        return {images.bank: images.layers for bank in banks for images in list_images(bank, settings)}
    except BankUnavailable as error:
        print(
            f"warning: the key opens no images, as the server cannot be asked for them: {error}",
            file=sys.stderr,
        )
        return {}


def confirm(question: str) -> None:
    """Ask a question; ends the command unless the answer is yes.

    Raises:
        LatentBankError: there is nobody to answer.
    """
    try:
        yes = typer.confirm(question, err=True)
    except typer.Abort:
        print(file=sys.stderr)
        raise LatentBankError("There was no answer, so nothing was deleted; give --yes for yes.") from None
    if not yes:
        raise typer.Abort


def _version_numbers(text: str) -> list[int]:
    with suppress(QueryError):
        found = layer_numbers(text)
        if found[0] >= 1:
            return found
    raise LatentBankError(
        f"'{text}' is not a list of versions; write numbers from 1 with commas, such as 1,2,3."
    )
