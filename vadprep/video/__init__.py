"""A video file, or a folder of frames, becomes frames; frames are resized and cropped."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
