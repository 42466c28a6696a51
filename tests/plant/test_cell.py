"""The plant has its configured faults, keeps its own time and hides its truth."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from qwen2vl_robot.config import ObjectSpec
from qwen2vl_robot.errors import BadInputError, ExecutionError, ObservationError
from qwen2vl_robot.geometry import invert
from qwen2vl_robot.messages import Effect, GripperSegment, JointSegment, Motion, digest, freeze
from qwen2vl_robot.plant.cell import Plant
from qwen2vl_robot.plant.client import PlantLink, PlantProcess
from qwen2vl_robot.plant.scenes import draw_scene, load_scene
from tests.cells import PROFILE, admit, carry_through, grip, reach

SCENE = "scenes/default.yaml"


@pytest.fixture(scope="module")
def plant() -> Iterator[PlantProcess]:
    with PlantProcess(SCENE, 3) as process:
        yield process


@pytest.fixture(scope="module")
def frame(plant: PlantProcess):  # type: ignore[no-untyped-def]
    return plant.link.capture()


def make_scene(tmp_path: Path, faults: str) -> str:
    path = tmp_path / "scene.yaml"
    text = (Path(__file__).parents[2] / "sim" / SCENE).read_text()
    path.write_text(f"{text}\nfaults: {faults}\n")
    return str(path)


# ------------------------------------------------------------------------------------------------- faults


def test_published_camera_pose_is_wrong_by_the_configured_lengths(plant: PlantProcess, frame) -> None:  # type: ignore[no-untyped-def]
    error = invert(plant.truth.T_base_camera()) @ frame.T_base_camera
    angle_deg = np.rad2deg(np.arccos((np.trace(error[:3, :3]) - 1) / 2))
    assert np.linalg.norm(error[:3, 3]) == pytest.approx(0.003, abs=1e-6)
    assert angle_deg == pytest.approx(0.3, abs=1e-3)


def test_camera_pose_error_stays_the_same_for_one_plant(plant: PlantProcess, frame) -> None:  # type: ignore[no-untyped-def]
    assert np.array_equal(plant.link.capture().T_base_camera, frame.T_base_camera)


def test_depth_has_the_configured_noise_and_holes() -> None:
    with PlantProcess(SCENE, 3, camera="ideal") as plant:
        first, second = plant.link.capture().depth_m, plant.link.capture().depth_m
    assert np.nanstd(first - second) / np.sqrt(2) == pytest.approx(0.002, rel=0.05)
    ratio = np.isnan(first).mean()
    assert 0.008 < ratio < 0.05  # 1 % holes, and the sky


def test_depth_without_faults_is_along_the_optical_axis(tmp_path: Path) -> None:
    exact = tmp_path / "exact.yaml"
    exact.write_text("{}")
    plant = Plant(make_scene(tmp_path, "{extrinsics_error_m: 0, extrinsics_error_deg: 0}"), 3, camera=str(exact))
    points = plant.capture().points_base_m().reshape(-1, 3)
    plant.close()
    near = points[np.abs(points[:, 2]) < 0.004]
    assert len(near) > len(points) / 2
    assert np.std(near[:, 2]) < 0.001


def test_mass_and_friction_are_drawn_around_the_catalogue(plant: PlantProcess) -> None:
    nominal = {o.label: o for o in draw_scene(*load_scene(SCENE), 3).objects}
    ratios = []
    for label, true in plant.truth.objects().items():
        ratios += [true.mass_kg / nominal[label].mass_kg, true.friction / nominal[label].friction]
    assert all(0.7 <= r <= 1.3 for r in ratios)
    assert np.ptp(ratios) > 0.1


def test_start_joints_lie_around_home_and_are_published_truthfully(plant: PlantProcess) -> None:
    off_rad = plant.link.state().q_rad - np.array(PROFILE.home_q_rad)
    assert np.max(np.abs(off_rad)) <= 0.051
    assert np.max(np.abs(off_rad)) > 0.005


def test_a_command_takes_effect_after_the_lag(tmp_path: Path) -> None:
    with PlantProcess(make_scene(tmp_path, "{actuation_lag_s: 0.3}"), 3) as plant:
        link = plant.link
        start_rad = link.state().q_rad
        link.execute(admit(reach(start_rad, [0.3] * 7, 1.0), link, link))
        link.sleep(0.29)
        assert np.allclose(link.state().q_rad, start_rad, atol=1e-3)
        link.sleep(0.51)  # half of the motion
        assert np.allclose(link.state().q_rad, start_rad + 0.15, atol=0.02)


def test_objects_rest_before_the_first_frame(plant: PlantProcess) -> None:
    assert all(o.speed_mps < 0.02 for o in plant.truth.objects().values())


def test_the_same_seed_makes_the_same_plant_in_another_process(plant: PlantProcess) -> None:
    with PlantProcess(SCENE, 3) as first, PlantProcess(SCENE, 3) as second:
        a, b = first.link.capture(), second.link.capture()
        assert np.array_equal(a.rgb, b.rgb)
        assert np.array_equal(a.depth_m, b.depth_m, equal_nan=True)
        assert digest(first.link.state()) == digest(second.link.state())


# ------------------------------------------------------------------------------------------- grasp and hold


def above(plant: PlantProcess, label: str) -> Motion:
    """Make a motion that moves above an object, goes down, closes and lifts, from the true poses."""
    from qwen2vl_robot.kinematics import Kinematics

    kinematics = Kinematics(PROFILE)
    goal = plant.truth.objects()[label].T_base_object
    start = plant.link.state().q_rad
    points = [start]
    for height_m in (0.15, 0.0):
        q = points[-1].copy()
        for _ in range(200):
            T = kinematics.tool_pose(q)
            side = goal[:3, 0] * np.sign(goal[1, 0] or 1.0)
            R = np.column_stack([np.cross(side, [0, 0, -1.0]), side, [0, 0, -1.0]])
            if R[0, 0] < 0:
                R[:, :2] *= -1
            error = np.concatenate(
                [goal[:3, 3] + [0, 0, height_m] - T[:3, 3], 0.5 * np.cross(T[:3, :3].T, R.T).sum(axis=0)]
            )
            J = kinematics.tool_jacobian(q)
            q = q + 0.5 * J.T @ np.linalg.solve(J @ J.T + 1e-4 * np.eye(6), error)
        points.append(q)
    time_s, at_s = np.linspace(0, 3, 301), 0.0
    share = (time_s / 3) ** 3 * (10 - 15 * time_s / 3 + 6 * (time_s / 3) ** 2)
    segments: list[JointSegment | GripperSegment] = []
    for a, b in zip(points[:-1], points[1:], strict=True):
        segments.append(JointSegment(freeze(time_s + at_s), freeze(a + share[:, None] * (b - a))))
        at_s += 3.0
    segments.append(GripperSegment(at_s, at_s + 1.0, 0.0))
    lift_rad = points[2] + share[:, None] * (points[1] - points[2])
    segments.append(JointSegment(freeze(time_s + at_s + 1.0), freeze(lift_rad)))
    return Motion(PROFILE.name, tuple(segments), Effect("hold", label))


def test_a_closed_gripper_keeps_its_force_and_shows_the_objects_width() -> None:
    block = ObjectSpec(colour="red", kind="block", position_m=(0.5, 0.0), yaw_deg=90.0)
    with PlantProcess(SCENE, 4, always=(block,), count=1) as plant:
        link = plant.link
        motion = above(plant, "red block")
        link.execute(admit(motion, link, link))
        carry_through(link, link)
        link.sleep(1.0)
        true = plant.truth.objects()["red block"]
        assert true.T_base_object[2, 3] > 0.12
        assert link.state().gripper_width_m == pytest.approx(true.shape.size_m[0], abs=0.004)  # type: ignore[union-attr]
        link.sleep(3.0)
        assert plant.truth.objects()["red block"].T_base_object[2, 3] > 0.12


# ------------------------------------------------------------------------------------------------ time


def test_a_fast_plant_lets_time_pass_only_while_its_link_sleeps(plant: PlantProcess) -> None:
    before_ns = plant.link.now_ns()
    time.sleep(0.05)
    assert plant.link.now_ns() == before_ns
    plant.link.sleep(1.0)
    assert plant.link.now_ns() - before_ns == pytest.approx(1e9, abs=5e6)


def test_a_real_time_plant_keeps_up_with_the_wall_clock() -> None:
    with PlantProcess(SCENE, 3, count=2, realtime=True) as plant:
        before_ns, wall_s = plant.link.now_ns(), time.monotonic()
        time.sleep(0.5)
        passed_s = (plant.link.now_ns() - before_ns) / 1e9
        waited_s = time.monotonic() - wall_s
        assert 0.5 * waited_s < passed_s < waited_s + 0.05  # a busy machine may slow it down, but it is never fast


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), 601.0])
def test_a_number_that_is_no_duration_is_refused(plant: PlantProcess, seconds: float) -> None:
    with pytest.raises(ExecutionError, match="allowed 0 to 600"):
        plant.link.sleep(seconds)


# -------------------------------------------------------------------------------------- what it refuses


def rejected(link: PlantLink, motion: Motion, match: str) -> None:
    approved = replace(admit(grip(0.08), link, link), motion=motion, digest=digest(motion))
    with pytest.raises(ExecutionError, match=match):
        link.execute(approved)
    assert not link.is_moving()


def test_the_arm_rejects_positions_beyond_its_limits(plant: PlantProcess) -> None:
    rejected(plant.link, reach(plant.link.state().q_rad, [0, 0, 0, 3.0, 0, 0, 0]), "limits")


def test_the_arm_rejects_numbers_that_are_not_finite(plant: PlantProcess) -> None:
    rejected(plant.link, reach(plant.link.state().q_rad, [np.nan] * 7), "finite")
    rejected(plant.link, grip(float("nan")), "finite")


def test_the_arm_rejects_times_that_do_not_rise(plant: PlantProcess) -> None:
    q_rad = freeze(np.tile(plant.link.state().q_rad, (3, 1)))
    segment = JointSegment(freeze([0.0, 0.5, 0.5]), q_rad)
    rejected(plant.link, Motion(PROFILE.name, (segment,), Effect("none")), "rise")


def test_the_arm_rejects_segments_that_overlap(plant: PlantProcess) -> None:
    segments = (GripperSegment(0.0, 1.0, 0.08), GripperSegment(0.5, 1.5, 0.02))
    rejected(plant.link, Motion(PROFILE.name, segments, Effect("none")), "before")


def test_the_arm_rejects_a_motion_of_another_robot(plant: PlantProcess) -> None:
    rejected(plant.link, replace(grip(0.08), robot="kuka_iiwa"), "another robot")


def test_a_missing_scene_file_is_one_clear_error() -> None:
    with pytest.raises(BadInputError, match=r"nowhere\.yaml"):
        PlantProcess("scenes/nowhere.yaml", 1)


def test_a_plant_that_died_stays_dead() -> None:
    with PlantProcess(SCENE, 3, count=2) as plant:
        pid = plant._worker.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        plant._worker._child.wait()  # type: ignore[union-attr]
        for _ in range(2):
            with pytest.raises(ObservationError, match="ended"):
                plant.link.capture()
            with pytest.raises(ExecutionError, match="ended"):
                plant.link.stop()


# ------------------------------------------------------------------------------------------ truth and film


def test_true_boxes_frame_what_the_camera_sees(plant: PlantProcess, frame) -> None:  # type: ignore[no-untyped-def]
    boxes = plant.truth.boxes()
    assert "blue plate" in boxes
    for label, seen in boxes.items():
        box, k = seen.box, frame.intrinsics
        assert 0 <= box.x0 < box.x1 <= 1000
        assert 0 <= box.y0 < box.y1 <= 1000
        area_px = (box.x1 - box.x0) * k.width_px * (box.y1 - box.y0) * k.height_px / 1e6
        assert 0 < seen.visible_px <= area_px + 1e-6, label


def test_a_controller_with_a_plant_never_loads_bullet() -> None:
    code = "import sys, qwen2vl_robot.plant.client; print('pybullet' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_controllers_link_offers_no_truth() -> None:
    offered = {name for name in dir(PlantLink) if not name.startswith("_")}
    assert offered == {
        "capture", "state", "execute", "is_moving", "has_gripped", "go_on", "retreat", "stop", "newest", "now_ns",
        "sleep", "start_film", "take_film",
    }  # fmt: skip


def test_frame_and_state_carry_no_truth(plant: PlantProcess, frame) -> None:  # type: ignore[no-untyped-def]
    names = {f.name for f in fields(frame)}
    assert names == {"stamp_ns", "rgb", "depth_m", "intrinsics", "T_base_camera", "others", "clip"}
    assert frame.others == ()
    assert plant.link.state().held is None


def test_the_film_has_five_pictures_a_second(plant: PlantProcess) -> None:
    plant.link.start_film()
    plant.link.sleep(1.0)
    film = plant.link.take_film()
    assert film.shape == (5, 240, 320, 3)
    assert film.dtype == np.uint8
    assert len(plant.link.take_film()) == 0
