"""Whether a node of a cluster can do the work: sees the videos, writes into the same folder.

The run leaves a token in the output folder. A node that has another folder under that name does
not find it there.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import vadprep
from vadprep.core.atomic import disk_errors, temporary_name
from vadprep.core.errors import OutputError
from vadprep.core.records import Task
from vadprep.data import size_of

SAMPLE = 3
"""Videos that are looked for."""


@dataclass(frozen=True)
class NodeCheck:
    """What a node is asked."""

    version: str
    sources: tuple[tuple[Path, int], ...]
    """Some videos and their sizes in bytes."""
    token: Path
    secret: str
    """What the token holds."""

    def problem(self) -> str:
        """Why this node cannot do the work, in a line; empty when it can."""
        if vadprep.__version__ != self.version:
            return (
                f"it has vadprep {vadprep.__version__}, not {self.version}: install the same there"
            )
        for path, size in self.sources:
            if not path.exists():
                return f"{path} is not there: the videos must lie under the same path on all nodes"
            if size_of(path) != size:
                return f"{path} has {size_of(path)} bytes there and {size} here: not the same file"
        folder = self.token.parent
        try:
            is_same = self.token.read_text() == self.secret
        except OSError:
            is_same = False
        if not is_same:
            return f"{folder} is another folder there: it must lie on a shared file system"
        mine = temporary_name(folder / "probe")
        try:
            with disk_errors(folder):
                mine.touch()
                mine.unlink()
        except OutputError as error:
            return str(error)
        return ""


@contextmanager
def node_check(tasks: Sequence[Task], out: Path) -> Iterator[NodeCheck]:
    """The check for ``tasks`` with features under ``out``; its token is there meanwhile.

    Raises OutputError when the token cannot be written.
    """
    sample = tasks[:: max(1, len(tasks) // SAMPLE)][:SAMPLE]
    there = [task.source for task in sample if task.source is not None]
    sources = tuple((path, size_of(path)) for path in there)
    token, secret = temporary_name(out / "token"), secrets.token_hex()
    try:
        with disk_errors(token), open(token, "x") as stream:
            stream.write(secret)
            stream.flush()
            os.fsync(stream.fileno())
        yield NodeCheck(vadprep.__version__, sources, token, secret)
    finally:
        token.unlink(missing_ok=True)
