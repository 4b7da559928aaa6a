"""LoRA adapters: changes to a model's weights, in a folder of their own, added to the weights when it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel

from latentbank.errors import ModelError
from latentbank.text import is_hub_id

CONFIG = "adapter_config.json"


def check_adapter(adapter: str) -> str:
    """Return an adapter's absolute folder, or its hub id.

    Raises:
        ModelError: there is no adapter.
    """
    path = Path(adapter).expanduser()
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise ModelError(
                f"The directory {adapter} holds no {CONFIG}, so there is no adapter in it.",
                argument="adapter",
            )
        return str(path.resolve())
    if path.exists() or not is_hub_id(adapter, owner=True):
        raise ModelError(
            f"There is no adapter at {adapter}: give the directory that PEFT saved, or a hub id.",
            argument="adapter",
        )
    return adapter


def base_of(directory: Path) -> str | None:
    """Return the model that the adapter in a directory belongs to, as its configuration names it."""
    try:
        named = json.loads((directory / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
    return named if isinstance(named, str) and named else None


def merge_adapter(model: PreTrainedModel, adapter: str, name: str) -> PreTrainedModel:
    """Return a model with an adapter's changes added to its weights.

    Blocks of the adapter that the model does not hold, because it was cut, are left out.

    Args:
        model: the class that the adapter was trained for: a causal LLM, or a vision-language model.
        adapter: a folder or hub id.
        name: the model's name, for the message.

    Raises:
        ModelError: the adapter has nothing for a part that it says it changes.
    """
    from peft import PeftModel, set_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    wrapped = cast(Any, PeftModel).from_pretrained(model, adapter)
    # Loaded once more, because loading only warns of what the adapter lacks.
    result: Any = set_peft_model_state_dict(wrapped, load_peft_weights(adapter, device="cpu"))
    if lacking := [key for key in result.missing_keys if "lora_" in key or "modules_to_save" in key]:
        raise ModelError(
            f"The adapter {adapter} does not belong to {name}: it has no weights for {lacking[0]}.",
            argument="adapter",
        )
    return cast(PreTrainedModel, wrapped.merge_and_unload())
