"""TV-L1 optical flow: its settings, the pyramid they give, and the flow of frames in memory.

Zach, Pock and Bischof 2007, as in OpenCV's CPU class ``DualTVL1OpticalFlow``: the flow networks
of this field were trained on such flow (kinetics-i3d through MediaPipe).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from vadprep.core.errors import VadprepError, allowed_are
from vadprep.core.resources import worker_cores

MIN_SIZE = 3  # px: the shortest side that has a gradient everywhere
MIN_SIDE = 16  # px: no scale of the pyramid but the image itself has a shorter side


@dataclass(frozen=True)
class TVL1:
    """Settings; the defaults are those of OpenCV's CPU class."""

    tau: float = 0.25
    """Time step of the dual update."""
    lambda_: float = 0.15
    """Weight of the data term: the smaller, the smoother the flow."""
    theta: float = 0.3
    """Tightness of the coupling between the two fields."""
    scales: int = 5
    """Images in the pyramid, at most."""
    scale_step: float = 0.8
    """Side of a scale divided by the side of the next finer one."""
    warps: int = 5
    """Warps a scale."""
    epsilon: float = 0.01
    """px. A warp ends when the root mean square update of a pixel is below; 0: it never does."""
    inner_iterations: int = 30
    """Iterations between two medians, at most."""
    outer_iterations: int = 10
    """Medians a warp, at most."""
    median: int = 5
    """Side of the median filter in px: 5, 3, or 1 for none."""

    def __post_init__(self) -> None:
        rules = {
            "scale_step": (0 < self.scale_step < 1, "must be between 0 and 1"),
            "epsilon": (self.epsilon >= 0, "must be 0 or more"),
            "median": (self.median in (1, 3, 5), "allowed are 1, 3, 5"),
        }
        for name, value in asdict(self).items():
            is_allowed, rule = rules.get(name, (value > 0, "must be positive"))
            if not is_allowed:
                raise ValueError(f"{name} = {value!r}: {rule}")

    def text(self) -> str:
        """The settings as a spec holds them: ``tvl1 tau=0.25 lambda=0.15 ...``."""
        values = asdict(self).items()
        return " ".join(["tvl1", *(f"{name.rstrip('_')}={value}" for name, value in values)])

    @classmethod
    def parse(cls, text: str) -> TVL1:
        """The settings that ``text`` wrote; raises ValueError for any other text."""
        try:
            found = dict(part.split("=") for part in text.split()[1:])
            defaults = asdict(cls()).items()
            values = {name: type(x)(found.get(name.rstrip("_"), x)) for name, x in defaults}
            settings = cls(**values)
        except ValueError as error:
            raise ValueError(f"flow = {text!r}: {error}") from error
        if settings.text() != text:
            raise ValueError(f"flow = {text!r}: expected each setting once, as {cls().text()}")
        return settings

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(height, width) of each scale, the image itself first.

        Sides are rounded half to even, and the pyramid ends before a side below ``MIN_SIDE``.
        """
        sizes = [(height, width)]
        while len(sizes) < self.scales:
            height, width = round(height * self.scale_step), round(width * self.scale_step)
            if min(height, width) < MIN_SIDE:
                break
            sizes.append((height, width))
        return sizes


def bilinear_axis(
    size: int, source_size: int, step: float
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Of each of ``size`` pixels, the first of its two source pixels and the second's weight.

    As in OpenCV, pixels are ``step`` source pixels apart with their centres at halves, and the
    edge is repeated: there the weight is 0 and the second pixel does not count. All is computed
    in float64; only the weight is rounded to float32.
    """
    place = (np.arange(size) + 0.5) * step - 0.5
    first = np.floor(place)
    between = (first >= 0) & (first < source_size - 1)
    weight = np.where(between, place - first, 0).astype(np.float32)
    return first.clip(0, source_size - 1).astype(np.int64), weight


def tvl1(
    frames: NDArray[np.uint8], settings: TVL1 | None = None, device: str = "cpu", threads: int = 0
) -> NDArray[np.float32]:
    """Forward flow of each pair of neighbours: float32 [N - 1, H, W, 2], (u, v) in px a frame.

    ``frames`` is grey uint8 [N, H, W]. On the CPU ``threads`` pairs are worked on at once, by
    default one a core that this process may use; the flow does not depend on their number.
    Raises ValueError for other frames, and for a device that is neither ``cpu`` nor ``cuda``;
    VadprepError when there is no CUDA device.
    """
    settings = settings or TVL1()
    if frames.ndim != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames {frames.dtype} {frames.shape}: expected grey uint8 [N, H, W]")
    if len(frames) < 1 or min(frames.shape[1:]) < MIN_SIZE:
        raise ValueError(f"frames {frames.shape}: expected 1 or more, with sides of {MIN_SIZE} px")
    if device == "cpu":
        from vadprep.flow.cpu import tvl1_cpu

        return tvl1_cpu(frames, settings, threads or worker_cores())
    if device != "cuda":
        raise ValueError(f"{device = }: {allowed_are(device, ('cpu', 'cuda'))}")
    import torch

    if not torch.cuda.is_available():
        raise VadprepError("flow on cuda: no CUDA device is seen here, cpu needs none")
    from vadprep.flow.gpu import tvl1_cuda

    return tvl1_cuda(torch.from_numpy(frames).cuda(), settings)[0].cpu().numpy()
