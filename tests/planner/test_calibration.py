"""A model of which nobody knows the unit of its boxes moves nothing until it was measured, whatever it answers."""

from __future__ import annotations

import base64
import io
import json
import re
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from qwen2vl_robot import doctor
from qwen2vl_robot.benchmarks.box_convention import render_pictures
from qwen2vl_robot.bullet import robot_on_table
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.errors import BadInputError, PlannerError
from qwen2vl_robot.messages import Instruction, Observation, PlannerRequest, RobotState, Verb, freeze
from qwen2vl_robot.planner.contract import BoxConvention, PlannerMode, family_of
from qwen2vl_robot.planner.process import SHIPPED_MODEL, PlannerProcess
from qwen2vl_robot.planner.server import ServerPlanner
from qwen2vl_robot.planner.sources import ModelSettings, read_settings
from qwen2vl_robot.plant.scenes import load_scene
from qwen2vl_robot.policy import Response, respond
from qwen2vl_robot.reasons import PlannerReason
from qwen2vl_robot.training.dataset import sample_of_seed
from qwen2vl_robot.training.shards import SeenObject
from tests.cells import PROFILE, look
from tests.planner.test_server import Server, completion, send, server

__all__ = ["server"]
SIZE = (640, 480)
HOME = RobotState(0, freeze(PROFILE.home_q_rad), freeze([0.0] * 7), 0.08)
MEASURED = {"box_convention": "resized_pixels", "picture_px": list(SIZE), "median_iou": 0.9, "pictures": 12}


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Qwen/Qwen2-VL-2B-Instruct", "qwen2_vl"),
        ("Qwen/Qwen2.5-VL-7B-Instruct-AWQ", "qwen2_5_vl"),
        ("qwen2_5-vl-7b", "qwen2_5_vl"),
        ("unsloth/Qwen3-VL-30B-A3B-Instruct-GGUF", "qwen3_vl"),
        ("qwen2.5vl:7b", None),
        ("UI-TARS-1.5-7B", None),
        ("qwen-vl-max", None),
        ("my-qwen2-vl", None),
        ("Qwen2-VLx", None),
        ("deepseek-vl2-small", None),
        ("gpt-4o", None),
    ],
)
def test_a_family_is_known_by_its_makers_names_alone(name: str, family: str | None) -> None:
    assert family_of(name) == family
    settings = ModelSettings(model=name, server="http://127.0.0.1:1/v1")
    assert (settings.why_uncalibrated(SIZE) == "") is (family is not None)


def test_a_checkpoint_that_states_its_contract_is_known() -> None:
    assert read_settings(SHIPPED_MODEL).why_uncalibrated(SIZE) == ""
    assert read_settings("random:2B").why_uncalibrated(SIZE)


def test_a_unit_that_a_person_wrote_down_is_no_measurement() -> None:
    settings = ModelSettings(model="qwen2.5vl:7b", server="http://x/v1", box_convention=BoxConvention.RESIZED_PIXELS)
    assert "doctor --model NAME --calibrate" in settings.why_uncalibrated(SIZE)


def settings_with(**measured: Any) -> ModelSettings:
    named = {"model": "qwen2.5vl:7b", "server": "http://x/v1"}
    return ModelSettings.model_validate({**named, "calibration": {**named, **MEASURED, **measured}})


def test_a_measured_model_may_move_things() -> None:
    settings = settings_with()
    assert settings.why_uncalibrated(SIZE) == settings.why_uncalibrated((1280, 720)) == ""
    assert settings.convention is BoxConvention.RESIZED_PIXELS


def test_a_scale_holds_for_the_size_of_picture_with_which_it_was_measured() -> None:
    settings = settings_with(pixels_factor=[0.5, 0.5])
    assert settings.why_uncalibrated(SIZE) == ""
    assert "640 x 480, not 1280 x 720" in settings.why_uncalibrated((1280, 720))
    assert settings.as_sent((644, 476)) == (322, 238)


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "qwen2.5vl:32b"},
        {"server": "http://y/v1"},
        {"median_iou": 0.3},
        {"pictures": 1},
        {"pixels_factor": [0, 1]},
    ],
)
def test_a_calibration_of_something_else_or_a_bad_one_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="calibration"):
        settings_with(**wrong)


