"""TV-L1 optical flow of grey frames on the CPU (numba) or a GPU (Triton); its images and files."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
