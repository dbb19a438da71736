"""The feature folder and its loader."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.commands import run
from support.stored import (
    ODD_IDS,
    failed_video,
    features_of,
    row_of,
    shapes_of,
    small_spec,
    stored_video,
    videos_in,
    write_folder,
)

from vadprep.core.errors import FeaturesError, ShardError, SpecError
from vadprep.core.presets import resolve
from vadprep.core.spec import UNKNOWN, Spec, differences
from vadprep.features import folder as folder_module
from vadprep.features.folder import (
    SHARD_SIZE,
    Place,
    Plan,
    StreamFolder,
    grow_plan,
    read_plan,
)
from vadprep.features.journal import (
    Journal,
    csv_bytes,
    last_events,
    read_events,
    read_rows,
    read_table,
)
from vadprep.features.reader import open_features
from vadprep.features.shard import StoredVideo, crc32, opened_shard, write_shard
from vadprep.features.status import stream_status, verify_stream

VIDEOS = [stored_video(each, num_clips=n + 1) for n, each in enumerate(ODD_IDS)]


def as_float32(video: StoredVideo) -> StoredVideo:
    features = features_of(video).astype(np.float32)
    attributes = {**video.attributes, "features_crc32": crc32(features)}
    return StoredVideo(attributes, video.shape, "float32", video.spans, lambda: iter([features]))


# ---------------------------------------------------------------- spec


def test_a_spec_survives_json():
    spec = small_spec(crops=10)
    assert Spec.from_json(spec.to_json(), "here") == spec


def test_the_preset_name_is_no_part_of_the_identity():
    a = resolve("i3d", "cpu", ("w", "0"), {"fps": "native", "tail": "xd", "crops": 10})
    b = resolve("ucf", "cpu", ("w", "0"), {})
    assert a.hash == b.hash


@pytest.mark.parametrize(
    ("field", "value"), [("tail", "xd"), ("fps", "native"), ("crops", 5), ("precision", "bf16")]
)
def test_any_number_that_shapes_features_is_part_of_the_identity(field, value):
    lines = differences(small_spec(), small_spec(**{field: value}))
    assert any(line.startswith(f"{field}:") and str(value) in line for line in lines)
    assert small_spec().hash != small_spec(**{field: value}).hash


def test_unknown_matches_nothing_not_even_itself():
    spec = small_spec(filter=UNKNOWN)
    assert differences(spec, spec) == ["filter: unknown / unknown"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("tail", "loop"), ("crops", 3), ("fps", "fast"), ("fps", "0"), ("dtype", "int8")],
)
def test_a_bad_setting_is_a_value_error_that_shows_it(field, value):
    with pytest.raises(ValueError, match=field):
        small_spec(**{field: value})


# ---------------------------------------------------------------- plan and spec.json


def test_the_plan_depends_on_ids_and_shard_size_alone(tmp_path):
    plan = Plan()
    plan.extend(ODD_IDS, shard_size=3)
    assert [len(shard) for shard in plan.shards] == [3, 3, 2]
    assert plan.places[ODD_IDS[4]] == Place(1, 1)
    assert grow_plan(tmp_path / "plan.csv", ODD_IDS, 3) == plan
    assert read_plan(tmp_path / "plan.csv") == plan


def test_a_grown_manifest_is_planned_behind_what_is_there(tmp_path):
    StreamFolder.prepare(tmp_path, small_spec(), ["a", "b", "c"], 2)
    grown = StreamFolder.prepare(tmp_path, small_spec(), ["z", "a", "b", "c"], 2)
    assert grown.plan.shards == [["a", "b"], ["c"], ["z"]]


GROWN = [*ODD_IDS, 'n\n"1","2"', 'x,"5"\r\n', *(f"new {n}" for n in range(9))]


def test_a_plan_that_is_cut_short_is_an_error_and_never_a_shorter_plan(tmp_path):
    path = tmp_path / "plan.csv"
    plan = grow_plan(path, GROWN, 3)
    whole = path.read_bytes()
    for size in range(0, len(whole), 5):
        path.write_bytes(whole[:size])
        try:
            assert read_plan(path).places == {}, size  # of the header alone
        except FeaturesError as error:
            assert str(path) in str(error)  # noqa: PT017
    path.write_bytes(whole)
    assert read_plan(path) == plan


def test_a_plan_that_was_added_to_in_place_is_read_and_grows(tmp_path):
    """As versions before did it: each addition says how many videos there were then."""
    path = tmp_path / "plan.csv"
    grow_plan(path, ODD_IDS, 3)
    first = path.read_bytes()
    plan = grow_plan(path, GROWN, 3)
    path.write_bytes(first + csv_bytes([*read_table(path)][len(ODD_IDS) + 1 :], "\r\n"))
    assert read_plan(path) == plan
    assert grow_plan(path, [*GROWN, "z"], 3).shards[:-1] == plan.shards


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_ranks_that_extend_a_plan_at_once_write_one(tmp_path):
    many = [f"{n:05d}" for n in range(3000)]
    grow_plan(tmp_path / "alone", many, 3)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        plans = pool.starmap(grow_plan, [(tmp_path / "plan.csv", many, 3)] * 8)
    assert all(plan == plans[0] for plan in plans)
    assert (tmp_path / "plan.csv").read_bytes() == (tmp_path / "alone").read_bytes()


@pytest.mark.parametrize("first", [[], ["a", "b", "c"]], ids=["a new plan", "a grown one"])
def test_of_two_runs_that_plan_other_videos_at_once_one_is_an_error(tmp_path, monkeypatch, first):
    """The second writes its plan when the first has read and not yet written."""
    path = tmp_path / "plan.csv"
    if first:
        grow_plan(path, first, 2)
    real, plans = folder_module.read_plan, []

    def read(path: Path) -> Plan:
        plan = real(path)
        if not plans:
            plans.append(plan)
            plans.append(grow_plan(path, [*first, "p", "q"], 2))
        return plan

    monkeypatch.setattr(folder_module, "read_plan", read)
    with pytest.raises(FeaturesError, match="another run has added other videos just now"):
        grow_plan(path, [*first, "x", "y"], 2)
    assert real(path) == plans[1]
    assert os.listdir(tmp_path) == ["plan.csv"]


def test_a_first_plan_does_not_replace_one_that_appears_while_it_is_written(tmp_path, monkeypatch):
    real = os.link

    def link(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", real)
        grow_plan(tmp_path / "plan.csv", ["p"], 2)
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(FeaturesError, match="another run has added other videos just now"):
        grow_plan(tmp_path / "plan.csv", ["x"], 2)
    assert list(read_plan(tmp_path / "plan.csv").places) == ["p"]


def test_a_flipped_bit_in_a_plan_is_an_error_and_never_a_shorter_plan(tmp_path):
    path = tmp_path / "plan.csv"
    grow_plan(path, [f"v{n}" for n in range(5)], 2)
    content = path.read_bytes()
    for at in range(content.index(b'"v0"'), len(content) - 3):  # without its end it is cut
        path.write_bytes(content[:at] + bytes([content[at] ^ 2]) + content[at + 1 :])
        try:
            assert len(read_plan(path).places) == 5, at  # one id is another
        except FeaturesError as error:
            assert str(path) in str(error) and "run the same extract" in str(error)  # noqa: PT017


def test_a_folder_keeps_the_shard_size_it_was_made_with(tmp_path):
    StreamFolder.prepare(tmp_path, small_spec(), "ab", 2)
    assert StreamFolder.prepare(tmp_path, small_spec(), "abcde").plan.shards[1:] == [
        ["c", "d"],
        ["e"],
    ]
    grown = StreamFolder.prepare(tmp_path, small_spec(), "abcdefgh", 3)
    assert grown.plan.shards[3:] == [["f", "g", "h"]]
    assert grown.shard_size == 2
    assert StreamFolder.prepare(tmp_path / "new", small_spec(), "ab").shard_size == SHARD_SIZE


def test_a_shard_size_that_is_none_is_refused(tmp_path):
    StreamFolder.prepare(tmp_path, small_spec(), "ab", 2)
    text = (tmp_path / "spec.json").read_text()
    (tmp_path / "spec.json").write_text(text.replace('"shard_size": 2', '"shard_size": 0'))
    with pytest.raises(FeaturesError, match="spec.json: damaged.*shard_size is 0"):
        StreamFolder.prepare(tmp_path, small_spec(), "abc")


def test_another_spec_is_refused_with_the_fields_that_differ(tmp_path):
    StreamFolder.prepare(tmp_path, small_spec(), ["a"])
    with pytest.raises(SpecError, match="tail: xd / drop"):
        StreamFolder.prepare(tmp_path, small_spec(tail="xd"), ["a"])


@pytest.mark.parametrize("text", ["", "{", "{}", '{"spec": {"tail": "drop"}}', "[1]"])
def test_a_damaged_spec_file_is_named(tmp_path, text):
    StreamFolder.prepare(tmp_path, small_spec(), ["a"])
    (tmp_path / "spec.json").write_text(text)
    with pytest.raises((FeaturesError, SpecError), match="spec.json"):
        StreamFolder.open(tmp_path)


# ---------------------------------------------------------------- journal


def test_the_journal_brings_back_odd_ids_and_reasons(tmp_path):
    journal = Journal(tmp_path, 3)
    rows = [row_of(each, 0) for each in (*VIDEOS, failed_video("bad", 'line\nand "quote", ü'))]
    for row in rows:
        journal.add(row)
    assert list(read_rows(tmp_path).values()) == rows


@pytest.mark.parametrize("cut", range(1, 44, 6))
def test_a_torn_last_row_is_passed_over_and_then_dropped(tmp_path, cut):
    journal = Journal(tmp_path, 0)
    journal.add(row_of(stored_video("two\nlines"), 0))
    whole = (tmp_path / "manifest-00000.csv").read_bytes()
    journal.add(row_of(stored_video('torn "x"\nid'), 1))
    torn = (tmp_path / "manifest-00000.csv").read_bytes()[: len(whole) + cut]
    (tmp_path / "manifest-00000.csv").write_bytes(torn)
    assert list(read_rows(tmp_path)) == ["two\nlines"]
    Journal(tmp_path, 0)
    assert (tmp_path / "manifest-00000.csv").read_bytes() == whole


def test_a_journal_that_lost_a_quote_is_damaged_and_loses_no_rows(tmp_path):
    journal, path = Journal(tmp_path, 0), tmp_path / "manifest-00000.csv"
    for name in "abc":
        journal.add(row_of(stored_video(name), 0))
    damaged = path.read_bytes().replace(b'"b",', b'"b ,')
    path.write_bytes(damaged)
    for use in (lambda: read_rows(tmp_path), lambda: Journal(tmp_path, 0)):
        with pytest.raises(FeaturesError, match="manifest-00000.csv: damaged.* remove it"):
            use()
    assert path.read_bytes() == damaged


def test_a_copy_of_a_journal_beside_it_is_not_read(tmp_path):
    Journal(tmp_path, 0).add(row_of(stored_video("a"), 0))
    shutil.copy(tmp_path / "manifest-00000.csv", tmp_path / "manifest-00000-copy.csv")
    assert list(read_rows(tmp_path)) == ["a"]


def test_a_torn_event_is_passed_over(tmp_path):
    Journal(tmp_path, 0).event("start", "a")
    with open(tmp_path / "events-00000.jsonl", "a") as stream:
        stream.write('{"event": "comm')
    assert [each.event for each in read_events(tmp_path)] == ["start"]


def test_a_damaged_event_is_an_error_that_names_its_file(tmp_path):
    Journal(tmp_path, 0).event("start", "a")
    with open(tmp_path / "events-00000.jsonl", "a") as stream:
        stream.write('{"event": "com\0\n')
    for read in (read_events, last_events):
        with pytest.raises(FeaturesError, match="events-00000.jsonl: damaged.* remove it"):
            list(read(tmp_path))


@pytest.mark.parametrize(("failed_at", "status"), [(0.5, "done"), (1.0, "done"), (2.0, "failed")])
@pytest.mark.parametrize("ranks", [(0, 1), (1, 0), (0, 0)])
def test_the_later_row_of_a_video_counts(tmp_path, failed_at, status, ranks):
    Journal(tmp_path, ranks[0]).add(row_of(stored_video("a"), 0))  # at 1.0
    failed = row_of(failed_video("a"), 0)._replace(time=failed_at)
    Journal(tmp_path, ranks[1]).add(failed)
    assert read_rows(tmp_path)["a"].status == status


# ---------------------------------------------------------------- loader


def test_the_loader_gives_every_done_video_by_id(tmp_path):
    write_folder(tmp_path / "rgb", [*VIDEOS, failed_video("bad")])
    with open_features(tmp_path) as features:
        assert list(features) == list(ODD_IDS)
        for video in VIDEOS:
            found = features[video.video_id]
            assert np.array_equal(found.rgb, features_of(video))
            assert np.array_equal(found.spans, video.spans)
            assert (found.num_clips, found.num_crops, found.dim) == video.shape
            assert (found.label, found.split, found.fps) == (0, "train", 25.0)


def test_an_unknown_id_is_a_key_error_that_says_what_to_do(tmp_path):
    write_folder(tmp_path / "rgb", [stored_video("good one.mp4"), failed_video("bad.mp4")])
    with open_features(tmp_path) as features:
        assert "bad.mp4" not in features and features.get("bad.mp4") is None
        with pytest.raises(KeyError) as caught:
            features["good one"]
    assert isinstance(caught.value, FeaturesError)
    line = f"vadprep status {tmp_path}/rgb --video 'good one'"
    assert str(caught.value).endswith(line) and "similar ids: 'good one.mp4'" in str(caught.value)
    assert run("status", tmp_path / "rgb", "--video", "good one").exit_code == 1


def test_the_loader_reads_videos_of_unfinished_shards_and_without_a_journal(tmp_path):
    folder = StreamFolder.prepare(tmp_path / "rgb", small_spec(), ["a", "b", "c"], 2)
    folder.partial(0).mkdir()
    write_shard(folder.partial_video(Place(0, 1)), small_spec(), [stored_video("b")])
    with open_features(tmp_path) as features:
        assert list(features) == ["b"]
        assert np.array_equal(features["b"].rgb, features_of(stored_video("b")))


def test_a_file_of_its_own_stands_for_the_video_in_the_final_shard(tmp_path):
    folder = write_folder(tmp_path / "rgb", [stored_video("a"), stored_video("b")])
    place, again = folder.plan.places["b"], stored_video("b", num_clips=5)
    assert folder.location(place) == (folder.shard(0), "000001")
    folder.partial(0).mkdir()
    write_shard(folder.partial_video(place), small_spec(), [again])
    assert folder.location(place) == (folder.partial_video(place), "000000")
    assert np.array_equal(features_of(folder.stored("b")), features_of(again))
    Journal(folder.path, 0).add(row_of(again, 0))
    assert verify_stream(folder).problems == ()
    with open_features(tmp_path) as features:
        assert features["b"].rgb.shape == again.shape
        assert features["a"].rgb.shape == stored_video("a").shape


def test_streams_are_joined_by_id_and_equal_spans(tmp_path):
    write_folder(tmp_path / "rgb", [stored_video("a"), stored_video("b"), stored_video("c")])
    flow = [stored_video("b", dim=6), stored_video("a", num_clips=4)]
    write_folder(tmp_path / "flow", flow, resolve("i3d", "cpu", ("w", "0"), {}, "flow"))
    with open_features(tmp_path) as features:
        assert features.streams == ("rgb", "flow")
        assert list(features) == ["a", "b"]
        assert features["b"].flow.shape == (3, 1, 6)
        with pytest.raises(FeaturesError, match="'a': the spans of rgb and flow differ"):
            features["a"].rgb  # noqa: B018


def test_a_shard_of_another_spec_is_refused(tmp_path):
    folder = write_folder(tmp_path / "rgb", VIDEOS)
    write_shard(folder.shard(1), small_spec(tail="xd"), VIDEOS[2:4])
    with open_features(tmp_path) as features:
        assert features[ODD_IDS[0]].rgb.shape == (1, 1, 4)
        with pytest.raises(SpecError, match="shard-00001.h5.*tail"):
            features[ODD_IDS[2]].rgb  # noqa: B018


def test_a_shard_with_another_video_in_its_place_is_refused(tmp_path):
    folder = write_folder(tmp_path / "rgb", VIDEOS)
    shutil.copy(folder.shard(0), folder.shard(1))
    with open_features(tmp_path) as features, pytest.raises(FeaturesError, match="plan.csv"):
        features[ODD_IDS[2]].rgb  # noqa: B018


def test_a_folder_without_features_says_what_was_looked_for(tmp_path):
    with pytest.raises(FeaturesError, match="rgb/spec.json"):
        open_features(tmp_path)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_the_loader_works_in_forked_and_spawned_workers(tmp_path, method):
    write_folder(tmp_path / "rgb", VIDEOS)
    features = open_features(tmp_path)
    expected = [features[each].rgb.shape for each in ODD_IDS]
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.starmap(shapes_of, [(features, ODD_IDS)] * 4)
    assert all(shapes == expected for shapes, _ in found)
    assert os.getpid() not in {process for _, process in found}


def test_a_shard_stays_open_until_it_is_replaced_or_the_features_are_closed(tmp_path):
    folder = write_folder(tmp_path / "rgb", [stored_video("a"), stored_video("b")])
    path, other = folder.shard(0), stored_video("b", num_clips=5)

    def count() -> int:
        return [each.resolve() for each in Path("/proc/self/fd").iterdir()].count(path)

    with open_features(tmp_path) as features:
        assert features["a"].rgb.shape == features["b"].rgb.shape and count() == 1
        write_shard(path, small_spec(), [stored_video("a"), other])
        assert np.array_equal(features["b"].rgb, other.features()) and count() == 1
    assert count() == 0
    assert folder.stored("a").features().shape == (3, 1, 4) and count() == 0  # not by a writer


def test_a_byte_that_flips_after_the_first_read_is_found_even_at_the_same_time(tmp_path):
    path = write_folder(tmp_path / "rgb", [stored_video("a", num_clips=9)]).shard(0)
    with open_features(tmp_path) as features:
        content = features["a"].rgb.tobytes()
        status, place = path.stat(), path.read_bytes().index(content) + 7
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(bytes([content[7] ^ 1]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(ShardError, match="features of 'a': checksum differs"):
            features["a"].rgb  # noqa: B018


def test_features_can_be_pickled_while_files_are_open(tmp_path):
    write_folder(tmp_path / "rgb", VIDEOS)
    features = open_features(tmp_path)
    features[ODD_IDS[0]].rgb  # noqa: B018
    copy = pickle.loads(pickle.dumps(features))
    assert np.array_equal(copy[ODD_IDS[1]].rgb, features[ODD_IDS[1]].rgb)


# ---------------------------------------------------------------- status and verify


def test_status_counts_done_failed_and_missing(tmp_path):
    folder = write_folder(tmp_path / "rgb", [stored_video("a"), failed_video("b")])
    folder = StreamFolder.prepare(tmp_path / "rgb", small_spec(), ["a", "b", "c"], 2)
    found = stream_status(folder)
    assert (found.planned, found.done, found.missing) == (3, 1, ("c",))
    assert [row.reason for row in found.failed] == ["broken"]
    assert (found.shards_final, found.shards_planned) == (1, 2)


def test_verify_is_content_with_a_sound_folder(tmp_path):
    result = verify_stream(write_folder(tmp_path / "rgb", [*VIDEOS, failed_video("bad")]))
    assert result.problems == ()
    assert result.videos == len(VIDEOS)


def test_verify_finds_spans_past_the_end(tmp_path):
    folder = write_folder(tmp_path / "rgb", [stored_video("a", num_frames=20)])
    problems = verify_stream(folder).problems
    assert len(problems) == 1 and "past the 20 frames" in problems[0]


def test_numbers_that_do_not_fit_their_checksum_are_never_written(tmp_path):
    with pytest.raises(ShardError, match="checksum"):
        write_folder(tmp_path / "rgb", [stored_video("a", features_crc32=1)])


def test_verify_finds_values_that_are_not_finite(tmp_path):
    video = stored_video("a")
    features = features_of(video)
    features[1, 0, 2] = np.nan
    attributes = {**video.attributes, "features_crc32": crc32(features)}
    bad = StoredVideo(attributes, video.shape, "float16", video.spans, lambda: [features])
    problems = verify_stream(write_folder(tmp_path / "rgb", [bad])).problems
    assert len(problems) == 1 and "not finite" in problems[0]


@pytest.mark.parametrize("where", range(0, 100, 9))
def test_verify_finds_any_flipped_byte_of_features_and_spans(tmp_path, where):
    video = stored_video("a", num_clips=30, dim=64)
    folder = write_folder(tmp_path / "rgb", [video])
    content = bytearray(folder.shard(0).read_bytes())
    for array in (features_of(video), video.spans):
        start, size = content.index(array.tobytes()), array.nbytes
        content[start + where * size // 100] ^= 0x10
        folder.shard(0).write_bytes(content)
        assert len(verify_stream(folder).problems) == 1
        content[start + where * size // 100] ^= 0x10


def contents(path):
    """All that can be read from a shard."""
    videos = videos_in(path)
    with opened_shard(path) as (_, spec):
        return [
            spec,
            *((each.attributes, each.spans.tolist()) for each in videos),
            *(features_of(each).tobytes() for each in videos if each.is_done),
        ]


def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(tmp_path):
    videos = [*VIDEOS, failed_video("bad", "no frames"), stored_video("long", 90)]
    folder = write_folder(tmp_path / "rgb", videos, shard_size=len(videos))
    whole, expected = folder.shard(0).read_bytes(), contents(folder.shard(0))
    generator, found = np.random.default_rng(0), 0
    for where in generator.integers(len(whole), size=40):
        content = bytearray(whole)
        content[where] ^= 1 << generator.integers(8)
        folder.shard(0).write_bytes(content)
        if verify_stream(folder).problems:
            found += 1
        else:
            assert contents(folder.shard(0)) == expected, where
    assert found > 5


@pytest.mark.parametrize(
    ("odd", "problem"),
    [
        (stored_video("odd", num_crops=5), "crops 5, expected 1"),
        (stored_video("odd", dim=5), "dimension 5, expected 4"),
        (as_float32(stored_video("odd")), "dtype float32, expected float16"),
    ],
    ids=["crops", "dimension", "dtype"],
)
def test_verify_finds_features_of_another_form_and_reads_on(tmp_path, odd, problem):
    folder = write_folder(tmp_path / "rgb", [stored_video("a"), odd, stored_video("b")])
    result = verify_stream(folder)
    assert [problem in each and "'odd'" in each for each in result.problems] == [True]
    assert result.videos == 2


def test_verify_reads_on_after_a_damaged_video(tmp_path):
    folder = write_folder(tmp_path / "rgb", [stored_video("a"), stored_video("b")])
    with h5py.File(folder.shard(0), "r+") as file:
        del file["000000"]["features"]
        file["000000"].create_group("features")
    result = verify_stream(folder)
    assert len(result.problems) == 1 and "group 000000" in result.problems[0]
    assert result.videos == 1


def test_verify_names_a_shard_of_another_spec_and_a_damaged_one(tmp_path):
    folder = write_folder(tmp_path / "rgb", VIDEOS)
    write_shard(folder.shard(1), small_spec(tail="xd"), VIDEOS[2:4])
    folder.shard(2).write_bytes(b"garbage")
    problems = "\n".join(verify_stream(folder).problems)
    assert "shard-00001.h5" in problems and "tail" in problems
    assert "shard-00002.h5" in problems


def test_spec_json_says_what_made_the_folder(tmp_path):
    StreamFolder.prepare(tmp_path, small_spec(), ["a"], provenance={"torch": "2"})
    content = json.loads((tmp_path / "spec.json").read_text())
    assert content["spec"]["weights"] == "random:0"
    assert content["provenance"] == {"torch": "2"}
    assert content["hash"] == small_spec().hash
