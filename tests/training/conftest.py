"""Fixtures of the tests that attack training and what it has written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.runs import VIDEOS, cheaply, train, write_manifest
from support.stored import stored_video, write_folder


@pytest.fixture(scope="module")
def narrow() -> Iterator[None]:
    """Heads are small, and train for two epochs."""
    with cheaply(epochs=2):
        yield


@pytest.fixture(scope="module")
def sound(
    narrow: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a manifest m.csv of ``ROWS`` of the module, features f, a finished run r."""
    place, rows = tmp_path_factory.mktemp("sound"), getattr(request.module, "ROWS", VIDEOS)
    write_manifest(place / "m.csv", rows)
    write_folder(place / "f" / "rgb", [stored_video(name, num_clips=4) for name, *_ in rows])
    train(place, place / "r")
    return place
