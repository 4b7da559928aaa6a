"""Download caches of the reference library, latentlens, as its authors publish them on the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from latentbank.errors import CorpusError
from latentbank.ingest.latentlens.caches import CACHE_FILE
from latentbank.text import first_line, is_hub_id


def fetch_cache(source: str, layers: Sequence[int] | None = None) -> Path:
    """Return the folder of a cache: `source` itself, or where a hub repository's files were downloaded to.

    Only the files of the layers asked for are downloaded. Files that are in the hub's own cache are used, and an
    interrupted download continues.

    Args:
        source: a folder, or the id of a model repository on the hub, such as
            McGill-NLP/contextual_embeddings-llama3.1-8b.
        layers: None: all that there are.

    Raises:
        CorpusError: there is no such repository, or the hub cannot be reached.
    """
    folder = Path(source).expanduser()
    if folder.exists() or not is_hub_id(source, owner=True):
        return folder
    patterns = [f"layer_{layer}/{CACHE_FILE}" for layer in (["*"] if layers is None else layers)]
    try:
        return Path(snapshot_download(source, allow_patterns=patterns))
    except RepositoryNotFoundError:
        raise CorpusError(
            f"{source} is neither a folder here nor a model repository on the hub (or a private one: set HF_TOKEN)."
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CorpusError(
            f"{source} is not a folder here and could not be downloaded from the hub ({first_line(error)[:150]}); call "
            "again to continue."
        ) from None
