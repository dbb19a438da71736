"""Import features of other code bases, and export ours for them, file for file.

Needs numpy and h5py only. Nothing that is read runs code.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
