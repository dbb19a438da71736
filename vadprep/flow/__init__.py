"""TV-L1 optical flow of grey frames, on the CPU (numba) or a GPU (Triton)."""

from __future__ import annotations

from vadprep.flow.settings import TVL1

__all__ = ["TVL1"]
