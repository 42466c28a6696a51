"""Views of a board with the poses of what carries it → `T_base_camera`, or why the views cannot tell it.

A small residual proves little: views that turn about one axis, or that were all read wrongly in the same way, fit as
well. So the views have to turn about two axes, each is predicted from the others, the camera's place has to hardly
change when one is left out, and the result has to be a place where a camera can be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.geometry import (
    Array,
    invert,
    make_pose,
    quat_from_rotation,
    rotation_from_quat,
    transform,
)
from qwen2vl_robot.messages import Intrinsics
from qwen2vl_robot.nodes.calibration_board import MAX_REPROJECTION_PX
from qwen2vl_robot.nodes.calibration_fit import Fit, View, cross, jacobian, project, refine, refine_without_each, rms

MIN_VIEWS = 4
MAX_RESIDUAL_M, MAX_RESIDUAL_DEG = 0.010, 2.0  # with right poses and a sharp board 1 to 4 mm and 0.2 to 0.6 degrees
MAX_HELD_OUT_M = 0.006  # a view from the others' solution, across the line of sight; with right poses 0.5 to 2 mm
MAX_UNCERTAINTY_M = 0.0075  # at the work place, one standard deviation; twice that is a wrong camera
_MIN_TURN_RAD = 0.2  # about each of two axes
_MAX_REACH_M, _MAX_CAMERA_M = 3.0, 5.0  # from the base: of flanges, and of cameras that still measure the table
_MIN_HEIGHT_M = 0.05  # of a camera over the table, which is z = 0 of the base frame
_MAX_SCALE_ERROR = 0.02  # of the board against the arm's way
_METHODS = {
    "park": cv2.CALIB_HAND_EYE_PARK,
    "horaud": cv2.CALIB_HAND_EYE_HORAUD,
    "daniilidis": cv2.CALIB_HAND_EYE_DANIILIDIS,
}


@dataclass(frozen=True, slots=True, eq=False)
class HandEye:
    """Where the camera is, with what speaks for it.

    Attributes:
        T_base_camera: (4, 4).
        residual_m, residual_rad: root mean square of the views' deviation from the solution.
        held_out_m: the largest distance between a view and what the others predict of it; None where nothing checks.
        uncertainty_m: standard deviation at the work place from leaving out one view at a time; None likewise.
        method: the solver that the refinement began with, or "table".
    """

    T_base_camera: Array
    residual_m: float
    residual_rad: float
    held_out_m: float | None
    uncertainty_m: float | None
    method: str


def solve_hand_eye(views: Sequence[View], k: Intrinsics) -> HandEye:
    """Find a fixed camera from views of a board on the flange.

    Raises:
        BadInputError: the views cannot tell where the camera is, or contradict each other.
    """
    _check_reach(views)
    _check_turns(views)
    method, start = _begin(views, k)
    fit = refine(views, k, start)
    residual_m, residual_rad = _spread(views, fit.T_base_camera)
    too_far = residual_m > MAX_RESIDUAL_M or np.rad2deg(residual_rad) > MAX_RESIDUAL_DEG
    if too_far or rms(fit.errors_px) > 3 * MAX_REPROJECTION_PX:
        found = f"{residual_m * 1000:.1f} mm and {np.rad2deg(residual_rad):.1f} deg"
        allowed = f"{MAX_RESIDUAL_M * 1000:.0f} mm and {MAX_RESIDUAL_DEG:.0f} deg"
        raise BadInputError(f"the views contradict each other: residual {found}, allowed {allowed}{_advice(views, k)}")
    _check_turns_of_others(views)
    _check_scale(views, k, fit)
    held_out_m, uncertainty_m = _leave_one_out(views, k, fit)
    check_place(fit.T_base_camera)
    return HandEye(fit.T_base_camera, residual_m, residual_rad, held_out_m, uncertainty_m, method)


def solve_placed(views: Sequence[View], k: Intrinsics) -> HandEye:
    """Find a fixed camera from views of a board that lies at known poses on the table: the mean over the views.

    Raises:
        BadInputError: the board's tilt cannot be told, the views contradict each other, or no camera can be there.
    """
    clear = [view for view in views if not view.board.is_ambiguous]
    if not clear:
        text = "the board is seen too straight on, or too small, to tell its tilt"
        raise BadInputError(f"{text}: move it closer, or to where the camera sees it aslant")
    _check_reach(clear)
    poses = [view.T_base_carrier @ invert(view.board.T_camera_board) for view in clear]
    check_place(mean_pose(poses))
    at_m = np.mean([view.T_base_carrier[:3, 3] for view in clear], axis=0)
    uncertainty_m = max(_sight_sd(view, k, at_m) for view in clear) / np.sqrt(len(clear))
    _limit(uncertainty_m, MAX_UNCERTAINTY_M, "the board is too small in the picture: uncertainty at its place")
    residual_m, residual_rad = _deviation(poses)
    _limit(residual_m, MAX_RESIDUAL_M, "the views contradict each other: residual")
    _limit(np.rad2deg(residual_rad), MAX_RESIDUAL_DEG, "the views contradict each other: residual", unit="deg")
    held_out_m = _other_placements(clear)
    if held_out_m is not None:
        _limit(held_out_m, MAX_HELD_OUT_M, "the board's places contradict each other: one is from the others by")
    return HandEye(mean_pose(poses), residual_m, residual_rad, held_out_m, uncertainty_m, "table")


def check_place(T_base_camera: Array) -> None:
    """Check that a camera that measures the table can be there.

    Raises:
        BadInputError: it cannot; the text says why.
    """
    x_m, y_m, z_m = T_base_camera[:3, 3]
    if not np.linalg.norm(T_base_camera[:3, 3]) <= _MAX_CAMERA_M:
        place = f"({x_m:.3g}, {y_m:.3g}, {z_m:.3g}) m"
        raise BadInputError(
            f"the camera would be at {place}, more than {_MAX_CAMERA_M:g} m from the base; poses are in metres"
        )
    if z_m < _MIN_HEIGHT_M:
        where = f"{-z_m:.2f} m under" if z_m < 0 else f"only {z_m:.2f} m over"
        raise BadInputError(
            f"the camera would be {where} the table (z = 0 of the base frame); a ChArUco board's z axis points into "
            "the board: one that lies on the table with x to the base's x has quat_xyzw [1, 0, 0, 0]"
        )
    if T_base_camera[2, 2] > 0.5:
        raise BadInputError("the camera would look up, away from the table; look at the quaternions")


def mean_pose(poses: Sequence[Array]) -> Array:
    """Compute the mean (4, 4) of poses that differ little."""
    u, _, vt = np.linalg.svd(np.mean([T[:3, :3] for T in poses], axis=0))
    R = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    return make_pose(np.mean([T[:3, 3] for T in poses], axis=0), R)


# ------------------------------------------------------------------------------------------------ checks


def _limit(found: float, allowed: float, text: str, unit: str = "m") -> None:
    if not found <= allowed:
        factor, unit = (1000.0, "mm") if unit == "m" else (1.0, unit)
        raise BadInputError(f"{text} {factor * found:.1f} {unit}, allowed {factor * allowed:.3g} {unit}")


def _check_reach(views: Sequence[View]) -> None:
    for view in views:
        far_m = float(np.linalg.norm(view.T_base_carrier[:3, 3]))
        if not far_m <= _MAX_REACH_M:
            text = f"{view.name}: the position is {far_m:.4g} m from the base, at most {_MAX_REACH_M:g} m are possible"
            raise BadInputError(f"{text}; write metres, not millimetres")


def _check_turns(views: Sequence[View]) -> None:
    """Check that the flange turned about two axes: about one, the camera may be anywhere along a line."""
    first, second = _turns(views)
    if min(first, second) < _MIN_TURN_RAD:
        about = f"the flange turned by {first:.2f} rad at most, and by {second:.2f} rad about any second axis"
        raise BadInputError(f"{about}; at least {_MIN_TURN_RAD} rad about each of two axes are needed")


def _check_turns_of_others(views: Sequence[View]) -> None:
    """Check that the second axis does not hang on one view, which no other would check."""
    for index, view in enumerate(views):
        if min(_turns([*views[:index], *views[index + 1 :]])) < _MIN_TURN_RAD / 2:
            text = f"without {view.name} the flange turns about one axis only, so no other view checks it"
            raise BadInputError(f"{text}; take views that turn about both axes by {_MIN_TURN_RAD} rad")


def _turns(views: Sequence[View]) -> tuple[float, float]:
    """Return by how much views turn against each other about their main axis, and about any axis across, rad."""
    R = [view.T_base_carrier[:3, :3] for view in views]
    rotvecs = np.array([cv2.Rodrigues(a.T @ b)[0][:, 0] for i, a in enumerate(R) for b in R[i + 1 :]])
    axis = np.linalg.eigh(rotvecs.T @ rotvecs)[1][:, 2]
    along = rotvecs @ axis
    return float(np.abs(along).max()), float(np.linalg.norm(rotvecs - along[:, None] * axis, axis=1).max())


def _check_scale(views: Sequence[View], k: Intrinsics, fit: Fit) -> None:
    """Check that the board moves in the pictures as far as the flange does."""
    free = refine(views, k, fit, scales=True)
    if abs(free.scale - 1.0) > _MAX_SCALE_ERROR and rms(fit.errors_px) > 1.5 * rms(free.errors_px):
        size = "larger" if free.scale > 1 else "smaller"
        text = f"measured by the arm's way the board is {abs(free.scale - 1) * 100:.0f} % {size} than it should be"
        raise BadInputError(f"{text}; measure square_m again, and look at fx_px and fy_px")


def _advice(views: Sequence[View], k: Intrinsics) -> str:
    """Say how the poses would have to be read to fit, if some other reading does."""
    readings: dict[str, Callable[[Array], Array]] = {
        "read w first, the quaternions fit: write x, y, z, w": _w_first,
        "inverted, the poses fit: give the flange in the base frame": invert,
    }
    for text, reading in readings.items():
        others = [View(view.name, reading(view.T_base_carrier), view.board) for view in views]
        if min(_turns(others)) >= _MIN_TURN_RAD:
            fit = refine(others, k, _begin(others, k)[1])
            if _spread(others, fit.T_base_camera)[0] < MAX_RESIDUAL_M:
                return f"; {text}"
    return "; look at the units, at the order x, y, z, w of the quaternions, and at which picture has which pose"


def _w_first(T: Array) -> Array:
    w, x, y, z = quat_from_rotation(T[:3, :3])
    return make_pose(T[:3, 3], rotation_from_quat([x, y, z, w]))


def _leave_one_out(views: Sequence[View], k: Intrinsics, fit: Fit) -> tuple[float, float]:
    """Predict each view from the others (largest error), and see how far the camera's frame moves at the work place.

    Raises:
        BadInputError: too far.
    """
    at_m = np.array([*np.mean([view.T_base_carrier[:2, 3] for view in views], axis=0), 0.0])
    seen_m = transform(invert(fit.T_base_camera), at_m)
    errors_m, places_m = [], []
    fits = refine_without_each(views, k, fit)
    for view, others in zip(views, fits, strict=True):
        T_camera_board = invert(others.T_base_camera) @ view.T_base_carrier @ others.T_flange_board
        pixels, depth_m = project(T_camera_board, view.board.points_m, k)
        errors_m.append(rms(pixels - view.board.pixels) * float(depth_m.mean()) / k.fx_px)
        places_m.append(transform(others.T_base_camera, seen_m))
    if max(errors_m) > MAX_HELD_OUT_M:
        odd = int(np.argmin([rms(others.errors_px) for others in fits]))  # without it the others agree best
        _limit(max(errors_m), MAX_HELD_OUT_M, f"{views[odd].name} does not fit the other views: one is off by")
    spread_m = np.array(places_m) - np.mean(places_m, axis=0)
    uncertainty_m = float(np.sqrt((len(views) - 1) / len(views) * (spread_m**2).sum()))  # the jackknife's variance
    text = "the views leave the camera's place open: uncertainty at the work place"
    _limit(uncertainty_m, MAX_UNCERTAINTY_M, f"{text} (take more views, closer and more turned)")
    return max(errors_m), uncertainty_m


def _other_placements(views: Sequence[View]) -> float | None:
    """Compare the places of a board with where the camera, found from another place, sees it; None for one place."""
    errors_m = [
        float(np.linalg.norm((a.T_base_carrier @ invert(a.board.T_camera_board) @ b.board.T_camera_board)[:3, 3] - p_m))
        for b in views
        for a in views
        if np.linalg.norm(a.T_base_carrier[:3, 3] - (p_m := b.T_base_carrier[:3, 3])) > MAX_RESIDUAL_M
    ]
    return max(errors_m, default=None)


def _sight_sd(view: View, k: Intrinsics, at_m: Array) -> float:
    """Compute the standard deviation at a place (3,) that half a pixel of noise leaves in one board's pose, metres."""
    T, board = view.board.T_camera_board, view.board
    J = np.linalg.pinv(jacobian(T, board.points_m, k)[:, 6:12])
    arm_m = transform(invert(view.T_base_carrier), at_m)
    moves = np.hstack([np.eye(3), -cross(arm_m[None])[0]])
    return float(0.5 * np.linalg.norm(moves @ J))


