"""Debian's chromium, without a window, and what it says of a page."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def chromium() -> Iterator[Any]:
    """A Selenium driver; FAIL_WITHOUT_BROWSER=1 says that the browser must be there."""
    missing = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    if missing and os.environ.get("FAIL_WITHOUT_BROWSER") != "1":
        pytest.skip(f"not installed: {', '.join(missing)}")
    from selenium import webdriver

    from vadprep.cli.bench.report import windowless

    options = windowless()
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(str(shutil.which("chromedriver")))
    browser = webdriver.Chrome(options=options, service=service)
    try:
        yield browser
    finally:
        browser.quit()


def asked_addresses(driver: Any) -> list[str]:
    """What the page has asked for since the last call; fails when it has logged an error."""
    assert [each for each in driver.get_log("browser") if each["level"] == "SEVERE"] == []
    messages = [json.loads(each["message"])["message"] for each in driver.get_log("performance")]
    sent = [each for each in messages if each["method"] == "Network.requestWillBeSent"]
    return [each["params"]["request"]["url"] for each in sent]
