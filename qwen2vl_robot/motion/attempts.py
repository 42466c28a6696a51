"""Many attempts at one action → the motions of those that work, best first, or the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice

from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.messages import Motion
from qwen2vl_robot.motion.path import BlockedError, plan, straight
from qwen2vl_robot.motion.timeline import PathFinder
from qwen2vl_robot.reasons import MotionReason

Attempt = Callable[[PathFinder], Motion]

CLEARANCES_M = (0.012, 0.006, 0.0)  # from neighbours, wide first: measured poses are wrong by some millimetres
_MOST_ATTEMPTS = 48  # grasps or releases tried with each clearance
_MOST_SEARCHES = 3  # blocked attempts without clearance that deserve a search


def each(
    attempts: Callable[[float], Iterable[Attempt]], clearances_m: tuple[float, ...], seed: int
) -> Iterator[Motion]:
    """Yield the motions whose straight paths are free, widest clearance first; then those found by a search.

    Args:
        attempts: returns the attempts that keep a given clearance from neighbours, always the same ones in one order.
        clearances_m: clearances to keep, one after the other.
        seed: of the searches for a path around obstacles.

    Raises:
        MotionError: no attempt works; it has the most frequent reason and the first message with that reason.
    """
    failures: list[MotionError] = []
    worth_a_search: list[tuple[int, Attempt]] = []
    done: set[int] = set()
    for clearance_m in clearances_m:
        blocked: list[tuple[int, Attempt]] = []
        for index, attempt in enumerate(islice(attempts(clearance_m), _MOST_ATTEMPTS)):
            if index in done:
                continue
            try:
                motion = attempt(straight)
            except BlockedError as error:
                blocked.append((index, attempt))
                failures.append(error)
            except MotionError as error:
                failures.append(error)
            else:
                done.add(index)
                yield motion
        worth_a_search += blocked[: 1 if clearance_m else _MOST_SEARCHES]
    for index, attempt in worth_a_search:
        if index in done:
            continue
        try:
            motion = attempt(partial(plan, seed=seed))
        except MotionError as error:
            failures.insert(0, error)
        else:
            done.add(index)
            yield motion
    if not done:
        raise _sum_up(failures)


def _sum_up(failures: list[MotionError]) -> MotionError:
    """Combine the errors of many attempts: the most frequent reason and the first message with it."""
    if not failures:
        return MotionError("there is nothing to try", reason=MotionReason.NO_PATH)
    reason, _ = Counter(failure.reason for failure in failures).most_common(1)[0]
    first = next(failure for failure in failures if failure.reason == reason)
    return MotionError(f"{first} ({len(failures)} attempts)", reason=reason)
