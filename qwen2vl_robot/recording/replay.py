"""A bag of decisions → the same flow again over what was seen, and every difference; nothing moves.

The controller is the one of every other run. Camera, arm, clock, approver and halt answer from the tape; planner and
twin are real. What the flow decides is recorded again and compared with the recording.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qwen2vl_robot import film
from qwen2vl_robot.assembly import Ports, assemble
from qwen2vl_robot.bounds import shown
from qwen2vl_robot.camera_guard import CameraGuard
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.controller import Controller
from qwen2vl_robot.errors import BadInputError, RobotError
from qwen2vl_robot.messages import Verdict
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.planner.process import SHIPPED_MODEL, PlannerProcess
from qwen2vl_robot.ports import Planner, Rehearsal
from qwen2vl_robot.recording import taps
from qwen2vl_robot.recording.answers import TapeApprover, TapeArm, TapeCamera, TapeClock, TapeHalt
from qwen2vl_robot.recording.differences import compare
from qwen2vl_robot.recording.form import InstructionForm
from qwen2vl_robot.recording.recorder import call_to_json
from qwen2vl_robot.recording.setup import Setup, model_digest, rules_digest
from qwen2vl_robot.recording.tape import BadTapeError, DivergedError, Tape, TapeEndError
from qwen2vl_robot.rules import RuleBook, load_rules
from qwen2vl_robot.validation.pool import RehearsalProcess

_BUDGET_S = 600.0  # the time that a rehearsal takes must decide nothing
_SHIPPED_ROBOT, _SHIPPED_RULES = re.compile(r"[A-Za-z0-9_-]+"), re.compile(r"rules/[A-Za-z0-9_-]+\.yaml")


@dataclass(frozen=True, slots=True)
class Files:
    """What a person gives for a replay. A bag's own paths are not opened, but for names of what ships.

    Attributes:
        model: a model name; None is the shipped checkpoint.
    """

    model: str | None = None
    robot: str | None = None
    rules: str | None = None


@dataclass(slots=True)
class Replayed:
    """What came of a replay.

    Attributes:
        notes: what else is to be said, such as another checkpoint.
        cut: why the bag has no end, "" where it has one.
    """

    tasks: int = 0
    decisions: int = 0
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cut: str = ""


class _Decided:
    """A `taps.Sink` that keeps what is decided, and the films of the rehearsals."""

    def __init__(self, camera: TapeCamera) -> None:
        self._camera = camera
        self.outputs: list[dict[str, Any]] = []
        self.clips: list[tuple[film.Picture, list[film.Picture]]] = []
        self._rehearsed: film.Picture | None = None

    def __call__(self, call: taps.Call) -> None:
        if call.name in taps.OUTPUTS:
            self.outputs.append(call_to_json(0, call))
        if call.name == taps.REHEARSAL and isinstance(call.answer, Verdict):
            self._rehearsed = call.answer.film
        if call.name == taps.STEP:
            seen, self._camera.frames = [frame.rgb for frame in self._camera.frames], []
            if self._rehearsed is not None and seen:
                self.clips.append((self._rehearsed, seen))


def replay(path: Path, files: Files, *, film_to: Path | None = None) -> Replayed:
    """Run what a bag holds again, with a planner and a twin that are started for it.

    Args:
        film_to: a GIF of the rehearsals beside what the camera saw.

    Raises:
        BadInputError: not a bag of decisions, of another format, broken inside, or made of files that are not given.
        RobotError: planner or twin cannot be started.
    """
    tape = Tape(path)
    robot, rules = _robot(tape.setup, files, path), _rules(tape.setup, files, path)
    profile, cell, model = load_robot(robot), load_rules(rules), files.model or SHIPPED_MODEL
    with (
        PlannerProcess(model, seen_from=tape.setup.seen_from) as planner,
        RehearsalProcess(profile, budget_s=_BUDGET_S, film=film_to is not None) as rehearsal,
    ):
        planner.start()
        rehearsal.start()
        again = Again(tape, Surroundings.of(profile, tape.setup.seen_from), cell, planner, rehearsal)
        result = again.run()
    digests = {"checkpoint": model_digest(model), "robot file": profile.digest, "rules": rules_digest(rules)}
    recorded = (tape.setup.model_digest, tape.setup.robot_digest, tape.setup.rules_digest)
    for (what, here), there in zip(digests.items(), recorded, strict=True):
        if here != there:
            result.notes.append(f"another {what}: {there[:12] or 'unknown'} was recorded, {here[:12]} is here")
    if film_to is not None:
        _write_film(film_to, again.sink.clips)
    return result


class Again:
    """A controller over a tape.

    Args:
        planner, rehearsal: real ones; they decide anew.
    """

    def __init__(
        self, tape: Tape, surroundings: Surroundings, cell: RuleBook, planner: Planner, rehearsal: Rehearsal
    ) -> None:
        self._tape, setup = tape, tape.setup
        camera = TapeCamera(tape)
        self.sink = _Decided(camera)
        guard = CameraGuard(surroundings, names=setup.cameras, is_required=setup.requires_check)
        links = (camera, TapeArm(tape), TapeClock(tape), planner, rehearsal, TapeApprover(tape))
        ports, halt = taps.tap(Ports(*links, guard=guard), TapeHalt(tape), self.sink)
        limits = setup.gate_limits()
        self._controller = assemble(surroundings, ports, halt=halt, cell=cell, limits=limits, seed=setup.seed)

    def run(self) -> Replayed:
        """Run every task of the tape and compare.

        Raises:
            BadInputError: a call is not what a recorder writes.
        """
        result = Replayed()
        problem = _run_all(self._tape, self._controller, self.sink, result)
        recorded, replayed = self._tape.outputs, self.sink.outputs
        result.decisions = len(replayed)
        if problem or result.cut:  # what was decided later belongs to nothing
            recorded, replayed = recorded[: len(replayed)], replayed[: len(recorded)]
        result.differences = compare(recorded, replayed) + ([problem] if problem else [])
        return result


def _run_all(tape: Tape, controller: Controller, sink: taps.Sink, result: Replayed) -> str:
    """Run task after task; says why it ended early, "" where it did not or the bag is cut."""
    try:
        while (entry := tape.begin_task()) is not None:
            instruction = tape.parse(entry.document.get("answer"), InstructionForm).message()
            with contextlib.suppress(RobotError):  # it is an output, as it was when it was recorded
                taps.run(controller, instruction, sink)
            result.tasks += 1
    except DivergedError as diverged:
        return f"{diverged}; what follows was not compared"
    except TapeEndError as end:
        result.cut = tape.end()
        return "" if result.cut else str(end)
    except BadTapeError as error:
        raise BadInputError(str(error)) from error
    result.cut = tape.end()
    return ""


def _robot(setup: Setup, files: Files, path: Path) -> str:
    if files.robot is None and not _SHIPPED_ROBOT.fullmatch(setup.robot):
        raise BadInputError(f"{shown(path)}: recorded with the robot file {shown(setup.robot)}; give it with --robot")
    return files.robot or setup.robot


def _rules(setup: Setup, files: Files, path: Path) -> str:
    if files.rules is None and not _SHIPPED_RULES.fullmatch(setup.rules):
        raise BadInputError(f"{shown(path)}: recorded with the rules {shown(setup.rules)}; give them with --rules")
    return files.rules or setup.rules


def _write_film(path: Path, clips: list[tuple[film.Picture, list[film.Picture]]]) -> None:
    """Write the film (BadInputError: nothing was watched, so there is none)."""
    joined = film.join_clips([(rehearsed, np.array([_fit(rgb) for rgb in seen])) for rehearsed, seen in clips])
    if not len(joined[0]):
        raise BadInputError(f"{path}: no film: in this bag nothing moved while a camera watched")
    film.write_film(path, *joined, captions=("rehearsal (again)", "camera (recorded)"))


def _fit(rgb: film.Picture) -> film.Picture:
    """A camera's picture in the size of the film's."""
    size_px = (film.FILM_INTRINSICS.width_px, film.FILM_INTRINSICS.height_px)
    return np.asarray(Image.fromarray(rgb).resize(size_px))
