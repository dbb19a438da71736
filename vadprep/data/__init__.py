"""Which videos exist, where their files are, and which labels they have."""

from vadprep.core.records import Interval, Video
from vadprep.data.datasets import (
    DatasetCheck,
    DatasetSummary,
    WrongLength,
    check_files,
    choose_manifest,
    dataset_names,
    leaks,
    load_dataset,
    named_manifest,
    split_names,
    split_path,
    summarize,
)
from vadprep.data.ground_truth import (
    READINGS,
    RULES,
    Decoded,
    FlatTruth,
    GroundTruthError,
    build_ground_truth,
    read_ground_truth,
)
from vadprep.data.ground_truth_check import Check, check_ground_truth
from vadprep.data.intervals import video_intervals
from vadprep.data.manifest import (
    FrameBounds,
    Manifest,
    apply_splits,
    frame_bounds,
    read_manifest,
)
from vadprep.data.sources import (
    FRAME_SUFFIXES,
    SourceIndex,
    file_names,
    find_videos,
    fingerprint,
    size_of,
)

__all__ = [
    "FRAME_SUFFIXES",
    "READINGS",
    "RULES",
    "Check",
    "DatasetCheck",
    "DatasetSummary",
    "Decoded",
    "FlatTruth",
    "FrameBounds",
    "GroundTruthError",
    "Interval",
    "Manifest",
    "SourceIndex",
    "Video",
    "WrongLength",
    "apply_splits",
    "build_ground_truth",
    "check_files",
    "check_ground_truth",
    "choose_manifest",
    "dataset_names",
    "file_names",
    "find_videos",
    "fingerprint",
    "frame_bounds",
    "leaks",
    "load_dataset",
    "named_manifest",
    "read_ground_truth",
    "read_manifest",
    "size_of",
    "split_names",
    "split_path",
    "summarize",
    "video_intervals",
]
