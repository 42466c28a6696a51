"""Fixed replies → plans, for tests and replays; parsed like any model's."""

from __future__ import annotations

from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.messages import Instruction, Observation, Plan, StepRecord
from qwen2vl_robot.planner.reply import parse_reply
from qwen2vl_robot.reasons import PlannerReason


class ScriptedPlanner:
    """Answers with the given replies, one after the other.

    Attributes:
        asked: the instructions that it was given.
    """

    def __init__(self, *replies: str) -> None:
        self._replies = iter(replies)
        self.asked: list[Instruction] = []

    def plan(self, observation: Observation, instruction: Instruction, history: tuple[StepRecord, ...]) -> Plan:
        """Parse the next scripted reply (see `ports.Planner`).

        Raises:
            PlannerError: the reply is unusable, or none is left.
        """
        self.asked.append(instruction)
        reply = next(self._replies, None)
        if reply is None:
            raise PlannerError("the script has no reply left", reason=PlannerReason.NO_REPLY)
        return parse_reply(reply)
