"""What is drawn in the scene of ``vadprep demo``: people, vehicles, flames, the street itself.

All places are in pixels of a canvas twice as large as the frame, x to the right and y down;
``depth`` is the y of the ground under a thing, and people grow with it.

    y =   0   facade with windows and shops
    y = 110   far pavement
    y = 140   road, two lanes
    y = 236   plaza with three bins and a lamp post
    y = 376   nearest ground
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vadprep.core.records import Interval

CANVAS_WIDTH, CANVAS_HEIGHT = 472, 376
FPS = 25

BINS = ((150, 262), (236, 258), (322, 262))
POST = (300, 272)
FAR_LANE, NEAR_LANE = 178, 222
"""Where wheels touch the road."""

Colour = tuple[int, ...]
SHADOW: Colour = (20, 22, 30, 90)
SHIRTS: tuple[Colour, ...] = (
    (52, 74, 120), (120, 46, 44), (64, 96, 70), (168, 160, 148), (40, 42, 48), (150, 118, 70),
)  # fmt: skip
TROUSERS: tuple[Colour, ...] = ((38, 40, 52), (70, 66, 60), (50, 60, 84), (94, 84, 70))
SKIN: tuple[Colour, ...] = ((222, 178, 148), (172, 122, 90), (112, 78, 58))
PAINT: tuple[Colour, ...] = ((150, 44, 40), (60, 84, 130), (186, 186, 182), (58, 62, 64))


# --------------------------------------------------------------------- figures


@dataclass(frozen=True)
class Look:
    """How one person is dressed."""

    shirt: Colour
    trousers: Colour
    skin: Colour


@dataclass(frozen=True)
class Pose:
    """Where one person's feet are (canvas pixels) and how the limbs swing (radians)."""

    x: float
    y: float
    stride: float
    arms: tuple[float, float]
    lean: float = 0.0


def draw_person(draw: ImageDraw.ImageDraw, look: Look, pose: Pose) -> None:
    """A standing figure with shadow, legs, arms and head; nearer people are taller."""
    tall = 0.34 * pose.y
    width = max(2, round(0.09 * tall))
    hip = (pose.x + 0.45 * tall * np.sin(pose.lean), pose.y - 0.46 * tall)
    neck = _limb_end(hip, np.pi - pose.lean * 1.5, 0.36 * tall)
    draw.ellipse(_box(pose.x + 0.12 * tall, pose.y, 0.26 * tall, 0.05 * tall), fill=SHADOW)
    for swing in (pose.stride, -pose.stride):
        draw.line([hip, (pose.x + 0.46 * tall * np.sin(swing), pose.y)], look.trousers, width)
    draw.line([hip, neck], look.shirt, 2 * width)
    for swing in pose.arms:
        hand = _limb_end(neck, swing, 0.36 * tall)
        draw.line([neck, hand], look.shirt, width)
        draw.ellipse(_box(*hand, 0.5 * width, 0.5 * width), fill=look.skin)
    head = _limb_end(neck, np.pi - pose.lean, 0.10 * tall)
    draw.ellipse(_box(*head, 0.065 * tall, 0.08 * tall), fill=look.skin)


def _limb_end(start: tuple[float, float], angle: float, length: float) -> tuple[float, float]:
    """End of a limb: angle 0 hangs straight down, pi points up."""
    return start[0] + length * np.sin(angle), start[1] + length * np.cos(angle)


def _box(x: float, y: float, half_width: float, half_height: float) -> list[float]:
    return [x - half_width, y - half_height, x + half_width, y + half_height]


class Thing(Protocol):
    """What stands or moves in the scene. Things with a larger ``depth`` hide the others."""

    @property
    def depth(self) -> float: ...

    def draw(self, draw: ImageDraw.ImageDraw, frame: int) -> None: ...


@dataclass(frozen=True)
class Walker:
    """A person crossing the scene at constant speed, in the middle at frame ``middle``."""

    look: Look
    depth: float
    speed: float
    middle: float

    def pose(self, frame: float) -> Pose:
        travelled = self.speed * (frame - self.middle)
        stride = 0.42 * np.sin(9.0 * travelled / (0.34 * self.depth))
        return Pose(CANVAS_WIDTH / 2 + travelled, self.depth, stride, (-stride, stride))

    def draw(self, draw: ImageDraw.ImageDraw, frame: int) -> None:
        pose = self.pose(frame)
        if -60 < pose.x < CANVAS_WIDTH + 60:
            draw_person(draw, self.look, pose)


