"""Reads weights files into tensors under canonical names. No code of a file is ever run.

A PyTorch file is loaded with ``weights_only``; of a TorchScript archive only the tensors are read
(``torchscript``). A caffe2 pickle is read by an unpickler that can build numpy arrays and nothing
else. Names are translated by a strict bijection (``names``).
"""

from __future__ import annotations

import _codecs
import argparse
import io
import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vadprep.backbones.graphs import GRAPHS, canonical_shapes
from vadprep.backbones.weights.catalog import CATALOG, DEEPMIND
from vadprep.backbones.weights.deepmind import DATA, read_checkpoint
from vadprep.backbones.weights.names import NAMINGS, with_joined_attention
from vadprep.backbones.weights.torchscript import is_torchscript, read_torchscript
from vadprep.core.errors import WeightsError, counted, printable
from vadprep.core.untrusted import bounded_memory, check_safetensors, open_regular

State = dict[str, Tensor]
CAFFE2 = "facebookresearch/video-nonlocal-net"

WRAPPINGS = ("model_state", "state_dict", "model_state_dict", "model", "module")
"""Keys under which a checkpoint of a training holds the weights, besides other things.

``module`` is DeepSpeed's, as in VideoMAE's files.
"""
GENERIC = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
"""Names of files that many projects use, so that they say nothing."""
PARALLEL = "module."
"""What torch's DataParallel puts before every name."""

MOST_BYTES = 4 << 30
"""Of a weights file: ten times the largest network, with the state of its optimiser."""
SPARE_BYTES = 512 << 20
"""Memory that reading may take besides four times the size of the file."""
MOST_PICKLE_BYTES = 4 << 20
"""Names and shapes in a PyTorch file: those of some 15,000 tensors, which take 6 s."""

ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _codecs.encode,  # how bytes were written by Python 2
    **{
        (f"numpy.{core}.multiarray", name): example.__reduce__()[0]
        for core in ("core", "_core")
        for name, example in {"_reconstruct": np.empty(0), "scalar": np.float32(0)}.items()
    },
}
"""All that a pickle of arrays needs. None of it runs code of the file's choosing."""


@dataclass(frozen=True)
class Contents:
    """What a file holds, under its own names, and what it says about itself."""

    path: Path
    tensors: State = field(repr=False)
    origin: str = ""  # who named the tensors, where the kind of file says so
    graph: str = ""  # graph id, where the file says it
    metadata: Mapping[str, str] = field(default_factory=dict)  # of our own files


def read_file(path: Path, release: str = "") -> Contents:
    """Contents of a weights file: ours, a PyTorch or caffe2 pickle, a TensorFlow checkpoint.

    ``release`` is the release of DeepMind's that a data file without index belongs to.
    Raises WeightsError when the file is missing, damaged, or asks for code to be run.
    """
    try:
        with open_regular(path, WeightsError, MOST_BYTES) as file:
            size = os.fstat(file.fileno()).st_size
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsError(
            f"{path}: no such weights file: correct the path (vadprep weights list has names)"
        ) from None
    if path.name.endswith((".index", DATA)):
        graph, state = read_checkpoint(path, release)
        return Contents(path, state, DEEPMIND, graph)
    try:  # compressed content and lies about sizes ask for any amount
        with bounded_memory(4 * size + SPARE_BYTES):
            return _read(path)
    except MemoryError:
        raise WeightsError(f"{path}: takes too much memory: download it again") from None


def _read(path: Path) -> Contents:
    if path.suffix == ".safetensors":
        check_safetensors(path, WeightsError, MOST_BYTES)
        try:
            with safe_open(path, framework="pt") as file:
                said = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            message = f"{path}: not a whole safetensors file ({error}): copy it again"
            raise WeightsError(message) from error
        if "graph" not in said:  # of another project
            return Contents(path, _unwrapped(state))
        return Contents(path, state, "vadprep", said["graph"], said)
    if path.suffix == ".pkl":
        return Contents(path, _read_caffe2(path), CAFFE2)
    return Contents(path, _read_pytorch(path))


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return ALLOWED[module, name]


