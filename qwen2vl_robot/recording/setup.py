"""What a controller was made of → the first call of a bag, and the same controller for a replay."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from qwen2vl_robot.bounds import CONFIG_BYTES, NAME_CHARS, PICTURES, YAML_BYTES
from qwen2vl_robot.config import Strict
from qwen2vl_robot.documents import read_file
from qwen2vl_robot.gate import GateLimits
from qwen2vl_robot.planner.sources import read_settings
from qwen2vl_robot.recording.taps import SETUP, Call
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.sides import SeenFrom

FORMAT: Literal[2] = 2  # of the calls; a reader refuses another one
_Name = Annotated[str, Field(max_length=NAME_CHARS)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")]
_Seconds = Annotated[float, Field(gt=0.0, le=3600.0)]
_ENDS_BYTES = 1 << 20


class Setup(Strict):
    """What decides beside the calls of a bag: files by their digests, draws by their seed, limits.

    Attributes:
        robot, rules, model: as they were given, with the digests of what was loaded.
        seen_from: whose left and right counted.
        limits: the gate's, in the order of `GateLimits`.
    """

    format: Literal[2] = FORMAT
    robot: _Name
    robot_digest: _Digest
    rules: _Name = "rules/default.yaml"
    rules_digest: _Digest = ""
    model: _Name
    model_digest: _Digest = ""
    seen_from: SeenFrom
    seed: Annotated[int, Field(ge=0)] = 0
    cameras: Annotated[tuple[_Name, ...], Field(max_length=PICTURES)] = ()
    requires_check: bool = False
    limits: tuple[_Seconds, _Seconds, _Seconds, _Seconds]

    def call(self) -> Call:
        """The setup as the first call of a bag."""
        return Call(SETUP, asked={"setup": self.model_dump(mode="json")})

    def gate_limits(self) -> GateLimits:
        """How old the gate's inputs may be."""
        return GateLimits(*self.limits)


def limits_of(limits: GateLimits) -> tuple[float, float, float, float]:
    """The gate's limits in their order."""
    return limits.lifetime_s, limits.max_state_age_s, limits.max_verdict_age_s, limits.max_frame_age_s


def rules_digest(rules: str) -> str:
    """SHA-256 of a cell's rules.

    Raises:
        BadInputError: no such file.
    """
    return hashlib.sha256(read_file(resolve(rules), YAML_BYTES)).hexdigest()


def model_digest(model: str) -> str:
    """SHA-256 over the names, sizes and contents of a checkpoint folder; of weights the first and last megabyte.

    "" for a model that is no folder: nobody knows what a server's name stands for.
    """
    folder = Path(read_settings(model).model)
    if not folder.is_dir():
        return ""
    sha = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        size = file.stat().st_size
        sha.update(f"{file.name}:{size};".encode())
        if size <= CONFIG_BYTES:
            sha.update(read_file(file, CONFIG_BYTES))
            continue
        with file.open("rb") as opened:
            sha.update(opened.read(_ENDS_BYTES))
            opened.seek(-_ENDS_BYTES, 2)
            sha.update(opened.read(_ENDS_BYTES))
    return sha.hexdigest()
