"""A real plant, a real twin and a scripted planner, for scenarios from instruction to outcome."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from qwen2vl_robot.assembly import Ports, assemble
from qwen2vl_robot.config import ObjectSpec, RobotProfile, load_robot
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import (
    CameraFrame,
    Instruction,
    Motion,
    OutcomeKind,
    RobotState,
    Scene,
    TaskReport,
    Verdict,
    Violation,
)
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.planner.reply import format_reply
from qwen2vl_robot.planner.scripted import ScriptedPlanner
from qwen2vl_robot.plant.client import PlantLink, PlantProcess
from qwen2vl_robot.ports import Camera, Rehearsal
from qwen2vl_robot.validation.findings import RehearsalCase, make_verdict
from qwen2vl_robot.validation.pool import RehearsalProcess
from tests.quick import quick_robot, quick_scene

PROFILE = load_robot("franka_panda")
QUICK = load_robot(str(quick_robot()))
RED_BLOCK = ObjectSpec(colour="red", kind="block", position_m=(0.50, 0.10), yaw_deg=20.0)
BLUE_PLATE = ObjectSpec(colour="blue", kind="plate", position_m=(0.52, -0.14))
INSTRUCTION = "put the red block on the blue plate"
UNMOVED_M = 0.003


@dataclass
class Stage:
    """One plant with everything around it."""

    plant: PlantProcess
    rehearsal: Rehearsal
    halt: Halt
    profile: RobotProfile

    def boxes(self, label: str) -> tuple[str, list[tuple[int, int, int, int]]]:
        """An object of a reply, with its true box."""
        b = self.plant.truth.boxes()[label].box
        return label, [(int(b.x0), int(b.y0), int(np.ceil(b.x1)), int(np.ceil(b.y1)))]

    def pick_and_place(self, target: str, relation: str, reference: str) -> str:
        """The reply that a planner should give."""
        actions: list[dict[str, object]] = [
            {"do": "pick", "object": 0},
            {"do": "place", "object": 1, "relation": relation},
        ]
        return format_reply([self.boxes(target), self.boxes(reference)], actions)

    def run(self, *replies: str, camera: Camera | None = None, instruction: str = INSTRUCTION) -> TaskReport:
        """Let a controller carry out the scripted replies."""
        link = self.plant.link
        self.planner = ScriptedPlanner(*replies)
        ports = Ports(camera or link, link, link, self.planner, self.rehearsal)
        return assemble(Surroundings.of(self.profile), ports, halt=self.halt).run(Instruction(instruction))

    def run_to_question(self, *replies: str, instruction: str = INSTRUCTION) -> TaskReport:
        """Let a controller carry out the scripted replies; it must end with a question, and nothing may have moved."""
        before = self.plant.truth.objects()
        report = self.run(*replies, instruction=instruction)
        assert report.outcome.kind is OutcomeKind.ASKED
        assert self.moved_m(before) < UNMOVED_M
        return report

    def moved_m(self, before: dict[str, object]) -> float:
        """How far the object that moved most has moved, metres."""
        after = self.plant.truth.objects()
        return max(
            float(np.linalg.norm(after[k].T_base_object[:3, 3] - before[k].T_base_object[:3, 3]))  # type: ignore[attr-defined]
            for k in after
        )


@contextmanager
def stage(*always: ObjectSpec, seed: int = 11, camera: str = "d435", profile: RobotProfile = QUICK) -> Iterator[Stage]:
    """Set up a plant that holds exactly these objects; its twins are warm from the test before."""
    scene = quick_scene() if profile is QUICK else "scenes/tabletop.yaml"
    with PlantProcess(scene, seed, always=always, count=len(always), camera=camera) as plant:
        yield Stage(plant, twins(profile), Halt(), profile)


_TWINS: dict[int, RehearsalProcess] = {}


def twins(profile: RobotProfile) -> RehearsalProcess:
    """Twins that live as long as this process; a verdict of theirs does not depend on earlier ones."""
    if profile.safety.trials not in _TWINS:
        _TWINS[profile.safety.trials] = RehearsalProcess(profile, budget_s=60.0)
    return _TWINS[profile.safety.trials]


class BlindCamera:
    """A camera whose depth is missing everywhere."""

    def __init__(self, link: PlantLink) -> None:
        self._link = link

    def capture(self) -> CameraFrame:
        frame = self._link.capture()
        return replace(frame, depth_m=np.full_like(frame.depth_m, np.nan))

    def newest(self, since_ns: int) -> CameraFrame | None:
        frame = self._link.newest(since_ns)
        return None if frame is None else replace(frame, depth_m=np.full_like(frame.depth_m, np.nan))


class DoubtingRehearsal:
    """Says no to the first motions it is given, and rehearses the others."""

    def __init__(self, stage: Stage, doubt: Violation, times: int) -> None:
        self._inner, self._profile, self._doubt, self._times = stage.rehearsal, stage.profile, doubt, times
        self.given: list[Motion] = []
        self.refused: list[int] = []

    def rehearse(self, motion: Motion, scene: Scene, start: RobotState, *, refused: int = 0) -> Verdict:
        self.given.append(motion)
        self.refused.append(refused)
        if len(self.given) > self._times:
            return self._inner.rehearse(motion, scene, start, refused=refused)
        case = RehearsalCase(motion, scene, start, self._profile)
        return replace(make_verdict(case, (), began=time.perf_counter()), violations=(self._doubt,))
