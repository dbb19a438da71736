"""How other code bases name and list feature files, read in their repositories.

An id is never taken apart at a dot, ``#`` or ``=``: what follows it in a file name is matched as a
whole. (Cut at the first dot, the 3,954 training videos of XD-Violence have 2,197 names.)
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Naming:
    """What follows the id in the name of a feature file."""

    suffix: str
    """``{}`` stands for the crop; without it one file holds all crops."""
    first: str | None = None
    """Suffix of crop 0 where it is another."""

    @property
    def one_file_a_crop(self) -> bool:
        return "{}" in self.suffix

    def name(self, video_id: str, crop: int = 0) -> str:
        """File name of a crop of a video."""
        if crop == 0 and self.first is not None:
            return video_id + self.first
        return video_id + self.suffix.format(crop)

    def parse(self, name: str) -> tuple[str, int] | None:
        """Id and crop of a file name; None when it is not of this naming."""
        last = self.suffix
        if self.one_file_a_crop:
            before, after = map(re.escape, self.suffix.split("{}"))
            if found := re.fullmatch(f"(.+){before}([0-9]){after}", name, re.DOTALL):
                is_named = found[2] != "0" or self.first is None
                return (found[1], int(found[2])) if is_named else None
            if self.first is None:
                return None
            last = self.first
        video_id = name.removesuffix(last)
        return (video_id, 0) if video_id not in ("", name) else None


ARRAY = Naming("_i3d.npy")
PER_CROP = Naming("__{}.npy")
BARE_FIRST = Naming("__{}.npy", first=".npy")
UNDERSCORE = Naming("_{}.npy")
TEXT = Naming("_C.txt")

LAYOUTS: dict[str, tuple[Naming, ...]] = {
    "rtfm": (ARRAY,),
    "xdviodet": (PER_CROP,),
    "deepmil": (PER_CROP, BARE_FIRST),
    "urdmu": (PER_CROP,),
    "pel4vad": (BARE_FIRST, PER_CROP, UNDERSCORE),
    "vadclip": (PER_CROP,),
    "sultani-txt": (TEXT,),
}
"""The namings that files of a layout may have; the README has a table of them."""

IMPORTED = "imported-{}"
"""Preset in the spec of imported features, by layout; nothing can be extracted by it."""

FRAME_LAYOUTS = ("vadclip",)
"""Layouts of features of single frames: how those of a clip became a row is not known."""

SEGMENT_LAYOUT, SEGMENTS = "sultani-txt", 32
"""The layout whose rows are segments of a video, not clips, and their number."""

ALL_NAMINGS = (ARRAY, TEXT, PER_CROP, UNDERSCORE, BARE_FIRST)
"""Every naming, those that explain fewer files by chance first."""

UCF, XD, SHANGHAITECH = "UCF-Crime", "XD-Violence", "ShanghaiTech"

STREAM_FOLDERS = {"rgb": "RGB", "flow": "Flow"}
CLASS_FOLDERS = {0: "Normal", 1: "Anomaly"}


@dataclass(frozen=True)
class Target:
    """One form of a layout. Paths are relative to the folder of the export."""

    naming: Naming
    folders: tuple[str, str]
    """Of the features of train and test; ``{stream}`` is RGB or Flow, ``{label}`` the class."""
    lists: tuple[str, ...] = ()
    """List files of train and test; ``{stream}`` is rgb or flow. None: the code lists a folder."""
    ground_truth: str = ""
    """File of the flat frame labels of the test split, in the order of its list; "" for none."""
    abnormal_lines: int | None = None
    """Lines of abnormal videos that the code cuts off its training list, where it does."""
    crop_order: str | None = None
    """Order that the code's own features have, where it is known."""
    listed_crops: int | None = None
    """Number of crops of a video in a list; None for all."""
    tested_crop: int | None = None
    """The one crop of a video in the list of test, where it is another than in that of train."""
    normal_name: str = ""
    """What marks a normal video in its name, where the code takes labels from names."""
    relative: bool = False
    """The list has paths relative to the export, else whole ones."""
    labelled: bool = False
    """Lines of the training list end in the label."""
    normal_class: str = ""
    """The class of normal videos, where lists are CSV files of paths and classes."""
    splits_lines: bool = False
    """The code splits lines at blanks, so that no path may have one."""

    def folder(self, stream: str, split: str, label: int) -> PurePosixPath:
        """Folder of the features of videos of a split and label, relative to the export."""
        names = {"stream": STREAM_FOLDERS[stream], "label": CLASS_FOLDERS[label]}
        return PurePosixPath(self.folders[split == "test"].format(**names))


