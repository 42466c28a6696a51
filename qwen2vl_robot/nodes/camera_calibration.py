"""Pictures of a ChArUco board with the arm's poses → `T_base_camera`, with its residual, as YAML.

The board is mounted on the flange (a fixed camera beside the robot sees it move), or lies on the table at a known pose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import yaml
from pydantic import Field

from qwen2vl_robot.bounds import IMAGE_PIXELS, IMAGE_SIDE_PX, PHOTO_BYTES, shown
from qwen2vl_robot.config import Strict, load_yaml
from qwen2vl_robot.documents import read_file
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.geometry import Array, invert, make_pose, quat_from_rotation, read_only, rotation_from_quat
from qwen2vl_robot.messages import Intrinsics
from qwen2vl_robot.photos import open_picture
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.results import draw_all

MIN_VIEWS = 4
_MOST_VIEWS = 100  # they are in memory together
_MIN_CORNERS = 6
_MIN_TURN_RAD = 0.2  # between two of the views; without rotation the solution is not unique
_METHODS = {
    "park": cv2.CALIB_HAND_EYE_PARK,
    "horaud": cv2.CALIB_HAND_EYE_HORAUD,
    "daniilidis": cv2.CALIB_HAND_EYE_DANIILIDIS,
}


class BoardSpec(Strict):
    """A printed ChArUco board of dictionary DICT_5X5_100; sides of squares and markers in metres."""

    squares_x: int = Field(ge=3, le=20)
    squares_y: int = Field(ge=3, le=20)
    square_m: float = Field(gt=0.0, le=0.5)
    marker_m: float = Field(gt=0.0, le=0.5)

    def board(self) -> Any:
        """Return OpenCV's board (`Any`: OpenCV's annotations do not fit what its detector returns).

        Raises:
            BadInputError: the markers are not smaller than the squares.
        """
        if self.marker_m >= self.square_m:
            raise BadInputError(f"marker_m {self.marker_m} must be below square_m {self.square_m}")
        dictionary = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_5X5_100)
        return cv2.aruco.CharucoBoard((self.squares_x, self.squares_y), self.square_m, self.marker_m, dictionary)


class CameraCalibration(Strict):
    """The file that `qwen2vl-robot calibrate` writes and the node's parameter `calibrations` names.

    Attributes:
        position_m, quat_xyzw: the camera's optical frame in `base_frame`.
        residual_m, residual_deg: root mean square of the views' deviation from the solution.
        views: number of pictures that show the board.
        method: the hand-eye solver, or "table".
    """

    base_frame: str
    position_m: tuple[float, float, float]
    quat_xyzw: tuple[float, float, float, float]
    residual_m: float = Field(ge=0.0)
    residual_deg: float = Field(ge=0.0)
    views: int = Field(ge=1)
    method: str


@dataclass(frozen=True, slots=True, eq=False)
class BoardView:
    """One picture (h, w, 3) and the pose (4, 4) of the flange (or tool) in the base frame."""

    rgb: npt.NDArray[np.uint8]
    T_base_flange: Array


def find_board(rgb: npt.NDArray[np.uint8], spec: BoardSpec, k: Intrinsics) -> Array | None:
    """Find `T_camera_board` (4, 4) in a picture (h, w, 3); None if fewer than 6 corners are seen or no pose fits."""
    grey = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    board = spec.board()
    corners, ids, _, _ = cv2.aruco.CharucoDetector(board).detectBoard(grey)
    if ids is None or len(ids) < _MIN_CORNERS:
        return None
    points, pixels = board.matchImagePoints(corners, ids)
    matrix = np.array([[k.fx_px, 0, k.cx_px], [0, k.fy_px, k.cy_px], [0, 0, 1]])
    ok, rotvec, t_m = cv2.solvePnP(points, pixels, matrix, None, flags=cv2.SOLVEPNP_ITERATIVE)
    if not ok or not np.isfinite([*rotvec, *t_m]).all():
        return None
    return make_pose(t_m[:, 0], cv2.Rodrigues(rotvec)[0])


def solve_flange(views: Sequence[BoardView], spec: BoardSpec, k: Intrinsics, base_frame: str) -> CameraCalibration:
    """Calibrate with the board on the flange and a fixed camera; the solver with the smallest residual wins.

    Raises:
        BadInputError: too few views show the board, the flange rotated too little, or no solver has a solution.
    """
    seen = [(v.T_base_flange, T) for v in views if (T := find_board(v.rgb, spec, k)) is not None]
    if len(seen) < MIN_VIEWS:
        raise BadInputError(f"{len(seen)} of {len(views)} pictures show the board; at least {MIN_VIEWS} are needed")
    turn_rad = max(_angle(invert(a) @ b) for a, _ in seen for b, _ in seen)
    if turn_rad < _MIN_TURN_RAD:
        raise BadInputError(f"the flange turned by {turn_rad:.2f} rad at most; at least {_MIN_TURN_RAD} rad are needed")
    solutions = []
    for name, method in _METHODS.items():
        # OpenCV solves for a camera on the gripper; with the arm's poses inverted it solves for a fixed camera.
        inverted = [invert(T) for T, _ in seen]
        R, t_m = cv2.calibrateHandEye(
            [T[:3, :3] for T in inverted],
            [T[:3, 3] for T in inverted],
            [T[:3, :3] for _, T in seen],
            [T[:3, 3] for _, T in seen],
            method=method,
        )
        if np.isfinite(R).all() and np.isfinite(t_m).all():
            T_base_camera = make_pose(t_m[:, 0], R)
            solutions.append((*_residual(seen, T_base_camera), name, T_base_camera))
    if not solutions:
        raise BadInputError("no solver found a solution; take views that differ more")
    residual_m, residual_rad, name, T_base_camera = min(solutions, key=lambda s: s[0])
    return _calibration(base_frame, T_base_camera, residual_m, residual_rad, len(seen), name)


def solve_table(
    pictures: Sequence[npt.NDArray[np.uint8]], T_base_board: Array, spec: BoardSpec, k: Intrinsics, base_frame: str
) -> CameraCalibration:
    """Calibrate with the board at a known pose on the table: the mean over the pictures.

    Raises:
        BadInputError: no picture shows the board.
    """
    poses = [T_base_board @ invert(T) for rgb in pictures if (T := find_board(rgb, spec, k)) is not None]
    if not poses:
        raise BadInputError(f"none of {len(pictures)} pictures shows the board")
    mean = _mean(poses)
    off = [invert(mean) @ T for T in poses]
    residual_m = float(np.sqrt(np.mean([np.sum(T[:3, 3] ** 2) for T in off])))
    residual_rad = float(np.sqrt(np.mean([_angle(T) ** 2 for T in off])))
    return _calibration(base_frame, mean, residual_m, residual_rad, len(poses), "table")


class _ViewSpec(Strict):
    """One picture of views.yaml; `flange_*` is the flange's pose in the base frame when it was taken."""

    image: str
    flange_position_m: tuple[float, float, float] | None = None
    flange_quat_xyzw: tuple[float, float, float, float] | None = None


