"""The camera's pose from rendered boards, on the flange and on the table, and views that are not sufficient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    rotation_from_quat,
    rotation_from_rotvec,
)
from qwen2vl_robot.messages import Intrinsics
from qwen2vl_robot.nodes.calibration_board import BoardNotFoundError, BoardSpec, see_board
from qwen2vl_robot.nodes.camera_calibration import (
    BoardView,
    calibrate_folder,
    load_calibration,
    solve_flange,
    solve_table,
    write_calibration,
)
from qwen2vl_robot.nodes.hand_eye import MAX_HELD_OUT_M

SPEC = BoardSpec(squares_x=5, squares_y=7, square_m=0.03, marker_m=0.022)
K = Intrinsics(640, 480, 600.0, 600.0, 320.0, 240.0)
T_BASE_CAMERA = look_at([1.1, 0.3, 0.6], [0.45, 0.0, 0.3])
T_FLANGE_BOARD = make_pose([0.02, -0.04, 0.05], rotation_from_rotvec([0.1, -0.05, 0.3]))
PX_PER_M = 4000.0


def render(T_camera_board: Array, spec: BoardSpec = SPEC, board: Any = None) -> npt.NDArray[np.uint8]:
    """Render the board as the camera sees it, with some noise."""
    width, height = spec.squares_x * spec.square_m, spec.squares_y * spec.square_m
    flat = (board or spec.board()).generateImage((round(width * PX_PER_M), round(height * PX_PER_M)))
    corners_m = np.array([[0, 0, 0], [width, 0, 0], [width, height, 0], [0, height, 0]])
    seen = corners_m @ T_camera_board[:3, :3].T + T_camera_board[:3, 3]
    pixels = seen[:, :2] / seen[:, 2:] * K.fx_px + [K.cx_px, K.cy_px]
    source = corners_m[:, :2] * PX_PER_M - 0.5
    H = cv2.getPerspectiveTransform(source.astype(np.float32), pixels.astype(np.float32))
    grey = cv2.warpPerspective(flat, H, (K.width_px, K.height_px), flags=cv2.INTER_AREA, borderValue=128)
    noisy = grey + np.random.default_rng(0).normal(0.0, 2.0, grey.shape)
    return np.repeat(np.clip(noisy, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def views(
    count: int = 8, turn_rad: float | tuple[float, float, float] = 0.5, noise_m: float = 0.0, noise_rad: float = 0.0
) -> list[BoardView]:
    """Draw views in which the camera sees the board on the flange; the noise is that of the arm's poses."""
    rng = np.random.default_rng(3)
    most_rad = np.broadcast_to(turn_rad, 3)
    drawn = []
    for number in range(count):
        T_camera_board = make_pose(
            [*rng.uniform(-0.12, 0.02, 2), rng.uniform(0.45, 0.65)],
            rotation_from_rotvec(rng.uniform(-most_rad, most_rad)),
        )
        error = make_pose(rng.normal(0.0, noise_m, 3), rotation_from_rotvec(rng.normal(0.0, noise_rad, 3)))
        T_base_flange = T_BASE_CAMERA @ T_camera_board @ invert(T_FLANGE_BOARD) @ error
        drawn.append(BoardView(render(T_camera_board), T_base_flange, f"{number}.png"))
    return drawn


def read_as(views: list[BoardView], reading: Callable[[Array], Array]) -> list[BoardView]:
    """The same pictures with poses that somebody wrote down otherwise."""
    return [BoardView(view.rgb, reading(view.T_base_carrier), view.name) for view in views]


def off(position_m: tuple[float, ...], quat: tuple[float, ...]) -> tuple[float, float]:
    metres = float(np.linalg.norm(np.array(position_m) - T_BASE_CAMERA[:3, 3]))
    turn = abs(float(np.dot(quat, quat_from_rotation(T_BASE_CAMERA[:3, :3]))))
    return metres, 2 * float(np.rad2deg(np.arccos(min(1.0, turn))))


