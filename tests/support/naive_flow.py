"""TV-L1 written down once more, slowly and in NumPy alone, to compare the fast ones with."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vadprep.flow import TVL1

Plane = NDArray[np.float32]


def naive_flow(
    first: NDArray[np.uint8], second: NDArray[np.uint8], settings: TVL1
) -> tuple[Plane, list[int]]:
    """Flow [H, W, 2] from one grey image to another, and the iterations a scale, finest first."""
    sizes = settings.sizes(*first.shape)
    step = 1 / settings.scale_step
    pyramids = [[first.astype(np.float32)], [second.astype(np.float32)]]
    for pyramid in pyramids:
        for size in sizes[1:]:
            pyramid.append(resized(pyramid[-1], size, (step, step)))
    flow = [np.zeros(sizes[-1], np.float32)] * 2
    counts = []
    for scale in reversed(range(len(sizes))):
        if scale < len(sizes) - 1:
            (h, w), (height, width) = sizes[scale + 1], sizes[scale]
            grown = [resized(each, sizes[scale], (h / height, w / width)) for each in flow]
            flow = [each * np.float32(step) for each in grown]
        flow, count = solved([pyramid[scale] for pyramid in pyramids], flow, settings)
        counts.append(count)
    return np.stack(flow, axis=-1), counts[::-1]


def solved(images: list[Plane], flow: list[Plane], settings: TVL1) -> tuple[list[Plane], int]:
    """u and v at one scale, and the iterations made."""
    first, second = images
    height, width = first.shape
    gradient = [half_difference(second, 1), half_difference(second, 0)]
    p = [np.zeros_like(first) for _ in range(4)]
    count = 0
    for _ in range(settings.warps):
        at = np.mgrid[:height, :width].astype(np.float32)[::-1] + flow
        value, *slope = (sampled(each, *at) for each in [second, *gradient])
        constant = value - slope[0] * flow[0] - slope[1] * flow[1] - first
        error = math.inf
        least = settings.epsilon**2 * height * width
        for _ in range(settings.outer_iterations):
            if error > least:
                flow = [median(each, settings.median) for each in flow]
            for _ in range(settings.inner_iterations):
                if error > least:
                    flow, error = iterated(flow, p, constant, slope, settings)
                    count += 1
    return flow, count


def iterated(
    flow: list[Plane], p: list[Plane], constant: Plane, slope: list[Plane], settings: TVL1
) -> tuple[list[Plane], float]:
    """New u and v and the sum of their squared updates; ``p`` is changed in place."""
    bound = settings.lambda_ * settings.theta
    square = slope[0] ** 2 + slope[1] ** 2
    rho = constant + slope[0] * flow[0] + slope[1] * flow[1]
    factor = np.where(square > np.finfo(np.float32).eps, -rho / np.maximum(square, 1e-30), 0)
    factor[rho < -bound * square] = bound
    factor[rho > bound * square] = -bound
    new = []
    for i in range(2):
        divergence = np.diff(p[2 * i], axis=1, prepend=0) + np.diff(p[2 * i + 1], axis=0, prepend=0)
        new.append((flow[i] + factor * slope[i] + settings.theta * divergence).astype(np.float32))
        along_x = np.diff(new[i], axis=1, append=new[i][:, -1:])
        along_y = np.diff(new[i], axis=0, append=new[i][-1:])
        taut = settings.tau / settings.theta
        norm = 1 + taut * np.hypot(along_x, along_y)
        p[2 * i] = ((p[2 * i] + taut * along_x) / norm).astype(np.float32)
        p[2 * i + 1] = ((p[2 * i + 1] + taut * along_y) / norm).astype(np.float32)
    return new, float(sum(((a - b) ** 2).sum() for a, b in zip(new, flow, strict=True)))


def half_difference(image: Plane, axis: int) -> Plane:
    edges = [(1, 1) if each == axis else (0, 0) for each in range(2)]
    padded = np.pad(image, edges, mode="edge")
    size = image.shape[axis]
    after, before = np.arange(2, size + 2), np.arange(size)
    return (padded.take(after, axis) - padded.take(before, axis)) / 2


def resized(image: Plane, size: tuple[int, int], steps: tuple[float, float]) -> Plane:
    """Bilinear, columns and then rows."""
    for axis in (1, 0):
        place = (np.arange(size[axis]) + 0.5) * steps[axis] - 0.5
        place = place.clip(0, image.shape[axis] - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, image.shape[axis] - 1)
        weight = (place - low).astype(np.float32).reshape((-1, 1) if axis == 0 else (1, -1))
        image = image.take(low, axis) * (1 - weight) + image.take(high, axis) * weight
    return image


def median(image: Plane, side: int) -> Plane:
    padded = np.pad(image, side // 2, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
    return np.median(windows, axis=(2, 3))


def sampled(image: Plane, x: Plane, y: Plane) -> Plane:
    """Cubic convolution at fractional places, zero outside the image."""
    found = np.zeros_like(x)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    for dy in range(-1, 3):
        for dx in range(-1, 3):
            row, column = top + dy, left + dx
            inside = (row >= 0) & (row < image.shape[0]) & (column >= 0) & (column < image.shape[1])
            pixel = image[row.clip(0, image.shape[0] - 1), column.clip(0, image.shape[1] - 1)]
            found += np.where(inside, pixel, 0) * cubic(x - column) * cubic(y - row)
    return found.astype(np.float32)


def cubic(distance: Plane) -> Plane:
    """Keys' kernel with a = -0.75."""
    a, t = -0.75, np.abs(distance)
    near = ((a + 2) * t - (a + 3)) * t**2 + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, far)
