"""The card of a trained projector: what it belongs to and how it was trained, without a path of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from latentbank.files import existing
from latentbank.found_models import remember
from latentbank.identity import Identity
from latentbank.models.language.model import LanguageModel
from latentbank.models.training.batches import Sequences
from latentbank.models.training.features import Features
from latentbank.models.training.log import Checkpoint
from latentbank.models.training.pairs import METADATA
from latentbank.models.training.stages import Stage, TrainSettings
from latentbank.text import is_path, public_name


def card_of(
    stages: Sequence[Stage],
    sequences: Sequence[Sequences],
    language: LanguageModel,
    settings: TrainSettings,
    at: Checkpoint,
) -> dict[str, Any]:
    """Return the card of a training that has ended, in values that JSON can hold.

    Args:
        stages: the stages.
        sequences: the sequences of each stage.
        language: the LLM.
        settings: the settings of the training.
        at: its end.
    """
    features = stages[0].features
    validations = [entry for entry in at.history if "validation" in entry]
    losses = [entry for entry in at.history if "loss" in entry]
    return {
        "encoder": {
            **_named(features.encoder),
            "fingerprint": features.fingerprint,
            "features": features.width,
            **features.settings,
        },
        "llm": named(language),
        "data": [
            {
                "name": _without_folder(stage.features.data),
                "rows": len(stage.features),
                "skipped": dict(stage.features.skipped),
                "cut_captions": shown.cut,
                "batch": stage.batch,
                "rate": stage.rate,
            }
            for stage, shown in zip(stages, sequences, strict=True)
        ],
        "training": {
            "identity": at.identity,
            "steps": at.total,
            "seconds": round(at.seconds, 1),
            "seed": settings.seed,
            "dtype": str(language.dtype).removeprefix("torch."),
            "settings": asdict(settings),
            "loss": losses[-1]["loss"] if losses else None,
            "validation_loss": validations[-1]["validation"] if validations else None,
            "samples": validations[-1]["samples"] if validations else [],
        },
    }


def remember_models(features: Features, language: LanguageModel, data_dir: Path) -> None:
    """Record where the encoder and the LLM are on this machine, if they are local.

    Args:
        features: of the encoder.
        language: the LLM.
        data_dir: the folder of embedded banks.
    """
    settings = {key: features.settings[key] for key in sorted(features.settings)}
    parts = (
        (features.encoder, Identity(features.fingerprint), f"encoder {settings}"),
        (language.name, language.identity(), ""),
    )
    for name, identity, part in parts:
        if is_path(name) and existing(name):
            remember(data_dir, name, identity, part)


def named(language: LanguageModel) -> dict[str, Any]:
    """Return the card's entry of an LLM."""
    return {**_named(language.name), **language.identity().to_dict(), "revision": language.revision}


def _named(model: str) -> dict[str, Any]:
    """Return the name of an encoder or LLM, and whether it is local: its path means nothing elsewhere."""
    return {"name": public_name(model), **({"local": True} if is_path(model) else {})}


def _without_folder(data: str) -> str:
    """Return a description of data without the folder that it begins with if the data is local."""
    if not is_path(data):
        return data
    where, mark, rest = data.rpartition(", version ")
    where, rest = (where, mark + rest) if mark else (rest, "")
    *_, folder, last = ("", *where.replace("\\", "/").split("/"))
    return (f"{folder}/{last}" if last.startswith(METADATA) else last) + rest
