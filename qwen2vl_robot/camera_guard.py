"""Each frame → whether the arm in it says that the camera is where its calibration says.

What contradicts the calibration is refused. With too little of the arm in view the camera is unchecked: that is
reported, and motion goes on unless a check is required.
"""

from __future__ import annotations

from collections.abc import Callable

from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.messages import Observation
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.perception.camera_check import CameraSeen, check_camera
from qwen2vl_robot.perception.surfaces import surfaces_of
from qwen2vl_robot.reasons import ObservationReason


def _nobody(seen: CameraSeen) -> None:
    """Tell nobody."""


class CameraGuard:
    """Checks the camera in every frame.

    Args:
        is_required: whether a camera that is unchecked holds every motion back.
        on_seen: is told what each frame says.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        is_required: bool = False,
        on_seen: Callable[[CameraSeen], None] = _nobody,
    ) -> None:
        self._profile, self._kinematics = surroundings.profile, surroundings.kinematics
        self._is_required, self._on_seen = is_required, on_seen
        surfaces_of(surroundings.kinematics)  # now, so that no frame waits for it

    def confirm(self, observation: Observation) -> str:
        """Return what a frame says of the camera, in one line.

        Raises:
            ObservationError: it says that nothing may be measured in it.
        """
        seen, against = self.look(observation)
        if against is not None:
            raise ObservationError(seen.describe(), reason=against)
        return seen.describe()

    def look(self, observation: Observation) -> tuple[CameraSeen, ObservationReason | None]:
        """Return what a frame says, and the reason why nothing may be moved by it."""
        seen = check_camera(observation, self._profile, self._kinematics)
        self._on_seen(seen)
        if seen.is_off:
            return seen, ObservationReason.CAMERA_OFF
        return seen, ObservationReason.CAMERA_UNCHECKED if self._is_required and not seen.is_checked else None
