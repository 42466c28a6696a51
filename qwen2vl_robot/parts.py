"""Everything a controller works with, in one frozen value; `assembly.assemble` puts it together."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qwen2vl_robot.camera_guard import CameraGuard
from qwen2vl_robot.gate import Gate
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.perception.links import link_boxes
from qwen2vl_robot.ports import Approver, Arm, Camera, Clock, Listener, Planner, Rehearsal
from qwen2vl_robot.rules import RuleBook
from qwen2vl_robot.validation.outlook import Outlook
from qwen2vl_robot.validation.unseen import Known


@dataclass(frozen=True, slots=True)
class Parts:
    """The ports, and what was loaded from files or made for this robot and cell."""

    camera: Camera
    arm: Arm
    clock: Clock
    planner: Planner
    rehearsal: Rehearsal
    approver: Approver
    gate: Gate
    guard: CameraGuard
    halt: Halt
    surroundings: Surroundings
    cell: RuleBook
    listeners: tuple[Listener, ...] = ()

    def enclosed(self, outlook: Outlook, targets: tuple[str | None, ...]) -> Outlook:
        """The world with what the cell restricts and what nobody has seen; fingers may go close around the targets."""
        around = self.surroundings
        known = Known(self.cell.free_m, link_boxes(outlook.start, around.kinematics))
        restricted = replace(outlook, scene=self.cell.restrict(outlook.scene))
        return restricted.with_unseen(targets, around.profile, known)
