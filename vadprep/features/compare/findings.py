"""From measurements to a verdict and the differences that explain them, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

from vadprep.core.clips import nearest_rates
from vadprep.core.errors import counted
from vadprep.core.spec import UNKNOWN
from vadprep.features.compare.measures import ClipCounts, Spread, named_orders

ROUNDED = 1e-3
"""Largest difference that rounding to 16 bits leaves, as a fraction of the largest value."""
CLOSE = 0.999
"""Correlation that another precision, device or library version leaves."""
MIXED = 0.7
"""Correlation below which a scaling alone is not enough; it left 0.83 of Inception-I3D's."""
SAME_FEATURES = 0.2
"""Share of features that find themselves: one network and the same videos. By chance 0.01."""
SAME_PROFILE = 0.5
"""Correlation of the features' means: one network. With random weights on real clips it was 0.99
for one Inception-I3D with another resize, contrast or other videos, 0.70 with [0,1] instead of
[-1,1], and 0.07 for two networks."""
SAME_COURSE = 0.2
"""Correlation of how alike clips are: the same videos, if chance seldom does it."""
CHANCE = 0.15
"""Share of other partners that correlate as well: below it the partners are the same videos."""
SCALED = math.log(1.1)
"""Features that vary by more than a tenth more or less: the input was scaled otherwise."""

SCALINGS = {"[0,1]": 1 / 255, "[-1,1]": 1 / 127.5, "(x-114.75)/57.375": 1 / 57.375, "[0,255]": 1.0}
"""What one grey level becomes."""


@dataclass(frozen=True)
class Difference:
    """What may differ, in a sentence; ``sure`` is ``certain``, ``likely`` or ``possible``."""

    text: str
    sure: str = "likely"


@dataclass
class Evidence:
    """All that was measured of two sets; nan where there was too little to measure."""

    counts: ClipCounts
    crops: tuple[int, int]
    dims: tuple[int, int]
    order: tuple[int, ...] = ()
    """Crop of B that shows what each crop of A shows; empty if that is unknown."""
    declared_orders: tuple[str, str] = (UNKNOWN, UNKNOWN)
    """Order of the crops by the specs of A and of B."""
    by_specs: tuple[str, ...] | None = None
    """Fields in which the two specs differ; None unless both are complete."""
    cosine_mean: float = math.nan
    cosine_least: float = math.nan
    largest_difference: float = math.nan
    """Largest |a - b|, as a fraction of the largest |a|."""
    num_clips: int = 0
    """Clips whose snippets were compared."""
    spread: Spread | None = None
    same_features: float = math.nan
    same_profile: float = math.nan
    same_course: float = math.nan
    course_by_chance: float = math.nan
    """Share of other partners that follow the same course; 0.5 for different videos."""
    scene_by_chance: float = math.nan
    """Share of other videos that are nearer than the partner; 0.5 for different videos."""
    unit_length: tuple[bool, bool] = (False, False)
    """Snippets have length 1, in A and in B."""

    @property
    def same_network(self) -> bool:
        """One network with the same weights, whatever it was shown."""
        return self.same_profile > SAME_PROFILE or self.same_features > SAME_FEATURES

    @property
    def same_videos(self) -> bool | None:
        """Both show the same, whatever the network; None if there are too few clips to know."""
        one_scene = self.same_profile > SAME_PROFILE and self.scene_by_chance < CHANCE
        if not math.isnan(self.same_course):
            return self.same_time or one_scene
        return True if one_scene else None

    @property
    def same_time(self) -> bool:
        """The clips of a video change alike, or there are too few to know."""
        one_course = self.same_course > SAME_COURSE and self.course_by_chance < CHANCE
        known = not math.isnan(self.same_course)
        return self.same_features > SAME_FEATURES or one_course or not known

    @property
    def is_reordered(self) -> bool:
        return self.order != tuple(range(len(self.order)))


def verdict(evidence: Evidence) -> str:
    """``equal``, ``equal up to rounding``, ``different`` or ``unrelated``."""
    same_counts = evidence.counts.num_equal == evidence.counts.num_videos
    same_crops = evidence.crops[0] == evidence.crops[1] and not evidence.is_reordered
    if same_counts and same_crops and evidence.largest_difference <= ROUNDED:
        return "equal up to rounding" if evidence.largest_difference else "equal"
    return "unrelated" if evidence.same_videos is False else "different"


def likely_differences(evidence: Evidence) -> Iterator[Difference]:
    """What explains the measurements, the surest first; nothing if two complete specs say it."""
    found = verdict(evidence)
    if found == "unrelated":
        network = ""
        if evidence.same_network:
            network = "; the means of the features are alike, so the network may be the same"
        elif evidence.dims[0] == evidence.dims[1]:
            network = ", or of other weights on videos in which little changes"
        yield Difference(f"these are features of different videos under the same names{network}")
        return
    if evidence.by_specs is not None:
        if not evidence.by_specs and found == "different":
            yield Difference(
                "by the specs both were made alike: the files of the videos differ, or the devices "
                "or library versions"
            )
        return
    yield from _of_counts(evidence.counts)
    yield from _of_crops(evidence)
    yield from _of_values(evidence)


