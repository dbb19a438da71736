from .datasets import (
    check_files as check_files,
    choose_manifest as choose_manifest,
    dataset_names as dataset_names,
    leaks as leaks,
    load_dataset as load_dataset,
    named_manifest as named_manifest,
    split_path as split_path,
    summarize as summarize,
)
from .glances import (
    drawn_glances as drawn_glances,
    manifest_text as manifest_text,
    read_glances as read_glances,
    with_glances as with_glances,
)
from .ground_truth import (
    READINGS as READINGS,
    RULES as RULES,
    Check as Check,
    Decoded as Decoded,
    FlatTruth as FlatTruth,
    GroundTruthError as GroundTruthError,
    build_ground_truth as build_ground_truth,
    check_ground_truth as check_ground_truth,
    read_ground_truth as read_ground_truth,
)
from .ids import (
    hint_of_ids as hint_of_ids,
    ids_of_paths as ids_of_paths,
    similar_ids as similar_ids,
)
from .intervals import video_intervals as video_intervals
from .manifest import (
    FrameBounds as FrameBounds,
    Manifest as Manifest,
    apply_splits as apply_splits,
    frame_bounds as frame_bounds,
    read_manifest as read_manifest,
)
from .sources import (
    FRAME_SUFFIXES as FRAME_SUFFIXES,
    SourceIndex as SourceIndex,
    file_names as file_names,
    find_videos as find_videos,
    fingerprint as fingerprint,
    ids_of_videos as ids_of_videos,
    paths_of_videos as paths_of_videos,
    size_of as size_of,
)
