"""Import features of other code bases, and export ours for them, file for file.

Needs numpy and h5py only. Nothing that is read runs code.
"""

from vadprep.features.exchange.export import Exported, export_features
from vadprep.features.exchange.import_ import SPANS, Imported, import_features
from vadprep.features.exchange.layouts import LAYOUTS

__all__ = ["LAYOUTS", "SPANS", "Exported", "Imported", "export_features", "import_features"]
