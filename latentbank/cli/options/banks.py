"""Options that name a bank, and how a command finds the bank it means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.cli.options.common import LayerChoice, LayersOption, layers_for, named_layers
from latentbank.errors import BankMismatch, BankNotFound, LatentBankError
from latentbank.ingest.defaults import bank_name
from latentbank.text import listed

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.manifest import Manifest
    from latentbank.bank.settings import Settings

QuantizationOption = Annotated[str | None, typer.Option(help="int8, turbo or none; for a new bank.")]
MetricOption = Annotated[
    str | None,
    typer.Option(help="cosine or centred (subtracts the mean of each kind of token); for a new bank."),
]
SampleOption = Annotated[
    int, typer.Option("--sample", min=0, help="Vectors of each layer that are verified at the end.")
]


@dataclass(frozen=True, kw_only=True)
class BankOptions:
    """The bank that a command reads."""

    bank: Annotated[
        str | None,
        typer.Option(
            "--bank",
            "-b",
            help="The bank, or a version such as NAME@2; by default LATENTBANK_BANK, else the only one.",
        ),
    ] = None

    @contextmanager
    def opened(self, settings: Settings, *, include_incomplete: bool = False) -> Iterator[Bank]:
        """Open the bank for the duration of the block."""
        with opened_bank(self.bank, settings, include_incomplete=include_incomplete) as bank:
            yield bank


@dataclass(frozen=True, kw_only=True)
class ModelBankOptions(BankOptions):
    """The bank that a command reads with a model."""

    allow_other_model: Annotated[
        bool,
        typer.Option(
            "--allow-other-model",
            help="Only warn if the bank holds contexts of another model; for those who know.",
        ),
    ] = False

    @contextmanager
    def opened(self, settings: Settings, *, include_incomplete: bool = False) -> Iterator[Bank]:
        """Open the bank for the duration of the block."""
        allowed = self.allow_other_model
        with opened_bank(
            self.bank, settings, include_incomplete=include_incomplete, allow_other_model=allowed
        ) as bank:
            yield bank


@dataclass(frozen=True, kw_only=True)
class NewBankOptions(ModelBankOptions):
    """The bank that a command fills, which may be new."""

    bank: Annotated[
        str | None,
        typer.Option(
            "--bank",
            "-b",
            help="The bank, or a version such as NAME@2; by default LATENTBANK_BANK, else the bank named after "
            "--model, and without --model the only one.",
        ),
    ] = None
    layers: LayersOption = None

    def known(self, settings: Settings, model: str | None) -> Manifest | None:
        """Return the manifest of the bank if it exists.

        The bank is the one named, else the one named after the model, else, without a model, the only one.
        """
        from latentbank.bank.opening import list_banks, open_bank

        name = self.bank or settings.bank or (bank_name(model) if model else None)
        if name is None:
            banks = list_banks(settings)
            if len(banks) != 1:
                return None
            (name,) = banks
        try:
            with open_bank(name, settings) as bank:
                return bank.manifest
        except BankNotFound:
            return None

    def own_model(self, settings: Settings, known: Manifest | None, named: str | None) -> str | None:
        """Return what the known bank's model is loaded by on this machine; None if there is none, or one is named.

        Raises:
            BankNotFound: a bank is named that does not exist, and no model that would fill it.
        """
        from latentbank.bank.model import own_model

        name = self.bank or settings.bank
        if known is None and named is None and name:
            raise BankNotFound(
                f"There is no bank '{name}' yet; name an existing one, or the LLM that fills it (--model)."
            )
        return own_model(known, settings) if known and named is None else None

    def name(self, settings: Settings, known: Manifest | None, model: str) -> str:
        """Return the name of the bank: the one given, the known bank's, or the model's."""
        return self.bank or settings.bank or (known.bank if known else bank_name(model))

    def stored_layers(self, known: Manifest | None) -> LayerChoice:
        """Return the layers given, else the known bank's; None: neither. They are numbers if the bank is known."""
        given = named_layers(self.layers)
        if known is None:
            return given
        return layers_for(given, known.num_layers) or list(known.layers)


@contextmanager
def opened_bank(
    bank: str | None,
    settings: Settings,
    *,
    include_incomplete: bool = False,
    allow_other_model: bool = False,
) -> Iterator[Bank]:
    """Open the bank named, the setting's or the only one, for the duration of the block."""
    from latentbank.bank.opening import open_bank

    with open_bank(
        only_bank(bank, settings),
        settings,
        include_incomplete=include_incomplete,
        allow_other_model=allow_other_model,
    ) as opened:
        yield opened


def only_bank(bank: str | None, settings: Settings) -> str:
    """Return the name of the bank that a command means: the one named, the setting's, or the only one.

    Raises:
        LatentBankError: no bank is named and there is not exactly one.
    """
    from latentbank.bank.opening import list_banks

    if bank or settings.bank:
        return bank or settings.bank
    banks = list_banks(settings)
    if len(banks) == 1:
        return banks[0]
    found = (
        f"there are {listed(banks)}" if banks else "there is none yet: `latentbank ingest run` creates one"
    )
    raise LatentBankError(f"Name a bank; {found}.")


def check_quantization(known: Manifest | None, quantization: str | None) -> None:
    """Raise BankMismatch if another quantization is asked for than the bank has."""
    if known and quantization not in (None, known.quantization):
        raise BankMismatch(
            f"The bank '{known.bank}' is quantized as {known.quantization}; leave --quantization out."
        )


def check_metric(known: Manifest | None, metric: str | None) -> None:
    """Raise BankMismatch if another metric is asked for than the bank has."""
    if known and metric not in (None, known.metric):
        raise BankMismatch(
            f"The bank '{known.bank}' was made with metric {known.metric}; leave --metric out or choose another "
            "bank name."
        )


def place(settings: Settings) -> str:
    """Return where the banks are, for messages: a server's URL or a folder."""
    from latentbank.bank.store.backends import backend

    return backend(settings).location
