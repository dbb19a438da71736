"""Scores without the future: against a loop, against the whole video, and blind to what follows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.small_heads import build, heads

from vadprep.core.errors import SettingError
from vadprep.heads import HEADS
from vadprep.heads.online import online_scores, score_newest

EXACT = {
    "sultani": ({"scoring": "snippets"}, 1),
    "arnet": ({}, 1),
    "csltal": ({}, 3),
    "ddl": ({"attention": False}, 3),
    "pel4vad": ({"attention": False}, 3),
}
"""Pointwise and causal heads, the settings that make them so, and what a score depends on."""

WINDOWS = {"sultani": 1, "rtfm": 32, "arnet": 1, "csltal": 3}
"""Default windows of the published settings, where not 200; 256 is VadCLIP's."""

LENGTHS = (1, 2, 3, 7, 40)


def loop(head, snippets, window):
    """Each window through the head on its own, one crop at a time."""
    found = []
    for newest in range(snippets.shape[1]):
        seen = snippets[:, max(0, newest + 1 - window) : newest + 1]
        mask = torch.ones(1, seen.shape[1], dtype=torch.bool)
        crops = [head(crop[None, None], mask).scores[0, -1].double() for crop in seen]
        found.append(sum(crops) / len(crops))
    return torch.stack(found)


@heads
@pytest.mark.parametrize("window", [1, 2, 5, 100])
def test_windows_in_batches_equal_a_loop(name, window):
    """Also where a batch holds a window, some, or all, and over the mean of crops."""
    head = build(name, standardize=True).eval()
    head.fit_standardization(torch.full((6,), 0.3), torch.full((6,), 0.5))
    snippets = torch.randn(2, 23, 6)
    with torch.inference_mode():
        expected = loop(head, snippets, window)
        for most_rows in (1, 60, 1 << 14):
            found = online_scores(head, snippets, window, most_rows).scores
            assert found.dtype == torch.float64
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", EXACT)
def test_pointwise_and_causal_heads_score_as_offline(name):
    changes, context = EXACT[name]
    for seed in range(5):
        torch.manual_seed(seed)
        head = build(name, dim=6 + seed, **changes).eval()
        assert head.causal_context == head.online_window == context
        for length in LENGTHS:
            snippets = torch.randn(1 + seed % 3, length, head.dim)
            with torch.inference_mode():
                offline, _ = head.score(snippets)
                for window in (None, context, context + 4):
                    online = online_scores(head, snippets, window).scores
                    torch.testing.assert_close(online, offline, rtol=0, atol=1e-6)


def test_a_window_below_the_context_only_approximates():
    head, snippets = build("csltal", attention="three").eval(), torch.randn(1, 20, 6)
    with torch.inference_mode():
        apart = (online_scores(head, snippets, 2).scores - head.score(snippets)[0]).abs()
    assert apart[:2].max() < 1e-6 and apart[2:].max() > 1e-4


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {}) for name in HEADS if name != "sultani"),  # 8 of its segments have 2 snippets
        *((name, changes) for name, (changes, _) in EXACT.items()),
    ],
)
def test_the_context_is_all_that_a_score_depends_on(name, changes):
    """Exactly the context where there is one, else other snippets, too."""
    head = build(name, dim=16, **changes).double().eval()
    snippets, seen = torch.randn(1, 40, 16, dtype=torch.float64), []
    with torch.inference_mode():
        before = head.score(snippets)[0][20]
        for row in range(40):
            other = snippets.clone()
            other[:, row] = 10 * torch.randn(16, dtype=torch.float64)
            if abs(head.score(other)[0][20] - before) > 1e-12:
                seen.append(row)
    if head.causal_context is not None:
        assert seen == list(range(21 - head.causal_context, 21))
    else:
        assert max(seen) > 20


@heads
def test_an_online_score_depends_on_no_later_snippet(name):
    head, snippets = build(name).double().eval(), torch.randn(2, 40, 6, dtype=torch.float64)
    other = snippets.clone()
    other[:, 25:] = 1e3 * torch.randn(2, 15, 6, dtype=torch.float64)
    with torch.inference_mode():
        one, two = (online_scores(head, each, 10).scores for each in (snippets, other))
        alone = online_scores(head, snippets[:, :25], 10).scores
    torch.testing.assert_close(one[:25], two[:25], rtol=0, atol=1e-12)
    torch.testing.assert_close(one[:25], alone, rtol=0, atol=1e-12)
    assert not torch.allclose(one[25:], two[25:], rtol=0, atol=1e-12)


@heads
def test_windows_of_several_sources_are_scored_together(name):
    head = build(name).eval()
    windows = [torch.randn(crops, length, 6) for crops, length in ((2, 9), (1, 1), (3, 4))]
    with torch.inference_mode():
        together = score_newest(head, windows).scores
        alone = torch.stack([online_scores(head, each, 9).scores[-1] for each in windows])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


@heads
def test_the_default_window_is_the_length_of_the_training(name):
    for config in HEADS[name].published.values():
        head = HEADS[name].build(6, config)
        assert head.online_window == WINDOWS.get(name, 256 if name == "vadclip" else 200)


@pytest.mark.parametrize("window", [None, 8, 13])
def test_vadclip_sees_no_window_in_two_pieces(window):
    """Else the newest snippet would be seen with those alone that its piece holds."""
    torch.manual_seed(0)
    config = replace(HEADS["vadclip"].published["ucf"], length=8, window=8, hidden=8, heads=1)
    head = HEADS["vadclip"].build(6, config).double().eval()
    snippets = torch.randn(1, 20, 6, dtype=torch.float64)
    with torch.inference_mode():
        found = online_scores(head, snippets, window).scores
        for newest in (7, 8, 12, 19):
            alone = head.of_video(snippets[:, max(0, newest - 7) : newest + 1]).scores[0, -1]
            torch.testing.assert_close(found[newest], alone, rtol=0, atol=1e-12)
    assert head.online_window == 8


def test_classes_are_those_of_the_newest_snippet():
    torch.manual_seed(0)
    config = build("vadclip").config
    head = HEADS["vadclip"].network(6, config, ["fight", "fire"]).eval()
    snippets = torch.randn(2, 9, 6)
    with torch.inference_mode():
        found = online_scores(head, snippets, 4)
        last = head.of_video(snippets[:, 5:])
        nothing = online_scores(head, snippets[:, :0], 4)
    assert found.video is None and found.classes.shape == (9, 2)
    torch.testing.assert_close(found.classes[-1], last.classes[0, -1], rtol=0, atol=1e-6)
    assert nothing.scores.shape == (0,) and nothing.classes.shape == (0, 2)


def test_a_window_of_nothing_is_refused():
    with pytest.raises(SettingError, match="window = 0: 1 snippet or more"):
        online_scores(build("arnet"), torch.randn(1, 3, 6), 0)
