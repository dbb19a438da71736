"""Training: features become bags, a head is trained on them, and scores are made by it."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
