"""What is to be done many times: an object that is served in a process, and the units that it is given.

A unit's result depends on the unit and on `Job.about` alone, never on the units before it. So the order, the number of
processes and the machines change nothing but times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of work.

    Attributes:
        key: its name, unique within the job.
        args: what the served method is called with; they can be pickled.
    """

    key: str
    args: tuple[object, ...]


def units_of_seeds(seed: int, count: int) -> tuple[Unit, ...]:
    """A unit for each of the seeds seed, seed + 1, ..., which is its name and its only argument."""
    return tuple(Unit(str(own), (own,)) for own in range(seed, seed + count))


@dataclass(frozen=True, slots=True)
class Job:
    """The served object, its method and all units.

    Attributes:
        name: how messages call it.
        factory, args: "module:callable" and its arguments; they make the served object in a process of its own.
        method: takes a unit's arguments and returns a JSON object.
        about: what the results depend on beside the units, as JSON; results of another one are never mixed in.
        timeout_s: how long one unit may take.
        cores: how many cores one served object keeps busy.
    """

    name: str
    factory: str
    args: tuple[object, ...]
    method: str
    units: tuple[Unit, ...]
    about: Mapping[str, object]
    timeout_s: float = 3600.0
    cores: int = 1

    def without_units(self) -> Job:
        """The same with no units, for who gets them one by one."""
        return replace(self, units=())


class Place(Protocol):
    """Where units are worked on."""

    def run(self, job: Job, units: Sequence[Unit]) -> Iterator[tuple[str, Result]]:
        """Yield the key and the result of each unit once, as they come.

        Raises:
            RobotError: a unit failed, or the place is gone; what was yielded before stays good.
        """
        ...
