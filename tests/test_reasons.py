"""Every typed reason is a word of its family with a sentence, documented, and produced by some test."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest

from qwen2vl_robot.reasons import FAMILIES, AbortReason, Reason, RefusalReason

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reasons.md"
REASONS = [reason for family in FAMILIES for reason in family]


@pytest.mark.parametrize("reason", REASONS, ids=repr)
def test_a_reason_is_its_word_everywhere(reason: Reason) -> None:
    assert str(reason) == f"{reason}" == reason.value == reason
    assert json.loads(json.dumps(reason)) == reason.value
    assert pickle.loads(pickle.dumps(reason)) is reason
    assert type(reason)(reason.value) is reason
    assert re.fullmatch(r"[a-z_]+", reason.value)


@pytest.mark.parametrize("reason", REASONS, ids=repr)
def test_a_reason_has_a_sentence(reason: Reason) -> None:
    assert len(reason.meaning.split()) >= 3
    assert reason.meaning[0].islower() and not reason.meaning.endswith(".")


def test_reasons_of_two_families_with_one_word_are_not_equal() -> None:
    assert RefusalReason.STALE_STATE != AbortReason.STALE_STATE
    assert len({RefusalReason.STALE_STATE, AbortReason.STALE_STATE}) == 2
    assert RefusalReason.STALE_STATE == "stale_state"


@pytest.mark.parametrize("reason", REASONS, ids=repr)
def test_some_test_produces_each_reason(reason: Reason) -> None:
    """By its member or by its word in quotes, in a test that is not about reasons as such."""
    member = f"{type(reason).__name__}.{reason.name}"
    pattern = re.compile(rf"\b{re.escape(member)}\b|[\"']{reason.value}[\"']")
    general = {"test_reasons.py", "test_policy.py", "test_explain.py"}
    tests = [f for f in (ROOT / "tests").rglob("*.py") if f.name not in general]
    assert any(pattern.search(f.read_text(encoding="utf-8")) for f in tests), member


def test_the_page_lists_every_reason() -> None:
    """Written anew with: python -c "from tests.test_reasons import write; write()"."""
    assert PAGE.read_text(encoding="utf-8") == page()


def page() -> str:
    lines = [
        "# Reasons",
        "",
        "Why a step or a task did not go on. `~/status`, `report.json` and `check` write these words, each with a",
        "sentence and its numbers.",
        "",
    ]
    for family in FAMILIES:
        lines += [f"## {family.__name__}", "", (family.__doc__ or "").strip(), "", "| reason | meaning |", "|---|---|"]
        lines += [f"| `{reason.value}` | {reason.meaning} |" for reason in family]
        lines.append("")
    return "\n".join(lines)


def write() -> None:
    PAGE.write_text(page(), encoding="utf-8")
