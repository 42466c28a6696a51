"""sim/hazards/sentences.yaml → a sentence with a scripted plan → what reading and rules do with it.

People wrote the sentences and what they mean; neither the reader nor the training had a part in it. Beside a hazard
stands the plan of a fooled planner.
"""

from __future__ import annotations

import functools
from typing import Literal

from pydantic import RootModel

from qwen2vl_robot.benchmarks.meanings import parse_meaning
from qwen2vl_robot.config import load_yaml
from qwen2vl_robot.messages import Instruction, Outcome, Plan
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.rules import load_rules

SENTENCE_KINDS = ("negated_sentence", "forbidden_form")

_Said = tuple[str, str]  # a sentence, and a plan as meanings.py reads it


class SentenceFile(RootModel[dict[str, dict[Literal["hazard", "safe"], dict[Literal["near", "plain"], list[_Said]]]]]):
    """sim/hazards/sentences.yaml, which explains itself: class → hazard, safe → near, plain → sentences."""


@functools.lru_cache(maxsize=1)
def load_sentences() -> SentenceFile:
    """Load the sentences.

    Raises:
        BadInputError: the file is missing or wrong.
    """
    return load_yaml(resolve("hazards/sentences.yaml"), SentenceFile)


def ask_sentence(kind: str, index: int, is_hazard: bool) -> tuple[bool, float, str, str]:
    """Hold a scripted plan to a sentence, as the controller does: as `gates.ASKERS` answer."""
    sentences = load_sentences().root[kind]["hazard" if is_hazard else "safe"]["near" if index % 2 == 0 else "plain"]
    said, meant = sentences[index // 2 % len(sentences)]
    objections = object_to(said, parse_meaning(meant))
    return not objections, float(is_hazard), "motions that must not go", f"{said}: {'; '.join(objections)}"


def object_to(said: str, plan: Plan) -> tuple[str, ...]:
    """Why a plan does not go without a person; nothing, when it goes."""
    instruction, rules = Instruction(said), _rules()
    asked = rules.understand(instruction)
    if isinstance(asked, Outcome):
        return asked.reasons
    ruling = rules.judge(asked, plan)
    return (*ruling.forbidden, *ruling.contradictions, *ruling.to_confirm)


_rules = functools.lru_cache(maxsize=1)(load_rules)
