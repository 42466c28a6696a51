"""Your own camera and arm behind the ports, and the whole flow on them. Run it: python examples/own_camera_and_arm.py

The camera here always shows the same picture, and the arm moves in no world. So the task must not end as "achieved":
the picture shows that nothing happened, and the outcome says so: no_motion.
"""

import time
from pathlib import Path

import numpy as np

import qwen2vl_robot as qr
from qwen2vl_robot.retreat import way_back

DATA = np.load(Path(__file__).with_name("frame.npz"))
DEPTH_M = np.where(DATA["depth_mm"] > 0, DATA["depth_mm"] / 1000.0, np.nan).astype(np.float32)
CAMERA = qr.Intrinsics(*DEPTH_M.shape[::-1], DATA["K"][0, 0], DATA["K"][1, 1], DATA["K"][0, 2], DATA["K"][1, 2])


class Clock:
    """The time by which everything is stamped and judged."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Camera:
    """Replace `capture` by a frame of your driver: fresh, depth registered to colour, NaN where it is missing."""

    def capture(self) -> qr.CameraFrame:
        return qr.CameraFrame(time.monotonic_ns(), DATA["rgb"], DEPTH_M, CAMERA, DATA["T_base_camera"])

    def newest(self, since_ns: int) -> qr.CameraFrame | None:  # while the arm moves; never waits
        return self.capture() if time.monotonic_ns() - since_ns > 100_000_000 else None


class Arm:
    """Replace the methods by calls to your controllers; this one follows the motion's points by itself."""

    def __init__(self) -> None:
        self.times_s, self.points_rad, self.began_s = np.zeros(1), DATA["q_rad"][None], 0.0
        self.used: set[str] = set()
        self.grips, self.width_m = [], 0.08

    def since_s(self) -> float:
        now_s = time.monotonic() - self.began_s
        return min(now_s, self.grips[0].end_s) if self.grips else now_s  # it waits for leave to go on

    def state(self) -> qr.RobotState:
        since_s = self.since_s()
        if self.grips and since_s >= self.grips[0].start_s:
            self.width_m = self.grips[0].width_m  # at once, and nothing is in the way
        q_rad = np.array([np.interp(since_s, self.times_s, joint) for joint in self.points_rad.T])
        effort_nm = np.zeros(7)  # what your joints measure; without it no finger goes where no camera has seen
        return qr.RobotState(time.monotonic_ns(), q_rad, np.zeros(7), self.width_m, effort_nm=effort_nm)

    def execute(self, approved: qr.ApprovedMotion) -> None:
        assert approved.token not in self.used, "each approval is good for one motion"
        self.used.add(approved.token)
        self.motion = approved.motion
        joints = [segment for segment in approved.motion.segments if hasattr(segment, "q_rad")]
        self.times_s = np.concatenate([segment.time_s for segment in joints])
        self.points_rad = np.concatenate([segment.q_rad for segment in joints])
        self.grips = [segment for segment in approved.motion.segments if hasattr(segment, "width_m")]
        self.began_s = time.monotonic()

    def is_moving(self) -> bool:
        return self.since_s() < self.times_s[-1]

    def has_gripped(self) -> bool:  # whether the gripper's controller has given its result
        return bool(self.grips) and self.since_s() >= self.grips[0].start_s

    def go_on(self) -> int:  # the executor has checked the width
        grip = self.grips.pop(0)
        self.began_s = max(self.began_s, time.monotonic() - grip.end_s)
        return round((self.began_s + grip.end_s) * 1e9)

    def retreat(self, from_s: float) -> int:  # a contact was felt: back up the way that it came
        back = way_back(self.motion, from_s)
        self.times_s, self.points_rad, self.grips = back.time_s, back.q_rad, []
        self.began_s = time.monotonic()
        return round(self.began_s * 1e9)

    def stop(self) -> None:
        self.times_s, self.points_rad, self.grips = np.zeros(1), self.state().q_rad[None], []


if __name__ == "__main__":  # planner and twin run in processes of their own
    robot, halt = qr.load_robot("franka_panda"), qr.Halt()  # halt.stop("why") from any thread stops the arm
    with qr.PlannerProcess() as planner, qr.RehearsalProcess(robot, budget_s=60.0) as rehearsal:
        ports = qr.Ports(Camera(), Arm(), Clock(), planner, rehearsal)
        report = qr.assemble(qr.Surroundings.of(robot), ports, halt=halt).run(qr.Instruction("pick up the red block"))
    print(report.outcome.kind.value, *(cause.text for cause in report.outcome.causes), sep="; ")
