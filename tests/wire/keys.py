"""The API keys and tokens that the double knows, and what each of them may request."""

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from typing import Any

from qdrant_client.http import models as m

from tests.wire.errors import Refusal, WireError
from tests.wire.faults import QUIET

MANAGES = frozenset(
    {
        "create_collection",
        "update_collection",
        "delete_collection",
        "update_aliases",
        "remove_peer",
        "clear_issues",
    }
)
"""Operations for which a key must manage the whole server."""

GLOBAL = frozenset({"cluster_status", "metrics"})
"""Operations for which a key must read the whole server."""

WRITES = frozenset({"create_index", "upsert", "delete", "shard_snapshot", "update_cluster"})
"""Operations on one collection for which a key must write it; snapshots are given to nobody else."""

_LEEWAY = 30
"""Seconds after its end for which a token is still good, because clocks differ."""

_MANAGE = WireError(Refusal.FORBIDDEN, "Global manage access is required")


@dataclass(frozen=True)
class Keys:
    """The API keys that the server knows. Without any, every request is allowed."""

    full: str | None
    read_only: str | None

    def __repr__(self) -> str:
        """Return a text without the keys."""
        return "Keys(...)"

    def check(self, given: str | None, operation: str, collection: str | None = None) -> None:
        """Raise WireError unless this key, or token signed with the full key, may request this operation."""
        if operation in QUIET or (self.full is None and self.read_only is None):
            return
        if given is None:
            raise WireError(Refusal.UNAUTHORIZED, "Must provide an API key or an Authorization bearer token")
        _allow(self._access(given), operation, collection)

    def shown(self, given: str | None, result: Any) -> Any:
        """Return the part of an answer that this key may see: collections it opens, aliases if it opens both names."""
        if not isinstance(result, m.CollectionsResponse | m.CollectionsAliasesResponse):
            return result
        keyless = self.full is None and self.read_only is None
        access = "m" if given is None or keyless else self._access(given)
        if isinstance(access, str):
            return result
        opened = {item["collection"] for item in access}
        if isinstance(result, m.CollectionsResponse):
            return m.CollectionsResponse(
                collections=[item for item in result.collections if item.name in opened]
            )
        return m.CollectionsAliasesResponse(
            aliases=[item for item in result.aliases if {item.alias_name, item.collection_name} <= opened]
        )

    def _access(self, given: str) -> Any:
        """Return what a key opens: "m" or "r" for everything, or a list of collections. Raises WireError for no key."""
        if _same(given, self.full):
            return "m"
        if _same(given, self.read_only):
            return "r"
        claims = self._claims(given)
        if claims.get("exp", time.time()) + _LEEWAY < time.time():
            raise WireError(Refusal.REFUSED_TOKEN, "ExpiredSignature")
        access = claims.get("access", "r")
        if not isinstance(access, str):
            names = [item["collection"] for item in access]
            if len(set(names)) < len(names):
                raise WireError(Refusal.UNAUTHORIZED, "access: Collection name should be unique")
        return access

    def _claims(self, given: str) -> dict[str, Any]:
        """Return the claims of a token that the full key has signed."""
        head, _, signature = given.rpartition(".")
        try:
            first, claims = (json.loads(base64.urlsafe_b64decode(part + "===")) for part in head.split("."))
            known = self.full is not None and first["alg"] == "HS256"
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            raise WireError(Refusal.UNAUTHORIZED, "Invalid API key or JWT")
        right = hmac.new((self.full or "").encode(), head.encode(), hashlib.sha256).digest()
        if not _same(signature, base64.urlsafe_b64encode(right).rstrip(b"=").decode()):
            raise WireError(Refusal.REFUSED_TOKEN, "InvalidSignature")
        return dict(claims)


def _allow(access: Any, operation: str, collection: str | None) -> None:
    """Raise WireError unless this access is enough for an operation."""
    if access == "m":
        return
    if access == "r":
        if operation in MANAGES | WRITES:
            raise _MANAGE
        return
    if operation in MANAGES | GLOBAL:
        raise WireError(Refusal.FORBIDDEN, "Global access is required")
    if collection is None:
        return
    mode = next((item["access"] for item in access if item["collection"] == collection), None)
    if mode is None:
        raise WireError(Refusal.FORBIDDEN, f"Access to collection {collection} is required")
    if operation in WRITES and mode == "r":
        raise WireError(Refusal.FORBIDDEN, f"Write access to collection {collection} is required")
    if operation == "update_cluster":
        raise WireError(Refusal.FORBIDDEN, "Manage access for this operation is required")
    if mode == "prw" and operation in {"create_index", "shard_snapshot", "collection_cluster"}:
        raise WireError(Refusal.FORBIDDEN, f"Only points access is allowed for collection {collection}")


def _same(given: str, key: str | None) -> bool:
    return key is not None and hmac.compare_digest(given.encode(), key.encode())
