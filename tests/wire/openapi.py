"""Checks REST bodies against Qdrant's own OpenAPI description, if that file is available."""

import functools
import importlib
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from referencing import Registry
from referencing.jsonschema import DRAFT202012

VARIABLE = "LATENTBANK_QDRANT_OPENAPI"
"""The environment variable that names the description's file."""

_URN = "urn:qdrant-openapi"
_FEW = 4
_BESIDE = Path(__file__).resolve().parents[2].parent / "shared" / "qdrant-openapi.json"


def description_file() -> Path | None:
    """Return the file of Qdrant's OpenAPI description, or None if there is none."""
    return _existing(os.environ.get(VARIABLE) or _BESIDE)


@functools.cache
def _existing(path: str | Path) -> Path | None:
    return Path(path) if Path(path).is_file() else None


def complaint(method: str, template: str, body: Any) -> str | None:
    """Return what is wrong with a request's JSON body by the description, or None.

    `template` is the path with `{collection_name}` in place of a name. Without the file
    nothing is ever wrong.
    """
    path = description_file()
    validator = _validator(path, method.lower(), template) if path else None
    if validator is None:
        return None
    error = next(validator.iter_errors(_trimmed(body)), None)
    return None if error is None else f"{error.json_path}: {_short(error.message)}"


@functools.cache
def _description(path: Path) -> dict[str, Any]:
    description: dict[str, Any] = _honest(json.loads(path.read_text()))
    return description


@functools.cache
def _validator(path: Path, method: str, template: str) -> Any:
    if "requestBody" not in _description(path)["paths"][template][method]:
        return None
    steps = ("paths", template, method, "requestBody", "content", "application/json", "schema")
    pointer = "/".join(step.replace("~", "~0").replace("/", "~1") for step in steps)
    # A reference into one registered document, which is indexed once for all operations.
    # Imported by name because the package has no types of its own.
    jsonschema = importlib.import_module("jsonschema")
    return jsonschema.Draft202012Validator({"$ref": f"{_URN}#/{quote(pointer)}"}, registry=_registry(path))


@functools.cache
def _registry(path: Path) -> Any:
    resource = DRAFT202012.create_resource(_description(path))
    return Registry().with_resource(_URN, resource).crawl()


def _trimmed(body: Any) -> Any:
    """Return the body with long rows of numbers shortened: the description treats them alike, and checking is slow."""
    if isinstance(body, dict):
        return {key: _trimmed(value) for key, value in body.items()}
    if not isinstance(body, list):
        return body
    if len(body) > _FEW and set(map(type, body)) <= {int, float}:
        return body[:_FEW]
    return [_trimmed(item) for item in body]


def _honest(node: Any) -> Any:
    """Return a schema with OpenAPI's `nullable` as JSON Schema, where `{"nullable": true}` would allow anything."""
    if isinstance(node, list):
        return [_honest(item) for item in node]
    if not isinstance(node, dict):
        return node
    schema = {key: _honest(value) for key, value in node.items()}
    if schema.get("nullable") is True:
        del schema["nullable"]
        schema["type"] = [schema["type"], "null"] if "type" in schema else "null"
    return schema


def _short(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[:limit] + "..."
