"""Every kind of ending: those that are a success, and those that only look like one."""

from __future__ import annotations

from collections.abc import Callable

from qwen2vl_robot.benchmarks.endings import holds, others, releases
from qwen2vl_robot.benchmarks.endings.promises import Ending
from qwen2vl_robot.benchmarks.endings.table import Table

Maker = Callable[[Table], Ending | None]

SUCCESSES: tuple[Maker, ...] = (
    holds.held,
    holds.held_beside_copy,
    releases.placed,
    releases.placed_beside_copy,
    others.pushed,
    others.homed,
    others.waited,
)
FAILURES: tuple[Maker, ...] = (
    holds.held_other,
    holds.held_copy,
    holds.swapped,
    holds.toppled_open,
    holds.missed,
    holds.dropped,
    holds.held_knocked,
    holds.held_tipped,
    releases.placed_beside,
    releases.placed_knocked,
    releases.placed_copy,
    releases.placed_new_copy,
    releases.placed_slid,
    releases.still_held,
    releases.toppled,
    releases.rolling,
    others.pushed_short,
    others.pushed_knocked,
    others.homed_short,
    others.homed_echo,
    others.homed_unseen_echo,
    others.homed_knocked,
    others.waited_moved,
    others.waited_gone,
)
