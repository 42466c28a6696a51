"""A sentence's words and everything in view → which of the things they mean; what may be meant or not is a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qwen2vl_robot.errors import RobotError
from qwen2vl_robot.messages import ObjectReference, Relation, Where
from qwen2vl_robot.perception import Stock, Surroundings
from qwen2vl_robot.perception.stock import Item
from qwen2vl_robot.reading import Asks, Goal, Quantity, Question, Thing
from qwen2vl_robot.relations import relation_holds
from qwen2vl_robot.room import ROUGH_M, distance_m, is_flat, is_of_a_rim, xy_of
from qwen2vl_robot.spots import Moved
from qwen2vl_robot.stocktaking import is_measurable, match

_ON_TABLE_M = 0.01  # what stands higher stands on something


class OpenError(RobotError):
    """The sentence leaves something open; the text is the question."""


@dataclass(frozen=True, slots=True)
class Chooser:
    """What is measured, and how a sentence's words choose among it."""

    goal: Goal
    stock: Stock
    around: Surroundings
    moved: tuple[Moved, ...]

    def can_tell(self, thing: Thing | None) -> bool:
        """Whether colour and shape tell a thing, and what it stands by."""
        while thing is not None:
            if not thing.is_it and thing.noun != "table" and not is_measurable(thing, self.around.words):
                return False
            thing = thing.reference
        return True

    def fits_several(self, thing: Thing) -> bool:
        """Whether more than one thing in view may be meant."""
        found = match(Question(Asks.WHAT, thing), self.stock, self.around)
        return len(found.sure) + len(found.maybe) > 1

    def _named(self, thing: Thing | None, what: str = "move") -> tuple[Item, ...]:
        """Everything that the words name, without what the sentence excludes.

        Raises:
            OpenError: nothing is there, or what is there may be meant or not.
        """
        if thing is None or thing.is_it:
            raise OpenError(f"What should I {what}?")
        if thing.rank and not thing.superlative:
            raise OpenError(f"From which side should I count to {thing.describe()}?")
        thing = self._of_a_kind(thing)
        found = match(Question(Asks.WHAT, thing), self.stock, self.around)
        excluded = self._excluded()
        unsure = [item for item in found.maybe if item not in excluded]
        # A disc that a flat box explains as well is a plate all the same: nobody calls it a block.
        plates = [item for item in unsure if is_flat(item) and item.label.endswith(" plate")]
        flat = plates if thing.noun == "plate" else []
        sure = (*(item for item in found.sure if item not in excluded), *flat)
        maybe = [item for item in unsure if item not in plates and not is_of_a_rim(item, self.stock)]
        is_compared = bool(
            thing.superlative or thing.rank
        )  # what may be one of them may be the tallest, or moves a count
        if maybe and (thing.quantity is Quantity.ALL or is_compared or not sure):
            raise OpenError(f"I am not sure of {len(maybe)} of the things: {listed(maybe)}. Which do you mean?")
        if not sure:
            raise OpenError(f"I do not see {thing.describe()}.")
        return self._others(sure, thing) if thing.quantity is Quantity.ANOTHER else sure

    def _of_a_kind(self, thing: Thing) -> Thing:
        """ "the other one" is of the kind of what is held, or was moved last."""
        if thing.quantity is not Quantity.ANOTHER or thing.noun:
            return thing
        last = self._last_moved()
        label = self.stock.held.name if self.stock.held is not None else last.label if last is not None else ""
        nouns = [word for word in label.split() if word in self.around.words.nouns]
        return replace(thing, noun=nouns[-1]) if nouns else thing

    def _others(self, named: Sequence[Item], thing: Thing) -> tuple[Item, ...]:
        """ "the other block": what is not named beside it, nor was moved last."""
        named_too = [t for s in self.goal.steps for t in (s.thing, s.reference) if t is not None and t is not thing]
        said = [t for t in named_too if t.label and t.quantity is Quantity.ONE and not t.is_any]
        first = [item for t in said for item in match(Question(Asks.WHAT, t), self.stock, self.around).sure]
        last = self._last_moved()
        others = tuple(item for item in named if item not in first and item is not last)
        if len(others) == len(named) and self.stock.held is None:
            raise OpenError(f"{thing.describe().capitalize()} than which? I see {listed(named)}.")
        if len(others) != 1:
            raise OpenError(f"I see {len(others)} others: {listed(others)}. Which one do you mean?")
        return others

    def _last_moved(self) -> Item | None:
        """What was moved last, where it was put, or what lies on top there; None where nothing is."""
        to_xy_m = self.moved[-1].to_xy_m if self.moved else None
        if to_xy_m is None:
            return None
        here = [item for item in self.stock.items if distance_m(xy_of(item), to_xy_m) <= ROUGH_M]
        return max(
            here, key=lambda item: (item.object.bottom_m > _ON_TABLE_M, -distance_m(xy_of(item), to_xy_m)), default=None
        )

    def _excluded(self) -> tuple[Item, ...]:
        found = [match(Question(Asks.WHAT, thing), self.stock, self.around) for thing in self.goal.exclusions]
        return tuple(item for matched in found for item in (*matched.sure, *matched.maybe))

    def _chosen(self, thing: Thing | None, done: Sequence[Item] = ()) -> list[Item]:
        """Which of the named things are meant: all, so many of them, the nearest of any, or the only one.

        Args:
            done: of these, what needs no deed: it counts among so many.
        """
        named = self._named(thing)
        if thing is None or thing.quantity is Quantity.ALL:
            return list(named)
        free = sorted((item for item in named if item not in done), key=self._reach)
        done = [item for item in named if item in done]
        if thing.quantity is Quantity.NUMBER:
            if thing.count > len(named):
                raise OpenError(f"I see {len(named)} of them, not {thing.count}.")
            return [*done, *free][: thing.count]
        if len(named) == 1 or thing.is_any:
            return [*done, *free][:1]
        raise OpenError(f"I see {len(named)} of them: {listed(named)}. Which one do you mean?")

    def _reach(self, item: Item) -> tuple[bool, float]:
        """What to take first: what nothing stands on, then what is nearest to the robot."""
        is_below = any(self._holds(Relation.ON, other, item) for other in self.stock.items if other is not item)
        return is_below, float(np.linalg.norm(xy_of(item)))

    def _name(self, thing: Thing | None, item: Item) -> ObjectReference:
        """The person's own words for a thing where they name it, else what is measured."""
        if thing is None or thing.is_it:
            return ObjectReference(item.label, ())
        where = None
        if thing.superlative:
            of = None if thing.reference is None or thing.relation is not None else thing.reference.label
            where = Where(f"{thing.superlative} {thing.rank}".removesuffix(" 0"), of)
        if thing.relation is not None and thing.reference is not None and not thing.superlative:
            where = Where(thing.relation.value, thing.reference.label)
        return ObjectReference(thing.label if thing.noun and not self.goal.exclusions else item.label, (), where)

    def _holds(self, relation: Relation, item: Item, other: Item) -> bool:
        return relation_holds(relation, item.object, other.object, self.around.rules, self.stock.sides)


def listed(items: Sequence[Item]) -> str:
    return ", ".join(f"{n}. {item.label}" for n, item in enumerate(items, 1))
