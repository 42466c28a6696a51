"""What a cell's rules and a person's words say about a plan, and how that ends it."""

from __future__ import annotations

from dataclasses import dataclass

from qwen2vl_robot.messages import Cause, Outcome, OutcomeKind
from qwen2vl_robot.order import not_understood
from qwen2vl_robot.reasons import TaskReason


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the rules say about a plan.

    Attributes:
        forbidden: sentences; any of them ends the plan.
        contradictions: sentences; any of them ends the plan: it is not what the person said.
        to_confirm: sentences; with any of them a person has to confirm every motion of the plan.
        left_out: what the sentence asks for beyond the plan.
        unread: words that nobody knows, with the labels of the plan, for which a person's yes makes them known.
        unknown: those of them to which nobody said yes yet, as they were said.
    """

    forbidden: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    to_confirm: tuple[str, ...] = ()
    left_out: str = ""
    unread: frozenset[tuple[str, str]] = frozenset()
    unknown: tuple[str, ...] = ()

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Why the plan is refused; empty when it is not."""
        forbidden = tuple(Cause(TaskReason.FORBIDDEN, text) for text in self.forbidden)
        return (*forbidden, *(Cause(TaskReason.CONTRADICTION, text) for text in self.contradictions))

    @property
    def ending(self) -> Outcome | None:
        """What ends the plan; None where nothing does. What a model made of words that nobody knows is not quoted."""
        if self.contradictions and self.unknown and not self.forbidden:
            return Outcome(OutcomeKind.ASKED, (not_understood(self.unknown),))
        return Outcome(OutcomeKind.REFUSED, self.causes) if self.causes else None
