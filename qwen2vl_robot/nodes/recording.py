"""The node's parameters → a controller whose decisions are recorded, in a new file of the folder `record`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from qwen2vl_robot.assembly import Ports, assemble
from qwen2vl_robot.controller import Controller
from qwen2vl_robot.gate import GateLimits
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import Scene
from qwen2vl_robot.nodes.settings import Settings
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.planner.process import SHIPPED_MODEL
from qwen2vl_robot.recording.recorder import OnDiskError
from qwen2vl_robot.recording.session import Recording, Session, setup_of
from qwen2vl_robot.rules import load_rules

__all__ = ["Session", "believed", "close_recording", "make_controller"]

_log = logging.getLogger(__name__)


def make_controller(
    settings: Settings,
    surroundings: Surroundings,
    ports: Ports,
    limits: GateLimits,
    halt: Halt,
    stop: Callable[[str], object],
) -> Controller | Session:
    """Make the controller; with `record` a `Session`, which has to be closed.

    Args:
        stop: latches a stop and halts the arm.

    Raises:
        BadInputError: the cell's rules cannot be used, or the file cannot be made and `on_disk_error` is stop.
    """
    if not settings.record:
        cell = load_rules(settings.rules)
        return assemble(surroundings, ports, halt=halt, cell=cell, limits=limits, seed=settings.seed)
    file = Path(settings.record) / time.strftime("decisions_%Y%m%d_%H%M%S.mcap")
    model, rules = settings.model or SHIPPED_MODEL, settings.rules
    setup = setup_of(surroundings, settings.robot, model, seed=settings.seed, rules=rules, limits=limits)
    cameras = tuple(prefix.strip("/") for prefix in settings.cameras)
    setup = setup.model_copy(update={"cameras": cameras, "requires_check": settings.camera_check == "required"})
    return Session(Recording(file, OnDiskError(settings.on_disk_error)), setup, surroundings, ports, halt, stop)


def believed(controller: Controller | Session | None) -> Scene | None:
    """Return what the controller believes to be there; None before anything was measured."""
    flow = controller.controller if isinstance(controller, Session) else controller
    return None if flow is None else flow.foreign.believed


def close_recording(controller: Controller | Session | None) -> None:
    """Write the end of a recording, if there is one, and say what it holds."""
    if isinstance(controller, Session):
        controller.close()
        _log.info("%s", controller.said)
