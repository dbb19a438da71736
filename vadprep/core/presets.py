"""Where each value of a preset is taken from, and what nobody has written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vadprep.core.spec import FLOW, PRESETS

OURS = "ours: no source says it"
"""Source of a value that had to be chosen."""


@dataclass(frozen=True)
class Notes:
    """What is known of a recipe, and what is known to be unknown."""

    source: str
    """Whose recipe it is."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Of single fields of the spec."""
    unknown: tuple[str, ...] = ()

    def and_(self, source: str, sources: Mapping[str, str], *unknown: str) -> Notes:
        """The notes of a recipe that builds on this one."""
        return replace(self, source=source, sources={**self.sources, **sources}, unknown=unknown)


README = "README of kinetics-i3d"
XDVIODET = "Roc-Ng/XDVioDet"
SCRIPT = "I3D_Feature_Extraction_resnet (G. Gottimukkala)"

_FIELD = {
    "clip_length": "Sultani et al. 2018 and all after: 16 frames",
    "clip_stride": "no overlap: published files have a row for each 16 frames",
    "decoder": OURS,
    "dtype": OURS + "; published files are float32",
}

_I3D = Notes(
    "Carreira and Zisserman 2017, " + README,
    _FIELD
    | {
        "graph": "kinetics-i3d/i3d.py",
        "fps": README + ": 25",
        "resize": README + ": shorter side 256, aspect kept",
        "filter": README + ": bilinear; that it averages when shrinking is " + OURS,
        "crops": README + ": the centre crop in tests",
        "crop_order": README,
        "crop_size": README,
        "scaling": README,
        "tail": OURS,
    },
    ("which library resized: with or without averaging moves grey values by several levels",),
)

AUTHOR = "the author in RTFM's issue 21"
_RESNET = Notes(
    "Tian et al. 2021 (RTFM), the author's setup in issue 21",
    _FIELD
    | {
        "graph": "RTFM's README names Tushar-N/pytorch-resnet3d: the 32x2 baseline of "
        "video-nonlocal-net",
        "fps": OURS + "; its UCF files have a row for each 16 native frames",
        "resize": AUTHOR + ": torchvision's Resize(256)",
        "filter": AUTHOR + ": the same, on PIL images: bilinear, averaging",
        "crops": AUTHOR + ": torchvision's TenCrop(224)",
        "crop_order": AUTHOR + ": torchvision's TenCrop(224)",
        "crop_size": AUTHOR,
        "scaling": AUTHOR + ": mean 114.75, standard deviation 57.375",
        "tail": OURS + "; " + SCRIPT + " does so",
    },
    (
        "resize: issue 53 has 256x256, which ignores the aspect",
        "tail: the author's clips are filled up by repeating them (LoopPad); ShanghaiTech 01_047 "
        "has 67 rows for 1,056 frames",
        "nobody has reproduced the published files to the digit",
    ),
)

_TRANSFORMS = "transforms of the weights in torchvision"
_TORCHVISION = Notes(
    "torchvision, published transforms",
    _FIELD
    | {
        "graph": "torchvision.models.video",
        "fps": "meta of the weights: the rate of their published accuracy",
        "resize": _TRANSFORMS,
        "filter": _TRANSFORMS + ": bilinear without averaging; OpenCV's is that to one grey level",
        "crops": _TRANSFORMS,
        "crop_order": _TRANSFORMS,
        "crop_size": _TRANSFORMS,
        "scaling": _TRANSFORMS,
        "tail": OURS,
        "clip_length": "meta of the weights",
    },
)
_SHORTER = "clip_length"
_SWIN = _TORCHVISION.and_(
    _TORCHVISION.source,
    {_SHORTER: "the clips of this field; the published accuracy is of 32 frames"},
)

FLOW_SOURCES = {
    "flow": "MediaPipe, tvl1_optical_flow_calculator.cc: OpenCV's CPU class with its defaults, "
    + FLOW["flow"].partition(" ")[2],
    "flow_bound": README + ": 20 px",
    "quantisation": "MediaPipe, flow_quantizer_model.cc; its JPEG of quality 100 is left out",
    "flip_rule": OURS + "; Finspire13's code mirrors the picture of the flow alone (keep-u)",
}
"""Of the fields about flow, in every preset that has a network for it."""

