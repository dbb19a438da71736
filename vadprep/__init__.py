"""From raw surveillance video to features and anomaly scores: the Python API.

``import vadprep`` needs numpy, h5py and lazy-loader. A name is imported from its room when it is
first used, so that reading features loads neither torch nor Ray.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lazy_loader import attach

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vadprep.core.errors import (
        CheckpointError,
        ClusterError,
        DecodeError,
        ExportError,
        FeaturesError,
        LeaseError,
        ManifestError,
        OutOfMemory,
        OutputError,
        SettingError,
        ShardError,
        SpecError,
        Stopped,
        TrainingError,
        VadprepError,
        WeightsError,
    )
    from vadprep.core.presets import PRESETS
    from vadprep.core.spec import Spec
    from vadprep.data import Manifest, find_videos, load_dataset, read_manifest
    from vadprep.evaluation import Scores, evaluate, plot_scores
    from vadprep.extraction import extract, extract_video
    from vadprep.features import (
        Features,
        compare_features,
        export_features,
        import_features,
        merge,
        open_features,
        status,
        verify,
    )
    from vadprep.heads import HEADS
    from vadprep.online import live
    from vadprep.training import Checkpoint, TrainingRun, evaluate_online, train

__all__ = [
    "HEADS", "PRESETS", "Spec", "__version__",
    "compare_features", "evaluate", "evaluate_online", "export_features", "export_onnx", "extract",
    "extract_video", "find_videos", "import_features", "live", "load_dataset", "merge",
    "open_features", "plot_scores", "read_manifest", "report", "score", "status", "train",
    "verify",
    "CheckpointError", "ClusterError", "DecodeError", "ExportError", "FeaturesError", "LeaseError",
    "ManifestError", "OutOfMemory", "OutputError", "SettingError", "ShardError", "SpecError",
    "Stopped", "TrainingError", "VadprepError", "WeightsError",
]  # fmt: skip

if not TYPE_CHECKING:  # so that a type checker knows the names
    __getattr__, *_ = attach(
        __name__,
        submod_attrs={
            "core.errors": [name for name in __all__ if name.endswith("Error")]
            + ["OutOfMemory", "Stopped"],
            "core.presets": ["PRESETS"],
            "core.spec": ["Spec"],
            "data": ["find_videos", "load_dataset", "read_manifest"],
            "evaluation": ["evaluate", "plot_scores"],
            "extraction": ["extract", "extract_video"],
            "features": [
                *("compare_features", "export_features", "import_features"),
                *("merge", "open_features", "status", "verify"),
            ],
            "heads": ["HEADS"],
            "online": ["live"],
            "training": ["evaluate_online", "train"],
        },
    )


def score(
    run: TrainingRun | str | Path | Checkpoint | Sequence[Checkpoint],
    source: Features | str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    weights: str | Path | None = None,
    flow_weights: str | Path | None = None,
    preset: str | None = None,
    dataset: str | None = None,
    manifest: Manifest | str | Path | None = None,
    device: str | None = None,
    on_report: Callable[[Any], None] | None = None,
) -> Scores:
    """Score videos, or features of them, with a trained head.

    Returns a mapping from video id to ``VideoScores``: ``snippets`` float64 [num_clips] in
    [0, 1], ``spans`` int64 [num_clips, 2] in source frames, ``frames()`` float64 [num_frames] and
    ``alarms(threshold)``. A run of several seeds gives the mean of their scores.

    :param run: what ``train`` returned, a run folder, or the folder of one of its seeds
    :param source: a feature folder (opened, its path or URL), or videos: a file, a folder, or a
        list of both. Their features are extracted with the specs of the run and kept in ``out``
    :param out: folder of the features of videos; ``RUN/scores/features`` by default
    :param weights: weights of the network, when the run's are neither random nor fetched
    :param flow_weights: the same for stream ``flow``
    :param preset: preset for the fields that the specs of imported features leave unknown
    :param dataset: an included data set that gives the ids of videos; else ids are absolute paths
    :param manifest: the same: a Manifest or the path of its CSV. A video belongs to the row whose
        path is the end of its own, or whose id is its name, unless it has another length
    :param device: ``cpu`` or ``cuda``, for the extraction; ``cuda`` by default where there is a
        GPU. The head is run on the CPU, so that its scores do not depend on the machine
    :param on_report: called with a Progress during the extraction, as by ``extract``

    Raises CheckpointError for a run that is damaged, has not ended, or was trained on features of
    another spec; SpecError for specs that cannot be extracted again; SettingError for arguments
    that do not fit; FeaturesError for a feature folder that cannot be read. A video that cannot
    be decoded is listed in ``missing``.
    """
    from vadprep.core.arguments import PATH, PATHS, check_kind, check_kinds
    from vadprep.core.errors import SettingError
    from vadprep.data import choose_manifest, ids_of_videos
    from vadprep.data.sources import list_videos
    from vadprep.evaluation.protocol import KINDS
    from vadprep.extraction import run_plan
    from vadprep.features import Features, open_features, stream_folders
    from vadprep.online import plan_for_run
    from vadprep.training import load_run, score_features

    given = {"out": out, "dataset": dataset, "manifest": manifest}
    check_kinds({**KINDS, "out": PATH}, given)
    words = "a feature folder, opened features, or videos: a file, a folder or a list of both"
    check_kind("source", source, PATHS._replace(words=words, types=(*PATH.types, Features)))
    checkpoints = load_run(run)
    if isinstance(source, Features) or (
        isinstance(source, str | Path) and ("://" in str(source) or stream_folders(source))
    ):
        if weights or flow_weights:
            raise SettingError("weights belong to videos: stored features name their own")
        return score_features(checkpoints, source, preset=preset)
    if out is None:
        if not isinstance(run, str | os.PathLike):
            raise SettingError("name the folder for the features of the videos: out=")
        out = Path(run) / "scores" / "features"
    videos = list_videos(source)
    plan = plan_for_run(
        checkpoints[0],
        out,
        weights=weights,
        flow_weights=flow_weights,
        preset=preset,
        device=device,
    )
    run_plan(plan, videos, Path(), on_report, retry_failed=True)
    with open_features(out) as features:
        ids = [video.video_id for video in videos.videos if video.video_id in features]
        scores = score_features(checkpoints, features, ids=ids, preset=preset)
    missing = tuple(video.video_id for video in videos.videos if video.video_id not in scores)
    if dataset is not None or manifest is not None:
        rows = choose_manifest(dataset, manifest, with_paths=False)
        names = ids_of_videos(rows, {each: scores[each].num_frames for each in scores})
        scores = replace(scores, by_id={names[each]: scores[each] for each in scores})
    return replace(scores, missing=missing)


def export_onnx(
    run: TrainingRun | str | Path | Checkpoint | Sequence[Checkpoint],
    out: str | Path,
    *,
    backbone: bool = False,
    weights: str | Path | None = None,
) -> dict[str, float]:
    """Write the head of a run as ONNX, and a short program that runs it with onnxruntime.

    ``out/head.onnx`` takes features [crops, length, dim] of any number of crops and snippets, and
    gives the mean over crops and over the seeds of the run. ``out/example.py`` runs it. Each ONNX
    file names the settings, specs, seeds and weights that it comes from. Returns the largest
    difference from torch of each, by its name: scores of random features of 1, 17 and 200 snippets.

    :param run: what ``train`` returned, a run folder, or the folder of one of its seeds
    :param out: folder of the files
    :param backbone: also write ``out/i3d-rgb.onnx``, Inception-I3D from uint8 clips to features
    :param weights: weights of the network, when the run's are neither random nor fetched

    Raises ExportError when a difference is larger than 1e-4, and writes no such file;
    CheckpointError for a run that is damaged or has not ended; SettingError for a head whose
    settings have no such form and for another network; WeightsError for weights that are missing
    or not those of the run; OutputError when the disk refuses. Needs the extra ``onnx``.
    """
    from vadprep.backbones.onnx_export import export_network, exported_weights
    from vadprep.core.atomic import make_folder, open_atomic
    from vadprep.core.errors import SettingError
    from vadprep.training import load_run
    from vadprep.training.onnx_export import EXAMPLE, export_head

    checkpoints, folder = load_run(run), Path(out)
    specs = checkpoints[0].specs
    if weights and not backbone:
        raise SettingError("weights are those of the network: ask for it by backbone")
    if backbone and "rgb" not in specs:
        raise SettingError("the run has no stream rgb: its network cannot be exported")
    loaded = exported_weights(specs["rgb"], weights) if backbone else None
    make_folder(folder)
    found = {"head.onnx": export_head(checkpoints, folder / "head.onnx")}
    if loaded:
        name = "i3d-rgb.onnx"
        found[name] = export_network(specs["rgb"], loaded, folder / name)
    with open_atomic(folder / "example.py") as stream:
        stream.write(EXAMPLE.encode())
    return found


def report(
    source: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    videos: str | Path | Sequence[str | Path] | None = None,
    dataset: str | None = None,
    manifest: Manifest | str | Path | None = None,
    previews: str = "worst:50",
    link: bool = False,
    threshold: float = 0.5,
    published: Mapping[str, str] | None = None,
    on_preview: Callable[[int, int], object] = lambda done, total: None,
) -> Path:
    """Write a folder of pages that a browser opens without a server; returns its index.html.

    :param source: run folders, folders of single seeds, or scores files, shown side by side; or
        one feature folder or its URL
    :param out: folder of the pages; what an earlier call made of the same videos is kept
    :param videos: for previews: the folder that the paths of the manifest start from, or a list
        of what was scored, as for ``score``. None are made without it, but for videos whose id is
        their path
    :param dataset: included data set with the ground truth, instead of the manifest of each run
    :param manifest: a manifest with the ground truth, opened or the path of its CSV
    :param previews: which videos get one: ``all``, ``test`` (those of the split), ``worst:N``
        (the largest misses and false alarms) or ``none``; of features the five most unusual
        videos have a picture unless ``none``
    :param link: play a source file itself where every browser can
    :param threshold: score from which on a frame is an alarm, until the reader moves the slider
    :param published: name of a run folder -> published figures, for the table of metrics
    :param on_preview: called with the number of previews made and to make

    Raises CheckpointError for scores that are missing or damaged, FeaturesError for features that
    are, ManifestError for ground truth that does not fit, SettingError for arguments, OutputError
    when the disk refuses.
    """
    from vadprep.data import choose_manifest
    from vadprep.data.sources import list_videos, rows_of_files
    from vadprep.evaluation.metrics import check_threshold
    from vadprep.evaluation.report.features_page import look, unusual_videos, write_features_page
    from vadprep.evaluation.report.reported_run import read_run
    from vadprep.evaluation.report.run_page import page_names, wanted_previews, write_run_pages
    from vadprep.features import stream_folders
    from vadprep.video.preview import make_previews

    check_threshold(threshold)
    sources, folder = [source] if isinstance(source, str | Path) else list(source), Path(out)
    root = Path(videos) if isinstance(videos, str | Path) else None
    if len(sources) == 1 and stream_folders(sources[0]):
        found = look(sources[0])
        wanted = [] if previews == "none" else unusual_videos(found)
        names = {each.video.video_id: f"{place:06d}" for place, each in enumerate(wanted)}
        made = make_previews(wanted, root, folder, names, True, on_preview)
        return write_features_page(folder, found, made)
    paths = [Path(each) for each in sources]
    given = choose_manifest(dataset, manifest, with_paths=False) if dataset or manifest else None
    runs = [read_run(path, given) for path in paths]
    runs = [replace(run, published=(published or {}).get(run.name, "")) for run in runs]
    rows = {video.video_id: video for run in runs for video in run.videos}
    if given and videos and root is None:
        files = [each.path for each in list_videos(videos).videos]
        for path, row in rows_of_files(given, files).items():
            rows[row.video_id] = replace(row, path=path)
    names = page_names(runs)
    wanted = wanted_previews(runs, rows, previews)
    made = make_previews(wanted, root, folder, names, link, on_preview)
    return write_run_pages(folder, runs, made, threshold)
