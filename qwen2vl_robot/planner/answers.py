"""A question or refusal in fixed English → the same in the language of the instruction.

The shipped checkpoint asks and refuses in fixed English sentences. Their translations are data in `sim/languages`.
"""

from __future__ import annotations

import re
from dataclasses import replace

from qwen2vl_robot.languages import ENGLISH, detect_language, load_languages
from qwen2vl_robot.messages import Action, Plan, Verb
from qwen2vl_robot.planner.reply import ask_text

_ASK_PATTERN = re.compile(re.escape(ask_text("@")).replace("@", "(.+)"))


def speak_like(plan: Plan, instruction: str) -> Plan:
    """Translate a plan's question or refusal into the instruction's language; keep any text without a fixed wording."""
    code = detect_language(instruction)
    if code == ENGLISH or not plan.actions:
        return plan
    first = plan.actions[0]
    text = _translated(first, code)
    return plan if text is None else replace(plan, actions=(replace(first, text=text), *plan.actions[1:]))


def _translated(action: Action, code: str) -> str | None:
    languages = load_languages()
    if action.verb is Verb.REFUSE and action.text == languages[ENGLISH].refuse:
        return languages[code].refuse
    question = _ASK_PATTERN.fullmatch(action.text or "") if action.verb is Verb.ASK else None
    if question is None:
        return None
    try:
        return languages[code].ask.replace("{a}", languages[code].phrase(question[1]))
    except KeyError:  # the language file has no word for this thing
        return None
