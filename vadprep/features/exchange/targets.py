"""What the official code of each layout expects: folders, list files and their order, labels.

Read in the repositories named; an export follows them, so that their code runs on it unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from vadprep.features.exchange.layouts import ARRAY, BARE_FIRST, PER_CROP, TEXT, UNDERSCORE, Naming

UCF, XD, SHANGHAITECH = "UCF-Crime", "XD-Violence", "ShanghaiTech"

STREAM_FOLDERS = {"rgb": "RGB", "flow": "Flow"}
CLASS_FOLDERS = {0: "Normal", 1: "Anomaly"}
NORMAL_IN_NAME = {UCF: "Normal", XD: "_label_A"}
"""What the official loaders take for a normal video when they see it in a file name."""


@dataclass(frozen=True)
class Target:
    """One form of a layout. Paths are relative to the folder of the export."""

    naming: Naming
    folders: Mapping[str, str]
    """Folder of the features by split; ``{stream}`` is RGB or Flow, ``{class}`` the label."""
    lists: Mapping[str, str]
    """List file by split; ``{stream}`` is rgb or flow. Empty where the code lists a folder."""
    ground_truth: str
    """File of the flat frame labels of the test split, in the order of its list; "" for none."""
    listed_crops: int | None = None
    """Number of crops of a video in a list; None for all."""
    relative: bool = False
    """The list has paths relative to the export, else whole ones."""
    labelled: bool = False
    """Lines of the training list end in the label."""
    splits_lines: bool = False
    """The code splits lines at blanks, so that no path may have one."""
    by_name: str | None = None
    """Part of a name that marks a normal video, where the code takes labels from names."""
    abnormal_lines: int | None = None
    """Lines of abnormal videos that the code cuts off its training list, where it does."""
    crop_order: str | None = None
    """Order that the code's own features have, where it is known."""

    def folder(self, stream: str, split: str, label: int) -> PurePosixPath:
        """Folder of the features of videos of a split and label, relative to the export."""
        path = self.folders[split].replace("{stream}", STREAM_FOLDERS[stream])
        return PurePosixPath(path.replace("{class}", CLASS_FOLDERS[label]))


_TRAIN_TEST = {"train": "train", "test": "test"}


TARGETS: dict[str, dict[str, Target]] = {
    "rtfm": {
        UCF: Target(
            naming=ARRAY,
            folders={"train": "UCF_Train_ten_crop_i3d", "test": "UCF_Test_ten_crop_i3d"},
            lists={"train": "list/ucf-i3d.list", "test": "list/ucf-i3d-test.list"},
            ground_truth="list/gt-ucf.npy",
            abnormal_lines=810,
            crop_order="torchvision",
        ),
        SHANGHAITECH: Target(
            naming=ARRAY,
            folders={"train": "SH_Train_ten_crop_i3d", "test": "SH_Test_ten_crop_i3d"},
            lists={
                "train": "list/shanghai-i3d-train-10crop.list",
                "test": "list/shanghai-i3d-test-10crop.list",
            },
            ground_truth="list/gt-sh.npy",
            abnormal_lines=63,
            crop_order="torchvision",
        ),
    },
    "xdviodet": {
        XD: Target(
            naming=PER_CROP,
            folders={"train": "i3d-features/{stream}", "test": "i3d-features/{stream}Test"},
            lists={"train": "list/{stream}.list", "test": "list/{stream}_test.list"},
            ground_truth="list/gt.npy",
            by_name=NORMAL_IN_NAME[XD],
            crop_order="xd",
        ),
    },
    "deepmil": {
        UCF: Target(
            naming=PER_CROP,
            folders={"train": "train/{stream}", "test": "test/{stream}"},
            lists={"train": "list/ucf-i3d.list", "test": "list/ucf-i3d-test.list"},
            ground_truth="list/gt-ucf.npy",
            listed_crops=1,
            abnormal_lines=810,
            crop_order="xd",
        ),
    },
    "urdmu": {
        UCF: Target(
            naming=PER_CROP,
            folders=_TRAIN_TEST,
            lists={"train": "list/UCF_Train.list", "test": "list/UCF_Test.list"},
            ground_truth="frame_label/gt-ucf.npy",
            splits_lines=True,
            by_name=NORMAL_IN_NAME[UCF],
            abnormal_lines=8100,
            crop_order="gowtham",
        ),
        XD: Target(
            naming=PER_CROP,
            folders={"train": "i3d-features/{stream}", "test": "i3d-features/{stream}Test"},
            lists={"train": "list/XD_Train.list", "test": "list/XD_Test.list"},
            ground_truth="frame_label/xd_gt.npy",
            splits_lines=True,
            by_name=NORMAL_IN_NAME[XD],
            abnormal_lines=9525,
            crop_order="xd",
        ),
    },
    "pel4vad": {
        UCF: Target(
            naming=BARE_FIRST,
            folders=_TRAIN_TEST,
            lists={"train": "list/ucf/train.list", "test": "list/ucf/test.list"},
            ground_truth="list/ucf/ucf-gt.npy",
            relative=True,
            by_name=NORMAL_IN_NAME[UCF],
            crop_order="xd",
        ),
        XD: Target(
            naming=PER_CROP,
            folders=_TRAIN_TEST,
            lists={"train": "list/xd/train.list", "test": "list/xd/test.list"},
            ground_truth="list/xd/xd-gt.npy",
            relative=True,
            by_name=NORMAL_IN_NAME[XD],
            crop_order="xd",
        ),
        SHANGHAITECH: Target(
            naming=UNDERSCORE,
            folders=_TRAIN_TEST,
            lists={"train": "list/sh/train.list", "test": "list/sh/test.list"},
            ground_truth="list/sh/sh-gt.npy",
            relative=True,
            labelled=True,
            splits_lines=True,
        ),
    },
    "sultani-txt": {
        UCF: Target(
            naming=TEXT,
            # TrainingAnomalyDetector_public.py takes the first folder by name for abnormal.
            folders={"train": "Train/{class}", "test": "Test"},
            lists={},
            ground_truth="",  # scored in MATLAB, from the annotation file
        ),
    },
}
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
