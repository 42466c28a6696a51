"""The plant's process and its two interfaces: what a controller may see, and the truth.

`PlantLink` is camera, arm and clock. `PlantTruth` reads what hardware cannot measure; only scoring and the truth
planner may use one. The simulation itself is in cell.py, so that no controller loads Bullet.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.config import ObjectSpec
from qwen2vl_robot.errors import ExecutionError, ObservationError, WorkerError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import ApprovedMotion, CameraFrame, ImageBox, RobotState, SceneObject, Shape
from qwen2vl_robot.process import Worker
from qwen2vl_robot.reasons import WorkerReason

FAULTS = ("Slipping", "Doubled", "Bumped", "Echoing", "HalfClosed")  # classes of faulty.py
_CALL_TIMEOUT_S = 20.0
_MAX_SLEEP_S = 600.0


@dataclass(frozen=True, slots=True, eq=False)
class TrueObject:
    """The true state of one body of the plant; a bowl is given as the round container around it."""

    label: str
    shape: Shape
    T_base_object: Array
    speed_mps: float
    mass_kg: float
    friction: float
    can_be_picked: bool

    @property
    def body(self) -> SceneObject:
        """Return it as a scene's body, for `relations.relation_holds`."""
        return SceneObject(self.label, self.shape, self.T_base_object)


@dataclass(frozen=True, slots=True)
class TrueBox:
    """Where the camera sees an object: the box around its visible pixels, and their number."""

    box: ImageBox
    visible_px: int


class PlantProcess:
    """A plant in a process of its own: `link` for the controller, `truth` for scoring. A context manager.

    Args:
        scene_path: file of sim/scenes.
        seed: draws the scene and its faults.
        always, count: as in `scenes.draw_scene`.
        realtime: whether plant time follows the wall clock; otherwise it passes only while the link sleeps.
        camera: a model of sim/cameras, instead of the scene's own.
        interpreter: the Python that has pybullet, else this one.

    Raises:
        BadInputError: the scene's or the camera's file is missing or wrong.
        WorkerError: the process could not be started.
    """

    factory = "qwen2vl_robot.plant.cell:Plant"

    def __init__(
        self,
        scene_path: str,
        seed: int,
        *,
        always: tuple[ObjectSpec, ...] | None = None,
        count: int | None = None,
        realtime: bool = False,
        camera: str | None = None,
        interpreter: str | None = None,
    ) -> None:
        self._worker = Worker(
            self.factory,
            str(scene_path),
            seed,
            always,
            count,
            realtime,
            camera,
            interpreter=interpreter,
        )
        self._worker.start()
        self._wire = _Wire(self._worker)
        self.link = PlantLink(self._wire, realtime=realtime)
        self.truth = PlantTruth(self._wire)

    @property
    def pid(self) -> int | None:
        """Return the process id, None after its end."""
        return self._worker.pid

    def close(self) -> None:
        """End the plant's process."""
        self._worker.close()

    def __enter__(self) -> PlantProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FaultyProcess(PlantProcess):
    """The same, where something goes wrong.

    Args:
        fault: one of `FAULTS`.
    """

    def __init__(
        self,
        fault: str,
        scene_path: str,
        seed: int,
        *,
        always: tuple[ObjectSpec, ...] | None,
        count: int | None,
        camera: str | None = None,
    ) -> None:
        self.factory = f"qwen2vl_robot.plant.faulty:{fault}"
        super().__init__(scene_path, seed, always=always, count=count, camera=camera)