def test_nothing_is_asked_of_a_model_that_was_not_measured(server: Server) -> None:
    server.answers(completion("[]"))
    with PlannerProcess(f"{server.url}#qwen2.5vl:7b") as planner:
        with pytest.raises(PlannerError) as refused:
            planner.plan(Observation(look(0), HOME), Instruction("pick up the red block"), ())
        assert refused.value.reason is PlannerReason.UNCALIBRATED
        assert planner.pid is None
    assert server.requests == []
    assert respond(PlannerReason.UNCALIBRATED) is Response.END


# ------------------------------------------------------------------------------------------------- doctor


class Eyes:
    """What a stand-in server knows: pictures and where things are in them."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        ranges, catalogue = load_scene("scenes/tabletop.yaml")
        self.known: list[tuple[np.ndarray, list[SeenObject]]] = [(p.rgb, p.seen) for p in render_pictures(6, seed=0)]
        with robot_on_table(load_robot(ranges.robot)) as world:
            self.known += [sample_of_seed(world, ranges, catalogue, seed) for seed in (1000, 1001)]

    def answer(self, http: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        """Locate what is asked for, in pixels of a picture that was scaled; a plan it does not know how to write."""
        picture, text = request["messages"][1]["content"]
        png = base64.b64decode(picture["image_url"]["url"].split(",")[1])
        image = Image.open(io.BytesIO(png))
        if not text["text"].startswith("Locate: "):
            send(http, completion("I would pick it up."))
            return
        seen, sides = self._seen(image), (*image.size, *image.size)
        things = [
            {"bbox_2d": [round(v * self.factor * px / 1000) for v, px in zip(s.box, sides, strict=True)], "label": noun}
            for noun in text["text"].removeprefix("Locate: ").split(", ")
            for s in seen
            if set(noun.split()) <= set(s.label.split())
        ]
        send(http, completion(f"Here they are:\n```JSON\n{json.dumps(things)}\n```"))

    def _seen(self, image: Image.Image) -> list[SeenObject]:
        def small(picture: Image.Image) -> np.ndarray:
            return np.asarray(picture.convert("RGB").resize((32, 24))).astype(float)

        asked = small(image)
        return min(self.known, key=lambda known: float(abs(small(Image.fromarray(known[0])) - asked).sum()))[1]


def test_a_server_that_scales_pictures_is_measured_and_then_plans(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CALIBRATION_PICTURES", 6)
    monkeypatch.setattr(doctor, "MODE_PICTURES", 2)
    eyes, out, lines = Eyes(factor=0.5), tmp_path / "planner.yaml", []
    server.answers(lambda http: eyes.answer(http, server.requests[-1]))
    model = tmp_path / "asked.yaml"
    model.write_text(yaml.safe_dump({"model": "qwen2.5vl:7b", "server": server.url, "timeout_s": 120.0}))
    monkeypatch.setattr("qwen2vl_robot.planner.listing.examine_server", lambda *args, **named: True)
    assert doctor.examine_model(str(model), lines.append, calibrates=True, out=out)
    said = "\n".join(lines)
    assert "box_convention: resized_pixels" in said
    assert re.search(r"the server scales pictures: its boxes are 0\.(49|5)\d* x 0\.(49|5)\d* of what was sent", said)
    assert "mode plan: 0 of" in said
    assert lines[-2] == "recommended: mode detect"
    settings = read_settings(str(out))
    assert (settings.model, settings.mode) == ("qwen2.5vl:7b", PlannerMode.DETECT)
    assert settings.why_uncalibrated(SIZE) == ""
    rgb, seen = eyes.known[0]
    plan = ServerPlanner(settings).plan(PlannerRequest(rgb, Instruction(f"pick up the {seen[0].label}")))
    assert [action.verb for action in plan.actions] == [Verb.PICK]
    assert plan.actions[0].object is not None
    true = seen[0].box
    found = min(plan.actions[0].object.boxes, key=lambda box: abs(box.x0 - true[0]))
    assert [found.x0, found.y0, found.x1, found.y1] == pytest.approx(true, abs=8)


def test_settings_are_written_where_they_can_be_read_again(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"ends in \.yaml"):
        doctor._write_settings(settings_with(), tmp_path / "planner.txt")
    doctor._write_settings(settings_with(pixels_factor=[0.5, 0.5]), tmp_path / "planner.yaml")
    assert read_settings(str(tmp_path / "planner.yaml")) == settings_with(pixels_factor=[0.5, 0.5])
