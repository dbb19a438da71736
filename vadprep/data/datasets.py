"""The included data sets, counts of a manifest, and a manifest against the files under a root."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from vadprep.core.errors import DecodeError, ManifestError, SettingError, allowed_are, near_miss
from vadprep.core.video_files import VIDEO_SUFFIXES
from vadprep.data.ground_truth import build_ground_truth
from vadprep.data.manifest import Manifest, frame_bounds, read_manifest
from vadprep.data.sources import SourceIndex, source_paths


def dataset_names() -> list[str]:
    """Names of the included data sets, sorted."""
    return sorted(path.stem for path in _bundled_folder().glob("*.csv"))


def load_dataset(name: str) -> Manifest:
    """The manifest of the included data set ``name``: ``ucf``, ``xd``, ``msad``, ``dota``, ...

    ``dataset_names`` has all of them, ``manifests/README.md`` what each holds. Raises
    SettingError, a ValueError, for an unknown name, with the names that are known.
    """
    if name not in dataset_names():
        raise SettingError(f"data set {name!r}: {allowed_are(name, dataset_names())}")
    return read_manifest(_bundled_folder() / f"{name}.csv")


def named_manifest(name: str) -> Manifest:
    """The manifest in the CSV file ``name``, else the bundled one of that name.

    Raises SettingError for an unknown name, ManifestError for a file that does not exist.
    """
    is_path = os.path.isfile(name) or name.endswith(".csv") or os.sep in name
    return read_manifest(name) if is_path else load_dataset(name)


def choose_manifest(
    dataset: str | None, manifest: Manifest | str | Path | None, with_paths: bool = True
) -> Manifest:
    """The manifest that is given or read from a path, else that of an included data set.

    ``with_paths`` as in ``read_manifest``. Raises SettingError, a ValueError, without either and
    for an unknown data set; ManifestError for a bad file.
    """
    if manifest is None:
        if dataset is None:
            raise SettingError("name the videos by dataset= or manifest=")
        return load_dataset(dataset)
    return manifest if isinstance(manifest, Manifest) else read_manifest(manifest, with_paths)


def split_path(name: str | Path) -> Path:
    """The split file ``name``: a path, or the name of a bundled one, ``ped2-00`` to ``ped2-09``.

    Raises SettingError for a name that looks like that of a bundled one.
    """
    if os.path.exists(name):
        return Path(name)
    bundled = {path.stem: path for path in (_bundled_folder() / "splits").glob("*.csv")}
    if str(name) not in bundled and (hint := near_miss(name, bundled)):
        raise SettingError(f"split file {str(name)!r}: no such file{hint}")
    return bundled.get(str(name), Path(name))


def _bundled_folder() -> Path:
    """The folder of the bundled lists: installed, or beside the package in a source tree."""
    try:
        return Path(str(resources.files("vadprep.manifests")))
    except ModuleNotFoundError:
        return Path(__file__).resolve().parents[2] / "manifests"


class SplitSummary(NamedTuple):
    """Counts of one split; None where they are not known of every video.

    ``frames`` is the sum of ``num_frames``. ``scored_frames`` and ``positive_frames`` are those of
    the public ground truth, all of them and the anomalous ones.
    """

    split: str
    videos: int
    normal: int
    abnormal: int
    frames: int | None
    scored_frames: int | None
    positive_frames: int | None


def summarize(manifest: Manifest) -> list[SplitSummary]:
    """Counts of each split, in order of first appearance."""
    rows = []
    for split in manifest.splits:
        videos = manifest.in_split(split)
        labels = Counter(video.label for video in videos)
        frames = [video.num_frames for video in videos if video.num_frames is not None]
        total = sum(frames) if len(frames) == len(videos) else None
        scored = positive = None
        if all(v.num_frames_scored is not None and v.intervals is not None for v in videos):
            truth = build_ground_truth(manifest, "scored", split).labels
            scored, positive = len(truth), int(truth.sum())
        rows.append(SplitSummary(split, len(videos), labels[0], labels[1], total, scored, positive))
    return rows


def leaks(manifest: Manifest) -> list[str]:
    """A line for each split where the kind of file gives the label away.

    The kind is the suffix, or a folder of frames. It leaks if predicting the commoner label of
    each kind makes at most a tenth of the mistakes of predicting one label for all. Kinds go
    through different decoders and encoders, and a network learns such traces instead of anomalies.
    """
    found = []
    for split in manifest.splits:
        kinds: dict[str, Counter[int]] = defaultdict(Counter)
        for video in manifest.in_split(split):
            if video.label is not None:
                suffix = PurePosixPath(video.path).suffix.lower()
                kind = suffix if suffix in VIDEO_SUFFIXES else "folders of frames"
                kinds[kind][video.label] += 1
        total = sum(kinds.values(), Counter[int]())
        blind = min(total[0], total[1])  # mistakes with one label for all
        if blind and sum(min(labels[0], labels[1]) for labels in kinds.values()) <= blind / 10:
            counts = "; ".join(
                f"{kind}: {labels[0]} normal, {labels[1]} abnormal"
                for kind, labels in sorted(kinds.items())
            )
            found.append(
                f"split {split!r}: the kind of file gives the label away ({counts}): convert "
                f"all videos to one kind with one encoder before extracting"
            )
    return found


def check_files(
    manifest: Manifest, root: str | Path, count_frames: Callable[[Path], int] | None = None
) -> dict[str, list[str]]:
    """How the files under ``root`` differ from a manifest: what is wrong -> a line each.

    ``missing``, ``ambiguous``, ``unreadable`` and ``wrong length`` are about videos of the
    manifest; ``extra`` are paths relative to the root that no row asks for. ``count_frames`` gives
    the number of frames of a file or folder, or raises DecodeError. Without it no file is opened.
    """
    index = SourceIndex(root, manifest.videos)
    used: set[str] = set()
    found: dict[str, list[str]] = {
        kind: [] for kind in ("missing", "ambiguous", "unreadable", "wrong length", "extra")
    }
    for video in manifest.videos:
        try:
            place = index.find(video)
        except DecodeError:
            found["missing"].append(video.video_id)
            continue
        except ManifestError as error:
            found["ambiguous"].append(str(error))
            continue
        used.add(os.path.realpath(place))
        try:
            num_frames = count_frames(place) if count_frames else None
        except DecodeError as error:
            found["unreadable"].append(f"{video.video_id}: {error}")
            continue
        expected = frame_bounds(video)
        if num_frames is not None and not expected.allow(num_frames):
            line = f"{video.video_id}: {num_frames} frames, expected {expected}"
            found["wrong length"].append(line)
    places = sorted(path.as_posix() for path in source_paths(index.root))
    found["extra"] = [p for p in places if os.path.realpath(index.root / p) not in used]
    return found
