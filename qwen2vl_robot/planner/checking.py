"""A check of the cameras → its plan, without a model: show the arm, then bring it home. No planner may show the arm."""

from __future__ import annotations

from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.messages import Action, Instruction, InstructionSource, Observation, Plan, StepRecord, Verb
from qwen2vl_robot.ports import Planner
from qwen2vl_robot.reasons import PlannerReason

CHECK = Instruction("check the camera", InstructionSource.CHECK)
_PLAN = Plan((Action(Verb.SHOW), Action(Verb.HOME)), "")


class Checking:
    """A `ports.Planner` that plans checks by itself and leaves words to another planner."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner

    def plan(self, observation: Observation, instruction: Instruction, history: tuple[StepRecord, ...]) -> Plan:
        """Answer with a plan (see `ports.Planner`).

        Raises:
            PlannerError: no usable reply, or one that shows the arm, which nobody asked for.
        """
        if instruction.source is InstructionSource.CHECK:
            return _PLAN
        plan = self._planner.plan(observation, instruction, history)
        if any(action.verb is Verb.SHOW for action in plan.actions):
            raise PlannerError("nobody asked to show the arm", reason=PlannerReason.BAD_REPLY)
        return plan
