"""What several tests of commands read and none changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.runs import make_place
from support.videos import write_video


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    """A folder with one video of 20 frames."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4", 20)
    return folder


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """A folder with videos, a manifest m.csv, their features f and a run r on them."""
    return make_place(tmp_path_factory.mktemp("place"))
