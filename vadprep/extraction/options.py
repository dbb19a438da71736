"""The options of an extraction, as the caller gives them, and which of them can be used."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast

from vadprep.core.arguments import (
    MAPPING,
    NUMBER,
    PATH,
    SETTING,
    TEXT,
    TEXTS,
    WHOLE,
    check_kind,
    check_kinds,
    device_name,
)
from vadprep.core.errors import SettingError, allowed_are
from vadprep.core.spec import SETTABLE, SETTABLE_FLOW, Spec
from vadprep.flow import FORMATS
from vadprep.video import MAX_DAMAGE

STREAM_SETS = (("rgb",), ("flow",), ("rgb", "flow"))
STALL_SECONDS = 60.0


class FeatureOptions(TypedDict, total=False):
    """Keyword arguments of ``extract`` that ``extract_video`` takes as well."""

    preset: str | None
    weights: str | Path | None
    flow_weights: str | Path | None
    streams: str | Sequence[str] | None
    settings: Mapping[str, Any] | None
    device: str | None
    max_damage: float


class PlanOptions(FeatureOptions, total=False):
    """Keyword arguments of ``extract``, which documents them, that become an ExtractionPlan."""

    specs: Mapping[str, Spec] | None
    gpus: int | None
    workers: int | None
    address: str
    rank: int
    world_size: int
    shard_size: int | None
    stall_seconds: float
    save_flow: str | Path | None
    flow_format: str | None
    flow_from: str | Path | None


KINDS = {
    **dict.fromkeys(("preset", "device", "address", "flow_format"), TEXT),
    **dict.fromkeys(("save_flow", "flow_from"), PATH),
    **dict.fromkeys(("gpus", "workers", "rank", "world_size", "shard_size"), WHOLE),
    **dict.fromkeys(("max_damage", "stall_seconds"), NUMBER),
    **dict.fromkeys(("settings", "specs"), MAPPING),
    **dict.fromkeys(("weights", "flow_weights"), PATH._replace(words="a file, or a name")),
    "streams": TEXTS,
}
"""Kinds of the options. None stands for the default of each."""

Options = TypeVar("Options", FeatureOptions, PlanOptions)


def checked(options: Options, allowed: type) -> Options:
    """``options`` without those that are None, and with the name of a ``torch.device``.

    Raises TypeError, as a call does, for a keyword argument that is not ``allowed``, and
    SettingError for a value of another kind.
    """
    for name in options:
        if name not in allowed.__annotations__:
            raise TypeError(f"unexpected keyword argument {name!r}")
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if "device" in given:
        given["device"] = device_name(given["device"])
    check_kinds(KINDS, given)
    for name, value in given.get("settings", {}).items():
        check_kind(name, value, SETTING)
    return cast(Options, given)


@contextmanager
def setting_errors() -> Iterator[None]:
    """Turn a ValueError about a setting into a SettingError, which a command prints as one line."""
    try:
        yield
    except ValueError as error:
        raise SettingError(str(error)) from error


def check_options(options: PlanOptions, streams: tuple[str, ...]) -> None:
    """Raise ValueError for an option that cannot be used, or not with these streams."""
    if streams not in STREAM_SETS:
        asked, allowed = ",".join(streams), map(",".join, STREAM_SETS)
        raise ValueError(f"streams = {asked!r}: {allowed_are(asked, allowed)}")
    settings = options.get("settings") or {}
    settable = SETTABLE + (SETTABLE_FLOW if "flow" in streams else ())
    if odd := [name for name in settings if name not in settable]:
        raise ValueError(f"setting {odd[0]!r}: {allowed_are(odd[0], settable)}")
    if not 0 < (stall_seconds := options.get("stall_seconds", STALL_SECONDS)) < math.inf:
        raise ValueError(f"stall_seconds = {stall_seconds}: expected a number above 0")
    if not 0 <= (max_damage := options.get("max_damage", MAX_DAMAGE)) <= 1:
        raise ValueError(f"max_damage = {max_damage}: expected a share from 0 to 1")
    for name in ("shard_size", "workers"):
        if (count := cast(int, options.get(name, 1))) < 1:
            raise ValueError(f"{name} = {count}: expected a whole number above 0")
    save_flow, flow_from = options.get("save_flow"), options.get("flow_from")
    flow_format = options.get("flow_format")
    if flow_format and not save_flow:
        raise ValueError("--flow-format goes with --save-flow")
    if flow_format not in (None, *FORMATS):
        raise ValueError(f"flow_format = {flow_format!r}: {allowed_are(flow_format, FORMATS)}")
    if (save_flow or flow_from) and "flow" not in streams:
        raise ValueError("saved flow goes with stream flow: --streams flow or rgb,flow")
    if save_flow and flow_from:
        raise ValueError("flow is either read (--flow-from) or saved (--save-flow)")
    if save_flow and settings.get("quantisation") == "none":
        raise ValueError("saved flow is 8 bits: quantisation none cannot be saved")
