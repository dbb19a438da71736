"""What may stand in a file of a feature folder that somebody else made, by kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from vadprep.features.shard import crc32

GROUP = "000000"
"""Of the first video of a shard."""
CONTROL = "\x1b]0;title\x07\x9b31m\u202e\r\n"

Change = Callable[[h5py.File], object]


def group_of(file: h5py.File) -> h5py.Group:
    return file[GROUP]


def moved(link: object, name: str = "features") -> Change:
    """An array that is only linked to."""

    def change(file: h5py.File) -> None:
        del group_of(file)[name]
        group_of(file)[name] = link

    return change


def as_array(name: str, **options: object) -> Change:
    """An array that is made anew, with ``options`` of h5py."""

    def change(file: h5py.File) -> None:
        group = group_of(file)
        data = group[name][()]
        del group[name]
        group.create_dataset(name, **({"data": data} | options))

    return change


def declared(name: str, shape: tuple[int, ...], dtype: str) -> Change:
    """An array of many numbers of which none is in the file."""

    def change(file: h5py.File) -> None:
        del group_of(file)[name]
        space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(np.dtype(dtype))
        h5py.h5d.create(group_of(file).id, name.encode(), kind, space)

    return change


def external(name: str, place: str) -> Change:
    """An array whose numbers are said to lie in another file; nothing is written there."""

    def change(file: h5py.File) -> None:
        array = group_of(file)[name]
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_external(place.encode(), 0, h5py.h5f.UNLIMITED)
        plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space, kind = h5py.h5s.create_simple(array.shape), h5py.h5t.py_create(array.dtype)
        del group_of(file)[name]
        h5py.h5d.create(group_of(file).id, name.encode(), kind, space, plan)

    return change


def virtual(file: h5py.File) -> None:
    """Another file's numbers, as if they were here."""
    array = group_of(file)["features"]
    layout = h5py.VirtualLayout(array.shape, array.dtype)
    layout[:] = h5py.VirtualSource(file.filename, f"{GROUP}/spans", array.shape)
    del group_of(file)["features"]
    group_of(file).create_virtual_dataset("features", layout)


def filtered(file: h5py.File) -> None:
    """Packed by a filter that nobody has."""
    array = group_of(file)["features"]
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk(array.shape)
    plan.set_filter(32099, h5py.h5z.FLAG_OPTIONAL)
    space, kind = h5py.h5s.create_simple(array.shape), h5py.h5t.py_create(array.dtype)
    del group_of(file)["features"]
    h5py.h5d.create(group_of(file).id, b"features", kind, space, plan)


def content(name: str, values: Callable[[np.ndarray], object]) -> Change:
    """Other numbers of the same shape, with the checksum that they need."""

    def change(file: h5py.File) -> None:
        group = group_of(file)
        array = group[name][()]
        new = np.asarray(values(array.copy())).astype(array.dtype)
        group[name][...] = new
        group.attrs[f"{name}_crc32"] = crc32(new)

    return change


def times(values: Callable[[int], object]) -> Change:
    def change(file: h5py.File) -> None:
        group = group_of(file)
        array = np.asarray(values(int(group.attrs["num_frames"])), np.float64)
        group["times"] = array
        group.attrs["times_crc32"] = crc32(array)

    return change


def attribute(name: str, value: object, root: bool = False) -> Change:
    def change(file: h5py.File) -> None:
        place = file if root else group_of(file)
        place.attrs.pop(name, None)
        if value is not None:
            place.attrs[name] = value

    return change


def spec_text(change: Callable[[dict[str, object]], object]) -> Change:
    def changed(file: h5py.File) -> None:
        text = file.attrs["spec"]
        values = json.loads(text.decode() if isinstance(text, bytes) else text)
        new = change(values)
        file.attrs["spec"] = new if isinstance(new, str) else json.dumps(values)

    return changed


def set_row(array: np.ndarray, row: int, value: object) -> np.ndarray:
    array[row] = value
    return array


def reference(file: h5py.File) -> None:
    group_of(file).attrs["reason"] = group_of(file).ref


def deep(file: h5py.File) -> None:
    """The video lies a thousand groups deep, behind a link."""
    file.move(GROUP, "/".join(["g"] * 1000))
    file[GROUP] = h5py.SoftLink("/" + "/".join(["g"] * 1000))


def linked_group(link: object) -> Change:
    def change(file: h5py.File) -> None:
        del file[GROUP]
        file[GROUP] = link

    return change


