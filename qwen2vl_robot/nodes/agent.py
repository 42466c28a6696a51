"""What an agent asks → the controller on the graph, as an agent's words; what it is told, in bounds.

An agent is software that speaks for a person and may repeat what it read anywhere. It looks, asks, orders and stops; it
has no way to say yes to a motion or to release a stop. It speaks by `shell.Shell`, as people do.
"""

from __future__ import annotations

import io
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from qwen2vl_robot.bounds import shown
from qwen2vl_robot.errors import ExecutionError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.pictures import rgb_from_image
from qwen2vl_robot.messages import Instruction, InstructionSource, Outcome
from qwen2vl_robot.nodes.reports import PlanReport, StatusReport
from qwen2vl_robot.nodes.shell import HEAR_S, Shell, own_topic, read_report
from qwen2vl_robot.rules import RuleBook

MAX_WAIT_S = 120.0
_TEXT_CHARS = 1000  # of one text that came over the graph
_REASONS = 8
_PICTURE_PX = 1024  # the longer side of a picture that is sent
_WINDOW_S = 60.0
_MOST = {
    "do": 10,
    "look": 30,
    "plan": 60,
    "check": 60,
    "status": 240,
}  # calls of a tool in a window; a stop always goes
_WHAT = "what is on the table?"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Picture:
    """A camera's picture as JPEG, with what is known of it."""

    jpeg: bytes
    width_px: int
    height_px: int
    stamp_s: float
    age_s: float