class _Wire:
    """Calls to one plant. A plant that died is not restarted: a new one would be another world."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._pid = worker.pid

    def call(self, method: str, *args: object, extra_s: float = 0.0) -> Any:
        if self._pid is None or self._worker.pid != self._pid:
            raise WorkerError("the plant's process ended; start a new plant", reason=WorkerReason.CRASHED)
        return self._worker.call(method, *args, timeout_s=_CALL_TIMEOUT_S + extra_s)


class PlantLink:
    """Camera, arm and clock of a plant in another process, without its truth."""

    def __init__(self, wire: _Wire, *, realtime: bool) -> None:
        self._wire = wire
        self._realtime = realtime

    def capture(self) -> CameraFrame:
        """Take one frame (see `ports.Camera`)."""
        frame: CameraFrame = self._observe("capture")
        return frame

    def newest(self, since_ns: int) -> CameraFrame | None:
        """Take a small frame if it is time for one (see `ports.Camera`)."""
        frame: CameraFrame | None = self._observe("newest", since_ns)
        return frame

    def state(self) -> RobotState:
        """Measure the arm (see `ports.Arm`)."""
        state: RobotState = self._observe("state")
        return state

    def execute(self, approved: ApprovedMotion) -> None:
        """Start an approved motion (see `ports.Arm`)."""
        self._command("execute", approved)

    def is_moving(self) -> bool:
        """Return whether a motion is under way (see `ports.Arm`)."""
        return bool(self._command("is_moving"))

    def has_gripped(self) -> bool:
        """Return whether a command to the gripper has its result (see `ports.Arm`)."""
        return bool(self._command("has_gripped"))

    def go_on(self) -> int:
        """Let the motion go on after a command to the gripper (see `ports.Arm`)."""
        return int(self._command("go_on"))

    def retreat(self, from_s: float) -> int:
        """Go back up the guarded segment (see `ports.Arm`)."""
        return int(self._command("retreat", from_s))

    def stop(self) -> None:
        """Halt and hold (see `ports.Arm`)."""
        self._command("stop")

    def now_ns(self) -> int:
        """Return plant time, ns (see `ports.Clock`)."""
        return int(self._command("now_ns"))

    def sleep(self, seconds: float) -> None:
        """Let plant time pass: simulate it at once, or wait for it in real time (see `ports.Clock`).

        Raises:
            ExecutionError: the plant is gone, or the duration is not 0 to 600 s.
        """
        if not 0.0 <= seconds <= _MAX_SLEEP_S:
            raise ExecutionError(f"cannot sleep {seconds} s; allowed 0 to {_MAX_SLEEP_S:g}")
        if self._realtime:
            time.sleep(seconds)
        else:
            self._command("advance", seconds, extra_s=2.0 * seconds)

    def start_film(self) -> None:
        """Start to record the film's view."""
        self._command("start_film")

    def take_film(self) -> npt.NDArray[np.uint8]:
        """End the recording and return its pictures (k, h, w, 3)."""
        pictures: npt.NDArray[np.uint8] = self._command("take_film")
        return pictures

    def _observe(self, method: str, *args: object) -> Any:
        try:
            return self._wire.call(method, *args)
        except WorkerError as error:
            raise ObservationError(f"no {method} from the plant: {error}") from error

    def _command(self, method: str, *args: object, extra_s: float = 0.0) -> Any:
        try:
            return self._wire.call(method, *args, extra_s=extra_s)
        except WorkerError as error:
            raise ExecutionError(f"{method} did not reach the plant: {error}") from error


class PlantTruth:
    """The plant's true state. Only scoring and the truth planner may use it, never a controller."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def objects(self) -> dict[str, TrueObject]:
        """Map each label to the object's true pose, shape, speed, mass and friction now."""
        objects: dict[str, TrueObject] = self._wire.call("true_objects")
        return objects

    def boxes(self) -> dict[str, TrueBox]:
        """Map the label of each visible object to the box of its visible pixels."""
        boxes: dict[str, TrueBox] = self._wire.call("true_boxes")
        return boxes

    def T_base_camera(self) -> Array:
        """Return the camera's true pose (4, 4)."""
        pose: Array = self._wire.call("true_T_base_camera")
        return pose

    def robot_px(self) -> int:
        """Count the pixels of the latest picture that show the robot."""
        return int(self._wire.call("true_robot_px"))
