from .export import Exported as Exported, export_features as export_features
from .import_ import SPANS as SPANS, Imported as Imported, import_features as import_features
from .layouts import LAYOUTS as LAYOUTS
