"""Networks that turn clips into snippets, by graph id, with their weights.

Commands on weights files use ``vadprep.backbones.weights`` and its modules.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
