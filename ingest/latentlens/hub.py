"""Caches of the reference library, latentlens, as its authors publish them: fetched from the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from latentbank.errors import CorpusError
from latentbank.ingest.latentlens.caches import CACHE_FILE

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def fetch_cache(source: str, layers: Sequence[int] | None = None) -> Path:
    """Give the folder of a cache: `source` itself, or where a hub repository's files were put.

    Only the files of the layers asked for are fetched; what is in the hub's own cache already is not fetched again, and
    a download that was cut off goes on.

    Args:
        source: a folder, or the id of a model repository on the hub, such as
            McGill-NLP/contextual_embeddings-llama3.1-8b.
        layers: None: all that there are.

    Raises:
        CorpusError: it is neither, or the hub cannot be reached.
    """
    folder = Path(source).expanduser()
    if folder.exists() or not _HUB_ID.fullmatch(source):
        return folder
    patterns = [f"layer_{layer}/{CACHE_FILE}" for layer in (["*"] if layers is None else layers)]
    try:
        return Path(snapshot_download(source, allow_patterns=patterns))
    except RepositoryNotFoundError:
        raise CorpusError(
            f"{source} is no folder here and no model repository on the hub (or a private one: set HF_TOKEN)."
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:150]
        raise CorpusError(
            f"{source} is no folder here and could not be fetched from the hub ({said}); run the command again "
            "to go on."
        ) from None
