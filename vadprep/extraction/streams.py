"""Resized frames -> the snippets of one stream of one video, block by block.

    frames -> pictures (RGB, or flow) -> clips of 16 -> crops -> batches -> network -> snippets

Frames are pushed in, so that one pass over a video feeds both streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vadprep.backbones.adaptive_batch import Fitting, Network
from vadprep.core.clips import CLIP_LENGTH, num_clips
from vadprep.core.crops import Boxes
from vadprep.core.spec import Spec
from vadprep.extraction.timing import Stopwatch
from vadprep.flow.quantise import ComputedFlow, FlowMethod, FlowPictures, FlowSource, Quantisation
from vadprep.flow.saved import SavedFlow
from vadprep.video.transforms import cut

STEP_FRAMES = {"cpu": 16, "cuda": 64}
"""Frames in the works at a time: a stop waits for their flow, a GPU wants many.

Blocks of the decoder are a few large frames.
"""


class Pictures(Protocol):
    """What the network of a stream sees of a video: one picture a frame, in order."""

    def add(self, frames: Tensor) -> Tensor:
        """Pictures [m, h, w, channel] that frames uint8 [n, h, w, 3] complete."""

    def rest(self) -> Tensor:
        """Pictures that the end of the video completes."""

    def seen(self, crop: Tensor, is_mirrored: bool) -> Tensor:
        """The channels of a crop [16, size, size, channel] that go into the network."""


class RGBPictures:
    """The frames themselves."""

    def add(self, frames: Tensor) -> Tensor:
        return frames

    def rest(self) -> Tensor:
        return torch.empty(0)

    def seen(self, crop: Tensor, is_mirrored: bool) -> Tensor:
        return crop


@dataclass(frozen=True)
class FlowStage:
    """Where the flow of stream ``flow`` comes from, and whether it is saved."""

    method: FlowMethod
    save_to: SavedFlow | None = None
    read_from: SavedFlow | None = None
    """Flow is read from here instead of being computed."""


@dataclass(frozen=True)
class Branch:
    """One stream of an extraction: its settings, its network, and of ``flow`` its flow."""

    spec: Spec
    network: Network
    flow: FlowStage | None = None

    def pictures(self, video_id: str, resources: ExitStack) -> Pictures:
        """What the network sees of one video; files it needs are closed by ``resources``.

        Saved flow appears when ``resources`` is closed without an exception. Raises DecodeError
        when there is no saved flow to read.
        """
        if self.flow is None:
            return RGBPictures()
        quantisation = Quantisation(self.spec.quantisation, int(self.spec.flow_bound))
        source: FlowSource
        if self.flow.read_from:
            device = self.network.device
            reader = self.flow.read_from.reader(video_id, quantisation, device)
            source = resources.enter_context(reader)
        else:
            saver = self.flow.save_to and self.flow.save_to.writer(video_id)
            keep = resources.enter_context(saver) if saver else None
            source = ComputedFlow(self.flow.method, quantisation, keep)
        step = STEP_FRAMES[self.network.device.type]
        return FlowPictures(source, quantisation, self.spec.flip_rule, step)


class Snippets:
    """The snippets of one stream of one video, given out as soon as they are computed."""

    def __init__(
        self, spec: Spec, network: Fitting, pictures: Pictures, boxes: Boxes, watch: Stopwatch
    ) -> None:
        self._pictures, self._boxes, self._watch = pictures, boxes, watch
        self._clips = Clips(spec.tail, spec.clip_length)
        self._batches = Batches(network, spec, watch)
        self._step = STEP_FRAMES[network.device.type]
        self._stage = "flow" if spec.stream == "flow" else "resize"

    def add(self, frames: Tensor) -> Iterator[NDArray[np.float32]]:
        """Snippets [n, num_crops, dim] that the next frames uint8 [n, h, w, 3] complete."""
        for part in frames.split(self._step):
            with self._watch.stage(self._stage):
                pictures = self._pictures.add(part)
            yield from self._features(self._clips.add(pictures))

    def rest(self) -> Iterator[NDArray[np.float32]]:
        """Snippets that the end of the video completes."""
        with self._watch.stage(self._stage):
            pictures = self._pictures.rest()
        yield from self._features(self._clips.add(pictures))
        yield from self._features(self._clips.rest())
        yield from self._batches.rest()

    def _features(self, clips: Iterable[Tensor]) -> Iterator[NDArray[np.float32]]:
        for clip in clips:
            yield from self._batches.add(self._views(clip))

    def _views(self, clip: Tensor) -> Tensor:
        """Crops [num_crops, 16, size, size, channel] of a clip [16, h, w, channel]."""
        crops = (self._pictures.seen(cut(clip, box), box.mirrored) for box in self._boxes)
        return torch.stack(list(crops))


class Clips:
    """Clips [length, h, w, channel] of the pictures of a video, as the tail rule has them.

    A clip is given out as soon as the rule is sure to keep it, so that at most a block and a
    clip are held.
    """

    def __init__(self, tail: str, length: int = CLIP_LENGTH) -> None:
        self._tail, self._length = tail, length
        self._waiting: list[Tensor] = []
        self._seen = self._given = 0

    def add(self, pictures: Tensor) -> Iterator[Tensor]:
        """Clips that the next pictures [n, h, w, channel] make sure of."""
        self._waiting += pictures.unbind()
        self._seen += len(pictures)
        while min(self._count(), self._seen // self._length) > self._given:
            yield torch.stack(self._waiting[: self._length])
            del self._waiting[: self._length]
            self._given += 1

    def rest(self) -> Iterator[Tensor]:
        """The clip that is filled up with the last picture, where the rule has one."""
        if self._count() > self._given:
            missing = self._length - len(self._waiting)
            yield torch.stack(self._waiting + [self._waiting[-1]] * missing)

    def _count(self) -> int:
        return num_clips(self._seen, self._tail, self._length)


class Batches:
    """Snippets of clips, through a network in batches of ``spec.batch`` views.

    The views of all clips of the video pass in order; the last batch is padded with zeros. So a
    snippet never depends on its neighbours or on the moment, while memory suffices.
    """

    def __init__(self, network: Fitting, spec: Spec, watch: Stopwatch) -> None:
        self._network, self._watch = network, watch
        self._size, self._crops = spec.batch, spec.crops
        self._pending: list[Tensor] = []
        self._ready: list[Tensor] = []

    def add(self, views: Tensor) -> Iterator[NDArray[np.float32]]:
        """Snippets [n, num_crops, dim] that the views [num_crops, 16, ...] of a clip complete."""
        self._pending += views.unbind()
        while len(self._pending) >= self._size:
            self._compute(self._pending[: self._size])
            del self._pending[: self._size]
        yield from self._whole()

    def rest(self) -> Iterator[NDArray[np.float32]]:
        """Snippets of the last, padded batch."""
        if self._pending:
            self._compute(self._pending)
            self._pending = []
        yield from self._whole()

    def _compute(self, views: list[Tensor]) -> None:
        with self._watch.stage("compute"):
            self._ready += self._network(views).unbind()

    def _whole(self) -> Iterator[NDArray[np.float32]]:
        whole = len(self._ready) // self._crops * self._crops
        if whole:
            features = torch.stack(self._ready[:whole]).unflatten(0, (-1, self._crops))
            del self._ready[:whole]
            yield features.numpy()
