"""Reading features: a feature folder against memory-mapped .npy files of the same numbers."""

from __future__ import annotations

import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from vadprep.core.presets import resolve
from vadprep.data import load_dataset
from vadprep.features import open_features
from vadprep.features.folder import SHARD_SIZE, StreamFolder
from vadprep.features.journal import Row, csv_bytes, row_of
from vadprep.features.shard import DONE, StoredVideo, crc32, write_shard

CROPS, DIM = 1, 1024
WORKERS = 4
ROUNDS = 3

Read = Callable[[str], NDArray[Any]]


@dataclass(frozen=True)
class Reading(Dataset[torch.Tensor]):
    """One side of the comparison, as a data set of PyTorch."""

    read: Read
    ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.read(self.ids[index]))


@dataclass(frozen=True)
class Npy:
    """Features as one .npy file a video, each mapped into memory and copied from there."""

    folder: Path

    def __call__(self, video_id: str) -> NDArray[Any]:
        return np.array(np.load(self.folder / f"{video_id}.npy", mmap_mode="r"))


class Shards:
    """Features as a feature folder."""

    def __init__(self, folder: Path) -> None:
        self.features = open_features(folder)

    def __call__(self, video_id: str) -> NDArray[Any]:
        return self.features[video_id].rgb


def bench_loader(videos: int) -> Iterator[tuple[str, float, float]]:
    """Processor seconds for all features of ``videos`` synthetic videos: ours, and .npy files.

    First all videos for the first time, when what a shard says of each is checked, as at the start
    of a training; then in order, at random, and by DataLoader workers, the sum over all processes.
    The two sides take turns, and the median of ``ROUNDS`` rounds counts. All files are in the cache
    of the operating system.
    """
    with tempfile.TemporaryDirectory(prefix="vadprep-bench-") as name:
        folder = Path(name)
        ids = write_both(folder, videos)
        npy, shards = Npy(folder / "npy"), Shards(folder / "features")
        for each in ids:  # into the cache of the system
            npy(each)
        for path in sorted((folder / "features" / "rgb" / "shards").iterdir()):
            path.read_bytes()
        first = [_seconds(_all, side, ids) for side in (shards, npy)]
        yield "first time, in order", first[0], first[1]
        mixed = [ids[each] for each in np.random.default_rng(0).permutation(len(ids))]
        for what, order, run in (
            ("in order", ids, _all),
            ("at random", mixed, _all),
            (f"at random, {WORKERS} DataLoader workers", mixed, _by_workers),
        ):
            rounds = [[_seconds(run, side, order) for side in (shards, npy)] for _ in range(ROUNDS)]
            ours, theirs = np.median(rounds, axis=0).tolist()
            yield what, ours, theirs
        shards.features.close()


def bench_opening(shards: int) -> tuple[int, float]:
    """Videos in a folder of so many shards, and the processor seconds to open it.

    Opening reads plan and journal, not the shards, which are empty files here.
    """
    with tempfile.TemporaryDirectory(prefix="vadprep-bench-") as name:
        ids = [f"camera-{number:07d}.mp4" for number in range(shards * SHARD_SIZE)]
        spec = resolve("i3d", "cpu", ("random:0", "none"), {})
        folder = StreamFolder.prepare(Path(name, "rgb"), spec, ids)
        about = DONE, 240, 3845, 0, 24.0, "decord", "00000000", "", 0.0, ""
        rows = (Row(each, number // SHARD_SIZE, *about) for number, each in enumerate(ids))
        (folder.path / "manifest-00000.csv").write_bytes(csv_bytes([Row._fields, *rows]))
        for number in range(shards):
            folder.shard(number).touch()
        start = time.process_time()
        found = len(open_features(name))
        return found, time.process_time() - start


def write_both(folder: Path, videos: int) -> list[str]:
    """Random features of videos as long as those of XD-Violence, in shards and as .npy files."""
    scored = [video.num_frames_scored or 16 for video in load_dataset("xd").in_split("test")]
    random = np.random.default_rng(0)
    lengths = random.choice(np.array(scored) // 16, videos)
    block = random.standard_normal((int(lengths.max()), CROPS, DIM), np.float32).astype(np.float16)
    ids = [f"{number:05d}" for number in range(videos)]
    spec = resolve("i3d", "cpu", ("random:0", "none"), {"crops": CROPS})
    stream = StreamFolder.prepare(folder / "features" / "rgb", spec, ids)
    (folder / "npy").mkdir()
    rows = []
    for number, shard in enumerate(stream.plan.shards):
        stored = []
        for video_id in shard:
            features = np.roll(block, int(video_id), axis=0)[: lengths[int(video_id)]]
            np.save(folder / "npy" / f"{video_id}.npy", features)
            stored.append(_stored(video_id, features))
        write_shard(stream.shard(number), spec, stored)
        rows += [row_of(each, number) for each in stored]
    (stream.path / "manifest-00000.csv").write_bytes(csv_bytes([Row._fields, *rows]))
    return ids


def _stored(video_id: str, features: NDArray[np.float16]) -> StoredVideo:
    edges = 16 * np.arange(len(features) + 1)
    spans = np.stack([edges[:-1], edges[1:]], axis=1)
    known: dict[str, str | int | float] = {
        "video_id": video_id,
        "path": f"{video_id}.mp4",
        "status": DONE,
        "split": "train",
        "label": 0,
        "category": "Normal",
        "num_frames": int(edges[-1]),
        "fps_source": 24.0,
        "fps_used": 24.0,
        "decoder": "decord",
        "features_crc32": crc32(features),
        "spans_crc32": crc32(spans),
    }
    return StoredVideo(known, features.shape, "float16", spans, lambda: [features])


def _all(read: Read, ids: Sequence[str]) -> None:
    for each in ids:
        read(each)


def _by_workers(read: Read, ids: Sequence[str]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        for _ in DataLoader(Reading(read, ids), batch_size=None, num_workers=WORKERS):
            pass


def _seconds(run: Callable[[Read, Sequence[str]], None], side: Read, ids: Sequence[str]) -> float:
    """Processor seconds of this process and of the children that end in the meantime."""
    start = _used()
    run(side, ids)
    return _used() - start


def _used() -> float:
    whose = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return sum(sum(resource.getrusage(each)[:2]) for each in whose)
