"""The presets: named recipes of the field, each value beside the source it is taken from.

To add a preset, add one entry to ``PRESETS``: ``replace`` of the nearest one with what differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vadprep.core.clips import CLIP_LENGTH, SAMPLING_NAMES
from vadprep.core.errors import SettingError, allowed_are
from vadprep.core.preset import FLOW, FLOW_GRAPHS, OURS, README, Preset
from vadprep.core.spec import FLOW_FIELDS, OWN_EPS, UNKNOWN, Spec, eps_text

Values = Mapping[str, Any]
"""Field of ``Spec`` -> value."""

RTFM_AUTHOR = "the author in RTFM's issue 21"
TRANSFORMS = "transforms of the weights in torchvision"
META_FPS = "meta of the weights: the rate of their published accuracy"
XDVIODET = "Roc-Ng/XDVioDet"
GOWTHAM = "I3D_Feature_Extraction_resnet (G. Gottimukkala)"
URDMU = "UR-DMU, feature_extract"
VIDEO_FEATURES = "v-iashin/video_features"
VIDEOMAE = "VideoMAE, scripts/kinetics/ of ViT-B, finetune.sh"
AS_IT_IS = "the rate of the videos is kept; with another --fps " + OURS
SLOWFAST = "SlowFast, config/defaults.py"
VADCLIP = "VadCLIP, src/crop.py"
CLIP = "CLIP's own transform (open_clip, openai/CLIP)"

_I3D = Preset(
    origin="Carreira and Zisserman 2017, " + README,
    graph=("inception_i3d", "kinetics-i3d/i3d.py"),
    fps=("25", README + ": 25"),
    resize=("short 256", README + ": shorter side 256, aspect kept"),
    filter=("pil-bilinear", README + ": bilinear; that it averages when shrinking is " + OURS),
    crops=(1, README + ": the centre crop in tests"),
    crop_order=("centre", README),
    crop_size=(224, README),
    scaling=("[-1,1]", README),
    clip_length=(CLIP_LENGTH, "Sultani et al. 2018 and all after: 16 frames"),
    clip_stride=(CLIP_LENGTH, "no overlap: published files have a row for each 16 frames"),
    tail=("drop", OURS),
    decoder=("decord, pyav", OURS),
    dtype=("float16", OURS + "; published files are float32"),
    sampling=("times", OURS + ": the frame on screen, as a converted file has it"),
    open_questions=(
        "which library resized, with or without averaging: several grey levels",
        "which rule changed the frame rate: times (up), near or down",
    ),
)

_RTFM = replace(
    _I3D,
    origin="Tian et al. 2021 (RTFM), the author's setup in issue 21",
    graph=("i3d_r50_nonlocal", "RTFM's README: Tushar-N/pytorch-resnet3d, of video-nonlocal-net"),
    fps=("native", OURS + "; its UCF files have a row for each 16 native frames"),
    resize=("short 256", RTFM_AUTHOR + ": torchvision's Resize(256)"),
    filter=("pil-bilinear", RTFM_AUTHOR + ": the same, on PIL images: bilinear, averaging"),
    crops=(10, RTFM_AUTHOR + ": torchvision's TenCrop(224)"),
    crop_order=("torchvision", RTFM_AUTHOR + ": torchvision's TenCrop(224)"),
    crop_size=(224, RTFM_AUTHOR),
    sampling=("times", AS_IT_IS),
    scaling=("(x-114.75)/57.375", RTFM_AUTHOR + ": mean 114.75, standard deviation 57.375"),
    tail=("drop", OURS + "; " + GOWTHAM + " does so"),
    open_questions=(
        "resize: issue 53 has 256x256, which ignores the aspect",
        "tail: clips are filled up by LoopPad; ShanghaiTech 01_047 has 67 rows for 1,056 frames",
        "nobody has reproduced the published files to the digit",
    ),
)


RE_ENCODED = (
    "with a frame rate ffmpeg encodes the video again (x264, its default quality), which is not "
    "repeated here: only the choice of the frames is"
)

_VIDEO_FEATURES = replace(
    _I3D,
    origin=VIDEO_FEATURES + ", models/i3d",
    graph=("inception_i3d", VIDEO_FEATURES + ": weights of hassony2/kinetics_i3d_pytorch"),
    fps=("native", VIDEO_FEATURES + ", configs/i3d.yml: extraction_fps null"),
    resize=("short 256", VIDEO_FEATURES + ", ResizeImproved(256)"),
    filter=("pil-bilinear", VIDEO_FEATURES + ", ResizeImproved: PIL's bilinear"),
    crops=(1, VIDEO_FEATURES + ": the centre crop"),
    crop_order=("centre", VIDEO_FEATURES),
    crop_size=(224, VIDEO_FEATURES),
    scaling=("[-1,1]", VIDEO_FEATURES + ", ScaleTo1_1"),
    clip_length=(64, VIDEO_FEATURES + ": stack_size 64; --set clip_length=16 for stacks of 16"),
    clip_stride=(64, VIDEO_FEATURES + ": step_size 64"),
    tail=("xd", VIDEO_FEATURES + ": a stack begins when one frame more than its length is there"),
    dtype=("float32", VIDEO_FEATURES + ": float32, written as float64"),
    sampling=("near", VIDEO_FEATURES + ": ffmpeg's filter fps"),
    batch_norm_eps=("1e-5", VIDEO_FEATURES + ", i3d_net.py: torch's own"),
    centre_rounding=("floor", VIDEO_FEATURES + ", TensorCenterCrop: // 2"),
    open_questions=(
        RE_ENCODED,
        "its flow is of PWC-Net or RAFT: --streams flow computes TV-L1 instead, as preset i3d",
        "its frames are those of OpenCV's VideoCapture",
    ),
)


def _torchvision(
    graph: str, resize: str = "short 256", frames: int = CLIP_LENGTH, **changes: Any
) -> Preset:
    """A classifier of torchvision with its published transforms, trained on so many frames."""
    as_published = dict(
        origin="torchvision, published transforms",
        graph=(graph, "torchvision.models.video"),
        fps=("15", META_FPS),
        resize=(resize, TRANSFORMS),
        filter=("opencv-bilinear", TRANSFORMS + ": without averaging; OpenCV's, to one grey level"),
        crops=(1, TRANSFORMS),
        crop_order=("centre", TRANSFORMS),
        crop_size=(224, TRANSFORMS),
        scaling=("torchvision-kinetics", TRANSFORMS),
        clip_length=(CLIP_LENGTH, f"clips of this field; the accuracy is of {frames} frames"),
        sampling=("index", "torchvision, VideoClips.resample_video"),
        open_questions=(),
    )
    return replace(_I3D, **as_published | changes)


PRESETS: dict[str, Preset] = {
    "i3d": _I3D,
    "xd": replace(
        _I3D,
        origin="Wu et al. 2020 (XD-Violence), " + XDVIODET,
        fps=("24", "Wu et al. 2020: 24"),
        crops=(5, XDVIODET + ": five files a video"),
        crop_order=("xd", XDVIODET + ": 0 is the centre, 1 to 4 the corners"),
        tail=("xd", XDVIODET + ", list/make_gt.py: (N - 1) // 16"),
        open_questions=(
            "the order of the corners: taken as top left, top right, bottom left, bottom right",
            "resize, filter, decoder and the rule of the frame rate (times, near or down): the "
            "extraction was never published (its issue 31)",
        ),
    ),
    "ucf": replace(
        _I3D,
        origin="Roc-Ng/DeepMIL: its UCF-Crime features, issues 2 and 26",
        fps=("native", "a row for each 16 native frames"),
        resize=("short 256", "DeepMIL's issue 2: shorter side at least 256, code of pytorch-i3d"),
        crops=(10, "ten files a video"),
        crop_order=("xd", OURS),
        sampling=("times", AS_IT_IS),
        tail=("xd", "279 of the 290 test files: (N - 1) // 16; the other 11 have N // 16"),
        open_questions=(
            "the order of the ten crops",
            "whether sides above 256 were made smaller or only smaller ones larger",
            "why 11 test videos follow the other tail rule",
        ),
    ),
    "rtfm-r50": _RTFM,
    "gowtham-r50": replace(
        _RTFM,
        origin=GOWTHAM,
        fps=("native", GOWTHAM + ": ffmpeg writes every frame"),
        resize=("256x340", GOWTHAM + ": 340 wide, 256 high, aspect ignored"),
        filter=("pil-lanczos", GOWTHAM + ": PIL's ANTIALIAS"),
        crops=(10, GOWTHAM),
        crop_order=("gowtham", GOWTHAM),
        crop_size=(224, GOWTHAM),
        scaling=("[-1,1]", GOWTHAM + ": NOT that of the weights, but 0.45 times its contrast"),
        tail=("drop", GOWTHAM + ": N // 16, but videos of 16 frames or fewer end it"),
        open_questions=(
            "its frames went through JPEG by ffmpeg, which makes the files coarser after the first "
            "ones and is not repeated here; --set frames=jpeg95 is for frames that OpenCV wrote",
            "at variable frame rates ffmpeg repeats or drops frames, which is not repeated here",
        ),
    ),
    "urdmu": replace(
        _I3D,
        origin="Zhou et al. 2023 (UR-DMU), feature_extract/",
        fps=("native", URDMU),
        resize=("256x340", URDMU + ": as " + GOWTHAM),
        filter=("pil-lanczos", URDMU + ": PIL's ANTIALIAS"),
        crops=(10, URDMU),
        crop_order=("gowtham", URDMU + ": as " + GOWTHAM),
        crop_size=(224, URDMU),
        scaling=("[-1,1]", URDMU),
        sampling=("times", AS_IT_IS),
        tail=("repeat-last", URDMU + ": the last frame fills the last clip"),
        batch_norm_eps=("1e-5", URDMU + ": torch's own, where the weights were trained with 1e-3"),
        open_questions=(
            "frames: its script decodes by OpenCV's VideoCapture and writes JPEG files by OpenCV; "
            "--set frames=jpeg95 repeats the files, its FFmpeg is that of OpenCV's build",
        ),
    ),
    "ptv-r50": replace(
        _RTFM,
        origin="pytorchvideo, model zoo: I3D_8x8_R50",
        graph=("i3d_r50", "pytorchvideo/models/hub/resnet.py"),
        fps=("15/4", "SlowFast, I3D_8x8_R50.yaml: every 8th of 30 frames a second"),
        resize=("short 256", SLOWFAST + ": shorter side 256 in tests"),
        filter=("opencv-bilinear", "SlowFast: torch's bilinear; OpenCV's, to one grey level"),
        crops=(1, "the middle one of SlowFast's three"),
        crop_order=("centre", OURS),
        crop_size=(256, SLOWFAST + ": 256 in tests"),
        scaling=("(x-114.75)/57.375", SLOWFAST + ": mean 0.45, standard deviation 0.225"),
        clip_length=(8, "SlowFast, I3D_8x8_R50.yaml: 8 frames"),
        sampling=("index", "SlowFast, datasets/decoder.py: temporal_sampling"),
        clip_stride=(8, OURS + ": no overlap"),
        tail=("drop", OURS),
        open_questions=(),
    ),
    "r3d_18": _torchvision("r3d_18", "128x171", crop_size=(112, TRANSFORMS)),
    "r2plus1d_18": _torchvision("r2plus1d_18", "128x171", crop_size=(112, TRANSFORMS)),
    "s3d": _torchvision("s3d", "256x256", frames=128),
    "swin3d_t": _torchvision("swin3d_t", frames=32, scaling=("imagenet", TRANSFORMS)),
    "swin3d_s": _torchvision("swin3d_s", frames=32, scaling=("imagenet", TRANSFORMS)),
    "swin3d_b": _torchvision("swin3d_b", frames=32, scaling=("imagenet", TRANSFORMS)),
    "mvit_v2_s": _torchvision(
        "mvit_v2_s", fps=("15/2", META_FPS), scaling=("(x-114.75)/57.375", TRANSFORMS)
    ),
    "videomae_b": replace(
        _I3D,
        origin="Tong et al. 2022 (VideoMAE), tests of the official code on Kinetics-400",
        graph=("videomae_b", "VideoMAE, modeling_finetune.py: vit_base_patch16_224"),
        fps=("15/2", VIDEOMAE + ": every 4th frame; that a second has 30 is " + OURS),
        resize=("short 224", VIDEOMAE + ": --short_side_size 224"),
        filter=("opencv-bilinear", "VideoMAE, video_transforms.py: OpenCV's bilinear"),
        crops=(1, "the middle one of VideoMAE's three"),
        crop_order=("centre", "VideoMAE, ssv2.py, kinetics.py; there half a pixel is rounded down"),
        crop_size=(224, VIDEOMAE + ": --input_size 224"),
        scaling=("imagenet", "VideoMAE, ssv2.py, kinetics.py"),
        clip_length=(CLIP_LENGTH, VIDEOMAE + ": --num_frames 16"),
        sampling=("index", "VideoMAE, kinetics.py: by the number of the frame"),
        open_questions=(
            "which frame rate and crops the features of papers on anomaly detection have",
        ),
    ),
    "vadclip": replace(
        _I3D,
        origin="Wu et al. 2024 (VadCLIP), src/crop.py",
        graph=("clip_vit_b16", VADCLIP + ' and issue 1: "standard CLIP (ViT-B/16)"'),
        fps=("native", OURS + "; its files have a row for each 16 frames (issues 1, 14 and 17)"),
        resize=("256x340", VADCLIP + ": 340 wide, 256 high, aspect ignored"),
        filter=("opencv-bilinear", VADCLIP + ": cv2.resize"),
        crops=(10, VADCLIP),
        crop_order=("vadclip", VADCLIP + ": centre, four corners, then the same five mirrored"),
        crop_size=(224, VADCLIP + ": so that CLIP's own transform does not resize again"),
        scaling=("clip", CLIP),
        clip_length=(CLIP_LENGTH, "ground truth of VadCLIP: 16 frames a row"),
        sampling=("times", AS_IT_IS),
        pooling=("mean", OURS + "; users who counted rows took the mean (issues 14 and 17)"),
        open_questions=(
            "pooling: nobody has written down whether a row is the mean of 16 frames or one of "
            "them; users who tried both got other numbers (issues 6, 29; 35: a cosine of 0.9)",
            "how frames were decoded, and whether they went through image files",
            "tail, and whether rows were computed in float16",
        ),
    ),
    "clip-tsa": replace(
        _I3D,
        origin="Joo et al. 2023 (CLIP-TSA)",
        graph=("clip_vit_b16", "CLIP-TSA: ViT-B/16"),
        fps=("native", OURS + "; its files have a row for each 16 frames"),
        resize=("short 224", CLIP),
        filter=("pil-bicubic", CLIP),
        crops=(1, "the author in CLIP-TSA's issue 5: no ten crops"),
        crop_order=("centre", CLIP),
        crop_size=(224, CLIP),
        scaling=("clip", CLIP),
        clip_length=(CLIP_LENGTH, "CLIP-TSA: snippets of 16 frames"),
        sampling=("times", AS_IT_IS),
        pooling=("middle", "as uws4vad describes it; the code of the extraction is not published"),
        open_questions=(
            "which of the two middle frames of 16: taken as the ninth",
            "whether frames were resized before CLIP's own transform; tail and decoder",
        ),
    ),
    "video-features-i3d": _VIDEO_FEATURES,
    "video-features-r21d": replace(
        _VIDEO_FEATURES,
        origin=VIDEO_FEATURES + ", models/r21d",
        graph=("r2plus1d_18", VIDEO_FEATURES + ": r2plus1d_18_16_kinetics, torchvision's"),
        resize=("128x171", VIDEO_FEATURES + ": aspect ignored"),
        filter=("torch-bilinear", VIDEO_FEATURES + ": torch's interpolate on floats"),
        crop_size=(112, VIDEO_FEATURES),
        scaling=("torchvision-kinetics", VIDEO_FEATURES),
        clip_length=(CLIP_LENGTH, VIDEO_FEATURES + ": stack_size 16"),
        clip_stride=(CLIP_LENGTH, VIDEO_FEATURES + ": step_size 16"),
        tail=("drop", VIDEO_FEATURES + ", form_slices: whole stacks"),
        decoder=("pyav, decord", VIDEO_FEATURES + ": torchvision's read_video, which is PyAV"),
        batch_norm_eps=(OWN_EPS, "torchvision"),
        centre_rounding=("even", VIDEO_FEATURES + ": round()"),
        open_questions=(RE_ENCODED,),
    ),
    "video-features-s3d": replace(
        _VIDEO_FEATURES,
        origin=VIDEO_FEATURES + ", models/s3d",
        graph=("s3d", "kylemin/S3D, model.py: the layers of torchvision's s3d"),
        fps=("25", VIDEO_FEATURES + ", configs/s3d.yml: 25"),
        resize=("short 224", VIDEO_FEATURES + ": Resize(224)"),
        filter=("torch-bilinear", VIDEO_FEATURES + ": torch's interpolate on floats"),
        scaling=("[0,1]", VIDEO_FEATURES + ": no mean and std (kylemin/S3D, issue 4)"),
        clip_length=(64, VIDEO_FEATURES + ": stack_size 64"),
        tail=("drop", VIDEO_FEATURES + ", form_slices: whole stacks"),
        decoder=("pyav, decord", VIDEO_FEATURES + ": torchvision's read_video, which is PyAV"),
        batch_norm_eps=(OWN_EPS, "kylemin/S3D, model.py: 1e-3, as torchvision's"),
        centre_rounding=("even", VIDEO_FEATURES + ": round()"),
        weights="s3d-kylemin",
        open_questions=(
            RE_ENCODED + "; at 25 frames a second that is every video",
            "kylemin's own script scales to [-1,1] (main.py): which one the weights were trained "
            "with is not written down",
            "of odd sizes such as 110 or 414 px torch's interpolate gives a side of 223, here 224",
        ),
    ),
    "arnet": replace(
        _I3D,
        origin="Wan et al. 2020 (AR-Net)",
        sampling=("times", AS_IT_IS),
        fps=("native", OURS),
        open_questions=("frame rate, resize, crops and tail of its features",),
        streams=("rgb", "flow"),
    ),
}
"""The presets by name."""

DATASET_PRESETS = {"xd": "xd", "ucf": "ucf", "shanghaitech": "ucf", "msad": "gowtham-r50"}
"""Preset of an included data set, when the user names none; for MSAD the code
that its authors name."""
DEFAULT_PRESET = "i3d"
"""Preset of every other video."""

CROP_ORDERS = {1: "centre", 5: "xd", 10: "xd"}
"""Order of the crops when only their number is overridden."""

DEVICE_DEFAULTS = {
    "cpu": {"precision": "fp32", "batch": 1},
    "cuda": {"precision": "tf32", "batch": 32},
}
"""Precision and batch of a new feature folder; TF32 on a GPU, which every peer runs."""


def values_of(preset: str, stream: str = "rgb") -> dict[str, Any]:
    """Field of ``Spec`` -> value of a preset. SettingError if unknown, or no form for flow."""
    if preset not in PRESETS:
        raise SettingError(f"{preset = }: {allowed_are(preset, PRESETS)}")
    values = {name: value for name, (value, _) in PRESETS[preset].settings.items()}
    if stream == "flow":
        if not PRESETS[preset].has_flow:
            raise SettingError(f"{preset = }: its network {values['graph']} has no form for flow")
        values["graph"] = FLOW_GRAPHS[values["graph"]]
        values |= {name: value for name, (value, _) in FLOW.items()}
    return values


def resolve(
    preset: str, device: str, weights: tuple[str, str], overrides: Values, stream: str = "rgb"
) -> Spec:
    """The spec of a new feature folder on ``cpu`` or ``cuda``; ``weights`` is (name, SHA-256).

    ``overrides`` replace fields of the preset; those about flow are left out of stream ``rgb``.
    Raises ValueError as ``values_of``, and for a value that is not allowed.
    """
    if stream == "rgb":
        overrides = {name: value for name, value in overrides.items() if name not in FLOW_FIELDS}
    values = {**values_of(preset, stream), **DEVICE_DEFAULTS[device], **overrides}
    if "crops" in overrides and "crop_order" not in overrides:
        values["crop_order"] = CROP_ORDERS.get(overrides["crops"], UNKNOWN)
    if "clip_length" in overrides and "clip_stride" not in overrides:
        values["clip_stride"] = values["clip_length"]
    values["sampling"] = SAMPLING_NAMES.get(values["sampling"], values["sampling"])
    if values["fps"] == "native":
        values["sampling"] = "index"
    if values["batch_norm_eps"] not in (OWN_EPS, UNKNOWN):
        values["batch_norm_eps"] = eps_text(values["batch_norm_eps"])
    return Spec(preset, stream, weights=weights[0], weights_sha256=weights[1], **values)


def fill_unknown(spec: Spec, preset: str) -> Spec:
    """``spec`` with the values of a preset where it says ``unknown``; raises as ``values_of``.

    What no preset holds stays unknown: weights, precision, batch.
    """
    values = values_of(preset, spec.stream)
    if (values["fps"] if spec.fps == UNKNOWN else spec.fps) == "native":
        values["sampling"] = "index"
    filled = {name: value for name, value in values.items() if getattr(spec, name) == UNKNOWN}
    return replace(spec, preset=preset, **filled)