def _read_caffe2(path: Path) -> State:
    """Arrays of the pickle's ``blobs``, without momentum and single numbers (rates, counters)."""
    with open(path, "rb") as file:
        try:
            found = _Unpickler(file, encoding="latin1").load()
        except Exception as error:  # as below
            raise WeightsError(
                f"{path}: not a caffe2 pickle of arrays, truncated, or one that would run code "
                f"({error}): download it again"
            ) from error
    blobs = found.get("blobs") if isinstance(found, Mapping) else None
    if not isinstance(blobs, Mapping):
        raise WeightsError(f"{path}: holds no 'blobs', so it is no caffe2 model")
    state = {}
    for name, blob in blobs.items():
        if "momentum" in str(name) or not isinstance(blob, np.ndarray) or blob.size < 2:
            continue
        array = blob
        if array.dtype.kind != "f":
            raise WeightsError(f"{path}: blob {name} holds no numbers but {array.dtype}")
        state[str(name)] = torch.from_numpy(array.astype(np.float32))
    return state


class _Inert(dict[Any, Any]):
    """What stands for every object of a pickle of which only the length is of interest."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __init__(self, *arguments: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        pass


class _Skipper(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _Inert

    def persistent_load(self, pid: object) -> None:
        return None


def _check_old_pytorch(path: Path) -> None:
    """Raise unless the four pickles that begin an old PyTorch file (magic number, protocol,
    machine, names and shapes) end within MOST_PICKLE_BYTES: torch takes minutes for longer ones."""
    with open(path, "rb") as file:
        content = io.BytesIO(file.read(MOST_PICKLE_BYTES))
    for _ in range(4):
        _Skipper(content).load()


def _read_pytorch(path: Path) -> State:
    found: Any = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of odd pickle protocols
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as file:
                    sizes = [e.file_size for e in file.infolist() if e.filename.endswith(".pkl")]
                    if sum(sizes) > MOST_PICKLE_BYTES:
                        raise ValueError(f"{sum(sizes):,} bytes of names and shapes")
                    found = read_torchscript(file) if is_torchscript(file) else None
            else:
                _check_old_pytorch(path)
            # The arguments of a training lie beside many weights: a record that calls nothing.
            torch.serialization.add_safe_globals([argparse.Namespace])
            if found is None:
                found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle, or that ask for code, raise anything
        raise WeightsError(
            f"{path}: not a weights file of a known kind (a PyTorch file of tensors, a TensorFlow "
            "checkpoint, a .pkl of caffe2, a .safetensors of ours), truncated, or one that would "
            f"run code, or take too much memory ({type(error).__name__}): correct the path, or "
            "download it again"
        ) from error
    if isinstance(found, Mapping):
        found = next(
            (found[key] for key in WRAPPINGS if isinstance(found.get(key), Mapping)), found
        )
    if not isinstance(found, Mapping):
        raise WeightsError(f"{path}: holds a {type(found).__name__}, not a state dict")
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()):
        keys = ", ".join(str(each)[:60] for each in list(found)[:3])
        raise WeightsError(f"{path}: not a plain state dict (its first keys: {keys})")
    if odd := [k for k, v in found.items() if v.device.type != "cpu" or v.layout != torch.strided]:
        raise WeightsError(f"{path}: tensor {odd[0]} is sparse or without values")
    return _unwrapped(found)


def _unwrapped(found: Mapping[str, Tensor]) -> State:
    """The tensors of another project that are no counters, without DataParallel's prefix."""
    prefix = PARALLEL if all(name.startswith(PARALLEL) for name in found) else ""
    return with_joined_attention(
        {k.removeprefix(prefix): v for k, v in found.items() if v.is_floating_point()}
    )


def identify(contents: Contents, declared: str = "") -> str:
    """Graph id of a file: what it is declared to be, what it says, or what its names say.

    ``declared`` is a name in ``catalog.CATALOG``. Raises WeightsError when names leave it open, as
    those of caffe2 do.
    """
    path = contents.path
    if not declared and contents.graph not in ("", *GRAPHS):
        raise WeightsError(f"{path}: made for graph {contents.graph}, which vadprep does not have")
    if declared or contents.graph:
        return CATALOG[declared].graph if declared else contents.graph
    for published in CATALOG.values():
        if published.file_name == path.name and path.name not in GENERIC:
            return published.graph
    if contents.origin == CAFFE2:
        raise WeightsError(
            f"{path}: the names of a caffe2 pickle fit networks of different strides: say what "
            "it is with --as, such as --as r50-nonlocal for the 32x2 baseline"
        )
    found = {name: tensor.shape for name, tensor in contents.tensors.items()}
    fitting = [
        graph
        for graph, naming in NAMINGS.items()
        for translate in naming.values()
        # Shapes tell RGB from flow; the caller refuses what names do not tell apart otherwise.
        if found == {translate(name): shape for name, shape in canonical_shapes(graph).items()}
    ]
    if not fitting:
        raise WeightsError(
            f"{path}: no network of vadprep has its {counted(len(found), 'tensor')}; the nearest "
            f"is {_nearest(found)}"
        )
    if len(fitting) > 1:
        raise WeightsError(f"{path}: its {len(found)} tensors fit {', '.join(fitting)}")
    return fitting[0]


