"""A message that exists is valid: what cannot be one is refused where it is made."""

from __future__ import annotations

import unicodedata

import pytest

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.messages import Instruction


@pytest.mark.parametrize(
    "text", ["", "   \n", "x" * 501, "x" * 1_000_000, "pick\x00it", "pick \x1b[2J", "\ud800", "a\ufffdb"]
)
def test_an_unusable_instruction_is_one_clear_line(text: str) -> None:
    with pytest.raises(BadInputError) as refused:
        Instruction(text)
    assert len(str(refused.value)) < 200
    assert "\n" not in str(refused.value)


def test_an_instruction_is_composed_before_anything_reads_it() -> None:
    assert Instruction(unicodedata.normalize("NFD", "coge el tazón")).text == "coge el tazón"
