"""The feature folder: write, read, status, verify, merge."""

from vadprep.features.reader import Features, VideoFeatures, open_features

__all__ = ["Features", "VideoFeatures", "open_features"]
