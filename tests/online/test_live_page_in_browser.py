"""The live page in a real browser: the curve moves, an alarm appears, and nothing goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.browser import asked_addresses
from support.live import make_checkpoint, start
from support.videos import write_video
from support.waiting import wait_for

from vadprep.online.alarms import AlarmRule

pytestmark = pytest.mark.browser


def test_the_curve_moves_and_an_alarm_appears(driver: Any, tmp_path: Path) -> None:
    video = write_video(tmp_path / "<b>gate&amp;.mp4", 25 * 60, size=(160, 120))
    rule = AlarmRule(0.0, 0.0, least=4.0)  # so that there is none at first
    with start(make_checkpoint(), video, rule, speed=1, port=0, caution="NEVER TRAINED") as session:
        next(session)

        def look(script: str) -> Any:
            return driver.execute_script(f"return {script}")

        driver.get(session.page_url)
        path = "document.querySelector('svg .curve')?.getAttribute('d') ?? ''"
        first = wait_for(lambda: look(path))
        assert look("document.querySelectorAll('.source.alarm').length") == 0
        wait_for(lambda: look(path).count("L") > first.count("L") + 1)  # more points
        wait_for(lambda: look("document.querySelector('img').naturalWidth === 160"))
        before = look("document.querySelector('img').src")
        wait_for(lambda: look("document.querySelector('img').src") != before)  # the picture is live
        wait_for(lambda: look("document.querySelectorAll('.source.alarm').length") == 1)
        assert look("document.querySelector('.badge').textContent") == "ALARM"
        cells = look("[...document.querySelectorAll('tbody td')].map(cell => cell.textContent)")
        assert len(cells) == 3 and cells[1] == "now" and 0 < float(cells[2]) < 1
        assert look("document.querySelectorAll('svg .span').length") == 1
        assert str(video) in look("document.querySelector('h2').textContent")  # as a text
        assert look("document.querySelectorAll('h2 b').length") == 0
        assert look("document.getElementById('caution').innerText") == "NEVER TRAINED"
        asked = asked_addresses(driver)
        assert asked and all(url.startswith((session.page_url or "?", "data:")) for url in asked), (
            asked
        )
    wait_for(lambda: "does not answer" in look("document.getElementById('connection').textContent"))
