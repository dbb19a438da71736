"""What the files of an import are, before anything is written: forms, tail rules, spec, notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vadprep.core.clips import CLIP_LENGTH
from vadprep.core.errors import FeaturesError
from vadprep.core.records import Video
from vadprep.core.spec import STREAMS, UNKNOWN, Spec
from vadprep.features.exchange.arrays import Form, form_of
from vadprep.features.exchange.layouts import LAYOUTS
from vadprep.features.exchange.spans import Length, common_rules, fitting_rules, misfit, resampling

SPANS = ("fit", "stretch")
"""Spans from counts that a tail rule gives, or clips spread evenly over the frames."""

SEGMENTED = "sultani-txt"
"""Layout whose rows are segments of a video, not clips."""

FROM_FILES = ("preset", "stream", "crops", "dtype", "clip_length", "clip_stride")
"""Fields of the spec that the files themselves tell."""


def unknown_spec(stream: str) -> dict[str, Any]:
    """Fields of a spec of which nothing is known; in ``rgb`` those about flow say so."""
    return {
        each.name: UNKNOWN if each.default is MISSING or stream == "flow" else each.default
        for each in fields(Spec)
    } | {"stream": stream}


@dataclass(frozen=True)
class Request:
    """What an import asks for."""

    layout: str
    stream: str = "rgb"
    spans: str = "fit"
    known: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the spec that somebody knows; all others are unknown."""

    def __post_init__(self) -> None:
        settable = [each.name for each in fields(Spec) if each.name not in FROM_FILES]
        for name, value, allowed in (
            ("layout", self.layout, LAYOUTS),
            ("stream", self.stream, STREAMS),
            ("spans", self.spans, SPANS),
            *(("setting", name, settable) for name in self.known),
        ):
            if value not in allowed:
                raise ValueError(f"{name} {value!r}: allowed are {', '.join(allowed)}")
        Spec(**unknown_spec(self.stream) | dict(self.known))  # refuses values that no spec has

    @property
    def preset(self) -> str:
        """Name of the recipe in the spec; no preset has it, so nothing is extracted by it."""
        return f"imported-{self.layout}"

    @property
    def by_length(self) -> bool:
        """True when the spans come from the length of the video, not from the count of clips."""
        return self.spans == "stretch" or self.layout == SEGMENTED

    @property
    def fps_used(self) -> Fraction | None:
        """The rate that the frames were resampled to, as far as it was stated."""
        fps = self.known.get("fps", UNKNOWN)
        return None if fps in ("native", UNKNOWN) else Fraction(fps)


@dataclass(frozen=True)
class Item:
    """One video: its files, what they hold, or why they are of no use."""

    video: Video
    crops: Mapping[int, Path]
    form: Form | None = None
    rules: frozenset[str] = frozenset()
    """Tail rules that give its count of clips."""
    problem: str = ""


def surveyed(found: Sequence[tuple[Video, Mapping[int, Path]]], request: Request) -> list[Item]:
    """The videos with the forms of their files, from headers alone, and what speaks against each.

    Raises FeaturesError, with the first reason, when something speaks against every video.
    """
    items = [_formed(Item(video, crops)) for video, crops in found]
    forms = Counter((each.form.num_crops, each.form.dim) for each in items if each.form)
    usual = forms.most_common(1)[0][0] if forms else (0, 0)
    items = [_fitted(_checked(item, usual), request) for item in items]
    if all(item.problem for item in items):
        raise FeaturesError(f"none of {len(items)} videos can be imported: {items[0].problem}")
    return items


def _formed(item: Item) -> Item:
    try:
        return replace(item, form=form_of(item.crops))
    except FeaturesError as error:
        return replace(item, problem=str(error))


def _checked(item: Item, usual: tuple[int, int]) -> Item:
    """The item, with a problem when its crops or dimension are not those of most videos."""
    if item.form is None or (item.form.num_crops, item.form.dim) == usual:
        return item
    odd = f"{item.form.num_crops} crops of dimension {item.form.dim}"
    return replace(item, problem=f"{odd} where most videos have {usual[0]} of {usual[1]}")


def _fitted(item: Item, request: Request) -> Item:
    """The item with the tail rules that fit, or a problem when none does."""
    if item.form is None or item.problem:
        return item
    length = Length.of(item.video)
    if request.by_length:
        unknown = "no num_frames in the manifest, over which the rows could be spread: fill it in"
        return item if length.most is not None else replace(item, problem=unknown)
    try:
        rate = resampling(item.video, request.fps_used)
    except FeaturesError as error:
        return replace(item, problem=str(error))
    clips = item.form.num_clips
    rules = fitting_rules(clips, length, rate)
    if not rules:
        return replace(item, problem=misfit(clips, length, rate, item.video.fps))
    tail = request.known.get("tail", UNKNOWN)
    if tail != UNKNOWN and tail not in rules:
        others = ", ".join(sorted(rules))
        reason = f"{clips} clips are not by tail rule {tail} but by {others}"
        return replace(item, problem=f"{reason}: leave --set tail out")
    return replace(item, rules=rules)


def spec_of(items: Sequence[Item], request: Request) -> Spec:
    """The spec of an import: what the files tell, what was stated, and ``unknown`` elsewhere.

    The tail rule is told when just one fits every video, the frame rate when counts of frames
    were known and fit as they are.
    """
    sound = [item for item in items if not item.problem]
    forms = [item.form for item in sound if item.form]
    half = all(form.dtype == np.float16 for form in forms)
    told: dict[str, Any] = {
        "preset": request.preset,
        "crops": forms[0].num_crops,
        "dtype": "float16" if half else "float32",
        "clip_length": CLIP_LENGTH,
        "clip_stride": UNKNOWN if request.by_length else CLIP_LENGTH,
    }
    if not request.by_length:
        rules = common_rules(item.rules for item in sound)
        told["tail"] = next(iter(rules)) if len(rules) == 1 else UNKNOWN
        counted = any(Length.of(item.video).is_known for item in sound)
        told["fps"] = "native" if counted else UNKNOWN
    return Spec(**unknown_spec(request.stream) | told | dict(request.known))


def notes_on(items: Sequence[Item], spec: Spec) -> tuple[str, ...]:
    """What a user of imported features has to know, a line each."""
    unknown = [name for name, value in spec.identity().items() if value == UNKNOWN]
    notes = [f"unknown, since the files do not say: {', '.join(unknown)}"] if unknown else []
    sound = [item for item in items if not item.problem]
    if any(item.rules for item in sound):
        counts = Counter(rule for item in sound for rule in item.rules)
        fits = ", ".join(f"{rule} {count}" for rule, count in sorted(counts.items()))
        notes.append(f"tail rules by the number of videos, of {len(sound)}, that each fits: {fits}")
    guessed = sum(Length.of(item.video).most is None for item in sound)
    if guessed:
        notes.append(f"{guessed} videos without num_frames in the manifest: 16 frames a clip")
    if any(item.form and item.form.dtype == np.float64 for item in sound):
        notes.append("numbers of 64 bits were rounded to 32")
    return tuple(notes)
