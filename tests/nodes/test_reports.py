"""The node's reports: docs/schemas holds the models' schemas, and numbers that are not finite do not break the JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qwen2vl_robot.graph.idl import message_class
from qwen2vl_robot.messages import (
    Action,
    Box,
    CameraFrame,
    ImageBox,
    Intrinsics,
    ObjectReference,
    Plan,
    Scene,
    SceneObject,
    Verb,
    Verdict,
    Violation,
)
from qwen2vl_robot.nodes import drawing, reports
from qwen2vl_robot.nodes.rehearsal_report import RehearsalReport

SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "schemas"


PUBLISHED = (reports.PlanReport, reports.VerdictReport, reports.StatusReport, RehearsalReport)


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_published_schema_is_the_models(model: type[reports.Strict]) -> None:
    """Write them again with: python -c "from tests.nodes.test_reports import write; write()"."""
    published = json.loads((SCHEMAS / f"{model.__name__}.json").read_text(encoding="utf-8"))
    assert published == model.model_json_schema()


def write() -> None:
    for model in PUBLISHED:
        text = json.dumps(model.model_json_schema(), indent=2) + "\n"
        (SCHEMAS / f"{model.__name__}.json").write_text(text, encoding="utf-8")


def test_a_verdict_with_an_infinite_number_is_still_json() -> None:
    violation = Violation("collision", float("nan"), ("a", "b"), float("inf"), "m")
    verdict = Verdict(False, (violation,), "", "", "", "")
    report = json.loads(reports.verdict_report(verdict, "pick", None, asks=False).model_dump_json())
    assert report["violations"][0]["amount"] is None


def test_a_box_becomes_a_detection_in_pixels() -> None:
    k = Intrinsics(640, 480, 600.0, 600.0, 320.0, 240.0)
    frame = CameraFrame(5, np.zeros((480, 640, 3), np.uint8), np.zeros((480, 640), np.float32), k, np.eye(4))
    plan = Plan((Action(Verb.PICK, ObjectReference("red block", (ImageBox(100, 200, 300, 400),))),), "")
    detection = drawing.detections(message_class, plan, frame, "camera").detections[0]
    assert (detection.bbox.center.position.x, detection.bbox.center.position.y) == (128.0, 144.0)
    assert (detection.bbox.size_x, detection.bbox.size_y) == (128.0, 96.0)
    assert detection.results[0].hypothesis.class_id == "red block"
    assert detection.results[0].hypothesis.score == 1.0


def test_markers_show_objects_obstacles_path_and_contacts() -> None:
    body = SceneObject("red block", Box((0.04, 0.04, 0.04)), np.eye(4))
    scene = Scene((body,), (body,))
    markers = drawing.markers(message_class, scene, np.zeros((2, 3)), np.zeros((1, 3)), "base", 7_000_000_005).markers
    assert [m.ns for m in markers] == ["", "objects", "obstacles", "path", "contacts"]
    assert {(m.header.stamp.sec, m.header.stamp.nanosec, m.header.frame_id) for m in markers} == {(7, 5, "base")}
    assert markers[0].action == 3  # deletes the markers shown before
