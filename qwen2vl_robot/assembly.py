"""Ports → a controller: the one place where a `Controller` is put together, for demo, eval, the node and tests."""

from __future__ import annotations

from dataclasses import dataclass

from qwen2vl_robot.approval import Unattended
from qwen2vl_robot.camera_guard import CameraGuard
from qwen2vl_robot.controller import Controller
from qwen2vl_robot.gate import Gate, GateLimits
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.parts import Parts
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.planner.checking import Checking
from qwen2vl_robot.ports import Approver, Arm, Camera, Clock, Listener, Planner, Rehearsal
from qwen2vl_robot.rules import RuleBook, load_rules


@dataclass(frozen=True, slots=True)
class Ports:
    """What a controller is connected to.

    Attributes:
        approver: who lets a rehearsed step go; left out, whatever needs no person goes, and nothing else.
        listeners: are called with every observation, plan and step.
        guard: checks the cameras in every frame; left out, one that lets an unchecked camera pass.
    """

    camera: Camera
    arm: Arm
    clock: Clock
    planner: Planner
    rehearsal: Rehearsal
    approver: Approver | None = None
    listeners: tuple[Listener, ...] = ()
    guard: CameraGuard | None = None


def assemble(
    surroundings: Surroundings,
    ports: Ports,
    *,
    halt: Halt | None = None,
    cell: RuleBook | None = None,
    limits: GateLimits | None = None,
    seed: int = 0,
    gate: Gate | None = None,
) -> Controller:
    """Build a controller whose gate knows the zones of its cell's rules.

    Args:
        surroundings: of the robot, as `Surroundings.of` loads them.
        halt: what stops and cancels it; to be given wherever anybody is to be able to stop it.
        cell: the cell's rules, else those of sim/rules/default.yaml.
        limits: how old what the gate sees may be.
        seed: of the motions' draws.
        gate: another gate than the one for this robot and cell.
    """
    guard = ports.guard or CameraGuard(surroundings)
    halt, cell = halt or Halt(), cell or load_rules()
    parts = Parts(
        camera=ports.camera,
        arm=ports.arm,
        clock=ports.clock,
        planner=Checking(ports.planner),
        rehearsal=ports.rehearsal,
        approver=ports.approver or Unattended(halt),
        gate=gate or Gate(surroundings.profile, cell.zones, limits, guard),
        guard=guard,
        halt=halt,
        surroundings=surroundings,
        cell=cell,
        listeners=ports.listeners,
    )
    return Controller(parts, seed=seed)
