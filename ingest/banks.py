"""Banks made for a loaded LLM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from latentbank.bank import opening
from latentbank.bank.settings import Metric, Settings, SettingsBesidesMetric, settings_from
from latentbank.errors import BankNotFound
from latentbank.ingest.defaults import default_layers
from latentbank.models.kinds import require_language
from latentbank.text import is_path, public_name
from latentbank.values import Layers

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.models.language.model import LanguageModel


def create_bank(
    name: str,
    model: LanguageModel,
    layers: Layers | None = None,
    *,
    metric: Metric | None = None,
    allow_other_model: bool = False,
    settings: Settings | None = None,
    **settings_given: Unpack[SettingsBesidesMetric],
) -> Bank:
    """Create a bank for the contexts of an LLM, or open it if it exists and was made for this LLM and these layers.

    Args:
        name: 1 to 64 letters, digits, `.`, `_`, `-`; no double hyphen. A version is named as in name@2.
        model: the LLM.
        layers: the bank layers, each from 0 to `model.num_layers`. None: those of the bank if it exists; for a new
            bank four, evenly spaced up to the middle of the LLM.
        metric: "cosine" compares hidden states as they are, "centred" subtracts the mean of their kind first. None:
            the bank's own; for a new bank the settings' (`LATENTBANK_METRIC`, "cosine" by default).
        allow_other_model: use an existing bank of another LLM, too, with a warning. For those who know that its hidden
            states can be compared with the bank's.
        settings: where the bank is; None: read from `settings_given` and the environment.
        settings_given: single settings (`url=…`, `data_dir=…`), instead of `settings`.

    Returns:
        The open bank, a context manager.

    Raises:
        BankMismatch: there is a bank of that name with another LLM, other layers or another metric.
        LayerNotFound: the LLM does not have one of the layers.
        ModelError: the model is a vision-language model, or only a model's name.
        BankUnavailable, BankBusy: the bank cannot be opened.

    Examples:
        >>> import latentbank as lb
        >>> model = lb.load_language_model("HuggingFaceTB/SmolLM2-135M")
        >>> with lb.create_bank("captions", model, layers=[8, 16]) as bank:
        ...     report = lb.fill(bank, "captions.jsonl", model)
    """
    require_language(model)
    settings = settings_from(settings, **settings_given)
    if layers is None:
        layers = _existing_layers(name, settings) or default_layers(model.num_layers)
    return opening.create_bank(
        name,
        settings,
        model=public_name(model.name),
        revision=model.revision,
        fingerprint=model.identity(),
        layers=layers,
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        metric=metric,
        local=is_path(model.name),
        allow_other_model=allow_other_model,
    )


def _existing_layers(name: str, settings: Settings) -> list[int] | None:
    try:
        with opening.open_bank(name, settings) as bank:
            return bank.layers
    except BankNotFound:
        return None
