"""Specs of stored features, ready to extract other videos in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vadprep.backbones.weights.catalog import stored_weights
from vadprep.core.errors import SettingError, SpecError
from vadprep.core.presets import PRESETS, fill_unknown
from vadprep.core.spec import COMPUTED, NO_FLOW, UNKNOWN, Spec

OF_THE_MACHINE = ("weights_sha256", "precision", "batch")
"""Fields that no preset holds. Where they are unknown, the weights and this machine decide."""


def repeatable_specs(
    specs: Mapping[str, Spec],
    weights: str | Path | None = None,
    flow_weights: str | Path | None = None,
    preset: str | None = None,
) -> dict[str, Spec]:
    """The specs, by stream, that videos are extracted with as the features of ``specs`` were.

    ``preset`` stands in for unknown fields; ``weights`` and ``flow_weights`` are those named, if
    any. Raises SpecError for specs that no extraction can repeat, and SettingError for an unknown
    preset and when the weights of a stream are not named, not random and not fetched.
    """
    try:
        found = {s: fill_unknown(spec, preset) if preset else spec for s, spec in specs.items()}
    except ValueError as error:
        raise SettingError(str(error)) from error
    for stream, spec in found.items():
        _check_known(spec, OF_THE_MACHINE if preset else ())
        if not (flow_weights if stream == "flow" else weights):
            _check_weights(spec)
    return found


def _check_known(spec: Spec, accepted: tuple[str, ...]) -> None:
    unknown = [name for name, value in spec.identity().items() if value == UNKNOWN]
    unknown = [name for name in unknown if name not in accepted]
    reasons = []
    if unknown or spec.preset not in PRESETS:
        reasons.append(f"preset {spec.preset}, unknown: {', '.join(unknown) or 'nothing'}")
    if spec.flow_source not in (NO_FLOW, COMPUTED, UNKNOWN):
        reasons.append(f"flow was read from {spec.flow_source}")
    if reasons:
        remedy = "take a preset for what is unknown (--preset NAME), or " if unknown else ""
        raise SpecError(
            f"the features of the run cannot be extracted again ({', '.join(reasons)}): {remedy}"
            "score a feature folder (--features)"
        )


def _check_weights(spec: Spec) -> None:
    if spec.is_random or stored_weights(spec.graph):
        return
    option = "--flow-weights" if spec.stream == "flow" else "--weights"
    if spec.weights == UNKNOWN:
        raise SettingError(f"the weights of the run's features are unknown: name them by {option}")
    raise SettingError(f"the run's features are of {spec.weights}: name it by {option}")
