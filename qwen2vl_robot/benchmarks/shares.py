"""True or false results → their share with a 95 % interval, for every benchmark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from qwen2vl_robot.messages import OutcomeKind

Row = dict[str, Any]


def share(values: Sequence[bool]) -> dict[str, Any]:
    """Compute the share of true values, with its 95 % interval."""
    return {"ratio": round(sum(values) / len(values), 4), "interval_95": wilson_interval(sum(values), len(values))}


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Compute the 95 % interval of a share (Wilson's score interval).

    >>> wilson_interval(50, 50)
    (0.9287, 1.0)
    """
    z = 1.959964
    p, n = successes / trials, trials
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * ((p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5) / (1 + z * z / n)
    return (round(max(0.0, centre - half), 4), round(min(1.0, centre + half), 4))


def is_false_success(result: dict[str, Any]) -> bool:
    """Whether a whole task was called achieved by the robot and was not, by the plant's truth."""
    return result["outcome"] == OutcomeKind.ACHIEVED.value and not result["success"]


def judged_by(
    results: Sequence[dict[str, Any]], what: str
) -> Iterator[tuple[str, list[dict[str, Any]], dict[str, Any]]]:
    """Yield each value of a field of judged sentences, the results that have it, and what is counted of them."""
    for name in dict.fromkeys(r[what] for r in results):
        chosen = [r for r in results if r[what] == name]
        yield (
            name,
            chosen,
            {
                "cases": len(chosen),
                "wrong_motion": sum(r["wrong_motion"] for r in chosen),
                "right": share([r["right"] for r in chosen]),
                "ended": dict(Counter(r["ended"] for r in chosen)),
            },
        )
