"""Trainings from one mapping of options, so that tests can change a few of them."""

from __future__ import annotations

from vadprep.training import train as train_head


def train(features, manifest, options, out):
    """``vadprep.training.train`` with arguments ``options``, head ``ddl`` unless given."""
    return train_head(features=features, manifest=manifest, out=out, **{"head": "ddl", **options})
