"""The report in a real browser: no network, no error, and player, curve, slider, table work."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.browser import asked_addresses
from support.commands import run, without_network
from support.scored import video_scores, with_classes, write_manifest, write_run
from support.stored import failed_video, small_spec, stored_video, write_folder
from support.videos import write_video
from support.waiting import wait_for

import vadprep
from vadprep.cli import demo, demo_scene
from vadprep.evaluation.metrics import Truth, compute_metrics

pytestmark = pytest.mark.browser
SCORES = np.round(np.random.default_rng(0).uniform(size=20), 2)
PLAYER = "document.querySelector('video')"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos, the first with a fire; all ids sort as numbers, one is long and hostile."""
    folder = tmp_path_factory.mktemp("report")
    scores, rows = {}, {}
    for number in range(12):
        name = f"v{number}" if number != 3 else "<b>bold</b>#%'\"" + "x" * 90
        scores[name] = video_scores(SCORES if number == 0 else SCORES[:5] * (number / 20))
        write_video(folder / f"{number}.mp4", scores[name].num_frames, size=(160, 120))
        rows[name] = (f"{number}.mp4", "[[64, 128]]" if number == 0 else "[]")
    place = write_run(folder / "run", scores, manifest=write_manifest(folder / "m.csv", rows))
    return vadprep.report(place, out=folder / "page", videos=folder, previews="all")


def opened(driver: Any, path: Path, width: int = 1400) -> None:
    """Open a page from the disk; it may neither ask the network for anything nor log an error."""
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get_log("performance"), driver.get_log("browser")
    driver.get(path.as_uri())
    wait_for(lambda: driver.execute_script("return document.querySelector('#page h1') !== null"))
    time.sleep(0.5)
    asked = asked_addresses(driver)
    assert asked and {url.split(":")[0] for url in asked} <= {"file", "data", "blob"}


def video_page(page: Path, number: int) -> Path:
    return sorted((page.parent / "videos").iterdir())[number]


def ids(driver: Any) -> list[str]:
    script = "return [...document.querySelectorAll('.videos tbody a[title]')].map(a => a.title)"
    return list(dict.fromkeys(driver.execute_script(script)))


def test_the_table_sorts_and_filters(driver: Any, page: Path) -> None:
    opened(driver, page)
    assert len(ids(driver)) == 12 and ids(driver)[1:4] == ["v0", "v1", "v2"]
    button = "document.querySelectorAll('.videos th button')"
    driver.execute_script(f"[...{button}].find(b => b.textContent === 'score').click()")
    scores = driver.execute_script(
        "const rows = [...document.querySelectorAll('.videos tbody tr')];"
        "return rows.map(row => +row.cells[4].textContent)"
    )
    assert scores == sorted(scores)
    driver.execute_script(f"[...{button}].find(b => b.textContent === 'score').click()")
    assert ids(driver)[0] == "v0"
    find = driver.find_element("id", "find")
    find.send_keys("FIRE")
    assert ids(driver) == ["v0"]
    find.clear()
    find.send_keys("v1")
    assert sorted(ids(driver)) == ["v1", "v10", "v11"]
    assert "3 of 12" in driver.find_element("id", "count").text
    find.clear()
    find.send_keys(" ")
    driver.execute_script(
        "const label = document.getElementById('label');"
        "label.value = '1'; label.dispatchEvent(new Event('change'))"
    )
    assert ids(driver) == ["v0"]


def test_a_click_on_the_curve_moves_the_player_to_that_time(driver: Any, page: Path) -> None:
    opened(driver, video_page(page, 0))
    wait_for(lambda: driver.execute_script(f"return {PLAYER}.readyState >= 2"))
    duration = driver.execute_script(f"return {PLAYER}.duration")
    assert duration == pytest.approx(320 / 25, abs=0.05)
    for seconds in (3.2, 9.9, 0.7):
        driver.execute_script(
            "const axis = curve._fullLayout.xaxis, box = curve.getBoundingClientRect();"
            "curve.dispatchEvent(new MouseEvent('click', {bubbles: true,"
            " clientX: box.left + axis._offset + axis.l2p(arguments[0]), clientY: box.top + 100}))",
            seconds,
        )
        wait_for(lambda: not driver.execute_script(f"return {PLAYER}.seeking"))
        assert driver.execute_script(f"return {PLAYER}.currentTime") == pytest.approx(
            seconds, abs=0.1
        )
        left = driver.execute_script(
            "const axis = curve._fullLayout.xaxis, cursor = document.querySelector('.cursor');"
            "return axis.p2l(parseFloat(cursor.style.left) + 1 - axis._offset)"
        )
        assert left == pytest.approx(seconds, abs=0.1)
    before = driver.execute_script(f"return {PLAYER}.currentTime")
    driver.find_element("tag name", "body").send_keys("\ue014")  # arrow right
    wait_for(lambda: not driver.execute_script(f"return {PLAYER}.seeking"))
    after = driver.execute_script(f"return {PLAYER}.currentTime")
    assert after - before == pytest.approx(1 / 25, abs=1e-3)


