"""The report of a large test set: its size, the time to make it, and the time to open it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import vadprep
from vadprep.core.clips import CLIP_LENGTH
from vadprep.evaluation import Origin, VideoScores, write_scores


def bench_report(dataset: str) -> Iterator[tuple[str, str]]:
    """Names and values of what was measured on random scores of the test videos of a data set.

    Previews are left out: they take as long as the videos are. Opening is timed in chromium,
    driven by selenium, from the start of loading until all is drawn.
    """
    rng, scores = np.random.default_rng(0), dict[str, VideoScores]()
    for video in vadprep.load_dataset(dataset).in_split("test"):
        clips = (video.num_frames_scored or video.num_frames or 1000) // CLIP_LENGTH
        values = np.clip(rng.normal(0.3, 0.05, clips).cumsum() % 1, 0, 1)
        spans = CLIP_LENGTH * np.stack([np.arange(clips), np.arange(clips) + 1], axis=1)
        frames = CLIP_LENGTH * clips
        scores[video.video_id] = VideoScores(values, spans, frames, video.fps or 25.0)
    with tempfile.TemporaryDirectory() as place:
        file, folder = Path(place, "scores.h5"), Path(place, "page")
        write_scores(file, scores, Origin({"rgb": "random:0"}), "none")
        start = time.perf_counter()
        index = vadprep.report(file, out=folder, dataset=dataset, previews="none")
        yield "videos", f"{len(scores):,}"
        yield "clips", f"{sum(len(each.snippets) for each in scores.values()):,}"
        yield "time to make", f"{time.perf_counter() - start:.1f} s"
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        yield "size of the folder", f"{size / 2**20:.1f} MiB"
        yield "size of index.html", f"{index.stat().st_size / 2**20:.2f} MiB"
        longest = max(folder.glob("videos/*.html"), key=lambda path: path.stat().st_size)
        for name, path in (("overview", index), ("longest video", longest)):
            yield f"time to open: {name}", _opening(path)


def windowless() -> Any:
    """Options of selenium for chromium without a window."""
    from selenium.webdriver import ChromeOptions

    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "window-size=1400,1000"):
        options.add_argument(f"--{flag}")
    return options


def _opening(page: Path) -> str:
    """Seconds from the start of loading until all is drawn, the median of three."""
    try:
        from selenium import webdriver
    except ModuleNotFoundError:
        return "not measured: pip install selenium"
    driver = shutil.which("chromedriver")
    if not driver or not shutil.which("chromium"):
        return "not measured: install chromium and chromium-driver"
    with webdriver.Chrome(windowless(), webdriver.ChromeService(driver)) as chrome:
        found = []
        for _ in range(3):
            chrome.get(page.as_uri())
            found.append(
                chrome.execute_async_script(
                    "const done = arguments[arguments.length - 1];"
                    "setTimeout(() => requestAnimationFrame(() => done(performance.now())))"
                )
            )
    return f"{np.median(found) / 1000:.2f} s"
