"""The answer of `check`: the worst violation first, and beside a limit the value that breaks it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.messages import Trials, Verdict, Violation, Zone, freeze
from qwen2vl_robot.reasons import ViolationKind
from qwen2vl_robot.resources import data_root
from qwen2vl_robot.validation.answer import to_answer, value_and_limit, worst_first
from qwen2vl_robot.validation.findings import RehearsalCase
from qwen2vl_robot.validation.rehearsal import Twin
from qwen2vl_robot.validation.request import load_request

HAZARDS = data_root() / "sim" / "hazards"
HIT = Violation(ViolationKind.COLLISION, 1.0, ("panda_hand", "wall"), 0.002, "m")
DEEP = Violation(ViolationKind.COLLISION, 2.0, ("panda_hand", "bowl"), 0.030, "m")
LEFT = Violation(ViolationKind.WORKSPACE, 0.5, ("panda_hand",), 0.200, "m")
FAST = Violation(ViolationKind.JOINT_VELOCITY, 0.1, ("panda_joint1",), 0.1, "rad/s")
JERKY = Violation(ViolationKind.JOINT_JERK, 0.1, ("panda_joint1",), 100.0, "rad/s^3")
DOUBT = Violation(ViolationKind.UNCERTAIN, None, ("12 of 16 perturbed runs succeed",), 0.9, "below the bound asked for")


def case_of(path: Path) -> RehearsalCase:
    profile, scene, start, motion = load_request(path)
    return RehearsalCase(motion, scene, start, profile)


@pytest.fixture
def case() -> RehearsalCase:
    return case_of(HAZARDS / "accepted_over_block.yaml")


def refuse(*violations: Violation, explanation: str = "") -> Verdict:
    digests: dict[str, Any] = dict.fromkeys(("motion_digest", "scene_digest", "start_digest", "robot_digest"), "")
    return Verdict(accepted=False, violations=violations, **digests, explanation=explanation, seconds=0.0)


def test_a_hit_comes_before_a_limit_and_the_deeper_one_first(case: RehearsalCase) -> None:
    found = (DOUBT, FAST, LEFT, HIT, DEEP, JERKY)
    assert worst_first(found, case) == (DEEP, HIT, LEFT, FAST, JERKY, DOUBT)


def test_limits_are_compared_by_how_many_times_they_are_broken(case: RehearsalCase) -> None:
    harder = replace(JERKY, amount=1e6)
    assert worst_first((FAST, harder), case) == (harder, FAST)


def test_what_could_not_be_judged_comes_before_everything(case: RehearsalCase) -> None:
    crash = Violation(ViolationKind.WORKER_CRASHED, None, ("ended",), 1.0, "s")
    assert worst_first((HIT, crash), case)[0] is crash


def test_a_speed_is_told_with_its_limit(profile: RobotProfile, twin: Twin) -> None:
    case = case_of(HAZARDS / "refused_over_speed.yaml")
    answer = to_answer(twin.rehearse(case.motion, case.scene, case.start), case)
    (violation,) = answer["violations"]
    assert violation["limit"] == profile.joints[0].velocity_radps
    assert violation["value"] == pytest.approx(2.5)
    assert violation["amount"] == pytest.approx(2.5 - profile.joints[0].velocity_radps)
    assert answer["explanation"].endswith("2.5 rad/s; the limit is 2.175 rad/s")


def test_a_position_is_told_on_the_side_where_it_leaves_the_range(case: RehearsalCase) -> None:
    motion = case.motion
    beyond = replace(motion.segments[0], q_rad=freeze([[-3.0, 0, 0, -2, 0, 2, 0], [2.9, 0, 0, -2, 0, 2, 0]]))  # type: ignore[arg-type]
    case = replace(case, motion=replace(motion, segments=(beyond,)))
    joint = case.profile.joints[0]
    violation = Violation(ViolationKind.JOINT_POSITION, 0.0, (joint.name,), joint.lower_rad + 3.0, "rad")
    assert value_and_limit(violation, case) == (-3.0, joint.lower_rad)


def test_speeds_and_forces_have_the_limits_of_the_robot_file_and_of_the_zone(case: RehearsalCase) -> None:
    safety = case.profile.safety
    zone = Zone("people", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), speed_mps=0.1)
    case = replace(case, scene=replace(case.scene, zones=(zone,)))
    allowed = safety.tool_speed_mps
    told = [
        (Violation(ViolationKind.TOOL_SPEED, 1.0, ("hand",), 0.5, "m/s"), allowed + 0.5, allowed),
        (Violation(ViolationKind.ZONE_SPEED, 1.0, ("hand", "people"), 0.5, "m/s"), 0.6, 0.1),
        (Violation(ViolationKind.FORCE, 1.0, ("hand", "wall"), 99.0, "N"), 99.0, safety.contact_n),
    ]
    for violation, value, limit in told:
        assert value_and_limit(violation, case) == (pytest.approx(value), limit)
    assert value_and_limit(HIT, case) is None
    assert value_and_limit(replace(FAST, amount=float("nan")), case) is None


def test_the_sentence_is_about_the_worst_and_keeps_the_way_to_room(case: RehearsalCase) -> None:
    own = "the arm's panda_hand would hit the wall after 1.0 s, 2 mm; 3 cm to the left there is room"
    assert to_answer(refuse(HIT, DEEP, explanation=own), case)["explanation"] == own
    told = to_answer(refuse(LEFT, HIT, explanation="would leave the workspace"), case)["explanation"]
    assert "would hit" in told


def test_doubt_alone_keeps_its_sentence(case: RehearsalCase) -> None:
    verdict = replace(refuse(DOUBT, explanation="too uncertain"), trials=Trials(16, 12, 0.5, 0.8))
    assert to_answer(verdict, case)["explanation"] == "too uncertain"
