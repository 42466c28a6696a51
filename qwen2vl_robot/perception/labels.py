"""A label and a measured body → whether the picture contradicts the words."""

from __future__ import annotations

import colorsys
import re
from pathlib import Path

import numpy as np
from pydantic import Field

from qwen2vl_robot.config import Range, Strict, load_yaml
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.perception.fitting import Fit
from qwen2vl_robot.perception.solids import BoxSolid, Kind, Solid
from qwen2vl_robot.resources import resolve

_CLEAR_M = 0.002  # a kind that fits better than the named one by more than this contradicts the name
_NOUN_OF: dict[str, str] = {"box": "block", "sphere": "ball", "container": "bowl"}


class ColourRegion(Strict):
    """The hue, saturation and value ranges of a colour word; the hue range may wrap around 0."""

    hue_deg: Range
    saturation: Range
    value: Range

    def holds(self, rgb: Array) -> bool:
        """Check whether a colour (3,) 0..255 lies in the region."""
        hue, saturation, value = colorsys.rgb_to_hsv(*(float(c) / 255.0 for c in rgb))
        low, high = self.hue_deg
        hue_deg = hue * 360.0
        in_hue = low <= hue_deg <= high if low <= high else hue_deg >= low or hue_deg <= high
        return (
            in_hue
            and self.saturation[0] <= saturation <= self.saturation[1]
            and self.value[0] <= value <= self.value[1]
        )


class Words(Strict):
    """sim/objects/words.yaml: colour words → regions, nouns → kinds, nouns of boxes → ratio of length to width."""

    colours: dict[str, ColourRegion]
    nouns: dict[str, tuple[Kind, ...]]
    stretch: dict[str, Range] = Field(default_factory=dict)


def load_words(path: str | Path = "objects/words.yaml") -> Words:
    """Load the words that labels are checked against.

    Raises:
        BadInputError: the file is missing or wrong.
    """
    return load_yaml(resolve(str(path)), Words)


def contradiction(label: str, rgb: Array, fits: list[Fit], words: Words) -> str | None:
    """Describe what is there ("green ball") if it contradicts the label; None when the label may be right.

    If a label has several colours or nouns, one match suffices; a label without known words is not checked.
    """
    tokens = _tokens(label)
    colours = [t for t in tokens if t in words.colours]
    kinds = {kind for t in tokens for kind in words.nouns.get(t, ())}
    wrong_colour = bool(colours) and not any(words.colours[c].holds(rgb) for c in colours)
    wrong_kind = bool(kinds) and _is_other_kind(fits, kinds)
    return describe(rgb, fits, words) if wrong_colour or wrong_kind else None


def is_clearly(label: str, rgb: Array, fits: list[Fit], words: Words) -> bool:
    """Check whether a measured body matches the label and nothing else in the word list.

    Every word of the label must be known, and a noun must mean one kind only. No other colour region may contain the
    colour, no other kind may fit nearly as well as the best, and a box must have the proportions of its noun.
    """
    spoken = re.findall(r"[^\W\d_]+", label.lower())
    colours = [words.colours[t] for t in spoken if t in words.colours]
    nouns = [kinds for t in spoken for kinds in (_kinds(t, words),) if len(kinds) == 1]
    if not spoken or len(colours) + len(nouns) != len(spoken):
        return False
    held = [region for region in words.colours.values() if region.holds(rgb)]
    is_colour = not colours or (bool(held) and all(region in colours for region in held))
    is_stretched = all(_is_stretched(words.stretch.get(t.removesuffix("s")), fits[0].solid) for t in spoken)
    return is_colour and is_stretched and all(_is_only(set(kinds), fits) for kinds in nouns)


def describe(rgb: Array, fits: list[Fit], words: Words) -> str:
    """Name what was measured, by the first matching colour word and the best-fitting kind."""
    colour = next((word for word, region in words.colours.items() if region.holds(rgb)), "unnamed")
    kind = fits[0].solid.kind
    return f"{colour} {_NOUN_OF.get(kind, kind)}"


def with_article(name: str) -> str:
    """A name with its English article.

    >>> with_article("orange block"), with_article("red block")
    ('an orange block', 'a red block')
    """
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def best_fit(label: str, fits: list[Fit], words: Words) -> Fit:
    """Choose the best fit of a kind that the label allows if it is nearly the best of all, else the best of all."""
    kinds = {kind for t in _tokens(label) for kind in words.nouns.get(t, ())}
    allowed = [f for f in fits if f.solid.kind in kinds]
    return allowed[0] if allowed and allowed[0].cost_m <= fits[0].cost_m + _CLEAR_M else fits[0]


def _is_only(kinds: set[Kind], fits: list[Fit]) -> bool:
    others = [f.cost_m for f in fits if f.solid.kind not in kinds]
    return fits[0].solid.kind in kinds and min(others, default=np.inf) > fits[0].cost_m + _CLEAR_M


def _is_stretched(bounds: Range | None, solid: Solid) -> bool:
    """Check whether a box has the ratio of length to width that its noun requires."""
    if bounds is None or not isinstance(solid, BoxSolid):
        return True
    sides_m = (solid.length_m, solid.width_m)
    return bounds[0] <= max(sides_m) / min(sides_m) <= bounds[1]


def _kinds(word: str, words: Words) -> tuple[Kind, ...]:
    return words.nouns.get(word) or words.nouns.get(word.removesuffix("s"), ())


def _is_other_kind(fits: list[Fit], kinds: set[Kind]) -> bool:
    allowed = [f.cost_m for f in fits if f.solid.kind in kinds]
    return not allowed or min(allowed) > fits[0].cost_m + _CLEAR_M


def _tokens(label: str) -> list[str]:
    words = re.findall(r"[a-z]+", label.lower())
    return words + [w[:-1] for w in words if w.endswith("s") and len(w) > 3]
