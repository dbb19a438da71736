"""Fixtures that every test may use."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Two processes of tests share the cores, and networks as small as theirs are slower on two threads.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
from support.browser import chromium
from support.slurm_node import missing_programs

REAL_CLIPS = Path(
    os.environ.get("VADPREP_REAL_CLIPS", Path(__file__).parents[2] / "shared" / "data" / "videos")
)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup() -> None:
    """pytest's name of the test in the environment would cost each a server of decoders."""
    os.environ.pop("PYTEST_CURRENT_TEST", None)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call() -> None:
    """As for fixtures: pytest names the test anew before it is called."""
    os.environ.pop("PYTEST_CURRENT_TEST", None)


@pytest.fixture(autouse=True)
def restored_random_state() -> Iterator[None]:
    """No test leaves a seed behind."""
    state, numpy_state = random.getstate(), np.random.get_state()
    yield
    random.setstate(state)
    np.random.set_state(numpy_state)


@pytest.fixture(autouse=True)
def cache_of_tests(
    pytestconfig: pytest.Config,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """What a developer has downloaded is not seen by tests; compiled flow is kept between runs."""
    cache = getattr(pytestconfig, "cache", None)  # -p no:cacheprovider leaves it out
    folder = cache.mkdir("vadprep") if cache else tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("VADPREP_CACHE", str(folder))


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """A browser without a window."""
    with chromium() as driver:
        yield driver


LONGEST = (
    *("test_runner.py", "test_cli_train.py", "test_hostile.py"),
    *("test_slurm.py", "test_demo.py", "test_flow.py", "test_ped2_heads.py"),
)
"""Files that are begun with, so that no process is left alone with them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a GPU its tests are skipped, unless FAIL_WITHOUT_CUDA=1 says there must be one."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
    _skip_without_slurm([item for item in items if item.get_closest_marker("slurm")])
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    if torch.cuda.is_available() or os.environ.get("FAIL_WITHOUT_CUDA") == "1":
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _skip_without_slurm(items: list[pytest.Item]) -> None:
    """Without its programs, unless FAIL_WITHOUT_SLURM=1 says that they must be there."""
    missing = missing_programs()
    if missing and os.environ.get("FAIL_WITHOUT_SLURM") != "1":
        for item in items:
            item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(missing)}"))


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """Folder of three real clips, which are not part of the project."""
    if not REAL_CLIPS.is_dir():
        pytest.skip(f"no real clips in {REAL_CLIPS} (set VADPREP_REAL_CLIPS)")
    return REAL_CLIPS


@pytest.fixture
def importable_in_workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's workers find the package, the helpers of the tests, and the module of the test."""
    tests = Path(__file__).parent
    places = (tests.parent, tests, request.path.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))


@pytest.fixture(scope="module")
def videos(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of as many small videos as ``VIDEOS`` of the module says."""
    from support.kill_many import make_videos

    return make_videos(tmp_path_factory.mktemp("made") / "videos", request.module.VIDEOS)


@pytest.fixture(scope="module")
def whole(videos: Path) -> Path:
    """The folder that one undisturbed process makes of them, by a stand-in for the network."""
    from support.interrupted import extract_all, make_standin

    from vadprep.extraction.run import in_process
    from vadprep.features.shard import DONE

    folder = videos.parent / "whole"
    reports = extract_all(folder, videos, in_process(make_standin))
    assert {report.status for report in reports} == {DONE}
    return folder
