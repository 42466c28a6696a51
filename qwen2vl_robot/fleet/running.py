"""A job, a place and a file of earlier results → all its results, each unit once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from qwen2vl_robot.fleet.cluster import OnRay
from qwen2vl_robot.fleet.here import Here
from qwen2vl_robot.fleet.jobs import Job, Place, Result
from qwen2vl_robot.fleet.journal import Journal, open_journal


def place(ray: str | None, processes: int) -> Place:
    """Where `--ray` and `--processes` say that units are worked on."""
    return Here(processes) if ray is None else OnRay(ray)


def run_job(
    job: Job, where: Place, kept: Path | None = None, is_good: Callable[[Result], bool] = lambda _: True
) -> Iterator[Result]:
    """Yield the results that are known, in the units' order, then the others as they come.

    Args:
        kept: a file of results; what is in it is not done again, and each new result goes to it first.
        is_good: whether a result from the file still holds; where not, its unit is done again.

    Raises:
        BadInputError: the file is of another run.
        RobotError: a unit failed, or the place or the disk is gone; what is in the file stays good.
    """
    with contextlib.ExitStack() as stack:
        journal: Journal | None = stack.enter_context(open_journal(kept, job)) if kept is not None else None
        if journal is not None:
            journal.keep(is_good)
        done = dict(journal.known) if journal is not None else {}
        yield from (done[unit.key] for unit in job.units if unit.key in done)
        todo = [unit for unit in job.units if unit.key not in done]
        if not todo:
            return
        with contextlib.closing(where.run(job, todo)) as results:  # type: ignore[type-var]
            for key, result in results:
                if key in done:
                    continue  # two machines may both answer where one was taken for dead
                if journal is not None:
                    journal.add(key, result)
                done[key] = result
                yield result
