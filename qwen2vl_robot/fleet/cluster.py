"""Units → results on a Ray cluster, by a process that speaks with it.

Ray ends the process that speaks with a cluster whose head is gone, wherever it is. So that process is a child, and its
end is one clear error here.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qwen2vl_robot.bounds import NAME_CHARS, shown
from qwen2vl_robot.errors import BadInputError, RobotError, WorkerError
from qwen2vl_robot.fleet.jobs import Job, Result, Unit
from qwen2vl_robot.process import Worker
from qwen2vl_robot.reasons import WorkerReason

_CONNECT_S = 120.0
_KNOCK_S = 5.0
_WAIT_S = 2.0  # how long the child waits for a result before it answers that there is none
_ANSWER_S = 90.0  # of the child itself, when the head does not answer


@dataclass(frozen=True, slots=True)
class OnRay:
    """A cluster that runs already.

    Attributes:
        address: "auto" for the one that this machine belongs to, or its head's HOST:PORT.
    """

    address: str

    def __post_init__(self) -> None:
        if self.address != "auto" and not re.fullmatch(rf"[\w.\-\[\]:]{{1,{NAME_CHARS}}}:\d{{1,5}}", self.address):
            raise BadInputError(f"--ray {shown(self.address)}: auto or HOST:PORT is needed")

    def run(self, job: Job, units: Sequence[Unit]) -> Iterator[tuple[str, Result]]:
        """See `Place.run`.

        Raises:
            BadInputError: Ray is not installed, no cluster answers, or a node has other versions.
        """
        self._knock()
        left = len(units)
        with Worker("qwen2vl_robot.fleet.ray_driver:Driver", self.address, job.without_units()) as driver:
            try:
                driver.start(_CONNECT_S)
                driver.call("put", tuple(units), timeout_s=_ANSWER_S)
                while left:
                    for found in driver.call("wait", _WAIT_S, timeout_s=_WAIT_S + _ANSWER_S):
                        left -= 1
                        yield found
            except WorkerError as error:
                if error.reason is WorkerReason.RAISED:
                    raise
                text = f"--ray {self.address}: the cluster no longer answers, {left} units are left"
                raise RobotError(f"{text}; start it and give the same command again") from error

    def _knock(self) -> None:
        """Refuse an address where nobody listens at once; Ray alone would try for minutes.

        Raises:
            BadInputError: nobody listens there.
        """
        host, _, port = self.address.rpartition(":")
        if not host:
            return
        try:
            socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S).close()
        except (OSError, OverflowError) as error:
            raise BadInputError(
                f"--ray {self.address}: no cluster listens there: {error}; docs/scale.md says how one is started"
            ) from error
