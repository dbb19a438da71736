"""Which items make a batch: functions of the seed and of the step alone, so a run can go on.

An item is a number, 0 .. N - 1; labels say of which class it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch


def shuffled_batches(num_items: int, size: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """All items once, in an order of (seed, epoch); the last batch may be smaller."""
    order = _permutation(num_items, seed, epoch)
    for start in range(0, num_items, size):
        yield order[start : start + size]


def half_batch(items: Sequence[int], half: int, passes: bool, entropy: Sequence[int]) -> list[int]:
    """``half`` of the ``items`` of a class. ``entropy`` is (seed, class, step).

    With ``passes`` the steps go through a shuffled order of all items, leave its incomplete end
    and shuffle again; else each step draws without replacement. A class of fewer than ``half``
    items is repeated in each batch: every item floor or ceil (half / items) times.
    """
    *which, step = entropy
    repeats = -(-half // len(items))
    if repeats > 1:
        order = [each for r in range(repeats) for each in _permutation(len(items), *which, step, r)]
        return [items[each] for each in order[:half]]
    steps_of_a_pass = len(items) // half if passes else 1
    order = _permutation(len(items), *which, step // steps_of_a_pass)
    start = step % steps_of_a_pass * half
    return [items[each] for each in order[start : start + half]]


def _permutation(num_items: int, *entropy: int) -> list[int]:
    # torch's CPU generator keeps only the low 32 bits of a seed, so all is hashed into 32.
    mixed = np.random.SeedSequence(entropy).generate_state(1)
    generator = torch.Generator().manual_seed(int(mixed[0]))
    return torch.randperm(num_items, generator=generator).tolist()
