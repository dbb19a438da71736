"""What v-iashin/video_features computes, a second time: written from its description, not copied.

Decoded frames go in, features come out, by Pillow, torch and torchvision themselves. S3D is that of
kylemin/S3D under its own names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import av
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from support import inception
from torch import Tensor

Frames = NDArray[np.uint8]
"""RGB [n, height, width, 3]."""
State = Mapping[str, Tensor]
Network = Callable[[Tensor], Tensor]
"""Features [1, dim] of a clip float32 [1, 3, T, side, side]."""

MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)


def read(path: Path) -> tuple[Frames, list[float]]:
    """All frames of a file and their times in seconds, by PyAV alone."""
    with av.open(str(path)) as container:
        decoded = [
            (each.to_ndarray(format="rgb24"), each.time) for each in container.decode(video=0)
        ]
    return np.stack([frame for frame, _ in decoded]), [time for _, time in decoded]


def read_by_opencv(path: Path) -> Frames:
    """All frames of a file as I3D takes them."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    return np.stack(frames)


def by_rate(frames: Frames, times: list[float], fps: int) -> Frames:
    """What ffmpeg's filter ``fps`` gives by default, of frames that all last equally long.

    A frame takes the place that its time is nearest to, from there up to that of the next one.
    """
    end = times[-1] + (times[-1] - times[0]) / (len(times) - 1)
    places = [int(np.floor((time - times[0]) * fps + 0.5 + 1e-6)) for time in [*times, end]]
    return np.repeat(frames, np.diff(places), axis=0)


def stacks(frames: Tensor, length: int, one_more: bool = False) -> Iterator[Tensor]:
    """Whole stacks of ``length`` frames [length, ...], one after another; with ``one_more`` only
    such as another frame follows."""
    start = 0
    while start + length + one_more <= len(frames):
        yield frames[start : start + length]
        start += length


def i3d_views(frames: Frames, stack: int) -> Iterator[Tensor]:
    """Clips [1, 3, stack, 224, 224]: shorter side 256 by Pillow, centre crop, -1 to 1."""
    height, width = frames.shape[1:3]
    if height < width:
        size = (int(256 * width / height), 256)
    else:
        size = (256, int(256 * height / width))
    if min(height, width) != 256:
        frames = np.stack(
            [Image.fromarray(each).resize(size, Image.Resampling.BILINEAR) for each in frames]
        )
    top, left = (frames.shape[1] - 224) // 2, (frames.shape[2] - 224) // 2
    views = torch.from_numpy(frames[:, top : top + 224, left : left + 224].copy()).float()
    for clip in stacks(2 * views / 255 - 1, stack, one_more=True):
        yield clip.permute(3, 0, 1, 2)[None]


def torch_views(
    frames: Frames, resize: int | tuple[int, int], side: int, stack: int, normalise: bool
) -> Iterator[Tensor]:
    """Clips [1, 3, stack, side, side]: 0 to 1, resized as floats by torch, centre crop."""
    clip = torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 255
    if isinstance(resize, int):
        factor = resize / min(clip.shape[-2:])
        clip = F.interpolate(
            clip, scale_factor=factor, mode="bilinear", recompute_scale_factor=False
        )
    else:
        clip = F.interpolate(clip, size=resize, mode="bilinear")
    if normalise:
        mean, std = (torch.tensor(each).view(3, 1, 1, 1) for each in (MEAN, STD))
        clip = (clip - mean) / std
    top, left = (int(round((each - side) / 2)) for each in clip.shape[-2:])
    clip = clip[..., top : top + side, left : left + side]
    for each in stacks(clip.transpose(0, 1), stack):
        yield each.transpose(0, 1)[None]


def i3d(frames: Frames, state: State, stack: int) -> NDArray[np.float32]:
    """Features [n, 1024] by Inception-I3D, whose batch norm has torch's own epsilon."""
    return _features(
        i3d_views(frames, stack), lambda clip: inception.reference(state, clip, eps=1e-5)[0]
    )


def r21d(frames: Frames, network: Network) -> NDArray[np.float32]:
    """Features [n, 512] by torchvision's r2plus1d_18 without its last layer."""
    return _features(torch_views(frames, (128, 171), 112, 16, normalise=True), network)


def s3d(frames: Frames, state: State) -> NDArray[np.float32]:
    """Features [n, 1024] by kylemin's S3D, clips of 64 frames."""
    views = torch_views(frames, 224, 224, 64, normalise=False)
    return _features(views, lambda clip: s3d_features(state, clip))


@torch.inference_mode()
def _features(views: Iterator[Tensor], network: Network) -> NDArray[np.float32]:
    return torch.cat([network(each) for each in views]).numpy()


# ---------------------------------------------------------------- S3D of kylemin


def _unit(state: State, name: str, part: str, x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Convolution ``conv`` + part with zeros around, batch norm, ReLU."""
    kernel = state[f"{name}.conv{part}.weight"]
    padding = [size // 2 for size in kernel.shape[2:]]
    x = torch.conv3d(x, kernel, stride=stride, padding=padding)
    norm = f"{name}.bn{part}"
    statistics = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
    return F.batch_norm(
        x, *statistics, state[f"{norm}.weight"], state[f"{norm}.bias"], eps=1e-3
    ).relu()


def _basic(state: State, name: str, x: Tensor) -> Tensor:
    return _unit(state, name, "", x, (1, 1, 1))


def _separable(state: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    """Over space, then over time."""
    x = _unit(state, name, "_s", x, (1, stride, stride))
    return _unit(state, name, "_t", x, (stride, 1, 1))


def _mixed(state: State, name: str, x: Tensor) -> Tensor:
    two = [
        _separable(state, f"{name}.branch{i}.1", _basic(state, f"{name}.branch{i}.0", x))
        for i in (1, 2)
    ]
    pooled = _basic(state, f"{name}.branch3.1", F.max_pool3d(x, 3, 1, 1))
    return torch.cat([_basic(state, f"{name}.branch0.0", x), *two, pooled], dim=1)


def s3d_features(state: State, x: Tensor) -> Tensor:
    """Features [batch, 1024] of clips [batch, 3, T, H, W] in 0 to 1."""
    spatial = {"kernel_size": (1, 3, 3), "stride": (1, 2, 2), "padding": (0, 1, 1)}
    x = F.max_pool3d(_separable(state, "base.0", x, stride=2), **spatial)
    x = _separable(state, "base.3", _basic(state, "base.2", x))
    x = F.max_pool3d(x, **spatial)
    for layer in range(5, 16):
        if layer == 7:
            x = F.max_pool3d(x, 3, 2, 1)
        elif layer == 13:
            x = F.max_pool3d(x, 2, 2)
        else:
            x = _mixed(state, f"base.{layer}", x)
    return F.avg_pool3d(x, (2, *x.shape[3:]), stride=1).mean(dim=(2, 3, 4))
