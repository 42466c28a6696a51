"""What every `ports.Camera` promises; one more implementation is one more parameter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from qwen2vl_robot.messages import CameraFrame
from qwen2vl_robot.plant.client import PlantProcess
from qwen2vl_robot.ports import Camera
from tests.contracts.wire import wire_cell


@pytest.fixture(scope="module", params=["plant", "plant, over DDS"])
def camera(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Camera]:
    if "DDS" in request.param:
        with wire_cell(tmp_path_factory.mktemp("wire") / "ready") as wired:
            yield wired
        return
    with PlantProcess("scenes/default.yaml", 1, count=3) as plant:
        yield plant.link


@pytest.fixture(scope="module")
def frame(camera: Camera) -> CameraFrame:
    return camera.capture()


def test_rgb_and_depth_have_the_size_of_the_intrinsics(frame: CameraFrame) -> None:
    k = frame.intrinsics
    assert frame.rgb.shape == (k.height_px, k.width_px, 3)
    assert frame.rgb.dtype == np.uint8
    assert frame.depth_m.shape == (k.height_px, k.width_px)
    assert frame.depth_m.dtype == np.float32


def test_depth_is_metres_or_nan_and_never_zero(frame: CameraFrame) -> None:
    seen = frame.depth_m[~np.isnan(frame.depth_m)]
    assert len(seen) > frame.depth_m.size / 2
    assert np.isfinite(seen).all()
    assert (seen > 0.05).all()
    assert (seen < 10.0).all()


def test_camera_pose_is_a_rigid_pose(frame: CameraFrame) -> None:
    R = frame.T_base_camera[:3, :3]
    assert np.allclose(R @ R.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(R) == pytest.approx(1.0)
    assert np.allclose(frame.T_base_camera[3], [0, 0, 0, 1])


def test_the_table_lies_where_the_calibration_puts_it(frame: CameraFrame) -> None:
    points = frame.points_base_m().reshape(-1, 3)
    points = points[np.isfinite(points).all(axis=1)]
    near = points[np.abs(points[:, 2]) < 0.02]
    assert len(near) > len(points) / 2
    assert abs(float(np.median(near[:, 2]))) < 0.01


def test_no_frame_is_newer_than_a_time_to_come(camera: Any) -> None:
    assert camera.newest(camera.now_ns() + 10**12) is None


def test_a_newer_frame_comes_by_itself_and_shows_the_same_view(camera: Any, frame: CameraFrame) -> None:
    since_ns = camera.now_ns()
    newer = next(filter(None, (_later(camera, since_ns) for _ in range(200))))
    assert newer.stamp_ns > since_ns
    assert np.array_equal(newer.T_base_camera, frame.T_base_camera)
    small, large = newer.intrinsics, frame.intrinsics
    times = large.width_px / small.width_px
    assert newer.depth_m.shape == (small.height_px, small.width_px)
    assert times == large.height_px / small.height_px == pytest.approx(large.fx_px / small.fx_px)
    assert small.cx_px == pytest.approx(large.cx_px / times, abs=0.5)


def _later(camera: Any, since_ns: int) -> CameraFrame | None:
    camera.sleep(0.05)
    newer: CameraFrame | None = camera.newest(since_ns)
    return newer


def test_a_later_frame_is_stamped_later(camera: Camera, frame: CameraFrame) -> None:
    again = camera.capture()
    assert again.stamp_ns >= frame.stamp_ns
    assert again.rgb.shape == frame.rgb.shape
