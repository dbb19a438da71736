"""Resized frames -> the features of one stream of one video, block by block.

    frames -> pictures (RGB, or flow) -> clips of 16 -> crops -> batches -> network -> features

Frames are pushed in, so that one pass over a video feeds both streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vadprep.backbones.backbone import AdaptiveBatch, Network
from vadprep.core.clips import CLIP_LENGTH, num_clips
from vadprep.core.crops import Boxes
from vadprep.core.spec import Spec
from vadprep.extraction.timing import Stopwatch
from vadprep.flow import ComputedFlow, FlowImages, FlowMethod, FlowSource, Quantisation, SavedFlow
from vadprep.video import crop

STEP_FRAMES = {"cpu": 16, "cuda": 64}
"""Frames in progress at a time: a stop waits for their flow, a GPU wants many.

Blocks of the decoder are a few large frames.
"""


class Branch:
    """One stream of an extraction: its spec, its network, and of ``flow`` how flow is computed,
    where it is saved, and where it is read from instead."""

    def __init__(
        self,
        spec: Spec,
        network: Network,
        flow: FlowMethod | None = None,
        save_to: SavedFlow | None = None,
        read_from: SavedFlow | None = None,
    ) -> None:
        self.spec, self.dim = spec, network.dim
        self.batches = AdaptiveBatch(network, spec.batch)
        self._flow, self._save_to, self._read_from = flow, save_to, read_from

    @property
    def reduced_batch(self) -> int | None:
        """Views a batch, where memory sufficed for fewer than the spec has."""
        return self.batches.batch if self.batches.batch < self.spec.batch else None

    def flow_images(self, video_id: str, resources: ExitStack, path: str = "") -> FlowImages | None:
        """The flow of one video; None of stream ``rgb``. ``resources`` closes its files.

        Saved flow appears when ``resources`` is closed without an exception. Flow that was saved
        when ids had suffixes is read under ``path``. Raises DecodeError when there is none.
        """
        if self.spec.stream == "rgb":
            return None
        quantisation = Quantisation(self.spec.quantisation, int(self.spec.flow_bound))
        device = self.batches.device
        source: FlowSource
        if self._read_from:
            if path and not self._read_from.holds(video_id) and self._read_from.holds(path):
                video_id = path
            reader = self._read_from.reader(video_id, quantisation, device)
            source = resources.enter_context(reader)
        else:
            assert self._flow is not None
            saver = self._save_to and self._save_to.writer(video_id)
            keep = resources.enter_context(saver) if saver else None
            source = ComputedFlow(self._flow, quantisation, keep)
        return FlowImages(source, quantisation, self.spec.flip_rule, STEP_FRAMES[device.type])


class Snippets:
    """The features of one stream of one video, given out as soon as they are computed.

    The views of all clips pass the network in order, in batches of ``spec.batch``; the last batch
    is padded with zeros. So a feature never depends on its neighbours or on the moment, while
    memory suffices. ``flow`` is None of stream ``rgb``, whose pictures are the frames.
    """

    def __init__(
        self, branch: Branch, flow: FlowImages | None, boxes: Boxes, watch: Stopwatch
    ) -> None:
        self._spec, self._network, self._flow = branch.spec, branch.batches, flow
        self._boxes, self._watch = boxes, watch
        spec = branch.spec
        self._clips = Clips(spec.tail, spec.clip_length, spec.clip_stride)
        self._views: list[Tensor] = []
        """Views [16, size, size, channel] that wait for a full batch."""
        self._ready: list[Tensor] = []
        """Features [dim] of a clip whose other crops are still to come."""

    def add(self, frames: Tensor) -> Iterator[NDArray[np.float32]]:
        """Features [n, num_crops, dim] that the next frames uint8 [n, h, w, 3] complete."""
        for pictures in frames.split(STEP_FRAMES[self._network.device.type]):
            if self._flow:
                with self._watch.stage("flow"):
                    pictures = self._flow.add(pictures)
            yield from self._features(self._clips.add(pictures))

    def flush(self) -> Iterator[NDArray[np.float32]]:
        """Features that the end of the video completes, those of the last batch among them."""
        if self._flow:
            with self._watch.stage("flow"):
                pictures = self._flow.flush()
            yield from self._features(self._clips.add(pictures))
        yield from self._features(self._clips.flush())
        if self._views:
            yield from self._computed(len(self._views))

    def _features(self, clips: Iterable[Tensor]) -> Iterator[NDArray[np.float32]]:
        for clip in clips:
            seen = clip[pooled_frames(self._spec.pooling, len(clip))]
            for box in self._boxes:
                part = crop(seen, box)
                self._views.append(self._flow.channels(part, box.mirrored) if self._flow else part)
            while len(self._views) >= self._spec.batch:
                yield from self._computed(self._spec.batch)

    def _computed(self, count: int) -> Iterator[NDArray[np.float32]]:
        """Run the first ``count`` views through the network; give out the clips that are whole."""
        with self._watch.stage("compute"):
            self._ready += self._network(self._views[:count]).unbind()
        del self._views[:count]
        crops = self._spec.crops
        whole = len(self._ready) // crops * crops
        if whole:
            features = torch.stack(self._ready[:whole]).unflatten(0, (-1, crops))
            del self._ready[:whole]
            yield features.numpy()


def pooled_frames(pooling: str, length: int) -> slice:
    """The frames of a clip of ``length`` that the network sees, by ``Spec.pooling``."""
    if pooling == "middle":
        return slice(length // 2, length // 2 + 1)
    return slice(1) if pooling == "first" else slice(None)


class Clips:
    """Clips [length, h, w, channel] of the pictures of a video, as the tail rule has them.

    A clip is given out as soon as the rule is sure to keep it, so that at most a block and a
    clip are held.
    """

    def __init__(self, tail: str, length: int = CLIP_LENGTH, stride: int | None = None) -> None:
        self._tail, self._length, self._stride = tail, length, stride or length
        self._waiting: list[Tensor] = []
        self._seen = self._given = 0

    def add(self, pictures: Tensor) -> Iterator[Tensor]:
        """Clips that the next pictures [n, h, w, channel] make sure of."""
        self._waiting += pictures.unbind()
        self._seen += len(pictures)
        while self._count() > self._given and len(self._waiting) >= self._length:
            yield torch.stack(self._waiting[: self._length])
            del self._waiting[: self._stride]
            self._given += 1

    def flush(self) -> Iterator[Tensor]:
        """The clip that is filled up with the last picture, where the rule has one."""
        if self._count() > self._given:
            missing = self._length - len(self._waiting)
            yield torch.stack(self._waiting + [self._waiting[-1]] * missing)

    def _count(self) -> int:
        return num_clips(self._seen, self._tail, self._length, self._stride)