class _CameraSpec(Strict):
    width_px: int = Field(ge=1, le=IMAGE_SIDE_PX)
    height_px: int = Field(ge=1, le=IMAGE_SIDE_PX)
    fx_px: float = Field(gt=0.0)
    fy_px: float = Field(gt=0.0)
    cx_px: float
    cy_px: float


class _PoseSpec(Strict):
    position_m: tuple[float, float, float]
    quat_xyzw: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)


class ViewsSpec(Strict):
    """views.yaml: the board, the camera, the pictures; `table_board`: the board's pose if it lies on the table."""

    base_frame: str
    board: BoardSpec
    camera: _CameraSpec
    views: Annotated[tuple[_ViewSpec, ...], Field(max_length=_MOST_VIEWS)]
    table_board: _PoseSpec | None = None


def calibrate_folder(folder: Path) -> CameraCalibration:
    """Calibrate from a folder with views.yaml and its pictures.

    Raises:
        BadInputError: a file or a number cannot be used, or the views are not sufficient.
    """
    spec = load_yaml(folder / "views.yaml", ViewsSpec)
    k = Intrinsics(**spec.camera.model_dump())
    pictures = [_read(folder / view.image, k) for view in spec.views]
    if spec.table_board is not None:
        T_base_board = _pose(spec.table_board.position_m, spec.table_board.quat_xyzw, "table_board")
        return solve_table(pictures, T_base_board, spec.board, k, spec.base_frame)
    views = []
    for rgb, view in zip(pictures, spec.views, strict=True):
        if view.flange_position_m is None or view.flange_quat_xyzw is None:
            raise BadInputError(f"{view.image}: flange_position_m and flange_quat_xyzw are needed without table_board")
        views.append(BoardView(rgb, _pose(view.flange_position_m, view.flange_quat_xyzw, view.image)))
    return solve_flange(views, spec.board, k, spec.base_frame)


