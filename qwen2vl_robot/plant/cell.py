"""Scene file + seed → a simulated robot cell that behaves like hardware; it runs in a process of its own.

client.py has what a controller may see of it, without loading Bullet.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.bullet import TABLE, TIME_STEP_S, Bowl, BulletWorld
from qwen2vl_robot.config import ObjectSpec, RobotProfile, load_robot
from qwen2vl_robot.errors import ExecutionError
from qwen2vl_robot.film import FILM_HZ, FILM_INTRINSICS, shoot
from qwen2vl_robot.geometry import Array, make_pose, read_only, rotation_from_rotvec
from qwen2vl_robot.meshes import Mesh
from qwen2vl_robot.messages import (
    ApprovedMotion,
    Box,
    CameraFrame,
    Container,
    GripperSegment,
    ImageBox,
    Intrinsics,
    Motion,
    RobotState,
)
from qwen2vl_robot.plant.cameras import ErringCamera, Finish, load_camera
from qwen2vl_robot.plant.client import TrueBox, TrueObject
from qwen2vl_robot.plant.driver import Fingers, check_approved
from qwen2vl_robot.plant.scenes import PlantObject, PlantScene, draw_scene, load_scene, populate, with_spread
from qwen2vl_robot.plant.torques import ErringTorques
from qwen2vl_robot.plant.trajectory import Trajectory
from qwen2vl_robot.retreat import way_back

_SETTLE_S = 0.5
_STREAM_NS, _STREAM_PX = 200_000_000, 320  # between the pictures that are taken while the arm moves, and their width
_MAX_CATCH_UP_S = 0.25  # the plant drops any further delay behind the wall clock


class Plant:
    """A simulated robot cell with its own time and faults; controllers see it only through camera and joint states.

    Args:
        scene_path: file of sim/scenes.
        seed: draws the scene and its faults.
        always, count: as in `scenes.draw_scene`.
        realtime: whether plant time follows the wall clock; otherwise it passes only in `advance`.
        camera: a model of sim/cameras, instead of the scene's own.

    Raises:
        BadInputError: the scene's or the camera's file is missing or wrong.
    """

    def __init__(
        self,
        scene_path: str,
        seed: int,
        always: tuple[ObjectSpec, ...] | None = None,
        count: int | None = None,
        realtime: bool = False,
        camera: str | None = None,
    ) -> None:
        ranges, catalogue = load_scene(scene_path)
        drawn = draw_scene(ranges, catalogue, seed, always=always, count=count)
        self._rng = np.random.default_rng([seed, 1])
        self._scene = with_spread(drawn, self._rng)
        self._faults = drawn.faults
        self._profile: RobotProfile = load_robot(drawn.robot)
        self._T_base_camera_published = drawn.T_base_camera @ _pose_error(
            drawn.faults.extrinsics_error_m, drawn.faults.extrinsics_error_deg, self._rng
        )
        self._camera = ErringCamera(load_camera(camera or drawn.camera), drawn.intrinsics, self._rng)
        self._stream = self._camera.smaller(_STREAM_PX, np.random.default_rng([seed, 2]))
        self._torques = ErringTorques(self._profile, np.random.default_rng([seed, 3]))
        self._motion: Motion | None = None
        self._used: set[str] = set()  # tokens of approvals
        self._track: Trajectory | None = None
        self._starts_s = 0.0
        self._halts_s: float | None = None
        self._grips: list[GripperSegment] = []  # of the motion under way; the first one is next or has no leave to end
        self._fingers: Fingers | None = None
        self._film: list[npt.NDArray[np.uint8]] | None = None
        self._seen: tuple[int, npt.NDArray[np.str_]] | None = None
        self._world = BulletWorld()
        self._world.add_table(rgb=drawn.table_rgb)
        self._world.add_robot(self._profile)
        populate(self._world, self._scene)
        _put_home(self._world, self._profile, self._scene.start_q_offset_rad, self._rng)
        self._step(round(_SETTLE_S / TIME_STEP_S))
        self._realtime = realtime
        self._wall_offset_s = time.monotonic() - self._world.time_s

    def close(self) -> None:
        """End the simulation."""
        self._world.close()

    # ------------------------------------------------------------------------------------------ time

    def now_ns(self) -> int:
        """Return plant time: simulated nanoseconds since the plant was built."""
        self.tick()
        return round(self._world.time_s * 1e9)

    def advance(self, seconds: float) -> None:
        """Simulate a duration as fast as possible.

        Raises:
            ExecutionError: the plant runs in real time, or the duration is not 0 to 600 s.
        """
        if self._realtime:
            raise ExecutionError("a real-time plant cannot be advanced; wait instead")
        if not 0.0 <= seconds <= 600.0:
            raise ExecutionError(f"cannot advance by {seconds} s; allowed 0 to 600")
        self._step(int(np.ceil(seconds / TIME_STEP_S - 1e-9)))

    def tick(self) -> None:
        """In real time, simulate up to the wall clock; drop a delay above 0.25 s, which makes plant time run slow."""
        if not self._realtime:
            return
        debt_s = time.monotonic() - self._wall_offset_s - self._world.time_s
        if debt_s > _MAX_CATCH_UP_S:
            self._wall_offset_s += debt_s - _MAX_CATCH_UP_S
            debt_s = _MAX_CATCH_UP_S
        self._step(int(debt_s / TIME_STEP_S))

    # ------------------------------------------------------------------------------------- camera, state

    def capture(self) -> CameraFrame:
        """Take an RGB-D frame that errs as its model does, with the published pose, which has a calibration error."""
        self.tick()
        return self._picture(self._camera)

    def newest(self, since_ns: int) -> CameraFrame | None:
        """Take a small frame, five a second of plant time; None before its time has come (see `ports.Camera`)."""
        self.tick()
        return self._picture(self._stream) if self._world.time_s * 1e9 >= since_ns + _STREAM_NS else None

    def _picture(self, camera: ErringCamera) -> CameraFrame:
        stamp_ns, k = round(self._world.time_s * 1e9), camera.intrinsics
        rgb, depth_m = camera.see(*self._look(k), _finishes(self._scene, self._seen))
        depth_m.setflags(write=False)
        rgb.setflags(write=False)
        return CameraFrame(stamp_ns, rgb, depth_m, k, read_only(self._T_base_camera_published))

    def state(self) -> RobotState:
        """Measure joints and gripper width; what the gripper holds is not measured."""
        self.tick()
        q_rad, dq_radps, width_m = self._world.robot.arm_state()
        effort_nm = self._torques.read_nm(self._world.robot.efforts_nm(), dq_radps)
        joints = (read_only(q_rad), read_only(dq_radps))
        return RobotState(round(self._world.time_s * 1e9), *joints, width_m, effort_nm=read_only(effort_nm))

    def _look(self, k: Intrinsics) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        scene, camera = self._scene, (k, self._scene.T_base_camera)
        rgb, depth_m, names = self._world.render(*camera, scene.light)
        self._seen = (round(self._world.time_s / TIME_STEP_S), names)
        return rgb, depth_m if scene.waves is None else scene.waves.raise_table(depth_m, names == TABLE, *camera)

    # ------------------------------------------------------------------------------------------- arm

    def execute(self, approved: ApprovedMotion) -> None:
        """Start an approved motion; it takes effect after the actuation lag.

        Raises:
            ExecutionError: another motion is under way, or the approval does not fit motion, time, robot or start.
        """
        self.tick()
        if self._motion is not None or self._halts_s is not None:
            raise ExecutionError("the arm is still moving; wait or stop it first")
        q_rad, _, _ = self._world.robot.arm_state()
        if approved.token in self._used:
            raise ExecutionError("this approval was used before; each is good for one motion")
        check_approved(approved, self._profile, round(self._world.time_s * 1e9), q_rad)
        self._used.add(approved.token)
        self._motion = approved.motion
        self._track = Trajectory.of_motion(approved.motion, q_rad)
        self._starts_s = self._world.time_s + self._faults.actuation_lag_s
        self._grips = [s for s in approved.motion.segments if isinstance(s, GripperSegment)]
        self._fingers = None

    def is_moving(self) -> bool:
        """Return whether a motion is under way and no stop was given."""
        self.tick()
        return self._motion is not None and self._halts_s is None

    def has_gripped(self) -> bool:
        """Return whether the fingers have reached the commanded width, or stall (see `ports.Arm`)."""
        self.tick()
        return self.is_moving() and self._fingers is not None and self._fingers.have_come

    def go_on(self) -> int:
        """Let the motion go on after a command to the gripper (see `ports.Arm`)."""
        self.tick()
        if not self.is_moving() or self._fingers is None:
            raise ExecutionError("no command to the gripper waits for leave to go on")
        end_s = self._grips.pop(0).end_s
        self._fingers = None
        self._starts_s = max(self._starts_s, self._world.time_s + self._faults.actuation_lag_s - end_s)
        return round((self._starts_s - self._faults.actuation_lag_s + end_s) * 1e9)

    def retreat(self, from_s: float) -> int:
        """Go back up the guarded segment, from one actuation lag on (see `ports.Arm`)."""
        if not self.is_moving() or self._motion is None:
            raise ExecutionError("no motion is under way that could go back")
        back = way_back(self._motion, from_s)
        self._track = Trajectory(back.q_rad[0], back.time_s, back.q_rad)
        self._motion, self._grips, self._fingers = replace(self._motion, segments=(back,), guarded=None), [], None
        self._starts_s = self._world.time_s + self._faults.actuation_lag_s
        return round(self._world.time_s * 1e9)

    def stop(self) -> None:
        """Stop and hold the position that the arm has one actuation lag from now."""
        self.tick()
        if self._halts_s is None:
            self._halts_s = self._world.time_s + self._faults.actuation_lag_s

    def drive(self, q_rad: Array, dq_radps: Array, width_m: float, seconds: float) -> RobotState:
        """Command the motors, advance by `seconds`, and measure; node.py's controllers use it.

        Raises:
            ExecutionError: the plant runs in real time, an approved motion is under way, or `seconds` is not 0 to 600.
        """
        if self._motion is not None:
            raise ExecutionError("an approved motion is under way; the controllers cannot drive as well")
        self._world.robot.command_arm(q_rad, dq_radps)
        self._command_gripper(width_m)
        self.advance(seconds)
        return self.state()

    def _step(self, count: int) -> None:
        every = round(1.0 / FILM_HZ / TIME_STEP_S)
        for _ in range(count):
            self._drive()
            self._world.step()
            if self._film is not None and round(self._world.time_s / TIME_STEP_S) % every == 0:
                self._film.append(shoot(self._world))

    def _drive(self) -> None:
        """Command the motors for the next time step."""
        now_s = self._world.time_s
        if self._halts_s is not None and now_s >= self._halts_s:
            self._world.robot.command_arm(self._world.robot.arm_state()[0])
            self._motion, self._track, self._halts_s = None, None, None
        if self._motion is None or self._track is None or now_s < self._starts_s:
            return
        if self._grips:  # no further than its end without leave to go on
            self._starts_s = max(self._starts_s, now_s - self._grips[0].end_s)
        since_s = now_s - self._starts_s
        self._world.robot.command_arm(*self._track.at(since_s))
        if self._grips and since_s >= self._grips[0].start_s:
            wanted_m, width_m = self._grips[0].width_m, self._world.robot.arm_state()[2]
            self._command_gripper(wanted_m)
            self._fingers = self._fingers or Fingers(wanted_m, width_m, now_s)
            self._fingers.look(width_m, now_s)
        if since_s >= self._motion.duration_s and not self._grips:
            self._motion, self._track = None, None

    def _command_gripper(self, width_m: float) -> None:
        ratio, force_n = self._faults.gripper_speed_ratio, self._profile.gripper.force_n
        self._world.robot.command_gripper(width_m, force_n, speed_ratio=ratio)

    # ----------------------------------------------------------------------------------- film and truth

    def start_film(self) -> None:
        """Start to record the film's view, `FILM_HZ` pictures per second of plant time."""
        self._film = []

    def take_film(self) -> npt.NDArray[np.uint8]:
        """End the recording and return its pictures (k, h, w, 3)."""
        pictures, self._film = self._film or [], None
        return _stacked(pictures)

    def true_objects(self) -> dict[str, TrueObject]:
        """Map each label to the object's true state now."""
        return {o.label: _true_object(self._world, o) for o in self._scene.objects}

    def true_boxes(self) -> dict[str, TrueBox]:
        """Map the label of each visible object to its box in the camera's image now."""
        if self._seen is None or self._seen[0] != round(self._world.time_s / TIME_STEP_S):
            self._look(self._scene.intrinsics)
        return _boxes_of(self._scene, self._seen)

    def true_robot_px(self) -> int:
        """Count the pixels of the latest picture that show the robot."""
        return 0 if self._seen is None else int((self._seen[1] == "robot").sum())

    def true_T_base_camera(self) -> Array:
        """Return the camera's true pose (4, 4)."""
        return self._scene.T_base_camera


