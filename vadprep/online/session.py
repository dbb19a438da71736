"""A live session: readers, workers and heads of all sources, and the records that they give."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from vadprep.core.errors import SettingError
from vadprep.core.resources import worker_cores
from vadprep.extraction import Extractor, fixed_threads, make_extractor
from vadprep.features import STREAM_CHOICES
from vadprep.online.alarms import AlarmRule, AlarmState
from vadprep.online.clips import LiveClip
from vadprep.online.feed import Feed
from vadprep.online.inbox import Inbox
from vadprep.online.outputs import LOCALHOST, Outputs
from vadprep.online.records import Record, ScoreRecord, SourceRecord
from vadprep.online.run_plan import plan_for_run
from vadprep.online.scorer import SnippetMaker, WindowScorer, window_of
from vadprep.online.source import Source, parse_sources
from vadprep.training import Checkpoint, Run, load_run

STALL_SECONDS = 10.0
MOST_RECORDS = 1000
"""Records that wait for the caller; beyond them the workers wait, and clips are dropped."""
END_SECONDS = 3.0
"""That the work in hand may take when a session is closed."""
_WORKERS_DONE = object()


def live(
    run: Run,
    source: str | Path | Sequence[str | Path],
    *,
    threshold: float | tuple[float, float] = 0.5,
    least: float = 0.0,
    window: int | None = None,
    speed: float | None = None,
    weights: str | Path | None = None,
    flow_weights: str | Path | None = None,
    preset: str | None = None,
    device: str | None = None,
    stall_seconds: float = STALL_SECONDS,
    webhook: str | None = None,
    keep: str | Path | None = None,
    host: str = LOCALHOST,
    port: int | None = None,
) -> LiveSession:
    """Score what cameras see now; iterate over what it returns for the records.

    Each score is that of the newest snippet of the last ``window``: nothing after it is seen.
    Streams are connected again whenever they are lost. The session ends when all files have ended,
    or by ``close``, or when its ``with`` block is left; streams and folders never end.

    :param run: as for ``score``
    :param source: a URL (rtsp, rtsps, http, https, rtmp, udp, rtp), a device such as /dev/video0,
        which needs the program ffmpeg where PyAV has no V4L2, a video file, a folder that gets
        video files, or a list of these
    :param threshold: an alarm begins at a score of ``on`` or more and ends below ``off``: one
        number for both, or (on, off)
    :param least: seconds that an alarm must last before it is reported
    :param window: snippets that the head sees; by default as by ``vadprep eval --online``
    :param speed: how fast files play: 1 as if live; by default as fast as they can be scored
    :param weights, flow_weights, preset: as for ``score``
    :param device: ``cpu`` or ``cuda``; ``cuda`` by default where there is a GPU
    :param stall_seconds: a stream that gives nothing for so long is connected again
    :param webhook: http or https address that each alarm is posted to, as JSON
    :param keep: folder for clips of the alarms, MP4
    :param host, port: address of a page with picture, curve and alarms; port 0 is any free one. No
        port, no page; nothing listens beyond this machine unless ``host`` says so

    Raises what ``score`` raises for the run and its weights, SettingError for a source or setting
    that cannot be used, and OutputError for a folder that cannot be written.
    """
    on, off = threshold if isinstance(threshold, tuple) else (threshold, threshold)
    rule, sources = AlarmRule(on, off, least), parse_sources(source)
    if speed is not None and not 0 < speed < 1e6:
        raise SettingError(f"speed = {speed}: expected a number above 0")
    if speed is not None and not any(each.kind in ("file", "folder") for each in sources):
        raise SettingError(f"speed = {speed:g}: it goes with files, a stream has its own")
    if not 0 < stall_seconds < 1e6:
        raise SettingError(f"stall_seconds = {stall_seconds}: expected a number above 0")
    checkpoints = load_run(run)
    window = window_of(checkpoints, window)
    plan = plan_for_run(
        checkpoints[0], weights=weights, flow_weights=flow_weights, preset=preset, device=device
    )
    count = 1 if plan.device == "cuda" else min(len(sources), worker_cores())
    extractors = [make_extractor(plan) for _ in range(count)]
    caution = replace(checkpoints[0].origin, preset=preset or "").caution()
    outputs = Outputs(sources, rule, webhook, keep, host, port, caution)
    return LiveSession(checkpoints, extractors, sources, window, speed, stall_seconds, outputs)


class LiveSession:
    """An iterator over the records of a session that runs. A context manager that ends it.

    One worker thread for each of the ``extractors``.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        extractors: Sequence[Extractor],
        sources: Sequence[Source],
        window: int,
        speed: float | None,
        stall_seconds: float,
        outputs: Outputs,
    ) -> None:
        self.sources, self._streams = list(sources), checkpoints[0].streams
        self._outputs, self.page_url = outputs, outputs.url
        self.caution = outputs.caution
        """What has to be said beside every score; blank for an honest detector."""
        self._inbox = Inbox([_waits(each, speed) for each in sources])
        self._scorers = [WindowScorer(checkpoints, window) for _ in sources]
        self._alarms = [AlarmState(each.name, outputs.rule) for each in sources]
        self._records: queue.Queue[Record | object] = queue.Queue(MOST_RECORDS)
        self._is_done = False
        self._errors: list[BaseException] = []
        has_flow = "flow" in STREAM_CHOICES[self._streams]
        settings = extractors[0].spec, has_flow, speed, stall_seconds
        self._feeds = [
            Feed(number, each, self._inbox, *settings, outputs.pictures.get(each.name))
            for number, each in enumerate(sources)
        ]
        self._workers = [
            threading.Thread(target=self._work, args=(each,), name="live worker", daemon=True)
            for each in extractors
        ]
        self._working = len(self._workers)
        self._lock = threading.Lock()
        for thread in (*self._feeds, *self._workers):
            thread.start()

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        """The next record. Raises what ended a reader or a worker, if no stream was to blame."""
        while not self._is_done:
            try:
                record = self._records.get(timeout=0.5)  # so that a signal is met
            except queue.Empty:
                continue
            if record is _WORKERS_DONE:
                self._end()
                for error in self._errors:
                    raise error
                self._outputs.finish()
                break
            assert isinstance(record, Record)
            return record
        raise StopIteration

    def close(self) -> list[Record]:
        """End the session; the last records, which nobody has asked for yet.

        Clips in work are finished, those that wait are given up. Takes 5 seconds at most, and
        leaves no process behind.
        """
        self._inbox.close()
        last: list[Record] = []
        deadline = time.monotonic() + END_SECONDS
        while not self._is_done and (left := deadline - time.monotonic()) > 0:
            try:
                record = self._records.get(timeout=left)
            except queue.Empty:
                break
            if record is _WORKERS_DONE:
                self._end()
            else:
                assert isinstance(record, Record)
                last.append(record)
        self._is_done = True
        for feed in self._feeds:
            feed.join(max(0.0, deadline + 0.1 - time.monotonic()))
        self._outputs.close()
        return last

    def __enter__(self) -> LiveSession:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _end(self) -> None:
        self._is_done = True
        self._inbox.close()
        for thread in (*self._feeds, *self._workers):
            thread.join(END_SECONDS)
        self._errors += [feed.error for feed in self._feeds if feed.error]

    def _work(self, extractor: Extractor) -> None:
        """Score clips, in a thread of its own, until there are no more."""
        try:
            snippet_of = SnippetMaker(extractor, self._streams)
            with fixed_threads(1):
                self._inbox.work(lambda *item: self._do(snippet_of, *item))
        except BaseException as error:
            self._errors.append(error)
            self._inbox.close()
        finally:
            with self._lock:
                self._working -= 1
                is_last = not self._working
            if is_last:
                self._give_last()

    def _give_last(self) -> None:
        for alarm in self._alarms:
            for record in alarm.end(time.time()):
                self._put(record)
        for each in self._outputs.end_clips(is_stopped=self._inbox.is_closed):
            self._hand_over(each)
        self._hand_over(_WORKERS_DONE)

    def _put(self, record: Record) -> None:
        for each in self._outputs.add(record):
            self._hand_over(each)

    def _hand_over(self, item: Record | object) -> None:
        while not self._is_done:
            try:
                return self._records.put(item, timeout=0.5)
            except queue.Full:
                continue

    def _do(
        self, snippet_of: SnippetMaker, place: int, item: LiveClip | SourceRecord, dropped: int
    ) -> None:
        """Turn one item of the inbox into records."""
        scorer, alarm = self._scorers[place], self._alarms[place]
        if isinstance(item, SourceRecord):
            if item.state in ("lost", "ended", "failed"):
                for record in alarm.end(item.time):
                    self._put(record)
            return self._put(_with_dropped(item, dropped))
        if item.is_first:
            scorer.restart()
        score = scorer.add(snippet_of(item))
        delay = time.monotonic() - item.arrived
        moment = time.time() - delay
        changes = list(alarm.add(score, item.seconds, moment))
        self._put(
            ScoreRecord(
                source=self.sources[place].name,
                time=moment,
                frames=item.span,
                seconds=(round(item.seconds[0], 3), round(item.seconds[1], 3)),
                score=score,
                alarm=alarm.is_on,
                delay=round(delay, 4),
                lost_frames=item.lost_frames,
                dropped_clips=dropped,
            )
        )
        for record in changes:
            self._put(record)


def _with_dropped(record: SourceRecord, dropped: int) -> SourceRecord:
    return replace(record, dropped_clips=dropped)


def _waits(source: Source, speed: float | None) -> bool:
    """Whether a source may wait for the workers."""
    return source.kind in ("file", "folder") and speed is None
