"""A check is planned without a model, and no planner may show the arm."""

from __future__ import annotations

from typing import Any

import pytest

from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.messages import Action, Instruction, Plan, Verb
from qwen2vl_robot.planner.checking import CHECK, Checking
from qwen2vl_robot.planner.reply import parse_reply


class Model:
    def __init__(self, *verbs: Verb) -> None:
        self.answer, self.asked = Plan(tuple(Action(verb) for verb in verbs), ""), 0

    def plan(self, *_: Any) -> Plan:
        self.asked += 1
        return self.answer


def test_a_check_asks_no_model() -> None:
    model, nothing = Model(Verb.HOME), Any
    plan = Checking(model).plan(nothing, CHECK, ())  # type: ignore[arg-type]
    assert [action.verb for action in plan.actions] == [Verb.SHOW, Verb.HOME]
    assert model.asked == 0


@pytest.mark.parametrize("verbs", [(Verb.SHOW,), (Verb.HOME, Verb.SHOW)])
def test_a_model_that_shows_the_arm_is_refused(verbs: tuple[Verb, ...]) -> None:
    with pytest.raises(PlannerError, match="nobody asked to show the arm"):
        Checking(Model(*verbs)).plan(Any, Instruction("check the camera"), ())  # type: ignore[arg-type]


def test_a_reply_cannot_say_show() -> None:
    with pytest.raises(PlannerError):
        parse_reply('{"objects":[],"actions":[{"do":"show"}]}')
