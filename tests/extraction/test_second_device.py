"""Frames are resized, cropped and made into flow images on the device of the network: here on one
that stands in for a GPU, where a tensor that was forgotten on the CPU raises RuntimeError.
"""

from __future__ import annotations

import numpy as np
import pytest
from support.other_device import DEVICE, other_device
from support.standin import StandIn, standin_branch, standin_spec
from support.videos import write_video

from vadprep.core.records import Task, Video
from vadprep.extraction import streams
from vadprep.extraction.extractor import Extractor
from vadprep.features.shard import DONE, read_video

SETTINGS = {
    "one crop": dict(crops=1),
    "ten crops": dict(crops=10, crop_order="xd"),
    "floating point": dict(filter="torch-bilinear"),
    "JPEG": dict(frames="jpeg95"),
    "whole frames": dict(resize="48x64", crop_size=48),
    "another rate": dict(fps="24", clip_stride=8),
}


class There(StandIn):
    device = DEVICE


@pytest.mark.parametrize("name", SETTINGS)
def test_a_video_has_the_same_features_there(name, tmp_path, monkeypatch):
    monkeypatch.setitem(streams.STEP_FRAMES, "meta", 64)
    path = write_video(tmp_path / "a.mp4", 70, size=(80, 60))
    small = dict(resize="short 40", crop_size=32) | SETTINGS[name]
    specs = [standin_spec("rgb", **small)]
    if small.get("filter") is None:  # TV-L1 takes whole grey levels
        specs.append(standin_spec("flow", **small))

    def stored(network, folder):
        folder.mkdir()
        extractor = Extractor([standin_branch(spec, network) for spec in specs])
        targets = {spec.stream: folder / f"{spec.stream}.h5" for spec in specs}
        report = extractor(Task(Video("a", "a.mp4"), targets, path))
        assert report.status == DONE, report
        return {each: read_video(target) for each, target in targets.items()}

    here = stored(StandIn(), tmp_path / "here")
    with other_device():
        there = stored(There(), tmp_path / "there")
    for stream, video in here.items():
        np.testing.assert_array_equal(there[stream].spans, video.spans)
        np.testing.assert_allclose(there[stream].features(), video.features(), atol=1e-3)
