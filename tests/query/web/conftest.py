"""Pages that wait for what is late."""

from __future__ import annotations

import pytest

from tests.query.web.serving import be_patient


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no page give up what a busy machine delays; tests of the limits set their own."""
    be_patient(monkeypatch)
