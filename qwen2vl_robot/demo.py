"""One instruction in one simulated scene → report.json, the annotated frame and the film."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qwen2vl_robot import film
from qwen2vl_robot.approval import PromptingApprover
from qwen2vl_robot.assembly import Ports, assemble
from qwen2vl_robot.config import SceneRanges, load_robot, load_yaml
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.legend import draw_legend
from qwen2vl_robot.messages import (
    Action,
    Instruction,
    JointSegment,
    Observation,
    Outcome,
    Plan,
    StepRecord,
    TaskReport,
    Verb,
    digest,
)
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.planner.process import SHIPPED_MODEL, PlannerProcess
from qwen2vl_robot.plant.client import PlantLink, PlantProcess
from qwen2vl_robot.reading import read
from qwen2vl_robot.recording.session import Recording, Session, setup_of
from qwen2vl_robot.recording.setup import Setup
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.results import reserve, save_run
from qwen2vl_robot.sides import SeenFrom, sides_seen_from
from qwen2vl_robot.validation.pool import RehearsalProcess

_REHEARSAL_BUDGET_S = 60.0  # with its film


class _Pictures:
    """A listener that keeps what the pictures need and prints what happens.

    Attributes:
        clips: for each step that the arm carried out, the films of rehearsal and execution.
    """

    def __init__(self, link: PlantLink, say: Callable[[str], None]) -> None:
        self._link = link
        self._say = say
        self.planned: tuple[Plan, Observation] | None = None
        self.steps: list[StepRecord] = []
        self.clips: list[tuple[film.Picture, film.Picture]] = []
        link.start_film()

    def on_frame(self, observation: Observation) -> None:
        """Nothing to keep: the plan's own frame is drawn on."""

    def on_plan(self, plan: Plan, observation: Observation) -> None:
        """Keep the last plan with its frame."""
        self.planned = (plan, observation)
        self._say("plan: " + ", then ".join(_shortly(a) for a in plan.actions))

    def on_step(self, step: StepRecord) -> None:
        """Keep the step and its films."""
        self.steps.append(step)
        executed = self._link.take_film()
        rehearsed = None if step.verdict is None else step.verdict.film
        self.clips.append((executed[:0] if rehearsed is None else rehearsed, executed))
        self._link.start_film()
        self._say(_step_line(step))


def _shortly(action: Action) -> str:
    """An action without the sentence of a question or a refusal, which comes with its outcome."""
    return action.verb.value if action.verb in (Verb.ASK, Verb.REFUSE) else action.describe()


def _step_line(step: StepRecord) -> str:
    """How a step ended and why; a question is "asked: I see no red plate."."""
    name = "" if step.action.verb in (Verb.ASK, Verb.REFUSE) else f"{step.action.describe()}: "
    twin = "" if step.verdict is None else f" (twin: {'accepted' if step.verdict.accepted else 'refused'})"
    why = "; ".join(step.outcome.reasons)
    return f"{name}{step.outcome.kind.value}{twin}" + (f": {why}" if why else "")


@dataclass(frozen=True, slots=True)
class DemoScene:
    """Which cell is simulated, and how fast.

    Attributes:
        file: a scene of sim/scenes.
        seed: draws poses, light, camera and the plant's faults.
        headless: simulate as fast as possible instead of in real time.
        seen_from: whose left and right count; None leaves it to sim/tasks/relations.yaml.
        camera: a model of sim/cameras; None leaves it to the scene.
    """

    file: str
    seed: int
    headless: bool
    seen_from: SeenFrom | None = None
    camera: str | None = None


def run_demo(
    instruction: str,
    scene: DemoScene,
    out: Path,
    model: str | None,
    *,
    say: Callable[[str], None],
    ask: Callable[[str], bool] | None = None,
    record: Recording | None = None,
) -> dict[str, Any]:
    """Carry out one instruction and write what happened to `out`.

    Args:
        say: prints a line.
        ask: shows a person each step and waits for a yes; left out, what needs a person is refused.
        record: where every decision is recorded.

    Returns:
        The report, as in report.json.

    Raises:
        BadInputError: instruction, scene, checkpoint or folder cannot be used.
        UnsavedError: a file cannot be written; the error holds the report.
        RobotError: something broke on the way.
    """
    began_s = time.perf_counter()
    asked = Instruction(instruction)
    scene_file = resolve(scene.file)
    ranges = load_yaml(scene_file, SceneRanges)
    profile = load_robot(ranges.robot)
    surroundings = Surroundings.of(profile, scene.seen_from).heard(asked.text)
    with reserve(out), PlannerProcess(model or SHIPPED_MODEL, seen_from=scene.seen_from) as planner:
        say(f"instruction: {asked.text}")
        say(f"I read: {read(asked.text).describe() or 'nothing that I can do'}")
        planner.start()  # first, so that a model that cannot be loaded is reported at once
        with (
            PlantProcess(str(scene_file), scene.seed, realtime=not scene.headless, camera=scene.camera) as plant,
            RehearsalProcess(profile, budget_s=_REHEARSAL_BUDGET_S, film=True) as rehearsal,
        ):
            rehearsal.start()
            pictures = _Pictures(plant.link, say)
            halt = Halt()
            approver = None if ask is None else PromptingApprover(halt, ask)
            ports = Ports(plant.link, plant.link, plant.link, planner, rehearsal, approver, (pictures,))
            started_s = time.perf_counter()
            made_of = setup_of(surroundings, ranges.robot, model or SHIPPED_MODEL, seed=scene.seed)
            task = _carry_out(asked, made_of, surroundings, ports, halt, record, say)
            report = _report(task, scene.seed, scene.file, started_s - began_s)
            report["seconds"]["all"] = round(time.perf_counter() - began_s, 3)
            steps = ", then ".join(step["action"] for step in report["steps"])
            drawings = _drawings(pictures, surroundings, film.drawable(asked.text, steps))
            files = save_run(out, report, drawings)
    if not task.steps:
        say(" ".join(task.outcome.reasons))
    say(f"{report['outcome']}; see {', '.join(files)} in {out}")
    return report