@dataclass(frozen=True)
class Cyclist:
    """A walker's body, seated on a bicycle."""

    rider: Walker

    @property
    def depth(self) -> float:
        return self.rider.depth

    def draw(self, draw: ImageDraw.ImageDraw, frame: int) -> None:
        pose = self.rider.pose(frame)
        tall = 0.34 * pose.y
        wheel, saddle = 0.17 * tall, (pose.x, pose.y - 0.34 * tall)
        for side in (-0.3, 0.3):
            axle = (pose.x + side * tall, pose.y - wheel)
            draw.ellipse(_box(*axle, wheel, wheel), outline=(30, 30, 32), width=3)
            draw.line([axle, saddle], (120, 120, 126), 3)
        lean = 0.35 * np.sign(self.rider.speed)
        arms = (1.2 * np.sign(self.rider.speed),) * 2
        seated = Pose(pose.x, pose.y - 0.08 * tall, pose.stride / 2, arms, lean)
        draw_person(draw, self.rider.look, seated)


@dataclass(frozen=True)
class Fighter:
    """A walker who runs to ``spot`` at ``start``, hits about, and has run off by ``stop``.

    ``jerks`` is float [num_frames, 5]: x, y in pixels, two arms and lean, new at each blow.
    """

    walker: Walker
    spot: float
    interval: Interval
    jerks: NDArray[np.float64]

    @property
    def depth(self) -> float:
        return self.walker.depth

    def draw(self, draw: ImageDraw.ImageDraw, frame: int) -> None:
        start, stop = self.interval
        if not start <= frame < stop:
            return
        since = min(frame - start - _RUN_FRAMES, 0) + max(frame - stop + _RUN_FRAMES, 0)
        pose = self.walker.pose(self.walker.middle + _RUN_PACE * since)
        x = pose.x - CANVAS_WIDTH / 2 + self.spot
        pose = Pose(x, pose.y, pose.stride, pose.arms)
        if not since:
            dx, dy, left, right, lean = self.jerks[frame]
            pose = Pose(x + dx, pose.y + dy, 0.5 * lean + 0.3, (left, right), lean)
        draw_person(draw, self.walker.look, pose)


_RUN_FRAMES = 9
_RUN_PACE = 6.0
"""Frames that a fighter runs, and how much faster than a walker: in from beyond the border."""


# -------------------------------------------------------------------- vehicles


@dataclass(frozen=True)
class Vehicle:
    """A car or bus. ``path`` is float [num_frames, 3]: x and y of its middle, and pitch."""

    path: NDArray[np.float64]
    size: tuple[float, float]
    paint: Colour
    heading: int
    hazard: Interval = (0, 0)

    @property
    def depth(self) -> float:
        return float(self.path[:, 1].max())

    def draw(self, draw: ImageDraw.ImageDraw, frame: int) -> None:
        x, y, pitch = self.path[frame]
        length, height = self.size
        if abs(x - CANVAS_WIDTH / 2) > CANVAS_WIDTH / 2 + length:
            return
        draw.ellipse(_box(x, y, 0.54 * length, 0.16 * height), fill=SHADOW)
        place = _placer(x, y, pitch, length * self.heading, height)
        for outline, colour in _BUS if length > 250 else _CAR:
            draw.polygon(place(outline), fill=colour or self.paint)
        for wheel in place(((-0.31, 0.12), (0.31, 0.12))):
            draw.ellipse(_box(*wheel, 0.15 * height + 4, 0.15 * height + 4), fill=(24, 24, 26))
            draw.ellipse(_box(*wheel, 0.07 * height, 0.07 * height), fill=(130, 130, 132))
        if self.hazard[0] <= frame < self.hazard[1] and frame // 6 % 2:
            for lamp in place(((-0.47, 0.42), (0.47, 0.38))):
                draw.ellipse(_box(*lamp, 22, 22), fill=(255, 170, 30, 90))
                draw.ellipse(_box(*lamp, 9, 9), fill=(255, 190, 60))


