"""Many tries at one action → the motions of those that work, the best first, or why none does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice

from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.messages import Motion
from qwen2vl_robot.motion.path import BlockedError, plan, straight
from qwen2vl_robot.motion.timeline import Way
from qwen2vl_robot.reasons import MotionReason

Try = Callable[[Way], Motion]

CLEARANCES_M = (0.012, 0.006, 0.0)  # from neighbours, wide first: measured places are wrong by some millimetres
_MOST_TRIES = 48  # grasps or releases looked at with each clearance
_MOST_SEARCHES = 3  # of those with a blocked way and no clearance, how many are worth a search around


def each(tries: Callable[[float], Iterable[Try]], clearances_m: tuple[float, ...], seed: int) -> Iterator[Motion]:
    """The tries that work straight, the widest clearance first; then those that work around obstacles.

    Args:
        tries: gives the tries that keep a clearance from neighbours; the same ones for each clearance.
        clearances_m: to keep, one after the other.

    Raises:
        MotionError: none works; the most frequent reason, with one of its texts.
    """
    failures: list[MotionError] = []
    worth_a_search: list[tuple[int, Try]] = []
    done: set[int] = set()
    for clearance_m in clearances_m:
        blocked: list[tuple[int, Try]] = []
        for index, attempt in enumerate(islice(tries(clearance_m), _MOST_TRIES)):
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
    """One error for many tries: the most frequent reason, the first text that gave it."""
    if not failures:
        return MotionError("there was nothing to try", reason=MotionReason.NO_PATH)
    reason, _ = Counter(failure.reason for failure in failures).most_common(1)[0]
    first = next(failure for failure in failures if failure.reason == reason)
    return MotionError(f"{first} ({len(failures)} ways tried)", reason=reason)
