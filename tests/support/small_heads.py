"""Every head with a narrow network, which tests build and run in no time."""

from __future__ import annotations

import pytest
import torch

from vadprep.heads import HEADS
from vadprep.heads.arnet import ARNetConfig
from vadprep.heads.csltal import CSLTALConfig
from vadprep.heads.ddl import DDLConfig
from vadprep.heads.pel4vad import PEL4VADConfig
from vadprep.heads.rtfm import RTFMConfig
from vadprep.heads.sultani import SultaniConfig
from vadprep.heads.urdmu import URDMUConfig
from vadprep.heads.vadclip import VadCLIPConfig

SMALL = {
    "sultani": SultaniConfig(width=16, narrow=8),
    "rtfm": RTFMConfig(branch_width=4),
    "arnet": ARNetConfig(center="masked"),
    "csltal": CSLTALConfig(),
    "ddl": DDLConfig(width=8, heads=2, hidden=16, embedding=8, kernel=3),
    "urdmu": URDMUConfig(width=16, heads=2, head_width=8, patterns=20, hidden=8),
    "pel4vad": PEL4VADConfig(width=8, hidden=16, embedding=8, norm="time"),
    "vadclip": VadCLIPConfig(hidden=8, length=32, window=4),
}
"""The network where padding is masked, and narrow."""

heads = pytest.mark.parametrize("name", HEADS)


def build(name, dim=6, **changes):
    torch.manual_seed(0)
    config = SMALL[name]
    return HEADS[name].build(dim, type(config)(**{**vars(config), **changes}))
