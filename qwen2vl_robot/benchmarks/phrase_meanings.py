"""What a sentence means, in a line written by hand → whether a plan's effects on a table are that."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import numpy as np

from qwen2vl_robot.benchmarks.tables import Effects, Table
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import Direction, Relation
from qwen2vl_robot.relations import outline_radius_m, toward

_EXACT_M, _ROUGH_M = 0.02, 0.06
_BESIDE_M = 0.06  # free between two things that stand beside each other, at most
_CORNER_RATIO = 1 / 3  # of the half of the table's working area, from its middle
_RELATIONS = "|".join(relation.value for relation in Relation)
_UPON = ("on", "in")
_WAYS = {"left": Direction.LEFT, "right": Direction.RIGHT, "far": Direction.AWAY, "near": Direction.CLOSER}
_SHAPES = (
    ("hold", r"hold (?P<x>.+)"),
    ("tower", r"tower (?P<x>.+)"),
    ("row", r"row (?P<x>.+)"),
    ("swap", r"swap (?P<x>.+) and (?P<y>.+)"),
    ("pushed", r"(?P<x>.+) pushed (?P<y>\w+)"),
    ("back", r"(?P<x>.+) back"),
    ("middle", r"(?P<x>.+) middle"),
    ("between", r"(?P<x>.+) between (?P<y>.+) and (?P<z>.+)"),
    ("part", r"(?P<x>.+) (?:part|corner) (?P<y>.+)"),
    ("by", r"(?P<x>.+) at (?P<y>\w+) (?P<z>[0-9.]+)"),
    ("off", r"(?P<x>.+) off (?P<y>.+)"),
    ("some", r"(?P<n>\d+) of (?P<x>.+?) (?P<r>" + _RELATIONS + r") (?P<y>.+)"),
    ("put", r"(?P<x>.+?) (?P<r>" + _RELATIONS + r") (?P<y>.+)"),
    ("other", r"(?P<x>home|wait \d+)"),
)


class Meant:
    """Holds the effects of a plan to what was meant, part by part.

    Args:
        before, after: the table as it was, and as the plan leaves it.
    """

    def __init__(self, before: Table, after: Table, effects: Effects) -> None:
        self._before, self._after, self._effects = before, after, effects
        self._told = set[str]()  # what the parts so far speak of
        self._others = list[str]()

    def is_all(self, meaning: str) -> bool:
        """Whether every part holds, and nothing else was done."""
        for part in meaning.split(";"):
            if not self._holds(part.strip()):
                return False
        moved = {*self._effects.placed, *self._effects.pushed, *filter(None, [self._effects.held])}
        return moved <= self._told and self._others == list(self._effects.others)

    def _holds(self, part: str) -> bool:
        for kind, pattern in _SHAPES:
            found = re.fullmatch(pattern, part)
            if found is not None:
                test: Callable[[dict[str, str]], bool] = getattr(self, f"_{kind}")
                return test(found.groupdict())
        raise ValueError(f"{part!r} means nothing here")

    def _tell(self, names: str) -> list[str]:
        told = [name.strip() for name in re.split("[,/]", names)]
        for name in told:
            self._after.xy_m(name)  # a name that is not on the table is a mistake of the file
        self._told.update(told)
        return told

    def _other(self, said: dict[str, str]) -> bool:
        self._others.append(said["x"])
        return True

    def _hold(self, said: dict[str, str]) -> bool:
        return [self._effects.held] == self._tell(said["x"])

    def _pushed(self, said: dict[str, str]) -> bool:
        return all(self._effects.pushed.get(name) == said["y"] for name in self._tell(said["x"]))

    def _is_put(self, name: str, relation: str, to: str) -> bool:
        how, where = self._effects.placed.get(name, ("", ""))
        if how == "at" and relation == Relation.NEXT_TO.value:  # "side by side" puts two in a row
            return self._gap_m(name, to) < _BESIDE_M
        is_alike = how == relation or (to.endswith("plate") and {how, relation} == set(_UPON))
        return is_alike and where == to

    def _gap_m(self, name: str, other: str) -> float:
        """What is free between two things where they are afterwards."""
        radii_m = sum(outline_radius_m(self._after.items[thing].object.shape) for thing in (name, other))
        return float(np.linalg.norm(self._after.xy_m(name) - self._after.xy_m(other))) - radii_m

    def _put(self, said: dict[str, str]) -> bool:
        return all(self._is_put(name, said["r"], said["y"]) for name in self._tell(said["x"]))

    def _some(self, said: dict[str, str]) -> bool:
        put = [name for name in self._tell(said["x"]) if self._is_put(name, said["r"], said["y"])]
        return len(put) == len({*self._effects.placed}) == int(said["n"])

    def _tower(self, said: dict[str, str]) -> bool:
        names = self._tell(said["x"])
        below = {name: to for name, (how, to) in self._effects.placed.items() if how == "on"}
        orders = itertools.permutations(names)
        return any(
            all(below.get(above) == base for base, above in zip(order, order[1:], strict=False)) for order in orders
        )

    def _row(self, said: dict[str, str]) -> bool:
        points = np.array([self._after.xy_m(name) for name in self._tell(said["x"])])
        _, spread_m, _ = np.linalg.svd(points - points.mean(axis=0))
        return len(self._effects.placed) > 0 and float(spread_m[1]) < _ROUGH_M

    def _swap(self, said: dict[str, str]) -> bool:
        (x,), (y,) = self._tell(said["x"]), self._tell(said["y"])
        return self._is_at(x, self._before.xy_m(y)) and self._is_at(y, self._before.xy_m(x))

    def _back(self, said: dict[str, str]) -> bool:
        (name,) = self._tell(said["x"])
        return self._is_at(name, np.array(self._before.moved[-1].from_xy_m))

    def _middle(self, said: dict[str, str]) -> bool:
        (name,) = self._tell(said["x"])
        return self._is_at(name, self._before.stock.area_m.mean(axis=0), _ROUGH_M)

    def _between(self, said: dict[str, str]) -> bool:
        (name,) = self._tell(said["x"])
        a, b, at = self._before.xy_m(said["y"]), self._before.xy_m(said["z"]), self._after.xy_m(name)
        along = (b - a) / np.linalg.norm(b - a)
        share = float((at - a) @ along) / float(np.linalg.norm(b - a))
        off_m = float(np.linalg.norm(at - a - along * ((at - a) @ along)))
        return name in self._effects.placed and 0.2 < share < 0.8 and off_m < _ROUGH_M

    def _part(self, said: dict[str, str]) -> bool:
        (name,) = self._tell(said["x"])
        stock = self._before.stock
        if stock.sides is None or name not in self._effects.placed:
            return False
        off_m = self._after.xy_m(name) - stock.area_m.mean(axis=0)
        half_m = np.abs(stock.area_m[1] - stock.area_m[0]) / 2
        shares = {
            way: float(off_m @ (v := toward(d, stock.sides))) / float(half_m @ np.abs(v)) for way, d in _WAYS.items()
        }
        wanted = said["y"].split()
        if wanted == ["any"]:
            return sum(share > _CORNER_RATIO for share in shares.values()) == 2
        return all(shares[way] > (_CORNER_RATIO if len(wanted) > 1 else 0.0) for way in wanted)

    def _by(self, said: dict[str, str]) -> bool:
        (name,) = self._tell(said["x"])
        sides = self._before.stock.sides
        if sides is None:
            return False
        return self._is_at(name, self._before.xy_m(name) + toward(_WAYS[said["y"]], sides) * float(said["z"]))

    def _off(self, said: dict[str, str]) -> bool:
        carrier = self._after.items[said["y"]].object
        free_m = outline_radius_m(carrier.shape)
        names = self._tell(said["x"])
        return all(
            name in self._effects.placed
            and self._effects.placed[name][0] not in _UPON
            and float(np.linalg.norm(self._after.xy_m(name) - self._after.xy_m(said["y"]))) > free_m
            for name in names
        )

    def _is_at(self, name: str, xy_m: Array, within_m: float = _EXACT_M) -> bool:
        is_moved = name in self._effects.placed
        return is_moved and float(np.linalg.norm(self._after.xy_m(name) - xy_m)) <= within_m


def is_meant(meaning: str, before: Table, after: Table, effects: Effects) -> bool:
    """Whether what was done is one of the meanings, parted by "|"; what moves nothing is none of them."""
    return any(Meant(before, after, effects).is_all(one.strip()) for one in meaning.split(" | "))