def _read(path: Path, k: Intrinsics) -> npt.NDArray[np.uint8]:
    with open_picture(read_file(path, PHOTO_BYTES), shown(path), IMAGE_PIXELS) as picture:
        if picture.size != (k.width_px, k.height_px):
            found = "x".join(map(str, picture.size))
            raise BadInputError(f"{shown(path)}: {found} px, camera says {k.width_px}x{k.height_px}")
        return np.asarray(picture.convert("RGB"), dtype=np.uint8)


def _pose(position_m: Sequence[float], quat_xyzw: Sequence[float], what: str) -> Array:
    try:
        return make_pose(position_m, rotation_from_quat(quat_xyzw))
    except ValueError as error:
        raise BadInputError(f"{what}: {error}") from error


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
        BadInputError: the file or a number in it cannot be used.
    """
    calibration = load_yaml(resolve(name), CameraCalibration)
    return read_only(_pose(calibration.position_m, calibration.quat_xyzw, name), (4, 4))


def _calibration(
    base_frame: str, T: Array, residual_m: float, residual_rad: float, views: int, method: str
) -> CameraCalibration:
    x, y, z = (float(v) for v in T[:3, 3])
    qx, qy, qz, qw = (float(v) for v in quat_from_rotation(T[:3, :3]))
    return CameraCalibration(
        base_frame=base_frame,
        position_m=(x, y, z),
        quat_xyzw=(qx, qy, qz, qw),
        residual_m=residual_m,
        residual_deg=float(np.rad2deg(residual_rad)),
        views=views,
        method=method,
    )


def _residual(seen: Sequence[tuple[Array, Array]], T_base_camera: Array) -> tuple[float, float]:
    """Return how far the board's pose on the flange, which is fixed, varies between the views (RMS; m, rad)."""
    places = [invert(T_base_flange) @ T_base_camera @ T_camera_board for T_base_flange, T_camera_board in seen]
    off = [invert(_mean(places)) @ T for T in places]
    metres = float(np.sqrt(np.mean([np.sum(T[:3, 3] ** 2) for T in off])))
    return metres, float(np.sqrt(np.mean([_angle(T) ** 2 for T in off])))


def _mean(poses: Sequence[Array]) -> Array:
    u, _, vt = np.linalg.svd(np.mean([T[:3, :3] for T in poses], axis=0))
    R = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    return make_pose(np.mean([T[:3, 3] for T in poses], axis=0), R)


def _angle(T: Array) -> float:
    return float(np.arccos(np.clip((np.trace(T[:3, :3]) - 1.0) / 2.0, -1.0, 1.0)))
