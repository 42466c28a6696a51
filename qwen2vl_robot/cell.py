"""What a file of sim/rules may say about a cell: zones, forbidden things, and the words for them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from qwen2vl_robot.bounds import BODIES
from qwen2vl_robot.config import NonNegative, Strict, Vector3
from qwen2vl_robot.messages import Zone


class BoxRule(Strict):
    """An upright box in the base frame."""

    name: Annotated[str, Field(min_length=1, max_length=80)]
    min_m: Vector3
    max_m: Vector3

    @model_validator(mode="after")
    def _is_not_inside_out(self) -> BoxRule:
        for axis, low, high in zip("xyz", self.min_m, self.max_m, strict=True):
            if low >= high:
                raise ValueError(f"{self.name!r} is inside out: min {axis} {low} m must be below max {high} m")
        return self


class ZoneRule(BoxRule):
    """A zone of the cell, see `messages.Zone`."""

    speed_mps: NonNegative = 0.0

    def to_zone(self) -> Zone:
        """The same as a message."""
        return Zone(self.name, self.min_m, self.max_m, self.speed_mps)


class Pair(Strict):
    """Words for two things of which the first is never brought to the second."""

    first: tuple[str, ...]
    second: tuple[str, ...]


class CellRules(Strict):
    """sim/rules/NAME.yaml: zones and forbidden things of one cell, each a word or a family of families.yaml.

    Attributes:
        free: space of which a person vouches that nothing is ever there, whether a camera sees it or not; only what
            lies higher than things stand counts (`config.Safety.things_below_m`).
        scene_names: what the software calls parts of the scene and of the robot; no plan may name one.
        known: a word of this cell → the noun of the catalogue, or "thing", that it means.
        unread: what words that nobody could read lead to: "confirm" asks a person; "allow" leaves those beside
            an order that was read to the planner.
    """

    zones: Annotated[tuple[ZoneRule, ...], Field(max_length=BODIES)] = ()
    free: Annotated[tuple[BoxRule, ...], Field(max_length=BODIES)] = ()
    never_touch: tuple[str, ...] = ()
    never_above: tuple[str, ...] = ()
    never_into: tuple[str, ...] = ()
    never_together: tuple[Pair, ...] = ()
    scene_names: tuple[str, ...] = ()
    known: dict[str, str] = Field(default_factory=dict)
    unread: Literal["confirm", "allow"] = "confirm"


class Vocabulary(Strict):
    """sim/rules/words.yaml: words that ask for an action, and words that mean the same."""

    verbs: dict[str, tuple[str, ...]]
    implied: dict[str, tuple[str, ...]]
    same: tuple[tuple[str, ...], ...] = ()
    colours: tuple[str, ...] = ()
    everything: tuple[str, ...] = ()