def test_the_player_plays_and_the_cursor_follows(driver: Any, page: Path) -> None:
    opened(driver, video_page(page, 0))
    driver.execute_script("document.querySelector('video').play()")
    wait_for(
        lambda: driver.execute_script("return document.querySelector('video').currentTime > 0.6")
    )
    driver.execute_script("document.querySelector('video').pause()")
    time.sleep(0.2)
    shown = driver.find_element("id", "place").text
    assert not shown.startswith("0:00.0")


def test_the_slider_gives_the_alarms_of_that_threshold(driver: Any, page: Path) -> None:
    opened(driver, video_page(page, 0))
    scores = video_scores(SCORES)
    for threshold in (0.5, 0.1, 0.73, 0.99, 0.0, 1.0):
        driver.execute_script(
            "const s = document.getElementById('threshold'); s.value = arguments[0];"
            "s.dispatchEvent(new Event('input'))",
            str(threshold),
        )
        expected = scores.alarms(threshold)
        count = int(driver.find_element("id", "alarm-count").text.split()[0])
        assert count == len(expected)
        assert len(driver.find_elements("css selector", "#alarms li .tile")) == count
        if expected:
            text = driver.find_element("css selector", "#alarms li button").text
            assert f"peak {expected[0]['highest']:.3f}" in text


@pytest.mark.parametrize("width", [1400, 400])
def test_nothing_is_wider_than_the_window(driver: Any, page: Path, width: int) -> None:
    for path in (page, video_page(page, 0), video_page(page, 3)):
        opened(driver, path, width)
        wide = driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width
    heading = driver.find_element("css selector", "h1")
    assert "…" in heading.text and heading.get_attribute("title").endswith("x" * 90)
    assert not driver.find_elements("css selector", "b")


NAMES = ["fire", "<b>bold</b> & <i>", *(f"class {n}" for n in range(6))]