NOTES: dict[str, Notes] = {
    "i3d": _I3D,
    "xd": _I3D.and_(
        "Wu et al. 2020 (XD-Violence), " + XDVIODET,
        {
            "fps": "Wu et al. 2020: 24",
            "crops": XDVIODET + ": five files a video",
            "crop_order": XDVIODET + ": 0 is the centre, 1 to 4 the corners",
            "tail": XDVIODET + ", list/make_gt.py: (N - 1) // 16",
        },
        "the order of the four corners: taken as top left, top right, bottom left, bottom right",
        "resize, filter and decoder: the extraction was never published (its issue 31)",
    ),
    "ucf": _I3D.and_(
        "Roc-Ng/DeepMIL: its UCF-Crime features, issues 2 and 26",
        {
            "fps": "a row for each 16 native frames",
            "resize": "DeepMIL's issue 2: shorter side at least 256, code of pytorch-i3d",
            "crops": "ten files a video",
            "crop_order": OURS,
            "tail": "279 of the 290 test files: (N - 1) // 16; the other 11 have N // 16",
        },
        "the order of the ten crops",
        "whether sides above 256 were made smaller or only smaller ones larger",
        "why 11 test videos follow the other tail rule",
    ),
    "arnet": _I3D.and_(
        "Wan et al. 2020 (AR-Net)",
        {"fps": OURS, "tail": OURS},
        "frame rate, resize, crops and tail of its features",
    ),
    "rtfm-r50": _RESNET,
    "gowtham-r50": _RESNET.and_(
        SCRIPT,
        {
            "fps": SCRIPT + ": ffmpeg writes every frame",
            "resize": SCRIPT + ": 340 wide, 256 high, aspect ignored",
            "filter": SCRIPT + ": PIL's ANTIALIAS",
            "crops": SCRIPT,
            "crop_order": SCRIPT,
            "crop_size": SCRIPT,
            "scaling": SCRIPT + ": x * 2 / 255 - 1, which is NOT what the weights were trained "
            "with (their contrast times 0.45)",
            "tail": SCRIPT + ": N // 16, but videos of 16 frames or fewer end it",
        },
        "its frames went through JPEG at ffmpeg's default quality, which is not repeated here",
        "at variable frame rates ffmpeg repeats or drops frames, which is not repeated here",
    ),
    "urdmu": _I3D.and_(
        "Zhou et al. 2023 (UR-DMU), feature_extract/",
        {
            "fps": "UR-DMU, feature_extract",
            "resize": "UR-DMU, feature_extract: as " + SCRIPT,
            "filter": "UR-DMU, feature_extract: PIL's ANTIALIAS",
            "crops": "UR-DMU, feature_extract",
            "crop_order": "UR-DMU, feature_extract: as " + SCRIPT,
            "crop_size": "UR-DMU, feature_extract",
            "scaling": "UR-DMU, feature_extract",
            "tail": "UR-DMU, feature_extract: the last frame fills the last clip",
        },
        "how the frames were decoded",
    ),
    "ptv-r50": _RESNET.and_(
        "pytorchvideo, model zoo: I3D_8x8_R50",
        {
            "graph": "pytorchvideo/models/hub/resnet.py",
            "fps": "SlowFast, I3D_8x8_R50.yaml: every 8th of 30 frames a second",
            "resize": "SlowFast, config/defaults.py: shorter side 256 in tests",
            "filter": "SlowFast: torch's bilinear; OpenCV's is that to one grey level",
            "crops": "the middle one of SlowFast's three",
            "crop_order": OURS,
            "crop_size": "SlowFast, config/defaults.py: 256 in tests",
            "scaling": "SlowFast, config/defaults.py: mean 0.45, standard deviation 0.225",
            "clip_length": "SlowFast, I3D_8x8_R50.yaml: 8 frames",
            "clip_stride": OURS + ": no overlap",
            "tail": OURS,
        },
    ),
    "r3d_18": _TORCHVISION,
    "r2plus1d_18": _TORCHVISION,
    "s3d": _TORCHVISION.and_(
        _TORCHVISION.source,
        {_SHORTER: "the clips of this field; the published accuracy is of 128 frames"},
    ),
    "swin3d_t": _SWIN,
    "swin3d_s": _SWIN,
    "swin3d_b": _SWIN,
    "mvit_v2_s": _TORCHVISION,
}
"""By preset."""


def notes_of(preset: str) -> Notes:
    """What is known of a preset; ValueError for an unknown one."""
    if preset not in PRESETS:
        raise ValueError(f"{preset = }: allowed are {', '.join(PRESETS)}")
    return NOTES.get(preset, Notes("no notes"))
