"""The reply schema of reply.py → a grammar (llguidance's Lark) that constrains a decoder.

`parse_reply` accepts every reply of the grammar, except boxes whose corners have no one meaning. The grammar tracks
how many objects were listed, whether one is missing (then only `ask` and `refuse` are left) and whether the hand is
full.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator

from qwen2vl_robot.messages import Direction, Relation
from qwen2vl_robot.planner.contract import MAX_ACTIONS, MAX_BOXES, MAX_OBJECTS, MAX_WAIT_S

_SUPERLATIVES = ("nearest", "farthest", "leftmost", "rightmost", "largest", "smallest", "all")
# Neither quotes nor backslashes, so that no escape is needed, and none of the characters of control tokens.
_CHARACTER = r"[[\p{L}\p{M}\p{N}\p{P}\p{S} ]--[\x22\\<>|]]"
_HANDS = ("unknown", "empty", "full")  # at the start the hand may hold something from an earlier step


@functools.lru_cache(maxsize=32)
def reply_grammar(max_coordinate: int) -> str:
    """Write the grammar of a reply whose boxes are whole numbers from 0 to `max_coordinate`."""
    rules = "\n".join([*_words(max_coordinate), *_objects(), *_actions()])
    return re.sub(r"'([^']*)'", lambda literal: json.dumps(literal[1]), rules)  # rules are written with '...'


def finishing_grammar(listed: str, count: int) -> str:
    """Write the grammar of a reply whose objects are given, all of them with boxes; only its actions are left.

    Args:
        listed: the reply up to its actions, as `windows.format_objects` writes it.
        count: number of objects in it.
    """
    start = re.compile("^start: .*$", re.MULTILINE)
    given = f"start: {json.dumps(listed, ensure_ascii=False)} plan_{count}"
    return start.sub(lambda _: given, reply_grammar(1000))


@functools.lru_cache(maxsize=32)
def detection_grammar(max_coordinate: int, nouns: tuple[str, ...]) -> str:
    """Write the grammar of a list of boxes with some labels, none of them included."""
    labels = " | ".join(json.dumps(json.dumps(noun, ensure_ascii=False), ensure_ascii=False) for noun in nouns)
    coordinate = json.dumps({"type": "integer", "minimum": 0, "maximum": max_coordinate})
    most = MAX_BOXES * len(nouns)
    rules = f"""coordinate: %json {coordinate}
label: {labels}
thing: '{{"bbox_2d":[' coordinate ',' coordinate ',' coordinate ',' coordinate '],"label":' label '}}'
start: '[' (thing (',' thing){{0,{most - 1}}})? ']'"""
    return re.sub(r"'([^']*)'", lambda literal: json.dumps(literal[1]), rules)


def bench_grammar(max_coordinate: int) -> str:
    """Write the grammar of plans that put one named thing somewhere, for timing with random weights.

    In the full grammar random weights would write labels up to the length limit.
    """
    words = [line for line in _words(max_coordinate) if line.startswith(("coordinate", "relation"))]
    label = """ '{"label":"' colour " " kind '","boxes":[' box ']}' """
    rules = [
        *words,
        "box: '[' coordinate ',' coordinate ',' coordinate ',' coordinate ']'",
        f"colour: {_one_of(['red', 'green', 'blue', 'yellow', 'black', 'white'])}",
        f"kind: {_one_of(['block', 'ball', 'bowl', 'plate', 'cup', 'can'])}",
        f"""start: '{{"objects":[' {label} ',' {label} '],"actions":[{{"do":"pick","object":0}},'"""
        """ '{"do":"place","object":1,"relation":"' relation '"}]}'""",
    ]
    return re.sub(r"'([^']*)'", lambda literal: json.dumps(literal[1]), "\n".join(rules))


def _words(max_coordinate: int) -> Iterator[str]:
    yield r"LABEL: /[\p{L}\p{N}]" + _CHARACTER + "{0,79}/"
    yield r"TEXT: /[\p{L}\p{N}]" + _CHARACTER + "{0,199}/"
    yield "coordinate: %json " + json.dumps({"type": "integer", "minimum": 0, "maximum": max_coordinate})
    yield "seconds: %json " + json.dumps({"type": "integer", "minimum": 1, "maximum": int(MAX_WAIT_S)})
    yield f"relation: {_one_of(r.value for r in Relation)}"
    yield f"direction: {_one_of(d.value for d in Direction)}"
    yield f"superlative: {_one_of(_SUPERLATIVES)}"


def _objects() -> Iterator[str]:
    """Write one rule for each number of objects listed so far: with all of them present, and with one missing."""
    yield "box: '[' coordinate ',' coordinate ',' coordinate ',' coordinate ']'"
    yield """named: '{"label":"' LABEL '","boxes":['"""
    yield f"there: named box (',' box){{0,{MAX_BOXES - 1}}} ']' where? '}}'"
    yield "missing: named ']}'"
    yield """where: ',"where":{"kind":"' (superlative '"}' | relation '","reference":"' LABEL '"}')"""
    yield """start: '{"objects":[' (there all_1 | missing lacking_1 | '],' plan_0)"""
    for count in range(1, MAX_OBJECTS + 1):
        more = (f" | ',' there {{}}_{count + 1} | ',' missing lacking_{count + 1}") if count < MAX_OBJECTS else ""
        yield f"all_{count}: '],' plan_{count}{more.format('all')}"
        yield f"lacking_{count}: '],' talk{more.format('lacking')}"


def _actions() -> Iterator[str]:
    """Write one rule for each number of objects, state of the hand and number of actions that may still follow."""
    yield """talk: '"actions":[{"do":"' spoken"""
    yield """spoken: ('ask' | 'refuse') '","text":"' TEXT '"}]}'"""
    yield """home: 'home"}'"""
    yield """wait: 'wait","seconds":' seconds '}'"""
    for count in range(MAX_OBJECTS + 1):
        yield f"""plan_{count}: '"actions":[{{"do":"' (spoken | do_{count}_unknown_{MAX_ACTIONS})"""
        if count:
            which = _one_of(str(i) for i in range(count))
            yield f"""pick_{count}: 'pick","object":' ({which}) '}}'"""
            yield f"""place_{count}: 'place","object":' ({which}) ',"relation":"' relation '"}}'"""
            yield f"""push_{count}: 'push","object":' ({which}) ',"direction":"' direction '"}}'"""
        for hand in _HANDS:
            for left in range(1, MAX_ACTIONS + 1):
                yield f"do_{count}_{hand}_{left}: {' | '.join(_steps(count, hand, left))}"


def _steps(count: int, hand: str, left: int) -> Iterator[str]:
    """Write the actions that are allowed next, each with what may follow it."""
    after = {"home": hand, "wait": hand}
    if count:
        after[f"push_{count}"] = hand
        if hand != "full":
            after[f"pick_{count}"] = "full"
        if hand != "empty":
            after[f"place_{count}"] = "empty"
    for step, next_hand in after.items():
        more = f""" | ',{{"do":"' do_{count}_{next_hand}_{left - 1}""" if left > 1 else ""
        yield f"{step} (']}}'{more})"


def _one_of(words: Iterable[str]) -> str:
    return " | ".join(f"'{word}'" for word in words)
