"""A small scene → its table as it was measured once, and what a plan would bring about on it; nothing moves.

The measured things are moved by the words of a plan's actions alone: no motion is made. Whether the hand could grip a
thing is asked, whether it could reach it is not.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace

import numpy as np

from qwen2vl_robot.answering import Past
from qwen2vl_robot.config import ObjectSpec, load_robot
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Action, ImageBox, ObjectReference, Observation, Plan, Relation, Verb
from qwen2vl_robot.motion.grasps import Hand, grasps, measure_hand
from qwen2vl_robot.perception import Stock, Surroundings, take_stock
from qwen2vl_robot.perception.stock import Item
from qwen2vl_robot.plant.client import PlantProcess
from qwen2vl_robot.reading import Asks, Question, Thing
from qwen2vl_robot.relations import outline_radius_m, relation_holds, toward
from qwen2vl_robot.sides import sides_seen_from
from qwen2vl_robot.spots import Moved
from qwen2vl_robot.stocktaking import match

ROBOT = "franka_panda"
_SCENE, _SEED = "scenes/phrases.yaml", 7
_PUSH_M, _GAP_M = 0.10, 0.06  # how far a push goes, and how far from a thing "beside" it is
_LEAST_IOU = 0.5
_UPON = (Relation.ON, Relation.IN)
_SAME_BOX = 0.9


class UnclearError(Exception):
    """What a plan names is none of the measured things, or may be several: in the controller a question."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What a plan would bring about.

    Attributes:
        placed: name → how it was put down last: a relation and the name of what it is beside, or a spot.
        pushed: name → direction.
        held: what the gripper holds at the end, "" for nothing.
        others: "home" and "wait 2".
    """

    placed: dict[str, tuple[str, str]] = field(default_factory=dict)
    pushed: dict[str, str] = field(default_factory=dict)
    held: str = ""
    others: tuple[str, ...] = ()

    @property
    def is_nothing(self) -> bool:
        return not (self.placed or self.pushed or self.held or self.others)


@dataclass(slots=True)
class Table:
    """What stands where, by name.

    Attributes:
        items: name → the thing as it was measured, where it is now.
        moved: what was moved so far, the oldest first.
        hand: what grips; nothing is picked up that it cannot grip from above.
        held: the name of what the gripper holds.
        last: what was said before, and what it moved.
    """

    stock: Stock
    items: dict[str, Item]
    around: Surroundings
    hand: Hand
    moved: tuple[Moved, ...] = ()
    held: str = ""
    last: Past | None = None

    def xy_m(self, name: str) -> Array:
        """Where a thing stands, base frame."""
        xy: Array = self.items[name].object.T_base_object[:2, 3]
        return xy

    def seen(self) -> Stock:
        """The stock as it is now."""
        now = {id(old): new for old, new in self._renewed()}
        items = tuple(now.get(id(item), item) for item in self.stock.items)
        held = self.items[self.held].object if self.held else None
        return replace(self.stock, items=tuple(i for i in items if i.object is not held), held=held)

    def _renewed(self) -> list[tuple[Item, Item]]:
        return [(next(i for i in self.stock.items if i.box == item.box), item) for item in self.items.values()]

    def do(self, plan: Plan) -> Effects:
        """Carry out a plan by its words.

        Raises:
            UnclearError: it names what is not there, or what may be several.
            MotionError: it picks up what the hand cannot grip.
        """
        effects = Effects(held=self.held)
        for action in plan.actions:
            effects = self._do(action, effects)
        return replace(effects, held=self.held)

    def _do(self, action: Action, effects: Effects) -> Effects:
        if action.verb is Verb.HOME:
            return replace(effects, others=(*effects.others, "home"))
        if action.verb is Verb.WAIT:
            return replace(effects, others=(*effects.others, f"wait {action.seconds or 0:g}"))
        if action.verb is Verb.PICK:
            if self.held:
                raise UnclearError("the gripper is full")
            self.held = self._name_of(action.object)
            grasps(self.items[self.held].object, self.hand, 0.0)
            self.moved = (*self.moved, Moved(self._pair(self.held), None))
            return effects
        if action.verb is Verb.PUSH and action.direction is not None and self.stock.sides is not None:
            name = self._name_of(action.object)
            self._shift(name, self.xy_m(name) + toward(action.direction, self.stock.sides) * _PUSH_M)
            return replace(effects, pushed={**effects.pushed, name: action.direction.value})
        if action.verb is Verb.PLACE:
            return self._place(action, effects)
        return effects

    def _place(self, action: Action, effects: Effects) -> Effects:
        name, self.held = self.held, ""
        if not name:
            raise UnclearError("nothing is held")
        was = self.moved[-1].from_xy_m
        self.moved = self.moved[:-1]
        if action.relation is None or action.object is None:
            if action.spot is None:
                raise UnclearError("nobody said where")
            self._shift(name, np.array(action.spot.xy_m), was=was)
            return replace(effects, placed={**effects.placed, name: ("at", action.spot.text)})
        beside = self._name_of(action.object)
        below = self.items[beside].object
        is_there = relation_holds(action.relation, self.items[name].object, below, self.around.rules, self.stock.sides)
        if is_there and action.spot is None and action.relation in _UPON:
            return effects  # what holds already is left as it is
        to = self.xy_m(beside) if action.spot is None else np.array(action.spot.xy_m)
        height_m = below.top_m if action.relation is Relation.ON else below.bottom_m
        if action.relation not in _UPON and action.spot is None:
            to = to + self._aside(action.relation, name, beside)
            height_m = 0.0
        self._shift(name, to, height_m, was=was)
        return replace(effects, placed={**effects.placed, name: (action.relation.value, beside)})

    def _aside(self, relation: Relation, name: str, beside: str) -> Array:
        radii_m = sum(outline_radius_m(self.items[thing].object.shape) for thing in (name, beside))
        side = Relation.LEFT_OF if relation is Relation.NEXT_TO else relation
        way: Array = toward(side, self.stock.sides) if self.stock.sides is not None else np.array([0.0, 1.0])
        return way * (radii_m + _GAP_M)

    def _shift(self, name: str, to_xy_m: Array, bottom_m: float = 0.0, was: tuple[float, float] | None = None) -> None:
        """Put a thing somewhere, and note it as moved."""
        item = self.items[name]
        pose = np.array(item.object.T_base_object)
        was = was or self._pair(name)
        pose[:2, 3], pose[2, 3] = to_xy_m, bottom_m + pose[2, 3] - item.object.bottom_m
        pose.setflags(write=False)
        self.items[name] = replace(item, object=replace(item.object, T_base_object=pose))
        self.moved = (*self.moved, Moved(was, self._pair(name)))

    def _pair(self, name: str) -> tuple[float, float]:
        x, y = self.xy_m(name)
        return (float(x), float(y))

    def _name_of(self, named: ObjectReference | None) -> str:
        """Which thing a plan means: that in its box, and of several the one that its `where` chooses."""
        if named is None:
            raise UnclearError("nothing is named")
        found = {name for box in named.boxes if (name := self._in_box(box))}
        if named.where is not None and len(found) > 1:
            chosen = match(Question(Asks.WHAT, _described(named)), self.seen(), self.around).sure
            found &= {name for name, item in self.items.items() if any(item is one for one in chosen)}
        if len(found) != 1:
            raise UnclearError(f"{named.label}: {len(found)} of them")
        return found.pop()

    def _in_box(self, box: ImageBox) -> str:
        best = max(self.items, key=lambda name: box.iou(self.items[name].box))
        return best if box.iou(self.items[best].box) > _SAME_BOX else ""

    def boxes_of(self, noun: str) -> tuple[ImageBox, ...]:
        """Where a model that sees as well as the depth does would see a noun."""
        colour, _, kind = noun.rpartition(" ")
        here = self.seen()
        found = match(Question(Asks.WHAT, Thing(kind, colour)), here, self.around)
        if not found.sure and kind in self.around.words.colours:
            found = match(Question(Asks.WHAT, Thing(colour=kind)), here, self.around)
        return tuple(item.box for item in found.sure)

    def heard(self, text: str) -> Table:
        """The table with the sides that a sentence speaks of: the picture's, or the robot's own."""
        around, sides = self.around.heard(text), self.stock.sides
        pose = None if sides is None else sides.T_base_camera
        if pose is None:
            return self.copy()
        here = replace(self.stock, sides=sides_seen_from(around.rules.seen_from, pose))
        return replace(self.copy(), stock=here, around=around)

    def copy(self) -> Table:
        return replace(self, items=dict(self.items))


def _described(named: ObjectReference) -> Thing:
    colour, _, kind = named.label.rpartition(" ")
    where = named.where
    if where is None:
        return Thing(kind, colour)
    if where.kind in {relation.value for relation in Relation}:
        ref_colour, _, ref_kind = (where.reference or "").rpartition(" ")
        return Thing(kind, colour, relation=Relation(where.kind), reference=Thing(ref_kind, ref_colour))
    return Thing(kind, colour, superlative="" if where.kind == "all" else where.kind)


def lay(things: dict[str, tuple[float, float]], around: Surroundings) -> Table:
    """Put a small scene on the plant's table and measure it once.

    Args:
        things: "COLOUR KIND", with a number behind it where there are several → place, base frame, metres.

    Raises:
        UnclearError: a thing is not measured as what it is.
    """
    first = {name: xy_m for name, xy_m in things.items() if not name.endswith(" 2")}
    table = _lay(first, around)
    second = {name: xy_m for name, xy_m in things.items() if name not in first}
    if not second:
        return table
    other = _lay(second, around)  # a plant has no two things of one name
    items = tuple(sorted((*table.stock.items, *other.items.values()), key=lambda item: item.box.x0))
    return replace(table, stock=replace(table.stock, items=items), items={**table.items, **other.items})


@functools.cache
def _hand() -> Hand:
    profile = load_robot(ROBOT)
    return measure_hand(Kinematics(profile), profile)


def _lay(things: dict[str, tuple[float, float]], around: Surroundings) -> Table:
    specs = tuple(
        ObjectSpec(colour=name.split()[0], kind=name.split()[1], position_m=xy_m) for name, xy_m in things.items()
    )
    with PlantProcess(_SCENE, _SEED, always=specs, count=len(specs), camera="ideal") as plant:
        stock = take_stock(Observation(plant.link.capture(), plant.link.state()), around)
    items: dict[str, Item] = {}
    for name, xy_m in things.items():
        item = min(stock.items, key=lambda item: float(np.hypot(*(item.object.T_base_object[:2, 3] - xy_m))))
        if item.label.split() != name.split()[:2] or any(item is other for other in items.values()):
            raise UnclearError(f"{name} is measured as {item.label}")
        items[name] = item
    return Table(stock, items, around, _hand())
