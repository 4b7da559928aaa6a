"""Pushing a projector to the hub, as a model repository with a card, and loading one from there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentbank.errors import ModelError
from latentbank.files import existing
from latentbank.hub import (
    CARD,
    Listing,
    Pushed,
    fetch_files,
    list_files,
    prepare_push,
    push_files,
    repository_of,
)
from latentbank.hub_cards import PAPER, Card, table
from latentbank.models.composite.projector import load_projector
from latentbank.progress import Progress
from latentbank.text import listed

FILE = "projector.safetensors"
"""Name of a projector's file in a repository."""
# What lies beside it: its card as JSON, and the measured means of its visual tokens.
_BESIDE = (".json", ".means.safetensors")
# What the hub, and its readers, put into a repository.
_OTHERS = (".gitattributes", CARD)


def prepare_projector(repository: str, *, public: bool = False) -> Listing:
    """Make a model repository for a projector, private unless `public`, or return what an existing one holds.

    Args:
        repository: "USER/NAME".
        public: whether everybody may read it.

    Raises:
        LatentBankError: nobody is logged in, the login may not write there, or it holds something else.
    """
    return prepare_push(repository, "model", public=public, holds=FILE)


def push_projector(
    file: str | os.PathLike[str], listing: Listing, progress: Progress | None = None
) -> Pushed:
    """Push a projector's file, and what lies beside it: its card, measured means, and an LLM that was trained with it.

    `load_visual_model("USER/NAME/projector.safetensors")` loads it from there.

    Args:
        file: the projector's file.
        listing: what `prepare_projector` has returned.
        progress: counts the MiB sent.

    Raises:
        ModelError: the file is no projector.
        LatentBankError: the hub cannot be reached.
    """
    file = Path(file)
    card = load_projector(file)[1]
    files = {FILE: file}
    for ending in _BESIDE:
        if (path := file.with_suffix(ending)).is_file():
            files[str(Path(FILE).with_suffix(ending))] = path
    llm = card.get("llm") or {}
    if "trained_from" in llm:
        folder = file.parent / llm["name"]
        files |= {
            f"{llm['name']}/{path.relative_to(folder).as_posix()}": path
            for path in folder.rglob("*")
            if path.is_file()
        }
    return push_files(listing, files, _card(listing.repository.id, card), progress)


def found_projector(path: str) -> str:
    """Return the path of a projector's file, downloaded if it names one on the hub.

    Args:
        path: a path, or USER/NAME/projector.safetensors or USER/NAME@REVISION/projector.safetensors on the hub.

    Raises:
        ModelError: the repository has no projector.
        LatentBankError: there is no such repository or revision, or the hub cannot be reached.
    """
    head, _, name = path.rpartition("/")
    repository = repository_of(head, "model")
    if existing(path) or name != FILE or repository is None:
        return path
    listing = list_files(repository)
    there = [name for name in listing.sizes if name not in _OTHERS]
    if FILE not in there:
        raise ModelError(
            f"{repository} on the hub holds no {FILE}: name a repository that one was pushed to."
        )
    return str(fetch_files(listing, there) / FILE)


def _card(repository: str, card: Mapping[str, Any]) -> Card:
    """Return the card of a repository from a projector's own card."""
    parts = {"vision encoder": card.get("encoder") or {}, "language model": card.get("llm") or {}}
    shape = card["projector"]
    bases = [part["name"] for part in parts.values() if "name" in part and not part.get("local")]
    training = card.get("training") or {}
    facts = {
        **{what: _linked(part) for what, part in parts.items()},
        "projector": f"{shape['kind']}, {shape['features']} features to {shape['hidden_size']} dimensions",
        **({"trained on": listed(entry["name"] for entry in card["data"])} if card.get("data") else {}),
        **({"steps": f"{training['steps']:,}"} if "steps" in training else {}),
        **(
            {"validation loss": f"{training['validation_loss']:.3f} nats a token"}
            if training.get("validation_loss") is not None
            else {}
        ),
    }
    text = [
        "A projector between a frozen vision encoder and a language model: together they are a small vision-language "
        "model whose visual tokens can be read.",
        table(facts),
        "## Use it",
        f'```python\nimport latentbank as lb\n\nvlm = lb.load_visual_model("{repository}/{FILE}")\n```',
        "`projector.json` says how it was trained.",
        "## Paper",
        PAPER,
    ]
    metadata = {
        "library_name": "latentbank",
        "tags": ["latentbank", "latentlens", "interpretability", "projector"],
        "pipeline_tag": "image-text-to-text",
        "base_model": bases or None,
    }
    title = " + ".join([*(part.get("name", "?") for part in parts.values())])
    return Card(f"Projector for {title}", metadata, "\n\n".join(text))


def _linked(part: Mapping[str, Any]) -> str:
    name = part.get("name", "?")
    return f"{name} (local)" if part.get("local") else f"[{name}](https://huggingface.co/{name})"
