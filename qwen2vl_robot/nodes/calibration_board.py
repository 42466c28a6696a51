"""A picture of a ChArUco board → its corners and its pose, or why it is not found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from qwen2vl_robot.config import Strict
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.geometry import Array, make_pose
from qwen2vl_robot.messages import Intrinsics

Dictionary = Literal[
    "DICT_4X4_50",
    "DICT_4X4_100",
    "DICT_4X4_250",
    "DICT_4X4_1000",
    "DICT_5X5_50",
    "DICT_5X5_100",
    "DICT_5X5_250",
    "DICT_5X5_1000",
    "DICT_6X6_50",
    "DICT_6X6_100",
    "DICT_6X6_250",
    "DICT_6X6_1000",
    "DICT_7X7_50",
    "DICT_7X7_100",
    "DICT_7X7_250",
    "DICT_7X7_1000",
    "DICT_ARUCO_ORIGINAL",
    "DICT_APRILTAG_16H5",
    "DICT_APRILTAG_25H9",
    "DICT_APRILTAG_36H10",
    "DICT_APRILTAG_36H11",
]
# Those of one size of marker begin alike, so the largest and the smallest of each tell whose markers they are.
_OTHERS = tuple(d for d in get_args(Dictionary) if not d.endswith(("_100", "_250", "5X5_50")))
_MIN_CORNERS = 6
_MIN_MARKERS = 4  # of another dictionary: some of a small dictionary's markers are found in any picture
MAX_REPROJECTION_PX = 2.0  # root mean square; a sharp board with right intrinsics has 0.1 to 0.5
_LEAST_AMBIGUOUS = 1.5  # the mirrored tilt has to fit this many times worse than the right one

Grey = npt.NDArray[np.uint8]


class BoardSpec(Strict):
    """A printed ChArUco board; sides of squares and markers in metres."""

    squares_x: int = Field(ge=3, le=20)
    squares_y: int = Field(ge=3, le=20)
    square_m: float = Field(gt=0.0, le=0.5)
    marker_m: float = Field(gt=0.0, le=0.5)
    dictionary: Dictionary = "DICT_5X5_100"

    def board(self) -> Any:
        """Return OpenCV's board (`Any`: OpenCV's annotations do not fit what its detector returns).

        Raises:
            BadInputError: the markers are not smaller than the squares, or the dictionary has not enough of them.
        """
        return self._board(self.squares_x, self.squares_y, is_legacy=False)

    def variants(self) -> dict[str, Any]:
        """Return boards that people mistake for this one, by what to do about it."""
        x, y = self.squares_x, self.squares_y
        swapped = f"it has {y} squares along x and {x} along y: swap squares_x and squares_y"
        legacy = "it is of OpenCV's legacy pattern (before 4.6): print the board anew"
        return {
            swapped: self._board(y, x, is_legacy=False),
            legacy: self._board(x, y, is_legacy=True),
            f"{legacy}, and swap squares_x and squares_y": self._board(y, x, is_legacy=True),
        }

    def _board(self, squares_x: int, squares_y: int, *, is_legacy: bool) -> Any:
        if self.marker_m >= self.square_m:
            raise BadInputError(f"marker_m {self.marker_m} must be below square_m {self.square_m}")
        dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, self.dictionary))
        needed, has = squares_x * squares_y // 2, len(dictionary.bytesList)
        if needed > has:
            raise BadInputError(f"{squares_x}x{squares_y} squares need {needed} markers; {self.dictionary} has {has}")
        board = cv2.aruco.CharucoBoard((squares_x, squares_y), self.square_m, self.marker_m, dictionary)
        board.setLegacyPattern(is_legacy)
        return board


@dataclass(frozen=True, slots=True, eq=False)
class SeenBoard:
    """A board in a picture.

    Attributes:
        points_m: (n, 3) corners in the board's frame.
        pixels: (n, 2) where they are seen.
        T_camera_board: (4, 4).
        is_ambiguous: a board with the mirrored tilt explains the picture nearly as well.
    """

    points_m: Array
    pixels: Array
    T_camera_board: Array
    is_ambiguous: bool


class BoardNotFoundError(BadInputError):
    """No usable board is in a picture; the text says why."""


def see_board(rgb: npt.NDArray[np.uint8], spec: BoardSpec, k: Intrinsics) -> SeenBoard:
    """Find the board in a picture (h, w, 3).

    Raises:
        BoardNotFoundError: fewer than 6 corners are seen, or no pose explains them.
    """
    grey: Grey = np.asarray(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    board = spec.board()
    corners, ids = _corners(grey, board)
    if ids is None or len(ids) < _MIN_CORNERS:
        raise BoardNotFoundError(_why_not(grey, spec, 0 if ids is None else len(ids)))
    points, pixels = board.matchImagePoints(corners, ids)
    matrix = np.array([[k.fx_px, 0, k.cx_px], [0, k.fy_px, k.cy_px], [0, 0, 1]])
    found, rotvecs, shifts, errors = cv2.solvePnPGeneric(points, pixels, matrix, None, flags=cv2.SOLVEPNP_IPPE)
    errors_px = np.ravel(errors) if found else np.array([])
    if not len(errors_px) or not np.isfinite([*np.ravel(rotvecs), *np.ravel(shifts), *errors_px]).all():
        raise BoardNotFoundError("the board's corners have no pose: they may lie on one line")
    best = int(np.argmin(errors_px))
    if errors_px[best] > MAX_REPROJECTION_PX:
        text = f"its corners are {errors_px[best]:.1f} px from where any pose puts them; at most {MAX_REPROJECTION_PX}"
        raise BoardNotFoundError(f"{text}: are the pictures rectified, and the camera's numbers right?")
    T = make_pose(np.ravel(shifts[best]), cv2.Rodrigues(rotvecs[best])[0])
    other_px = np.delete(errors_px, best).min(initial=np.inf)
    is_ambiguous = bool(other_px < _LEAST_AMBIGUOUS * errors_px[best])
    return SeenBoard(points.reshape(-1, 3).astype(float), pixels.reshape(-1, 2).astype(float), T, is_ambiguous)


def _corners(grey: Grey, board: Any) -> tuple[Any, Any]:
    corners, ids, _, _ = cv2.aruco.CharucoDetector(board).detectBoard(grey)
    return corners, ids


def _markers(grey: Grey, dictionary: str) -> npt.NDArray[np.intp]:
    detector = cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, dictionary)))
    _, ids, _ = detector.detectMarkers(grey)
    return np.array([], dtype=np.intp) if ids is None else np.asarray(ids, dtype=np.intp).ravel()


def _why_not(grey: Grey, spec: BoardSpec, corners: int) -> str:
    """Say in one line why a picture shows no board of this kind."""
    ids = _markers(grey, spec.dictionary)
    if len(ids) < _MIN_MARKERS:
        counts = {name: len(_markers(grey, name)) for name in _OTHERS if name != spec.dictionary}
        name = max(counts, key=lambda n: counts[n])
        if counts[name] >= max(_MIN_MARKERS, 2 * len(ids)):
            return f"its markers are of another dictionary, {name}; {spec.dictionary} is needed"
        if len(_markers(np.ascontiguousarray(grey[:, ::-1]), spec.dictionary)) >= _MIN_MARKERS:
            return "the picture is mirrored"
        return f"{len(ids)} markers are seen: too small, too dark, blurred, or no board"
    for advice, board in spec.variants().items():
        found = _corners(grey, board)[1]
        if found is not None and len(found) >= _MIN_CORNERS:
            return advice
    needed = (spec.squares_x * spec.squares_y) // 2
    if ids.max() >= needed:
        return f"it has marker {ids.max()}, a board of {spec.squares_x}x{spec.squares_y} ends at {needed - 1}: recount"
    return f"{len(ids)} markers and {corners} corners are seen; at least {_MIN_CORNERS} corners are needed"