def _carry_out(
    asked: Instruction,
    made_of: Setup,
    surroundings: Surroundings,
    ports: Ports,
    halt: Halt,
    record: Recording | None,
    say: Callable[[str], None],
) -> TaskReport:
    """Carry out the instruction, recorded or not."""
    if record is None:
        return assemble(surroundings, ports, halt=halt, seed=made_of.seed).run(asked)
    with Session(record, made_of, surroundings, ports, halt, halt.stop) as session:
        task = session.run(asked)
    say(session.said)
    return task


def _report(task: TaskReport, seed: int, scene: str, start_s: float) -> dict[str, Any]:
    steps = []
    for step in task.steps:
        verdict = step.verdict and {
            "accepted": step.verdict.accepted,
            "violations": [
                {"kind": v.kind.value, "time_s": v.time_s, "bodies": list(v.bodies), "amount": v.amount, "unit": v.unit}
                for v in step.verdict.violations
            ],
            "explanation": step.verdict.explanation,
            "digest": digest(step.verdict),
            "seconds": round(step.verdict.seconds, 3),
        }
        effect = step.motion and step.motion.effect
        steps.append(
            {
                "action": step.action.describe(),
                "motion": step.motion and {"duration_s": step.motion.duration_s, "digest": digest(step.motion)},
                "verdict": verdict,
                "effect": effect and {"kind": effect.kind, "object": effect.name},
                **_outcome(step.outcome),
                "error_m": step.outcome.error_m,
            }
        )
    return {
        "instruction": task.instruction.text,
        **_outcome(task.outcome),
        "seed": seed,
        "scene": scene,
        "camera": "; ".join(camera.text for camera in task.cameras),
        "plans": [{"reply": p.reply, "notes": p.notes, "digest": digest(p)} for p in task.plans],
        "steps": steps,
        "seconds": {"start": round(start_s, 3), **{k: round(v, 3) for k, v in task.seconds.items()}},
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "outcome": outcome.kind.value,
        "causes": [{"reason": c.reason.value, "text": c.text, "numbers": dict(c.numbers)} for c in outcome.causes],
        "reasons": list(outcome.reasons),
    }


def _drawings(
    pictures: _Pictures, surroundings: Surroundings, title: str
) -> dict[str, Callable[[Path], object] | None]:
    """What writes frame.png, film.gif where anything was rehearsed or executed, refused.png where the twin refused."""
    drawings: dict[str, Callable[[Path], object] | None] = dict.fromkeys(("frame.png", "film.gif", "refused.png"))
    legend = None
    if pictures.planned is not None:
        plan, observation = pictures.planned
        boxes = [(a.object.label, b) for a in plan.actions if a.object is not None for b in a.object.boxes]
        path = _tool_path(pictures.steps, surroundings.kinematics)
        sides = sides_seen_from(surroundings.rules.seen_from, observation.frame.T_base_camera)
        drawings["frame.png"] = Image.fromarray(film.annotate(observation.frame, boxes, path, sides)).save
        legend = None if sides is None else draw_legend(film.FILM_INTRINSICS, film.T_BASE_FILM, sides)
    refused = [s.verdict.picture for s in pictures.steps if s.verdict is not None and s.verdict.picture is not None]
    if refused:
        drawings["refused.png"] = Image.fromarray(refused[-1]).save
    rehearsed, executed = film.join_clips(pictures.clips)
    if len(executed):
        is_executed = any(len(shown) for _, shown in pictures.clips)
        captions = ("rehearsal (twin)", "execution (plant)" if is_executed else "nothing was executed")
        drawings["film.gif"] = partial(
            film.write_film, left=rehearsed, right=executed, captions=captions, title=title, legend=legend
        )
    return drawings


def _tool_path(steps: list[StepRecord], kinematics: Kinematics) -> Array | None:
    """Tool positions (m, 3) along every planned motion, base frame, metres."""
    joints = [
        q
        for step in steps
        if step.motion is not None
        for segment in step.motion.segments
        if isinstance(segment, JointSegment)
        for q in segment.q_rad[::5]
    ]
    return np.array([kinematics.tool_pose(q)[:3, 3] for q in joints]) if joints else None
