"""The roll-outs in ~/rehearsal: bounded, failed ones first, simulated where they were, else with the drawn error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qwen2vl_robot.geometry import Array
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Trace, Verdict, digest, freeze
from qwen2vl_robot.nodes.rehearsal_report import MOST_POINTS, MOST_TRACES, RehearsalReport, rehearsal_report
from qwen2vl_robot.nodes.reports import verdict_report
from tests.cells import PROFILE, reach

MOTION = reach(freeze(PROFILE.home_q_rad), [0.1, 0, 0, 0, 0, 0, 0])
NOWHERE = freeze(np.zeros((0, 4)))
PLAIN = Verdict(True, (), digest(MOTION), "", "", "")
KINEMATICS = Kinematics(PROFILE)


def good(turned_rad: float = 0.0, track: Array = NOWHERE) -> Trace:
    return Trace(False, None, freeze([turned_rad, *[0.0] * 6]), track)


def reported(*traces: Trace) -> RehearsalReport:
    verdict = replace(PLAIN, traces=traces)
    report = verdict_report(verdict, "move", MOTION.duration_s, asks=False)
    return rehearsal_report(report, verdict, None, MOTION, PROFILE, KINEMATICS)


def test_they_are_no_part_of_a_verdicts_digest() -> None:
    assert digest(replace(PLAIN, traces=(good(),))) == digest(PLAIN)


def test_many_are_bounded_and_those_that_failed_come_first() -> None:
    failed = replace(good(), failed=True, failed_s=0.2)
    report = reported(*[good()] * 100, failed)
    assert len(report.traces) == MOST_TRACES
    assert (report.traces[0].failed, report.traces[0].failed_s) == (True, 0.2)
    assert {len(t.p_base_tool_m) for t in report.traces} == {MOST_POINTS}
    assert len(report.model_dump_json()) < 100_000


def test_where_nothing_was_simulated_it_is_the_motion_with_the_drawn_error() -> None:
    (trace,) = reported(good(0.005)).traces
    q_rad = np.array(PROFILE.home_q_rad) + 0.005 * np.eye(7)[0]
    assert trace.p_base_tool_m[0] == pytest.approx(KINEMATICS.tool_pose(q_rad)[:3, 3], abs=1e-4)


def test_where_it_was_simulated_it_is_what_the_twin_saw() -> None:
    (trace,) = reported(good(track=freeze([[0.0, 1.0, 2.0, 3.0]]))).traces
    assert trace.p_base_tool_m[0] == (1.0, 2.0, 3.0)
    assert trace.p_base_tool_m[-1] != (1.0, 2.0, 3.0)
