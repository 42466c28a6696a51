"""Pictures of a ChArUco board with the arm's poses → `T_base_camera`, with its residual, as YAML.

The board is mounted on the flange (a fixed camera beside the robot sees it move), or lies on the table at a known pose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import Field

from qwen2vl_robot.bounds import IMAGE_PIXELS, IMAGE_SIDE_PX, PHOTO_BYTES, shown
from qwen2vl_robot.config import Strict, load_yaml
from qwen2vl_robot.documents import read_file
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.geometry import Array, make_pose, quat_from_rotation, read_only, rotation_from_quat
from qwen2vl_robot.messages import Intrinsics
from qwen2vl_robot.nodes.calibration_board import BoardNotFoundError, BoardSpec, see_board
from qwen2vl_robot.nodes.calibration_fit import View
from qwen2vl_robot.nodes.hand_eye import (
    MAX_RESIDUAL_DEG,
    MAX_RESIDUAL_M,
    MIN_VIEWS,
    HandEye,
    check_place,
    solve_hand_eye,
    solve_placed,
)
from qwen2vl_robot.photos import open_picture
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.results import draw_all

_MOST_VIEWS = 100  # they are in memory together
_UNIT = 0.01  # how far a quaternion may be from length 1: rounded digits, not angles or another order


class CameraCalibration(Strict):
    """The file that `qwen2vl-robot calibrate` writes and the node's parameter `calibrations` names.

    Attributes:
        position_m, quat_xyzw: the camera's optical frame in `base_frame`.
        residual_m, residual_deg: root mean square of the views' deviation from the solution.
        held_out_m: the largest error of a view that the others predict; None where nothing checks the board's place.
        uncertainty_m: standard deviation at the work place.
        views: number of pictures that show the board.
        method: the hand-eye solver, or "table".
    """

    base_frame: str
    position_m: tuple[float, float, float]
    quat_xyzw: tuple[float, float, float, float]
    residual_m: float = Field(ge=0.0)
    residual_deg: float = Field(ge=0.0)
    held_out_m: float | None = Field(default=None, ge=0.0)
    uncertainty_m: float | None = Field(default=None, ge=0.0)
    views: int = Field(ge=1)
    method: str


@dataclass(frozen=True, slots=True, eq=False)
class BoardView:
    """One picture (h, w, 3) and the pose (4, 4) of the flange, or of a board on the table, in the base frame."""

    rgb: npt.NDArray[np.uint8]
    T_base_carrier: Array
    name: str = "a picture"


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A calibration, and one line for each picture that shows no board."""

    calibration: CameraCalibration
    unused: tuple[str, ...]


def solve_flange(views: Sequence[BoardView], spec: BoardSpec, k: Intrinsics, base_frame: str) -> Calibrated:
    """Calibrate with the board on the flange and a fixed camera.

    Raises:
        BadInputError: too few views show the board, or they cannot tell where the camera is.
    """
    seen, unused = _find_boards(views, spec, k)
    if len(seen) < MIN_VIEWS:
        found = f"{len(seen)} of {len(views)} pictures show the board; at least {MIN_VIEWS} are needed"
        raise BadInputError("; ".join([found, *unused]))
    return Calibrated(_calibration(base_frame, solve_hand_eye(seen, k), len(seen)), unused)


def solve_table(views: Sequence[BoardView], spec: BoardSpec, k: Intrinsics, base_frame: str) -> Calibrated:
    """Calibrate with the board at known poses on the table.

    Raises:
        BadInputError: no picture shows the board, or they cannot tell where the camera is.
    """
    seen, unused = _find_boards(views, spec, k)
    if not seen:
        raise BadInputError("; ".join([f"none of {len(views)} pictures shows the board", *unused]))
    return Calibrated(_calibration(base_frame, solve_placed(seen, k), len(seen)), unused)


def _find_boards(views: Sequence[BoardView], spec: BoardSpec, k: Intrinsics) -> tuple[list[View], tuple[str, ...]]:
    seen, unused = [], []
    for view in views:
        try:
            seen.append(View(view.name, view.T_base_carrier, see_board(view.rgb, spec, k)))
        except BoardNotFoundError as error:
            unused.append(f"{view.name}: {error}")
    return seen, tuple(unused)


class _PoseSpec(Strict):
    position_m: tuple[float, float, float]
    quat_xyzw: tuple[float, float, float, float]  # without a default: none is right for a board that lies on a table


class _ViewSpec(Strict):
    """One picture of views.yaml; `flange_*` is the flange's pose in the base frame when it was taken.

    `table_board` is where the board lay in this picture, if it lay elsewhere than in the others.
    """

    image: str
    flange_position_m: tuple[float, float, float] | None = None
    flange_quat_xyzw: tuple[float, float, float, float] | None = None
    table_board: _PoseSpec | None = None


class _CameraSpec(Strict):
    width_px: int = Field(ge=1, le=IMAGE_SIDE_PX)
    height_px: int = Field(ge=1, le=IMAGE_SIDE_PX)
    fx_px: float = Field(gt=0.0)
    fy_px: float = Field(gt=0.0)
    cx_px: float
    cy_px: float