TARGETS: dict[str, dict[str, Target]] = {
    "rtfm": {
        UCF: Target(
            ARRAY, ("UCF_Train_ten_crop_i3d", "UCF_Test_ten_crop_i3d"),
            ("list/ucf-i3d.list", "list/ucf-i3d-test.list"), "list/gt-ucf.npy",
            abnormal_lines=810, crop_order="torchvision",
        ),
        SHANGHAITECH: Target(
            ARRAY, ("SH_Train_ten_crop_i3d", "SH_Test_ten_crop_i3d"),
            ("list/shanghai-i3d-train-10crop.list", "list/shanghai-i3d-test-10crop.list"),
            "list/gt-sh.npy", abnormal_lines=63, crop_order="torchvision",
        ),
    },
    "xdviodet": {
        XD: Target(
            PER_CROP, ("i3d-features/{stream}", "i3d-features/{stream}Test"),
            ("list/{stream}.list", "list/{stream}_test.list"), "list/gt.npy",
            crop_order="xd", normal_name="_label_A",
        ),
    },
    "deepmil": {
        UCF: Target(
            PER_CROP, ("train/{stream}", "test/{stream}"),
            ("list/ucf-i3d.list", "list/ucf-i3d-test.list"), "list/gt-ucf.npy",
            abnormal_lines=810, crop_order="xd", listed_crops=1,
        ),
    },
    "urdmu": {
        UCF: Target(
            PER_CROP, ("train", "test"),
            ("list/UCF_Train.list", "list/UCF_Test.list"), "frame_label/gt-ucf.npy",
            abnormal_lines=8100, crop_order="gowtham", normal_name="Normal", splits_lines=True,
        ),
        XD: Target(
            PER_CROP, ("i3d-features/{stream}", "i3d-features/{stream}Test"),
            ("list/XD_Train.list", "list/XD_Test.list"), "frame_label/xd_gt.npy",
            abnormal_lines=9525, crop_order="xd", normal_name="_label_A", splits_lines=True,
        ),
    },
    "pel4vad": {
        UCF: Target(
            BARE_FIRST, ("train", "test"),
            ("list/ucf/train.list", "list/ucf/test.list"), "list/ucf/ucf-gt.npy",
            crop_order="xd", normal_name="Normal", relative=True,
        ),
        XD: Target(
            PER_CROP, ("train", "test"),
            ("list/xd/train.list", "list/xd/test.list"), "list/xd/xd-gt.npy",
            crop_order="xd", normal_name="_label_A", relative=True,
        ),
        SHANGHAITECH: Target(
            UNDERSCORE, ("train", "test"),
            ("list/sh/train.list", "list/sh/test.list"), "list/sh/sh-gt.npy",
            relative=True, labelled=True, splits_lines=True,
        ),
    },
    "vadclip": {
        UCF: Target(
            PER_CROP, ("UCFClipFeatures", "UCFClipFeatures"),
            ("list/ucf_CLIP_rgb.csv", "list/ucf_CLIP_rgbtest.csv"), "list/gt_ucf.npy",
            crop_order="vadclip", tested_crop=5, normal_class="Normal",
        ),
        XD: Target(
            PER_CROP, ("XDTrainClipFeatures", "XDTestClipFeatures"),
            ("list/xd_CLIP_rgb.csv", "list/xd_CLIP_rgbtest.csv"), "list/gt.npy",
            crop_order="vadclip", tested_crop=0, normal_name="_label_A", normal_class="A",
        ),
    },
    "sultani-txt": {
        # TrainingAnomalyDetector_public.py takes the first folder by name for abnormal. The scores
        # are compared with the annotation file, in MATLAB.
        UCF: Target(TEXT, ("Train/{label}", "Test")),
    },
}  # fmt: skip
"""Layout -> data set whose form it is -> what the code expects."""


VADCLIP_CLASSES = frozenset((
    "Normal", "Abuse", "Arrest", "Arson", "Assault", "Burglary", "Explosion", "Fighting",
    "RoadAccidents", "Robbery", "Shooting", "Shoplifting", "Stealing", "Vandalism",
))  # fmt: skip
"""Classes in ``label_map`` of VadCLIP's ucf_train.py."""

LABEL_CODES = "_label_"
"""What is before the codes of the classes in names of XD-Violence."""


def data_set_of(video_ids: Collection[str]) -> str:
    """The data set whose naming the ids have; UCF-Crime's form serves any other, too."""
    if all(LABEL_CODES in video_id for video_id in video_ids):
        return XD
    if all(re.fullmatch(r"\d\d_\d{3,4}", video_id) for video_id in video_ids):
        return SHANGHAITECH
    return UCF


def target_of(layout: str, video_ids: Collection[str]) -> Target:
    """The form of a layout for these videos: their data set's own, else the first it has."""
    forms = TARGETS[layout]
    return forms.get(data_set_of(video_ids), next(iter(forms.values())))
