"""What a run has to do: tasks in the order in which they are handed out, made when they are.

A task with its paths takes a kilobyte; of a plan of a million videos only a few numbers are held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from vadprep.core.errors import DecodeError
from vadprep.core.records import Task
from vadprep.data import Manifest, SourceIndex, size_of
from vadprep.features.folder import StreamFolder

Lacking = Mapping[str, tuple[StreamFolder, set[str]]]
"""Stream -> its folder, and the ids of the videos that are to be done."""


class Tasks(Sequence[Task]):
    """The videos of a manifest that lack a stream, the longest first.

    ``work`` sums frames where the manifest has those of all of them, else bytes, as ``unit`` says.
    Raises ManifestError for a video that is not where its path says, and twice elsewhere.
    """

    def __init__(self, manifest: Manifest, root: Path, lacking: Lacking) -> None:
        self._videos = manifest.videos
        self._root = root
        self._lacking = lacking
        left = [n for n, video in enumerate(self._videos) if self._streams(video.video_id)]
        self._elsewhere = dict(self._found_elsewhere(left))
        """By number in the manifest: where a video was found instead, or why it was not."""
        knows_frames = all(self._videos[number].num_frames for number in left)
        self.unit = "frames" if knows_frames else "bytes"
        cost = self._frames if knows_frames else self._bytes
        work = np.fromiter(map(cost, left), float, len(left))
        self.work = float(work.sum())
        self._order = np.array(left, np.int64)[np.argsort(-work, kind="stable")]
        ids = (self._videos[number].video_id for number in left)
        self._work_of = dict(zip(ids, work.tolist(), strict=True))

    def _streams(self, video_id: str) -> list[str]:
        return [name for name, (_, lacks) in self._lacking.items() if video_id in lacks]

    def _found_elsewhere(self, numbers: Iterable[int]) -> Iterator[tuple[int, Path | str]]:
        index = SourceIndex(self._root)
        for number in numbers:
            video = self._videos[number]
            try:
                if not index.has(video):
                    yield number, index.find(video)
            except DecodeError as error:
                yield number, str(error)

    def _frames(self, number: int) -> int:
        return self._videos[number].num_frames or 0

    def _bytes(self, number: int) -> int:
        source = self._source(number)
        return 0 if isinstance(source, str) else size_of(source)

    def _source(self, number: int) -> Path | str:
        return self._elsewhere.get(number) or self._root / self._videos[number].path

    def work_of(self, video_id: str) -> float:
        """Frames or bytes of a video of these tasks; 0 of another."""
        return self._work_of.get(video_id, 0.0)

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        if isinstance(index, slice):
            return [self._task(int(number)) for number in self._order[index]]
        return self._task(int(self._order[index]))

    def _task(self, number: int) -> Task:
        video, source = self._videos[number], self._source(number)
        targets = {}
        for name in self._streams(video.video_id):
            folder = self._lacking[name][0]
            targets[name] = folder.partial_video(folder.plan.places[video.video_id])
        if isinstance(source, str):
            return Task(video, targets, missing=source)
        return Task(video, targets, source)
