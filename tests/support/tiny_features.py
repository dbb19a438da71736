"""A feature set in memory, with just what training and scoring read of the loader."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vadprep.core.clips import Clock
from vadprep.core.presets import resolve
from vadprep.core.records import Video
from vadprep.data import Manifest


@dataclass
class TinyVideo:
    video_id: str
    streams: dict[str, np.ndarray]
    fps: float = 25.0
    times: None = None

    @property
    def clock(self):
        return self.fps and Clock(self.fps)

    def stream(self, name):
        return self.streams[name]

    @property
    def num_clips(self):
        return len(next(iter(self.streams.values())))

    @property
    def num_frames(self):
        return 16 * self.num_clips + 5

    @property
    def spans(self):
        edges = 16 * np.arange(self.num_clips + 1)
        return np.stack([edges[:-1], edges[1:]], axis=1)


class TinyFeatures(dict):
    """Video id -> TinyVideo, with streams and specs."""

    def __init__(self, videos, overrides=None):
        super().__init__({video.video_id: video for video in videos})
        self.streams = tuple(next(iter(self.values())).streams)
        self.specs = {
            stream: resolve("i3d", "cpu", ("random:0", "0" * 64), overrides or {}, stream)
            for stream in self.streams
        }


def tiny_set(num_train=8, num_test=6, dim=6, crops=2, seed=0, flow=False):
    """Features and manifest of videos whose anomaly is a shift of the first feature.

    Odd videos are abnormal, in their second half. Lengths differ from video to video.
    """
    rng = np.random.default_rng(seed)
    videos, rows = [], []
    for index in range(num_train + num_test):
        num_clips, label = 4 + index % 5, index % 2
        half = num_clips // 2
        streams = {}
        for stream in ("rgb", "flow")[: 1 + flow]:
            values = rng.normal(size=(num_clips, crops, dim))
            values[half:, :, 0] += 6 * label
            streams[stream] = values.astype(np.float16)
        # An id that no file system likes, and no order hidden in it.
        video_id = f"v/{(index * 7) % 97:02d}#=.{index}"
        videos.append(TinyVideo(video_id, streams))
        intervals = ((16 * half, 16 * num_clips),) if label else ()
        split = "train" if index < num_train else "test"
        rows.append(Video(video_id, f"{index}.mp4", split=split, label=label, intervals=intervals))
    return TinyFeatures(videos), Manifest(Path("tiny.csv"), tuple(rows))
