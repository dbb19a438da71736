"""Where the records of a session go beside its caller: a webhook, kept clips, a page."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from vadprep.core.errors import SettingError
from vadprep.online.alarms import AlarmRule
from vadprep.online.keep import HISTORY, Keeper
from vadprep.online.page import LivePage
from vadprep.online.pictures import Pictures
from vadprep.online.records import AlarmRecord, Record
from vadprep.online.source import Source
from vadprep.online.webhook import Webhook

LOCALHOST = "127.0.0.1"


class Outputs:
    """What the arguments ask for; nothing by default.

    ``webhook`` is an address, ``keep`` a folder, ``port`` that of the page on ``host``, 0 for any;
    ``caution`` is shown on it.
    Raises SettingError for what cannot be used, OutputError for a folder that cannot be written.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        rule: AlarmRule,
        webhook: str | None = None,
        keep: str | Path | None = None,
        host: str = LOCALHOST,
        port: int | None = None,
        caution: str = "",
    ) -> None:
        self.rule, self.caution = rule, caution
        if port is None and host != LOCALHOST:
            raise SettingError(f"host = {host}: it is that of the page, so name its port, too")
        watched = {Path(each.address).resolve() for each in sources if each.kind == "folder"}
        if keep is not None and Path(keep).resolve() in watched:
            raise SettingError(
                f"keep = {keep}: its clips would be scored, too: name another folder"
            )
        names = [each.name for each in sources]
        self.pictures: dict[str, Pictures] = {}
        """By source, where an output shows them."""
        if keep is not None or port is not None:
            history = HISTORY if keep is not None else 0.0
            self.pictures = {name: Pictures(history) for name in names}
        self._lock = threading.Lock()
        self._webhook = Webhook(webhook) if webhook is not None else None
        self._keeper = Keeper(keep, self.pictures) if keep is not None else None
        self._page = None
        if port is not None:
            self._page = LivePage(host, port, names, rule, self.pictures, caution)
        self.url = self._page.url if self._page else None
        """Of the page."""

    def add(self, record: Record) -> list[Record]:
        """Pass a record on, from any thread; what follows from it, the record first."""
        with self._lock:
            if self._webhook and isinstance(record, AlarmRecord):
                self._webhook.add(record)
            if self._page:
                self._page.add(record)
            return [record, *(self._keeper.add(record) if self._keeper else ())]

    def end_clips(self, is_stopped: bool) -> list[Record]:
        """Write the clips that are not complete; the records of files that were written last."""
        with self._lock:
            return list(self._keeper.close(is_stopped)) if self._keeper else []

    def finish(self) -> None:
        """Wait for the webhook: all sources have ended, and nothing more comes."""
        if self._webhook:
            self._webhook.finish()

    def close(self) -> None:
        """Send what waits for the webhook, and end the page. May be called more than once."""
        if self._webhook:
            self._webhook.close()
        if self._page:
            self._page.close()
        self._webhook = self._page = None
