"""Videos become features: one video in memory, or many into a folder, here or on a cluster."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
