"""Weights files that mean harm: code, bombs, absurd sizes, and what is no file at all."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.attacks import FILES, within

from vadprep.backbones import load_weights
from vadprep.backbones.graphs import canonical_shapes
from vadprep.backbones.weights import formats
from vadprep.backbones.weights.deepmind import DATA, MAGIC, masked_crc32c, read_index
from vadprep.backbones.weights.load import LONGEST_NAME, Weights, save_weights
from vadprep.backbones.weights.names import NAMINGS
from vadprep.core.errors import WeightsError, printable

GRAPH = "s3d"


class Calls:
    """A pickle of it calls a function when it is loaded."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


def dumped(found: object, protocol: int = 2) -> bytes:
    return pickle.dumps(found, protocol)


def torch_zip(
    content: bytes, *others: tuple[str, bytes], method: int = zipfile.ZIP_STORED
) -> bytes:
    """A PyTorch file with that pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, each in (("data.pkl", content), ("version", b"3\n"), *others):
            file.writestr(f"archive/{name}", each)
    return stream.getvalue()


def saved(found: object, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(found, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def bomb(size: int = 160 << 20) -> bytes:
    """A state dict whose one tensor is ``size`` bytes of zeros, compressed to a hundredth."""
    state = saved({"a": torch.zeros(4)})
    with zipfile.ZipFile(io.BytesIO(state)) as file:
        (folder,) = {name.split("/")[0] for name in file.namelist()}
        content = file.read(f"{folder}/data.pkl").replace(
            b"K\x04", b"J" + struct.pack("<i", size // 4)
        )
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", b"3\n")
        file.writestr("archive/byteorder", b"little")
        with file.open("archive/data/0", "w", force_zip64=True) as entry:
            for _ in range(size >> 24):
                entry.write(bytes(1 << 24))
    return stream.getvalue()


def safetensors(header: object, rest: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + rest


def entry(shape: list[int], start: int, stop: int, kind: str = "F32") -> dict[str, object]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, stop]}


SHOUT = Calls(os.system, "touch ran")
LARGE = 1 << 29
"""Bytes that no file here may take."""

OLD = b"".join(map(dumped, (0x1950A86A20F9469CFC6C, 1001, {})))
"""What an old PyTorch file begins with."""

PYTORCH: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello\n",
    "escapes": b"\x1b]0;x\x07",
    "zeros": bytes(4096),
    "code": torch_zip(dumped(SHOUT)),
    "code in a state dict": torch_zip(dumped({"a": SHOUT})),
    "code in an old file": OLD + dumped(SHOUT),
    "code alone": dumped(SHOUT),
    "eval": torch_zip(dumped(Calls(eval, "open('ran', 'w')"))),
    "a module": torch_zip(dumped(torch.nn.Linear)),
    "512 MB of bytes": torch_zip(dumped({"a": Calls(bytearray, LARGE)})),
    "512 MB of bytes in an old file": OLD + dumped({"a": Calls(bytearray, LARGE)}),
    "512 MB in a tensor": torch_zip(dumped({"a": Calls(torch.Tensor, LARGE)})),
    "a million names": torch_zip(dumped(dict.fromkeys(range(1_000_000)))),
    "zip bomb": bomb(),
    "zip bomb of names": torch_zip(bytes(64 << 20), method=zipfile.ZIP_DEFLATED),
    "zip in a folder above": torch_zip(b"", ("../../ran", b"x")),
    "cut": saved({"a": torch.zeros(1000)})[:-900],
    "cut old file": saved({"a": torch.zeros(1000)}, legacy=True)[:-900],
    "deep lists": torch_zip(b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b"."),
    "a list": saved([torch.zeros(1)]),
    "a number": saved(3),
    "a tensor": saved(torch.zeros(3)),
    "text for tensors": saved({"\x1b[31m": "x", "a": torch.zeros(1)}),
    "numbers for names": saved({1: torch.zeros(1)}),
    "wrapped in itself": saved({"state_dict": {"state_dict": {"a": torch.zeros(1)}}}),
    "no tensor": saved({}),
    "sparse": saved({"a": torch.eye(3).to_sparse()}),
    "without values": saved({"a": torch.empty(10**9, device="meta")}),
    "of stride 0": saved({"a": torch.zeros(1).expand(10**12)}),
    "whole numbers": saved({"a": torch.zeros(3, dtype=torch.int64)}),
    "complex numbers": saved({"a": torch.zeros(3, dtype=torch.complex64)}),
    "8-bit floats": saved({"a": torch.zeros(3).to(torch.float8_e4m3fn)}),
    "60,000 tensors in an old file": saved(
        dict.fromkeys(map(str, range(60_000)), torch.zeros(1)), legacy=True),
    "a million names in an old file": OLD + dumped(dict.fromkeys(range(1_000_000))),
    "10,000 tensors": saved(dict.fromkeys(map(str, range(10_000)), torch.zeros(1))),
}  # fmt: skip
"""Content of a PyTorch file, by kind."""

CAFFE2: dict[str, bytes] = {
    "code": dumped(SHOUT),
    "code among blobs": dumped({"blobs": {"a": SHOUT}}),
    "code of numpy": b"\x80\x02cnumpy.testing._private.utils\nrunstring\n.",
    "512 MB": dumped({"blobs": {"a": Calls(np.ndarray, (LARGE,))}}),
    "no blobs": dumped({"a": 1}),
    "a list of blobs": dumped({"blobs": [np.zeros(3)]}),
    "text for blobs": dumped({"blobs": {"a": "x" * 9, "b": [1, 2]}}),
    "dates for blobs": dumped({"blobs": {"a": np.zeros(3, "M8[s]")}}),
    "objects for blobs": dumped({"blobs": {"a": np.array([{}, {}])}}),
    "numbers for names": dumped({"blobs": {1: np.zeros(3, np.float32)}}),
    "cut": dumped({"blobs": {"a": np.zeros(99)}})[:-50],
    "deep": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
}
"""Content of a caffe2 pickle, by kind."""

SAFETENSORS: dict[str, bytes] = {
    "empty": b"",
    "cut": safetensors({"a": entry([4], 0, 16)}, bytes(9)),
    "a header of 2^63 bytes": safetensors({}, size=2**63),
    "a header of 9 MB": safetensors(b"{" + b" " * (9 << 20) + b"}"),
    "150,000 tensors": safetensors(dict.fromkeys(map(str, range(150_000)), entry([0], 0, 0))),
    "no JSON": safetensors(b"hello"),
    "deep JSON": safetensors(b'{"a":' * 100_000),
    "a list": safetensors([]),
    "a shape of 2^60": safetensors({"a": entry([2**30, 2**30], 0, 16)}, bytes(16)),
    "a shape whose size overflows": safetensors({"a": entry([2**62, 4], 0, 0)}),
    "bytes that are not there": safetensors({"a": entry([2**40], 0, 2**42)}),
    "tensors on tensors": safetensors({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, bytes(24)),
    "reversed": safetensors({"a": entry([4], 16, 0)}, bytes(16)),
    "another type": safetensors({"a": entry([4], 0, 16, "X\x1b")}, bytes(16)),
    "another network": safetensors({"a": entry([4], 0, 16)}, bytes(16)),
    "a hostile graph": safetensors({"__metadata__": {"graph": "\x1b[31m" + "x" * 9999}}),
    "8-bit floats": safetensors(
        {"__metadata__": {"graph": GRAPH}, "a": entry([4], 0, 4, "F8_E4M3")}, bytes(4)
    ),
}  # fmt: skip
"""Content of a .safetensors file, by kind."""

ALL = {
    f"{kind}{suffix}": content
    for suffix, contents in ((".pt", PYTORCH), (".pkl", CAFFE2), (".safetensors", SAFETENSORS))
    for kind, content in contents.items()
}


@pytest.fixture(scope="module", autouse=True)
def networks_are_known() -> None:
    """So that the first attack is not charged with the import of networks."""
    for graph in NAMINGS:
        canonical_shapes(graph)


@pytest.mark.parametrize("name", ALL)
def test_a_hostile_file_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(formats, "SPARE_BYTES", 64 << 20)
    (tmp_path / "h\x1b[31m").mkdir()
    path = tmp_path / "h\x1b[31m" / f"w{Path(name).suffix}"
    path.write_bytes(ALL[name])
    for graph in (None, GRAPH):
        with within(10, 128 << 20), pytest.raises(WeightsError) as caught:
            load_weights(str(path), graph)
        assert str(caught.value).startswith(printable(str(path)))
        assert str(caught.value).isprintable()
    assert {each.name for each in tmp_path.iterdir()} == {"h\x1b[31m"}
    assert not (tmp_path.parent / "ran").exists()


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize(
    "name", ["w.pt", "w.pkl", "w.safetensors", "m.ckpt.index", f"m.ckpt{DATA}"]
)
def test_what_is_no_file(tmp_path: Path, kind: str, name: str) -> None:
    FILES[kind](tmp_path / name)
    with within(), pytest.raises(WeightsError) as caught:
        load_weights(str(tmp_path / name), GRAPH)
    assert str(caught.value).startswith(f"{tmp_path}/{name}: cannot be read: ")


# ---------------------------------------------------------------- an index of TensorFlow


def varint(number: int) -> bytes:
    content = b""
    while number > 127:
        content, number = content + bytes([number & 127 | 128]), number >> 7
    return content + bytes([number])


def block(pairs: list[tuple[int, bytes, bytes]]) -> bytes:
    """A block of (bytes shared with the key before, rest of the key, value), with its CRC."""
    parts = [varint(n) + varint(len(k)) + varint(len(v)) + k + v for n, k, v in pairs]
    content = b"".join(parts) + struct.pack("<II", 0, 1) + b"\0"
    return content + struct.pack("<I", masked_crc32c(content))


def index(pairs: list[tuple[int, bytes, bytes]], times: int = 1) -> bytes:
    """An index whose block is referred to ``times`` times."""
    first = block(pairs)
    handle = varint(0) + varint(len(first) - 5)
    second = block([(0, b"k%d" % number, handle) for number in range(times)])
    footer = varint(0) + varint(0) + varint(len(first)) + varint(len(second) - 5)
    return first + second + footer.ljust(40, b"\0") + struct.pack("<Q", MAGIC)


def tensor(size: int, offset: int = 0) -> bytes:
    shape = b"\x12" + varint(len(varint(size)) + 1) + b"\x08" + varint(size)
    content = b"\x08\x01\x12" + varint(len(shape)) + shape
    return content + b"\x20" + varint(offset) + b"\x28" + varint(4 * size) + b"\x35" + bytes(4)


INDEXES: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello" * 20,
    "magic alone": bytes(40) + struct.pack("<Q", MAGIC),
    "a number without end": b"\xff" * 200_000 + struct.pack("<Q", MAGIC),
    "a block beyond the file": varint(0) * 2 + varint(2**62) + varint(2**62) + bytes(20)
    + struct.pack("<Q", MAGIC),
    "names that grow": index([(n, b"x", tensor(1)) for n in range(9000)]),
    "one block a million times": index([(0, b"x" * 90, tensor(1))] * 100, times=12_000),
    "text for a place": index([(0, b"a", b"\x08\x01\x22\x02hi\x28\x00\x35" + bytes(4))]),
    "text for a shape": index([(0, b"a", b"\x08\x01\x10\x05\x35" + bytes(4))]),
    "no CRC": index([(0, b"a", b"\x08\x01")]),
    "names that are not UTF-8": index([(0, b"\xff", tensor(1))]),
    "a wire type of none": index([(0, b"a", b"\x0f")]),
}  # fmt: skip


@pytest.mark.parametrize("kind", INDEXES)
def test_a_hostile_index(tmp_path: Path, kind: str) -> None:
    (tmp_path / "m.ckpt.index").write_bytes(INDEXES[kind])
    (tmp_path / f"m.ckpt{DATA}").write_bytes(bytes(64))
    with within(), pytest.raises(WeightsError) as caught:
        load_weights(str(tmp_path / "m.ckpt.index"))
    assert str(caught.value).startswith(f"{tmp_path}/m.ckpt") and str(caught.value).isprintable()


@pytest.mark.parametrize("size, offset", [(2**40, 0), (4, 2**62), (17, 0)])
def test_tensors_beyond_the_data(tmp_path: Path, size: int, offset: int) -> None:
    (tmp_path / "m.ckpt.index").write_bytes(index([(0, b"RGB/\x1b", tensor(size, offset))]))
    (tmp_path / f"m.ckpt{DATA}").write_bytes(bytes(64))
    assert read_index(tmp_path / "m.ckpt.index")
    with within(), pytest.raises(WeightsError, match="ends within") as caught:
        load_weights(str(tmp_path / "m.ckpt.index"))
    assert str(caught.value).isprintable()


def test_a_name_in_a_file_has_bounds(tmp_path: Path) -> None:
    sound = load_weights("random:0", GRAPH)
    save_weights(Weights("x" * 9999, "", GRAPH, sound.state, ""), tmp_path / "w.safetensors")
    found = load_weights(str(tmp_path / "w.safetensors"), GRAPH)
    assert len(found.name) == LONGEST_NAME and found.sha256 == sound.sha256
