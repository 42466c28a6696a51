"""A model's untrusted text → the one value or markup in it: without thoughts, fences, prose and full-width punctuation.

Models wrap their answers in many ways. What can be taken off without changing the answer is taken off; a text that
holds two answers, or half of one, is refused.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from qwen2vl_robot.bounds import NUMBER_CHARS, REPLY_CHARS, YAML_DEPTH
from qwen2vl_robot.documents import parse_json
from qwen2vl_robot.errors import BadInputError, PlannerError
from qwen2vl_robot.planner.contract import MAX_ACTIONS
from qwen2vl_robot.reasons import PlannerReason

MAX_REPEATS = MAX_ACTIONS  # of one box; a plan may name a thing in each of its actions
_FENCE = "```"
_LANGUAGE = re.compile(r"\A[ \t]{0,2}[A-Za-z]{1,12}(?=[ \t]{0,4}[\r\n\[{])")  # "json", "JSON" ... right behind a fence
_ENDS = ("<|im_end|>", "<|endoftext|>", "<｜end▁of▁sentence｜>")
_NUMBERS = re.compile(r"\[[\d\s.,-]{5,80}\]")
_LONG_NUMBER = re.compile(rf"\d{{{NUMBER_CHARS + 1}}}")
_STRING = re.compile(r"""'[^'\n]*'|"[^"\n]*\"""")
_DATA = re.compile(r"(?:[\s\[\]{}:,]|''|-?\d{1,15}(?:\.\d{1,15})?(?=[\s,\]}])|(?:None|True|False)(?=[\s,\]}]))*")
_BETWEEN = " \t\r\n,;"
_PLAIN = str.maketrans("［］｛｝（）：，“”＂－．０１２３４５６７８９", '[]{}():,"""-.0123456789')
_CLOSES = {"[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Extract:
    """What a reply holds.

    Attributes:
        text: the answer without thoughts, fences and end tokens, for those who read markup.
        value: the JSON value in it; None where there is none.
        notes: what was read in another way than it was written.
    """

    text: str
    value: Any = None
    notes: tuple[str, ...] = ()


def unwrap(reply: str) -> str:
    """Take thoughts, end tokens, answer tags and code fences off a reply.

    Raises:
        PlannerError: it is too long, does not come to an end, or says one box over and over.

    >>> unwrap("<think>left?</think>Here:\\n```JSON\\n[1]\\n```")
    '[1]'
    """
    if len(reply) > REPLY_CHARS:
        _raise_if_repeated(reply[:REPLY_CHARS])
        raise PlannerError(f"the reply has {len(reply)} characters, at most {REPLY_CHARS} are read")
    text = reply
    for end in _ENDS:
        text = text.replace(end, "")
    text = text.rpartition("</think>")[2]
    if "<think>" in text:
        raise _cut("the reply ends before its thoughts do")
    _raise_if_repeated(text)
    _, opened, answer = text.rpartition("<answer>")
    text = answer.partition("</answer>")[0] if opened else text
    pieces = text.split(_FENCE)
    fenced = [_LANGUAGE.sub("", piece, count=1).strip() for piece in pieces[1::2]]
    return "\n".join(filter(None, fenced)) or "\n".join(pieces[::2]).strip()


def extract(text: str) -> Extract:
    """Find the JSON value in an unwrapped reply; several objects one after the other are a list.

    Raises:
        PlannerError: half a value, two that differ, or brackets around something else.
    """
    try:
        found = _read(text)
    except PlannerError:
        found = None
    plain = text.translate(_PLAIN)
    if (found is None or found.value is None) and plain != text:
        other = _read(plain)
        if other.value is not None:
            return Extract(text, other.value, (*other.notes, "full-width punctuation was read as plain"))
    return found or _read(text)


def refuse(text: str, reason: PlannerReason = PlannerReason.BAD_REPLY) -> PlannerError:
    """An error about a reply."""
    return PlannerError(text, reason=reason)


def _cut(text: str) -> PlannerError:
    return refuse(text, PlannerReason.REPLY_CUT)


def _raise_if_repeated(text: str) -> None:
    counted = Counter("".join(numbers.split()) for numbers in _NUMBERS.findall(text)).most_common(1)
    if counted and counted[0][1] > MAX_REPEATS:
        box, count = counted[0]
        raise refuse(f"the reply says {box} {count} times, at most {MAX_REPEATS}", PlannerReason.REPLY_REPEATS)


# ------------------------------------------------------------------------------------------------ values


class _Span(NamedTuple):
    """Where a bracket opens and its partner closes, and how deep it goes; no end where the text ends before."""

    start: int
    end: int | None
    depth: int


def _read(text: str) -> Extract:
    values: list[Any] = []
    notes: list[str] = []
    edges: list[tuple[int, int]] = []
    for span in _spans(text):
        if span.end is None:
            raise _cut("the reply ends in the middle of a value")
        inner = text[span.start : span.end]
        if not any(c.isdigit() or c in "\"'" for c in inner) and inner not in ("[]", "{}"):
            continue  # prose in brackets
        value, note = _value(inner, span.depth)
        values.append(value)
        edges.append((span.start, span.end))
        notes += [note] if note and note not in notes else []
    if not values:
        return Extract(text)
    if len(values) == 1 or all(value == values[0] for value in values):
        return Extract(text, values[0], tuple(notes))
    gaps = [text[a[1] : b[0]] for a, b in zip(edges, edges[1:], strict=False)]
    if all(isinstance(v, dict) and "actions" not in v for v in values) and not "".join(gaps).strip(_BETWEEN):
        return Extract(text, values, tuple(notes))
    raise refuse(f"the reply gives {len(values)} answers that differ")


def _spans(text: str) -> Iterator[_Span]:
    """The outermost brackets of a text; brackets in strings of JSON do not count."""
    stack: list[str] = []
    start = deepest = 0
    in_string = is_escaped = False
    for at, char in enumerate(text):
        if in_string:
            in_string = is_escaped or char != '"'
            is_escaped = char == "\\" and not is_escaped
        elif char in _CLOSES:
            if not stack:
                start, deepest = at, 0
            stack.append(_CLOSES[char])
            deepest = max(deepest, len(stack))
        elif stack and char == '"':
            in_string = True
        elif stack and char in "]}":
            if stack.pop() != char:
                raise refuse("the reply's brackets do not match")
            if not stack:
                yield _Span(start, at + 1, deepest)
    if stack:
        yield _Span(start, None, deepest)


def _value(text: str, depth: int) -> tuple[Any, str]:
    """A value of JSON, or of Python, in which models write it too; with a note where it was Python."""
    if depth > YAML_DEPTH or _LONG_NUMBER.search(text):
        raise refuse("the reply's value is nested too deeply or holds a number too long")
    try:
        return parse_json(text, "the reply"), ""
    except BadInputError as error:
        # Python's own parser sees nothing but data: other text could make it warn, or recurse.
        if "\\" in text or _DATA.fullmatch(_STRING.sub("''", text)) is None:
            raise refuse(str(error)) from error
        try:
            tree = ast.parse(text, mode="eval")
        except (SyntaxError, ValueError):
            raise refuse(str(error)) from error
        if not all(_is_plain(node) for node in ast.walk(tree)):
            raise refuse(str(error)) from error
        return ast.literal_eval(tree), "the value was read as Python, for it is no JSON"


def _is_plain(node: ast.AST) -> bool:
    """Whether a node of Python's syntax is data as in JSON: no name, no call, no key twice."""
    if isinstance(node, ast.Dict):
        keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
        return all(isinstance(key, str) for key in keys) and len(set(keys)) == len(keys)
    if isinstance(node, ast.Constant):
        return node.value is None or isinstance(node.value, (str, bool, int, float))
    if isinstance(node, ast.UnaryOp):
        is_number = isinstance(node.operand, ast.Constant) and type(node.operand.value) in (int, float)
        return isinstance(node.op, ast.USub) and is_number
    return isinstance(node, (ast.Expression, ast.List, ast.Load, ast.USub))
