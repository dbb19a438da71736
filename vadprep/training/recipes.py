"""What was published for a head on a data set, and what other people got.

Reports are from the issue trackers and re-runs of others; most of them trained on the authors'
features.
"""

from __future__ import annotations

# fmt: off
RECIPES = (
    ("sultani", "ucf", "C3D", "0.7541",
     "0.69-0.71 (ports); 0.7792, 0.78 with I3D RGB, 0.8445 with both streams"),
    ("sultani", "ucf", "CLIP ViT-B/16", "0.8414 (a public list)", "no report"),
    ("sultani", "xd", "I3D RGB", "0.7568 (RTFM's run)", "0.700-0.704"),
    ("sultani", "xd", "C3D", "0.7320 (HL-Net's run)", "no report"),
    ("sultani", "xd", "CLIP ViT-B/16", "0.7518 (a public list)", "no report"),
    ("sultani", "shanghaitech", "I3D RGB", "0.8533 (RTFM's run)", "0.85, one 0.93"),
    ("sultani", "shanghaitech", "C3D", "0.8630 (AR-Net's run)", "no report"),
    ("sultani", "ped2", "I3D RGB", "0.923 (RTFM's run)", "no report"),
    ("rtfm", "shanghaitech", "I3D RGB, 10 crops", "0.9721",
     "0.89-0.90, 0.96, 0.963; 0.88 with one crop; own features < 0.70"),
    ("rtfm", "shanghaitech", "C3D", "0.9151", "no report"),
    ("rtfm", "ucf", "I3D RGB, 10 crops", "0.8430", "0.60-0.75; own features about 0.08 lower"),
    ("rtfm", "ucf", "C3D", "0.8328", "no report"),
    ("rtfm", "ucf", "CLIP ViT-B/16", "0.8566 (a public list)", "no report"),
    ("rtfm", "xd", "I3D RGB, 5 crops", "0.7781",
     "0.764, 0.61; 0.15 with list and ground truth in different orders"),
    ("rtfm", "xd", "C3D", "0.7589", "no report"),
    ("rtfm", "xd", "CLIP ViT-B/16", "0.7827 (a public list)", "no report"),
    ("rtfm", "ped2", "I3D RGB", "0.986", "0.8381 with own features"),
    ("rtfm", "ubnormal", "not stated (run of VadCLIP's authors)", "0.6094", "no report"),
    ("arnet", "shanghaitech --streams concat", "I3D RGB + flow", "0.9124", "no report"),
    ("arnet", "shanghaitech", "I3D RGB", "0.8538", "no report"),
    ("arnet", "shanghaitech --streams flow", "I3D flow", "0.8234", "no report"),
    ("csltal", "xd", "I3D RGB", "0.7168 (own protocol, step-wise)",
     "no report; the authors: 0.03 more with gated attention"),
    ("ddl", "ucf", "I3D RGB", "0.8512", "no report"),
    ("ddl", "xd", "I3D RGB", "0.8072", "no report"),
    ("urdmu", "ucf", "I3D RGB, 10 crops", "0.8697",
     "0.857, 0.863; own features 0.68-0.78; 0.7081 over abnormal videos (GlanceVAD's run)"),
    ("urdmu", "ucf", "CLIP ViT-B/16", "0.8675 (a public list)", "no report"),
    ("urdmu", "xd", "I3D RGB, 5 crops", "0.8166", "no report"),
    ("urdmu", "xd", "CLIP ViT-B/16", "0.8241 (a public list)", "no report"),
    ("urdmu", "ucf --set glance=true --set epochs=15 --seeds 0", "I3D RGB, clicks",
     "0.9176 (GlanceVAD)", "no report"),
    ("urdmu", "xd --set glance=true --set epochs=15 --set glance_steps=100 --seeds 0",
     "I3D RGB, clicks", "0.8918 (GlanceVAD)", "no report"),
    ("urdmu", "shanghaitech", "I3D RGB", "0.9678 (a public list)", "no report"),
    ("urdmu", "ubnormal", "not stated (a public list)", "0.5991", "no report"),
    ("urdmu", "nwpu", "not stated (a public list)", "0.7046", "no report"),
    ("pel4vad", "ucf", "I3D RGB, 10 crops", "0.8636 with prompts, 0.8676 smoothed", "no report"),
    ("pel4vad", "xd", "I3D RGB, 5 crops", "0.8526 with prompts, 0.8559 smoothed",
     "no figure; lengths do not match the ground truth with features of one's own"),
    ("pel4vad", "shanghaitech", "I3D RGB, 10 crops", "0.9800 with prompts, 0.9814 smoothed",
     "no report"),
    ("vadclip", "ucf", "CLIP ViT-B/16, 10 crops", "0.8802 with prompts, temporal mAP 0.0668",
     "0.873, temporal mAP 0.0700; 0.50; 0.81 with ViT-B/32"),
    ("vadclip", "xd", "CLIP ViT-B/16, 10 crops",
     "0.8451 with prompts (step-wise), temporal mAP 0.2470",
     "0.832, temporal mAP 0.2317; 0.755, by branch C 0.791, temporal mAP 0.2232"),
    ("vadclip", "shanghaitech", "CLIP ViT-B/16", "0.9749 (a public list)", "no report"),
    ("vadclip", "ubnormal", "CLIP ViT-B/16", "0.6398 (a public list)", "no report"),
    ("vadclip", "nwpu", "CLIP ViT-B/16", "0.7264 (a public list)", "no report"),
)
# fmt: on
"""Head, data set and options of ``vadprep train``, features, what was published (a fraction of 1;
the best of many test evaluations, in every official code), what independent people report."""

UNITS = (
    "fractions of 1: frame AUC, on xd average precision (trapezoid unless step-wise is said, "
    "of public lists unknown); the best of many test evaluations"
)
