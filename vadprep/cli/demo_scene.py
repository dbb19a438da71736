"""The data set of ``vadprep demo``: drawn videos of a street under a surveillance camera.

Videos come in pairs, one normal and one abnormal, with the same length and the same kinds of
everyday happenings, which also excite a detector of mere change: only the event tells them apart.

Places are pixels of a canvas twice as large as the frame, x to the right and y down. The depth of
a thing is the y of the ground under it; people grow with it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vadprep.core.atomic import make_folder, open_atomic
from vadprep.core.records import Interval

HEIGHT, WIDTH, FPS = 176, 224, 25
MARGIN = 6  # pixels drawn beyond each border of the frame, which a shaken camera shows
CANVAS_WIDTH, CANVAS_HEIGHT = 472, 376
EVENTS = ("fight", "crash", "fire")
PAIRS = {"train": 18, "test": 9}
"""Pairs of a normal and an abnormal video in each split: a multiple of the kinds of event."""
LENGTH_FRAMES = (144, 177)

BINS = ((150, 262), (236, 258), (322, 262))
POST = (300, 272)
FAR_LANE, NEAR_LANE = 178, 222  # y where wheels touch the road
Draw = ImageDraw.ImageDraw
Rng = np.random.Generator
Floats = NDArray[np.floating[Any]]
Colour = tuple[int, ...]
Point = tuple[float, float]
Look = tuple[Colour, ...]
ALWAYS, NEVER = (0, 1 << 30), (0, 0)
SHADOW, GLASS = (20, 22, 30, 90), (46, 58, 68)
SHIRTS = (
    (52, 74, 120), (120, 46, 44), (64, 96, 70), (168, 160, 148), (40, 42, 48), (150, 118, 70),
)  # fmt: skip
TROUSERS = ((38, 40, 52), (70, 66, 60), (50, 60, 84), (94, 84, 70))
SKIN = ((222, 178, 148), (172, 122, 90), (112, 78, 58))
PAINT = ((150, 44, 40), (60, 84, 130), (186, 186, 182), (58, 62, 64))


class Script(NamedTuple):
    """What happens in one video. ``category`` is ``normal`` or one of EVENTS."""

    video_id: str
    split: str
    category: str
    num_frames: int
    interval: Interval
    happenings: tuple[str, ...]
    seed: tuple[int, ...]


def scripts(seed: int = 0) -> list[Script]:
    """The scripts of all videos, in an order that does not depend on the label."""
    rng = np.random.default_rng(seed)
    videos: list[Script] = []
    for split, count in PAIRS.items():
        for index in range(count):
            num_frames = int(rng.integers(*LENGTH_FRAMES))
            length = int(num_frames * rng.uniform(0.38, 0.5))
            start = int(rng.integers(12, num_frames - length - 12))
            passing = rng.choice(("bus", "car", "cyclist", "group"), 2, replace=False)
            camera = rng.choice(("cloud", "flicker", "shake"), 2, replace=False)
            happenings = (*passing.tolist(), *camera.tolist())
            normal = Script("", split, "normal", num_frames, NEVER, happenings, ())
            category, interval = EVENTS[index % len(EVENTS)], (start, start + length)
            videos += [normal, normal._replace(category=category, interval=interval)]
    order = enumerate(rng.permutation(len(videos)))
    return [videos[i]._replace(video_id=f"street-{n:03d}", seed=(seed, n)) for n, i in order]


class Thing(NamedTuple):
    """What is in the scene, and in which frames. A thing of larger depth hides the others."""

    depth: float
    draw: Callable[[Draw, int], None]
    interval: Interval = ALWAYS


def _box(x: float, y: float, half_width: float, half_height: float) -> list[float]:
    return [x - half_width, y - half_height, x + half_width, y + half_height]


def _passer(rng: Rng, depth: float = 0.0, pace: float = 1.0) -> tuple[Look, float, float]:
    """Look, depth and speed. Two fifths of those without a given depth take the far pavement."""
    depth = depth or (rng.uniform(122, 134) if rng.random() < 0.4 else rng.uniform(250, 360))
    look = tuple(tuple(rng.choice(colours)) for colours in (SHIRTS, TROUSERS, SKIN))
    return look, depth, 0.011 * depth * pace * rng.uniform(0.8, 1.2) * rng.choice((-1, 1))


def _poses(depth: float, way: Floats) -> Floats:
    """Poses of a walker ``way`` pixels right of the middle: float [6, num_frames]. First x and y
    of the feet in pixels; then the stride, both arms and the lean in radians."""
    stride, zero = 0.42 * np.sin(9.0 * way / (0.34 * depth)), np.zeros(len(way))
    return np.stack([CANVAS_WIDTH / 2 + way, zero + depth, stride, -stride, stride, zero])


def _person(look: Look, depth: float, poses: Floats, interval: Interval = ALWAYS) -> Thing:
    def end(start: Point, angle: float, length: float) -> Point:  # of a limb; angle 0 is down
        return start[0] + length * np.sin(angle), start[1] + length * np.cos(angle)

    def draw(draw: Draw, frame: int) -> None:
        (shirt, trousers, skin), (x, y, stride, *arms, lean) = look, poses[:, frame]
        tall = 0.34 * y
        width = max(2, round(0.09 * tall))
        hip = (x + 0.45 * tall * np.sin(lean), y - 0.46 * tall)
        neck = end(hip, np.pi - lean * 1.5, 0.36 * tall)
        head = end(neck, np.pi - lean, 0.10 * tall)
        draw.ellipse(_box(x + 0.12 * tall, y, 0.26 * tall, 0.05 * tall), SHADOW)
        for swing in (stride, -stride):
            draw.line([hip, (x + 0.46 * tall * np.sin(swing), y)], trousers, width)
        draw.line([hip, neck], shirt, 2 * width)
        for swing in arms:
            hand = end(neck, swing, 0.36 * tall)
            draw.line([neck, hand], shirt, width)
            draw.ellipse(_box(*hand, 0.5 * width, 0.5 * width), skin)
        draw.ellipse(_box(*head, 0.065 * tall, 0.08 * tall), skin)

    return Thing(depth, draw, interval)


def _cyclist(rng: Rng, frames: Floats) -> list[Thing]:
    """A bicycle, and a walker's body seated on it. ``frames`` count from the middle."""
    look, y, speed = _passer(rng, rng.uniform(244, 300), pace=3.0)
    heading, tall, wheel = np.sign(speed), 0.34 * y, 0.17 * 0.34 * y
    poses = _poses(y, speed * frames)
    poses[1] -= 0.08 * tall
    poses[2] /= 2
    poses[3:] = np.array([[1.2], [1.2], [0.35]]) * heading

    def draw(draw: Draw, frame: int) -> None:
        x = poses[0, frame]
        for side in (-0.3, 0.3):
            axle = (x + side * tall, y - wheel)
            draw.ellipse(_box(*axle, wheel, wheel), outline=(30, 30, 32), width=3)
            draw.line([axle, (x, y - 0.34 * tall)], (120, 120, 126), 3)

    return [Thing(y, draw), _person(look, y, poses)]