def test_a_rendered_board_is_found_where_it_was_drawn() -> None:
    T = make_pose([-0.07, -0.1, 0.5], rotation_from_rotvec([0.2, -0.3, 0.1]))
    T_found = see_board(render(T), SPEC, K).T_camera_board
    assert np.linalg.norm(T_found[:3, 3] - T[:3, 3]) < 0.002


def test_a_board_on_the_flange_gives_the_cameras_place() -> None:
    calibration = solve_flange(views(), SPEC, K, "base").calibration
    metres, degrees = off(calibration.position_m, calibration.quat_xyzw)
    assert metres < 0.004
    assert degrees < 0.4
    assert calibration.residual_m < 0.003
    assert calibration.views == 8


@pytest.mark.parametrize("count", [8, 12, 20])
def test_poses_with_an_arms_own_error_pass(count: int) -> None:
    done = solve_flange(views(count, noise_m=0.0007, noise_rad=0.001), SPEC, K, "base").calibration
    metres, degrees = off(done.position_m, done.quat_xyzw)
    assert metres < 0.01
    assert degrees < 1.0


T_BASE_BOARD = make_pose([0.5, 0.1, 0.0], rotation_from_rotvec([np.pi, 0, 0]))
T_CAMERA_BOARD = make_pose([-0.06, -0.09, 0.55], rotation_from_rotvec([0.3, 0.2, 0.0]))


def test_a_board_on_the_table_gives_the_cameras_place() -> None:
    calibration = solve_table([BoardView(render(T_CAMERA_BOARD), T_BASE_BOARD)], SPEC, K, "base").calibration
    wanted = T_BASE_BOARD @ invert(T_CAMERA_BOARD)
    assert np.linalg.norm(np.array(calibration.position_m) - wanted[:3, 3]) < 0.004
    assert calibration.held_out_m is None, "one place of the board has nothing to check it"


def placed(moved_m: float, said_m: float) -> list[BoardView]:
    """Pictures of a board at two places; of the second, somebody says another distance."""
    step, said = (make_pose([0.0, -by_m, 0.0]) for by_m in (moved_m, said_m))
    other = invert(T_BASE_BOARD @ invert(T_CAMERA_BOARD)) @ step @ T_BASE_BOARD
    return [BoardView(render(T_CAMERA_BOARD), T_BASE_BOARD), BoardView(render(other), said @ T_BASE_BOARD, "2.png")]


def test_two_places_of_a_board_check_each_other() -> None:
    held_out_m = solve_table(placed(0.1, 0.1), SPEC, K, "base").calibration.held_out_m
    assert held_out_m is not None
    assert held_out_m < MAX_HELD_OUT_M
    with pytest.raises(BadInputError, match="contradict each other"):
        solve_table(placed(0.1, 0.12), SPEC, K, "base")


def test_a_table_board_whose_z_points_up_is_refused() -> None:
    upside_down = make_pose(T_BASE_BOARD[:3, 3])
    with pytest.raises(BadInputError, match=r"0\.\d\d m under the table.*quat_xyzw \[1, 0, 0, 0\]"):
        solve_table([BoardView(render(T_CAMERA_BOARD), upside_down)], SPEC, K, "base")


def test_a_board_seen_straight_on_has_no_tilt() -> None:
    far = render(make_pose([-0.06, -0.09, 0.9], rotation_from_rotvec([0.02, 0.0, 0.0])))
    with pytest.raises(BadInputError, match="too straight on"):
        solve_table([BoardView(far, T_BASE_BOARD)], SPEC, K, "base")


def test_one_flange_pose_that_is_wrong_is_named() -> None:
    good = views()
    moved = make_pose([0.0, 0.0, 0.015]) @ good[-1].T_base_carrier
    with pytest.raises(BadInputError, match=r"^7\.png does not fit the other views"):
        solve_flange([*good[:-1], BoardView(good[-1].rgb, moved, "7.png")], SPEC, K, "base")