class Agent:
    """An agent's tools on a controller.

    Args:
        rules: the cell's rules by which sentences are checked here, without the controller.
        camera: prefix of the camera's topics.
    """

    def __init__(self, graph: interface.Graph, rules: RuleBook, camera: str = "") -> None:
        self._graph, self._rules = graph, rules
        self._shell = Shell(graph, lambda line: None)
        self._calls = {tool: deque[float]() for tool in _MOST}
        self._lock, self._one = threading.Lock(), threading.Lock()
        self._plan: PlanReport | None = None
        self._image: tuple[float, interface.Message] | None = None
        self._has_image = threading.Event()
        topic = interface.IMAGE.at(f"{camera.strip('/')}/{interface.IMAGE.name}") if camera else interface.IMAGE
        self._image_topic, self._is_looking = topic, False
        graph.subscribe(own_topic(interface.PLAN), self._on_plan)

    def look(self) -> tuple[Picture, Json]:
        """Return the camera's latest picture, and what the controller measures on the table where it is free to.

        Raises:
            ExecutionError: called too often, no controller, or no picture.
        """
        self._count("look")
        picture = self._picture()
        now = self._shell.status()
        if now.state != "idle":
            return picture, {"measured": None, "because": f"the controller is {now.state}"}
        try:
            return picture, {"measured": self._ask(_WHAT, 20.0)}
        except ExecutionError as error:
            return picture, {"measured": None, "because": shown(str(error), _TEXT_CHARS)}

    def plan(self, instruction: str) -> Json:
        """Say how a sentence is read, and the controller's latest plan; the controller plans only to move.

        Raises:
            BadInputError: it is no instruction.
        """
        self._count("plan")
        plan = self._plan
        latest = None if plan is None else plan.model_dump(mode="json", exclude={"digest"})
        if plan is not None and latest is not None:
            latest["instruction"] = shown(plan.instruction, _TEXT_CHARS)
            latest["actions"] = [_bounded(action) for action in latest["actions"][:_REASONS]]
        return {**self._read(instruction), "latest_plan": latest, "planned": "nothing: a plan is made when it is done"}

    def check(self, instruction: str) -> Json:
        """Hold a sentence to the reader and the cell's rules; nothing is planned, and nothing moves.

        Raises:
            BadInputError: it is no instruction.
        """
        self._count("check")
        return self._read(instruction)

    def do(self, instruction: str, wait_s: float = 30.0) -> Json:
        """Give an instruction or a question as an agent's; a person must approve each of its motions.

        Raises:
            BadInputError: it is no instruction.
            ExecutionError: called too often, another is under way, no controller, or it is refused.
        """
        self._count("do")
        return self._ask(instruction, min(max(wait_s, 0.0), MAX_WAIT_S))

    def status(self) -> Json:
        """Say what the controller does.

        Raises:
            ExecutionError: called too often, or no controller is heard.
        """
        self._count("status")
        return _told(self._shell.status())

    def stop(self) -> Json:
        """Stop the robot; only a person releases that.

        Raises:
            ExecutionError: nobody listens.
        """
        now = self._shell.stop()
        return {"sent": True, "shown_stopped": now is not None, "released_by": "a person, never an agent"}

    # --------------------------------------------------------------------------------------------- parts

    def _ask(self, text: str, wait_s: float) -> Json:
        if not self._one.acquire(blocking=False):
            raise ExecutionError("another instruction of this agent is under way; wait for it, or stop")
        try:
            tasks = self._shell.status().tasks
            now = self._shell.say(text, interface.AGENT_INSTRUCTION)
            return _told(now if now.stopped_by is not None else self._shell.wait(tasks, wait_s))
        finally:
            self._one.release()

    def _read(self, text: str) -> Json:
        instruction = Instruction(text, InstructionSource.AGENT)
        goal = self._rules.read(instruction)
        asked = self._rules.understand(instruction)
        forbidden = [cause.text for cause in self._rules.forbid(instruction)]
        is_answered = goal.question is not None
        end: Literal["question", "order", "nothing moves"]
        end = "question" if is_answered else "nothing moves" if isinstance(asked, Outcome) or forbidden else "order"
        reasons = forbidden or ([*asked.reasons] if isinstance(asked, Outcome) and not is_answered else [])
        return {
            "read": shown(goal.describe(), _TEXT_CHARS),
            "language": goal.language,
            "is": end,
            "reasons": [shown(reason, _TEXT_CHARS) for reason in reasons[:_REASONS]],
            "words_not_read": [shown(word) for word in goal.unread[:_REASONS]],
            "needs_a_person": end == "order",
        }

    def _count(self, tool: str) -> None:
        """Count a call.

        Raises:
            ExecutionError: there were too many.
        """
        now_s = time.monotonic()
        with self._lock:
            calls = self._calls[tool]
            while calls and now_s - calls[0] > _WINDOW_S:
                calls.popleft()
            if len(calls) >= _MOST[tool]:
                wait_s = _WINDOW_S - (now_s - calls[0])
                raise ExecutionError(
                    f"{tool}: {_MOST[tool]} calls in {_WINDOW_S:g} s are allowed; wait {wait_s:.0f} s. stop always goes"
                )
            calls.append(now_s)

    def _picture(self) -> Picture:
        if not self._is_looking:  # nobody pays for pictures that are never looked at
            self._is_looking = True
            self._graph.subscribe(self._image_topic, self._on_image)
        if not self._has_image.wait(HEAR_S) or self._image is None:
            raise ExecutionError(f"no picture came on {self._graph.resolve(self._image_topic.name)} in {HEAR_S:g} s")
        came_s, message = self._image
        picture = Image.fromarray(rgb_from_image(message))
        picture.thumbnail((_PICTURE_PX, _PICTURE_PX))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=85)
        stamp = message.header.stamp
        return Picture(
            file.getvalue(), *picture.size, stamp.sec + stamp.nanosec / 1e9, round(time.monotonic() - came_s, 3)
        )

    def _on_image(self, message: interface.Message) -> None:
        self._image = time.monotonic(), message
        self._has_image.set()

    def _on_plan(self, message: interface.Message) -> None:
        self._plan = read_report(message, PlanReport) or self._plan


def _told(now: StatusReport) -> Json:
    """What an agent is told of a status: in bounds, and without anything that a yes would need."""
    task = now.last_task
    return {
        "state": now.state,
        "doing": shown(now.doing),
        "stopped_by": None if now.stopped_by is None else shown(now.stopped_by, _TEXT_CHARS),
        "instruction": None if now.instruction is None else shown(now.instruction, _TEXT_CHARS),
        "waits_for_a_person": now.awaits is not None,
        "tasks": now.tasks,
        "last_refusal": None if now.last_refusal is None else shown(now.last_refusal, _TEXT_CHARS),
        "last_task": None
        if task is None
        else {
            "instruction": shown(task.instruction, _TEXT_CHARS),
            "outcome": task.outcome.value,
            "reasons": [shown(reason, _TEXT_CHARS) for reason in task.reasons[:_REASONS]],
        },
    }


def _bounded(value: Any) -> Any:
    """The same with every text cut."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {key: _bounded(item) for key, item in value.items()}
    return [_bounded(item) for item in value[:_REASONS]] if isinstance(value, list) else value
