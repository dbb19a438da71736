"""Recipes name what can be run; the bench of training adds up."""

from __future__ import annotations

import re

import pytest
from support.commands import message, run

from vadprep.cli.bench.train import random_slice, time_head
from vadprep.cli.train import HEAD_NAMES
from vadprep.data import dataset_names
from vadprep.heads import HEADS
from vadprep.training.recipes import RECIPES


def test_recipes_are_of_known_heads_and_data_sets():
    assert {each.head for each in RECIPES} == set(HEAD_NAMES)
    assert {each.dataset for each in RECIPES} <= set(dataset_names())


def test_every_published_setting_has_its_result():
    settings = {(name, dataset) for name, kind in HEADS.items() for dataset in kind.published}
    assert settings <= {(each.head, each.dataset) for each in RECIPES}


def test_recipes_are_printed_as_commands():
    output = run("recipes").output
    assert "vadprep train arnet --dataset shanghaitech --streams concat  I3D RGB + flow" in output
    assert "80.72" in output and "on xd average precision (trapezoid unless step-wise" in output


FACTS = {
    ("sultani", "ucf", "C3D"): "75.41 69-71 77.92 78 84.45",
    ("sultani", "xd", "I3D RGB"): "75.68 70.0-70.4",
    ("sultani", "xd", "C3D"): "73.20",
    ("sultani", "shanghaitech", "I3D RGB"): "85.33 85 93",
    ("sultani", "shanghaitech", "C3D"): "86.30",
    ("sultani", "ped2", "I3D RGB"): "92.3",
    ("rtfm", "shanghaitech", "I3D RGB, 10 crops"): "97.21 89-90 96 96.3 88 70",
    ("rtfm", "shanghaitech", "C3D"): "91.51",
    ("rtfm", "ucf", "I3D RGB, 10 crops"): "84.30 60-75 8",
    ("rtfm", "ucf", "C3D"): "83.28",
    ("rtfm", "xd", "I3D RGB, 5 crops"): "77.81 76.4 61 15",
    ("rtfm", "xd", "C3D"): "75.89",
    ("rtfm", "ped2", "I3D RGB"): "98.6 83.81",
    ("arnet", "shanghaitech", "I3D RGB + flow"): "91.24",
    ("arnet", "shanghaitech", "I3D RGB"): "85.38",
    ("arnet", "shanghaitech", "I3D flow"): "82.34",
    ("csltal", "xd", "I3D RGB"): "71.68 3",
    ("ddl", "ucf", "I3D RGB"): "85.12",
    ("ddl", "xd", "I3D RGB"): "80.72",
}
"""Copied once more from the papers, the authors' pages and the issue trackers."""


def test_figures_are_those_of_the_papers_and_reports():
    found = {}
    for each in RECIPES:
        words = f"{each.published} {each.others}".replace("I3D", "")
        numbers = re.findall(r"\d+(?:\.\d+)?(?:-\d+(?:\.\d+)?)?", words)
        found[each.head, each.dataset, each.features] = " ".join(numbers)
    assert found == FACTS


def test_step_wise_precision_is_told_from_the_trapezoid():
    step_wise = [each.head for each in RECIPES if "step-wise" in each.published]
    assert step_wise == ["csltal"]


def test_settings_of_a_head_are_printed_by_data_set():
    rows = [line.split() for line in run("recipes", "ddl").output.splitlines()]
    assert rows[0] == ["setting", "xd", "ucf"]
    assert ["sigma", "6.0", "16.0"] in rows and ["learning_rate", "0.0005", "0.0005"] in rows
    assert "allowed are sultani, rtfm" in message(run("recipes", "dll"))


def test_bench_of_training_times_steps_and_counts_those_of_the_whole(monkeypatch):
    monkeypatch.setattr("vadprep.cli.bench.train.DIM", 16)
    videos = random_slice(6)
    timings = [time_head(name, *videos, "cpu", steps=1) for name in ("csltal", "sultani")]
    csltal, sultani = timings
    assert (csltal.steps_of_slice, csltal.epochs) == (4, 50)  # 30 items, 8 a batch
    assert csltal.steps_of_whole == round(4 * 3954 / 6)
    assert (sultani.steps_of_slice, sultani.steps_of_whole) == (200, 200)
    assert all(0 < each.share < 1 and each.seconds_a_step > 0 for each in timings)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["sultani", "csltal"])
def test_most_of_a_step_is_forward_and_backward(head):
    """A ratio within one run, 0.9 on an idle machine."""
    assert time_head(head, *random_slice(40), "cpu", steps=5).share > 0.6


def test_bench_of_an_unknown_head_lists_the_known():
    assert "allowed are sultani, " in message(run("bench", "train", "--heads", "dll"))
