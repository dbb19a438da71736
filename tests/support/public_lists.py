"""Rebuilds five of the manifests from lists in public repositories; manifests/README.md has more.

    python tests/support/public_lists.py LISTS FOLDER

``LISTS`` holds the files of ``SOURCES`` under the names that the functions below read.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

SOURCES = {
    "ubnormal": ("lilygeorgescu/UBnormal", "8c77642"),
    "msad": ("Tom-roujiang/MSAD", "f3d405e"),
    "nwpu": ("shengyangsun/TDSD", "062b91e"),
    "dota": ("MoonBlvd/Detection-of-Traffic-Anomaly", "f8f603b"),
    "lad": ("Kamino666/LaGoVAD-PreVAD", "873de76"),
}
"""Data set -> repository of its names, and the commit that was read."""
SPANS = "intervals: Kamino666/LaGoVAD-PreVAD 873de76"
COMMON = "video_id path split label category num_frames num_frames_scored fps intervals".split()
FRACTION = ["intervals_fraction", "num_frames_multiple_of"]

Row = dict[str, object]


def words(path: Path) -> list[str]:
    """Lines of a text file that hold something."""
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def spans_of(lists: Path, name: str) -> dict[str, tuple[str, str, list[list[float]]]]:
    """Id -> file name, class and spans (fractions of the length) of a test set of LaGoVAD."""
    found = {}
    for each in json.loads((lists / f"lagovad_{name}_test_anno.json").read_text()):
        file = Path(each["video_path"]).name
        found[Path(file).stem] = (file, each["class_name"], each["anomaly_span"] or [])
    return found


def shortest_length(spans: Iterable[Iterable[float]], most: int = 20_000) -> int | None:
    """Fewest frames of which all edges are exact fractions; None where all are 0 or 1.

    Published edges are frame / length in float64. A multiple of the length gives them, too.
    """
    edges = [edge for span in spans for edge in span if edge not in (0.0, 1.0)]
    lengths = np.arange(1, most)
    for edge in edges:
        lengths = lengths[np.rint(edge * lengths) / lengths == edge]
    return int(lengths[0]) if edges else None


def fractions(spans: list[list[float]]) -> Row:
    """Columns of a video whose intervals are known as fractions alone."""
    known = json.dumps(spans)
    return {"intervals_fraction": known, "num_frames_multiple_of": shortest_length(spans)}


def ubnormal(lists: Path) -> Iterator[Row]:
    spans = spans_of(lists, "ubnormal")
    splits = {"train": "training", "validation": "validation", "test": "test"}
    for split, part in splits.items():
        for kind, label in (("abnormal", 1), ("normal", 0)):
            for name in words(lists / f"ubnormal_{kind}_{part}.txt"):
                row: Row = {
                    "video_id": name,
                    "path": f"Scene{name.split('_')[2]}/{name}.mp4",
                    "split": split,
                    "label": label,
                    "category": "anomaly" if label else "normal",
                    "intervals": "" if label else "[]",
                    "source_path": f"scripts/{kind}_{part}_video_names.txt",
                }
                if label and split == "test":
                    row |= fractions(spans[name][2]) | {"notes": SPANS}
                yield row


def msad(lists: Path) -> Iterator[Row]:
    truth = np.load(lists / "msad-gt.npy").astype(bool)
    spans = spans_of(lists, "msad")
    names = {
        split: [Path(line).name.removesuffix("_i3d.npy") for line in words(lists / file)]
        for split, file in (("train", "msad-i3d.list"), ("test", "msad-i3d-test.list"))
    }
    abnormal = [name for name in names["test"] if spans[name][2]]
    lengths = dict(
        zip(abnormal, msad_lengths([spans[name][2] for name in abnormal], truth), strict=True)
    )
    for split, ids in names.items():
        for name in ids:
            label = int(not name.startswith("MSAD_normal"))
            row: Row = {
                "video_id": name,
                "path": f"{name}.mp4",
                "split": split,
                "label": label,
                "category": name.rsplit("_", 1)[0] if label else "normal",
                "intervals": "" if label else "[]",
                "source_path": f"RTFM/list/msad-i3d{'-test' * (split == 'test')}.list",
            }
            if length := lengths.get(name):
                frames = [[round(edge * length) for edge in span] for span in spans[name][2]]
                row |= {
                    "num_frames": length,
                    "num_frames_scored": length // 16 * 16,
                    "intervals": json.dumps([[max(a - 1, 0), b] for a, b in frames]),
                    "intervals_raw": json.dumps(frames),
                    "notes": SPANS + " and RTFM/list/gt-MSAD-WS-new.npy",
                }
            yield row


def msad_lengths(spans: list[list[list[float]]], truth: np.ndarray) -> list[int]:
    """Frames of the abnormal test videos: the one choice that gives the ground truth.

    A video of n frames has 16 floor(n / 16) labels. Its spans are counted from 1, both ends
    included. Raises ValueError unless exactly one choice of multiples fits.
    """
    reached: dict[int, list[list[int]]] = {0: [[]]}  # frames so far -> lengths of the videos
    for video in spans:
        step = shortest_length(video)
        assert step is not None
        further: dict[int, list[list[int]]] = {}
        for start, chosen in reached.items():
            for length in range(step, 20_000, step):
                labels = np.zeros(length // 16 * 16, dtype=bool)
                for a, b in video:
                    labels[max(round(a * length) - 1, 0) : round(b * length)] = True
                stop = start + len(labels)
                if len(labels) and np.array_equal(truth[start:stop], labels):
                    further.setdefault(stop, []).extend([*each, length] for each in chosen)
        reached = further
    fitting = [each for chosen in reached.values() for each in chosen]
    if len(fitting) != 1:
        raise ValueError(f"{len(fitting)} choices of lengths fit the ground truth")
    return fitting[0]


def nwpu(lists: Path) -> Iterator[Row]:
    files = (
        ("train", "Train", "trainingSet_train"),
        ("train", "Test", "trainingSet_test_label"),
        ("test", "Train", "testingSet_train"),
        ("test", "Test", "testingSet_test"),
    )
    for split, part, file in files:
        for line in words(lists / f"nwpu_{file}.txt"):
            name, *rest = line.split()
            label = "0" if part == "Train" else rest[0] if rest else ""
            yield {
                "video_id": f"{part}/{name}",
                "path": f"videos/{part}/{name}.avi",
                "split": split,
                "label": label,
                "category": {"0": "normal", "1": "anomaly", "": ""}[label],
                "intervals": "[]" if label == "0" else "",
                "source_path": f"data/NWPU_split/{file}.txt",
                "notes": "" if label else "label and intervals are in NWPU_Campus_gt.npz alone",
            }


def dota(lists: Path) -> Iterator[Row]:
    for split, part in (("train", "train"), ("test", "val")):
        videos = json.loads((lists / f"dota_metadata_{part}.json").read_text())
        for name, video in videos.items():
            length = video["num_frames"]
            within = video["video_end"] - video["video_start"] + 1
            yield {
                "video_id": name,
                "path": f"frames/{name}",
                "split": split,
                "label": 1,
                "category": video["anomaly_class"],
                "num_frames": length,
                "num_frames_scored": length if split == "test" else "",
                "fps": 10,
                "intervals": json.dumps([[video["anomaly_start"], video["anomaly_end"]]]),
                "source_path": f"dataset/metadata_{part}.json",
                "notes": "" if within == length else f"video_start and video_end give {within}",
            }


def lad(lists: Path) -> Iterator[Row]:
    for name, (file, category, spans) in spans_of(lists, "lad").items():
        row: Row = {
            "video_id": name,
            "path": file,
            "split": "test",
            "label": int(bool(spans)),
            "category": category if spans else "normal",
            "intervals": "" if spans else "[]",
            "source_path": "data/other_datasets/lad_test_anno.json",
        }
        yield row | (fractions(spans) if spans else {})


BUILDERS = {"ubnormal": ubnormal, "msad": msad, "nwpu": nwpu, "dota": dota, "lad": lad}
EXTRA: Mapping[str, list[str]] = {"ubnormal": FRACTION, "lad": FRACTION, "msad": ["intervals_raw"]}


def table(name: str, lists: Path) -> str:
    """The manifest as CSV text."""
    repository, commit = SOURCES[name]
    own = EXTRA.get(name, [])
    columns = [*COMMON, *own, "source_repo", "source_path", "source_commit", "notes"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in BUILDERS[name](lists):
        writer.writerow({"source_repo": repository, "source_commit": commit} | row)
    return text.getvalue()


if __name__ == "__main__":
    for each in BUILDERS:
        (Path(sys.argv[2]) / f"{each}.csv").write_text(table(each, Path(sys.argv[1])))
