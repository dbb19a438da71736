"""Manifests, split files, id lists and ground truth that mean harm, through the commands."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.attacks import FILES, is_plain, within
from support.commands import without_network

from vadprep.cli.main import main
from vadprep.core.errors import printable

HEAD = b"video_id,path,split,label,num_frames,fps,intervals\n"
ROW = b'a,a.mp4,test,1,100,25,"[[0, 50]]"\n'


def row(**cells: str) -> bytes:
    """A table of one row, of which ``cells`` are replaced."""
    known = dict(
        zip(
            HEAD.decode().strip().split(","),
            ("a", "a.mp4", "test", "1", "100", "25", ""),
            strict=True,
        )
    )
    values = {**known, **cells}.values()
    quoted = ",".join('"' + each.replace('"', '""') + '"' for each in values)
    return HEAD + quoted.encode("utf-8", "surrogatepass") + b"\n"


TABLES: dict[str, bytes] = {
    "empty": b"",
    "zeros": bytes(100_000),
    "random": bytes(range(256)) * 99,
    "a video": b"\0\0\0\x20ftypisom" + bytes(99),
    "UTF-16": ("\ufeff" + HEAD.decode()).encode("utf-16-le"),
    "half a letter": HEAD + b"\xc3",
    "an open quote": HEAD + b'"a' + b"x" * (1 << 20),
    "open quotes in each line": HEAD + b'a"b\n' * 9999 + b'"',
    "a line of 4 MB": HEAD + b"x" * (4 << 20),
    "a million cells": HEAD + b"," * 1_000_000,
    "a header of a million columns": b",".join(b"c%d" % n for n in range(200_000)) + b"\n" + ROW,
    "a row of a million lines": HEAD + b'"\n",' * 2_000_000,
    "NUL in an id": HEAD + ROW.replace(b"a,", b"a\0,"),
    "NUL in the header": HEAD.replace(b"path", b"pa\0th") + ROW,
    "controls in the header": b"\x1b]0;x\x07,\xe2\x80\xae\n1,2\n",
    "controls in a cell": row(label="\x1b[31m1\u202e"),
    "no row": HEAD,
    "an id twice": HEAD + ROW * 2,
    "a blank id": row(video_id=" "),
    "10^12 frames": row(num_frames="999999999999"),
    "5000 digits": row(num_frames="9" * 5000),
    "-1 frames": row(num_frames="-1"),
    "1e5 frames": row(num_frames="1e5"),
    "Arabic digits": row(num_frames="\u0661\u0662"),
    "fps of infinity": row(fps="1e999999"),
    "fps of NaN": row(fps="nan"),
    "fps of 0": row(fps="25/0"),
    "fps of -1": row(fps="-25"),
    "fps of 1e-300": row(fps="1e-300"),
    "fps of 1e300": row(fps="1e300"),
    "label 2": row(label="2"),
    "label NaN": row(label="nan"),
    "deep intervals": row(intervals="[" * 60_000 + "]" * 60_000),
    "intervals of infinity": row(intervals="[[0, 1e999]]"),
    "intervals of NaN": row(intervals="[[NaN, 5]]"),
    "intervals of 5000 digits": row(intervals=f"[[0, {'9' * 5000}]]"),
    "intervals of text": row(intervals='[["a", "b"]]'),
    "an object": row(intervals='{"a": 1}'),
    "true": row(intervals="[[true, 5]]"),
    "reversed": row(intervals="[[50, 10]]"),
    "overlapping": row(intervals="[[0, 50], [40, 60]]"),
    "negative": row(intervals="[[-5, 50]]"),
    "far past the end": row(intervals="[[0, 9007199254740991]]"),
    "a cell of 200,000 letters": row(intervals="x" * 200_000),
}  # fmt: skip
"""Content of a manifest that cannot be used, by kind."""


def refused(path: Path, *arguments: object, code: int = 2) -> str:
    """The one line that refuses; within bounds, and without controls though it is coloured."""
    with within(more_bytes=300 << 20):
        result = CliRunner().invoke(main, list(map(str, arguments)), color=True)
    assert result.exit_code == code, (result.output, result.exc_info)
    assert isinstance(result.exception, SystemExit) and is_plain(result.output)
    errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and printable(str(path)) in errors[0] and len(errors[0]) < 5000
    return errors[0]


@pytest.mark.parametrize("kind", TABLES)
def test_a_hostile_manifest(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m\x1b[31m.csv"
    path.write_bytes(TABLES[kind])
    refused(path, "datasets", "show", path)


COMMANDS = {
    "manifest": ("datasets", "show", "FILE"),
    "split file": (
        "gt",
        "build",
        "--dataset",
        "ped2",
        "--split-file",
        "FILE",
        "--rule",
        "frames",
        "--out",
        "x.npy",
    ),
    "labels": ("gt", "check", "FILE", "--dataset", "ped2"),
    "ids": ("gt", "check", "LABELS", "--dataset", "ped2", "--list", "FILE"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("what", COMMANDS)
def test_what_is_no_file_in_place_of_a_table(tmp_path: Path, what: str, kind: str) -> None:
    path = tmp_path / "x"
    FILES[kind](path)
    np.save(tmp_path / "labels.npy", np.zeros(3))
    places = {"FILE": path, "LABELS": tmp_path / "labels.npy"}
    result = refused(path, *(places.get(each, each) for each in COMMANDS[what]))
    assert "cannot be read" in result or "is a directory" in result


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode("latin-1")
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + content


def saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


LABELS: dict[str, bytes] = {
    "empty": b"",
    "text": b"0\n1\n",
    "10^12 labels": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,)}"),
    "a shape that overflows": npy(
        "{'descr': '|u1', 'fortran_order': False, 'shape': (4611686018427387904, 8)}"),
    "a negative shape": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}", b"x"),
    "code in the header": npy("__import__('os').system('touch ran')"),
    "structures": saved(np.zeros(3, [("a", "u1"), ("b", "f8")])),
    "objects": saved(np.array([{}, []], object)),
    "dates": saved(np.zeros(3, "M8[s]")),
    "text labels": saved(np.array(["a"])),
    "NaN": saved(np.array([np.nan, 1])),
    "a table": saved(np.zeros((3, 3))),
    "cut": saved(np.zeros(1000))[:-10],
    "an archive": b"PK\x03\x04" + bytes(99),
}  # fmt: skip


@pytest.mark.parametrize("kind", LABELS)
def test_hostile_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gt.npy").write_bytes(LABELS[kind])
    refused(tmp_path / "gt.npy", "gt", "check", tmp_path / "gt.npy", "--dataset", "ped2")
    assert not (tmp_path / "ran").exists()


def test_a_million_years_of_labels(tmp_path: Path) -> None:
    rows = [f"{n},{n}.mp4,test,0,999999999,25,[]\n".encode() for n in range(2000)]
    (tmp_path / "m.csv").write_bytes(HEAD + b"".join(rows))
    out = tmp_path / "gt.npy"
    build = ("gt", "build", "--manifest", tmp_path / "m.csv", "--rule", "frames", "--out", out)
    assert "more than a year of video" in refused(Path("labels"), *build)
    assert not out.exists()


SHOUT = "\x1b]0;owned\x07\x9b31m\u202egnp.\u2066\r\x7fx"
"""Sets the title of a terminal and colours, and reverses what follows."""


def test_names_from_a_table_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    """Of videos, columns, splits and categories, as text and as JSON."""
    table = HEAD.decode().replace("fps", SHOUT).strip() + f",category{SHOUT}\n"
    for n in range(30):
        table += f'"{SHOUT}{n}",{SHOUT}{n}.mp4,{SHOUT if n > 9 else "test"},1,9,,"[[0, 12]]",x\n'
    path = tmp_path / f"{SHOUT}.csv"
    path.write_text(table.replace("\r", ""), newline="")
    np.save(tmp_path / "gt.npy", np.zeros(90))
    named = ("--manifest", path)
    outputs = []
    for command in (
        ("datasets", "show", path),
        ("datasets", "check", path, "--root", tmp_path),
        ("gt", "build", *named, "--rule", "frames", "--out", tmp_path / "new.npy"),
        ("gt", "check", tmp_path / "gt.npy", *named),
        ("gt", "check", tmp_path / "gt.npy", *named, "--json"),
        ("extract", *named, "--root", tmp_path, "--out", tmp_path / SHOUT, "--weights", "random:0"),
        ("extract", "--videos", tmp_path / SHOUT),
        ("train", "ddl", *named, "--features", tmp_path / SHOUT),
        ("status", tmp_path / SHOUT),
        ("eval", tmp_path / SHOUT, *named),
        ("score", tmp_path / SHOUT, tmp_path / SHOUT),
        ("weights", "check", tmp_path / SHOUT),
        ("weights", "check", SHOUT),
        ("compare", tmp_path / SHOUT, f"http://user:hunter2@127.0.0.1:9/{SHOUT}?k=hunter2"),
        (SHOUT,),
        (f"--{SHOUT}",),
        ("extract", f"--{SHOUT}"),
        ("presets", SHOUT),
        ("recipes", SHOUT),
        ("train", SHOUT),
        ("extract", "--videos", tmp_path, "--set", f"{SHOUT}=1"),
        ("extract", "--videos", tmp_path, "--preset", SHOUT),
    ):
        with without_network():
            result = CliRunner().invoke(main, list(map(str, command)), color=True)
        assert result.exception is None or isinstance(result.exception, SystemExit), command
        assert is_plain(result.output) and "hunter2" not in result.output, command
        outputs.append(result.output)
    assert sum("\\x1b]0;owned" in output for output in outputs) > 12
    check = ("gt", "check", tmp_path / "gt.npy", *named, "--json")
    printed = CliRunner().invoke(main, list(map(str, check))).stdout
    assert json.loads(printed)["videos"][0]["video_id"] == f"{SHOUT}0".replace("\r", "")
