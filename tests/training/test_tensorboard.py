"""Event files: read back by a parser written here, and by TensorBoard itself."""

from __future__ import annotations

import struct

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vadprep.training.tensorboard import write_events

POINTS = [(0, {"train/total": 1.5, "test/frame_auc": 0.25}), (1, {}), (300, {"train/total": -2.0})]


def fields(message):
    """Field number -> values of a protobuf message."""
    found, at = {}, 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        kind = key & 7
        if kind == 0:
            value = varint()
        else:
            size = {1: 8, 2: None, 5: 4}[kind]
            size = varint() if size is None else size
            value = message[at : at + size]
            at += size
        found.setdefault(key >> 3, []).append(value)
    return found


def records(content):
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield content[12 : 12 + length]
        content = content[16 + length :]


def test_events_come_back(tmp_path):
    write_events(tmp_path / "log.tfevents", POINTS)
    first, *events = map(fields, records((tmp_path / "log.tfevents").read_bytes()))
    assert first[3] == [b"brain.Event:2"]
    found = []
    for event in events:
        values = [fields(value) for value in fields(event[5][0]).get(1, [])]
        scalars = {v[1][0].decode(): struct.unpack("<f", v[2][0])[0] for v in values}
        found.append((event[2][0], scalars))
    assert found == POINTS


def test_records_are_framed_as_tensorboard_does(tmp_path):
    """The golden was written by TensorBoard 2.21's own RecordWriter, given the same message."""
    write_events(tmp_path / "log.tfevents", [])
    header = "1800000000000000 a37f4b22"
    message = "09 0000000000000000 1a0d 627261696e2e4576656e743a32"
    expected = bytes.fromhex(f"{header} {message} eedf28a3")
    assert (tmp_path / "log.tfevents").read_bytes() == expected


def test_tensorboard_reads_them(tmp_path):
    write_events(tmp_path / "log.tfevents", POINTS)
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    scalars = {
        (event.step, tag): event.value
        for tag in found.Tags()["scalars"]
        for event in found.Scalars(tag)
    }
    assert scalars == {(step, tag): value for step, each in POINTS for tag, value in each.items()}
