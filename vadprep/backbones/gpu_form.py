"""The form that every network has on a GPU, and what is known of the library that computes it."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vadprep.backbones.graphs import Scaling
from vadprep.core.log import get_logger

logger = get_logger(__name__)

Replay = Callable[[], None]


class GpuForm(nn.Module):
    """A network of scaled clips as one of views: channels last, one type.

    Tensor cores read channels last; views are so already, and convolutions keep it. Pixels are
    scaled in float32, whatever type the network computes in: bfloat16 holds no 114.75. The form
    runs on a CPU as well, where it is tested.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, scaling: Scaling, dtype: torch.dtype, channels: int
    ) -> None:
        """``network`` is changed in place; views have ``channels`` channels, flow has 2."""
        super().__init__()
        self.network = network.to(dtype)
        for module in self.network.modules():  # the last pool, whose sums 16 bits hold badly
            if isinstance(module, nn.AvgPool3d | nn.AdaptiveAvgPool3d):
                module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
        for weight in self.network.parameters():
            if weight.ndim == 5:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)
        self.dtype, self._is_flow = dtype, channels == 2
        # Buffers, because a CUDA graph cannot record a copy of numbers to the device.
        self.register_buffer("mean", torch.tensor(scaling.mean), persistent=False)
        self.register_buffer("std", torch.tensor(scaling.std), persistent=False)

    def forward(self, views: Tensor) -> Tensor:
        """float32 [batch, dim] of views [batch, T, H, W, channel]: uint8, or levels with fractions.

        Flow that is floats (that was not quantised) is in [-1, 1]: y is 127.5 (1 + y).
        """
        is_scaled = self._is_flow and views.is_floating_point()
        pixels = 127.5 * (1 + views) if is_scaled else views.float()
        clips = ((pixels - self.mean) / self.std).to(self.dtype).permute(0, 4, 1, 2, 3)
        features: Tensor = self.network(clips)
        return features.float()


def record(run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
    """Record ``run`` as a CUDA graph: its replay, and the tensor that a replay fills.

    Not by ``torch.cuda.graph``, which frees what the allocator holds for all threads. The first
    run on the new stream lets cuDNN and cuBLAS get ready, which a graph cannot record.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            output = run()
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph.replay, output


class Replayed:
    """A form whose calls are replayed from a CUDA graph: the same kernels, so the same bytes.

    The host then launches one thing for some hundred, and stays free for the decoders beside it.
    Batches have one size (``AdaptiveBatch``), so the second call of a shape is recorded; of a
    halved batch the old graph and its memory go first. What cannot be recorded runs without, after
    a line in the log. One thread calls at a time.
    """

    def __init__(
        self,
        form: Callable[[Tensor], Tensor],
        record: Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]] = record,
    ) -> None:
        self._form, self._record = form, record
        self._kind: object = None  # shape and type of the last views
        self._can_record = True
        self._recorded: tuple[Tensor, Replay, Tensor] | None = None

    def __call__(self, views: Tensor) -> Tensor:
        """Features float32 [batch, dim] of views on the device."""
        kind = views.shape, views.dtype
        if kind != self._kind:
            self._kind, self._recorded = kind, None
            return self._form(views)
        if self._recorded is None and self._can_record:
            inputs = views.clone()
            try:
                self._recorded = inputs, *self._record(lambda: self._form(inputs))
            except RuntimeError as error:  # out of memory among others
                self._can_record = False
                reason = str(error).partition("\n")[0]
                logger.warning("the network runs without a CUDA graph, slower: %s", reason)
        if self._recorded is None:
            return self._form(views)
        inputs, replay, output = self._recorded
        inputs.copy_(views)
        replay()
        return output.clone()


def conv3d_fault(torch_version: str, cudnn_version: int) -> tuple[str, str] | None:
    """What Conv3d does wrong with these versions, and the remedy; None where nothing is known.

    ``cudnn_version`` is that of ``torch.backends.cudnn.version()``, as 91002 for 9.10.2, or 0 where
    torch has none, as on the head of a cluster of GPUs. cuDNN 9.8 to 9.10 gives wrong results in
    bfloat16 (PyTorch issue 163539). torch 2.9 therefore avoids cuDNN before 9.15 in 16 bits, 2.9.0
    every cuDNN, and takes up to 4 times as long and much more memory (issues 166122 and 166643).
    """
    release = tuple(map(int, re.findall(r"\d+", torch_version)[:3]))
    is_wrong = 90800 <= cudnn_version < 91100
    is_old = cudnn_version < 91500 and (release[:2] == (2, 9) or cudnn_version >= 90800)
    is_slow = release >= (2, 9) and (is_old or release == (2, 9, 0))
    if not (cudnn_version and (is_wrong or is_slow)):
        return None
    faults = ["slow in bf16 and fp16"] * is_slow + ["perhaps wrong in bf16"] * is_wrong
    number = f"{cudnn_version // 10000}.{cudnn_version // 100 % 100}.{cudnn_version % 100}"
    found = f"Conv3d of torch {torch_version} with cuDNN {number} is {' and '.join(faults)}"
    remedy = "pip install -U torch, or -U nvidia-cudnn-cu12 (of CUDA 13: cu13) to 9.15 or later"
    return found, remedy
