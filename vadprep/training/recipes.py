"""What was published for a head on a data set, with which settings, and what other people got.

Numbers are frame AUC in percent, on XD-Violence average precision (trapezoid; step-wise where it
says so). Reports are from the issue trackers and re-runs of others; most of them trained on the
authors' features, and users who extracted their own lost 8 to 27 points.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import NamedTuple

from vadprep.heads import head_kind


class Recipe(NamedTuple):
    """One published result and its reproductions."""

    head: str
    dataset: str
    features: str
    published: str
    """As in the paper; the best of many test evaluations, in every official code."""
    others: str
    """What independent people report; blank where no report was found."""
    command: str = ""
    """What to add to ``vadprep train HEAD --dataset NAME``."""


# fmt: off
RECIPES = (
    Recipe("sultani", "ucf", "C3D", "75.41",
           "69-71 (ports); 77.92, 78 with I3D RGB, 84.45 with both streams"),
    Recipe("sultani", "xd", "I3D RGB", "75.68 (RTFM's run)", "70.0-70.4"),
    Recipe("sultani", "xd", "C3D", "73.20 (HL-Net's run)", ""),
    Recipe("sultani", "shanghaitech", "I3D RGB", "85.33 (RTFM's run)", "85, one 93"),
    Recipe("sultani", "shanghaitech", "C3D", "86.30 (AR-Net's run)", ""),
    Recipe("sultani", "ped2", "I3D RGB", "92.3 (RTFM's run)", ""),
    Recipe("rtfm", "shanghaitech", "I3D RGB, 10 crops", "97.21",
           "89-90, 96, 96.3; 88 with one crop; own features < 70"),
    Recipe("rtfm", "shanghaitech", "C3D", "91.51", ""),
    Recipe("rtfm", "ucf", "I3D RGB, 10 crops", "84.30", "60-75; own features about 8 lower"),
    Recipe("rtfm", "ucf", "C3D", "83.28", ""),
    Recipe("rtfm", "xd", "I3D RGB, 5 crops", "77.81",
           "76.4, 61; 15 with list and ground truth in different orders"),
    Recipe("rtfm", "xd", "C3D", "75.89", ""),
    Recipe("rtfm", "ped2", "I3D RGB", "98.6", "83.81 with own features"),
    Recipe("arnet", "shanghaitech", "I3D RGB + flow", "91.24", "", "--streams concat"),
    Recipe("arnet", "shanghaitech", "I3D RGB", "85.38", ""),
    Recipe("arnet", "shanghaitech", "I3D flow", "82.34", "", "--streams flow"),
    Recipe("csltal", "xd", "I3D RGB", "71.68 (own protocol, step-wise)",
           "no report; the authors: 3 more with gated attention"),
    Recipe("ddl", "ucf", "I3D RGB", "85.12", ""),
    Recipe("ddl", "xd", "I3D RGB", "80.72", ""),
)
# fmt: on

UNITS = (
    "percent: frame AUC, on xd average precision (trapezoid unless step-wise is said); "
    "the best of many test evaluations"
)
"""What the numbers are."""


def setting_rows(head: str) -> list[tuple[object, ...]]:
    """Settings of a head by the data set they were published for, as a table, header first."""
    published = {name: asdict(config) for name, config in head_kind(head).published.items()}
    names = next(iter(published.values()))
    rows = [(name, *(str(each[name]) for each in published.values())) for name in names]
    return [("setting", *published), *rows]


def recipe_rows() -> list[tuple[str, str, str, str]]:
    """A table, header first."""
    rows = [("command", "features", "published", "others got")]
    for each in RECIPES:
        command = f"vadprep train {each.head} --dataset {each.dataset} {each.command}".rstrip()
        rows.append((command, each.features, each.published, each.others or "no report"))
    return rows
