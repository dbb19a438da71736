"""The settings of TV-L1 optical flow and the sizes of its pyramid.

Zach, Pock and Bischof 2007, as OpenCV's CPU class ``DualTVL1OpticalFlow`` carries it out: what
the flow networks of this field were trained on (kinetics-i3d through MediaPipe).
"""

from __future__ import annotations

from dataclasses import dataclass

MIN_SIDE = 16
"""px. The pyramid has no scale with a shorter side, but for the image itself."""


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
    """Side of a scale by that of the next finer one."""
    warps: int = 5
    """Warps a scale."""
    epsilon: float = 0.01
    """px. The iterations of a warp end when the root mean square update of a pixel is below;
    0 never ends them early."""
    inner_iterations: int = 30
    """Iterations between two medians, at most."""
    outer_iterations: int = 10
    """Medians a warp, at most."""
    median: int = 5
    """Side of the median filter in px: 5, 3, or 1 for none."""

    def __post_init__(self) -> None:
        for name in ("tau", "lambda_", "theta"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)!r}: must be positive")
        for name in ("scales", "warps", "inner_iterations", "outer_iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)!r}: must be 1 or more")
        if not 0 < self.scale_step < 1:
            raise ValueError(f"scale_step = {self.scale_step!r}: must be between 0 and 1")
        if not self.epsilon >= 0:
            raise ValueError(f"epsilon = {self.epsilon!r}: must be 0 or more")
        if self.median not in (1, 3, 5):
            raise ValueError(f"median = {self.median!r}: allowed are 1, 3, 5")

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