def test_too_few_views_are_refused_and_each_says_why() -> None:
    blank = BoardView(np.full((480, 640, 3), 128, dtype=np.uint8), np.eye(4), "blank.png")
    with pytest.raises(BadInputError, match=r"3 of 4 pictures show the board; at least 4.*blank\.png: 0 markers"):
        solve_flange([*views(3), blank], SPEC, K, "base")


def test_views_without_turning_are_refused() -> None:
    with pytest.raises(BadInputError, match="turned by"):
        solve_flange(views(5, turn_rad=0.02), SPEC, K, "base")


@pytest.mark.parametrize("axis", [(0.6, 0.0, 0.0), (0.0, 0.6, 0.0), (0.0, 0.0, 1.5)])
@pytest.mark.parametrize("noise_rad", [0.0, 0.002])
def test_views_that_turn_about_one_axis_only_are_refused(axis: tuple[float, float, float], noise_rad: float) -> None:
    with pytest.raises(BadInputError, match="about any second axis"):
        solve_flange(views(8, turn_rad=axis, noise_rad=noise_rad), SPEC, K, "base")


def test_a_second_axis_that_hangs_on_one_view_is_refused() -> None:
    about_z, other = views(7, turn_rad=(0.0, 0.0, 1.0)), views(8)[-1]
    with pytest.raises(BadInputError, match=r"without other\.png the flange turns about one axis"):
        solve_flange([*about_z, BoardView(other.rgb, other.T_base_carrier, "other.png")], SPEC, K, "base")


def in_millimetres(T: Array) -> Array:
    return make_pose(1000.0 * T[:3, 3], T[:3, :3])


def w_first(T: Array) -> Array:
    x, y, z, w = quat_from_rotation(T[:3, :3])
    return make_pose(T[:3, 3], rotation_from_quat([w, x, y, z]))


@pytest.mark.parametrize(
    ("reading", "says"),
    [
        (in_millimetres, "metres, not millimetres"),
        (w_first, "write x, y, z, w"),
        (invert, "give the flange in the base frame"),
        (lambda T: make_pose(T[:3, 3][[1, 0, 2]], T[:3, :3]), "contradict each other"),
    ],
    ids=["mm", "wxyz", "inverted", "axes swapped"],
)
@pytest.mark.parametrize("count", [4, 8])
def test_poses_that_mean_something_else_are_refused(reading: Callable[[Array], Array], says: str, count: int) -> None:
    with pytest.raises(BadInputError, match=says):
        solve_flange(read_as(views(count), reading), SPEC, K, "base")


@pytest.mark.parametrize("factor", [0.9, 1.05, 1.2])
def test_a_board_of_another_size_than_declared_is_refused(factor: float) -> None:
    wrong = SPEC.model_copy(update={"square_m": SPEC.square_m * factor, "marker_m": SPEC.marker_m * factor})
    with pytest.raises(BadInputError, match="measure square_m again|contradict each other"):
        solve_flange(views(12), wrong, K, "base")


def test_poses_in_a_frame_under_the_camera_are_refused() -> None:
    low = read_as(views(), lambda T: make_pose([0.0, 0.0, -0.9]) @ T)
    with pytest.raises(BadInputError, match=r"0\.30 m under the table"):
        solve_flange(low, SPEC, K, "base")


SQUARE = BoardSpec(squares_x=6, squares_y=8, square_m=0.03, marker_m=0.022)


