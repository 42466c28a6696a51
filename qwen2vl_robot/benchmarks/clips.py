"""Seeds → whether a clip of the seconds before helps a model to find things, and its cost.

The same questions are asked with and without the clip. The objects lie still while the arm swings; only the last
picture shows the present. Here the shipped checkpoint also gets the clip, although otherwise it gets one picture.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np

from qwen2vl_robot.benchmarks.grounding import score
from qwen2vl_robot.benchmarks.shares import share
from qwen2vl_robot.bullet import robot_on_table
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.languages import load_languages
from qwen2vl_robot.planner.process import PlannerProcess
from qwen2vl_robot.planner.sources import read_settings
from qwen2vl_robot.plant.scenes import draw_scene, load_scene
from qwen2vl_robot.training.dataset import render_sample
from qwen2vl_robot.training.questions import QuestionMaker

_SCENE = "scenes/tabletop.yaml"
_CLIP_PICTURES = 4  # two seconds
_TASKS = ("pick", "on", "left_of")


def run_clip_bench(model: str, frames: int, seed: int) -> Iterator[dict[str, Any]]:
    """Ask one question about each of `frames` scenes with and without the clip, in alternating order.

    Raises:
        BadInputError: the model is behind a server.
    """
    if read_settings(model).server is not None:
        raise BadInputError(f"--model {model}: only a local model can be asked in both ways")
    ranges, catalogue = load_scene(_SCENE)
    maker = QuestionMaker(load_languages(), catalogue.held_out, references=("label",))
    profile = load_robot(ranges.robot)
    with robot_on_table(profile) as world, PlannerProcess(model) as planner:
        done = 0
        while done < frames:
            rng = np.random.default_rng([seed, 2])
            scene = draw_scene(ranges, catalogue, seed)
            swings_rad = scene.start_q_offset_rad * rng.uniform(-1, 1, (_CLIP_PICTURES + 1, len(profile.joints)))
            film = [render_sample(world, scene, swing_rad) for swing_rad in swings_rad]
            rgb, seen = film[-1]
            question = maker.draw(seen, rng, absent=False, task=str(rng.choice(_TASKS)))
            if question is not None:
                result: dict[str, Any] = {"seed": seed, "instruction": question.instruction}
                clip = tuple(picture for picture, _ in film[:-1])
                for name in ("still", "clip") if done % 2 == 0 else ("clip", "still"):
                    began_s = time.perf_counter()
                    answered = score(planner, rgb, question, clip if name == "clip" else ())
                    result[name] = {**answered, "seconds": round(time.perf_counter() - began_s, 3)}
                yield result
                done += 1
            seed += 1


def summarise_clips(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Compute shares with 95 % intervals, and median seconds, with and without a clip."""
    totals: dict[str, Any] = {"questions": len(results)}
    for name in ("still", "clip"):
        chosen = [r[name] for r in results]
        totals[name] = {
            "verbs_right": share([r["verbs_right"] for r in chosen]),
            "iou_50": share([i >= 0.5 for r in chosen for i in r["iou"]]),
            "seconds_median": round(median(r["seconds"] for r in chosen), 3),
        }
    return totals
