"""What was published for a head on a data set, and what other people got.

Reports are from the issue trackers and re-runs of others; most of them trained on the authors'
features.
"""

from __future__ import annotations

# fmt: off
RECIPES = (
    ("sultani", "ucf", "C3D", "75.41",
     "69-71 (ports); 77.92, 78 with I3D RGB, 84.45 with both streams"),
    ("sultani", "xd", "I3D RGB", "75.68 (RTFM's run)", "70.0-70.4"),
    ("sultani", "xd", "C3D", "73.20 (HL-Net's run)", "no report"),
    ("sultani", "shanghaitech", "I3D RGB", "85.33 (RTFM's run)", "85, one 93"),
    ("sultani", "shanghaitech", "C3D", "86.30 (AR-Net's run)", "no report"),
    ("sultani", "ped2", "I3D RGB", "92.3 (RTFM's run)", "no report"),
    ("rtfm", "shanghaitech", "I3D RGB, 10 crops", "97.21",
     "89-90, 96, 96.3; 88 with one crop; own features < 70"),
    ("rtfm", "shanghaitech", "C3D", "91.51", "no report"),
    ("rtfm", "ucf", "I3D RGB, 10 crops", "84.30", "60-75; own features about 8 lower"),
    ("rtfm", "ucf", "C3D", "83.28", "no report"),
    ("rtfm", "xd", "I3D RGB, 5 crops", "77.81",
     "76.4, 61; 15 with list and ground truth in different orders"),
    ("rtfm", "xd", "C3D", "75.89", "no report"),
    ("rtfm", "ped2", "I3D RGB", "98.6", "83.81 with own features"),
    ("arnet", "shanghaitech --streams concat", "I3D RGB + flow", "91.24", "no report"),
    ("arnet", "shanghaitech", "I3D RGB", "85.38", "no report"),
    ("arnet", "shanghaitech --streams flow", "I3D flow", "82.34", "no report"),
    ("csltal", "xd", "I3D RGB", "71.68 (own protocol, step-wise)",
     "no report; the authors: 3 more with gated attention"),
    ("ddl", "ucf", "I3D RGB", "85.12", "no report"),
    ("ddl", "xd", "I3D RGB", "80.72", "no report"),
)
# fmt: on
"""Head, data set and options of ``vadprep train``, features, what was published (as in the paper;
the best of many test evaluations, in every official code), what independent people report."""

UNITS = (
    "percent: frame AUC, on xd average precision (trapezoid unless step-wise is said); "
    "the best of many test evaluations"
)
