"""The small schedule: what it chooses, by what, and that a run keeps it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from support.small_schedule import bags_of, chosen, compared, synthetic_set
from support.tiny_features import tiny_set
from support.training import train

from vadprep.core.errors import CheckpointError
from vadprep.heads import HEADS
from vadprep.training import run, schedule
from vadprep.training.schedule import asks_for_standardization, for_dimension, stored_choice

SMALL = dict(head="arnet", schedule="small", seeds=(0,), snapshots=0)


def statistics(kind):
    features, truth = synthetic_set(kind, 10, crops=2)
    return bags_of("arnet", features, truth).statistics()


@pytest.mark.parametrize("kind, asks", [("unit", False), ("relu", False), ("mixed", True)])
def test_features_are_standardized_where_their_columns_differ_in_scale(kind, asks):
    mean, std = statistics(kind)
    assert asks_for_standardization(mean, std) is asks
    never_varies = torch.tensor([5.0], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    more = [torch.cat(each) for each in zip((mean, std), never_varies, strict=True)]
    assert asks_for_standardization(*more) is asks
    assert asks_for_standardization(mean + 20 * std, std)  # a large constant part
    assert not asks_for_standardization(torch.ones(3), torch.zeros(3))


def test_many_features_make_layers_as_wide_as_they_narrower_and_the_rate_of_normed_ones_lower():
    configs = {name: kind.settings("mine", "small")[1] for name, kind in HEADS.items()}
    assert not any(for_dimension(name, config, 256) for name, config in configs.items())
    found = {name: for_dimension(name, config, 320) for name, config in configs.items()}
    assert {name: each for name, each in found.items() if each} == {
        "rtfm": {"branch_width": 64},
        "arnet": {"width": 256},
        "csltal": {"width": 256},
        "ddl": {"learning_rate": pytest.approx(8e-4)},
        "pel4vad": {"learning_rate": pytest.approx(8e-4)},
    }
    for name in ("ddl", "pel4vad"):
        without = replace(configs[name], attention=False)
        assert for_dimension(name, without, 256) == {}
        assert for_dimension(name, without, 320) == {"norm_scale": 0.8}
    assert for_dimension("arnet", replace(configs["arnet"], width=9), 4096) == {}
    for name in ("arnet", "csltal"):
        head = HEADS[name].network(300, replace(configs[name], width=7))
        shapes = [tuple(each.shape)[:2] for each in head.parameters()]
        assert (7, 300) in shapes and (300, 300) not in shapes
        assert head.of_video(torch.zeros(2, 5, 300)).scores.shape == (1, 5)


class Judged:
    """Stands in for training and scoring: gives the next of ``aucs``, notes who was looked at."""

    def __init__(self, monkeypatch, *aucs):
        self.aucs, self.fitted, self.scored, self.fails = list(aucs), [], [], []
        monkeypatch.setattr(schedule, "fit", self.fit)
        monkeypatch.setattr(schedule.EvaluationSet, "score", self.score)

    def fit(self, head, bags, seed):
        items = {video_id for batch in bags.batches(seed, 0) for video_id in batch.video_ids}
        assert items <= bags.labels.keys()
        self.fitted.append((set(bags.labels), bags.num_batches * head.config.epochs, head.config))
        return not (self.fails and self.fails.pop(0))

    def score(self, head, truth):
        self.scored.append(set(truth))
        values = {"video_auc": self.aucs.pop(0)}
        return None, type("Metrics", (), {"values": values})


def test_a_third_of_the_videos_chooses_steps_and_rate(monkeypatch, caplog):
    caplog.set_level("INFO", "vadprep")
    features, truth = synthetic_set("mixed", 50)
    bags, judged = bags_of("arnet", features, truth), Judged(monkeypatch, 0.7, 0.8, 0.75, 0.81)
    choice = chosen("arnet", bags, features)
    assert [steps for _, steps, _ in judged.fitted] == [100, 300, 900, 300]
    rates = [config.learning_rate for *_, config in judged.fitted]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 1e-3 / 3])
    assert choice.settings == {
        "standardize": True,
        "steps_per_epoch": 30,
        "learning_rate": 1e-3 / 3,
    }
    assert choice.reason == "video AUC 0.810 of 16 training videos held out"
    assert caplog.messages[:2] == [
        "small schedule, tried steps_per_epoch = 10: video AUC 0.700",
        "small schedule, tried steps_per_epoch = 30: video AUC 0.800",
    ]
    assert len(caplog.messages) == 4
    held_out = judged.scored[0]
    assert len(held_out) == 16 and sum(bags.labels[each] for each in held_out) == 8
    assert all(each == held_out for each in judged.scored)
    assert all(own == bags.labels.keys() - held_out for own, *_ in judged.fitted)


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("name", ["ddl", "pel4vad"])
def test_the_layer_norm_of_many_features_starts_small(name, attention):
    """The first scores are nearer to one another by as much; the bias of the norm stays at 0."""
    kind, rows, spreads = HEADS[name], torch.randn(1, 1, 50, 1024), []
    for scale in (1.0, 0.01):
        torch.manual_seed(0)
        head = kind.network(1024, kind.config(attention=attention, norm_scale=scale)).eval()
        (norm,) = (each for each in head.modules() if isinstance(each, torch.nn.LayerNorm))
        assert set(norm.weight.tolist()) == {torch.tensor(scale).item()} and not norm.bias.any()
        spreads.append(head(rows, torch.ones(1, 50, dtype=torch.bool)).scores.std())
    assert spreads[1] < 0.02 * spreads[0]


def test_a_smaller_form_and_the_usual_one_each_have_their_own_steps(monkeypatch):
    features, truth = synthetic_set("unit", 50)
    bags = bags_of("ddl", features, truth)
    judged = Judged(monkeypatch, 0.7, 0.6, 0.7, 0.8, 0.9, 0.85)
    choice = chosen("ddl", bags, features)
    rate, start = 1e-3 * 256 / 4096, 256 / 4096
    assert [
        (steps, config.attention, config.learning_rate, config.norm_scale)
        for _, steps, config in judged.fitted
    ] == [
        (100, True, rate, 1.0),
        (100, False, 1e-3, start),  # not the rate for many features
        (300, True, rate, 1.0),  # no better than 100 steps, so no more of them
        (300, False, 1e-3, start),  # behind the usual form, but on its way
        (900, False, 1e-3, start),
        (900, False, pytest.approx(1e-3 / 3), start),
    ]
    assert choice.settings == {
        "standardize": False,
        "learning_rate": 1e-3,
        "attention": False,
        "norm_scale": start,
        "steps_per_epoch": 90,
    }
    judged = Judged(monkeypatch, 0.7, 0.7, 0.6, 0.6)
    choice = chosen("ddl", bags, features, ["learning_rate", "norm_scale"])
    assert {config.learning_rate for *_, config in judged.fitted} == {1e-3}
    assert {config.norm_scale for *_, config in judged.fitted} == {1.0}
    assert [config.attention for *_, config in judged.fitted] == [True, False, True, False]
    assert choice.settings == {"standardize": False, "steps_per_epoch": 10}
    own = bags_of("ddl", features, truth, attention=False)
    judged = Judged(monkeypatch, 0.7, 0.6, 0.6)
    assert chosen("ddl", own, features, ["attention"]).settings["norm_scale"] == start
    assert [config.attention for *_, config in judged.fitted] == [False] * 3
    judged = Judged(monkeypatch, 0.995, 1.0)
    assert chosen("ddl", bags, features).settings["attention"] is False
    # The smaller form leads after 100 steps, and nothing of it stays with the usual one.
    judged = Judged(monkeypatch, 0.6, 0.7, 0.9, 0.65, 0.8, 0.8)
    assert chosen("ddl", bags, features).settings == {
        "standardize": False,
        "learning_rate": rate,
        "steps_per_epoch": 30,
    }
    judged = Judged(monkeypatch, 0.7, 0.6, 0.65, 0.6, 0.5)
    judged.fails = [False, True]  # the loss of the smaller form is not finite
    assert chosen("ddl", bags, features).settings["steps_per_epoch"] == 10
    assert judged.aucs == []
    few = bags_of("ddl", *synthetic_set("unit", 10))
    judged = Judged(monkeypatch, 0.7, 0.6, 0.7)  # too few to hold out any
    assert chosen("ddl", few, features).settings["learning_rate"] == rate
    assert {config.attention for *_, config in judged.fitted} == {True}


def test_a_smaller_form_changes_only_what_differs_and_is_not_fixed(monkeypatch):
    features, truth = synthetic_set("mixed", 50)
    Judged(monkeypatch, 0.7, 1.0)
    found = chosen("ddl", bags_of("ddl", features, truth), features).settings
    assert found == {"standardize": True, "attention": False, "steps_per_epoch": 10}
    Judged(monkeypatch, 0.7, 1.0)
    bags = bags_of("urdmu", features, truth, learning_rate=0.5)
    found = chosen("urdmu", bags, features, ["learning_rate"]).settings
    sizes = {"width": 32, "head_width": 8, "layers": 1}
    assert found == {"standardize": True, **sizes, "steps_per_epoch": 10}


WITHOUT_EFFECT = {
    "ddl": {"heads": 2, "width": 64, "sigma": 1.0, "prior": "none", "scaling": "none"},
    "pel4vad": {"width": 64, "window": 3, "gamma": 1.0, "bias": 1.0, "norm": "time"},
}
"""Other values of settings, for the smaller form."""


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_the_smaller_form_has_no_use_for_the_settings_that_are_named(name):
    kind, rows, found = HEADS[name], torch.ones(1, 1, 4, 8).cumsum(2), []
    assert set(kind.without_effect) == WITHOUT_EFFECT[name].keys()
    for changes in ({}, *({key: value} for key, value in WITHOUT_EFFECT[name].items())):
        torch.manual_seed(0)
        head = kind.network(8, kind.config(**{**kind.smaller, **changes})).eval()
        found.append(head(rows, torch.ones(1, 4, dtype=torch.bool)).scores)
    assert all(torch.equal(each, found[0]) for each in found)


@pytest.mark.parametrize(
    ("name", "fixed"),
    [
        ("ddl", "attention"),
        *(("ddl", each) for each in WITHOUT_EFFECT["ddl"]),
        ("pel4vad", "attention"),
        *(("pel4vad", each) for each in WITHOUT_EFFECT["pel4vad"]),
        ("urdmu", "width"),
        ("urdmu", "head_width"),
        ("urdmu", "layers"),
    ],
)
def test_a_setting_of_the_usual_form_leaves_the_smaller_one_out(monkeypatch, name, fixed):
    features, truth = synthetic_set("mixed", 50)
    bags, judged = bags_of(name, features, truth), Judged(monkeypatch, 0.7, 0.6, 0.7)
    chosen(name, bags, features, [fixed])
    assert [steps for _, steps, _ in judged.fitted] == [100, 300, 100]
    for *_, config in judged.fitted:
        same = {"standardize": True, "steps_per_epoch": 10, "learning_rate": 1e-3}
        assert replace(config, **same) == replace(bags.config, **same)


def test_of_fewer_videos_each_third_is_held_out_in_turn(monkeypatch):
    features, truth = synthetic_set("mixed", 21)
    aucs = [[0.6, 0.7, 0.8], [0.8] * 3, [0.7] * 3, [0.8] * 3, [0.9] * 3]
    bags, judged = bags_of("urdmu", features, truth), Judged(monkeypatch, *sum(aucs, []))
    choice = chosen("urdmu", bags, features)
    settings = {"width": 32, "head_width": 8, "layers": 1, "learning_rate": 4 * 3e-4 / 3}
    assert choice.settings == {"standardize": True, "steps_per_epoch": 10, **settings}
    assert choice.reason == "video AUC 0.900 of 21 training videos, each third held out in turn"
    for first in range(0, 15, 3):
        parts = judged.scored[first : first + 3]
        assert sorted(sum(map(sorted, parts), [])) == sorted(bags.labels)
        assert all({bags.labels[each] for each in part} == {0, 1} for part in parts)
        for part, (own, *_) in zip(parts, judged.fitted[first : first + 3], strict=True):
            assert own == bags.labels.keys() - part
    tried = [
        (steps, config.width, config.head_width, config.layers, config.learning_rate)
        for _, steps, config in judged.fitted[::3]
    ]
    assert tried[0] == (100, 128, 32, 2, 3e-4)
    assert tried[1:3] == [(100, 32, 8, 1, 12e-4), (300, 128, 32, 2, 3e-4)]
    assert tried[3:] == [(300, 32, 8, 1, 12e-4), (100, 32, 8, 1, pytest.approx(4e-4))]


def test_few_videos_only_show_whether_a_head_has_learnt_them(monkeypatch):
    features, truth = synthetic_set("mixed", 18)
    bags, judged = bags_of("urdmu", features, truth), Judged(monkeypatch, 0.8, 0.9, 0.7, 0.7)
    choice = chosen("urdmu", bags, features)
    assert [steps for _, steps, _ in judged.fitted] == [100, 300, 900, 300]
    assert judged.scored[0] == judged.fitted[0][0] == bags.labels.keys()
    assert choice.settings == {"standardize": True, "steps_per_epoch": 30}  # sizes stay
    assert choice.reason.startswith("video AUC 0.900 of 18 training videos trained on")


def test_what_was_set_is_not_chosen(monkeypatch):
    features, truth = synthetic_set("mixed", 50)
    bags = bags_of("arnet", features, truth, learning_rate=0.5, standardize=False)
    judged = Judged(monkeypatch, 0.7, 0.6)
    fixed = ("learning_rate", "standardize")
    choice = chosen("arnet", bags, features, fixed)
    assert choice.settings == {"steps_per_epoch": 10} and len(judged.fitted) == 2
    choice = chosen("arnet", bags, features, ("epochs",))
    assert choice.settings == {"standardize": True} and len(judged.fitted) == 2


def test_the_choice_is_in_the_run_folder_and_a_run_that_goes_on_keeps_it(
    tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO")
    monkeypatch.setattr(schedule, "STEPS", (10, 20))
    report = train(*tiny_set(), SMALL, tmp_path / "r")
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    found = config["schedule"]["chosen"]
    assert list(found)[:2] == ["standardize", "steps_per_epoch"]
    assert {name: config["config"][name] for name in found} == found
    words = "small" + "".join(f", {name} = {value}" for name, value in found.items())
    assert metrics["settings"] == config["settings"] == report.settings
    assert report.settings.endswith(words)
    assert len([each for each in caplog.messages if words.removeprefix("small") in each]) == 1

    def never(*_):
        raise AssertionError("chosen again")

    train(*tiny_set(), SMALL, tmp_path / "again")
    monkeypatch.setattr(run, "choose_schedule", never)
    train(*tiny_set(), SMALL | dict(resume=True), tmp_path / "r")
    for name in ("checkpoint-last.safetensors", "metrics.json", "config.json"):
        assert (tmp_path / "r" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert stored_choice(tmp_path / "none", HEADS["arnet"].published["shanghaitech"]) is None


def test_shuffled_labels_choose_for_each_seed_by_their_own(tmp_path, monkeypatch):
    seen = []

    def choose(name, bags, *others):
        seen.append((dict(bags.labels), bags.config))
        settings = {"standardize": True, "steps_per_epoch": len(seen), "learning_rate": 0.5}
        return schedule.Choice(settings, "a test")

    monkeypatch.setattr(run, "choose_schedule", choose)
    options = SMALL | dict(seeds=(1, 2), control=True)
    report = train(*tiny_set(), options, tmp_path)
    assert report.settings.endswith(", small")
    for seed, (labels, config), steps in zip((1, 2), seen, (1, 2), strict=True):
        record = json.loads((tmp_path / f"seed-{seed}" / "config.json").read_text())
        assert record["config"]["steps_per_epoch"] == steps
        metrics = json.loads((tmp_path / f"seed-{seed}" / "metrics.json").read_text())
        assert f"steps_per_epoch = {steps}, " in metrics["settings"]
        assert record["train_labels_sha256"] == run._sha256_of(labels)
        assert config.learning_rate == 1e-3  # each starts from the same settings


def test_a_damaged_choice_is_named(tmp_path):
    train(*tiny_set(), SMALL | dict(settings={"epochs": 1}), tmp_path / "r")
    path = tmp_path / "r" / "config.json"
    record = json.loads(path.read_text())
    for odd in ({"chosen": {"stride": 3}, "by": ""}, {"chosen": 3, "by": ""}, {"by": ""}, [1]):
        path.write_text(json.dumps(record | {"schedule": odd}))
        with pytest.raises(CheckpointError, match="config.json: damaged"):
            train(*tiny_set(), SMALL | dict(resume=True, settings={"epochs": 1}), tmp_path / "r")


def test_the_published_schedule_looks_at_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "choose_schedule", None)
    changes = {"epochs": 1, "steps_per_epoch": 2}
    train(*tiny_set(), SMALL | dict(schedule="published", settings=changes), tmp_path)
    assert "schedule" not in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("head", ["sultani", "arnet", "vadclip"])
def test_video_labels_reach_what_frame_labels_do(head):
    """Three heads on the cheapest set; ``python -m support.small_schedule`` has the whole table."""
    _, (weak,), (frames,) = compared(head, *synthetic_set("mixed", 30))
    assert frames >= 0.9 and weak >= 0.95 * frames, (weak, frames)
