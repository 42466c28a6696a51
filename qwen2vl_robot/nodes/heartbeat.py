"""What controller and supervisor tell each other fifty times a second, and when one of them counts as silent.

A heartbeat has no time stamp: the receiver counts from its arrival on its own monotonic clock, so neither /clock nor
another machine's time is trusted.
"""

from __future__ import annotations

import time
from typing import Annotated, TypeVar

from pydantic import Field

from qwen2vl_robot.bounds import NAME_CHARS
from qwen2vl_robot.config import Strict, parse
from qwen2vl_robot.documents import parse_json
from qwen2vl_robot.graph import interface

PERIOD_S = 0.02
GOODBYES = 3  # heartbeats are not reliable, and the last one must arrive
REASON_CHARS = 300
_LOOKS = 2  # in a row: a process that got no core must first let its reading thread take what has come

_Name = Annotated[str, Field(max_length=NAME_CHARS)]
_Reason = Annotated[str, Field(max_length=REASON_CHARS)]


class ControllerBeat(Strict):
    """A controller's heartbeat.

    Attributes:
        instance: random, one for each start.
        is_moving: whether a motion of its is under way.
        stopped_by: why its stop is latched, None when none is.
        released: the stops of `supervisor` up to this number were released by ~/reset.
        is_leaving: it ends, or is unloaded, with the arm halted.
    """

    instance: _Name
    is_moving: bool = False
    stopped_by: _Reason | None = None
    supervisor: _Name = ""
    released: int = 0
    is_leaving: bool = False


class SupervisorBeat(Strict):
    """A supervisor's heartbeat.

    Attributes:
        instance: random, one for each start.
        robot: digest of its robot file.
        hears: the instance of the controller that it hears now, "" while it hears none.
        can_halt: whether it reaches the arm's controllers.
        stops: the number of its latest stop.
        stopped_by: why its stop is latched, None when none is.
        is_leaving: it ends.
    """

    instance: _Name
    robot: _Name
    hears: _Name = ""
    can_halt: bool = False
    stops: int = 0
    stopped_by: _Reason | None = None
    is_leaving: bool = False


Beat = TypeVar("Beat", ControllerBeat, SupervisorBeat)


def read_beat(message: interface.Message, model: type[Beat]) -> Beat:
    """Read a heartbeat.

    Raises:
        BadInputError: it is none; a foreign node publishes there.
    """
    return parse(parse_json(message.data, "heartbeat"), model, "heartbeat")


class Pulse:
    """When the other side was heard last; one thread looks, another one hears."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._heard_s = -float("inf")
        self._late_looks = 0

    def hear(self) -> None:
        """Note a heartbeat."""
        self._heard_s, self._late_looks = time.monotonic(), 0

    def look(self) -> None:
        """Look whether a heartbeat is missing; called every `PERIOD_S`."""
        self._late_looks = self._late_looks + 1 if self.silence_s > self._limit_s else 0

    @property
    def silence_s(self) -> float:
        """How long nothing was heard, infinite before the first heartbeat."""
        return time.monotonic() - self._heard_s

    @property
    def is_silent(self) -> bool:
        """Whether the other side counts as silent, by the latest looks."""
        return self._late_looks >= _LOOKS or self._heard_s == -float("inf")
