"""Tasks about several things are scored by true poses and sizes alone; each kind with what must not count."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qwen2vl_robot.benchmarks import long
from qwen2vl_robot.benchmarks.long import Long, Things, long_job, summarise_long
from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.geometry import Array, make_pose
from qwen2vl_robot.messages import Box, Cylinder, Instruction, Outcome, Shape, shape_size_m
from qwen2vl_robot.order import understand
from qwen2vl_robot.plant.client import TrueObject
from qwen2vl_robot.programme import is_measured

BLOCK, PLATE = Box((0.05, 0.05, 0.05)), Cylinder(0.15, 0.014)


def thing(label: str, shape: Shape, x: float, y: float, bottom_m: float = 0.0) -> TrueObject:
    T: Array = make_pose([x, y, bottom_m + shape_size_m(shape)[2] / 2], np.eye(3))
    return TrueObject(label, shape, T, 0.0, 0.1, 0.5, True)


def task(make: Callable[[np.random.Generator], long._Task], seed: int = 3) -> long._Task:
    return make(np.random.default_rng(seed))


def at(labels: tuple[str, ...], *places: tuple[float, ...]) -> Things:
    return {label: thing(label, BLOCK, *place) for label, place in zip(labels, places, strict=False)}


def test_a_row_is_a_line_in_any_direction_and_no_corner() -> None:
    row = task(long._row)
    places = [(0.5 + 0.07 * k, 0.1 + 0.06 * k) for k in range(len(row.moved))]
    assert row.holds({}, at(row.moved, *places))
    assert not row.holds({}, at(row.moved, *places[:-1], (places[-1][0], places[-1][1] - 0.12)))


def test_a_tower_stands_and_things_beside_each_other_are_none() -> None:
    tower = task(long._stack)
    assert tower.holds({}, at(tower.moved, *((0.5, 0.1, 0.05 * k) for k in range(len(tower.moved)))))
    assert not tower.holds({}, at(tower.moved, *((0.5, 0.1 + 0.08 * k) for k in range(len(tower.moved)))))


def test_a_swap_is_both_ways() -> None:
    swap = task(long._swap)
    a, b = swap.moved
    before = {a: thing(a, BLOCK, 0.4, 0.1), b: thing(b, BLOCK, 0.5, -0.1)}
    after = {a: thing(a, BLOCK, 0.5, -0.1), b: thing(b, BLOCK, 0.4, 0.1)}
    assert swap.holds(before, after)
    assert not swap.holds(before, {**after, b: before[b]})


def test_each_on_its_own_plate_is_not_two_on_one() -> None:
    each = task(long._each)
    plates = [label for label in each.labels if label.endswith("plate")]
    there = {label: thing(label, PLATE, 0.5, 0.2 * k) for k, label in enumerate(plates)}
    first, second = each.moved
    apart = {first: thing(first, BLOCK, 0.5, 0.0, 0.014), second: thing(second, BLOCK, 0.5, 0.2, 0.014)}
    assert each.holds({}, {**there, **apart})
    together = {first: thing(first, BLOCK, 0.46, 0.0, 0.014), second: thing(second, BLOCK, 0.54, 0.0, 0.014)}
    assert not each.holds({}, {**there, **together})


def test_a_distance_that_is_half_of_what_was_said_is_none() -> None:
    by = task(long._by)
    (label,) = by.moved
    before = at(by.moved, (0.5, 0.0))
    said_m = float(by.sentences[0].split(" cm")[0].split()[-1]) / 100
    assert by.holds(before, at(by.moved, (0.5, said_m)))
    assert not by.holds(before, at(by.moved, (0.5, said_m / 2)))
    assert label in by.sentences[0]


@pytest.mark.parametrize("make", long._TASKS)
def test_every_sentence_follows_from_what_is_measured(make: Callable[[np.random.Generator], long._Task]) -> None:
    for seed in range(20):
        for sentence in task(make, seed).sentences:
            order = understand(Instruction(sentence))
            assert not isinstance(order, Outcome), sentence
            assert order.goal.is_understood, sentence
            assert is_measured(order.todo), sentence


def test_nobody_plans() -> None:
    with pytest.raises(PlannerError):
        long._Nobody().plan(None, Instruction("go home"), ())  # type: ignore[arg-type]


def test_seeds_are_units_and_totals_count_what_was_tried() -> None:
    job = long_job("d435", 3, 7)
    assert [unit.key for unit in job.units] == ["7", "8", "9"]
    assert job.factory.endswith(f":{Long.__name__}")
    result = {"task": "row", "steps": 4, "steps_achieved": 4, "outcome": "achieved", "success": True, "seconds": 9.0}
    totals = summarise_long([result, {**result, "success": False}, {**result, "outcome": "refused", "success": False}])
    assert (totals["success_ratio"], totals["false_success"], totals["steps"]) == (0.3333, 1, 12)
