"""Colours of the pages: contrast as WCAG 2.2 computes it, for light and dark."""

from __future__ import annotations

import itertools
import re
from importlib.resources import files

import pytest

STYLES = (files("vadprep.evaluation.report") / "assets" / "page.css").read_text()
LEAST_TEXT, LEAST_GRAPHICS = 4.5, 3.0
"""Success criteria 1.4.3 and 1.4.11."""

TEXTS = {
    "ground": ("text", "soft", "accent", "warn"),
    "panel": ("text", "soft", "accent"),
    "warn-ground": ("warn",),
}
"""What is written on each background: text, links, the banner."""
CURVES = tuple(f"curve-{number}" for number in range(6))

Colour = tuple[float, float, float]


def colours(mode: str) -> dict[str, str]:
    light, dark = (
        dict(re.findall(r"--([\w-]+): ([^;]+);", block))
        for block in re.findall(r":root \{(.*?)\}", STYLES, re.DOTALL)
    )
    return light if mode == "light" else light | dark


def parsed(text: str, ground: Colour = (0, 0, 0)) -> Colour:
    """A colour of #rrggbb, or of rgba(...) over a ground."""
    if text.startswith("#"):
        red, green, blue = (int(text[place : place + 2], 16) for place in (1, 3, 5))
        return red, green, blue
    *parts, alpha = (float(each) for each in re.findall(r"[\d.]+", text))
    red, green, blue = (alpha * a + (1 - alpha) * b for a, b in zip(parts, ground, strict=True))
    return red, green, blue


def contrast(one: Colour, other: Colour) -> float:
    def luminance(colour: Colour) -> float:
        parts = (each / 255 for each in colour)
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4
                  for each in parts]  # fmt: skip
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_formula_is_that_of_wcag() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast(parsed("#777777"), parsed("#ffffff")) == pytest.approx(4.48, abs=0.01)
    assert parsed("rgba(255, 0, 0, 0.5)", (255, 255, 255)) == (255, 127.5, 127.5)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_texts_and_curves_stand_out(mode: str) -> None:
    known = colours(mode)
    low = {}
    for ground, names in TEXTS.items():
        for name in names:
            found = contrast(parsed(known[name]), parsed(known[ground]))
            if found < LEAST_TEXT:
                low[name, ground] = found
    graphics = (*CURVES, "soft", "accent", "anomaly", "warn")
    for name, ground in itertools.product(graphics, ("ground", "panel")):
        plain = parsed(known[ground])
        shaded = parsed(known["shade"], plain)
        for what, under in (("plain", plain), ("shaded", shaded)):
            found = contrast(parsed(known[name]), under)
            if found < LEAST_GRAPHICS and not (name == "anomaly" and what == "shaded"):
                low[name, ground, what] = found
    assert not low


def test_every_colour_of_the_page_is_a_variable_that_is_checked() -> None:
    """No script has colours of its own, and borders of controls are not the faint line."""
    for script in ("page.js", "run.js", "video.js", "features.js"):
        text = (files("vadprep.evaluation.report") / "assets" / script).read_text()
        assert not re.findall(r"#[0-9a-fA-F]{6}|(?<!paper_bgcolor: \")rgba\((?!0,0,0,0\))", text)
    used = set(re.findall(r"color: var\(--([\w-]+)\)", STYLES))
    assert used <= {name for names in TEXTS.values() for name in names}
    assert "1px solid var(--soft)" in STYLES
