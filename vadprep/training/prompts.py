"""Prompt embeddings of classes, from a file: ``pel4vad`` and ``vadclip`` are trained with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from vadprep.core.array_files import all_finite, read_npz
from vadprep.core.errors import SettingError, near_miss
from vadprep.heads import HeadConfig

NORMAL = "normal"
"""Name of the prompt of normal videos, in any case of its letters."""


@dataclass(frozen=True)
class Prompts:
    """The embeddings that a file holds."""

    path: Path
    sha256: str
    by_name: dict[str, torch.Tensor]
    """float32 [H] by the name of the class."""

    def of(self, classes: Sequence[str]) -> torch.Tensor:
        """Rows of normal and of each class: float32 [1 + K, H].

        Raises SettingError that names file and class when one is missing, or without any class.
        """
        if not classes:
            raise SettingError(
                f"{self.path}: prompts are of categories, and no abnormal training video has one: "
                f"fill in the column 'category' of the manifest, or leave out --prompts"
            )
        lower = {name.lower(): row for name, row in self.by_name.items()}
        rows = []
        for name in (NORMAL, *classes):
            if name.lower() not in lower:
                hint = near_miss(name, self.by_name)
                raise SettingError(
                    f"{self.path}: no array {name!r}{hint}: save one for {NORMAL} and for each "
                    f"category of the abnormal training videos"
                )
            rows.append(lower[name.lower()])
        return torch.stack(rows)


def read_prompts(path: str | Path, width: int) -> Prompts:
    """The embeddings in a .npz file, which has an array of ``width`` numbers for each class.

    Raises SettingError that names file and array.
    """
    path = Path(path)
    try:
        arrays, sha256 = read_npz(path, SettingError)
    except (FileNotFoundError, NotADirectoryError):
        raise SettingError(f"{path}: not there: name a .npz file of prompt embeddings") from None
    if len({name.lower() for name in arrays}) < len(arrays):
        raise SettingError(
            f"{path}: arrays {', '.join(sorted(arrays))}: two of them differ in case: keep one"
        )
    rows = {}
    for name, array in arrays.items():
        with np.errstate(over="ignore"):
            row = array.astype(np.float32)
        if row.shape != (width,) or not all_finite(row) or not row.any():
            raise SettingError(
                f"{path}: array {name!r} is {array.dtype} {array.shape}: expected {width} finite "
                f"numbers of float32, not all 0 (setting hidden = {width})"
            )
        rows[name] = torch.from_numpy(row)
    return Prompts(path, sha256, rows)


def with_prompts(
    head: str, config: HeadConfig, path: str | Path | None
) -> tuple[HeadConfig, Prompts | None]:
    """The config with the hash of the file of prompts, and the prompts; None without a file.

    Raises SettingError for a head that takes none.
    """
    if path is None:
        if getattr(config, "prompts", ""):
            raise SettingError("prompts: is the hash of a file: name the file by --prompts")
        return config, None
    if not hasattr(config, "prompts"):
        raise SettingError(f"--prompts {path}: {head} takes none: they are for pel4vad and vadclip")
    found = read_prompts(path, config.hidden)  # type: ignore[attr-defined]
    return replace(config, prompts=found.sha256), found  # type: ignore[call-arg]
