"""Arguments of Python calls: a value of another kind is refused as one that is not allowed is."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Collection, Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple, cast

from vadprep.core.errors import SettingError


class Kind(NamedTuple):
    """What an argument has to be."""

    words: str
    types: tuple[type, ...]
    items: tuple[type, ...] = ()
    """Types of what a list may hold; none where no list is allowed."""

    def holds(self, value: object) -> bool:
        """True for a value of this kind."""
        if isinstance(value, self.types):
            return True
        is_list = isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)
        may_be_one = is_list and bool(self.items)
        return may_be_one and all(isinstance(each, self.items) for each in cast(Any, value))


TEXT = Kind("a text", (str,))
TEXTS = Kind("a text, or a list of texts", (str,), (str,))
PATH = Kind("a path", (str, os.PathLike))
PATHS = Kind("a path, or a list of paths", (str, os.PathLike), (str, os.PathLike))
WHOLE = Kind("a whole number", (Integral,))
WHOLES = Kind("a list of whole numbers", (), (Integral,))
NUMBER = Kind("a number", (Real,))
SETTING = Kind("a text or a number", (str, Real))
MAPPING = Kind("a mapping", (Mapping,))


def check_kinds(kinds: Mapping[str, Kind], values: Mapping[str, object]) -> None:
    """Raise SettingError for a value that is not of the kind of its name; None is of every kind."""
    for name, value in values.items():
        if value is not None and name in kinds:
            check_kind(name, value, kinds[name])


def check_kind(name: str, value: object, kind: Kind) -> None:
    """Raise SettingError for a value that is not of the kind, None included."""
    if not kind.holds(value):
        raise SettingError(f"{name} = {reprlib.repr(value)}: expected {kind.words}")


def device_name(device: Any) -> Any:
    """The name of a ``torch.device``; anything else as it is. Needs no torch."""
    kind = type(device)
    return str(device) if (kind.__module__, kind.__name__) == ("torch", "device") else device
