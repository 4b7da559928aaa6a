"""The choice between embedded banks and a server."""

from __future__ import annotations

from latentbank.bank.settings import Settings
from latentbank.bank.store.base import Backend


def backend(settings: Settings) -> Backend:
    """Return the backend that the settings name: the server at `url`, or embedded banks in `data_dir` if it is empty.

    Nothing is opened or connected yet.
    """
    if settings.url:
        from latentbank.bank.store.server.backend import ServerBackend

        return ServerBackend(settings)
    from latentbank.bank.store.embedded.backend import EmbeddedBackend

    return EmbeddedBackend(settings)
