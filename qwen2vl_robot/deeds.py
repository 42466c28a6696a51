"""A step's words and everything in view → which things are moved where, each as one deed.

A step is a goal: what holds already is no deed. What may be meant or not is a question, never a choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qwen2vl_robot.choosing import Chooser, OpenError, listed
from qwen2vl_robot.errors import RobotError
from qwen2vl_robot.messages import Direction, ObjectReference, Relation, shape_size_m
from qwen2vl_robot.perception.stock import Item
from qwen2vl_robot.reading import CORNERS, PARTS, Deed, Place, Quantity, Step, Thing
from qwen2vl_robot.relations import outline_radius_m, toward
from qwen2vl_robot.room import (
    EXACT_M,
    LEAST_GAP_M,
    ROUGH_M,
    aside,
    between,
    distance_m,
    free_in,
    is_carrier,
    is_free,
    is_of_a_rim,
    middle_of,
    row_of,
    side_by_side,
    xy_of,
)
from qwen2vl_robot.spots import Spot

_WAYS = {"left": Direction.LEFT, "right": Direction.RIGHT, "near": Direction.CLOSER, "far": Direction.AWAY}
_UPON = (Relation.ON, Relation.IN)


class NotMeasuredError(RobotError):
    """A step that does not follow from what is measured."""


@dataclass(frozen=True, slots=True)
class PlannedDeed:
    """Put a thing in a relation to another one, or at a spot; or push it, or hold it.

    Attributes:
        moved: None for what is in the gripper.
        named, reference_named: what they are called, without a box.
    """

    moved: Item | None
    named: ObjectReference
    relation: Relation | None = None
    reference: Item | None = None
    reference_named: ObjectReference | None = None
    spot: Spot | None = None
    direction: Direction | None = None
    is_held: bool = False


@dataclass(frozen=True, slots=True)
class Measured(Chooser):
    """What follows from what is measured, and from how a sentence's words choose among it."""

    def deeds(self, step: Step) -> Iterator[PlannedDeed]:
        """The deeds of one step that are not done yet."""
        if step.deed is Deed.STACK:
            yield from self._stack(step)
        elif step.deed is Deed.SORT:
            yield from self._sort(step)
        elif step.deed is Deed.SWAP:
            yield from self._swap(step)
        elif step.deed is Deed.LINE_UP:
            yield from self._line_up(step)
        elif step.deed is Deed.CLEAR:
            yield from self._clear(step)
        elif step.deed is Deed.PLACE and step.place is not None:
            yield from self._at_spot(step, step.place)
        elif step.deed is Deed.PLACE and step.relation is not None and step.reference is not None:
            yield from self._collect(step, step.relation, step.reference)
        elif step.deed is Deed.PICK and step.thing is not None:
            for item in self._chosen(step.thing):
                yield PlannedDeed(item, self._name(step.thing, item), is_held=True)
        elif step.deed is Deed.PUSH and step.direction is not None:
            for item in self._chosen(step.thing):
                yield PlannedDeed(item, self._name(step.thing, item), direction=step.direction)
        else:
            raise NotMeasuredError(step.describe())

    # ------------------------------------------------------------------------------------------ programmes

    def _collect(self, step: Step, relation: Relation, to: Thing) -> Iterator[PlannedDeed]:
        """ "put all the blocks in the bowl", "two of them", "any of them", "each block on a plate"."""
        carriers = list(self._named(to, "use"))
        if step.thing is not None and step.thing.is_it and self.stock.held is not None:
            (place,) = self._places(step, to, carriers, [None], relation)
            held = ObjectReference(self.stock.held.name, ())
            yield PlannedDeed(None, held, relation, place, self._name(to, place))
            return
        named = [item for item in self._named(step.thing) if item not in carriers]
        if step.thing is not None and step.thing.quantity is Quantity.ALL and not step.thing.noun:
            named = [item for item in named if not is_carrier(item)]  # "everything" is what can be picked up
        done = [item for item in named if any(self._holds(relation, item, other) for other in carriers)]
        if step.thing is not None and step.thing.quantity is Quantity.ALL:
            chosen = named
        elif to.quantity is Quantity.ALL and step.thing is not None and step.thing.is_any:
            free = [item for item in named if item not in done]  # "a block in each bowl"
            chosen = sorted(free, key=self._reach)[: len(carriers)]
            if len(chosen) < len(carriers):
                raise OpenError(f"I see {len(chosen)} of them for {len(carriers)} places.")
        else:
            chosen = [item for item in self._chosen(step.thing, done) if item not in carriers]
        left = [item for item in chosen if item not in done]
        places = self._places(step, to, carriers, left, relation)
        for item, place, spot in zip(left, places, side_by_side(left, places, relation), strict=True):
            yield PlannedDeed(item, self._name(step.thing, item), relation, place, self._name(to, place), spot)

    def _places(
        self, step: Step, to: Thing, carriers: list[Item], left: Sequence[Item | None], relation: Relation
    ) -> list[Item]:
        """Where each of some things, or what is held, goes: all to one place, or each to a free one of its own."""
        has_own = to.quantity is not Quantity.ONE or (step.thing is not None and step.thing.is_each and to.is_any)
        is_shared = not has_own
        if is_shared and (len(carriers) == 1 or to.is_any):
            return [min(carriers, key=self._reach)] * len(left)
        if is_shared:
            raise OpenError(f"I see {len(carriers)} of them: {listed(carriers)}. Which one do you mean?")
        free = [c for c in carriers if not any(self._holds(relation, i, c) for i in self.stock.items if i is not c)]
        if len(free) < len(left):
            raise OpenError(f"{len(left)} things need a place of their own; I see {len(free)}.")
        return free[: len(left)]

    def _stack(self, step: Step) -> Iterator[PlannedDeed]:
        """The widest one below, each on the one before."""
        named = self._chosen(step.thing)
        if len(named) < 2:
            raise OpenError(f"I see one of them: {listed(named)}. On what should I stack it?")
        tower = sorted(named, key=lambda item: -sum(shape_size_m(item.object.shape)[:2]))
        for below, above in zip(tower, tower[1:], strict=False):
            if not self._holds(Relation.ON, above, below):
                name = self._name(step.thing, above)
                yield PlannedDeed(above, name, Relation.ON, below, self._name(step.thing, below))

    def _sort(self, step: Step) -> Iterator[PlannedDeed]:
        """By colour or kind: each into the container that has its colour, else beside the first of its own."""

        def group(item: Item) -> str:
            return item.label.split()[-1 if step.word == "kind" else 0]

        carriers = list(self._named(step.reference, "use")) if step.reference is not None else []
        homes: dict[str, Item] = {group(item): item for item in reversed(carriers)}
        relation = step.relation or Relation.NEXT_TO
        for item in (i for i in self._chosen(step.thing) if i not in carriers):
            if carriers and group(item) not in homes:
                raise OpenError(f"I see nothing {group(item)} to put the {item.label} in or on.")
            home = homes.setdefault(group(item), item)
            mates = [home] if carriers else [i for i in self.stock.items if i is not item and group(i) == group(item)]
            if home is not item and not any(self._holds(relation, item, mate) for mate in mates):
                yield PlannedDeed(item, self._name(None, item), relation, home, self._name(None, home))

    def _swap(self, step: Step) -> Iterator[PlannedDeed]:
        """One aside, the other to its place, and the first to the other's."""
        both = [item for thing in (step.thing, step.reference) if thing is not None for item in self._chosen(thing)]
        if len(both) != 2 or both[0] is both[1]:
            raise OpenError(f"Which two should I swap? You named {len(both)}: {listed(both)}.")
        first, second = both
        here, there = (Spot(xy_of(item), EXACT_M, f"where the {item.label} was") for item in both)
        names = self._name(step.thing, first), self._name(step.reference or step.thing, second)
        free = aside(first, self.stock)
        if free is None:
            raise OpenError("There is no free place to put something aside.")
        yield PlannedDeed(first, names[0], spot=free)
        yield PlannedDeed(second, names[1], spot=here)
        yield PlannedDeed(first, names[0], spot=there)

    def _line_up(self, step: Step) -> Iterator[PlannedDeed]:
        """A row from the left to the right, else from near to far; what stands in it already is left alone."""
        row, sides = self._chosen(step.thing), self.stock.sides
        if sides is None:
            raise OpenError("The camera looks in no direction in which a row has a left and a right.")
        if len(row) < 2:
            raise OpenError(f"I see one of them: {listed(row)}.")
        spots = row_of(row, self.stock, [toward(way, sides) for way in (Direction.LEFT, Direction.CLOSER)])
        if spots is None:
            raise OpenError("There is no free place for a row of them.")
        for item, spot in spots:
            yield PlannedDeed(item, self._name(step.thing, item), spot=spot)

    def _clear(self, step: Step) -> Iterator[PlannedDeed]:
        """What stands on a thing or in it is put on the table, each at a place of its own, the topmost first."""
        if step.thing is not None and step.thing.noun == "table":
            raise OpenError("Where should I put what is on the table?")
        bases = self._chosen(step.thing)
        if step.thing is not None and not step.thing.label:  # a pile stands on what carries nothing by itself
            bases = [item for item in bases if not is_carrier(item)]
        excluded = self._excluded()
        named = self.stock.items if step.reference is None else self._chosen(step.reference)
        wanted = [item for item in named if item not in excluded]
        on = self._above(wanted, bases)
        unsure = [item for item in on if not item.is_clear and not is_of_a_rim(item, self.stock)]
        if unsure:
            raise OpenError(f"I am not sure what stands there: {listed(unsure)}.")
        taken: list[tuple[Item, Spot]] = []
        for item in sorted(on, key=lambda item: -item.object.bottom_m):
            spot = aside(item, self.stock, taken)
            if spot is None:
                raise OpenError(f"There is no free place to put the {item.label} aside.")
            taken.append((item, spot))
            yield PlannedDeed(item, self._name(step.reference, item), spot=spot)

    def _above(self, wanted: Sequence[Item], bases: Sequence[Item]) -> list[Item]:
        """Of some things those that stand on others or in them, and what stands on those."""
        above: list[Item] = []
        below = list(bases)
        while below:
            here = [
                item
                for item in wanted
                if not any(item is other for other in above)
                and any(self._holds(relation, item, base) for relation in _UPON for base in below if base is not item)
            ]
            above += here
            below = here
        return above

    def _at_spot(self, step: Step, place: Place) -> Iterator[PlannedDeed]:
        """ "back where it was", "10 cm to the left", "in the middle of the table"."""
        if step.thing is None or step.thing.is_it:
            yield self._it_at_spot(place)
            return
        for item in self._chosen(step.thing):
            spot = self._spot(item, place)
            if distance_m(spot.xy_m, xy_of(item)) > spot.radius_m:
                yield PlannedDeed(item, self._name(step.thing, item), spot=spot)

    def _it_at_spot(self, place: Place) -> PlannedDeed:
        """What is in the gripper, else what was moved last: "put it back"."""
        last = self.moved[-1] if self.moved else None
        if self.stock.held is not None:
            if place.kind == "back" and last is not None and last.to_xy_m is None:
                spot = Spot(last.from_xy_m, EXACT_M, "back where it was")
            elif place.kind == "middle":
                spot = middle_of(self.stock)
            else:
                raise OpenError("Where should I put what I hold?")
            return PlannedDeed(None, ObjectReference(self.stock.held.name, ()), spot=spot)
        if last is None or last.to_xy_m is None:
            raise OpenError("I have moved nothing that you could mean. What should I move?")
        item = self._last_moved()
        if item is None:
            raise OpenError("What I moved last is no longer where I put it.")
        return PlannedDeed(item, ObjectReference(item.label, ()), spot=self._spot(item, place))

    def _spot(self, item: Item, place: Place) -> Spot:
        if place.kind == "back":
            return Spot(self._was(item), EXACT_M, "back where it was")
        if place.kind == "middle":
            return middle_of(self.stock)
        if place.kind == "between":
            return self._between(item, place)
        sides = self.stock.sides
        if sides is not None and place.kind in PARTS:
            corners = CORNERS if place.kind == "corner" else (place.kind,)
            ways = [[toward(_WAYS[word], sides) for word in corner.split()[1:]] for corner in corners]
            spots = [spot for way in ways if (spot := free_in(item, self.stock, way)) is not None]
            spot = min(spots, key=lambda spot: distance_m(spot.xy_m, xy_of(item)), default=None)
            if spot is None:
                raise OpenError(f"Nothing has room {place.describe()}. Where else?")
            return replace(spot, text=place.describe())
        if sides is None or place.direction is None:
            raise OpenError("The camera looks in no direction in which the table has a left and a right.")
        x, y = xy_of(item) + toward(place.direction, sides) * place.distance_m
        low, high = self.stock.area_m
        beyond_m = float(np.max([low - (x, y), (x, y) - high]))
        if beyond_m > 0.0:
            raise OpenError(f"That is {100 * beyond_m:.0f} cm beyond the table that I reach. How far should it go?")
        return Spot((float(x), float(y)), EXACT_M, place.describe())

    def _between(self, item: Item, place: Place) -> Spot:
        """The middle of what is free between two things."""
        pair = [one for thing in place.things for one in self._chosen(thing)]
        if len(pair) != 2 or pair[0] is pair[1] or item in pair:
            raise OpenError(f"Between which two? You named {listed(pair)}.")
        gap_m, spot = between(pair[0], pair[1])
        needed_m = 2 * outline_radius_m(item.object.shape) + 2 * LEAST_GAP_M
        if gap_m < needed_m or not is_free(item, spot, self.stock):
            told = f"{place.describe().capitalize()} {100 * max(gap_m, 0.0):.0f} cm are free"
            raise OpenError(f"{told}, and the {item.label} needs {100 * needed_m:.0f} cm. Where else?")
        return replace(spot, text=place.describe())

    def _was(self, item: Item) -> tuple[float, float]:
        """Where a thing stood before it was moved last.

        Raises:
            OpenError: nobody saw it moved.
        """
        for moved in reversed(self.moved):
            if moved.to_xy_m is not None and distance_m(moved.to_xy_m, xy_of(item)) <= ROUGH_M:
                return moved.from_xy_m
        raise OpenError(f"I do not know where the {item.label} was before.")
