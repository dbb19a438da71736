"""What the official code of each layout expects: folders, list files and their order, labels.

Read in the repositories named; an export follows them, so that their code runs on it unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath

from vadprep.features.exchange.layouts import ARRAY, BARE_FIRST, PER_CROP, TEXT, UNDERSCORE, Naming

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
    normal_name: str = ""
    """What marks a normal video in its name, where the code takes labels from names."""
    relative: bool = False
    """The list has paths relative to the export, else whole ones."""
    labelled: bool = False
    """Lines of the training list end in the label."""
    splits_lines: bool = False
    """The code splits lines at blanks, so that no path may have one."""

    def folder(self, stream: str, split: str, label: int) -> PurePosixPath:
        """Folder of the features of videos of a split and label, relative to the export."""
        path = self.folders[split == "test"]
        path = path.format(stream=STREAM_FOLDERS[stream], label=CLASS_FOLDERS[label])
        return PurePosixPath(path)


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
    "sultani-txt": {
        # TrainingAnomalyDetector_public.py takes the first folder by name for abnormal. The scores
        # are compared with the annotation file, in MATLAB.
        UCF: Target(TEXT, ("Train/{label}", "Test")),
    },
}  # fmt: skip
"""Layout -> data set whose form it is -> what the code expects."""


def data_set_of(video_ids: Collection[str]) -> str:
    """The data set whose naming the ids have; UCF-Crime's form serves any other, too."""
    if all("_label_" in video_id for video_id in video_ids):
        return XD
    if all(re.fullmatch(r"\d\d_\d{3,4}", video_id) for video_id in video_ids):
        return SHANGHAITECH
    return UCF


def target_of(layout: str, video_ids: Collection[str]) -> Target:
    """The form of a layout for these videos: their data set's own, else the first it has."""
    forms = TARGETS[layout]
    return forms.get(data_set_of(video_ids), next(iter(forms.values())))