def many_attributes(file: h5py.File) -> None:
    for number in range(1200):
        group_of(file).attrs[f"x{number}"] = 1


RECORD = np.dtype([("a", "f2"), ("b", "i8")])
STRINGS, OBJECTS = h5py.string_dtype(), h5py.ref_dtype

HDF5: dict[str, Change] = {
    # elsewhere
    "external link to a shard": moved(h5py.ExternalLink("shard-00001.h5", f"{GROUP}/features")),
    "external link to a FIFO": moved(h5py.ExternalLink("fifo", "features")),
    "external link to /dev/zero": moved(h5py.ExternalLink("/dev/zero", "features")),
    "external link to a text": moved(h5py.ExternalLink("../plan.csv", "x"), "spans"),
    "soft link": moved(h5py.SoftLink(f"/{GROUP}/spans")),
    "soft link to itself": moved(h5py.SoftLink(f"/{GROUP}/features")),
    "soft link to spans of nothing": moved(h5py.SoftLink("/nothing"), "spans"),
    "group behind an external link": linked_group(h5py.ExternalLink("shard-00001.h5", GROUP)),
    "group behind a link to a FIFO": linked_group(h5py.ExternalLink("fifo", GROUP)),
    "group behind a loop": linked_group(h5py.SoftLink(f"/{GROUP}")),
    "a thousand groups deep": deep,
    "external storage": external("features", "shard-00001.h5"),
    "external storage in a FIFO": external("spans", "fifo"),
    "virtual": virtual,
    "filter that is not there": filtered,
    "packed": as_array("features", chunks=True, compression="gzip"),
    "packed spans": as_array("spans", chunks=True, compression="gzip"),
    # sizes
    "4 TB of features": declared("features", (1 << 40, 1, 2), "float16"),
    "rows of 4 TB": declared("features", (2, 1, 1 << 40), "float16"),
    "a million crops": declared("features", (2, 1 << 20, 1), "float16"),
    "no rows, 2^60 wide": declared("features", (0, 1 << 30, 1 << 30), "float16"),
    "16 TB of spans": declared("spans", (1 << 40, 2), "int64"),
    "2^58 spans": declared("spans", (1 << 58, 2), "int64"),
    "packed zeros of 4 TB": as_array(
        "features", data=None, shape=(1 << 40, 1, 2), chunks=(1 << 12, 1, 2), dtype="f2",
        compression="gzip",
    ),
    # types and shapes
    "int features": as_array("features", dtype="i2"),
    "float64 features": as_array("features", dtype="f8"),
    "complex features": declared("features", (2, 1, 4), "complex64"),
    "features of records": as_array("features", data=np.zeros((2, 1, 4), RECORD)),
    "features of bytes": as_array("features", data=np.zeros((2, 1, 4), "V7")),
    "features of texts": as_array("features", data=None, shape=(2, 1, 4), dtype=STRINGS),
    "features of references": as_array("features", data=None, shape=(2, 1, 4), dtype=OBJECTS),
    "features of ragged rows": as_array(
        "features", data=None, shape=(2, 1, 4), dtype=h5py.vlen_dtype(np.float16)
    ),
    "features of an enumeration": as_array(
        "features", data=None, shape=(2, 1, 4), dtype=h5py.enum_dtype({"a": 1})
    ),
    "a number as features": as_array("features", data=np.float16(1)),
    "nothing as features": as_array("features", data=h5py.Empty("f2")),
    "features of 2 axes": as_array("features", data=np.zeros((2, 4), "f2")),
    "features of 9 axes": as_array("features", data=np.zeros((1,) * 9, "f2")),
    "a group as features": lambda file: (
        group_of(file).pop("features"), group_of(file).create_group("features")
    ),
    "a type as features": moved(np.dtype("f2")),
    "no features": lambda file: group_of(file).__delitem__("features"),
    "no spans": lambda file: group_of(file).__delitem__("spans"),
    "float spans": as_array("spans", dtype="f8"),
    "spans of records": as_array("spans", data=np.zeros((2, 2), RECORD)),
    "spans of 3 columns": as_array("spans", data=np.zeros((2, 3), "i8")),
    "an array as group": lambda file: (
        file.__delitem__(GROUP), file.create_dataset(GROUP, data=1)
    ),
    "no group": lambda file: file.__delitem__(GROUP),
    # numbers
    "NaN": content("features", lambda a: set_row(a, 0, np.nan)),
    "infinity": content("features", lambda a: set_row(a, -1, np.inf)),
    "negative spans": content("spans", lambda a: a - 5),
    "reversed spans": content("spans", lambda a: a[:, ::-1]),
    "descending spans": content("spans", lambda a: a[::-1]),
    "overlapping spans": content("spans", lambda a: a // 2 * [1, 2]),
    "spans with a gap": content("spans", lambda a: set_row(a, 0, (0, 1))),
    "spans past the end": content("spans", lambda a: a * 1000),
    "spans of 2^62": content("spans", lambda a: set_row(a, -1, 2**62)),
    "times of NaN": times(lambda n: np.full(n + 1, np.nan)),
    "times of infinity": times(lambda n: np.r_[np.arange(n), np.inf]),
    "times that run back": times(lambda n: np.arange(n + 1)[::-1]),
    "too few times": times(lambda n: np.arange(3)),
    "checksum of other features": attribute("features_crc32", 7),
    "checksum of other spans": attribute("spans_crc32", 7),
    # attributes
    "no id": attribute("video_id", None),
    "a number as id": attribute("video_id", 5),
    "another id": attribute("video_id", f"x{CONTROL}"),
    "an id with NUL": attribute("video_id", np.bytes_(b"a\0b")),
    "ids": attribute("video_id", np.array([b"a", b"b"])),
    "an empty id": attribute("video_id", h5py.Empty("S1")),
    "ragged texts": attribute("decoder", ["a", "b"]),
    "a record": attribute("decoder", np.zeros(1, RECORD)[0]),
    "a reference": reference,
    "an odd status": attribute("status", CONTROL),
    "an array as status": attribute("status", np.array([b"done"])),
    "no frames": attribute("num_frames", None),
    "negative frames": attribute("num_frames", -1),
    "2^62 frames": attribute("num_frames", 2**62),
    "10^12 frames": attribute("num_frames", 10**12),
    "half a frame": attribute("num_frames", 20.5),
    "frames as text": attribute("num_frames", "20"),
    "fps NaN": attribute("fps_source", np.nan),
    "fps infinity": attribute("fps_source", np.inf),
    "fps 0": attribute("fps_source", 0.0),
    "fps -25": attribute("fps_source", -25.0),
    "fps 1e300": attribute("fps_source", 1e300),
    "fps as text": attribute("fps_source", CONTROL),
    "label 7": attribute("label", 7),
    "label as text": attribute("label", "x"),
    "1200 attributes": many_attributes,
    "another format": attribute("format", CONTROL, root=True),
    "version 99": attribute("version", 99, root=True),
    "versions": attribute("version", [1, 1], root=True),
    "no format": attribute("format", None, root=True),
    "another hash of the spec": attribute("spec_hash", "0" * 64, root=True),
    "no spec": attribute("spec", None, root=True),
    "a number as spec": attribute("spec", 5, root=True),
    "spec without fields": spec_text(lambda spec: "{}"),
    "spec a list": spec_text(lambda spec: "[1]"),
    "deep spec": spec_text(lambda spec: "[" * 9000),
    "spec of 10^999999 fps": spec_text(lambda spec: spec.update(fps="1e999999")),
    "another spec": spec_text(lambda spec: spec.update(tail="xd")),
}  # fmt: skip
"""Changes of a sound shard, by kind. Its first video can then not be used."""

SPEC: dict[str, Callable[[dict[str, object]], object]] = {
    "fps 1e999999": lambda spec: spec.update(fps="1e999999"),
    "fps 1/0": lambda spec: spec.update(fps="1/0"),
    "fps of a million digits": lambda spec: spec.update(fps="9" * 1_000_000),
    "fps NaN": lambda spec: spec.update(fps="nan"),
    "fps null": lambda spec: spec.update(fps=None),
    "crops 3": lambda spec: spec.update(crops=3),
    "crops a list": lambda spec: spec.update(crops=[5]),
    "an object as tail": lambda spec: spec.update(tail={}),
    "batch 2^62": lambda spec: spec.update(batch=2**62),
    "batch -1": lambda spec: spec.update(batch=-1),
    "clip_length 0": lambda spec: spec.update(clip_length=0),
    "clip_length as text": lambda spec: spec.update(clip_length="16"),
    "weights a number": lambda spec: spec.update(weights=5),
    "control characters": lambda spec: spec.update(precision=CONTROL),
    "a field too many": lambda spec: spec.update({CONTROL: 1}),
    "a field too few": lambda spec: spec.pop("batch"),
}
"""Changes of the fields of ``spec`` in spec.json."""


def spec_json(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    """The change of a file spec.json, or of its field ``spec``."""

    def changed(path: Path) -> None:
        values = json.loads(path.read_bytes())
        change(values)
        path.write_text(json.dumps(values))

    return changed


SPEC_JSON: dict[str, Callable[[Path], None]] = {
    **{
        kind: spec_json(lambda values, change=change: change(values["spec"]))
        for kind, change in SPEC.items()
    },
    **{
        f"{name} {value!r}": spec_json(lambda found, n=name, v=value: found.update({n: v}))
        for name, value in (
            ("spec", None), ("spec", "x"), ("spec", []), ("shard_size", 0), ("shard_size", -1),
            ("shard_size", 2**62), ("shard_size", "64"), ("shard_size", True), ("shard_size", 0.5),
            ("provenance", None), ("provenance", [1]),
        )
    },
}  # fmt: skip

HEAD = b'"video_id","shard","number","planned"\r\n'
PLAN: dict[str, bytes] = {
    "text": b"hello\n",
    "NUL": b"\0" * 3000 + b"\n",
    "an id with NUL": HEAD + b'"a\0b","0","1","1"\r\n',
    "shard -1": HEAD + b'"a","-1","1","1"\r\n',
    "shard 2^70": HEAD + b'"a","%d","1","1"\r\n' % 2**70,
    "shard of 5000 digits": (
        HEAD + b'"a","' + b"9" * 5000 + b'","1","1"\r\n'
    ),
    "shard of 1e5": HEAD + b'"a","1e5","1","1"\r\n',
    "an id twice": HEAD + b'"a","0","1","2"\r\n"a","0","2","2"\r\n',
    "too few columns": b'"video_id"\r\n"a"\r\n',
    "fewer rows than planned": HEAD + b'"a","0","1","9"\r\n',
    "quotes that do not close": b'"video_id","shard"\n"' + b'a"\n' * 3001,
    "a cell of 1 MB": b'"video_id","shard"\n"' + b"a" * 1_000_000 + b'","0"\n',
    "a row of 100,000 cells": b'"a",' * 100_000 + b'"a"\n"b"\n',
    "control characters": HEAD + b'"\x1b]0;x\x07","x","1","1"\r\n',
}  # fmt: skip

HEADER = (
    b'"video_id","shard","status","num_clips","num_frames","repaired_frames","fps","decoder",'
    b'"checksum","reason","time"\n'
)
ROW = b'"a","0","done","2","40","0","25.0","pyav","00000000","","1.0"\n'
MANIFEST: dict[str, bytes] = {
    "text": b"hello\n",
    "NUL": b"\0" * 3000 + b"\n",
    "no columns": b'"a","b"\n',
    "a row too short": HEADER + b'"a","0"\n',
    "an odd status": HEADER + ROW.replace(b"done", b"\x1b[31mdone"),
    "negative clips": HEADER + ROW.replace(b'"2"', b'"-2"'),
    "2^70 clips": HEADER + ROW.replace(b'"2"', b'"%d"' % 2**70),
    "frames of 5000 digits": HEADER + ROW.replace(b'"40"', b'"' + b"9" * 5000 + b'"'),
    "fps NaN": HEADER + ROW.replace(b"25.0", b"nan"),
    "fps 1e999": HEADER + ROW.replace(b"25.0", b"1e999"),
    "time infinity": HEADER + ROW.replace(b"1.0", b"inf"),
    "time NaN": HEADER + ROW.replace(b"1.0", b"nan"),
    "quotes that do not close": HEADER + b'"' + b'a"\n' * 3001,
    "a cell of 1 MB": HEADER + ROW.replace(b"pyav", b"a" * 1_000_000),
    "quotes in quotes": HEADER + b'"' * 1_000_001 + b"\n" + ROW,
}

LINE: dict[str, object] = {"time": 1.0, "event": "start", "video_id": "a"}
EVENT_VALUES = (
    ("time", None), ("time", "now"), ("time", []), ("time", 1e300), ("event", 5), ("event", None),
    ("video_id", ["a"]), ("num_clips", "9"), ("num_clips", 1e200), ("seconds", [1]),
    ("seconds", {"decode": "x"}), ("seconds", {"decode": 1e300}), ("world_size", -3),
    ("world_size", "8"), ("world_size", 0.5), ("work_left", {}), ("work_left", 1e300),
)  # fmt: skip
EVENTS: dict[str, bytes] = {
    f"{name} {value!r}": json.dumps({**LINE, name: value}).encode() + b"\n"
    for name, value in EVENT_VALUES
} | {
    "no time": b'{"event": "start"}\n',
    "a list": b"[1]\n",
    "NaN": b'{"time": NaN, "event": "start"}\n',
    "deep": b"[" * 100_000 + b"\n",
    "10^999999": b'{"time": 1e999999, "event": "start"}\n',
    "a million digits": b'{"time": ' + b"9" * 1_000_000 + b', "event": "start"}\n',
    "not UTF-8": b'{"time": 1, "event": "\xff"}\n',
    "a line of 3 MB": b"x" * (3 << 20) + b"\n",
    "3 MB of NUL": b"\0" * (3 << 20),
}

LEASE_NAMES = (
    "lease-00000-of-00000-h-1.json", "lease-00000-of-00001-h-" + "9" * 100 + ".json",
    "lease-00000-of-00001-\x1b]0;x\x07-1.json", f"lease-{'9' * 60}-of-00001-h-1.json",
)  # fmt: skip
LEASE: dict[str, object] = {
    "in_flight a number": {"in_flight": 5},
    "in_flight of lists": {"in_flight": [[1], {}]},
    "in_flight control": {"in_flight": [CONTROL]},
    "machine a list": {"machine": ["x"]},
    "beat as text": {"beat": "x", "since": None},
    "videos an object": {"videos": {}},
    "job control": {"job": CONTROL},
    "a list": [1],
    "rank of another": {"rank": "x", "world_size": 0, "process": "x", "host": 5},
}


def npy(header: str, body: bytes = b"\0" * 64, version: bytes = b"\1\0") -> bytes:
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + body


def shaped(shape: str, descr: str = "'<f4'", order: str = "False") -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}")


NPY: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello",
    "cut header": shaped("(2, 4)")[:30],
    "cut numbers": shaped("(2, 90)"),
    "version 9": npy("{}", version=b"\x09\0"),
    "4 TB": shaped("(1099511627776, 4)"),
    "2^62 rows": shaped("(4611686018427387904, 4)"),
    "10^40 rows": shaped("(" + "9" * 40 + ", 4)"),
    "5000 digits": shaped("(" + "9" * 5000 + ", 4)"),
    "negative": shaped("(-2, 4)"),
    "negative twice": shaped("(-2, -4)"),
    "true rows": shaped("(True, 4)"),
    "rows as text": shaped("('2', 4)"),
    "70 axes": shaped("(" + "1," * 70 + ")"),
    "no axis": shaped("()"),
    "one axis": shaped("(8,)"),
    "no rows": shaped("(0, 4)"),
    "objects": shaped("(2, 4)", "'|O'"),
    "records": shaped("(2, 4)", "[('a', '<f4')]"),
    "records of objects": shaped("(2, 4)", "[('a', '|O')]"),
    "texts": shaped("(2, 2)", "'<U2'"),
    "no width": shaped("(2, 4)", "'S0'"),
    "complex": shaped("(2, 4)", "'<c8'"),
    "times": shaped("(2, 4)", "'<M8[s]'"),
    "an unknown type": shaped("(2, 4)", "'<q99'"),
    "a type as number": shaped("(2, 4)", "5"),
    "deep types": shaped("(2, 4)", "[('a', " * 60 + "'<f4'" + ")]" * 60),
    "deep brackets": npy("(" * 5000),
    "deep lists": npy("{'descr': " + "[" * 150 + "]" * 150 + "}"),
    "code": npy("__import__('os').system('touch run')"),
    "open quotes": npy("'''"),
    "NUL": npy("\0" * 200),
    "other keys": npy("{'a': 1}"),
    "a header of 60,000 bytes": npy(" " * 60_000),
    "NaN": shaped("(2, 4)").replace(b"\0" * 64, np.full((2, 4), np.nan, "<f4").tobytes()),
    "infinity": shaped("(2, 4)").replace(b"\0" * 64, np.full((2, 4), -np.inf, "<f4").tobytes()),
    "a zip": b"PK\x03\x04" + b"\0" * 100,
    "a pickle": b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93\x8c\x09touch runR.",
}
"""Files in place of features [2, 4]; none can be used."""