def _boxes_of(scene: PlantScene, seen: tuple[int, npt.NDArray[np.str_]] | None) -> dict[str, TrueBox]:
    assert seen is not None
    return {o.label: box for o in scene.objects if (box := _visible_box(seen[1] == o.label)) is not None}


def _true_object(world: BulletWorld, item: PlantObject) -> TrueObject:
    pose, speed_mps, shape = world.pose(item.label), world.speed_mps(item.label), item.shape
    if isinstance(shape, Bowl):  # the round container around it, which is a bowl's shape outside the plant
        shape = Container((shape.diameter_m, shape.diameter_m, shape.height_m), shape.wall_m, is_round=True)
    elif isinstance(shape, Mesh):  # its bounding box
        x, y, z = (float(v) for v in shape.size_m)
        shape = Box((x, y, z))
    return TrueObject(item.label, shape, pose, speed_mps, item.mass_kg, item.friction, item.can_be_picked)


def _finishes(scene: PlantScene, seen: tuple[int, npt.NDArray[np.str_]] | None) -> dict[Finish, npt.NDArray[np.bool_]]:
    """Mark the pixels of a look that show something shiny or clear."""
    odd = [item for item in scene.objects if item.finish != "matt"] if seen is not None else []
    return {o.finish: np.isin(seen[1], [i.label for i in odd if i.finish == o.finish]) for o in odd if seen}


