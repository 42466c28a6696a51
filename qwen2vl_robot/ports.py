"""What the controller needs from outside: seven small protocols; tests/contracts has suites for clock, camera, arm."""

from __future__ import annotations

from typing import Protocol

from qwen2vl_robot.messages import (
    Approval,
    ApprovedMotion,
    CameraFrame,
    Instruction,
    Motion,
    Observation,
    Plan,
    Refusal,
    Rehearsed,
    RobotState,
    Scene,
    StepRecord,
    Verdict,
)


class Clock(Protocol):
    """The time by which motions, deadlines and staleness are judged (the plant's, in simulation)."""

    def now_ns(self) -> int:
        """Nanoseconds since an arbitrary start; never goes back."""

    def sleep(self, seconds: float) -> None:
        """Let this much of its time pass."""


class Camera(Protocol):
    """A calibrated RGB-D camera."""

    def capture(self) -> CameraFrame:
        """Take one fresh, synchronised frame.

        Raises:
            ObservationError: no frame, or an unusable one.
        """

    def newest(self, since_ns: int) -> CameraFrame | None:
        """The newest frame that was exposed after a time of the clock, None while none is there; never waits.

        It is asked many times a second while the arm moves. The frame may be smaller than that of `capture`, of the
        same view.

        Raises:
            ObservationError: an unusable one.
        """


class Arm(Protocol):
    """An arm with its gripper; it moves for an `ApprovedMotion` and for nothing else."""

    def state(self) -> RobotState:
        """Measure joints and gripper now.

        Raises:
            ObservationError: no fresh state.
        """

    def execute(self, approved: ApprovedMotion) -> None:
        """Start the motion and return at once; watch it with `state` and `is_moving`.

        Raises:
            ExecutionError: the digest does not match, it expired, its approval was used before, or the arm rejects it.
        """

    def is_moving(self) -> bool:
        """Whether an executed motion is still under way; one that waits for `go_on` is."""

    def has_gripped(self) -> bool:
        """Whether the latest command to the gripper has its result, and `go_on` is waited for.

        A motion stands still after each command to its gripper until it is told to go on. A gripper that gives no
        results (a topic) has one as soon as the command is sent: then only the measured width tells.
        """

    def go_on(self) -> int:
        """Let the motion go on after a command to the gripper, at its planned time at the earliest.

        Returns:
            When on the clock the command's planned end is now: by so much the rest of the motion comes later, ns.

        Raises:
            ExecutionError: nothing waits for it.
        """

    def retreat(self, from_s: float) -> int:
        """Stop now, drop the rest of a guarded motion, and go its way back up (`retreat.way_back`).

        `is_moving` until it has come there; a `stop` halts it as any motion.

        Args:
            from_s: the motion's own time at which the arm came by where it is.

        Returns:
            When on the clock the way back begins, ns.

        Raises:
            ExecutionError: no motion is under way, or it is not guarded at that time.
        """

    def stop(self) -> None:
        """Halt now, hold position, drop the motion. Safe to call at any time, more than once."""


class Planner(Protocol):
    """Says what to do; it may propose anything and is trusted with nothing."""

    def plan(self, observation: Observation, instruction: Instruction, history: tuple[StepRecord, ...]) -> Plan:
        """Answer with a grounded action sequence.

        Raises:
            PlannerError: no usable reply.
        """


class Rehearsal(Protocol):
    """The twin, behind a process boundary."""

    def rehearse(self, motion: Motion, scene: Scene, start: RobotState, *, refused: int = 0) -> Verdict:
        """Try the motion in a fresh twin; breakage of the twin is a refusing verdict, never an exception.

        Args:
            refused: how many motions for the same step perturbed runs have refused; each makes the next one's harder.
        """


class Approver(Protocol):
    """Says whether a rehearsed step may go; asked before the gate."""

    def approve(self, rehearsed: Rehearsed, doubts: tuple[str, ...]) -> Approval | Refusal:
        """Give an approval of exactly this verdict, or say why not; may wait for a person, until something halts it.

        Args:
            doubts: why a person has to agree, whatever else is set.
        """


class Listener(Protocol):
    """Is called at every observation, plan and step (recorder, console, film); must not raise."""

    def on_frame(self, observation: Observation) -> None:
        """A new observation was taken."""

    def on_plan(self, plan: Plan, observation: Observation) -> None:
        """The planner answered."""

    def on_step(self, step: StepRecord) -> None:
        """A step ended."""
