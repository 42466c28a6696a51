"""A DIRECT connection to Bullet, its clock and bodies' names; only this imports pybullet.

The other modules of the folder import pybullet from here. Bullet silently accepts wrong ids and NaN poses (and reports
no contact), so our code checks names and numbers first.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

import numpy as np


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Discard the output of Bullet's C code: its greeting, and warnings that an error repeats."""
    kept, nowhere = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    for fd in (1, 2):
        os.dup2(nowhere, fd)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # discard what C has buffered, too
        for fd, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, fd)
            os.close(copy)
        os.close(nowhere)


with silence():
    import pybullet as pybullet

TABLE = "table"
TIME_STEP_S = 1.0 / 240.0
_LIBC = ctypes.CDLL(None)


class Client:
    """The state that the parts of one world share.

    Attributes:
        id: Bullet's id of the connection; -1 after `close`.
        steps: time steps since the last reset.
        bodies: Bullet's id of each named body, without the robot.
        names: name of each (body, link); link -1 is the body itself or the robot's base.
    """

    def __init__(self) -> None:
        self.id: int = pybullet.connect(pybullet.DIRECT)
        if self.id < 0:
            raise RuntimeError("pybullet gave no DIRECT client")
        self.steps = 0
        self.bodies: dict[str, int] = {}
        self.names: dict[tuple[int, int], str] = {}
        self.reset()

    def reset(self) -> None:
        """Remove everything and start at time zero."""
        pybullet.resetSimulation(physicsClientId=self.id)
        if hasattr(_LIBC, "malloc_trim"):
            # Otherwise freed memory stays with this process, in holes too small for the next robot.
            _LIBC.malloc_trim(0)
        self.set_gravity()
        pybullet.setTimeStep(TIME_STEP_S, physicsClientId=self.id)
        pybullet.setPhysicsEngineParameter(
            numSolverIterations=80, deterministicOverlappingPairs=1, physicsClientId=self.id
        )
        self.steps = 0
        self.bodies.clear()
        self.names.clear()

    def close(self) -> None:
        """Disconnect; the client cannot be used afterwards."""
        if self.id >= 0:
            pybullet.disconnect(physicsClientId=self.id)
            self.id = -1

    def step(self, count: int = 1) -> None:
        """Advance the physics by `count` time steps."""
        for _ in range(count):
            pybullet.stepSimulation(physicsClientId=self.id)
        self.steps += count

    def set_gravity(self, mps2: float = 9.81) -> None:
        """Set the downward gravity from the next step on; 0 turns it off."""
        if not np.isfinite(mps2):
            raise ValueError(f"gravity {mps2} must be finite")
        pybullet.setGravity(0.0, 0.0, -mps2, physicsClientId=self.id)

    def body(self, name: str) -> int:
        """Look up Bullet's id of a named body.

        Raises:
            KeyError: no body has this name.
        """
        if name not in self.bodies:
            raise KeyError(f"no body {name!r}; there are {sorted(self.bodies)}")
        return self.bodies[name]
