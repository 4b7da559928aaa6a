"""Images that people sent: found by their digest, forgotten when there are too many."""

from __future__ import annotations

import pytest

from latentbank.query.web import uploads
from latentbank.query.web.uploads import Uploads


def test_an_image_is_kept_once_until_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_KEPT", 2)
    kept = Uploads()
    first = kept.keep("a", b"one")
    assert kept.keep("b", b"one").key == first.key
    second = kept.keep("c", b"two")
    found = kept.get(first.key)  # used last, so the other image is dropped
    assert found is not None
    assert (found.name, found.data) == ("b", b"one")
    kept.keep("d", b"three")
    assert (kept.get(second.key), kept.get("unknown")) == (None, None)
    assert kept.get(first.key) is not None


def test_together_they_have_a_limit_that_one_alone_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_KEPT_BYTES", 10)
    kept = Uploads()
    small, large = kept.keep("small", bytes(6)), kept.keep("large", bytes(12))
    assert kept.get(small.key) is None
    assert kept.get(large.key) is not None
