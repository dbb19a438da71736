"""Fixtures of live sessions."""

from __future__ import annotations

import pytest

from vadprep.online import inbox


@pytest.fixture
def patient_inbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """No clip is dropped where other work on the machine holds the workers up."""
    monkeypatch.setattr(inbox, "MOST_WAITING", 100)
