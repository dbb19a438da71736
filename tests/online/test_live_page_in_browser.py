"""The live page in a real browser: the curve moves, an alarm appears, and nothing goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.live import make_checkpoint, start
from support.videos import write_video

from vadprep.cli.bench.report import windowless
from vadprep.online.alarms import AlarmRule

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """Debian's chromium, without a window; FAIL_WITHOUT_BROWSER=1 says that it must be there."""
    missing = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    if missing and os.environ.get("FAIL_WITHOUT_BROWSER") != "1":
        pytest.skip(f"not installed: {', '.join(missing)}")
    from selenium import webdriver

    options = windowless()
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(str(shutil.which("chromedriver")))
    browser = webdriver.Chrome(options=options, service=service)
    yield browser
    browser.quit()


def wait(condition: Callable[[], Any], seconds: float = 30) -> Any:
    stop = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < stop, "did not happen in time"
        time.sleep(0.1)
    return found


def test_the_curve_moves_and_an_alarm_appears(driver: Any, tmp_path: Path) -> None:
    video = write_video(tmp_path / "<b>gate&amp;.mp4", 25 * 60, size=(160, 120))
    rule = AlarmRule(0.0, 0.0, least=4.0)  # so that there is none at first
    with start(make_checkpoint(), video, rule, speed=1, port=0, caution="NEVER TRAINED") as session:
        next(session)

        def look(script: str) -> Any:
            return driver.execute_script(f"return {script}")

        driver.get(session.page_url)
        path = "document.querySelector('svg .curve')?.getAttribute('d') ?? ''"
        first = wait(lambda: look(path))
        assert look("document.querySelectorAll('.source.alarm').length") == 0
        wait(lambda: look(path).count("L") > first.count("L") + 1)  # more points
        wait(lambda: look("document.querySelector('img').naturalWidth === 160"))
        before = look("document.querySelector('img').src")
        wait(lambda: look("document.querySelector('img').src") != before)  # the picture is live
        wait(lambda: look("document.querySelectorAll('.source.alarm').length") == 1)
        assert look("document.querySelector('.badge').textContent") == "ALARM"
        cells = look("[...document.querySelectorAll('tbody td')].map(cell => cell.textContent)")
        assert len(cells) == 3 and cells[1] == "now" and 0 < float(cells[2]) < 1
        assert look("document.querySelectorAll('svg .span').length") == 1
        assert str(video) in look("document.querySelector('h2').textContent")  # as a text
        assert look("document.querySelectorAll('h2 b').length") == 0
        assert look("document.getElementById('caution').innerText") == "NEVER TRAINED"
        assert [each for each in driver.get_log("browser") if each["level"] == "SEVERE"] == []
        messages = [json.loads(e["message"])["message"] for e in driver.get_log("performance")]
        asked = [
            each["params"]["request"]["url"]
            for each in messages
            if each["method"] == "Network.requestWillBeSent"
        ]
        assert asked and all(url.startswith((session.page_url or "?", "data:")) for url in asked), (
            asked
        )
    wait(lambda: "does not answer" in look("document.getElementById('connection').textContent"))
