"""TorchScript archives, in which OpenAI publishes CLIP: tensors are read, programs are not."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.clips import LAYERS, NAME, TEXT_WIDTH, WIDTH, floats, open_clip_network, small_graph
from support.commands import message, run
from torch import Tensor, nn

from vadprep.backbones import load_weights
from vadprep.backbones.weights.torchscript import read_torchscript
from vadprep.core.errors import WeightsError


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_graph(monkeypatch, 32)


class Program(nn.Module):
    """Tensors as modules of a TorchScript program have them, some in 16 bits, with its counters."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        for name, value in state.items():
            *path, last = name.split(".")
            module: nn.Module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_parameter(last, nn.Parameter(value, requires_grad=False))
        self.register_buffer("input_resolution", torch.tensor(224))
        self.sizes = [1, 2]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.logit_scale


def saved_program(state: dict[str, Tensor], path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript itself is deprecated
        torch.jit.save(torch.jit.script(Program(state).eval()), path)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Made-up weights of CLIP in small; matrices in 16 bits, as OpenAI stores them."""
    network = open_clip_network(32, WIDTH, TEXT_WIDTH, LAYERS)
    return {name: each.half() if each.ndim > 1 else each for name, each in floats(network).items()}


def tensors_of(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def test_archive_and_safetensors_convert_to_the_same_bytes(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    archive, plain = tmp_path / "ViT-B-16.pt", tmp_path / "open_clip_model.safetensors"
    saved_program(state, archive)
    save_file({name: each.float() for name, each in state.items()}, plain)
    for path, out in ((archive, "a.safetensors"), (plain, "b.safetensors")):
        done = run("weights", "convert", path, "--out", tmp_path / out)
        assert done.exit_code == 0 and f"graph {NAME}, {len(state)} tensors" in done.output
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert tensors_of(first) == tensors_of(second)
    found = load_weights(str(first), NAME)
    assert found.sha256 == load_weights(str(second)).sha256 == load_weights(str(archive)).sha256
    assert found.state.keys() == state.keys()
    assert all(torch.equal(found.state[name], each.float()) for name, each in state.items())


def test_tensors_that_share_a_storage_or_are_transposed(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    state = {"logit_scale": torch.tensor(1.0), "a.t": whole.t(), "a.part": whole[1:, 2:]}
    saved_program(state, tmp_path / "p.pt")
    with zipfile.ZipFile(tmp_path / "p.pt") as file:
        found = read_torchscript(file)
    assert found.pop("input_resolution") == 224
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], each) for name, each in state.items())


# ---------------------------------------------------------------- what means harm


def op_global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


MODULE = op_global("__torch__", "M") + b")\x81"
REBUILD = op_global("torch._utils", "_rebuild_tensor_v2")
SHOUT = op_global("os", "system") + b"(Vtouch ran\ntR"


def storage(key: str = "0", count: int = 4, kind: str = "FloatStorage") -> bytes:
    return b"(Vstorage\n" + op_global("torch", kind) + f"V{key}\nVcpu\nI{count}\nt".encode() + b"Q"


def tensor(shape: str = "I4\n", strides: str = "I1\n", offset: int = 0, of: bytes = b"") -> bytes:
    sizes = f"I{offset}\n({shape}t({strides}t".encode()
    return REBUILD + b"(" + (of or storage()) + sizes + b"I00\n" + b"NtR"


def module_with(value: bytes, name: bytes = b"a") -> bytes:
    return MODULE + b"}V" + name + b"\n" + value + b"sb"


def archive(pickled: bytes, **others: bytes) -> bytes:
    entries = {"data.pkl": b"\x80\x02" + pickled + b".", "constants.pkl": b"\x80\x02).",
               "data/0": bytes(16), "version": b"3\n", **others}  # fmt: skip
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in entries.items():
            file.writestr(f"m/{name}", content)
    return stream.getvalue()


HOSTILE: dict[str, tuple[bytes, str]] = {
    "code": (SHOUT, "os.system"),
    "code in a module": (module_with(SHOUT), "os.system"),
    "code as a module of its own": (
        op_global("__torch__.os", "system") + b"(Vtouch ran\ntR",
        "takes 1 positional",
    ),
    "eval": (module_with(op_global("builtins", "eval") + b"(V1\ntR"), "builtins.eval"),
    "getattr": (
        module_with(op_global("builtins", "getattr") + b"(" + MODULE + b"V__class__\ntR"),
        "builtins.getattr",
    ),
    "a function of torch": (module_with(op_global("torch", "load") + b"(Vx\ntR"), "torch.load"),
    "a dotted name": (
        module_with(op_global("torch", "FloatStorage.__class__")),
        "FloatStorage.__class__",
    ),
    "the state of a function": (REBUILD + b"(N}V__code__\nI1\nstb", "sets the state"),
    "attributes of a function": (REBUILD + b"(Vcontent\nI1\ntb", "sets the state"),
    "the state of a tensor": (tensor() + b"(I1\nI2\nI3\ntb", "sets the state"),
    "the state of the class": (
        op_global("__torch__", "M") + b"(N}V__setstate__\nI1\nstb",
        "missing 1 required",
    ),
    "a storage outside": (module_with(tensor(of=storage("../version"))), "no item named"),
    "another count": (module_with(tensor(of=storage(count=400))), "not the 400 numbers"),
    "another type": (module_with(tensor(of=storage(kind="HalfStorage"))), "not the 4 numbers"),
    "beyond the storage": (module_with(tensor(offset=1)), "setStorage"),
    "before the storage": (module_with(tensor(offset=-1)), "a tensor"),
    "repeated by a stride of 0": (
        module_with(tensor("I1000000\nI1000000\n", "I0\nI0\n")),
        "of 4 numbers",
    ),
    "a negative stride": (module_with(tensor(strides="I-1\n")), "of 4 numbers"),
    "a negative size": (module_with(tensor("I-4\n")), "of 4 numbers"),
    "steps over the end": (module_with(tensor(strides="I100000000000\n")), "setStorage"),
    "a module in itself": (MODULE + b"q\x00}Va\nh\x00sb", "there twice"),
    "a module at two places": (MODULE + b"}Va\n" + MODULE + b"q\x01sVb\nh\x01sb", "there twice"),
    "a list": (b"(l", "attributes"),
    "nothing": (b"", "underflow"),
}
"""Pickles of an archive, and the reason why each is refused."""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ViT-B-16.pt"
    pickled, reason = HOSTILE[name]
    path.write_bytes(archive(pickled))
    with zipfile.ZipFile(path) as file, pytest.raises(Exception, match=reason):
        read_torchscript(file)
    line = message(run("weights", "convert", path, "--out", tmp_path / "new.safetensors"))
    assert str(path) in line and "run code" in line
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_what_is_harmless_in_the_same_form_is_read(tmp_path: Path) -> None:
    """So that the archives above are refused for their harm."""
    path = tmp_path / "m.pt"
    path.write_bytes(archive(module_with(tensor())))
    with zipfile.ZipFile(path) as file:
        assert read_torchscript(file).keys() == {"a"}
    with pytest.raises(WeightsError, match="no network of vadprep has its 1 tensor;"):
        load_weights(str(path))


def test_the_program_is_not_read(state: dict[str, Tensor], tmp_path: Path) -> None:
    """An archive whose program is no TorchScript at all gives the same tensors."""
    saved_program(state, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as there,
        zipfile.ZipFile(tmp_path / "b.pt", "w") as file,
    ):
        for entry in there.infolist():
            is_program = "/code/" in entry.filename
            content = b"import os; os.system('touch ran')" if is_program else there.read(entry)
            file.writestr(entry.filename, content)
    first, second = (load_weights(str(tmp_path / each)).sha256 for each in ("a.pt", "b.pt"))
    assert first == second


def test_a_cut_archive_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    saved_program(state, tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError):
        load_weights(str(tmp_path / "a.pt"))
