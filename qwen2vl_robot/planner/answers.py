"""A plan that only talks, as the small checkpoint words it → the same in the language of the instruction.

The checkpoint asks and refuses in fixed English sentences; what they become in nine languages is data.
"""

from __future__ import annotations

import re
from dataclasses import replace

from qwen2vl_robot.languages import ENGLISH, detect_language, load_languages
from qwen2vl_robot.messages import Action, Plan, Verb
from qwen2vl_robot.planner.reply import ask_text

_ASKED = re.compile(re.escape(ask_text("@")).replace("@", "(.+)"))


def speak_like(plan: Plan, instruction: str) -> Plan:
    """Put a plan's question or refusal into the instruction's language; what has no fixed wording stays as it is."""
    code = detect_language(instruction)
    if code == ENGLISH or not plan.actions:
        return plan
    first = plan.actions[0]
    text = _reworded(first, code)
    return plan if text is None else replace(plan, actions=(replace(first, text=text), *plan.actions[1:]))


def _reworded(action: Action, code: str) -> str | None:
    languages = load_languages()
    if action.verb is Verb.REFUSE and action.text == languages[ENGLISH].refuse:
        return languages[code].refuse
    asked = _ASKED.fullmatch(action.text or "") if action.verb is Verb.ASK else None
    if asked is None:
        return None
    try:
        return languages[code].ask.replace("{a}", languages[code].phrase(asked[1]))
    except KeyError:  # a thing that the language's file does not name
        return None