def _fight(rng: Rng, script: Script) -> list[Thing]:
    """Eight people run to one place, hit each other, each blow for three frames, and run off."""
    x, depth = rng.uniform(205, 267), rng.uniform(310, 345)
    frames, (start, stop) = np.arange(script.num_frames), script.interval
    running = np.minimum(frames - start - 9, 0) + np.maximum(frames - stop + 9, 0)
    things = []
    for _ in range(8):
        look, y, speed = _passer(rng, depth + rng.uniform(-22, 22), pace=1.6)
        poses = _poses(y, speed * (6.0 * running))
        poses[0] = poses[0] - CANVAS_WIDTH / 2 + (x + rng.uniform(-64, 64))
        blows = rng.normal(0, (9, 5, 0, 0, 0.45), ((script.num_frames + 2) // 3, 5))
        blows[:, 2:4] = rng.uniform(-2.8, 2.8, (len(blows), 2))
        dx, dy, left, right, lean = blows.repeat(3, axis=0)[: script.num_frames].T
        hitting = np.stack([poses[0] + dx, poses[1] + dy, 0.5 * lean + 0.3, left, right, lean])
        things.append(_person(look, y, np.where(running, poses, hitting), script.interval))
    return things


CAR: tuple[tuple[tuple[Point, ...], Colour | None], ...] = (
    (((-0.5, 0.15), (-0.5, 0.5), (-0.36, 0.58), (-0.25, 1.0), (0.1, 1.0), (0.25, 0.58),
      (0.47, 0.5), (0.5, 0.15)), None),
    (((-0.3, 0.58), (-0.22, 0.92), (-0.08, 0.92), (-0.08, 0.58)), GLASS),
    (((-0.05, 0.58), (-0.05, 0.92), (0.08, 0.92), (0.19, 0.58)), GLASS),
)  # fmt: skip
BUS: tuple[tuple[tuple[Point, ...], Colour | None], ...] = (
    (((-0.5, 0.1), (-0.5, 0.97), (-0.47, 1.0), (0.48, 1.0), (0.5, 0.9), (0.5, 0.1)), None),
    *((((a, 0.5), (a, 0.88), (a + 0.12, 0.88), (a + 0.12, 0.5)), GLASS)
      for a in (-0.46, -0.32, -0.18, -0.04, 0.1, 0.24, 0.37)),
)  # fmt: skip
"""Outlines in parts of length and height, with their colour; None is the paint."""
VAPOURS = {
    "flame": (((255, 236, 150, 230), (255, 200, 70, 220), (255, 140, 30, 190),
               (224, 70, 20, 140)), 27, 125, 13),
    "smoke": (((52, 48, 46, 120), (62, 58, 56, 90), (74, 70, 68, 50)), 34, 200, 40),
    "steam": (((232, 232, 232, 120), (216, 216, 218, 90), (200, 200, 204, 50)), 38, 190, 34),
}  # fmt: skip
"""Colours of a puff from its birth to its end, its size and rise in pixels, its life in frames."""


def _vehicle(rng: Rng, path: Floats, size: Point, heading: int, hazard: Interval = NEVER) -> Thing:
    """``path`` is float [num_frames, 3]: x and y of the middle, and pitch in radians."""
    (length, height), paint = size, tuple(rng.choice(PAINT))

    def draw(draw: Draw, frame: int) -> None:
        x, y, pitch = path[frame]
        cos, sin = np.cos(pitch), np.sin(pitch)

        def place(*outline: Point) -> list[Point]:
            points = [(u * (length * heading), v * height) for u, v in outline]
            return [(x + a * cos - b * sin, y - a * sin - b * cos) for a, b in points]

        draw.ellipse(_box(x, y, 0.54 * length, 0.16 * height), SHADOW)
        for outline, colour in BUS if length > 250 else CAR:
            draw.polygon(place(*outline), colour or paint)
        for wheel in place((-0.31, 0.12), (0.31, 0.12)):
            draw.ellipse(_box(*wheel, 0.15 * height + 4, 0.15 * height + 4), (24, 24, 26))
            draw.ellipse(_box(*wheel, 0.07 * height, 0.07 * height), (130, 130, 132))
        if hazard[0] <= frame < hazard[1] and frame // 6 % 2:
            for lamp in place((-0.47, 0.42), (0.47, 0.38)):
                draw.ellipse(_box(*lamp, 22, 22), (255, 170, 30, 90))
                draw.ellipse(_box(*lamp, 9, 9), (255, 190, 60))

    return Thing(path[:, 1].max(), draw)


def _plume(
    rng: Rng, vapour: str, count: int, place: tuple[float, ...], interval: Interval
) -> Thing:
    """Rising puffs; the plume grows from the start of the interval and shrinks to its end."""
    (ramp, size, rise, life), (x, y, depth) = VAPOURS[vapour], place
    phases, sides = rng.random(count), rng.normal(0, 0.7, count)
    sizes = rng.uniform(0.5, 1.2, count)

    def draw(draw: Draw, frame: int) -> None:
        strength = min((frame - interval[0] + 6) / 30, (interval[1] - frame) / 12, 1.0)
        ages = (frame / life + phases) % 1.0
        xs = x + size * strength * sides * (0.6 + ages) + 14 * ages**2
        ys = y - rise * strength * ages
        radii = size * strength * sizes * (0.5 + ages) * (1.6 - ages)
        for puff in np.argsort(-ages):  # the oldest first
            colour = ramp[int(ages[puff] * len(ramp))]
            draw.ellipse(_box(xs[puff], ys[puff], radii[puff], 1.25 * radii[puff]), colour)

    return Thing(depth, draw, interval)


def _crash(rng: Rng, script: Script) -> list[Thing]:
    """A car comes in fast, leaves the road, hits the lamp post, burns, and is towed away."""
    (start, stop), (x, y) = script.interval, POST
    impact, near, burning = start + 8, x - 112, (start + 8, stop)
    times = (start, impact, impact + 3, impact + 9, stop - 12, stop)
    xs = (-160, near, near + 8, near, near, -160)
    ys = (NEAR_LANE, 274, 274, 274, 274, NEAR_LANE)
    pitches = (-0.08, -0.08, -0.2, 0, 0, -0.08)
    frames = np.arange(script.num_frames)
    path = np.stack([np.interp(frames, times, each) for each in (xs, ys, pitches)], axis=1)
    car = _vehicle(rng, path, (220.0, 82.0), 1, burning)
    steam = _plume(rng, "steam", 30, (x - 18, y - 34, y + 3), burning)
    flame = _plume(rng, "flame", 20, (x - 60, y - 24, y + 4), burning)
    # Speed to the right and up, size and landing place of each piece of debris; it falls at 400.
    flight = rng.uniform((-150.0, 60.0, 2.0, -14.0), (90.0, 260.0, 5.0, 22.0), (24, 4)).tolist()

    def draw_debris(draw: Draw, frame: int) -> None:
        for right, up, size, landing in flight:
            seconds = min((frame - impact) / FPS, up / 200)
            at = x + right * seconds, y + 6 + landing - up * seconds + 200 * seconds**2
            draw.rectangle(_box(*at, size, size / 2), (66, 64, 62))

    return [car, steam, flame, Thing(y + 8, draw_debris, burning)]


def _fire(rng: Rng, script: Script) -> list[Thing]:
    """One of the bins burns: flames that lick about, under a column of smoke."""
    x, y = BINS[rng.integers(len(BINS))]
    smoke = _plume(rng, "smoke", 26, (x, y - 70, y), script.interval)
    return [smoke, _plume(rng, "flame", 30, (x, y - 30, y), script.interval)]


def _everyday(rng: Rng, script: Script) -> list[Thing]:
    """What any video shows: passers-by, and what passes according to the script."""
    frames = np.arange(script.num_frames)
    middles = rng.uniform(-60, script.num_frames + 60, script.num_frames // 36 + 2)
    walkers, things = [(middle, *_passer(rng)) for middle in middles], list[Thing]()
    for happening in script.happenings:
        middle = rng.uniform(0.15, 0.85) * script.num_frames
        if happening == "group":
            _, depth, speed = _passer(rng, rng.uniform(280, 330))
            for _ in range(5):
                start, own = middle + rng.uniform(-22, 22), depth + rng.uniform(-20, 20)
                walkers.append((start, *_passer(rng, own)[:2], speed))
        elif happening == "cyclist":
            things += _cyclist(rng, frames - middle)
        elif happening in ("bus", "car"):
            heading = int(rng.choice((-1, 1)))
            x = CANVAS_WIDTH / 2 + heading * rng.uniform(7, 11) * (frames - middle)
            lane = FAR_LANE if heading < 0 else NEAR_LANE
            path = np.stack(np.broadcast_arrays(x, lane, 0.0), axis=1)
            size = (400.0, 118.0) if happening == "bus" else (150.0, 54.0)
            things.append(_vehicle(rng, path, size, heading))
    return things + [_person(look, y, _poses(y, v * (frames - at))) for at, look, y, v in walkers]


def _street(rng: Rng) -> Image.Image:
    """The empty scene: RGB [CANVAS_HEIGHT, CANVAS_WIDTH], with grain of stone and asphalt."""
    image = Image.new("RGB", (CANVAS_WIDTH, CANVAS_HEIGHT), (116, 110, 104))
    draw, wide, joint = ImageDraw.Draw(image, "RGBA"), CANVAS_WIDTH, (98, 93, 88)
    for top, bottom, colour in (
        (0, 110, (132, 106, 90)), (110, 136, (140, 136, 130)), (137, 232, (84, 84, 88)),
        (230, 237, (170, 166, 160)),
    ):  # fmt: skip
        draw.rectangle((0, top, wide, bottom), colour)
    for x in range(-20, wide, 66):  # window, shop, awning
        draw.rectangle((x + 12, 8, x + 46, 44), (196, 190, 178))
        draw.rectangle((x + 16, 12, x + 42, 40), (70, 84, 96))
        draw.rectangle((x + 4, 62, x + 60, 106), (62, 66, 70))
        draw.rectangle((x + 2, 54, x + 62, 64), (112, 60, 54) if x % 4 else (66, 88, 80))
    for x in range(0, wide, 56):
        draw.polygon([(x, 186), (x + 28, 186), (x + 26, 190), (x - 2, 190)], (196, 194, 184))
    for row in range(1, 9):
        draw.line([(0, 236 + 2.4 * row**1.9), (wide, 236 + 2.4 * row**1.9)], joint, 1)
    for n in range(-14, 15):
        draw.line([(wide / 2 + 34 * n, 237), (wide / 2 + 62 * n, CANVAS_HEIGHT)], joint, 1)
    for x, y in BINS:
        draw.ellipse(_box(x + 6, y, 20, 5), SHADOW)
        draw.rectangle(_box(x, y - 18, 12, 18), (48, 70, 56))
        draw.rectangle(_box(x, y - 37, 14, 3), (36, 52, 44))
    x, y = POST
    draw.ellipse(_box(x + 8, y, 22, 5), SHADOW)
    draw.rectangle((x - 3, 30, x + 3, y), (58, 60, 62))
    draw.ellipse(_box(x, 28, 12, 7), (214, 210, 190))
    grain = rng.normal(0, 5, (CANVAS_HEIGHT // 8, wide // 8)).repeat(8, 0).repeat(8, 1)
    pixels = np.asarray(image) + (grain + rng.normal(0, 7, grain.shape))[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def frames(script: Script) -> Iterator[NDArray[np.uint8]]:
    """The frames of one video in order, each uint8 [HEIGHT, WIDTH, 3]; fixed by the script."""
    empty = _street(np.random.default_rng(script.seed[0]))
    # One random stream each: apart from its event, a video is the same with and without it.
    of_everyday, of_event, of_camera, of_noise = np.random.default_rng(script.seed).spawn(4)
    events = {"normal": lambda *_: [], "fight": _fight, "crash": _crash, "fire": _fire}
    things = _everyday(of_everyday, script) + events[script.category](of_event, script)
    things.sort(key=lambda thing: thing.depth)
    gain = np.full(script.num_frames, of_camera.uniform(1.02, 1.12))
    shift = np.zeros((script.num_frames, 2), dtype=np.int64)
    for happening in script.happenings:
        middle = of_camera.uniform(0.15, 0.85) * script.num_frames
        near = np.exp(-(((np.arange(script.num_frames) - middle) / 30) ** 4))
        if happening == "cloud":
            gain *= 1 - 0.25 * near
        elif happening == "flicker":
            gain *= 1 + 0.09 * near * of_camera.choice((-1, 1), script.num_frames)
        elif happening == "shake":
            jolts = np.rint(of_camera.normal(0, 1.6, shift.shape) * near[:, None])
            shift += np.clip(jolts, -MARGIN, MARGIN).astype(np.int64)
    noise = of_noise.normal(0, 2.5, (2 * HEIGHT, 2 * WIDTH, 3)).astype(np.float32)
    offsets = of_noise.integers(0, (HEIGHT, WIDTH), (script.num_frames, 2))
    for frame in range(script.num_frames):
        canvas = empty.copy()
        draw = ImageDraw.Draw(canvas, "RGBA")
        for thing in things:
            if thing.interval[0] <= frame < thing.interval[1]:
                thing.draw(draw, frame)
        top, left = (MARGIN + shift[frame]).tolist()
        view = canvas.reduce(2).crop((left, top, left + WIDTH, top + HEIGHT))
        picture = np.asarray(view, dtype=np.float32) * np.float32(gain[frame])
        top, left = offsets[frame]
        picture += noise[top : top + HEIGHT, left : left + WIDTH]
        yield np.clip(picture, 0, 255).astype(np.uint8)


def write_dataset(root: Path, seed: int = 0, workers: int = 1) -> Path:
    """Path of the manifest, after all videos were written to ``root``/videos, the same ones for any
    number of workers. As in the data sets of this field, training videos have no intervals."""
    make_folder(root / "videos")
    all_scripts = scripts(seed)
    rows, paths = ["video_id,path,split,label,category,num_frames,fps,intervals"], list[Path]()
    for video_id, split, category, num_frames, (start, stop), *_ in all_scripts:
        paths.append(root / "videos" / f"{video_id}.mp4")
        known = f'"[[{start}, {stop}]]"' if split == "test" else ""
        label, intervals = (0, "[]") if category == "normal" else (1, known)
        row = f"{split},{label},{category},{num_frames},{FPS},{intervals}"
        rows.append(f"{video_id},videos/{video_id}.mp4,{row}")
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(write_video, paths, all_scripts))
    with open_atomic(root / "manifest.csv") as file:
        file.write("\n".join([*rows, ""]).encode())
    return root / "manifest.csv"


def write_video(path: Path, script: Script) -> None:
    """Write the frames of a script as H.264 at FPS."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "superfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for picture in frames(script):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
