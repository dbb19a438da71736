"""ResNet-50 I3D in the two graphs that share every tensor shape, and not their strides.

``i3d_r50`` is pytorchvideo's 8x8 network. ``i3d_r50_nonlocal`` is the 32x2 baseline of
video-nonlocal-net (Wang et al. 2018), which RTFM and its followers took their features from:
it halves time in the stem and in the first pool too. The weights of one load into the other
without a complaint and give nonsense.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn

DIM = 2048

ALTERNATING = (
    (3, 1, 1), [(3, 1, 1), (1, 1, 1)], [(3, 1, 1), (1, 1, 1)], [(1, 1, 1), (3, 1, 1)],
)  # fmt: skip
"""First kernels of the bottlenecks, stage by stage: which blocks look along time."""


class ResNetI3D(nn.Module):
    """pytorchvideo's I3D_8x8_R50 with its tensor names, for at least 8 frames and 224 px.

    ``changes`` are arguments of its ``create_resnet``.
    """

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        with warnings.catch_warnings():  # fvcore scripts a loss of its own on import
            warnings.simplefilter("ignore", FutureWarning)
            from pytorchvideo.models.resnet import create_resnet  # seconds: only who needs it
        self.blocks = create_resnet(
            stem_conv_kernel_size=(5, 7, 7),
            stage1_pool=nn.MaxPool3d,
            stage_conv_a_kernel_size=ALTERNATING,
            **changes,
        ).blocks

    def forward(self, clips: Tensor) -> Tensor:
        """Features [batch, 2048] of clips [batch, 3, T, H, W].

        Where the pool of the head leaves several positions, their mean. The head itself
        averages behind its linear layer, which comes to the same.
        """
        x = clips
        for block in self.blocks[:-1]:
            x = block(x)
        return self.blocks[-1].pool(x).mean(dim=(2, 3, 4))

    def logits(self, clips: Tensor) -> Tensor:
        """Kinetics-400 logits [batch, 400]."""
        return self.blocks[-1].proj(self(clips))


def i3d_r50_nonlocal() -> ResNetI3D:
    """The 32x2 baseline of video-nonlocal-net, for clips of at least 8 frames."""
    network = ResNetI3D(
        stem_conv_stride=(2, 2, 2),
        stem_pool_kernel_size=(2, 3, 3),
        stem_pool_stride=(2, 2, 2),
        head_pool=nn.AdaptiveAvgPool3d,
    )
    network.blocks[0].pool.padding = (0, 0, 0)  # the builder would pad with half the kernel
    return network
