"""Hidden states that come as bytes: a safetensors file, or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from latentbank.errors import QueryError
from latentbank.query.states.files import states_of
from latentbank.query.states.states import Part, States, layer_of
from latentbank.text import first_line
from latentbank.values import Layers

_TEXTS = ("model", "fingerprint")


def states_in(
    body: bytes, source: str = "request", layers: Layers | None = None, tensor: str | None = None
) -> States:
    """Read hidden states from the bytes of a safetensors file, or from JSON.

    JSON is an object with `states`: `[tokens, hidden]`, or an object of such arrays by layer. It may have `layer`,
    `labels`, `model` and `fingerprint`.

    Args:
        body: the bytes.
        source: what the states are called.
        layers: as for `load_states`.
        tensor: as for `load_states`.

    Raises:
        QueryError: they are neither, or it is not clear what to read.
        LayerNotFound: they do not have a layer.
    """
    parts, about = _safetensors(body) if _is_safetensors(body) else _json(body)
    return states_of(parts, about, source, layers, tensor)


def _is_safetensors(body: bytes) -> bool:
    """Return whether bytes begin as safetensors do: with the length of a JSON object that follows."""
    return body[8:9] == b"{" and 8 + int.from_bytes(body[:8], "little") <= len(body)


def _safetensors(body: bytes) -> tuple[list[Part], Mapping[str, str]]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(body)
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, RecursionError) as error:
        raise QueryError(f"The body cannot be read as safetensors: {first_line(error)}.") from None
    about = {str(key): str(value) for key, value in header.get("__metadata__", {}).items()}
    return [Part(name, layer_of(name), partial(_alone, tensors[name])) for name in sorted(tensors)], about


def _json(body: bytes) -> tuple[list[Part], Mapping[str, str]]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise QueryError(
            "The body is neither safetensors nor JSON; send a safetensors file, or an object with states."
        ) from None
    if not isinstance(data, dict) or not data.get("states"):
        raise QueryError("The JSON has no states; give an object with states: [tokens, hidden].")
    layer, labels, states = data.get("layer"), data.get("labels"), data["states"]
    if layer is not None and type(layer) is not int:
        raise QueryError("The layer in the JSON is no whole number.")
    about = {key: data[key] for key in _TEXTS if isinstance(data.get(key), str)}
    if layer is not None:
        about["layer"] = str(layer)
    if labels is not None:
        about["labels"] = json.dumps(labels)
    given: dict[str, Any] = states if isinstance(states, dict) else {"states": states}
    return [Part(name, layer_of(name), partial(_alone, rows)) for name, rows in given.items()], about


def _alone(states: Any) -> tuple[Any, None]:
    """Return a tensor, which has no labels of its own."""
    return states, None