MOST_NAMED = 3
"""Tensors that a message names of each kind that does not fit."""


def _shapes_named_by(graph: str, origin: str) -> dict[str, torch.Size]:
    translate = NAMINGS[graph][origin]
    return {translate(name): shape for name, shape in canonical_shapes(graph).items()}


def _nearest_naming(found: Mapping[str, torch.Size]) -> tuple[str, str]:
    """The network whose tensors are most like ``found``, and who names them so."""
    pairs = [(graph, origin) for graph, naming in NAMINGS.items() for origin in naming]
    # First by names, then by shapes, which tell networks with the same names apart.
    return min(
        pairs,
        key=lambda pair: (
            len(found.keys() ^ (expected := _shapes_named_by(*pair)).keys()),
            len(found.items() ^ expected.items()),
        ),
    )


def _nearest(found: Mapping[str, torch.Size]) -> str:
    """The network whose tensors are most like ``found``, and the first ones that are not."""
    graph, origin = _nearest_naming(found)
    expected = _shapes_named_by(graph, origin)
    shapes = [
        f"{name} {list(found[name])} for {list(shape)}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    misfits = _misfits(expected, found, MOST_NAMED) + _named(shapes, "of another shape", MOST_NAMED)
    return f"{graph} as named by {origin}, with tensors {'; '.join(misfits)}"


def _misfits(theirs: Iterable[str], found: Iterable[str], most: int) -> list[str]:
    """How many names are missing in ``found``, how many are too many, and the first ``most``."""
    theirs, found = {*theirs}, {*found}
    return [
        *_named(sorted(theirs - found), "missing", most),
        *_named(sorted(found - theirs), "unexpected", most),
    ]


def _named(names: Sequence[str], kind: str, most: int) -> list[str]:
    shown = ", ".join(printable(each)[:100] for each in names[:most])
    return [f"{len(names)} {kind}, such as {shown}"] if names else []


def canonical_state(contents: Contents, graph: str) -> tuple[State, str]:
    """Tensors under canonical names, float32, and who named them in the file.

    Raises WeightsError when names or shapes are not exactly those of ``graph``, when a value is
    not finite, or when the file says that it is for another graph.
    """
    path, tensors, shapes = contents.path, contents.tensors, canonical_shapes(graph)
    if contents.graph not in ("", graph):
        raise WeightsError(f"{path}: made for graph {contents.graph}, not for {graph}")
    namings = {contents.origin: str} if contents.graph else NAMINGS[graph]
    by_origin = {each: {name: to(name) for name in shapes} for each, to in namings.items()}
    origin = min(by_origin, key=lambda each: len({*by_origin[each].values()} ^ set(tensors)))
    names = by_origin[origin]
    if parts := _misfits(names.values(), tensors, 1):
        message = f"{path}: not {graph} as named by {origin}: tensors {'; '.join(parts)}"
        near, by = _nearest_naming({name: each.shape for name, each in tensors.items()})
        if near != graph and 2 * len(tensors.keys() & _shapes_named_by(near, by)) > len(tensors):
            message += f". The nearest network is {near} as named by {by}"
        raise WeightsError(message)
    state = {}
    for name, shape in shapes.items():
        tensor = tensors[names[name]]
        if {*tensor.shape[1:2], *shape[1:2]} == {2, 3}:  # the first convolution
            kinds = {2: "flow (2 input channels)", 3: "RGB (3 input channels)"}
            raise WeightsError(
                f"{path}: weights for {kinds[tensor.shape[1]]}, but {graph} is for "
                f"{kinds[shape[1]]}: --weights names those of stream rgb, --flow-weights those of "
                "stream flow"
            )
        if tensor.shape != shape:
            raise WeightsError(
                f"{path}: {name} is {list(tensor.shape)}, {graph} has {list(shape)}: "
                "weights of another network (Charades has 157 classes)"
            )
        state[name] = tensor.float().contiguous()
        if not tensor.is_floating_point() or not state[name].isfinite().all():
            raise WeightsError(
                f"{path}: {name} holds values that are not finite numbers: copy it again"
            )
    return state, origin
