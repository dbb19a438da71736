"""The errors of vadprep. A wrong argument is a ``ValueError`` instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

SECRETS = re.compile(
    r"\b([a-z][a-z0-9+.-]+:/{1,2})(?:[^\s/]*@)?([^\s?'\"]*)(?:\?[^\s'\"]*[^\s'\":),])?",
    re.IGNORECASE,
)
"""A URL, or what ``Path`` makes of one; all but the two groups is for its server alone."""

MOST_SHOWN = 4000
"""Characters of a message; text of a file that is part of it may be of any length."""


def printable(text: str) -> str:
    """``text`` on one line that any terminal can show: odd characters are escaped.

    These are control characters, which a terminal would obey, marks that reverse the direction of
    writing, and bytes that are not UTF-8. URLs lose user, password and query.
    """
    text = without_secrets(text)
    text = text.replace("\x7f", "\\u007f")  # the one of them that JSON leaves as it is
    shown = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
    return shown.encode("utf-8", "backslashreplace").decode()


def without_secrets(text: str) -> str:
    """``text`` whose URLs have no user, password or query."""
    return SECRETS.sub(r"\1\2", text) if ":/" in text else text


def near_miss(word: object, known: Iterable[object]) -> str:
    """``; did you mean 'xd'?`` for a word that looks like one of the ``known``; else blank."""
    by_lower = {str(each).lower(): str(each) for each in known}
    near = difflib.get_close_matches(str(word).lower(), by_lower, 1)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""


def allowed_are(value: object, known: Iterable[object]) -> str:
    """What a message on a wrong ``value`` ends with: all that is allowed, and what may be meant."""
    known = list(known)
    return f"allowed are {', '.join(map(str, known))}{near_miss(value, known)}"


def counted(number: int, noun: str) -> str:
    """How many there are, in words: ``1 video``, ``2,000 videos``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class VadprepError(Exception):
    """Base of all errors. The message is one line: what happened, in which file, what to do.

    Text from outside may be part of it, so it is shown as ``printable`` gives it. ``exit_code`` is
    that of the command: 2 where something must be corrected before anything can run, 1 where a run
    has stopped or a video has failed, 75 after a stop by a signal.
    """

    exit_code = 2

    def __str__(self) -> str:
        return printable(super().__str__()[:MOST_SHOWN])


class SettingError(VadprepError, ValueError):
    """An argument or setting has a value that cannot be used. Choose one that the message lists.

    The list may have several lines.
    """

    def __str__(self) -> str:
        return "\n".join(map(printable, Exception.__str__(self)[:MOST_SHOWN].split("\n")))


class ManifestError(VadprepError):
    """A manifest or split file has a bad row. Correct it: the message names file, line, column."""


class SpecError(VadprepError):
    """Two specs differ, or a device lacks what one asks for. Change settings, or the folder."""


class WeightsError(VadprepError):
    """A weights file is missing, damaged, or made for another network. Get or name another one."""


class FeaturesError(VadprepError):
    """A feature folder is missing, mixed or inconsistent. ``vadprep verify`` says where."""


class ShardError(FeaturesError):
    """A shard file is damaged or no shard. Remove it and extract its videos again."""


class CheckpointError(VadprepError):
    """A run folder or checkpoint is missing, damaged, or of features with other settings."""


class DecodeError(VadprepError):
    """One video cannot be read. Repair it, then extract again with ``--retry-failed``.

    ``kind`` is one word for tables, for example ``too-short``.
    """

    exit_code = 1

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind


class OutputError(VadprepError):
    """The output disk is full, gone or not writable. Repair it: what was committed is safe."""

    exit_code = 1


class LeaseError(VadprepError):
    """Another run works on the same shards, or has taken them over. Wait for it to end."""

    exit_code = 1


class OutOfMemory(VadprepError):
    """The network does not fit into memory, even with one view a batch. No video has failed."""

    exit_code = 1


class ClusterError(VadprepError):
    """A Ray cluster cannot be joined, or none of its nodes can work. The message says why."""


class TrainingError(VadprepError):
    """Training cannot continue, for example after a loss that is not finite. Change settings."""

    exit_code = 1


class ExportError(VadprepError):
    """An exported file would not give what vadprep gives. The message says by how much."""

    exit_code = 1


class Stopped(VadprepError):
    """A signal has stopped the command. All finished work is saved: run the same command again."""

    exit_code = 75
