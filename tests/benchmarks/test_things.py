"""Things that fell onto the table: they rest there, are seen, and what was done with them is counted by the truth."""

from __future__ import annotations

import numpy as np

from qwen2vl_robot.benchmarks.things import REPORTED, BoxPlanner, summarise_things
from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.meshes import Mesh, upright
from qwen2vl_robot.messages import Instruction, Observation, Sphere, Verb
from qwen2vl_robot.plant.heap import HeapProcess


def test_things_fall_and_come_to_rest_where_the_camera_sees_them() -> None:
    with HeapProcess("scenes/tabletop.yaml", 3, always=(), count=0) as plant:
        assert plant.drop((REPORTED.start, REPORTED.stop - 1)) == 2
        things = plant.truth.objects()
        assert set(things) == {"thing", "thing 2"}
        assert all(thing.speed_mps < 0.01 for thing in things.values())
        assert plant.truth.boxes().keys() == things.keys()
        assert plant.true_press_n() == 0.0
        observation = Observation(plant.link.capture(), plant.link.state())
        (action,) = BoxPlanner(plant.truth).plan(observation, Instruction("pick up the thing"), ()).actions
        assert action.verb is Verb.PICK
        assert action.object is not None
        assert action.object.label == "thing"


def test_a_thing_in_parts_collides_less_than_its_hull() -> None:
    file = "random_urdfs/000/000.obj"
    high_m = upright(file)[2] * 0.015
    assert _fallen_m(Mesh(file, high_m, is_in_parts=True)) > _fallen_m(Mesh(file, high_m)) + 0.01


def _fallen_m(mesh: Mesh) -> float:
    """How deep balls fall into a thing from above, all together, metres."""
    (x_m, y_m, z_m), fallen_m = mesh.size_m, [0.0]
    with BulletWorld() as world:
        world.add_table()
        world.add_body("thing", mesh, make_pose([0.5, 0.0, z_m / 2]), mass_kg=0.0)
        for x, y in np.random.default_rng(0).uniform(-0.45, 0.45, (16, 2)):
            world.add_body("ball", Sphere(0.006), make_pose([0.5 + x * x_m, y * y_m, z_m + 0.02]), mass_kg=0.01)
            world.step(50)
            off_m = np.abs(world.pose("ball")[:2, 3] - [0.5, 0.0]) - np.array([x_m, y_m]) / 2
            if off_m.max() < 0.0:  # it has not rolled off
                fallen_m.append(float(z_m - world.pose("ball")[2, 3]))
            world.remove("ball")
    return sum(fallen_m)


def test_only_what_the_truth_lifted_counts() -> None:
    def result(outcome: str, success: bool, attempts: int) -> dict[str, object]:
        return {"outcome": outcome, "success": success, "attempts": attempts, "pressed_n": 1.0 * attempts}

    totals = summarise_things(
        [
            result("achieved", True, 1),
            result("achieved", False, 1),
            result("refused", False, 0),
            result("aborted", False, 2),
        ]
    )
    assert (totals["success_ratio"], totals["of_attempted_ratio"]) == (0.25, 0.3333)
    assert (totals["attempted"], totals["false_success"], totals["pressed_n_most"]) == (3, 1, 2.0)
