"""Files and texts from elsewhere: kind, size and type are checked before use."""

from __future__ import annotations

import errno
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from support.attacks import FILES, JSON, is_plain, within

from vadprep.core.errors import MOST_SHOWN, ManifestError, SettingError, printable
from vadprep.core.untrusted import (
    REMEDIES,
    malformed,
    parse_json,
    read_json,
    read_regular,
)

HOSTILE = "a\x1b]0;title\x07\x9b31m\u202egnp.\u2066\r\n\x7f\0\udc80\u2028z"


def one_line(error: BaseException, begin: object) -> bool:
    text = str(error)
    return text.startswith(printable(str(begin))) and text.isprintable()


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("read", [read_regular, read_json])
def test_what_is_no_regular_file_of_its_size_is_refused(tmp_path: Path, read, kind: str) -> None:
    path = tmp_path / "a\x1b[31m"
    FILES[kind](path)
    with within(), pytest.raises(ManifestError) as caught:
        read(path, ManifestError)
    assert one_line(caught.value, f"{path}: cannot be read: ")


@pytest.mark.parametrize("name", ["a\0b", "n" * 300])
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read_regular(tmp_path / name, ManifestError)
    assert one_line(caught.value, tmp_path)


def test_a_file_that_is_not_there_is_the_callers_to_say(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, error in (("none", FileNotFoundError), ("file/none", NotADirectoryError)):
        with pytest.raises(error):
            read_regular(tmp_path / name, ManifestError)


@pytest.mark.parametrize("code", [*REMEDIES, errno.EBUSY])
def test_an_error_of_the_disk_names_the_file_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    class Broken(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(code, os.strerror(code))

    (tmp_path / "x").touch()
    monkeypatch.setattr(os, "fdopen", lambda number, mode: Broken(number))
    with pytest.raises(ManifestError) as caught:
        read_regular(tmp_path / "x", ManifestError)
    assert one_line(caught.value, f"{tmp_path}/x: cannot be read: {os.strerror(code)}")
    assert str(caught.value).endswith(REMEDIES.get(code, os.strerror(code)))


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345678")
    assert read_regular(tmp_path / "x", ManifestError, 8) == b"12345678"
    with pytest.raises(ManifestError, match="larger than"):
        read_regular(tmp_path / "x", ManifestError, 7)
    with pytest.raises(ManifestError, match="larger than"):  # which says that it has 0 bytes
        read_regular(Path("/proc/self/status"), ManifestError, 9)


@pytest.mark.parametrize("kind", JSON)
def test_what_is_no_json_object(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x.json").write_bytes(JSON[kind])
    with within(), pytest.raises(ManifestError) as caught:
        read_json(tmp_path / "x.json", ManifestError)
    assert one_line(caught.value, f"{tmp_path}/x.json: damaged, not ")


def test_what_is_a_json_object() -> None:
    text = '{"a": [-9223372036854775808, 18.5e300, "\\u001b\\udcff", true, null, {}]}'
    found = parse_json(text, "x", ManifestError)
    assert found == {"a": [-(2**63), 18.5e300, "\x1b\udcff", True, None, {}]}
    assert parse_json('{"a":' + "[" * 400 + "]" * 400 + "}", "", ManifestError)


def test_the_text_of_an_error_is_one_line_that_any_terminal_can_show() -> None:
    error = ManifestError(f"{HOSTILE}: {'x' * 10_000}")
    assert str(error).startswith("a\\x1b]0;title\\x07\\x9b31m\\u202egnp.\\u2066\\r\\n\\u007f\\x00")
    assert str(error).isprintable() and len(str(error)) < MOST_SHOWN + 100
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # it comes from workers so
    assert str(SettingError("one\ntwo\x1b")) == "one\ntwo\\x1b"


@pytest.mark.parametrize(
    "use",
    [
        lambda: {}["\x1b"],
        lambda: [][1],
        lambda: None.get("a"),  # type: ignore[attr-defined]
        lambda: int("\x1b"),
        lambda: 10**400 / 1.0,
        lambda: 1 / 0,
        lambda: set([{}]),
    ],
)
def test_content_of_a_wrong_type_is_damage(use) -> None:
    with pytest.raises(ManifestError) as caught, malformed("file", ManifestError):
        use()
    assert one_line(caught.value, "file: damaged: ")


def test_memory_is_bounded_and_given_back() -> None:
    """In a process of its own: memory that others have freed here may serve without a new claim."""
    program = """
from vadprep.core.untrusted import bounded_memory

for size in (128 << 20, 0):
    try:
        with bounded_memory(64 << 20):
            bytearray(size)
            raise RuntimeError
    except (MemoryError, RuntimeError) as error:
        print(type(error).__name__, len(bytearray(128 << 20)) >> 20)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["MemoryError", "128", "RuntimeError", "128"], done.stderr


def test_plain_text() -> None:
    assert is_plain("Überfall 日本\n") and not is_plain("\x1b") and not is_plain("\u202e")