def _stacked(pictures: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    k = FILM_INTRINSICS
    return np.stack(pictures) if pictures else np.zeros((0, k.height_px, k.width_px, 3), dtype=np.uint8)


def _put_home(world: BulletWorld, profile: RobotProfile, spread_rad: float, rng: np.random.Generator) -> None:
    """Put the arm near its home, with open fingers."""
    home_rad = np.array(profile.home_q_rad)
    limits = np.array([(joint.lower_rad, joint.upper_rad) for joint in profile.joints]).T
    q_rad = np.clip(home_rad + rng.uniform(-spread_rad, spread_rad, len(home_rad)), *limits)
    world.robot.reset_arm(q_rad, profile.gripper.max_width_m)
    world.robot.command_arm(q_rad)
    world.robot.command_gripper(profile.gripper.max_width_m, profile.gripper.force_n)


def _pose_error(length_m: float, angle_deg: float, rng: np.random.Generator) -> Array:
    """Draw a pose (4, 4) with a translation and a rotation of these magnitudes in random directions."""
    along, about = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    return make_pose(length_m * along, rotation_from_rotvec(np.deg2rad(angle_deg) * about))


def _visible_box(mask: npt.NDArray[np.bool_]) -> TrueBox | None:
    """Return the box, 0..1000, around the true pixels of a mask (h, w); None without any."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    h, w = mask.shape
    x0, x1 = (1000.0 * float(x) / w for x in (columns[0], columns[-1] + 1))
    y0, y1 = (1000.0 * float(y) / h for y in (rows[0], rows[-1] + 1))
    return TrueBox(ImageBox(x0, y0, x1, y1), int(mask.sum()))
