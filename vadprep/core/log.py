"""Loggers whose records are plain text, whatever handler an application gives them."""

from __future__ import annotations

import logging

from vadprep.core.errors import MOST_SHOWN, printable


def get_logger(name: str) -> logging.Logger:
    """The logger ``name``. Its records are shown as ``printable`` gives them: file names and texts
    from outside are part of them, and may be of any length."""
    logger = logging.getLogger(name)
    logger.addFilter(_make_plain)
    return logger


def _make_plain(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage()[:MOST_SHOWN]), ()
    return True
