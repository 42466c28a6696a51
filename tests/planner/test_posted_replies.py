"""Replies as people have posted them: each becomes boxes with one meaning, or is refused with a typed reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.messages import ImageBox
from qwen2vl_robot.planner.contract import BoxConvention
from qwen2vl_robot.planner.detections import parse_detections
from qwen2vl_robot.planner.reply import parse_reply


def cases(name: str) -> list[Any]:
    entries = yaml.safe_load((Path(__file__).parent / name).read_text(encoding="utf-8"))
    return [pytest.param(entry, id=entry["name"]) for entry in entries]


REPLIES, PLANS = cases("posted_replies.yaml"), cases("posted_plans.yaml")


def text_of(case: dict[str, Any]) -> str:
    if "repeat" not in case:
        return str(case["reply"])
    return "[" + ", ".join([case["reply"]] * case["repeat"]) + (", {" if case.get("cut") else "]")


def corners(box: ImageBox) -> list[float]:
    return [box.x0, box.y0, box.x1, box.y1]


@pytest.mark.parametrize("case", REPLIES)
def test_a_posted_reply_becomes_boxes_or_a_typed_refusal(case: dict[str, Any]) -> None:
    asked = tuple(case.get("asked", ["red block"]))
    unit, size_px = BoxConvention(case.get("unit", "thousandths")), tuple(case.get("picture_px", [640, 476]))

    def found() -> Any:
        return parse_detections(text_of(case), asked, convention=unit, image_size_px=size_px)

    if "refused" in case:
        with pytest.raises(PlannerError) as refused:
            found()
        assert refused.value.reason == case["refused"]
        assert "\n" not in str(refused.value)
        return
    detections = found()
    boxes = {noun: [pytest.approx(corners(box)) for box in detections.boxes[noun]] for noun in asked}
    assert boxes == case["found"]
    assert any(case["noted"] in note for note in detections.notes) if "noted" in case else not detections.notes


@pytest.mark.parametrize("case", PLANS)
def test_a_posted_plan_becomes_actions_or_a_typed_refusal(case: dict[str, Any]) -> None:
    if "refused" in case:
        with pytest.raises(PlannerError) as refused:
            parse_reply(case["reply"])
        assert refused.value.reason == case["refused"]
        return
    plan = parse_reply(case["reply"])
    assert [action.describe() for action in plan.actions] == case["plan"]
    assert [corners(box) for thing in plan.objects for box in thing.boxes] == case["boxes"]
    assert any(case["noted"] in note for note in plan.notes) if "noted" in case else not plan.notes


def test_enough_shapes_are_from_public_threads() -> None:
    posted = [case.values[0]["of"] for case in (*REPLIES, *PLANS)]
    assert sum(of != "contract" for of in posted) >= 60
