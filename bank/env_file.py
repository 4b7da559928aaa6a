"""What the file `.env` may decide: it lies where somebody happens to stand, and may be a stranger's.

A URL in `.env` gets only a key that `.env` holds too, and `.env` decides nothing about where another key goes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic_settings import DotEnvSettingsSource

from latentbank.errors import LatentBankError
from latentbank.text import listed

log = logging.getLogger(__name__)

FILE = Path(".env")
_PREFIX = "LATENTBANK_"
_KEYS = ("api_key", "api_key_file")
_PLACES = ("url", "grpc_port", "tls_ca")
"""Settings that decide who gets a key: the server, its port, and whose word proves that it is the server."""


class EnvFile(DotEnvSettingsSource):
    """The settings in `.env`, without those that it may not decide."""

    def _read_env_file(self, file_path: Path) -> Mapping[str, str | None]:
        """Return the variables of the file.

        Raises:
            LatentBankError: one of them takes its value from another variable, which could carry any secret of the
                environment to the URL.
        """
        plain = dotenv_values(file_path, interpolate=False)
        for name, value in dotenv_values(file_path).items():
            if name.upper().startswith(_PREFIX) and value != plain[name]:
                raise LatentBankError(
                    f"{name} in .env takes its value from other variables; write the value itself there."
                )
        return super()._read_env_file(file_path)

    def __call__(self) -> dict[str, Any]:
        """Return the settings that the file adds to the arguments and the environment.

        Raises:
            LatentBankError: see `allowed`.
        """
        found: dict[str, Any] = super().__call__()
        return allowed(found, self.current_state, FILE.absolute().parent)


def allowed(file: Mapping[str, Any], outside: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what a `.env` may add to settings from outside it: arguments and the environment.

    Args:
        file: the settings in `.env`.
        outside: the settings from elsewhere.
        folder: of the file.

    Raises:
        LatentBankError: a key from elsewhere would go where `.env` says, or the file names a key file that does not lie
            beside it.
    """
    url = str(outside.get("url", file.get("url", "")))
    if not url:  # an embedded bank
        return dict(file)
    other = "url" in outside and _differ(file.get("url", url), url)
    taken = {name: value for name, value in file.items() if not (other and name in (*_PLACES, *_KEYS))}
    if any(outside.get(name) for name in _KEYS):
        named = [f"{_PREFIX}{name.upper()}" for name in _PLACES if name in taken and name not in outside]
        if named:
            raise LatentBankError(
                f"The file .env in this folder sets {listed(named)}, but the key is not from there, and .env does not "
                "decide where such a key goes: set all of them in the environment, or all of them in .env."
            )
    elif other and any(name in file for name in _KEYS):
        log.warning("The key in .env is for the URL in .env, and is not sent to %s.", url)
    if "api_key_file" in taken and not {*_KEYS} & outside.keys():
        _check_beside(Path(taken["api_key_file"]), folder)
    return taken


def _differ(one: object, other: str) -> bool:
    return str(one).rstrip("/") != other.rstrip("/")


def _check_beside(path: Path, folder: Path) -> None:
    """Check that a file lies below a folder: otherwise `.env` could send any secret of one line as a key."""
    if not (folder / path.expanduser()).resolve().is_relative_to(folder.resolve()):
        raise LatentBankError(
            "LATENTBANK_API_KEY_FILE in .env names a file outside the folder of .env; set it in the environment."
        )
