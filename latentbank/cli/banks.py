"""Commands that look after banks: `bank list`, `info`, `verify`, `use`, `drop-corpus`, `delete`, `token`."""

from __future__ import annotations

import shutil
from typing import Annotated

import typer

from latentbank.cli.options import Common, JsonOption, numbers, only_bank, writer_settings
from latentbank.errors import LatentBankError
from latentbank.ingest.defaults import plan_folder


def bank_list(as_json: JsonOption = False) -> None:
    """List the banks and their versions."""
    from latentbank.bank.opening import list_versions
    from latentbank.cli.output.tables import show_banks

    settings = Common.settings()
    show_banks(list_versions(settings), settings.url or str(settings.data_dir), as_json=as_json)


def bank_info(bank: Annotated[str | None, typer.Argument()] = None, as_json: JsonOption = False) -> None:
    """Show what a bank is and holds."""
    from latentbank.bank.opening import bank_versions, open_bank
    from latentbank.cli.output.tables import show_info

    settings = Common.settings()
    with open_bank(only_bank(bank, settings), settings) as opened:
        show_info(opened.info(), opened.version, bank_versions(opened.name, settings), as_json=as_json)


def bank_verify(
    bank: Annotated[str | None, typer.Argument()] = None,
    sample: Annotated[int, typer.Option(help="Vectors of each layer whose length is checked.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Check a bank: counts, equal contexts in all layers, sound vectors. Exits 1 if something is wrong."""
    from latentbank.bank.opening import open_bank
    from latentbank.cli.output.tables import show_verified
    from latentbank.progress import shown

    settings = Common.settings()
    with open_bank(only_bank(bank, settings), settings) as opened:
        with shown("comparing", "contexts") as progress:
            wrong = opened.verify(sample, progress)
        show_verified(opened.name, wrong, as_json=as_json)
    if wrong:
        raise typer.Exit(1)


def bank_use(
    version: Annotated[
        str, typer.Argument(metavar="BANK@N", help="A version of a bank, such as SmolLM2-135M@2.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Let a bank's plain name mean one of its versions, for all layers and readers at once."""
    from latentbank.bank.opening import bank_versions, use_bank
    from latentbank.cli.output.tables import show_use

    settings = writer_settings()
    before = use_bank(version, settings)
    show_use(bank_versions(version, settings), before, as_json=as_json)


def bank_drop_corpus(
    bank: Annotated[str, typer.Argument()], corpus: Annotated[str, typer.Argument()]
) -> None:
    """Remove one corpus from a bank."""
    from latentbank.bank.opening import open_bank

    settings = writer_settings()
    with open_bank(bank, settings) as opened:
        held = opened.drop_corpus(corpus)
    shutil.rmtree(plan_folder(settings, bank, corpus), ignore_errors=True)
    typer.echo(f"Dropped '{corpus}' from '{bank}': {held:,} contexts in each layer.")


def bank_delete(
    bank: Annotated[str, typer.Argument()],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a bank, or one of its versions (such as SmolLM2-135M@1) that is not in use, with everything in it."""
    from latentbank.bank.opening import check_deletion, delete_bank

    settings = writer_settings()
    if not yes:
        check_deletion(bank, settings)  # before the question
        typer.confirm(f"Delete bank '{bank}' with all its layers?", abort=True)
    delete_bank(bank, settings)
    shutil.rmtree(plan_folder(settings, bank, ""), ignore_errors=True)
    typer.echo(f"Deleted '{bank}'.")


def bank_token(
    banks: Annotated[str, typer.Option(help="The banks it opens, with commas.")],
    layers: Annotated[str, typer.Option(help="Their layers, such as 4,8,12,16 (`bank info` shows them).")],
    expires: Annotated[str, typer.Option(help="When it ends, from now: 12h, 30d, 8w.")],
    versions: Annotated[
        str | None,
        typer.Option(help="Versions that it opens of banks that are named plainly; by default 1 to 5."),
    ] = None,
    read: Annotated[bool, typer.Option("--read", help="It allows reading; there are no others.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a key that reads some banks on a server and nothing else, signed here with the admin key."""
    from latentbank.bank.opening import check_name
    from latentbank.bank.token import VERSIONS, expiry, read_token
    from latentbank.cli.output.tables import show_token

    names, chosen, until = [name.strip() for name in banks.split(",")], numbers(layers) or [], expiry(expires)
    opened = list(VERSIONS) if versions is None else _version_numbers(versions)
    for name in names:
        check_name(name)
    if not read:
        raise LatentBankError("Say what the token allows: --read; whoever writes needs the admin key itself.")
    key = Common.settings().key()
    if key is None:
        raise LatentBankError(
            "Tokens are signed with the server's admin key; set LATENTBANK_API_KEY or LATENTBANK_API_KEY_FILE."
        )
    made = read_token(key, names, chosen, until, opened)
    show_token(made, names, chosen, opened, until, as_json=as_json)


def _version_numbers(text: str) -> list[int]:
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or found[0] < 1:
        raise LatentBankError(f"'{text}' names no versions; write numbers from 1 with commas, such as 1,2,3.")
    return found