def class_scores() -> NDArray[np.float64]:
    values = np.round(np.random.default_rng(1).uniform(0, 0.5, (20, 8)), 3)
    values[4:8, 0] = 0.9
    return values


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on each stream, the second with eight classes, one of a hostile name."""
    folder = tmp_path_factory.mktemp("classified")
    write_video(folder / "v.mp4", 320, size=(160, 120))
    manifest = write_manifest(folder / "m.csv", {"v": ("v.mp4", "[[64, 128]]")})
    values = class_scores()
    scores = {"v": with_classes(values, NAMES)}
    metrics = compute_metrics(scores, {"v": Truth(((64, 128),), 1, "fire")}).as_json()
    two = write_run(folder / "two", scores, manifest=manifest, streams="flow")
    (two / "metrics.json").write_text(json.dumps({"last": metrics}))
    one = write_run(folder / "one", {"v": video_scores(SCORES)}, manifest=manifest)
    (one / "metrics.json").write_text(json.dumps({"last": metrics, "best_on_test": metrics}))
    places = {"out": folder / "page", "videos": folder}
    return vadprep.report([one, two], **places, previews="all", published={"one": "<b>0.9</b>"})


def legend(driver: Any, plot: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(each => each.textContent)"
    return driver.execute_script(script, f"#{plot} .legendtext")


def test_streams_and_classes_are_curves_of_their_own(driver: Any, classified: Path) -> None:
    opened(driver, classified)
    assert driver.find_element("css selector", ".by-class tbody").text.startswith("fire 1 1.0000")
    assert "temporal_map" in driver.find_element("css selector", ".metrics").text
    last = driver.find_elements("css selector", ".metrics tbody tr")[-1]
    cells = [each.text for each in last.find_elements("css selector", "td")]
    assert cells[0].startswith("published") and cells[1:] == ["–", "<b>0.9</b>", "–"]
    opened(driver, video_page(classified, 0))
    assert legend(driver, "curve") == ["one (rgb)", "two (flow)", "ground truth"]
    names = legend(driver, "classes-1")
    assert names[:3] == ["fire", "<b>bold</b> & <i>", "class 0"] and len(names) == 9
    shown = "return document.querySelectorAll('#classes-1 .scatterlayer .trace').length"
    before = driver.execute_script(shown)
    assert 1 <= before <= 4  # three classes, and what stands for the ground truth
    places = driver.execute_script(
        "const data = document.getElementById('classes-1').data;"
        "return [...data.keys()].filter(place => data[place].visible === 'legendonly')"
    )
    assert len(places) == 5 and 0 not in places
    toggles = driver.find_elements("css selector", "#classes-1 .legendtoggle")
    driver.execute_script(
        "for (const kind of ['mousedown', 'mouseup'])"
        " arguments[0].dispatchEvent(new MouseEvent(kind, {bubbles: true}))",
        toggles[places[0]],
    )
    wait_for(lambda: driver.execute_script(shown) == before + 1)
    assert driver.execute_script(f"return {PLAYER}.currentTime") == 0  # no click on the curve
    driver.execute_script(
        "const plot = document.getElementById('classes-1'), axis = plot._fullLayout.xaxis;"
        "const box = plot.getBoundingClientRect();"
        "plot.dispatchEvent(new MouseEvent('click', {bubbles: true,"
        " clientX: box.left + axis._offset + axis.l2p(5), clientY: box.top + 200}))"
    )
    wait_for(lambda: not driver.execute_script(f"return {PLAYER}.seeking"))
    assert driver.execute_script(f"return {PLAYER}.currentTime") == pytest.approx(5, abs=0.1)
    cursors = driver.find_elements("css selector", ".cursor")
    assert len(cursors) == 2 and all(each.is_displayed() for each in cursors)


def test_each_epoch_of_many_runs_is_a_row_of_the_metrics(driver: Any, tmp_path: Path) -> None:
    metrics = {"frame_auc": 0.75, "frame_ap": None, "spread": {"frame_auc": 0.01}}
    for name in ("one", "two", "three", "four"):
        run = write_run(tmp_path / name, {"v": video_scores(SCORES)})
        (run / "metrics.json").write_text(json.dumps({"last": metrics, "best_on_test": metrics}))
    runs = [tmp_path / name for name in ("one", "two", "three", "four")]
    out = vadprep.report(runs, out=tmp_path / "page", published={"two": "0.9 (I3D RGB)"})
    opened(driver, out)
    rows = [
        [cell.text for cell in row.find_elements("css selector", "th, td")]
        for row in driver.find_elements("css selector", ".metrics tr")
    ]
    assert rows[0] == ["run, epoch", "published", "frame_auc"]  # no column of dashes
    assert len(rows) == 9 and rows[1] == ["one, last step", "–", "0.7500 ± 0.0100"]
    assert rows[4] == ["two, best on test (optimistic)", "0.9 (I3D RGB)", "0.7500 ± 0.0100"]
    assert "ROC AUC over all frames" in driver.page_source


def test_an_alarm_names_its_class(driver: Any, classified: Path) -> None:
    opened(driver, video_page(classified, 0))
    change = (
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event(arguments[2]))"
    )
    select = driver.find_element("css selector", "select[aria-label='Run of the alarms']")
    slider, seen = driver.find_element("id", "threshold"), set()
    for run_number, names in ((0, []), (1, NAMES)):
        driver.execute_script(change, select, str(run_number), "change")
        for threshold in (0.47, 0.44, 0.0):
            driver.execute_script(change, slider, str(threshold), "input")
            texts = [each.text for each in driver.find_elements("css selector", "#alarms li")]
            if not names:
                assert texts and not any("," in text for text in texts)
                continue
            expected = [
                each["class"] for each in with_classes(class_scores(), NAMES).alarms(threshold)
            ]
            assert [text.partition(", ")[2] for text in texts] == expected
            seen |= set(expected)
    assert {"fire", "<b>bold</b> & <i>"} < seen


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_curves_have_the_colours_of_the_mode(driver: Any, classified: Path, mode: str) -> None:
    """They differ in dashes, too, and no two of eight are alike; nothing is too wide."""
    features = [{"name": "prefers-color-scheme", "value": mode}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    opened(driver, video_page(classified, 0), 400)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 400
    lines = driver.execute_script(
        "const { data } = document.getElementById('classes-1');"
        "return data.map(trace => trace.line && [trace.line.color, trace.line.dash])"
    )[:8]
    assert len({tuple(line) for line in lines}) == 8
    assert len({dash for _, dash in lines[:6]}) == 6
    assert lines[0][0] == driver.execute_script("return colourOf(0)")
    other = {"light": "dark", "dark": "light"}[mode]
    features = [{"name": "prefers-color-scheme", "value": other}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    redrawn = "return document.getElementById('classes-1').data[0].line.color"
    wait_for(lambda: driver.execute_script(redrawn) != lines[0][0])
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_real_clips_play_from_any_container(driver: Any, real_clips: Path, tmp_path: Path) -> None:
    """One as it is, one as AVI, one as a folder of frames."""
    one, two, three = sorted(real_clips.glob("*.mp4"))
    shutil.copy(one, tmp_path / "one.mp4")
    counts = {"one.mp4": rewritten(one, tmp_path / "copy.avi", 10**6)}
    counts["two.avi"] = rewritten(two, tmp_path / "two.avi", 150)
    counts["three"] = rewritten(three, tmp_path / "three.avi", 100, tmp_path / "three")
    (tmp_path / "three.avi").unlink()
    (tmp_path / "copy.avi").unlink()
    scores = {
        name: video_scores(SCORES[: count // 16], fps=None if name == "three" else 25.0)
        for name, count in counts.items()
    }
    place = write_run(tmp_path / "run", scores)
    page = vadprep.report(place, out=tmp_path / "page", videos=tmp_path, previews="all")
    for number in range(3):
        opened(driver, video_page(page, number))
        wait_for(lambda: driver.execute_script(f"return {PLAYER}.readyState >= 2"))
        driver.execute_script(f"{PLAYER}.play()")
        wait_for(lambda: driver.execute_script(f"return {PLAYER}.currentTime > 0.3"))
        assert driver.execute_script(f"return {PLAYER}.videoHeight") <= 360
        assert driver.execute_script(f"return {PLAYER}.error") is None


@pytest.mark.timeout(900)
def test_the_page_of_the_demo(driver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small one, with a stand-in for the network."""
    monkeypatch.setattr(demo_scene, "PAIRS", {"train": 2, "test": 2})
    monkeypatch.setattr(demo, "SEEDS", (0, 1))
    monkeypatch.setattr(demo, "CONTROL_SEEDS", (0, 1))
    with without_network():
        result = run("demo", "--out", tmp_path / "demo", "--workers", "1")
    assert result.exit_code == 0, result.output
    index = tmp_path / "demo" / "page" / "index.html"
    assert str(index) in result.output
    opened(driver, index)
    banners = driver.find_elements("css selector", ".banner")
    assert "NEVER TRAINED" in banners[0].text and "CONTROL" in banners[1].text
    assert len(ids(driver)) == 4
    for plot in ("roc", "pr", "histogram-0", "loss-0", "loss-1"):
        assert driver.find_elements("css selector", f"#{plot} svg"), plot
    links = driver.find_elements("css selector", ".videos tbody a")
    links[0].click()
    wait_for(lambda: driver.execute_script(f"return {PLAYER} && {PLAYER}.readyState >= 2"))


