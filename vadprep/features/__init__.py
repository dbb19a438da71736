"""The feature folder: one HDF5 shard for many videos, written, read, checked and merged."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