class ViewsSpec(Strict):
    """views.yaml: the board, the camera, the pictures; `table_board`: the board's pose if it lies on the table."""

    base_frame: str
    board: BoardSpec
    camera: _CameraSpec
    views: Annotated[tuple[_ViewSpec, ...], Field(max_length=_MOST_VIEWS)]
    table_board: _PoseSpec | None = None


def calibrate_folder(folder: Path) -> Calibrated:
    """Calibrate from a folder with views.yaml and its pictures.

    Raises:
        BadInputError: a file or a number cannot be used, or the views are not sufficient.
    """
    spec = load_yaml(folder / "views.yaml", ViewsSpec)
    k = Intrinsics(**spec.camera.model_dump())
    views = [BoardView(_read(folder / v.image, k), _carrier(v, spec.table_board), v.image) for v in spec.views]
    placed = [view.table_board is not None or spec.table_board is not None for view in spec.views]
    if any(placed) and not all(placed):
        raise BadInputError("some views have a table_board and others none; give one to each, or one to all")
    if any(placed):
        return solve_table(views, spec.board, k, spec.base_frame)
    return solve_flange(views, spec.board, k, spec.base_frame)


def _carrier(view: _ViewSpec, table_board: _PoseSpec | None) -> Array:
    """Return the pose (4, 4) of the board on the table, else of the flange, in the base frame."""
    board = view.table_board or table_board
    if board is not None:
        return _pose(board.position_m, board.quat_xyzw, f"{view.image}: table_board")
    if view.flange_position_m is None or view.flange_quat_xyzw is None:
        raise BadInputError(f"{view.image}: flange_position_m and flange_quat_xyzw are needed without table_board")
    return _pose(view.flange_position_m, view.flange_quat_xyzw, view.image)


def _read(path: Path, k: Intrinsics) -> npt.NDArray[np.uint8]:
    with open_picture(read_file(path, PHOTO_BYTES), shown(path), IMAGE_PIXELS) as picture:
        if picture.size != (k.width_px, k.height_px):
            found = "x".join(map(str, picture.size))
            raise BadInputError(f"{shown(path)}: {found} px, camera says {k.width_px}x{k.height_px}")
        return np.asarray(picture.convert("RGB"), dtype=np.uint8)


def _pose(position_m: Sequence[float], quat_xyzw: Sequence[float], what: str) -> Array:
    try:
        T = make_pose(position_m, rotation_from_quat(quat_xyzw))
    except ValueError as error:
        raise BadInputError(f"{what}: {error}") from error
    length = float(np.linalg.norm(quat_xyzw))
    if abs(length - 1.0) > _UNIT:
        raise BadInputError(f"{what}: the quaternion has length {length:.3g}, a rotation's has 1")
    if not np.isfinite(T).all():
        raise BadInputError(f"{what}: the position is not finite")
    return T


def write_calibration(path: Path, calibration: CameraCalibration) -> None:
    """Write a calibration file and the folders above it.

    Raises:
        UnsavedError: it cannot be written.
    """
    text = "# Where the camera is in the robot's base frame; made by `qwen2vl-robot calibrate`.\n"
    text += yaml.safe_dump(calibration.model_dump(mode="json"), sort_keys=False)
    draw_all(path.parent, {path.name: lambda file: file.write_text(text, encoding="utf-8")})


def load_calibration(name: str) -> Array:
    """Load `T_base_camera` (4, 4) from a calibration file.

    Raises:
        BadInputError: the file or a number in it cannot be used, or it says itself that it does not fit.
    """
    found = load_yaml(resolve(name), CameraCalibration)
    T = _pose(found.position_m, found.quat_xyzw, name)
    if not (found.residual_m <= MAX_RESIDUAL_M and found.residual_deg <= MAX_RESIDUAL_DEG):
        residual = f"residual {found.residual_m * 1000:.4g} mm and {found.residual_deg:.3g} deg"
        allowed = f"{MAX_RESIDUAL_M * 1000:.0f} mm and {MAX_RESIDUAL_DEG:.0f} deg"
        raise BadInputError(f"{name}: {residual}, allowed {allowed}; calibrate the camera anew")
    try:
        check_place(T)
    except BadInputError as error:
        raise BadInputError(f"{name}: {error}") from error
    return read_only(T, (4, 4))


def _calibration(base_frame: str, found: HandEye, views: int) -> CameraCalibration:
    x, y, z = (float(v) for v in found.T_base_camera[:3, 3])
    qx, qy, qz, qw = (float(v) for v in quat_from_rotation(found.T_base_camera[:3, :3]))
    return CameraCalibration(
        base_frame=base_frame,
        position_m=(x, y, z),
        quat_xyzw=(qx, qy, qz, qw),
        residual_m=found.residual_m,
        residual_deg=float(np.rad2deg(found.residual_rad)),
        held_out_m=found.held_out_m,
        uncertainty_m=found.uncertainty_m,
        views=views,
        method=found.method,
    )
