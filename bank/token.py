"""Tokens that let their holders read certain banks on a server, signed here with the server's admin key."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from latentbank.bank.store.names import alias_name, collection_name, ledger_name
from latentbank.bank.versions import split_name, stored_name
from latentbank.errors import LatentBankError

log = logging.getLogger("latentbank")

_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
# Ten years: a token can be revoked only by changing the admin key.
_LONGEST = timedelta(days=3653)
# Versions of a bank that a token opens by default.
VERSIONS = (1, 2, 3, 4, 5)
LONGEST_KEY = 15_000
"""The longest key that gRPC carries, in characters: a server takes 16,384 bytes of headers, and they hold more."""


def read_token(
    key: str,
    banks: Iterable[str],
    layers: Sequence[int],
    expires: datetime,
    versions: Sequence[int] = VERSIONS,
    images: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """Return a JSON Web Token (HS256) with which Qdrant lets its holder read these banks and nothing else.

    Nothing is sent: the server checks the signature with its own admin key (`jwt_rbac: true`). A token that is too long
    for gRPC is made with a warning.

    Args:
        key: the server's admin key.
        banks: their names. A plain name opens all of `versions`, a name as in name@2 only that version.
        layers: the layers of all banks; layers that a bank does not have are harmless.
        expires: when the token expires, with a time zone.
        versions: versions of the banks with a plain name, which need not exist yet.
        images: the visual layers of the banks' images, by the names that these are stored under.

    Raises:
        LatentBankError: the key is itself a token, which cannot sign others.
    """
    if claims_of(key) is not None:
        raise LatentBankError(
            "LATENTBANK_API_KEY holds a token, and only the server's admin key can sign others; set it to that key."
        )
    # Each once: a server refuses a token that names a collection twice, as a bank and its first version do.
    opened = dict.fromkeys(name for bank in banks for name in _opened(bank, layers, versions))
    opened |= dict.fromkeys(
        name for stored, own in (images or {}).items() for name in _of_version(stored, own)
    )
    access = [{"collection": collection, "access": "r"} for collection in opened]
    head = _written({"alg": "HS256", "typ": "JWT"})
    signed = f"{head}.{_written({'exp': int(expires.timestamp()), 'access': access})}"
    signature = hmac.new(key.encode(), signed.encode(), hashlib.sha256).digest()
    made = f"{signed}.{_base64(signature)}"
    if len(made) > LONGEST_KEY:
        log.warning(
            "The token has %s characters for %s collections, and gRPC carries keys of up to %s: its holder works over "
            "REST, which is slower. Open fewer versions or layers, or give out several tokens with fewer banks each.",
            f"{len(made):,}",
            f"{len(access):,}",
            f"{LONGEST_KEY:,}",
        )
    return made


def _opened(name: str, layers: Sequence[int], versions: Sequence[int]) -> list[str]:
    """Return the names of the collections and aliases of a bank or version."""
    bank, version = split_name(name)
    if version is not None:
        return _of_version(stored_name(bank, version), layers)
    # The server shows an alias only to a key that may see the alias and what it points to.
    stored = [name for number in versions for name in _of_version(stored_name(bank, number), layers)]
    return stored + [alias_name(bank, layer) for layer in layers]


def _of_version(stored: str, layers: Sequence[int]) -> list[str]:
    return [ledger_name(stored), *(collection_name(stored, layer) for layer in layers)]


def claims_of(key: str) -> Mapping[str, Any] | None:
    """Return a token's claims, without checking its signature; None if a key is not a token."""
    parts = key.split(".")
    if len(parts) != 3:
        return None
    try:
        head, claims = (json.loads(_bytes(part)) for part in parts[:2])
    except ValueError:
        return None
    return claims if isinstance(head, dict) and "alg" in head and isinstance(claims, dict) else None


def only_reads(claims: Mapping[str, Any]) -> bool:
    """Return whether a token does not allow creating and changing collections; only "m" (manage) does."""
    return bool(claims.get("access", "m") != "m")  # a token without this claim: the server decides


def expiry(text: str, now: datetime | None = None) -> datetime:
    """Return when a token expires that is valid for 30d, 12h, 2w or 45m from now.

    Raises:
        LatentBankError: the text is not a duration, or longer than ten years.
    """
    match = re.fullmatch(r"(\d{1,6})\s*([mhdw])", text.strip())
    after = timedelta(seconds=int(match[1]) * _SECONDS[match[2]]) if match else timedelta()
    if not timedelta() < after <= _LONGEST:
        raise LatentBankError(f"'{text}' is not a time after which a token expires; write 12h, 30d or 8w.")
    return (now or datetime.now(UTC)) + after


def _written(data: Mapping[str, Any]) -> str:
    return _base64(json.dumps(data, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
