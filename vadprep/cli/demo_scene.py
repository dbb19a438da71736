"""The small data set of ``vadprep demo``: a drawn street under a surveillance camera, as mp4.

Every video shows the same plaza beside the same road. People walk, and everyday things happen
that excite a detector of mere change: a bus or car passes, a cyclist, a group crosses, a cloud
dims the light, the exposure flickers, the camera shakes. An abnormal video holds one event
more, during one interval known to the frame: a fight, a crash or a fire.

Videos come in pairs, one normal and one abnormal, with the same length and the same kinds of
everyday happenings, so that nothing but the event tells the two classes apart.
"""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vadprep.cli import demo_scenery as scenery
from vadprep.cli.demo_scenery import CANVAS_WIDTH, FPS, Thing
from vadprep.core.atomic import make_folder, written
from vadprep.core.clips import CLIP_LENGTH
from vadprep.core.records import Interval

HEIGHT, WIDTH = 176, 224
MARGIN = 6
"""Pixels drawn beyond each border of the frame: what a shaken camera gets to see."""

EVENTS = ("fight", "crash", "fire")
PAIRS = {"train": 18, "test": 9}
"""Pairs of a normal and an abnormal video in each split: a multiple of the kinds of event."""
LENGTH_FRAMES = (144, 177)
EVENT_SHARE = (0.38, 0.5)
"""Smallest and largest part of an abnormal video that its event takes."""

PASSING = ("bus", "car", "cyclist", "group")
CAMERA = ("cloud", "flicker", "shake")
COLUMNS = (
    "video_id", "path", "split", "label", "category", "num_frames", "fps", "intervals",
)  # fmt: skip


@dataclass(frozen=True)
class Script:
    """What happens in one video. ``category`` is ``normal`` or one of EVENTS."""

    video_id: str
    split: str
    category: str
    num_frames: int
    interval: Interval
    happenings: tuple[str, ...]
    seed: tuple[int, ...]

    @property
    def label(self) -> int:
        return int(self.category != "normal")


# --------------------------------------------------------------------- scripts


def scripts(seed: int = 0) -> list[Script]:
    """The scripts of all videos, in an order that says nothing about the label."""
    rng = np.random.default_rng(seed)
    pairs = [
        _pair(split, EVENTS[index % len(EVENTS)], rng)
        for split, count in PAIRS.items()
        for index in range(count)
    ]
    videos = [video for pair in pairs for video in pair]
    return [
        replace(videos[source], video_id=f"street-{number:03d}", seed=(seed, number))
        for number, source in enumerate(rng.permutation(len(videos)))
    ]


def _pair(split: str, category: str, rng: np.random.Generator) -> tuple[Script, Script]:
    num_frames = int(rng.integers(*LENGTH_FRAMES))
    length = int(num_frames * rng.uniform(*EVENT_SHARE))
    start = int(rng.integers(12, num_frames - length - 12))
    happenings = tuple(
        str(name) for kinds in (PASSING, CAMERA) for name in rng.choice(kinds, 2, replace=False)
    )
    normal = Script("", split, "normal", num_frames, (0, 0), happenings, ())
    return normal, replace(normal, category=category, interval=(start, start + length))


# --------------------------------------------------------------------- casting