def test_the_page_of_features(driver: Any, tmp_path: Path) -> None:
    videos = [stored_video(f"<i>{n}", num_clips=4, num_crops=5) for n in range(6)]
    videos.append(failed_video("bad", "<b>broken"))
    spec = small_spec(crops=5, crop_order="xd")
    write_folder(tmp_path / "features" / "rgb", videos, spec)
    opened(driver, vadprep.report(tmp_path / "features", out=tmp_path / "page"))
    for plot in ("length", "pca-label", "norms", "cosines"):
        assert driver.find_elements("css selector", f"#{plot} svg"), plot
    assert "<b>broken" in driver.find_element("tag name", "main").text
    assert not driver.find_elements("css selector", "main b, main i")


def rewritten(source: Path, path: Path, most: int, images: Path | None = None) -> int:
    """The first frames of a clip as MJPEG in AVI, and as images; how many there are."""
    if images:
        images.mkdir()
    with av.open(str(source)) as file, av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=25)
        size = file.streams.video[0]
        stream.width, stream.height, stream.pix_fmt = size.width, size.height, "yuvj420p"
        count = 0
        for frame in file.decode(video=0):
            if count == most:
                break
            image = Image.fromarray(frame.to_ndarray(format="rgb24"))
            if images:
                image.save(images / f"{count}.jpg")
            new = av.VideoFrame.from_image(image).reformat(format="yuvj420p")
            new.pts = count
            out.mux(stream.encode(new))
            count += 1
        out.mux(stream.encode(None))
    return count