def _of_counts(counts: ClipCounts) -> Iterator[Difference]:
    if counts.num_equal == counts.num_videos:
        return
    if counts.same_rate:
        where = f" {counts.where}" if counts.where else ""
        for number, word in ((counts.fewer, "fewer"), (counts.more, "more")):
            if number:
                of = f"in {number} of {counted(counts.num_videos, 'video')}"
                text = f"another tail rule: B has one clip {word}{where}, {of}"
                yield Difference(text, "certain")
        ours, theirs = (" or ".join(rules) for rules in counts.rules)
        if ours and theirs and not set(counts.rules[0]) & set(counts.rules[1]):
            yield Difference(f"tail rule of A {ours}, of B {theirs}", "certain")
    elif counts.is_constant:
        a, b = (form.stride for form in counts.forms)
        if a != b:
            yield Difference(f"A has a clip each {a} frames, B each {b}", "certain")
        rate = counts.ratio * b / a
        error = max(0.01, counts.error * rate)
        if a != b and abs(rate - 1) < error:
            return
        rates = nearest_rates(rate, tolerance=error)
        hint = f", as {rates[0]} fps to {rates[1]} fps" if rates else ""
        overlap = ", or clips that overlap" if a == b and max(rate, 1 / rate) > 1.5 else ""
        ratio = f"{counts.ratio:.3f} +- {counts.error:.3f}"
        yield Difference(f"another frame rate{overlap}: B has {ratio} clips for one of A{hint}")
    else:
        yield Difference(
            "the counts of clips have no common ratio: other videos, or frame rates that differ "
            "from video to video"
        )


def _of_crops(evidence: Evidence) -> Iterator[Difference]:
    ours, theirs = evidence.crops
    if ours != theirs:
        yield Difference(f"A has {counted(ours, 'crop')}, B {theirs}", "certain")
    elif evidence.is_reordered and evidence.same_network:
        pairs = enumerate(evidence.order)
        moved = [f"B's crop {there} is A's crop {here}" for here, there in pairs if here != there]
        named = [
            f"{a} in A and {b} in B"
            for a, b in named_orders(evidence.order)
            if evidence.declared_orders[0] in (UNKNOWN, a)
            and evidence.declared_orders[1] in (UNKNOWN, b)
        ]
        order = f" ({' or '.join(named)})" if named else ""
        yield Difference(f"another order of the crops{order}: {', '.join(moved)}")


def _of_values(evidence: Evidence) -> Iterator[Difference]:
    """Another network, or what changes the input of one: its scaling, or the pixels."""
    found = evidence.spread
    same_rate = evidence.counts.same_rate  # else the clips show other frames, which explains much
    if found is None:
        dims = f"{evidence.dims[0]} and {evidence.dims[1]}"
        yield Difference(f"other networks: features of dimension {dims}", "certain")
    elif evidence.largest_difference <= ROUNDED:
        return
    elif not evidence.same_network and evidence.same_videos:
        yield Difference(
            "other weights or another network: the same videos, but no feature of B follows the "
            "feature of A that has its number"
        )
    elif not evidence.same_network:
        yield Difference("too few clips to tell other weights from other videos", "possible")
    elif evidence.unit_length[0] != evidence.unit_length[1]:
        name = "A" if evidence.unit_length[0] else "B"
        yield Difference(f"the snippets of {name} were scaled to length 1", "certain")
    elif math.isnan(found.scale):
        yield Difference("too few clips, or none that changes, to tell what differs", "possible")
    elif not evidence.same_time:
        if same_rate:
            yield Difference(
                "the same scenes, but their clips do not change alike: shifted or in another order "
                "in time, or other pixels of videos in which little changes",
                "possible",
            )
    elif abs(math.log(found.scale)) > SCALED:
        yield Difference(
            f"another scaling of the input: B's features vary {found.scale:.3g} times as much as "
            f"A's{_scalings(found.scale)}"
        )
        if found.correlation < MIXED and same_rate:
            text = "the pixels may differ as well, by another resize or decoder"
            yield Difference(text, "possible")
    elif found.correlation > CLOSE:
        yield Difference("nearly equal, as after another precision, device or library version")
    elif same_rate:
        yield Difference(
            f"the network saw other pixels: another resize (size, aspect or filter) or decoder "
            f"(correlation {found.correlation:.3f}, scale {found.scale:.2f})"
        )


def _scalings(scale: float) -> str:
    """The pairs of known scalings whose ratio is within a quarter of ``scale``."""
    off = {
        (a, b): abs(math.log(SCALINGS[b] / SCALINGS[a] / scale))
        for a, b in permutations(SCALINGS, 2)
    }
    near = sorted((pair for pair in off if off[pair] < 1 / 4), key=off.__getitem__)
    if not near:
        return ", the ratio of no two known scalings (a trained network is not linear)"
    options = " or ".join(f"B was made with {b} scaling and A with {a}" for a, b in near)
    return f", as if {options}"
