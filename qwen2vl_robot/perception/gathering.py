"""A planner's box and bodies → the same, with pieces of one thing joined where the box says that they are one.

A thing of several colours or depths falls into pieces. A box holds them all; geometry has to agree that they hang
together, and that no solid explains each of them alone.
"""

from __future__ import annotations

import numpy as np

from qwen2vl_robot.geometry import Array, intersection_over_union
from qwen2vl_robot.perception.bodies import Body, cover, measure
from qwen2vl_robot.perception.segments import Segment, make_segment
from qwen2vl_robot.perception.view import LevelledView

_INSIDE_RATIO = 0.85  # of a piece's pixels
_BETTER_IOU = 0.1  # than the best piece alone
_GAP_M = 0.015  # between points of pieces that hang together; an edge hides some millimetres
_SAMPLE = 600  # points of each piece


def gathered(view: LevelledView, bodies: list[Body], box_px: Array) -> list[Body]:
    """Join the pieces in a box (4,), pixels, into one body, the last of those that are returned, if they are one."""
    pieces = [body for body in bodies if _share_inside(body, box_px) >= _INSIDE_RATIO]
    if len(pieces) < 2 or all(body.is_explained for body in pieces):
        return bodies
    mask = np.logical_or.reduce([body.segment.mask for body in pieces])
    whole = make_segment(view, mask)
    alone = max(_overlap(box_px, body.segment) for body in pieces)
    if whole is None or _overlap(box_px, whole) < alone + _BETTER_IOU or not _hang_together(pieces):
        return bodies
    rest = [body for body in bodies if body not in pieces]
    everything = cover(view, [body.segment for body in bodies])
    return [*rest, measure(view, whole, everything, [body.best.solid for body in rest])]


def _share_inside(body: Body, box_px: Array) -> float:
    x0, y0, x1, y1 = np.clip(np.round(box_px), 0, 10_000).astype(int)
    return float(body.segment.mask[y0:y1, x0:x1].sum() / max(body.segment.mask.sum(), 1))


def _overlap(box_px: Array, segment: Segment) -> float:
    return float(intersection_over_union(box_px, segment.extent_px[None])[0])


def _hang_together(pieces: list[Body]) -> bool:
    """Check that each piece is near another one, and that all are reached from the first."""
    points_m = [body.segment.smooth_m[:: len(body.segment.smooth_m) // _SAMPLE + 1] for body in pieces]
    reached, waiting = {0}, [0]
    while waiting:
        here = points_m[waiting.pop()]
        for index, there in enumerate(points_m):
            if index not in reached and np.linalg.norm(here[:, None] - there, axis=-1).min() < _GAP_M:
                reached.add(index)
                waiting.append(index)
    return len(reached) == len(pieces)
