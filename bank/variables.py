"""Variables of the environment and of `.env` that are named like settings and are none: misspelt ones."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from latentbank.errors import LatentBankError

log = logging.getLogger(__name__)

PREFIX = "LATENTBANK_"
_NEAR = 0.66  # two of three letters in their places, as in ULR and URL
_OF_THE_PAGE = {"TOKEN", "TOKEN_FILE", "VLM"}
_OF_TESTS = {"BROWSER", "HAPROXY", "PROMTOOL", "QDRANT_OPENAPI"}
# Kubernetes gives every container the addresses of the services of its namespace, such as LATENTBANK_PORT=tcp://...
_OF_KUBERNETES = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_ADDRESS = re.compile(r"(tcp|udp|sctp)://")

_told: set[str] = set()


def check_variables(settings: Iterable[str], file: Path = Path(".env")) -> None:
    """Check that every variable with the settings' prefix is a setting; one that resembles none is logged once.

    Args:
        settings: the names of the settings, in lower case and without the prefix.
        file: a file of variables, which need not exist.

    Raises:
        LatentBankError: a variable is no setting but resembles one, which the message names. It shows no value.
    """
    known = {name.upper() for name in settings} | _OF_THE_PAGE
    for where, variables in (("", os.environ), (f" in {file}", _read(file))):
        for name in sorted(variables):
            short = name.upper().removeprefix(PREFIX)
            if short == name.upper() or short in known | _OF_TESTS or _is_address(short, variables[name]):
                continue
            near = difflib.get_close_matches(short, sorted(known), n=1, cutoff=_NEAR)
            if near:
                raise LatentBankError(
                    f"{name}{where} is no setting; did you mean {PREFIX}{near[0]}? Correct or remove it."
                )
            if name not in _told:
                _told.add(name)
                log.warning("%s%s is no setting of this version of latentbank; it is ignored.", name, where)


def _read(file: Path) -> Mapping[str, str | None]:
    from dotenv import dotenv_values

    return dotenv_values(file) if file.is_file() else {}


def _is_address(short: str, value: str | None) -> bool:
    """Return whether Kubernetes has set a variable."""
    if _OF_KUBERNETES.fullmatch(short):
        return True
    return short.endswith("PORT") and bool(_ADDRESS.match(value or ""))
