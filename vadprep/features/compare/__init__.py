"""Compare two sets of features of the same videos, and say what probably differs.

Needs numpy and h5py only.
"""

from vadprep.features.compare.compare import SAMPLE, Comparison, compare_features

__all__ = ["SAMPLE", "Comparison", "compare_features"]