def pattern(spec: BoardSpec, dictionary: int = cv2.aruco.DICT_5X5_100, *, is_legacy: bool = False) -> Any:
    size = (spec.squares_x, spec.squares_y)
    board = cv2.aruco.CharucoBoard(size, spec.square_m, spec.marker_m, cv2.aruco.getPredefinedDictionary(dictionary))
    board.setLegacyPattern(is_legacy)
    return board


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (render(T_CAMERA_BOARD, SQUARE, pattern(SQUARE, is_legacy=True)), "legacy pattern"),
        (render(T_CAMERA_BOARD, SQUARE, pattern(SQUARE, cv2.aruco.DICT_6X6_250)), "another dictionary, DICT_6X6"),
        (render(T_CAMERA_BOARD, SQUARE, pattern(SQUARE, cv2.aruco.DICT_4X4_50)), "another dictionary, DICT_4X4_50"),
        (np.ascontiguousarray(render(T_CAMERA_BOARD, SQUARE)[:, ::-1]), "mirrored"),
        (render(T_CAMERA_BOARD, BoardSpec(squares_x=8, squares_y=6, square_m=0.03, marker_m=0.022)), "swap squares_x"),
        (render(T_CAMERA_BOARD, BoardSpec(squares_x=7, squares_y=9, square_m=0.02, marker_m=0.015)), "recount"),
        (np.zeros((480, 640, 3), dtype=np.uint8), "0 markers are seen"),
    ],
    ids=["legacy", "6x6", "4x4", "mirrored", "swapped", "other size", "black"],
)
def test_a_board_that_is_not_found_says_why(picture: npt.NDArray[np.uint8], says: str) -> None:
    with pytest.raises(BoardNotFoundError, match=says):
        see_board(picture, SQUARE, K)


def test_the_command_reads_a_folder_and_the_node_reads_its_answer(tmp_path: Path) -> None:
    entries = []
    for number, view in enumerate(views(5)):
        Image.fromarray(view.rgb).save(tmp_path / f"{number}.png")
        entries.append(
            {
                "image": f"{number}.png",
                "flange_position_m": view.T_base_carrier[:3, 3].tolist(),
                "flange_quat_xyzw": quat_from_rotation(view.T_base_carrier[:3, :3]).tolist(),
            }
        )
    camera = {"width_px": 640, "height_px": 480, "fx_px": 600.0, "fy_px": 600.0, "cx_px": 320.0, "cy_px": 240.0}
    spec = {"base_frame": "base", "board": SPEC.model_dump(), "camera": camera, "views": entries}
    (tmp_path / "views.yaml").write_text(yaml.safe_dump(spec))
    calibration = calibrate_folder(tmp_path).calibration
    write_calibration(tmp_path / "calibration.yaml", calibration)
    T = load_calibration(str(tmp_path / "calibration.yaml"))
    assert np.linalg.norm(T[:3, 3] - T_BASE_CAMERA[:3, 3]) < 0.006


def calibration_file(folder: Path, **changed: object) -> Path:
    good: dict[str, object] = {
        **{"base_frame": "b", "position_m": [0, 0, 1], "quat_xyzw": [1, 0, 0, 0], "residual_m": 0.001},
        **{"residual_deg": 0.1, "views": 8, "method": "park"},
    }
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(good | changed))
    return path


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"residual_m": 67.7}, "residual 6.77e"),
        ({"residual_m": float("inf")}, "residual"),
        ({"residual_deg": 30.0}, "residual"),
        ({"position_m": [0, 0, -0.53]}, "0.53 m under the table"),
        ({"position_m": [400.0, 100.0, 900.0]}, "metres"),
        ({"quat_xyzw": [0, 0, 0, 1]}, "look up"),
        ({"quat_xyzw": [90, 0, 0, 0]}, "length 90"),
    ],
)
def test_a_file_that_cannot_be_right_is_not_loaded(tmp_path: Path, changed: dict[str, object], says: str) -> None:
    load_calibration(str(calibration_file(tmp_path)))
    with pytest.raises(BadInputError, match=says):
        load_calibration(str(calibration_file(tmp_path, **changed)))


@pytest.mark.parametrize("quat", [[0, 0, 0, 0], [".nan", 0, 0, 1]])
def test_a_calibration_without_a_rotation_is_refused(tmp_path: Path, quat: list[object]) -> None:
    with pytest.raises(BadInputError):
        load_calibration(str(calibration_file(tmp_path, quat_xyzw=quat)))
