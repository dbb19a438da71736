"""What waits is bounded, in order, and the oldest clip is the one that is dropped."""

from __future__ import annotations

import threading

import torch

from vadprep.online.clips import LiveClip
from vadprep.online.inbox import MOST_NOTICES, MOST_WAITING, Inbox
from vadprep.online.records import SourceRecord


def clip(number: int, lost: int = 0, is_first: bool = False) -> LiveClip:
    """Clip ``number`` of a source, which came at that second."""
    frames, span = torch.zeros(16, 2, 2, 3, dtype=torch.uint8), (16 * number, 16 * number + 16)
    return LiveClip(frames, (), span, (0, 1), float(number), is_first, lost)


def notice(reason: str = "") -> SourceRecord:
    return SourceRecord("cam", 0.0, "lost", reason)


def taken(inbox: Inbox) -> list[tuple[int, object, int]]:
    """What a worker gets when all sources have ended."""
    found: list[tuple[int, object, int]] = []
    for _ in inbox.lines:
        inbox.end()
    inbox.work(lambda *item: found.append(item))
    return found


def test_the_oldest_clip_is_dropped_and_what_it_says_is_handed_on() -> None:
    inbox = Inbox([False])
    for number in range(5):
        inbox.put(0, clip(number, lost=1, is_first=number == 0))
    found = taken(inbox)
    assert [item.span[0] // 16 for _, item, _ in found] == [3, 4]  # type: ignore[attr-defined]
    first = found[0][1]
    assert isinstance(first, LiveClip) and (first.lost_frames, first.is_first) == (4, True)
    assert [dropped for *_, dropped in found] == [3, 0]


def test_notices_keep_their_place_and_are_bounded() -> None:
    inbox = Inbox([False])
    inbox.put(0, clip(0))
    for number in range(MOST_NOTICES + 5):
        inbox.put(0, notice(str(number)))
    inbox.put(0, clip(1))
    items = [item for _, item, _ in taken(inbox)]
    assert len(items) == MOST_NOTICES + 2
    assert isinstance(items[0], LiveClip) and isinstance(items[-1], LiveClip)
    assert items[1].reason == "5"  # type: ignore[attr-defined]


def test_the_clip_that_waits_longest_comes_first() -> None:
    """Two clips that are alike are two clips: tensors are not compared."""
    inbox = Inbox([False, False])
    inbox.put(0, clip(2))
    inbox.put(1, clip(1))
    inbox.put(1, clip(3))
    assert [place for place, *_ in taken(inbox)] == [1, 0, 1]


def test_a_source_is_with_one_worker_at_a_time() -> None:
    inbox, order, lock = Inbox([True]), list[int](), threading.Lock()
    busy = 0

    def work(place: int, item: object, dropped: int) -> None:
        nonlocal busy
        with lock:
            busy += 1
            assert busy == 1
        threading.Event().wait(0.01)
        with lock:
            busy -= 1
            order.append(item.span[0] // 16)  # type: ignore[attr-defined]

    workers = [threading.Thread(target=inbox.work, args=(work,)) for _ in range(3)]
    for each in workers:
        each.start()
    for number in range(10):
        inbox.put(0, clip(number))  # waits: nothing is dropped
        assert inbox.lines[0].clips() <= MOST_WAITING
    inbox.end()
    for each in workers:
        each.join()
    assert order == list(range(10))


def test_closing_lets_everyone_go() -> None:
    inbox = Inbox([True])
    for number in range(MOST_WAITING):
        inbox.put(0, clip(number))
    writer = threading.Thread(target=inbox.put, args=(0, clip(9)))
    writer.start()
    inbox.close()
    writer.join(5)
    assert not writer.is_alive() and not inbox.sleep(10)
    inbox.work(lambda *item: None)  # returns
