"""A rehearsed step → the approver's answer, then the gate's, with everything measured after the last wait; the arm."""

from __future__ import annotations

from qwen2vl_robot import executor
from qwen2vl_robot.belief import Belief
from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.executor import ExecutionReport
from qwen2vl_robot.lookout import Lookout
from qwen2vl_robot.messages import ApprovedMotion, Refusal, Rehearsed
from qwen2vl_robot.parts import Parts
from qwen2vl_robot.reasons import ObservationReason, RefusalReason


def ask(parts: Parts, belief: Belief, rehearsed: Rehearsed, doubts: tuple[str, ...]) -> ApprovedMotion | Refusal:
    """Ask whether a step may go to the arm.

    A person may take a minute and a camera half a second, so the joint state and the clock are read last.

    Args:
        doubts: why a person has to agree, whatever the approval mode says.
    """
    approval = parts.approver.approve(rehearsed, doubts)
    if isinstance(approval, Refusal):
        return approval
    missing = RefusalReason.NO_FRAME
    try:
        fresh = parts.camera.capture()
        missing = RefusalReason.STALE_STATE
        live = belief.state_of(parts.arm)
    except ObservationError as error:
        halted = parts.halt.cause() if error.reason is ObservationReason.HALTED else None
        return Refusal(missing, str(error)) if halted is None else Refusal(halted.reason, halted.text)
    return parts.gate.admit(rehearsed, live, fresh, approval, parts.halt, parts.clock.now_ns())


def carry_out(parts: Parts, approved: ApprovedMotion, lookout: Lookout) -> ExecutionReport:
    """Have the arm do what was approved; what breaks on the way latches a stop, for nobody knows where the arm is."""
    age_s, ports = parts.gate.max_state_age_s, (parts.arm, parts.clock, parts.surroundings.profile, parts.halt)
    try:
        return executor.run(approved, *ports, max_state_age_s=age_s, lookout=lookout)
    except BaseException as error:
        parts.halt.stop(f"the last motion broke: {error!r}")
        raise
