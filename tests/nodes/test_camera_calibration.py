"""The camera's pose from rendered boards, on the flange and on the table, and views that are not sufficient."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import yaml
from PIL import Image

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.geometry import (
    Array,
    invert,
    look_at,
    make_pose,
    quat_from_rotation,
    rotation_from_rotvec,
)
from qwen2vl_robot.messages import Intrinsics
from qwen2vl_robot.nodes.camera_calibration import (
    BoardSpec,
    BoardView,
    calibrate_folder,
    find_board,
    load_calibration,
    solve_flange,
    solve_table,
    write_calibration,
)

SPEC = BoardSpec(squares_x=5, squares_y=7, square_m=0.03, marker_m=0.022)
K = Intrinsics(640, 480, 600.0, 600.0, 320.0, 240.0)
T_BASE_CAMERA = look_at([1.1, 0.3, 0.6], [0.45, 0.0, 0.3])
T_FLANGE_BOARD = make_pose([0.02, -0.04, 0.05], rotation_from_rotvec([0.1, -0.05, 0.3]))
PX_PER_M = 4000.0


def render(T_camera_board: Array) -> npt.NDArray[np.uint8]:
    """Render the board as the camera sees it, with some noise."""
    width, height = SPEC.squares_x * SPEC.square_m, SPEC.squares_y * SPEC.square_m
    flat = SPEC.board().generateImage((round(width * PX_PER_M), round(height * PX_PER_M)))
    corners_m = np.array([[0, 0, 0], [width, 0, 0], [width, height, 0], [0, height, 0]])
    seen = corners_m @ T_camera_board[:3, :3].T + T_camera_board[:3, 3]
    pixels = seen[:, :2] / seen[:, 2:] * K.fx_px + [K.cx_px, K.cy_px]
    source = corners_m[:, :2] * PX_PER_M - 0.5
    H = cv2.getPerspectiveTransform(source.astype(np.float32), pixels.astype(np.float32))
    grey = cv2.warpPerspective(flat, H, (K.width_px, K.height_px), flags=cv2.INTER_AREA, borderValue=128)
    noisy = grey + np.random.default_rng(0).normal(0.0, 2.0, grey.shape)
    return np.repeat(np.clip(noisy, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def views(count: int = 8, turn_rad: float = 0.5) -> list[BoardView]:
    """Draw views in which the camera sees the board on the flange."""
    rng = np.random.default_rng(3)
    drawn = []
    for _ in range(count):
        T_camera_board = make_pose(
            [*rng.uniform(-0.12, 0.02, 2), rng.uniform(0.45, 0.65)],
            rotation_from_rotvec(rng.uniform(-turn_rad, turn_rad, 3)),
        )
        T_base_flange = T_BASE_CAMERA @ T_camera_board @ invert(T_FLANGE_BOARD)
        drawn.append(BoardView(render(T_camera_board), T_base_flange))
    return drawn


def off(position_m: tuple[float, ...], quat: tuple[float, ...]) -> tuple[float, float]:
    metres = float(np.linalg.norm(np.array(position_m) - T_BASE_CAMERA[:3, 3]))
    turn = abs(float(np.dot(quat, quat_from_rotation(T_BASE_CAMERA[:3, :3]))))
    return metres, 2 * float(np.rad2deg(np.arccos(min(1.0, turn))))


def test_a_rendered_board_is_found_where_it_was_drawn() -> None:
    T = make_pose([-0.07, -0.1, 0.5], rotation_from_rotvec([0.2, -0.3, 0.1]))
    T_found = find_board(render(T), SPEC, K)
    assert T_found is not None
    assert np.linalg.norm(T_found[:3, 3] - T[:3, 3]) < 0.002


def test_a_board_on_the_flange_gives_the_cameras_place() -> None:
    calibration = solve_flange(views(), SPEC, K, "base")
    metres, degrees = off(calibration.position_m, calibration.quat_xyzw)
    assert metres < 0.004
    assert degrees < 0.4
    assert calibration.residual_m < 0.003
    assert calibration.views == 8


def test_a_board_on_the_table_gives_the_cameras_place() -> None:
    T_base_board = make_pose([0.5, 0.1, 0.0], rotation_from_rotvec([np.pi, 0, 0]))
    T_camera_board = make_pose([-0.06, -0.09, 0.55], rotation_from_rotvec([0.3, 0.2, 0.0]))
    calibration = solve_table([render(T_camera_board)], T_base_board, SPEC, K, "base")
    wanted = T_base_board @ invert(T_camera_board)
    assert np.linalg.norm(np.array(calibration.position_m) - wanted[:3, 3]) < 0.004


def test_a_flange_pose_that_is_wrong_shows_in_the_residual() -> None:
    good = views()
    bad = [*good[:-1], BoardView(good[-1].rgb, make_pose([0.0, 0.0, 0.05]) @ good[-1].T_base_flange)]
    assert solve_flange(bad, SPEC, K, "base").residual_m > 5 * solve_flange(good, SPEC, K, "base").residual_m


def test_too_few_views_are_refused() -> None:
    blank = BoardView(np.full((480, 640, 3), 128, dtype=np.uint8), np.eye(4))
    with pytest.raises(BadInputError, match="3 of 4 pictures show the board; at least 4"):
        solve_flange([*views(3), blank], SPEC, K, "base")


def test_views_without_turning_are_refused() -> None:
    with pytest.raises(BadInputError, match="turned by"):
        solve_flange(views(5, turn_rad=0.02), SPEC, K, "base")


def test_the_command_reads_a_folder_and_the_node_reads_its_answer(tmp_path: Path) -> None:
    entries = []
    for number, view in enumerate(views(5)):
        Image.fromarray(view.rgb).save(tmp_path / f"{number}.png")
        entries.append(
            {
                "image": f"{number}.png",
                "flange_position_m": view.T_base_flange[:3, 3].tolist(),
                "flange_quat_xyzw": quat_from_rotation(view.T_base_flange[:3, :3]).tolist(),
            }
        )
    camera = {"width_px": 640, "height_px": 480, "fx_px": 600.0, "fy_px": 600.0, "cx_px": 320.0, "cy_px": 240.0}
    spec = {"base_frame": "base", "board": SPEC.model_dump(), "camera": camera, "views": entries}
    (tmp_path / "views.yaml").write_text(yaml.safe_dump(spec))
    calibration = calibrate_folder(tmp_path)
    write_calibration(tmp_path / "calibration.yaml", calibration)
    T = load_calibration(str(tmp_path / "calibration.yaml"))
    assert np.linalg.norm(T[:3, 3] - T_BASE_CAMERA[:3, 3]) < 0.006


@pytest.mark.parametrize("quat", [[0, 0, 0, 0], [".nan", 0, 0, 1]])
def test_a_calibration_without_a_rotation_is_refused(tmp_path: Path, quat: list[object]) -> None:
    numbers = ", ".join(str(q) for q in quat)
    text = f"base_frame: b\nposition_m: [0, 0, 1]\nquat_xyzw: [{numbers}]\nresidual_m: 0\nresidual_deg: 0\n"
    (tmp_path / "c.yaml").write_text(text + "views: 1\nmethod: table\n")
    with pytest.raises(BadInputError):
        load_calibration(str(tmp_path / "c.yaml"))
