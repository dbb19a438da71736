"""The heads, by name, and the settings that were published for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vadprep.mil.arnet import ARNET_PUBLISHED, ARNet, ARNetConfig
from vadprep.mil.csltal import CSLTAL, CSLTAL_PUBLISHED, CSLTALConfig
from vadprep.mil.ddl import DDL, DDL_PUBLISHED, DDLConfig
from vadprep.mil.head import Head, HeadConfig, HeadOutput
from vadprep.mil.rtfm import RTFM, RTFM_PUBLISHED, RTFMConfig
from vadprep.mil.sultani import SULTANI_PUBLISHED, Sultani, SultaniConfig

__all__ = ["HEADS", "Head", "HeadConfig", "HeadKind", "HeadOutput", "head_kind"]


@dataclass(frozen=True)
class HeadKind:
    """How a head is built and which settings it has."""

    build: Callable[[int, Any], Head[Any]]
    """Network from the feature dimension and a config of type ``config``."""
    config: type[HeadConfig]
    published: Mapping[str, HeadConfig]
    """By dataset."""
    fallback: str
    """Dataset whose settings serve any other one."""

    def settings_for(self, dataset: str) -> str:
        """Name of the published settings that ``dataset`` is trained with."""
        return dataset if dataset in self.published else self.fallback


HEADS: dict[str, HeadKind] = {
    "sultani": HeadKind(Sultani, SultaniConfig, SULTANI_PUBLISHED, fallback="ucf"),
    "rtfm": HeadKind(RTFM, RTFMConfig, RTFM_PUBLISHED, fallback="shanghaitech"),
    "arnet": HeadKind(ARNet, ARNetConfig, ARNET_PUBLISHED, fallback="shanghaitech"),
    "csltal": HeadKind(CSLTAL, CSLTALConfig, CSLTAL_PUBLISHED, fallback="xd"),
    # Other data sets take the settings of XD: a quarter of the width, so less to overfit on
    # the small sets people bring, and its videos come from many sources, as theirs do.
    "ddl": HeadKind(DDL, DDLConfig, DDL_PUBLISHED, fallback="xd"),
}


def head_kind(name: str) -> HeadKind:
    """The head called ``name``; raises ValueError that lists the heads."""
    if name not in HEADS:
        raise ValueError(f"head = {name!r}: allowed are {', '.join(HEADS)}")
    return HEADS[name]
