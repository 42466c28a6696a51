"""A request of several deeds → one plan, by a model that plans one deed at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.messages import Plan, PlannerRequest, Verb
from qwen2vl_robot.planner.contract import MAX_ACTIONS, failed


def plan_each(request: PlannerRequest, plan_one: Callable[[PlannerRequest], Plan]) -> Plan:
    """Plan each deed of an instruction by itself, all in the same picture, and join the plans in their order.

    A question or a refusal about any deed is the answer to all of them. Only a deed whose plan would repeat what failed
    hears of failures.

    Raises:
        PlannerError: a deed could not be planned, or the whole is too long.
    """
    if len(request.instruction.plainly) < 2:
        return plan_one(request)
    plans = []
    for sentence in request.instruction.plainly:
        deed = replace(request, instruction=replace(request.instruction, text=sentence, plainly=(sentence,)))
        plan = plan_one(replace(deed, failures=()))
        plans.append(plan_one(deed) if _repeats(plan, request.failures) else plan)
        if plans[-1].actions and plans[-1].actions[0].verb in (Verb.ASK, Verb.REFUSE):
            return plans[-1]
    actions = tuple(action for plan in plans for action in plan.actions)
    if len(actions) > MAX_ACTIONS:
        raise PlannerError(f"the plan has {len(actions)} actions, at most {MAX_ACTIONS} are allowed")
    objects = tuple(dict.fromkeys(thing for plan in plans for thing in plan.objects))
    notes = tuple(dict.fromkeys(note for plan in plans for note in plan.notes))
    replies, prompts = ("\n".join(texts) for texts in zip(*((p.reply, p.prompt) for p in plans), strict=True))
    return Plan(actions, replies, objects, notes, prompts)


def _repeats(plan: Plan, failures: tuple[str, ...]) -> bool:
    """Whether a plan does again what failed."""
    return any(line.startswith(failed(action)) for action in plan.actions for line in failures)
