"""The engine that runs a network on the CPU: OpenVINO, or torch where that is not installed.

OpenVINO compiles a network for one shape of batch. What it compiles is kept in the cache folder,
by all that it depends on, so that a network is converted once a machine.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from vadprep.backbones.engine_cache import InUse, load_or_make
from vadprep.backbones.folding import fold_batch_norm
from vadprep.backbones.gpu_form import GpuForm
from vadprep.backbones.graphs import build, graph_of, scaling_of, with_weights
from vadprep.backbones.weights.load import Weights, state_sha256
from vadprep.core.errors import SpecError
from vadprep.core.log import get_logger
from vadprep.core.resources import cache_folder, installed_version
from vadprep.core.spec import OWN_EPS

logger = get_logger(__name__)

PRECISION_HINTS = {"fp32": "f32", "tf32": "f32", "bf16": "bf16"}
FORM = "3"
"""Changes with the code that converts a network, and makes entries of the cache stale."""

GRAPH_PACKAGES = ("vadprep", "torchvision", "pytorchvideo")
"""Packages that define networks, besides torch."""

MEMORY_ERRORS = (
    "out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED",
    "Failed to allocate", "bad_alloc", "Cannot allocate memory",
)  # fmt: skip
"""Words of a RuntimeError that means too little memory, by torch, by the CPU's allocator, by a
CUDA library, or by OpenVINO."""

REINSTALL = "install it again, or uninstall it, and torch runs the networks"

Form = Callable[[Tensor], Tensor]
"""A network: float32 features [batch, dim] of views [batch, T, H, W, channel]."""


def engine_of(device: str) -> str:
    """Name and version of what runs networks on ``device``, such as ``openvino 2026.4.1``.

    Features of one engine have the same bytes on the same device. Two engines agree to 1e-4.
    """
    version = installed_version("openvino") if device == "cpu" else ""
    return f"openvino {version}" if version else f"torch {torch.__version__.partition('+')[0]}"


def check_engine(engine: str, device: str) -> None:
    """Raise SpecError when another engine than ``engine`` runs networks on ``device`` here."""
    if (here := engine_of(device)) != engine:
        raise SpecError(
            f"the run computes with {engine}, and this machine has {here}: install the same "
            "version on every node"
        )


def cpu_form(
    weights: Weights, precision: str, scaling: str, threads: int, batch_norm_eps: str = OWN_EPS
) -> Form:
    """The network of ``weights`` on the CPU, by the engine that is installed.

    OpenVINO uses ``threads`` threads, torch as many as it is set to.
    """
    if engine_of("cpu").startswith("openvino"):
        return OpenVinoForm(weights, precision, scaling, threads, batch_norm_eps)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return torch_form(weights, dtype, scaling, batch_norm_eps)


def torch_form(
    weights: Weights, dtype: torch.dtype, scaling: str, batch_norm_eps: str = OWN_EPS
) -> GpuForm:
    """The network of ``weights`` in torch, its batch norm folded, with that epsilon."""
    graph = graph_of(weights.graph)
    network = with_weights(build(weights.graph, batch_norm_eps), weights.state)
    fold_batch_norm(network, (1, graph.channels, graph.clip_length, graph.size, graph.size))
    return GpuForm(network, scaling_of(scaling), dtype, graph.channels)


class OpenVinoForm:
    """A network that OpenVINO compiles at the first batch of each shape and type."""

    def __init__(
        self,
        weights: Weights,
        precision: str,
        scaling: str,
        threads: int,
        batch_norm_eps: str = OWN_EPS,
    ) -> None:
        self._weights, self._scaling, self._eps = weights, scaling, batch_norm_eps
        self._sha256 = weights.sha256 or state_sha256(weights.state)
        self._settings = {
            "INFERENCE_PRECISION_HINT": PRECISION_HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # each worker would choose the same cores
        }
        self._kind: object = None
        self._request: Any = None  # compiled for that kind of views
        self._entry: InUse | None = None  # where it was read from

    def __call__(self, views: Tensor) -> Tensor:
        """Features float32 [batch, dim] of views."""
        if self._kind != (kind := (views.shape, views.dtype)):
            self._kind = self._request = self._entry = None  # frees its memory first
            self._request = self._compiled(views).create_infer_request()
            self._kind = kind
        inputs = [views.contiguous().numpy()]
        return torch.from_numpy(self._request.infer(inputs, share_inputs=True)[0])

    def _compiled(self, views: Tensor) -> Any:
        """The network for batches like ``views``, from the cache if it is there.

        What was just compiled is read back as well, so that all workers run the same.
        """
        path = cache_folder() / "openvino" / f"{self._key(views)}.blob"
        found, self._entry = load_or_make(path, self._imported, lambda: self._exported(views))
        return found

    def _imported(self, blob: bytes) -> Any:
        """Raises ValueError for what the engine does not read."""
        try:
            return openvino_core().import_model(blob, "CPU", self._settings)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(said_by(error)) from error

    def _exported(self, views: Tensor) -> bytes:
        """Batch norm stays in the form: OpenVINO folds it, to the same speed and error."""
        network = with_weights(build(self._weights.graph, self._eps), self._weights.state)
        form = GpuForm(network, scaling_of(self._scaling), torch.float32, views.shape[-1])
        model = converted(form, views)
        compiled = openvino_core().compile_model(model, "CPU", self._settings)
        return bytes(compiled.export_model().getvalue())

    def _key(self, views: Tensor) -> str:
        """Digest of everything that a compiled network depends on."""
        core = openvino_core()
        processor = [
            core.get_property("CPU", name)
            for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
        ]
        parts = (
            *(FORM, engine_of("cpu"), torch.__version__, processor, self._settings),
            *map(installed_version, GRAPH_PACKAGES),
            *(self._weights.graph, self._sha256, self._scaling, self._eps),
            *(tuple(views.shape), str(views.dtype)),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@cache
def openvino_core() -> Any:
    """OpenVINO's runtime; it is imported by the process that computes alone.

    Raises SpecError when the package is installed and does not work.
    """
    try:
        import openvino

        return openvino.Core()
    except (ImportError, OSError, RuntimeError) as error:
        raise SpecError(
            f"openvino is installed and cannot be used ({said_by(error)}): {REINSTALL}"
        ) from error


@torch.inference_mode()
def try_engine() -> None:
    """Raise SpecError unless OpenVINO computes a small convolution as torch does.

    It may be importable, and lack a part or have a library of another version.
    """
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten()).eval()
    for weight in network.parameters():
        weight.normal_(generator=generator)
    views = torch.randn(1, 3, 4, 8, 8, generator=generator)
    core = openvino_core()
    try:
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        compiled = core.compile_model(converted(network, views), "CPU", settings)
        found, expected = torch.from_numpy(compiled([views.numpy()])[0]), network(views)
        difference = float((found - expected).norm() / expected.norm())
    except Exception as error:  # what is broken raises anything
        raise SpecError(f"openvino cannot run a network ({said_by(error)}): {REINSTALL}") from error
    if not difference < 1e-3:  # which NaN is not
        raise SpecError(f"openvino computes a convolution wrongly ({difference:.1g}): {REINSTALL}")


def converted(network: nn.Module, views: Tensor) -> Any:
    """OpenVINO's model of ``network`` for batches like ``views``.

    A run with one view shows the operations. This is the PyTorch front end itself, because
    ``openvino.convert_model`` reports to its makers over the network.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapes are fixed; and torch.jit.trace is deprecated
        decoder = TorchScriptPythonDecoder(
            network, example_input=views[:1], trace_kwargs={"check_trace": False}
        )
    front_end = FrontEndManager().load_by_framework("pytorch")
    model = front_end.convert(front_end.load(decoder))
    model.reshape(list(views.shape))
    _drop_pooled_indices(model)
    return model


