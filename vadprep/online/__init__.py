"""Live sources become scores and alarms while they run, without the future."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
