"""Recipes name what can be run; the bench of training adds up."""

from __future__ import annotations

import pytest
from support.commands import message, run

from vadprep.cli.bench.train import random_slice, time_head
from vadprep.cli.train import HEAD_NAMES
from vadprep.data import dataset_names
from vadprep.heads import HEADS
from vadprep.training.recipes import RECIPES


def test_recipes_are_of_known_heads_and_data_sets():
    assert {head for head, *_ in RECIPES} == set(HEAD_NAMES)
    assert {on.split()[0] for _, on, *_ in RECIPES} <= set(dataset_names())


def test_every_published_setting_has_its_result():
    settings = {(name, dataset) for name, kind in HEADS.items() for dataset in kind.published}
    assert settings <= {(head, on.split()[0]) for head, on, *_ in RECIPES}


def test_recipes_are_printed_as_commands():
    output = " ".join(run("recipes").output.split())
    assert "vadprep train arnet --dataset shanghaitech --streams concat I3D RGB + flow" in output
    assert "0.8072" in output and "on xd average precision (trapezoid unless step-wise" in output


def test_step_wise_precision_is_told_from_the_trapezoid():
    step_wise = [head for head, *_, published, _ in RECIPES if "step-wise" in published]
    assert step_wise == ["csltal", "vadclip"]


def test_settings_of_a_head_are_printed_by_data_set():
    rows = [line.split() for line in run("recipes", "ddl").output.splitlines()]
    assert rows[0] == ["setting", "xd", "ucf"]
    assert ["sigma", "6.0", "16.0"] in rows and ["learning_rate", "0.0005", "0.0005"] in rows
    assert "allowed are sultani, rtfm" in message(run("recipes", "dll"))


def test_bench_of_training_counts_the_steps_of_the_whole(monkeypatch, tmp_path):
    monkeypatch.setattr("vadprep.cli.bench.train.DIM", 16)
    videos = random_slice(6)
    csltal, sultani = (
        time_head(name, *videos, tmp_path, "cpu", steps=1) for name in ("csltal", "sultani")
    )
    assert (csltal.steps, csltal.epochs) == (round(4 * 3954 / 6), 50)  # 30 items, 8 a batch
    assert sultani.steps == 200


@pytest.mark.slow
@pytest.mark.parametrize("head", ["sultani", "csltal"])
def test_most_of_a_step_is_arithmetic(head, tmp_path):
    """A ratio within one run, 0.9 on an idle machine."""
    assert time_head(head, *random_slice(40), tmp_path, "cpu", steps=5).arithmetic > 0.6


def test_bench_of_an_unknown_head_lists_the_known():
    assert "allowed are sultani, " in message(run("bench", "train", "--heads", "dll"))
