"""Each faulty plant does wrong what its name says."""

from __future__ import annotations

import numpy as np
import pytest

from qwen2vl_robot.config import ObjectSpec
from qwen2vl_robot.messages import ApprovedMotion, Motion
from qwen2vl_robot.plant import faulty
from qwen2vl_robot.plant.cell import Plant
from qwen2vl_robot.plant.client import FAULTS
from tests.cells import admit, carry_through, grip, reach

SCENE, SEED = "scenes/tabletop.yaml", 5
BLOCK = (ObjectSpec(colour="red", kind="block", position_m=(0.5, 0.1)),)
STILL = np.zeros(7)


def made(kind: type[Plant]) -> Plant:
    return kind(SCENE, SEED, BLOCK, 1)


def run(plant: Plant, motion: Motion) -> None:
    approved: ApprovedMotion = admit(motion, plant, _Clock(plant))
    plant.execute(approved)
    carry_through(plant, _Clock(plant))
    plant.advance(0.5)


class _Clock:
    """The plant's clock, which cannot be slept by."""

    def __init__(self, plant: Plant) -> None:
        self.now_ns = plant.now_ns
        self.sleep = plant.advance


def test_every_fault_is_a_plant() -> None:
    assert all(issubclass(getattr(faulty, name), Plant) for name in FAULTS)


def test_an_echoing_driver_reports_a_motion_that_the_arm_never_made() -> None:
    plant = made(faulty.Echoing)
    start_rad = plant.state().q_rad
    run(plant, reach(start_rad, STILL + 0.2))
    assert plant.state().q_rad == pytest.approx(start_rad + 0.2, abs=0.01)
    assert plant._world.robot.arm_state()[0] == pytest.approx(start_rad, abs=0.01)


@pytest.mark.parametrize(("kind", "least_m"), [(Plant, 0.0), (faulty.HalfClosed, 0.044)])
def test_a_half_closed_gripper_stops_at_45_mm(kind: type[Plant], least_m: float) -> None:
    plant = made(kind)
    run(plant, grip(0.0))
    assert least_m <= plant.state().gripper_width_m < least_m + 0.005


@pytest.mark.parametrize(("kind", "moves"), [(Plant, False), (faulty.Bumped, True)])
def test_a_bump_moves_what_stands_on_the_table(kind: type[Plant], moves: bool) -> None:
    plant = made(kind)
    stood = plant.true_objects()["red block"].T_base_object
    run(plant, reach(plant.state().q_rad, STILL + 0.02))
    moved_m = float(np.linalg.norm(plant.true_objects()["red block"].T_base_object[:3, 3] - stood[:3, 3]))
    assert (moved_m > 0.005) == moves


def test_what_is_lifted_slips_once() -> None:
    plant = made(faulty.Slipping)
    lifted = plant.true_objects()["red block"].T_base_object.copy()
    lifted[2, 3] += 0.2
    heights_m = []
    for _ in range(2):
        plant._world.set_pose("red block", lifted)
        plant.advance(0.01)
        heights_m.append(float(plant.true_objects()["red block"].T_base_object[2, 3]))
    assert heights_m[0] < lifted[2, 3] - 0.07
    assert heights_m[1] > lifted[2, 3] - 0.02


def test_a_second_thing_looks_like_the_first() -> None:
    plant = made(faulty.Doubled)
    assert "second" in plant._world.names()
    assert "second" not in plant.true_objects()
