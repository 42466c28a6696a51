"""The world answers what it is asked, and says so where Bullet would keep silent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qwen2vl_robot.config import load_robot
from qwen2vl_robot.geometry import look_at, make_pose
from qwen2vl_robot.messages import Box, Container, Cylinder, Intrinsics, Sphere
from qwen2vl_robot.world import TIME_STEP_S, Bowl, BulletWorld, robot_on_table

PROFILE = load_robot("franka_panda")
HOME = np.array(PROFILE.home_q_rad)


@pytest.fixture
def world() -> Iterator[BulletWorld]:
    with BulletWorld() as made:
        made.add_table()
        yield made


@pytest.fixture
def cell(world: BulletWorld) -> BulletWorld:
    world.add_robot(PROFILE)
    return world


@pytest.mark.parametrize(
    ("shape", "height_m"),
    [
        (Box((0.05, 0.04, 0.06)), 0.06),
        (Cylinder(0.05, 0.09), 0.09),
        (Sphere(0.05), 0.05),
        (Container((0.15, 0.15, 0.05), 0.006), 0.05),
        (Container((0.15, 0.15, 0.05), 0.006, is_round=True), 0.05),
        (Bowl(0.15, 0.05, 0.006), 0.05),
    ],
)
def test_every_shape_rests_where_it_stands(world: BulletWorld, shape: object, height_m: float) -> None:
    T = make_pose([0.5, 0.0, height_m / 2])
    world.add_body("thing", shape, T, mass_kg=0.1)  # type: ignore[arg-type]
    world.step(240)
    assert world.time_s == pytest.approx(240 * TIME_STEP_S)
    assert np.linalg.norm(world.pose("thing")[:3, 3] - T[:3, 3]) < 0.002
    assert world.speed_mps("thing") < 0.01


def test_container_has_a_hollow(world: BulletWorld) -> None:
    world.add_body("bowl", Container((0.15, 0.15, 0.05), 0.006), make_pose([0.5, 0.0, 0.025]), mass_kg=0.2)
    world.add_body("ball", Sphere(0.05), make_pose([0.5, 0.0, 0.1]), mass_kg=0.05)
    world.step(240)
    assert world.pose("ball")[2, 3] == pytest.approx(0.006 + 0.025, abs=0.002)


@pytest.mark.parametrize("size_m", [0.0, -0.05, np.nan, np.inf])
def test_sizes_must_be_finite_and_positive(world: BulletWorld, size_m: float) -> None:
    for shape in (
        Box((size_m, 0.05, 0.05)),
        Sphere(size_m),
        Cylinder(0.05, size_m),
        Container((0.1, 0.1, 0.05), size_m),
    ):
        with pytest.raises(ValueError, match="above 0"):
            world.add_body("thing", shape, make_pose([0.5, 0.0, 0.1]), mass_kg=0.1)
    assert world.names() == ["table"]


def test_poses_masses_and_frictions_must_be_finite(world: BulletWorld) -> None:
    box, here = Box((0.05, 0.05, 0.05)), make_pose([0.5, 0.0, 0.1])
    for pose, mass_kg, friction in ((here * np.nan, 0.1, 0.8), (here, np.inf, 0.8), (here, -0.1, 0.8), (here, 0.1, -1)):
        with pytest.raises(ValueError, match="finite"):
            world.add_body("thing", box, pose, mass_kg=mass_kg, friction=friction)
    world.add_body("thing", box, here, mass_kg=0.1)
    with pytest.raises(ValueError, match="not finite"):
        world.set_pose("thing", here * np.nan)
    with pytest.raises(ValueError, match="finite"):
        world.set_gravity(np.nan)


def test_names_are_unique_and_known(cell: BulletWorld) -> None:
    box, here = Box((0.05, 0.05, 0.05)), make_pose([0.5, 0.0, 0.1])
    for name in ("table", "panda_hand"):
        with pytest.raises(ValueError, match="taken"):
            cell.add_body(name, box, here, mass_kg=0.1)
    for call in (cell.pose, cell.remove, cell.speed_mps):
        with pytest.raises(KeyError, match="nobody"):
            call("nobody")
    with pytest.raises(KeyError, match="nobody"):
        cell.distance_m("table", "nobody")
    with pytest.raises(KeyError, match="nobody"):
        cell.link_pose("nobody")


@pytest.mark.parametrize("q_rad", [HOME * np.nan, HOME[:6], np.full(7, np.inf)])
def test_joints_must_be_finite_and_complete(cell: BulletWorld, q_rad: np.ndarray) -> None:
    for call in (lambda: cell.reset_arm(q_rad, 0.04), lambda: cell.command_arm(q_rad)):
        with pytest.raises(ValueError, match="7 finite joint positions"):
            call()
    with pytest.raises(ValueError, match="finite"):
        cell.command_gripper(np.nan, 20.0)
    with pytest.raises(ValueError, match="finite"):
        cell.command_arm(HOME, HOME * np.nan)


def test_arm_needs_a_robot(world: BulletWorld) -> None:
    with pytest.raises(RuntimeError, match="add a robot"):
        world.reset_arm(HOME, 0.04)
    with pytest.raises(RuntimeError, match="add a robot"):
        world.reach_m()


def test_profile_of_another_robot_is_refused(world: BulletWorld) -> None:
    foreign = PROFILE.model_copy(update={"tool_link": "no_such_link"})
    with pytest.raises(ValueError, match="no_such_link"):
        world.add_robot(foreign)


def test_home_touches_nothing_and_the_table_stops_the_fingers(cell: BulletWorld) -> None:
    cell.reset_arm(HOME, 0.08)
    assert cell.touching(detect=True) == []
    down = np.array([-0.2032, 0.6553, 0.3102, -2.2491, -0.6337, 2.8220, 1.4402])
    cell.reset_arm(down, 0.08)
    assert {(c.a, c.b) for c in cell.touching(detect=True, of=[])} == {
        ("panda_leftfinger", "table"),
        ("panda_rightfinger", "table"),
    }


def test_distance_agrees_with_geometry_and_forgets_earlier_poses(world: BulletWorld) -> None:
    world.add_body("a", Box((0.1, 0.1, 0.1)), make_pose([0.5, 0.0, 0.5]), mass_kg=0.1)
    world.add_body("b", Box((0.1, 0.1, 0.1)), make_pose([0.5, 0.0, 0.58]), mass_kg=0.1)
    assert world.distance_m("a", "b") == pytest.approx(-0.02, abs=1e-4)
    for gap_m in (0.001, 0.01, 0.03):
        world.set_pose("b", make_pose([0.5, 0.0, 0.6 + gap_m]))
        assert world.distance_m("a", "b") == pytest.approx(gap_m, abs=1e-4)
    world.set_pose("b", make_pose([0.5, 0.0, 1.0]))
    assert world.distance_m("a", "b", limit_m=0.02) == 0.02


def test_contacts_of_the_robot_leave_out_what_rests_on_the_table(cell: BulletWorld) -> None:
    cell.add_body("block", Box((0.05, 0.05, 0.05)), make_pose([0.5, 0.0, 0.025]), mass_kg=0.1)
    cell.reset_arm(HOME, 0.08)
    cell.command_arm(HOME)
    cell.step(10)
    assert [(c.a, c.b) for c in cell.touching()] == [("block", "table")]
    assert cell.touching(of=[]) == []
    (contact,) = cell.touching(of=["block"])
    assert contact.force_n == pytest.approx(0.1 * 9.81, rel=0.2)


def test_law_no_point_of_the_arm_travels_farther_than_its_reach_bound(cell: BulletWorld) -> None:
    rng = np.random.default_rng(0)
    low = np.array([j.lower_rad for j in PROFILE.joints])
    high = np.array([j.upper_rad for j in PROFILE.joints])
    reach_m = cell.reach_m(0.1)
    points = rng.normal(size=(20, 3))
    points *= 0.1 / np.linalg.norm(points, axis=1, keepdims=True)  # as far from the tool as the bound is asked for
    for _ in range(200):
        q_rad = rng.uniform(low, high)
        step_rad = rng.normal(size=7) * 0.01
        there = []
        for q in (q_rad, q_rad + step_rad):
            cell.reset_arm(q, 0.04)
            T = cell.tool_pose()
            there.append(points @ T[:3, :3].T + T[:3, 3])
        assert np.linalg.norm(there[1] - there[0], axis=1).max() <= np.abs(step_rad) @ reach_m * (1 + 1e-6)


def test_fingers_move_as_mirror_images_and_hold_their_middle(cell: BulletWorld) -> None:
    cell.reset_arm(HOME, 0.08)
    T = cell.tool_pose()
    cell.add_body("block", Box((0.04, 0.04, 0.04)), T @ make_pose([0.0, 0.004, 0.0]), mass_kg=0.1)
    cell.set_gravity(0.0)
    cell.command_arm(HOME)
    cell.command_gripper(0.0, PROFILE.gripper.force_n)
    cell.step(240)
    cell.set_gravity()
    for turn in np.linspace(0.0, 0.6, 120):
        cell.command_arm(HOME + np.array([turn, 0, 0, 0, 0, 0, 0]))
        cell.step()
    fingers = [cell.link_pose(link)[:3, 3] for link in PROFILE.gripper.finger_links]
    middle = np.mean(fingers, axis=0) - cell.tool_pose()[:3, 3]
    assert abs(middle @ cell.tool_pose()[:3, 1]) < 0.001
    block = cell.pose("block")[:3, 3] - cell.tool_pose()[:3, 3]
    assert np.linalg.norm(block) < 0.004
    assert cell.arm_state()[2] == pytest.approx(0.04, abs=0.002)


def test_reset_gives_the_same_run_again(cell: BulletWorld) -> None:
    def run() -> np.ndarray:
        cell.reset()
        cell.add_table()
        cell.add_robot(PROFILE)
        for i in range(3):
            cell.add_body(f"block {i}", Box((0.05, 0.05, 0.05)), make_pose([0.5, 0.0, 0.1 + 0.08 * i]), mass_kg=0.1)
        cell.command_arm(HOME)
        cell.step(120)
        return np.concatenate([cell.pose(f"block {i}").ravel() for i in range(3)] + list(cell.arm_state()[:2]))

    first = run()
    assert np.array_equal(first, run())


def test_picture_has_colour_depth_and_names_where_things_are(cell: BulletWorld) -> None:
    cell.add_body("red block", Box((0.06, 0.06, 0.06)), make_pose([0.5, 0.0, 0.03]), mass_kg=0.1, rgb=(200, 30, 30))
    T_base_camera = look_at([1.2, 0.0, 0.6], [0.5, 0.0, 0.03])
    k = Intrinsics(160, 120, 150.0, 150.0, 79.5, 59.5)
    rgb, depth_m, names = cell.render(k, T_base_camera)
    assert names[60, 80] == "red block"
    assert rgb[60, 80, 0] > 2 * rgb[60, 80, 1]
    assert depth_m[60, 80] == pytest.approx(np.linalg.norm([0.7, 0.0, 0.57]), abs=0.05)
    assert "robot" in names
    assert np.isnan(depth_m[names == ""]).all()


@pytest.mark.parametrize("size_px", [(0, 10), (-5, 10), (10, 100_000)])
def test_pictures_of_impossible_sizes_are_refused(cell: BulletWorld, size_px: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="image"):
        cell.render(Intrinsics(*size_px, 100.0, 100.0, 5.0, 5.0), look_at([1, 0, 1], [0, 0, 0]))


def test_a_scan_watches_the_more_closely_the_closer_it_comes(cell: BulletWorld) -> None:
    cell.add_body("post", Box((0.05, 0.05, 0.6)), make_pose([0.5, 0.2, 0.3]), mass_kg=0.0)
    q_rad = HOME + np.linspace(-1.0, 0.3, 200)[:, None] * np.eye(7)[0]
    seen = cell.scan(q_rad, 0.08, watched=["post", "table"], pace=(0.2, 0.035, 0.005))
    looks = seen.gaps["post"][:, 0]
    assert looks[0] == 0
    assert looks[-1] == 199
    assert np.diff(looks).max() > 10
    for index, gap_m in seen.gaps["post"]:
        cell.reset_arm(q_rad[int(index)], 0.08)
        assert gap_m == pytest.approx(cell.clearance_m("post", None, 0.2), abs=1e-6)
    close = looks[:-1][seen.gaps["post"][:-1, 1] < 0.035]
    assert len(close) == 0 or np.diff(close).max() <= 3
    assert seen.gaps["table"][:, 1].min() > 0.05  # the foot that stands on it does not count


def test_what_sleeps_wakes_when_it_is_pushed(cell: BulletWorld) -> None:
    cell.reset_arm(HOME, 0.08)
    cell.command_arm(HOME)
    for name, x_m in (("pushed", 0.5), ("hit by it", 0.56), ("far", 0.7)):
        cell.add_body(name, Box((0.05, 0.05, 0.05)), make_pose([x_m, 0.3, 0.025]), mass_kg=0.1)
    cell.add_body("pusher", Box((0.04, 0.04, 0.04)), make_pose([0.4, 0.3, 0.022]), mass_kg=5.0, friction=0.0)
    cell.step(30)
    for name in ("pushed", "hit by it", "far"):
        cell.put_to_sleep(name)
    for step in range(120):
        cell.set_pose("pusher", make_pose([0.4 + 0.001 * step, 0.3, 0.022]))
        cell.step()
    assert cell.pose("pushed")[0, 3] > 0.55
    assert cell.pose("hit by it")[0, 3] > 0.6
    assert np.linalg.norm(cell.pose("far")[:3, 3] - [0.7, 0.3, 0.025]) < 1e-3


def test_following_is_commanding_step_by_step(cell: BulletWorld) -> None:
    q_rad = HOME + np.linspace(0.0, 0.1, 41)[1:, None]
    dq_radps = np.full_like(q_rad, 0.1 / 40 / TIME_STEP_S)
    ends = []
    for one_by_one in (True, False):
        cell.reset_arm(HOME, 0.08)
        for q, dq in zip(q_rad, dq_radps, strict=True) if one_by_one else ():
            cell.command_arm(q, dq)
            cell.step()
        if not one_by_one:
            cell.follow(q_rad, dq_radps)
        ends.append(cell.arm_state()[0])
    assert np.allclose(ends[0], ends[1], atol=1e-9)
    with pytest.raises(ValueError, match="finite"):
        cell.follow(np.full((2, 7), np.nan), np.zeros((2, 7)))


def test_a_load_adds_its_weight_times_the_lever(cell: BulletWorld) -> None:
    q_rad, rest = HOME[None], np.zeros((1, 7))
    cell.reset_arm(HOME, 0.08)
    needed_nm = cell.torques_nm(q_rad, rest, rest, 2.0) - cell.torques_nm(q_rad, rest, rest)
    lever_m = cell.tool_pose()[0, 3] - cell.link_pose("panda_link2")[0, 3]
    assert abs(needed_nm[0, 1]) == pytest.approx(2.0 * 9.81 * lever_m, rel=1e-3)
    assert needed_nm[0, 0] == pytest.approx(0.0, abs=1e-6)  # the first axis is upright


def test_a_robot_file_that_allows_contacts_of_no_link_is_refused(world: BulletWorld) -> None:
    wrong = PROFILE.model_copy(update={"allowed_contacts": (("panda_elbow", "table"),)})
    with pytest.raises(ValueError, match="panda_elbow"):
        world.add_robot(wrong)


def test_bodies_that_no_picture_shows_leave_no_memory_behind(world: BulletWorld) -> None:
    """Bullet keeps 50 kB or more of each mesh that it drew: a megabyte for twenty cylinders."""

    def turn_over(count: int) -> None:
        for _ in range(count):
            world.add_body("c", Cylinder(0.05, 0.06), make_pose([0.5, 0.0, 0.03]), mass_kg=0.1, rgb=None)
            world.remove("c")

    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    turn_over(50)
    before_mb = resident_mb()
    turn_over(400)
    assert resident_mb() - before_mb < 5.0


def test_a_robots_table_can_be_set_up_again() -> None:
    for _ in range(2):
        with robot_on_table(load_robot("franka_panda")) as world:
            assert len(world.arm_state()[0]) == 7