def everyday(script: Script, rng: np.random.Generator) -> list[Thing]:
    """What any video shows: passers-by, and what passes according to the script."""
    middles = rng.uniform(-60, script.num_frames + 60, script.num_frames // 36 + 2)
    things: list[Thing] = [_walker(rng, middle) for middle in middles]
    for happening in script.happenings:
        things += _passing(happening, script.num_frames, rng)
    return things


def event(script: Script, rng: np.random.Generator) -> list[Thing]:
    """What an abnormal video shows beside; nothing for a normal one."""
    return _EVENT_CASTS[script.category](script, rng) if script.label else []


def _walker(
    rng: np.random.Generator, middle: float, depth: float | None = None, pace: float = 1.0
) -> scenery.Walker:
    """A passer-by; the far pavement is used as often as two fifths of the time."""
    if depth is None:
        depth = rng.uniform(122, 134) if rng.random() < 0.4 else rng.uniform(250, 360)
    look = scenery.Look(*(_pick(rng, c) for c in (scenery.SHIRTS, scenery.TROUSERS, scenery.SKIN)))
    speed = 0.011 * depth * pace * rng.uniform(0.8, 1.2) * rng.choice((-1, 1))
    return scenery.Walker(look, depth, speed, middle)


def _pick(rng: np.random.Generator, choices: tuple[scenery.Colour, ...]) -> scenery.Colour:
    return choices[rng.integers(len(choices))]


def _passing(happening: str, num_frames: int, rng: np.random.Generator) -> list[Thing]:
    middle = rng.uniform(0.15, 0.85) * num_frames
    if happening == "group":
        return list(_group(rng, middle))
    if happening == "cyclist":
        return [scenery.Cyclist(_walker(rng, middle, rng.uniform(244, 300), pace=3.0))]
    if happening in ("bus", "car"):
        return [_vehicle(happening, num_frames, middle, rng)]
    return []


def _group(rng: np.random.Generator, middle: float) -> Iterator[scenery.Walker]:
    leader = _walker(rng, middle, rng.uniform(280, 330))
    for _ in range(5):
        member = _walker(rng, middle + rng.uniform(-22, 22), leader.depth + rng.uniform(-20, 20))
        yield replace(member, speed=leader.speed)


def _vehicle(
    kind: str, num_frames: int, middle: float, rng: np.random.Generator
) -> scenery.Vehicle:
    heading = int(rng.choice((-1, 1)))
    lane = scenery.FAR_LANE if heading < 0 else scenery.NEAR_LANE
    frames = np.arange(num_frames)
    speed = heading * rng.uniform(7, 11)
    path = np.stack([CANVAS_WIDTH / 2 + speed * (frames - middle), 0 * frames + lane, 0 * frames])
    size = (400.0, 118.0) if kind == "bus" else (150.0, 54.0)
    return scenery.Vehicle(path.T, size, _pick(rng, scenery.PAINT), heading)


def _fight(script: Script, rng: np.random.Generator) -> list[Thing]:
    """Eight people meet on the plaza and hit about; a new blow every third frame."""
    x, depth = rng.uniform(205, 267), rng.uniform(310, 345)
    return [
        scenery.Fighter(
            replace(_walker(rng, 0, depth + rng.uniform(-22, 22), pace=1.6), middle=0),
            x + rng.uniform(-64, 64),
            script.interval,
            _jerks(script.num_frames, rng),
        )
        for _ in range(8)
    ]


def _jerks(num_frames: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Jerks of one fighter: float [num_frames, 5], each held for three frames."""
    blows = (num_frames + 2) // 3
    spread = rng.normal(0, (9, 5, 0, 0, 0.45), (blows, 5))
    spread[:, 2:4] = rng.uniform(-2.8, 2.8, (blows, 2))
    return spread.repeat(3, axis=0)[:num_frames]


def _crash(script: Script, rng: np.random.Generator) -> list[Thing]:
    """A car comes in fast, leaves the road, hits the lamp post, burns, and is towed away."""
    start, stop = script.interval
    impact = start + 8
    x, y = scenery.POST
    return [
        scenery.Vehicle(
            _crash_path(script.num_frames, script.interval, impact),
            (220.0, 82.0), _pick(rng, scenery.PAINT), 1, hazard=(impact, stop),
        ),
        scenery.Plume(x - 18, y - 34, y + 3, (impact, stop), scenery.STEAM, _puffs(30, rng)),
        scenery.Plume(x - 60, y - 24, y + 4, (impact, stop), scenery.FLAME, _puffs(20, rng)),
        scenery.Debris(x, y + 6, (impact, stop), rng.uniform(*_FLIGHT, (24, 4))),
    ]  # fmt: skip


_FLIGHT = ((-150.0, 60.0, 2.0, -14.0), (90.0, 260.0, 5.0, 22.0))
"""Least and greatest speed to the right and up, size and landing place of debris."""


def _crash_path(num_frames: int, interval: Interval, impact: int) -> NDArray[np.float64]:
    """Way of the crashing car: float [num_frames, 3]; off screen outside the interval."""
    start, stop = interval
    off, near, hit = (-160, scenery.NEAR_LANE, -0.08), scenery.POST[0] - 112, 274
    knots = {
        start: off,
        impact: (near, hit, -0.08),
        impact + 3: (near + 8, hit, -0.2),
        impact + 9: (near, hit, 0),
        stop - 12: (near, hit, 0),
        stop: off,
    }
    columns = zip(*knots.values(), strict=True)
    frames = np.arange(num_frames)
    return np.stack([np.interp(frames, list(knots), column) for column in columns], axis=1)


def _fire(script: Script, rng: np.random.Generator) -> list[Thing]:
    """One of the bins burns: flames that lick about, under a column of smoke."""
    x, y = scenery.BINS[rng.integers(len(scenery.BINS))]
    return [
        scenery.Plume(x, y - 70, y, script.interval, scenery.SMOKE, _puffs(26, rng)),
        scenery.Plume(x, y - 30, y, script.interval, scenery.FLAME, _puffs(30, rng)),
    ]


def _puffs(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Phase, sideways place and size of puffs: float [count, 3]."""
    return np.stack([rng.random(count), rng.normal(0, 0.7, count), rng.uniform(0.5, 1.2, count)]).T


_EVENT_CASTS = {"fight": _fight, "crash": _crash, "fire": _fire}


# ---------------------------------------------------------------------- camera


@dataclass(frozen=True)
class Camera:
    """What light and camera do: gain [num_frames], shift int [num_frames, 2] in pixels."""

    gain: NDArray[np.float64]
    shift: NDArray[np.int64]


def camera(script: Script, rng: np.random.Generator) -> Camera:
    """The light of one video, dimmed by clouds, flickering, and the shakes of its camera."""
    frames = np.arange(script.num_frames)
    gain = np.full(script.num_frames, rng.uniform(1.02, 1.12))
    shift = np.zeros((script.num_frames, 2), dtype=np.int64)
    for happening in script.happenings:
        middle = rng.uniform(0.15, 0.85) * script.num_frames
        near = np.exp(-(((frames - middle) / 30) ** 4))
        if happening == "cloud":
            gain *= 1 - 0.25 * near
        elif happening == "flicker":
            gain *= 1 + 0.09 * near * rng.choice((-1, 1), script.num_frames)
        elif happening == "shake":
            jolts = rng.normal(0, 1.6, shift.shape) * near[:, None]
            shift += np.clip(np.rint(jolts), -MARGIN, MARGIN).astype(np.int64)
    return Camera(gain, shift)


def frames(script: Script) -> Iterator[NDArray[np.uint8]]:
    """The frames of one video in order, each uint8 [HEIGHT, WIDTH, 3]; fixed by the script."""
    street = scenery.street(np.random.default_rng(script.seed[0]))
    # Streams of their own: with and without its event, a video is otherwise the same.
    of_everyday, of_event, of_camera, of_noise = np.random.default_rng(script.seed).spawn(4)
    things = everyday(script, of_everyday) + event(script, of_event)
    things.sort(key=lambda thing: thing.depth)
    view = camera(script, of_camera)
    noise = of_noise.normal(0, 2.5, (2 * HEIGHT, 2 * WIDTH, 3)).astype(np.float32)
    offsets = of_noise.integers(0, (HEIGHT, WIDTH), (script.num_frames, 2))
    for frame in range(script.num_frames):
        picture = _picture(street, things, frame, view.shift[frame])
        top, left = offsets[frame]
        picture = picture * np.float32(view.gain[frame])
        picture += noise[top : top + HEIGHT, left : left + WIDTH]
        yield np.clip(picture, 0, 255).astype(np.uint8)


def _picture(
    street: Image.Image, things: list[Thing], frame: int, shift: NDArray[np.int64]
) -> NDArray[np.float32]:
    """One frame before light and noise: float32 [HEIGHT, WIDTH, 3]."""
    canvas = street.copy()
    draw = ImageDraw.Draw(canvas, "RGBA")
    for thing in things:
        thing.draw(draw, frame)
    top, left = MARGIN + shift
    box = (left, top, left + WIDTH, top + HEIGHT)
    return np.asarray(canvas.reduce(2).crop(box), dtype=np.float32)


# ----------------------------------------------------------------------- files


def write_dataset(root: Path, seed: int = 0, workers: int = 1) -> Path:
    """Path of the manifest, after all videos were written to ``root``/videos.

    Intervals stand for test videos and for normal ones; the abnormal training videos have a
    blank, as in the data sets of this field, so that training cannot see them. ``workers``
    processes draw; the videos are the same for any number.
    """
    make_folder(root / "videos")
    all_scripts = scripts(seed)
    paths = [f"videos/{script.video_id}.mp4" for script in all_scripts]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(_draw, [root / path for path in paths], all_scripts):
            pass  # an error in a worker is raised here
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(map(_row, all_scripts, paths))
    with written(root / "manifest.csv") as file:
        file.write(text.getvalue().encode())
    return root / "manifest.csv"


def _draw(path: Path, script: Script) -> None:
    write_video(path, frames(script))


def _row(script: Script, path: str) -> tuple[str | int, ...]:
    known = [list(script.interval)] if script.label else []
    intervals = "" if script.label and script.split == "train" else json.dumps(known)
    return (
        script.video_id, path, script.split, script.label, script.category,
        script.num_frames, FPS, intervals,
    )  # fmt: skip


def write_video(path: Path, pictures: Iterable[NDArray[np.uint8]]) -> None:
    """Write frames uint8 [HEIGHT, WIDTH, 3] as H.264 at FPS."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "superfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


# --------------------------------------------------------------------- control


def frame_difference(blocks: Iterable[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Mean absolute grey difference of consecutive frames in each whole clip: [num_clips].

    The control that a learned score has to beat. ``blocks`` are consecutive frames uint8
    [n, height, width, 3] of one video, of any n; grey is the mean of the three colours.
    """
    differences: list[float] = []
    previous: NDArray[np.float64] | None = None
    for block in blocks:
        for grey in block.mean(axis=3):
            differences.append(0.0 if previous is None else np.abs(grey - previous).mean())
            previous = grey
    whole = len(differences) // CLIP_LENGTH * CLIP_LENGTH
    by_clip = np.array(differences[:whole]).reshape(-1, CLIP_LENGTH)
    # The first difference of a clip reaches back into the clip before.
    return by_clip[:, 1:].mean(axis=1)
