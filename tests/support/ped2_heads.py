"""Every head on a small real set: frame AUC on UCSD Ped2, mean and spread over ten draws.

    PYTHONPATH=tests python -m support.ped2_heads ped2_clip_descriptors.npz --out runs/ped2

The file holds a few numbers for each 16-frame clip of the 28 videos (``X_train``, ``video_train``,
``start_train`` and the same for ``test``). For each of the bundled draws of six abnormal and four
normal training videos (splits ped2-00 to ped2-09) and for three seeds, each head is trained with
``--schedule small`` and judged by its last step; the same with shuffled labels. Started again, it
goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from support.stored import write_folder
from support.training import train

from vadprep.cli.text import show
from vadprep.core.clips import frame_labels
from vadprep.core.presets import resolve
from vadprep.data import apply_splits, load_dataset, split_path
from vadprep.features.reader import open_features
from vadprep.features.shard import DONE, StoredVideo, crc32
from vadprep.heads import HEADS

DRAWS = [f"ped2-{draw:02d}" for draw in range(10)]
SEEDS = (0, 1, 2)


def stored_videos(descriptors: Path) -> list[StoredVideo]:
    """The descriptors as features of one crop; checks them against the bundled intervals."""
    arrays = np.load(descriptors, allow_pickle=False)
    manifest = {video.video_id: video for video in load_dataset("ped2").videos}
    found = []
    for part in ("train", "test"):
        for number in np.unique(arrays[f"video_{part}"]):
            rows = arrays[f"video_{part}"] == number
            video = manifest[f"{part.title()}{number:03d}"]
            starts = arrays[f"start_{part}"][rows].astype(np.int64)
            assert (starts == 16 * np.arange(len(starts))).all(), video.video_id
            if part == "test":
                labels = frame_labels(video.intervals, video.num_frames)
                shares = [labels[start : start + 16].mean() for start in starts]
                assert np.allclose(shares, arrays["frac_anomalous_test"][rows]), video.video_id
            found.append(stored(video, arrays[f"X_{part}"][rows][:, None], starts))
    return found


def stored(video, features, starts) -> StoredVideo:
    spans = np.stack([starts, starts + 16], axis=1)
    attributes = {
        "video_id": video.video_id,
        "status": DONE,
        "num_frames": video.num_frames,
        "features_crc32": crc32(features),
        "spans_crc32": crc32(spans),
    }
    return StoredVideo(attributes, features.shape, "float32", spans, lambda: iter([features]))


def write_features(descriptors: Path, folder: Path) -> None:
    """The descriptors as a folder of features, unless it is there."""
    if not (folder / "rgb" / "spec.json").exists():
        spec = resolve("i3d", "cpu", (descriptors.name, "0" * 64), {"dtype": "float32"})
        write_folder(folder / "rgb", stored_videos(descriptors), spec, 64)


def aucs(features, out: Path, head: str, control: bool, draws=DRAWS, seeds=SEEDS) -> list[float]:
    """Frame AUC of the last step of each draw and seed."""
    found = []
    for draw in draws:
        manifest = apply_splits(load_dataset("ped2"), split_path(draw))
        config = dict(
            head=head,
            dataset="ped2",
            schedule="small",
            seeds=seeds,
            control=control,
            resume=True,
            snapshots=0,
        )
        folder = out / ("control" if control else "runs") / head / draw
        report = train(features, manifest, config, folder)
        found += [entry["frame_auc"] for entry in report.entries()]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("descriptors", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/ped2-heads"))
    parser.add_argument("--heads", default=",".join(HEADS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # that ten videos are repeated to fill a batch
    write_features(arguments.descriptors, arguments.out / "features")
    rows = [("head", "frame AUC", "spread", "shuffled labels", "spread", "seconds")]
    table = {}
    with open_features(arguments.out / "features") as features:
        for head in arguments.heads.split(","):
            start = time.perf_counter()
            found, control = (aucs(features, arguments.out, head, each) for each in (False, True))
            seconds = time.perf_counter() - start
            table[head] = {"frame_auc": found, "control": control, "seconds": seconds}
            pairs = ((statistics.fmean(each), statistics.stdev(each)) for each in (found, control))
            rows.append((head, *(value for pair in pairs for value in pair), round(seconds)))
            show(rows)
    (arguments.out / "table.json").write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
