"""A model that plans one deed plans a sentence of several, deed after deed, in one picture."""

from __future__ import annotations

import numpy as np
import pytest

from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.messages import Action, Instruction, ObjectReference, Plan, PlannerRequest, Verb
from qwen2vl_robot.planner.deeds import plan_each

BLOCK = ObjectReference("red block", ())


def request(*plainly: str) -> PlannerRequest:
    return PlannerRequest(np.zeros((4, 4, 3), np.uint8), Instruction("what a person said", plainly=plainly))


def echo(asked: PlannerRequest) -> Plan:
    """Waits as many seconds as the sentence has letters, or asks about a blorp."""
    said = asked.instruction.plainly or (asked.instruction.text,)
    if "blorp" in said[0]:
        return Plan((Action(Verb.ASK, text="I see no blorp."),), said[0])
    return Plan((Action(Verb.WAIT, seconds=float(len(said[0]))),), said[0], (BLOCK,), prompt=f"user: {said[0]}")


def test_every_deed_is_planned_by_itself_and_joined_in_order() -> None:
    plan = plan_each(request("go", "come", "go"), echo)
    assert [action.seconds for action in plan.actions] == [2.0, 4.0, 2.0]
    assert plan.reply == "go\ncome\ngo"
    assert plan.prompt == "user: go\nuser: come\nuser: go"
    assert plan.objects == (BLOCK,)


@pytest.mark.parametrize(("plainly", "reply"), [((), "what a person said"), (("go home",), "go home")])
def test_one_deed_or_none_is_one_request(plainly: tuple[str, ...], reply: str) -> None:
    assert plan_each(request(*plainly), echo).reply == reply


def test_a_question_about_one_deed_is_the_answer_to_all() -> None:
    assert plan_each(request("go", "blorp", "go"), echo).actions == (Action(Verb.ASK, text="I see no blorp."),)


def test_more_actions_than_a_plan_may_have_are_an_error() -> None:
    plan_each(request(*["go"] * 12), echo)
    with pytest.raises(PlannerError, match="13 actions"):
        plan_each(request(*["go"] * 13), echo)


def test_only_a_deed_that_would_repeat_what_failed_hears_of_it() -> None:
    heard: list[tuple[str, ...]] = []

    def plan_one(asked: PlannerRequest) -> Plan:
        heard.append(asked.failures)
        verb = Verb.HOME if asked.instruction.plainly == ("go",) else Verb.PICK
        return Plan((Action(verb, BLOCK if verb is Verb.PICK else None),), "")

    failures = ("failed: pick red block: no_path", "failed: pick blue block: no_path")
    asked = request("go", "take")
    plan_each(PlannerRequest(asked.rgb, asked.instruction, failures), plan_one)
    assert heard == [(), (), failures]