# ------------------------------------------------------------------------------------------------- solving


def _begin(views: Sequence[View], k: Intrinsics) -> tuple[str, Fit]:
    """Solve linearly by several methods; the one that fits best begins the refinement."""
    fits = []
    for name, method in _METHODS.items():
        # OpenCV solves for a camera on the gripper; with the arm's poses inverted it solves for a fixed camera.
        inverted = [invert(view.T_base_carrier) for view in views]
        seen = [view.board.T_camera_board for view in views]
        R, t_m = cv2.calibrateHandEye(
            [T[:3, :3] for T in inverted],
            [T[:3, 3] for T in inverted],
            [T[:3, :3] for T in seen],
            [T[:3, 3] for T in seen],
            method=method,
        )
        if np.isfinite(R).all() and np.isfinite(t_m).all():
            T_base_camera = make_pose(t_m[:, 0], R)
            fits.append((_spread(views, T_base_camera)[0], name, T_base_camera))
    if not fits:
        raise BadInputError("no solver found a solution; take views that differ more")
    _, name, T_base_camera = min(fits, key=lambda f: f[0])
    return name, Fit(T_base_camera, mean_pose(_boards(views, T_base_camera)), 1.0, np.array([np.inf]))


def _boards(views: Sequence[View], T_base_camera: Array) -> list[Array]:
    return [invert(view.T_base_carrier) @ T_base_camera @ view.board.T_camera_board for view in views]


def _spread(views: Sequence[View], T_base_camera: Array) -> tuple[float, float]:
    """Return how far the board's pose on the flange, which is fixed, varies between the views (RMS; m, rad)."""
    return _deviation(_boards(views, T_base_camera))


def _deviation(poses: Sequence[Array]) -> tuple[float, float]:
    off = [invert(mean_pose(poses)) @ T for T in poses]
    metres = float(np.sqrt(np.mean([np.sum(T[:3, 3] ** 2) for T in off])))
    turns = [np.arccos(np.clip((np.trace(T[:3, :3]) - 1.0) / 2.0, -1.0, 1.0)) for T in off]
    return metres, float(np.sqrt(np.mean(np.square(turns))))
