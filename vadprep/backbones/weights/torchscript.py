"""Tensors of a TorchScript archive, read without TorchScript: none of its code is parsed or run.

Such an archive is a zip: ``data.pkl`` has the tree of modules, their tensors and attributes,
``data/N`` the numbers, and ``code/`` the program, which is left alone. torch reads it by
``torch.jit.load`` alone, which would build the program. OpenAI publishes CLIP in this form.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from math import prod
from typing import Any

import torch
from torch import Tensor

TYPES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}  # fmt: skip
"""Names of kinds of storage in pickles."""

LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
"""Functions of ``torch.jit._pickle`` that mark the type of a list."""

PROGRAM = "/constants.pkl"
"""End of the name of the entry by which torch itself tells an archive from a file of tensors."""


class _Module:
    """Stands for a module: its attributes, by name."""

    def __init__(self) -> None:
        self.attributes: dict[Any, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("a module without attributes by name")
        self.attributes = state


class _Sealed:
    """Holds a function, storage or tensor, so that a pickle can pass it on and not change it."""

    __slots__ = ("content",)
    content: Any

    def __init__(self, content: Any) -> None:
        object.__setattr__(self, "content", content)

    def __setattr__(self, name: str, value: object) -> None:
        raise pickle.UnpicklingError(f"it sets {name} of something else than a module")

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it sets the state of something else than a module")

    def __call__(self, *arguments: Any) -> Any:
        return self.content(*arguments)


class _Unpickler(pickle.Unpickler):
    """Builds modules without behaviour and tensors of stored numbers; refuses all else."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}/data.pkl"))
        self._archive, self._root = archive, root
        self._storages: dict[str, _Sealed] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Sealed(_tensor)
        if (module, name) == ("collections", "OrderedDict"):  # hooks, of which there are none
            return OrderedDict
        if module == "torch.jit._pickle" and name in LISTS:
            return _Sealed(lambda items: items)
        if module == "torch" and name in TYPES:
            return name
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> _Sealed:
        """The numbers of a storage, in a row; the device that they were on does not matter."""
        _, kind, key, _, count = pid
        if key not in self._storages:
            content = self._archive.read(f"{self._root}/data/{key}")
            numbers = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            self._storages[key] = _Sealed(numbers.view(TYPES[kind]))
        if len(self._storages[key].content) != count:
            raise pickle.UnpicklingError(f"storage {key} has not the {count} numbers it is said to")
        return self._storages[key]


def _tensor(storage: _Sealed, offset: int, shape: Any, strides: Any, *others: Any) -> _Sealed:
    """A copy of a part of a storage, of at most as many numbers."""
    numbers: Tensor = storage.content
    if prod(shape) > len(numbers) or min((*shape, *strides, offset)) < 0:
        raise pickle.UnpicklingError(f"a tensor {shape} of {len(numbers)} numbers")
    return _Sealed(numbers.as_strided(shape, strides, offset).clone())  # checks the bounds


def is_torchscript(archive: zipfile.ZipFile) -> bool:
    """True for an archive that holds a program, not tensors alone."""
    return any(name.endswith(PROGRAM) for name in archive.namelist())


def read_torchscript(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """The tensors of an archive by the names that a state dict would have, counters among them.

    Raises any exception, mostly UnpicklingError, for what is damaged, asks for code to be run, or
    holds one module at two places.
    """
    root = next(name for name in archive.namelist() if name.endswith(PROGRAM))
    top = _Unpickler(archive, root.removesuffix(PROGRAM)).load()
    tensors: dict[str, Tensor] = {}
    waiting, seen = [("", top)], {id(top)}
    while waiting:
        prefix, module = waiting.pop()
        for name, value in module.attributes.items():
            if isinstance(value, _Sealed) and isinstance(value.content, Tensor):
                tensors[f"{prefix}{name}"] = value.content
            elif isinstance(value, _Module):
                if id(value) in seen:
                    raise pickle.UnpicklingError(f"module {prefix}{name} is there twice")
                seen.add(id(value))
                waiting.append((f"{prefix}{name}.", value))
    return tensors
