"""Everything in view → spots of the table, or of a thing, where something has room."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import Container, Relation, shape_size_m
from qwen2vl_robot.perception import Stock
from qwen2vl_robot.perception.stock import Item
from qwen2vl_robot.relations import outline_radius_m
from qwen2vl_robot.spots import Spot

EXACT_M, ROUGH_M = 0.015, 0.05  # how far from a spot that was told in numbers, or in words
ROW_GAP_M = 0.035  # between things in a row: room for the fingers
LEAST_GAP_M = 0.02
_RIM = (0.85, 1.1)  # of the radius, where a rim is
_FLAT_RATIO = 0.25  # of height to width
_CORNERS = (0.5, 1 / 3)  # of the half of the table: from there on it is a corner, and where that is full
_GAPS_M = (ROW_GAP_M, LEAST_GAP_M)
_GRID = 20  # points a side of the table's working area at which something could be put aside


def aside(item: Item, stock: Stock, taken: Sequence[tuple[Item, Spot]] = ()) -> Spot | None:
    """The free point of the table's working area that is nearest to what is seen; None where nothing has room.

    Args:
        taken: what will stand where, beside what stands there now.
    """
    radius_m = outline_radius_m(item.object.shape)
    grid = _grid(stock, radius_m, _GRID)
    things = [(np.array(xy_of(other)), outline_radius_m(other.object.shape)) for other in stock.items]
    things += [(np.array(spot.xy_m), outline_radius_m(other.object.shape)) for other, spot in taken]
    free_m = np.min([np.linalg.norm(grid - xy, axis=1) - r_m for xy, r_m in things], axis=0)
    is_free = free_m >= radius_m + min(ROW_GAP_M, float(np.max(free_m)) - radius_m)  # at worst the roomiest
    if np.max(free_m) - radius_m < LEAST_GAP_M:
        return None
    off_m = np.linalg.norm(grid - np.mean([xy for xy, _ in things], axis=0), axis=1)
    x, y = grid[int(np.where(is_free, off_m, np.inf).argmin())]
    return Spot((float(x), float(y)), ROUGH_M / 2, "aside")


def _grid(stock: Stock, radius_m: float, side: int) -> Array:
    """Points (n, 2), so many a side of the table's working area, at which a thing of a radius lies on it whole."""
    (x0, y0), (x1, y1) = stock.area_m
    xs, ys = (np.linspace(a + radius_m, b - radius_m, side) for a, b in ((x0, x1), (y0, y1)))
    return np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)


def row_of(items: Sequence[Item], stock: Stock, axes: Sequence[Array]) -> list[tuple[Item, Spot]] | None:
    """Where things go that are to stand in a row along one of some axes, the first of them that has room; else None.

    One of them stays where it is. Of all rows that are free the one is taken in which the least is carried.
    """
    for axis in axes:
        ordered = sorted(items, key=lambda item: -float(axis @ xy_of(item)))
        rows = [_row_around(ordered, at, axis) for at in range(len(items))]
        free = [row for row in rows if _is_free(row, stock)]
        if free:
            best = min(free, key=lambda row: sum(distance_m(xy, xy_of(item)) for item, xy in row))
            moved = [(item, xy) for item, xy in best if distance_m(xy, xy_of(item)) > EXACT_M]
            return [(item, Spot(xy, EXACT_M, "in a row")) for item, xy in moved]
    return None


def _row_around(items: Sequence[Item], at: int, axis: Array) -> list[tuple[Item, tuple[float, float]]]:
    """Each thing with its place in the row in which one stays."""
    radii_m = [outline_radius_m(item.object.shape) for item in items]
    steps_m = [a + b + ROW_GAP_M for a, b in zip(radii_m, radii_m[1:], strict=False)]
    along_m = np.concatenate([[0.0], np.cumsum(steps_m)])
    points = np.array(xy_of(items[at])) - np.outer(along_m - along_m[at], axis)
    return [(item, (float(x), float(y))) for item, (x, y) in zip(items, points, strict=True)]