Outline = tuple[tuple[float, float], ...]
_GLASS: Colour = (46, 58, 68)
_CAR: tuple[tuple[Outline, Colour | None], ...] = (
    (((-0.5, 0.15), (-0.5, 0.5), (-0.36, 0.58), (-0.25, 1.0), (0.1, 1.0), (0.25, 0.58),
      (0.47, 0.5), (0.5, 0.15)), None),
    (((-0.3, 0.58), (-0.22, 0.92), (-0.08, 0.92), (-0.08, 0.58)), _GLASS),
    (((-0.05, 0.58), (-0.05, 0.92), (0.08, 0.92), (0.19, 0.58)), _GLASS),
)  # fmt: skip
_BUS: tuple[tuple[Outline, Colour | None], ...] = (
    (((-0.5, 0.1), (-0.5, 0.97), (-0.47, 1.0), (0.48, 1.0), (0.5, 0.9), (0.5, 0.1)), None),
    *(
        (((a, 0.5), (a, 0.88), (a + 0.12, 0.88), (a + 0.12, 0.5)), _GLASS)
        for a in (-0.46, -0.32, -0.18, -0.04, 0.1, 0.24, 0.37)
    ),
)


def _placer(
    x: float, y: float, pitch: float, length: float, height: float
) -> Callable[[Outline], list[tuple[float, float]]]:
    """Function from outline points (parts of length and height) to points on the canvas."""
    cos, sin = np.cos(pitch), np.sin(pitch)

    def place(outline: Outline) -> list[tuple[float, float]]:
        points = [(u * length, v * height) for u, v in outline]
        return [(x + a * cos - b * sin, y - a * sin - b * cos) for a, b in points]

    return place


# --------------------------------------------------------- fire, smoke, debris


@dataclass(frozen=True)
class Vapour:
    """What a plume is made of: colours of a puff from its birth to its end, with opacity.

    ``size`` and ``rise`` (how far up) are in canvas pixels.
    """

    ramp: tuple[Colour, ...]
    size: float
    rise: float
    life_frames: float


FLAME = Vapour(
    ((255, 236, 150, 230), (255, 200, 70, 220), (255, 140, 30, 190), (224, 70, 20, 140)),
    size=27, rise=125, life_frames=13,
)  # fmt: skip
SMOKE = Vapour(
    ((52, 48, 46, 120), (62, 58, 56, 90), (74, 70, 68, 50)), size=34, rise=200, life_frames=40
)
STEAM = Vapour(
    ((232, 232, 232, 120), (216, 216, 218, 90), (200, 200, 204, 50)),
    size=38, rise=190, life_frames=34,
)  # fmt: skip


@dataclass(frozen=True)
class Plume:
    """Rising flames, smoke or steam. ``puffs`` is float [num_puffs, 3]: phase, side, size."""

    x: float
    y: float
    depth: float
    interval: Interval
    vapour: Vapour
    puffs: NDArray[np.float64]

    def draw(self, draw: ImageDraw.ImageDraw, frame: int) -> None:
        strength = envelope(frame, self.interval)
        if strength <= 0:
            return
        stuff, size = self.vapour, self.vapour.size * strength
        phases, sides, sizes = self.puffs.T
        ages = (frame / stuff.life_frames + phases) % 1.0
        oldest_first = np.argsort(-ages)
        xs = self.x + size * sides * (0.6 + ages) + 14 * ages**2
        ys = self.y - stuff.rise * strength * ages
        radii = size * sizes * (0.5 + ages) * (1.6 - ages)
        for puff in oldest_first:
            colour = stuff.ramp[int(ages[puff] * len(stuff.ramp))]
            draw.ellipse(_box(xs[puff], ys[puff], radii[puff], 1.25 * radii[puff]), fill=colour)


