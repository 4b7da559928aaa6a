"""Download caches of the reference library, latentlens, as its authors publish them on the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from latentbank.errors import CorpusError, LayerNotFound
from latentbank.files import existing
from latentbank.hub import fetch_files, list_files, repository_of
from latentbank.ingest.latentlens.caches import CACHE_FILE
from latentbank.progress import Progress
from latentbank.text import listed

_NAME = re.compile(rf"layer_(\d+)/{re.escape(CACHE_FILE)}")


def fetch_cache(source: str, layers: Sequence[int] | None = None, progress: Progress | None = None) -> Path:
    """Return the folder of a cache: `source` itself, or where a hub repository's files were downloaded to.

    Only the files of the layers asked for are downloaded. Files that are in the hub's own cache are used.

    Args:
        source: a folder, or a model repository on the hub, such as McGill-NLP/contextual_embeddings-llama3.1-8b, also
            with a revision, as in USER/NAME@REVISION.
        layers: None: all that there are.
        progress: counts the MiB of files that are there.

    Raises:
        CorpusError: the repository holds no cache.
        LayerNotFound: it lacks one of the layers.
        LatentBankError: there is no such repository or revision, or the hub cannot be reached.
    """
    repository = None if existing(source) else repository_of(source, "model")
    if repository is None:
        return Path(source).expanduser()
    listing = list_files(repository)
    files = {int(found[1]): name for name in sorted(listing.sizes) if (found := _NAME.fullmatch(name))}
    if not files:
        raise CorpusError(
            f"{repository} on the hub holds no cache of latentlens: no layer_N/{CACHE_FILE} is in it."
        )
    if missing := sorted(set(layers or ()) - files.keys()):
        raise LayerNotFound(f"{repository} has no layer {listed(missing)}; it has {listed(sorted(files))}.")
    return fetch_files(listing, [files[layer] for layer in layers or files], progress)
