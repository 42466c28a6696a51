"""Everything in view → spots of the table, or of a thing, where something has room."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qwen2vl_robot.messages import Relation, shape_size_m
from qwen2vl_robot.perception import Stock
from qwen2vl_robot.perception.stock import Item
from qwen2vl_robot.relations import outline_radius_m
from qwen2vl_robot.spots import Spot

EXACT_M, ROUGH_M = 0.015, 0.05  # how far from a spot that was told in numbers, or in words
ROW_GAP_M = 0.035  # between things in a row: room for the fingers
_LEAST_GAP_M = 0.02
_FLAT_RATIO = 0.25  # of height to width
_GRID = 20  # points a side of the table's working area at which something could be put aside


def aside(item: Item, stock: Stock) -> Spot | None:
    """The free point of the table's working area that is nearest to what is seen; None where nothing has room."""
    (x0, y0), (x1, y1) = stock.area_m
    radius_m = outline_radius_m(item.object.shape)
    xs, ys = (np.linspace(a + radius_m, b - radius_m, _GRID) for a, b in ((x0, x1), (y0, y1)))
    grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    things = [(np.array(xy_of(other)), outline_radius_m(other.object.shape)) for other in stock.items]
    free_m = np.min([np.linalg.norm(grid - xy, axis=1) - r_m for xy, r_m in things], axis=0)
    is_free = free_m >= radius_m + min(ROW_GAP_M, float(np.max(free_m)) - radius_m)  # at worst the roomiest
    if np.max(free_m) - radius_m < _LEAST_GAP_M:
        return None
    off_m = np.linalg.norm(grid - np.mean([xy for xy, _ in things], axis=0), axis=1)
    x, y = grid[int(np.where(is_free, off_m, np.inf).argmin())]
    return Spot((float(x), float(y)), ROUGH_M / 2, "aside")


def middle_of(stock: Stock) -> Spot:
    """The middle of the table's working area."""
    x, y = stock.area_m.mean(axis=0)
    return Spot((float(x), float(y)), ROUGH_M, "in the middle of the table")


def side_by_side(items: Sequence[Item], carriers: Sequence[Item], relation: Relation) -> list[Spot | None]:
    """Where several things stand on, or in, the same one: around its middle, which the first would fill alone."""
    spots: list[Spot | None] = []
    for number, (item, carrier) in enumerate(zip(items, carriers, strict=True)):
        mates = [n for n, other in enumerate(carriers) if other is carrier]
        inner_m = min(shape_size_m(carrier.object.shape)[:2]) / 2
        off_m = inner_m - outline_radius_m(item.object.shape)
        if relation not in (Relation.ON, Relation.IN) or len(mates) < 2 or off_m <= 0.0:
            spots.append(None)
            continue
        turn = 2 * np.pi * mates.index(number) / len(mates)
        x, y = xy_of(carrier)
        at = (x + off_m * float(np.cos(turn)), y + off_m * float(np.sin(turn)))
        spots.append(Spot(at, EXACT_M, "beside the others"))
    return spots


def is_flat(item: Item) -> bool:
    """Whether a thing is much wider than high."""
    length_m, width_m, height_m = shape_size_m(item.object.shape)
    return height_m < _FLAT_RATIO * min(length_m, width_m)


def xy_of(item: Item) -> tuple[float, float]:
    """Where a thing stands, base frame."""
    x, y = item.object.T_base_object[:2, 3]
    return (float(x), float(y))


def distance_m(a: Sequence[float], b: Sequence[float]) -> float:
    """Horizontal distance."""
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))
