"""True torques of the joints' motors → what an arm measures of them, with noise, offsets, wrong scale and friction."""

from __future__ import annotations

import numpy as np

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array

# As shares of each joint's largest torque, so that weak joints err less, as they do: about five times worse than
# sensors behind the gears, better than torques told from motor currents, where the gears' friction hides more.
_NOISE, _OFFSET, _FRICTION = 0.001, 0.01, 0.01
_SCALE = 0.03
_BREAKS_RADPS = 0.01  # friction turns its sign over about this speed


class ErringTorques:
    """The torque sensors of one arm; offsets, scales and friction are drawn once, the noise at each reading."""

    def __init__(self, profile: RobotProfile, rng: np.random.Generator) -> None:
        most_nm = np.array([joint.effort_nm for joint in profile.joints])
        self._rng, self._noise_nm = rng, _NOISE * most_nm
        self._offset_nm = _OFFSET * most_nm * rng.uniform(-1.0, 1.0, len(most_nm))
        self._friction_nm = _FRICTION * most_nm * rng.uniform(0.0, 1.0, len(most_nm))
        self._scale = 1.0 + _SCALE * rng.uniform(-1.0, 1.0, len(most_nm))

    def read_nm(self, true_nm: Array, dq_radps: Array) -> Array:
        """Measure the torques (n,) of joints that turn at `dq_radps` (n,)."""
        friction_nm = self._friction_nm * np.tanh(dq_radps / _BREAKS_RADPS)
        noise_nm = self._rng.normal(0.0, 1.0, len(true_nm)) * self._noise_nm
        measured_nm: Array = self._scale * true_nm + self._offset_nm + friction_nm + noise_nm
        return measured_nm
