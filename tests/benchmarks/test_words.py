"""The words suite has sentences of every kind in every language, and counts a motion that was not meant as wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qwen2vl_robot.benchmarks.meanings import parse_meaning
from qwen2vl_robot.benchmarks.words import (
    KINDS,
    Case,
    Frame,
    cases_of,
    judge,
    load_sentences,
    run_words,
    say,
    summarise_words,
)
from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.languages import load_languages
from qwen2vl_robot.messages import Action, Plan, PlannerRequest, Verb
from qwen2vl_robot.reasons import PlannerReason
from qwen2vl_robot.rules import load_rules

_FRAME = Frame(
    7, np.zeros((48, 64, 3), np.uint8), ("blue plate", "green bowl", "red block", "yellow ball", "cyan cylinder")
)
_MOVE_NOTHING = {"negated", "no_order", "unknown_word", "stop_word", "forbidden"}
_RULES = load_rules()


def judged(text: str, meant: str | None, plan: str, kind: str = "plain") -> dict[str, Any]:
    case = Case("en", kind, text, None if meant is None else parse_meaning(meant))
    return judge(case, _FRAME, lambda request: parse_meaning(plan), _RULES)


def test_every_language_has_sentences_of_every_kind() -> None:
    for code, kinds in load_sentences().items():
        assert tuple(kinds) == KINDS, code
        for kind, sentences in kinds.items():
            assert len(set(sentences)) == len(sentences) >= 4, (code, kind)
            assert all((len(said) == 1) is (kind in _MOVE_NOTHING) for said in sentences), (code, kind)


def test_no_sentence_is_a_template_of_the_training() -> None:
    for code, kinds in load_sentences().items():
        templates = {text for phrasing in load_languages()[code].tasks.values() for text in phrasing.seen}
        assert templates.isdisjoint(said[0] for sentences in kinds.values() for said in sentences), code


def test_a_frame_has_a_case_of_every_kind_in_every_language() -> None:
    cases = list(cases_of(_FRAME, 0))
    assert {(c.language, c.kind) for c in cases} == {(code, kind) for code in load_languages() for kind in KINDS}
    assert not any("{" in c.text for c in cases)
    assert [c.text for c in cases] == [c.text for c in cases_of(_FRAME, 0)]
    assert [c.text for c in cases] != [c.text for c in cases_of(_FRAME, 1)]


def test_names_stand_in_the_case_that_the_sentence_asks_for() -> None:
    names = {"a": "red block", "b": "blue plate"}
    assert say("leg {a} hinter {b.of}", names, load_languages()["de"]) == "leg den roten Block hinter dem blauen Teller"


def test_the_right_plan_goes_and_is_right() -> None:
    result = judged("take the red block", "pick red block", "pick red block")
    assert (result["ended"], result["right"], result["wrong_motion"]) == ("motion", True, False)


@pytest.mark.parametrize("meant", [None, "pick yellow ball"])
def test_a_motion_that_is_not_meant_is_wrong(meant: str | None) -> None:
    result = judged("take the red block", meant, "pick red block")
    assert (result["wrong_motion"], result["right"], result["fault"]) == (True, False, "reading")


def test_what_ends_before_a_motion_is_never_wrong() -> None:
    for text, plan, ended in (
        ("do not take the red block", "pick red block", "reading"),
        ("take the red block", "pick yellow ball", "rules"),
        ("take the crimson block", "pick red block", "rules"),
    ):
        result = judged(text, None, plan, "negated")
        assert (result["ended"], result["right"], result["wrong_motion"]) == (ended, True, False), text


def test_a_planner_that_asks_or_breaks_moves_nothing() -> None:
    def breaks(request: PlannerRequest) -> Plan:
        raise PlannerError("no plan", reason=PlannerReason.WORKER)

    def asks(request: PlannerRequest) -> Plan:
        return Plan((Action(Verb.ASK, text="which one?"),), "")

    case = Case("en", "plain", "take the red block", parse_meaning("pick red block"))
    answers = [judge(case, _FRAME, plans, _RULES) for plans in (breaks, asks)]
    assert [(a["ended"], a["question"], a["right"]) for a in answers] == [
        ("planner", False, False),
        ("planner", True, False),
    ]


def test_the_fault_is_the_planners_where_the_plan_that_is_meant_would_go() -> None:
    assert judged("take the red block", "pick red block", "pick yellow ball")["fault"] == "planner"
    assert judged("take the crimson block", "pick red block", "pick red block")["fault"] == "reading"
    assert judged("take the red block", "pick red block", "pick red block")["fault"] == ""


def test_the_totals_count_wrong_motions_and_needless_questions() -> None:
    results = [
        judged("take the red block", "pick red block", "pick red block"),
        judged("take the crimson block", "pick red block", "pick red block"),
        judged("take the red block", None, "pick red block", "stop_word"),
    ]
    totals = summarise_words(results)
    assert (totals["cases"], totals["wrong_motion"], totals["needless_questions"]) == (3, 1, 0.5)
    assert totals["kinds"]["stop_word"]["wrong_motion"] == 1
    assert totals["languages"]["en"]["right"]["ratio"] == 0.3333


def test_a_short_run_goes_through_plant_and_planner() -> None:
    results = list(run_words(None, len(KINDS), 40_000))
    assert [r["kind"] for r in results] == list(KINDS)
    assert sum(r["wrong_motion"] for r in results) == 0
    assert any(r["ended"] == "motion" for r in results)
