"""A person's yes or no to the step that awaits one → the approver; a no ends the task with its reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field, ValidationError

from qwen2vl_robot.approval import AskingApprover
from qwen2vl_robot.bounds import DIGEST_CHARS, REASON_CHARS
from qwen2vl_robot.complaints import complaint
from qwen2vl_robot.config import Strict
from qwen2vl_robot.documents import parse_json
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.nodes.status import Status


class Rejection(Strict):
    """What ~/reject carries, as JSON."""

    digest: Annotated[str, Field(min_length=1, max_length=DIGEST_CHARS)]
    reason: Annotated[str, Field(min_length=1, max_length=REASON_CHARS)]


class Answers:
    """Hears ~/approve (topic and service) and ~/reject, and says in ~/status what became of the latest one.

    A no that cannot be read, or that names another step, lets nothing go: the step waits on for its yes.

    Args:
        halt_arm: brings the arm to rest; called after a no.
    """

    def __init__(
        self,
        graph: interface.Graph,
        approver: AskingApprover,
        status: Status,
        health: Health,
        halt_arm: Callable[[], None],
    ) -> None:
        self._approver, self._status, self._health, self._halt_arm = approver, status, health, halt_arm
        graph.subscribe(interface.APPROVE, self._on_topic)
        graph.subscribe(interface.REJECT, lambda message: self._on_reject(message.data))
        if graph.has_type(interface.APPROVE_NOW.type):
            self._response = graph.message(f"{interface.APPROVE_NOW.type}_Response")
            graph.serve(interface.APPROVE_NOW, self._answer)

    def _on_topic(self, message: interface.Message) -> None:
        self._on_approve(message.data)

    def _answer(self, request: interface.Message) -> interface.Message:
        accepted, reason = self._on_approve(request.digest)
        return self._response(accepted=accepted, text=reason)

    def _on_approve(self, verdict_digest: str) -> tuple[bool, str]:
        given = verdict_digest[:DIGEST_CHARS]
        accepted, reason = self._approver.answer(given)
        self._status.answered(given, accepted, reason)
        if not accepted:
            self._health.warn("approve", reason)
        return accepted, reason

    def _on_reject(self, text: str) -> None:
        data: Any = None
        try:
            given = Rejection.model_validate(data := parse_json(text, "~/reject"))
        except (BadInputError, ValidationError) as error:
            problem = complaint(error, data, Rejection) if isinstance(error, ValidationError) else str(error)
            self._health.warn("reject", problem)
            return
        counts, answer = self._approver.reject(given.digest, given.reason)
        if counts:
            self._halt_arm()
        else:
            self._health.warn("reject", answer)
        self._status.answered(given.digest, False, answer, rejected=counts)
