"""The video classifiers of torchvision, through one adapter."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Classifier:
    """What torchvision's network of a name needs, and what its feature is."""

    head: str
    """Name there of what turns the feature into logits."""
    dim: int
    size: int = 224
    """Side of the crop in px that the weights were trained and published with."""
    positions: int = 0
    """Axes of time and space that the head wants behind the channels."""


CLASSIFIERS: dict[str, Classifier] = {
    "r3d_18": Classifier("fc", 512, size=112),
    "r2plus1d_18": Classifier("fc", 512, size=112),
    "s3d": Classifier("classifier", 1024, positions=3),
    "swin3d_t": Classifier("head", 768),
    "swin3d_s": Classifier("head", 768),
    "swin3d_b": Classifier("head", 1024),
    "mvit_v2_s": Classifier("head", 768),
}


class VideoClassifier(nn.Module):
    """A network of torchvision whose feature is what its head is given."""

    def __init__(self, name: str) -> None:
        super().__init__()
        import torchvision  # seconds: only who needs it

        found = CLASSIFIERS[name]
        self.trunk = torchvision.models.get_model(name, weights=None)
        self.head = getattr(self.trunk, found.head)
        self.positions = found.positions
        setattr(self.trunk, found.head, nn.Identity())

    def forward(self, clips: Tensor) -> Tensor:
        """Features [batch, dim] of clips [batch, 3, 16, size, size]."""
        features: Tensor = self.trunk(clips)
        return features

    def logits(self, clips: Tensor) -> Tensor:
        """Kinetics-400 logits [batch, 400]."""
        features = self(clips)
        logits: Tensor = self.head(features.view(*features.shape, *[1] * self.positions))
        return logits.flatten(1)


def torchvision_name(graph: str, name: str) -> str:
    """The name in torchvision's own state dict of a tensor of ``VideoClassifier``."""
    part, _, rest = name.partition(".")
    return rest if part == "trunk" else f"{CLASSIFIERS[graph].head}.{rest}"