def _drop_pooled_indices(model: Any) -> None:
    """Max pooling without the places of the maxima, in place: nobody asks for them.

    OpenVINO would write each map a second time for them, 3 % of Inception-I3D in bfloat16.
    """
    from openvino import opset1

    for node in model.get_ordered_ops():
        places = node.outputs()[1:] if node.get_type_name() == "MaxPool" else []
        if places and not places[0].get_target_inputs():
            about = node.get_attributes()
            window = (about[each] for each in ("strides", "pads_begin", "pads_end", "kernel"))
            rounding = about["rounding_type"].removesuffix("_torch")
            pooled = opset1.max_pool(node.input_value(0), *window, rounding, about["auto_pad"])
            is_same = pooled.get_output_shape(0) == node.get_output_shape(0)
            if is_same and set(about["dilations"]) == {1}:  # else the old form has no such pooling
                node.output(0).replace(pooled.output(0))


def said_by(error: BaseException) -> str:
    """One line of what an exception says, or its type. Those of OpenVINO begin with its files."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Exception from ", "Check "))]
    return (said or lines or [type(error).__name__])[0].strip()


def is_out_of_memory(error: BaseException) -> bool:
    """True for an exception of torch or OpenVINO that means too little memory."""
    return isinstance(error, MemoryError) or any(x in str(error) for x in MEMORY_ERRORS)
