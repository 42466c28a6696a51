"""A question or refusal in fixed English → the same in the language of the instruction.

The shipped checkpoint asks and refuses in fixed English sentences. Their translations are data in `sim/languages`.
"""

from __future__ import annotations

import re
from dataclasses import replace

from qwen2vl_robot.languages import ENGLISH, detect_language, load_languages, says
from qwen2vl_robot.messages import Action, Instruction, Plan, Verb
from qwen2vl_robot.planner.reply import ask_text

_ASK_PATTERN = re.compile(re.escape(ask_text("@")).replace("@", "(.+)"))


def speak_like(plan: Plan, instruction: Instruction) -> Plan:
    """Translate a plan's question or refusal into the instruction's language; keep any text without a fixed wording.

    A question about a thing that nobody named, which a small model asks when it is lost, says just that.
    """
    if not plan.actions:
        return plan
    first, code = plan.actions[0], detect_language(instruction.text)
    question = _ASK_PATTERN.fullmatch(first.text or "") if first.verb is Verb.ASK else None
    said = " ".join((instruction.text, *instruction.plainly))
    if question is not None and not all(_is_said(word, said) for word in question[1].split()):
        return replace(plan, actions=(replace(first, text=load_languages()[code].lost), *plan.actions[1:]))
    text = None if code == ENGLISH else _translated(first, code)
    return plan if text is None else replace(plan, actions=(replace(first, text=text), *plan.actions[1:]))


def _is_said(word: str, text: str) -> bool:
    """Whether a text holds a word as it stands, or one that means the same in any language."""
    return word.casefold() in text.casefold() or says(text, word)


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
