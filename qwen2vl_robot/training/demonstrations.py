"""Bags of decisions → shards of what was asked, with the plans that led to achieved tasks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.bounds import shown
from qwen2vl_robot.errors import BadInputError, ObservationError, PlannerError
from qwen2vl_robot.messages import Where
from qwen2vl_robot.planner.reply import format_reply, parse_reply
from qwen2vl_robot.recording.tape import BadTapeError, Tape
from qwen2vl_robot.recording.taps import OUTCOME, PLAN, TASK
from qwen2vl_robot.results import check_new
from qwen2vl_robot.training.shards import Demonstration, shard_name, write_demonstrations, write_manifest

SHARD = 256  # samples
Shown = tuple[npt.NDArray[np.uint8], Demonstration]


def export_demonstrations(bags: Sequence[Path], out: Path) -> int:
    """Write the plans of achieved tasks into a new folder of shards; returns how many.

    Raises:
        BadInputError: a bag cannot be used, none holds such a plan, or the folder is not empty.
        UnsavedError: the disk is full.
    """
    check_new(out)
    numbered = ((n, *found) for n, found in enumerate(found for bag in bags for found in read_demonstrations(bag)))
    entries = []
    while some := list(itertools.islice(numbered, SHARD)):
        entries.append(write_demonstrations(out / shard_name(some[0][0]), some))
    if not entries:
        raise BadInputError("no task in these bags was achieved by a plan of a model")
    return int(write_manifest(out, {"bags": len(bags)}, entries)["samples"])


def read_demonstrations(bag: Path) -> Iterator[Shown]:
    """Yield the last plan of each achieved task: earlier ones failed, or were only begun.

    Raises:
        BadInputError: not a bag of decisions, or a broken one.
    """
    tape = Tape(bag)
    frames: dict[int, npt.NDArray[np.uint8]] = {}
    seen = 0
    try:
        while (name := tape.next_name()) is not None:
            if name == TASK:
                yield from _demonstration(tape.outputs[seen:], frames, bag)
                frames, seen = {}, len(tape.outputs)
            _take(tape, name, frames)
    except BadTapeError as error:
        raise BadInputError(str(error)) from error
    yield from _demonstration(tape.outputs[seen:], frames, bag)


def _take(tape: Tape, name: str, frames: dict[int, npt.NDArray[np.uint8]]) -> None:
    """Read one call; only looks are kept, for no plan is made from what was seen while the arm moved."""
    if name != "camera.capture":
        tape.take(name)
        return
    try:
        frame = tape.frame(name)
    except ObservationError:
        return
    if frame is not None:
        frames[frame.stamp_ns] = frame.rgb


def _demonstration(
    outputs: list[dict[str, Any]], frames: dict[int, npt.NDArray[np.uint8]], bag: Path
) -> Iterator[Shown]:
    plans = [entry for entry in outputs if entry.get("call") == PLAN and isinstance(entry.get("answer"), dict)]
    ends = [entry["answer"] for entry in outputs if entry.get("call") == OUTCOME and entry.get("answer")]
    try:
        if not plans or not ends or ends[-1]["outcome"]["kind"] != "achieved":
            return
        said, plan = plans[-1]["instruction"], plans[-1]["answer"]
        rgb = frames.get(plans[-1]["frame_ns"])
        if rgb is None or any(a["verb"] == "show" or a["spot"] for a in plan["actions"]):
            return
        reply = _reply(plan)
        parse_reply(reply)
    except (KeyError, TypeError, ValueError, PlannerError) as error:
        raise BadInputError(f"{shown(bag)}: a plan in it cannot be read: {shown(error)}") from error
    failures = tuple(str(line) for line in plans[-1]["failures"])
    yield rgb, Demonstration(said["text"], tuple(said["plainly"]), said["is_begun"], failures, reply)


def _reply(plan: dict[str, Any]) -> str:
    """A plan as JSON of a bag → the reply that says it, boxes in 0..1000."""
    objects = [
        (
            str(thing["label"]),
            [tuple(round(float(box[side])) for side in ("x0", "y0", "x1", "y1")) for box in thing["boxes"]],
            Where(thing["where"]["kind"], thing["where"]["reference"]) if thing["where"] else None,
        )
        for thing in plan["objects"]
    ]
    actions = []
    for action in plan["actions"]:
        said: dict[str, object] = {"do": action["verb"]}
        if action["object"] is not None:
            said["object"] = plan["objects"].index(action["object"])
        said |= {key: action[key] for key in ("relation", "direction", "seconds", "text") if action[key] is not None}
        actions.append(said)
    return format_reply(objects, actions)  # type: ignore[arg-type]
