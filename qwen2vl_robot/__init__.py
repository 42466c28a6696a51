"""Say it, see it, check it, then move: the pieces of the flow for your own code.

What is listed in `__all__` is public: it changes only with a line in the changelog. Each name is loaded when it is
first used, so that importing the package costs nothing. docs/library.md shows how the pieces fit together.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qwen2vl_robot.assembly import Ports, assemble
    from qwen2vl_robot.config import load_robot
    from qwen2vl_robot.controller import Controller
    from qwen2vl_robot.gate import Gate, GateLimits
    from qwen2vl_robot.halt import Halt
    from qwen2vl_robot.messages import (
        Approval,
        ApprovedMotion,
        CameraFrame,
        Instruction,
        Intrinsics,
        Motion,
        Observation,
        Outcome,
        Plan,
        Refusal,
        Rehearsed,
        RobotState,
        Scene,
        TaskReport,
        Verdict,
    )
    from qwen2vl_robot.motion.skills import MotionMaker
    from qwen2vl_robot.perception import Surroundings, perceive, remeasure
    from qwen2vl_robot.planner.process import PlannerProcess
    from qwen2vl_robot.validation.pool import RehearsalProcess, rehearse

_HOMES = {
    "assembly": ("Ports", "assemble"),
    "config": ("load_robot",),
    "controller": ("Controller",),
    "gate": ("Gate", "GateLimits"),
    "halt": ("Halt",),
    "messages": (
        *("Approval", "ApprovedMotion", "CameraFrame", "Instruction", "Intrinsics", "Motion", "Observation", "Outcome"),
        *("Plan", "Refusal", "Rehearsed", "RobotState", "Scene", "TaskReport", "Verdict"),
    ),
    "motion.skills": ("MotionMaker",),
    "perception": ("Surroundings", "perceive", "remeasure"),
    "planner.process": ("PlannerProcess",),
    "validation.pool": ("RehearsalProcess", "rehearse"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Approval",
    "ApprovedMotion",
    "CameraFrame",
    "Controller",
    "Gate",
    "GateLimits",
    "Halt",
    "Instruction",
    "Intrinsics",
    "Motion",
    "MotionMaker",
    "Observation",
    "Outcome",
    "Plan",
    "PlannerProcess",
    "Ports",
    "Refusal",
    "RehearsalProcess",
    "Rehearsed",
    "RobotState",
    "Scene",
    "Surroundings",
    "TaskReport",
    "Verdict",
    "__version__",
    "assemble",
    "load_robot",
    "perceive",
    "rehearse",
    "remeasure",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())  # who wants the log says so: log.start_logging


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public: {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
