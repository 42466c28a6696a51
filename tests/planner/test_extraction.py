"""What wraps an answer comes off; what could be two answers, or code, is not read."""

from __future__ import annotations

import time
import warnings

import pytest

from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.planner.extraction import extract, unwrap

CODE = {
    "minuses": "[" + "-" * 18_000 + "1]",
    "brackets": "[" + "(" * 9000 + "1" + ")" * 9000 + "]",
    "words": "[" + "not " * 4500 + "1]",
    "lambdas": "[" + "lambda:" * 2500 + "1]",
    "numbers that are none": "[" + "1if 1else " * 1900 + "1]",
    "formatted strings": "[f'" + "{1}" * 6000 + "']",
    "a call": "[__import__('os').getcwd()]",
    "an escape": "['\\d', 1]",
    "bytes": "[b'1']",
    "an unhashable key": "{[1]: '2'}",
    "a key twice": "{'a': 1, 'a': 2}",
    "a set": "{'a', 1}",
}


@pytest.mark.parametrize("text", CODE.values(), ids=CODE.keys())
def test_python_that_is_no_data_is_refused_at_once_and_without_a_warning(text: str) -> None:
    began_s = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PlannerError):
            extract(unwrap(text))
    assert time.perf_counter() - began_s < 5.0


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("{'a': [1, -2.5, None, True], 'b': \"it's\"}", {"a": [1, -2.5, None, True], "b": "it's"}),
        ('before {"a": "] ``"} behind', {"a": "] ``"}),
        ("see {it} and (that): [1, 2]", [1, 2]),
        ("```json\n[1]\n```\nor\n```json\n[1]\n```", [1]),
        ("no value at all", None),
    ],
)
def test_the_one_value_is_found(reply: str, value: object) -> None:
    assert extract(unwrap(reply)).value == value


@pytest.mark.parametrize("reply", ["[1] [2]", "[1, 2}", "```\n[1]\n```\n```\n[2]\n```", '{"a": 1} and {"a": 2}'])
def test_two_values_or_crossed_brackets_are_refused(reply: str) -> None:
    with pytest.raises(PlannerError):
        extract(unwrap(reply))