@dataclass(frozen=True)
class Debris:
    """Pieces thrown from a crash, that stay where they land until the interval ends.

    ``flight`` is float [num_pieces, 4]: speed to the right and upwards, size, landing place.
    """

    x: float
    y: float
    interval: Interval
    flight: NDArray[np.float64]

    @property
    def depth(self) -> float:
        return self.y + 2

    def draw(self, draw: ImageDraw.ImageDraw, frame: int) -> None:
        start, stop = self.interval
        if not start <= frame < stop:
            return
        for right, up, size, landing in self.flight.tolist():
            seconds = min((frame - start) / FPS, up / _FALL)
            x = self.x + right * seconds
            y = self.y + landing - up * seconds + _FALL * seconds**2
            draw.rectangle(_box(x, y, size, size / 2), fill=(66, 64, 62))


_FALL = 200.0
"""Half the acceleration of falling pieces, in canvas pixels per second squared."""


def envelope(frame: int, interval: Interval) -> float:
    """Strength in [0, 1]: grows from the start, ends with the interval, 0 outside."""
    start, stop = interval
    if not start <= frame < stop:
        return 0.0
    return min((frame - start + 6) / 30, (stop - frame) / 12, 1.0)


# ---------------------------------------------------------------------- street


def street(rng: np.random.Generator) -> Image.Image:
    """The empty scene: RGB [CANVAS_HEIGHT, CANVAS_WIDTH], with grain of stone and asphalt."""
    image = Image.new("RGB", (CANVAS_WIDTH, CANVAS_HEIGHT), (116, 110, 104))
    draw = ImageDraw.Draw(image, "RGBA")
    _draw_facade(draw)
    _draw_road(draw)
    _draw_plaza(draw)
    coarse = rng.normal(0, 5, (CANVAS_HEIGHT // 8, CANVAS_WIDTH // 8)).repeat(8, 0).repeat(8, 1)
    grain = rng.normal(0, 7, (CANVAS_HEIGHT, CANVAS_WIDTH)) + coarse
    pixels = np.asarray(image, dtype=np.float64) + grain[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _draw_facade(draw: ImageDraw.ImageDraw) -> None:
    draw.rectangle((0, 0, CANVAS_WIDTH, 110), fill=(132, 106, 90))
    for x in range(-20, CANVAS_WIDTH, 66):
        draw.rectangle((x + 12, 8, x + 46, 44), fill=(196, 190, 178))
        draw.rectangle((x + 16, 12, x + 42, 40), fill=(70, 84, 96))
        draw.rectangle((x + 4, 62, x + 60, 106), fill=(62, 66, 70))
        draw.rectangle((x + 2, 54, x + 62, 64), fill=(112, 60, 54) if x % 4 else (66, 88, 80))


def _draw_road(draw: ImageDraw.ImageDraw) -> None:
    draw.rectangle((0, 110, CANVAS_WIDTH, 136), fill=(140, 136, 130))
    draw.rectangle((0, 137, CANVAS_WIDTH, 232), fill=(84, 84, 88))
    for x in range(0, CANVAS_WIDTH, 56):
        draw.polygon([(x, 186), (x + 28, 186), (x + 26, 190), (x - 2, 190)], (196, 194, 184))
    draw.rectangle((0, 230, CANVAS_WIDTH, 237), fill=(170, 166, 160))


def _draw_plaza(draw: ImageDraw.ImageDraw) -> None:
    middle = CANVAS_WIDTH / 2
    for row in range(1, 9):
        y = 236 + 2.4 * row**1.9
        draw.line([(0, y), (CANVAS_WIDTH, y)], (98, 93, 88), 1)
    for column in range(-14, 15):
        near, far = middle + 62 * column, middle + 34 * column
        draw.line([(far, 237), (near, CANVAS_HEIGHT)], (98, 93, 88), 1)
    for x, y in BINS:
        draw.ellipse(_box(x + 6, y, 20, 5), fill=SHADOW)
        draw.rectangle(_box(x, y - 18, 12, 18), fill=(48, 70, 56))
        draw.rectangle(_box(x, y - 37, 14, 3), fill=(36, 52, 44))
    x, y = POST
    draw.ellipse(_box(x + 8, y, 22, 5), fill=SHADOW)
    draw.rectangle((x - 3, 30, x + 3, y), fill=(58, 60, 62))
    draw.ellipse(_box(x, 28, 12, 7), fill=(214, 210, 190))
