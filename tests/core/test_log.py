"""Records of vadprep's loggers are plain text for every handler, not only those of the commands."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import vadprep
from vadprep.core.errors import MOST_SHOWN
from vadprep.core.log import get_logger
from vadprep.data import find_videos

HOSTILE = "\x1b]0;x\x07\u202e\udcff\n http://user:hunter2@host/a?key=hunter2"


class Kept(logging.Handler):
    """A handler as an application may have; it keeps texts as it gets them."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts += [record.getMessage(), str(record.msg), *map(str, record.args or ())]


def test_a_record_holds_no_control_and_no_credential() -> None:
    logger, handler = get_logger("vadprep.somewhere"), Kept()
    logger.addHandler(handler)
    logger.warning("%s: %d files", HOSTILE, 3)
    logger.warning(HOSTILE)
    logger.removeHandler(handler)
    assert len(handler.texts) == 4
    for text in handler.texts:
        assert text.isprintable() and "hunter2" not in text and "http://host/a" in text
    assert handler.texts[0].endswith(": 3 files")


def test_a_record_of_any_length_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    get_logger("vadprep.somewhere").warning("%s", "x" * 10**6)
    assert caplog.records[0].getMessage() == "x" * MOST_SHOWN


def test_a_folder_of_a_hostile_name_is_named_plainly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "f\x1b]0;x\x07"
    folder.mkdir()
    (folder / "spec.json").write_text('{"format": "vadprep-features"}')
    (tmp_path / "a.mp4").touch()
    find_videos(tmp_path)
    assert r"f\x1b]0;x\x07: left out" in caplog.text and "\x1b" not in caplog.text


def test_no_module_has_a_logger_of_its_own() -> None:
    package = Path(vadprep.__file__).parent
    texts = {each: each.read_text() for each in package.rglob("*.py")}
    assert [each.name for each, text in texts.items() if "getLogger(__name__)" in text] == []
    assert sum("get_logger(__name__)" in text for text in texts.values()) > 9
