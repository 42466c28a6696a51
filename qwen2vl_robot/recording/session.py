"""A controller whose every decision goes into a bag, for demo and node alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from qwen2vl_robot.assembly import Ports, assemble
from qwen2vl_robot.gate import GateLimits
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import Instruction, TaskReport
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.recording import taps
from qwen2vl_robot.recording.recorder import OnDiskError, Recorder
from qwen2vl_robot.recording.setup import Setup, limits_of, model_digest, rules_digest
from qwen2vl_robot.rules import load_rules

_DEFAULT_RULES = "rules/default.yaml"


@dataclass(frozen=True, slots=True)
class Recording:
    """Where decisions are recorded, and what follows when that fails."""

    file: Path
    on_disk_error: OnDiskError = OnDiskError.STOP


def setup_of(
    surroundings: Surroundings,
    robot: str,
    model: str,
    *,
    seed: int,
    rules: str = _DEFAULT_RULES,
    limits: GateLimits | None = None,
) -> Setup:
    """What a controller is made of, with the digests of what was loaded (BadInputError: a file is missing)."""
    return Setup(
        robot=robot,
        robot_digest=surroundings.profile.digest,
        rules=rules,
        rules_digest=rules_digest(rules),
        model=model,
        model_digest=model_digest(model),
        seen_from=surroundings.rules.seen_from,
        seed=seed,
        limits=limits_of(limits or GateLimits()),
    )


class Session:
    """A recorded controller from its making to its end; a context manager.

    Args:
        on_broken: is told, on a thread of the recorder, that a recording which has to go on cannot.

    Attributes:
        said: what the bag holds, once it is closed.

    Raises:
        BadInputError: the file exists, or cannot be made and the recording is required.
    """

    def __init__(
        self,
        recording: Recording,
        setup: Setup,
        surroundings: Surroundings,
        ports: Ports,
        halt: Halt,
        on_broken: Callable[[str], object],
    ) -> None:
        names = tuple(joint.name for joint in surroundings.profile.joints)
        self._recorder = Recorder(
            recording.file, on_disk_error=recording.on_disk_error, joint_names=names, on_broken=on_broken
        )
        self.said = ""
        self._recorder(setup.call())
        tapped, view = taps.tap(ports, halt, self._recorder)
        rules, limits = load_rules(setup.rules), setup.gate_limits()
        self.controller = assemble(surroundings, tapped, halt=view, cell=rules, limits=limits, seed=setup.seed)

    def run(self, instruction: Instruction) -> TaskReport:
        """Carry out an instruction (see `Controller.run`)."""
        return taps.run(self.controller, instruction, self._recorder)

    def close(self) -> None:
        """Write the end of the bag."""
        self.said = self._recorder.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()
