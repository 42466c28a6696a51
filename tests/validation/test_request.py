"""`check`: the shipped examples get the answer in their name, and bad input is one clear line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from qwen2vl_robot.bounds import BODIES, SEGMENTS
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.messages import Box, Container, Cylinder, GripperSegment, JointSegment, Sphere
from qwen2vl_robot.resources import data_root
from qwen2vl_robot.validation.answer import to_answer
from qwen2vl_robot.validation.findings import RehearsalCase
from qwen2vl_robot.validation.rehearsal import Twin
from qwen2vl_robot.validation.request import check_request, load_request

HAZARDS = sorted((data_root() / "sim" / "hazards").glob("*ed_*.yaml"))  # accepted_..., refused_...
HOME = [0.0, -1.1, 0.0, -2.6, 0.0, 1.5, 0.785]
AWAY = [0.1, -1.1, 0.0, -2.6, 0.0, 1.5, 0.785]
BLOCK = {"name": "block", "shape": "box", "size_m": [0.05, 0.05, 0.05], "position_m": [0.5, 0.1, 0.025]}


def point(time_s: float, positions_rad: list[float]) -> dict[str, Any]:
    return {"time_s": time_s, "positions_rad": positions_rad}


def request(tmp_path: Path, **changes: Any) -> Path:
    """A request that is sound but for the changes."""
    content: dict[str, Any] = {
        "robot": "franka_panda",
        "start_q_rad": HOME,
        "objects": [BLOCK],
        "motion": [{"joints": [point(0.0, HOME), point(1.0, AWAY)]}],
    }
    path = tmp_path / "request.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}))
    return path


@pytest.mark.parametrize("path", HAZARDS, ids=lambda path: path.stem)
def test_example_gets_the_answer_that_its_name_says(path: Path, twin: Twin) -> None:
    profile, scene, start, motion = load_request(path)
    answer = to_answer(twin.rehearse(motion, scene, start), RehearsalCase(motion, scene, start, profile))
    assert answer["accepted"] is path.stem.startswith("accepted")
    stated = re.match(r"# (?:Accepted|Refused \((.*?)\)):", path.read_text())
    assert stated is not None
    assert {v["kind"] for v in answer["violations"]} == set((stated[1] or "").split(", ")) - {""}


def test_answer_of_a_whole_check_is_json_with_numbers(tmp_path: Path) -> None:
    wall = {"name": "wall", "shape": "box", "size_m": [0.3, 0.003, 0.4], "position_m": [0.5, 0.0, 0.2]}
    there = [0.0, 0.2, 0.0, -2.2, 0.0, 2.4, 0.785]
    path = request(tmp_path, objects=[wall], motion=[{"joints": [point(0.0, HOME), point(3.0, there)]}])
    answer = json.loads(json.dumps(check_request(path), allow_nan=False))
    assert set(answer) == {"accepted", "violations", "explanation", "trials", "seconds"}
    assert answer["accepted"] is False
    first = answer["violations"][0]
    assert set(first) == {"kind", "time_s", "bodies", "amount", "unit"}
    assert (first["kind"], first["unit"]) == ("collision", "m")
    assert "wall" in first["bodies"]


BAD = {
    "nan_in_start": ({"start_q_rad": [float("nan"), *HOME[1:]]}, "start_q_rad"),
    "infinite_position": ({"objects": [{**BLOCK, "position_m": [float("inf"), 0, 0]}]}, "position_m"),
    "negative_size": ({"objects": [{**BLOCK, "size_m": [0.05, -0.05, 0.05]}]}, "-0.05"),
    "zero_size": ({"objects": [{**BLOCK, "size_m": [0.05, 0.0, 0.05]}]}, "size_m"),
    "wrong_size_count": ({"objects": [{**BLOCK, "size_m": [0.05]}]}, r"\[x, y, z\]"),
    "unknown_shape": ({"objects": [{**BLOCK, "shape": "cone"}]}, "cone"),
    "zero_quaternion": ({"objects": [{**BLOCK, "quat_xyzw": [0, 0, 0, 0]}]}, "length is 0"),
    "negative_mass": ({"objects": [{**BLOCK, "mass_kg": -1}]}, "mass_kg"),
    "unknown_field": ({"speed": 3}, "speed"),
    "unknown_object_field": ({"objects": [{**BLOCK, "colour": "red"}]}, "allowed here: friction, mass_kg, name"),
    "two_of_one_name": ({"objects": [BLOCK, BLOCK]}, "named 'block'"),
    "no_hollow": ({"objects": [{**BLOCK, "shape": "container", "size_m": [0.1, 0.1, 0.05, 0.06]}]}, "hollow"),
    "unknown_robot": ({"robot": "r2d2"}, "franka_panda"),
    "six_joints": ({"start_q_rad": HOME[:6]}, "has 6 values"),
    "start_out_of_limits": ({"start_q_rad": [3.0, *HOME[1:]]}, "allowed -2.8973 to 2.8973"),
    "no_motion": ({"motion": []}, "motion"),
    "both_in_one": ({"motion": [{"joints": [point(1.0, AWAY)], "gripper": {"width_m": 0.0}}]}, "either"),
    "neither": ({"motion": [{}]}, "either"),
    "too_wide": ({"motion": [{"gripper": {"width_m": 0.2}}]}, "allowed 0 to 0.08"),
    "negative_width": ({"motion": [{"gripper": {"width_m": -0.01}}]}, "width_m"),
    "five_joints": ({"motion": [{"joints": [point(0, HOME), point(1, AWAY[:5])]}]}, "has 5 values"),
    "times_fall": ({"motion": [{"joints": [point(0, HOME), point(2, AWAY), point(1, HOME)]}]}, "increase"),
    "negative_time": ({"motion": [{"joints": [point(-1, HOME), point(2, AWAY)]}]}, "time_s"),
    "overlap": ({"motion": [{"joints": [point(0, HOME), point(2, AWAY)]}, {"joints": [point(1, AWAY)]}]}, "begins"),
    "jump": (
        {"motion": [{"joints": [point(0, HOME), point(2, AWAY)]}, {"joints": [point(2, HOME), point(3, HOME)]}]},
        "join",
    ),
    "no_time_to_grip": (
        {"motion": [{"gripper": {"width_m": 0.0}}, {"joints": [point(0, HOME), point(2, AWAY)]}]},
        "gripper",
    ),
    "one_point": ({"motion": [{"joints": [point(0, HOME)]}]}, "one point"),
    "nan_in_motion": ({"motion": [{"joints": [point(0, HOME), point(float("nan"), AWAY)]}]}, "time_s"),
    "zone_inside_out": ({"zones": [{"name": "z", "min_m": [1, 0, 0], "max_m": [0, 1, 1]}]}, "inside out"),
    "zone_of_two_numbers": ({"zones": [{"name": "z", "min_m": [0, 0], "max_m": [1, 1, 1]}]}, "min_m"),
    "text_for_number": ({"start_q_rad": ["zero", *HOME[1:]]}, "zero"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_request_is_one_clear_line(case: str, tmp_path: Path) -> None:
    changes, message = BAD[case]
    with pytest.raises(BadInputError, match=message) as caught:
        load_request(request(tmp_path, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"- 1\n- 2\n", b"\x00\xff\xfe", b"{unclosed", b"robot: [1"])
def test_what_is_no_request_is_one_clear_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "request.yaml"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=r"request\.yaml") as caught:
        load_request(path)
    assert "\n" not in str(caught.value)


def test_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="No such file"):
        load_request(tmp_path / "nothing.yaml")


def test_every_shape_is_read_with_its_sizes(tmp_path: Path) -> None:
    sizes = {"box": [0.1, 0.2, 0.3], "cylinder": [0.1, 0.2], "sphere": [0.1], "container": [0.2, 0.2, 0.1, 0.01]}
    objects = [{**BLOCK, "name": shape, "shape": shape, "size_m": size} for shape, size in sizes.items()]
    _, scene, _, _ = load_request(request(tmp_path, objects=objects))
    expected = [Box((0.1, 0.2, 0.3)), Cylinder(0.1, 0.2), Sphere(0.1), Container((0.2, 0.2, 0.1), 0.01)]
    assert [body.shape for body in scene.bodies()] == expected


def test_first_point_may_lie_later_than_the_start(tmp_path: Path) -> None:
    _, _, _, motion = load_request(request(tmp_path, motion=[{"joints": [point(1.0, AWAY)]}]))
    (segment,) = motion.segments
    assert isinstance(segment, JointSegment)
    assert segment.time_s.tolist() == [0.0, 1.0]
    assert np.array_equal(segment.q_rad, [HOME, AWAY])


def test_gripper_takes_the_time_until_the_arm_moves_on(tmp_path: Path) -> None:
    moves = [
        {"joints": [point(1.0, AWAY)]},
        {"gripper": {"width_m": 0.0}},
        {"joints": [point(1.7, AWAY), point(3.0, HOME)]},
        {"gripper": {"width_m": 0.08, "seconds": 0.5}},
        {"gripper": {"width_m": 0.04}},
    ]
    _, _, _, motion = load_request(request(tmp_path, motion=moves))
    grips = [(s.start_s, round(s.end_s, 6)) for s in motion.segments if isinstance(s, GripperSegment)]
    assert grips == [(1.0, 1.7), (3.0, 3.5), (3.5, 4.5)]


def test_what_hangs_in_the_air_is_fixed_and_what_stands_is_not(tmp_path: Path) -> None:
    objects = [
        {**BLOCK, "name": "standing"},
        {**BLOCK, "name": "stacked", "position_m": [0.5, 0.1, 0.075]},
        {**BLOCK, "name": "hanging", "position_m": [0.5, -0.3, 0.5]},
        {**BLOCK, "name": "bolted", "position_m": [0.5, 0.4, 0.025], "mass_kg": 0},
    ]
    _, scene, _, _ = load_request(request(tmp_path, objects=objects))
    assert [body.name for body in scene.objects] == ["standing", "stacked"]
    assert [body.name for body in scene.obstacles] == ["hanging", "bolted"]


def test_joints_may_be_given_in_any_order_by_name(tmp_path: Path) -> None:
    names = [f"panda_joint{i}" for i in range(7, 0, -1)]
    turned = [{"joints": [point(0.0, HOME[::-1]), point(1.0, AWAY[::-1])]}]
    _, _, start, motion = load_request(request(tmp_path, joint_names=names, start_q_rad=HOME[::-1], motion=turned))
    assert start.q_rad.tolist() == HOME
    (segment,) = motion.segments
    assert isinstance(segment, JointSegment)
    assert segment.q_rad.tolist() == [HOME, AWAY]


def test_a_request_that_picks_something_expects_it_in_the_gripper(tmp_path: Path, twin: Twin) -> None:
    _, scene, start, motion = load_request(request(tmp_path, picks="block"))
    assert (motion.effect.kind, motion.effect.name) == ("hold", "block")
    assert {v.kind for v in twin.rehearse(motion, scene, start).violations} == {"wrong_effect"}


def test_a_request_has_as_many_parts_as_allowed_and_not_one_more(tmp_path: Path) -> None:
    blocks = [{**BLOCK, "name": f"b{i}", "position_m": [0.5, i / 20 - 2.5, 0.025]} for i in range(BODIES + 1)]
    grips = [{"gripper": {"width_m": 0.08, "seconds": 0.1}}] * (SEGMENTS + 1)
    _, scene, _, motion = load_request(request(tmp_path, objects=blocks[:-1], motion=grips[:-1]))
    assert (len(scene.objects), len(motion.segments)) == (BODIES, SEGMENTS)
    for changes in ({"objects": blocks}, {"motion": grips}):
        with pytest.raises(BadInputError, match="at most"):
            load_request(request(tmp_path, **changes))