def _is_free(row: Sequence[tuple[Item, tuple[float, float]]], stock: Stock) -> bool:
    """Whether each thing of a row, put there one after the other, finds its place free and on the table."""
    (x0, y0), (x1, y1) = stock.area_m
    waiting = [item for item, _ in row]
    others = [item for item in stock.items if all(item is not mate for mate in waiting)]
    for item, (x, y) in row:
        waiting = [mate for mate in waiting if mate is not item]
        radius_m = outline_radius_m(item.object.shape)
        if not (x0 <= x <= x1 and y0 <= y <= y1):
            return False
        for other in (*others, *waiting):
            gap_m = distance_m((x, y), xy_of(other)) - radius_m - outline_radius_m(other.object.shape)
            if gap_m < LEAST_GAP_M and distance_m((x, y), xy_of(item)) > EXACT_M:
                return False
    return True


def between(one: Item, other: Item) -> tuple[float, Spot]:
    """How many metres are free between the outlines of two things, and the middle of that."""
    a, b = np.array(xy_of(one)), np.array(xy_of(other))
    away_m = float(np.linalg.norm(b - a))
    ends_m = outline_radius_m(one.object.shape), away_m - outline_radius_m(other.object.shape)
    x, y = a + (b - a) / max(away_m, LEAST_GAP_M) * sum(ends_m) / 2
    return ends_m[1] - ends_m[0], Spot((float(x), float(y)), EXACT_M, "between")


def is_free(item: Item, spot: Spot, stock: Stock) -> bool:
    """Whether a thing has room at a spot, beside everything but itself, and on the table."""
    return _is_free([(item, spot.xy_m)], stock)


def free_in(item: Item, stock: Stock, ways_xy: Sequence[Array]) -> Spot | None:
    """Where a thing has room in a half of the table, or in a corner, nearest to where it is; else None.

    Args:
        ways_xy: the direction in which the half lies, or the two of the corner.
    """
    radius_m = outline_radius_m(item.object.shape)
    grid = _grid(stock, radius_m, 2 * _GRID)
    half_m = (stock.area_m[1] - stock.area_m[0]) / 2
    off_m = grid - stock.area_m.mean(axis=0)
    if len(ways_xy) == 1:
        parts = [grid[off_m @ ways_xy[0] >= radius_m]]  # the whole thing lies in that half
    else:
        shares = np.min([off_m / half_m @ _edge(way) for way in ways_xy], axis=0)
        parts = [grid[shares >= ratio] for ratio in _CORNERS]
    others = [other for other in stock.items if other is not item]
    for part, least_m in ((part, gap_m) for part in parts for gap_m in _GAPS_M):
        for x, y in part[np.argsort(np.linalg.norm(part - xy_of(item), axis=1))]:
            gaps_m = [distance_m((x, y), xy_of(o)) - radius_m - outline_radius_m(o.object.shape) for o in others]
            if min(gaps_m, default=ROW_GAP_M) >= least_m:
                return Spot((float(x), float(y)), EXACT_M, "in that part")
    return None


def _edge(way_xy: Array) -> Array:
    """The direction along the table's edges that is nearest to one of the picture: seen askew it keeps its corners."""
    at = int(np.abs(way_xy).argmax())
    edge = np.zeros(2)
    edge[at] = np.sign(way_xy[at])
    return edge


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


def is_carrier(item: Item) -> bool:
    """Whether a thing is one that others are put on or in: flat, or hollow."""
    return is_flat(item) or isinstance(item.object.shape, Container)


def is_of_a_rim(item: Item, stock: Stock) -> bool:
    """Whether an unexplained piece lies on the rim of a hollow thing, as what is inside does not."""
    hollow = [other for other in stock.items if isinstance(other.object.shape, Container)]
    shares = [distance_m(xy_of(item), xy_of(other)) / outline_radius_m(other.object.shape) for other in hollow]
    return not item.is_explained and any(_RIM[0] <= ratio <= _RIM[1] for ratio in shares)


def xy_of(item: Item) -> tuple[float, float]:
    """Where a thing stands, base frame."""
    x, y = item.object.T_base_object[:2, 3]
    return (float(x), float(y))


def distance_m(a: Sequence[float], b: Sequence[float]) -> float:
    """Horizontal distance."""
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))
