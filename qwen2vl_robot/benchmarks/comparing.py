"""Two result files of one benchmark → for each measure, whether they differ by more than chance, and which is better.

What both files tried (same seed, same case) is compared pair by pair; what only one of them tried cannot be, so files
of other seeds are compared by their counts. All tests are exact, and Holm's method allows for their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import exp, lgamma, log
from pathlib import Path
from statistics import median
from typing import Any

from qwen2vl_robot.benchmarks.shares import is_false_success, wilson_interval
from qwen2vl_robot.bounds import shown
from qwen2vl_robot.documents import parse_json, read_text
from qwen2vl_robot.errors import BadInputError

ALPHA = 0.05  # the chance that any measure of two equal files is called different
RESULT_BYTES = 64_000_000
_PROGRAM_WORDS = 1
_PASSES_MM = 6  # a camera that is off by no more than this is to pass
_MOST = 1_000_000  # of what is counted; the tests sum over all counts
_LOG_2 = log(2.0)
_ROUNDING = 1e-7  # by which equal chances may differ

Key = tuple[str, ...]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Measure:
    """What one benchmark counts.

    Attributes:
        of: whether it holds in a row; None where it does not apply to that row.
        is_danger: one more is a regression, whatever chance says.
    """

    name: str
    of: Callable[[Row], bool | None]
    higher_is_better: bool
    is_danger: bool = False


@dataclass(frozen=True, slots=True)
class Count:
    """What is counted in `totals` alone: so many of so many."""

    name: str
    part: str
    whole: str
    higher_is_better: bool
    is_danger: bool = False


@dataclass(frozen=True, slots=True)
class Compared:
    """One measure in both files.

    Attributes:
        before, after: (how many, of how many); of times: (median in s, rows).
        p_value: of the exact test; corrected for the number of tests once all are there.
        verdict: "better", "worse" or "as before".
    """

    name: str
    before: tuple[float, int]
    after: tuple[float, int]
    test: str
    p_value: float
    verdict: str = "as before"

    @property
    def is_time(self) -> bool:
        return self.test == "sign"

    def interval_95(self, which: tuple[float, int]) -> tuple[float, float]:
        return wilson_interval(int(which[0]), which[1])


def _said(field: str) -> Callable[[Row], bool | None]:
    return lambda row: None if row.get(field) is None else bool(row[field])


def _found(row: Row) -> bool | None:
    return all(iou >= 0.5 for iou in row["iou"]) if row.get("iou") else None


def _is_right_verdict(row: Row) -> bool:
    return bool(row["verdict"] == ("passes" if row["off_mm"] <= _PASSES_MM else "refuses"))


_EPISODES = (
    Measure("success", _said("success"), True),
    Measure("false success", is_false_success, False, is_danger=True),
    Measure("first plan right", _said("first_plan_right"), True),
)
_SENTENCES = (
    Measure("as meant", _said("right"), True),
    Measure("wrong motion", _said("wrong_motion"), False, is_danger=True),
)
# Suite, or command, → the fields that name a row, and what is counted in it.
_ROWS: dict[str, tuple[tuple[str, ...], tuple[Measure, ...]]] = {
    "tabletop": (("seed",), _EPISODES),
    "references": (("seed",), _EPISODES),
    **dict.fromkeys(("things", "long"), (("seed",), _EPISODES[:2])),
    "grounding": (
        ("family", "seed"),
        (Measure("verbs right", _said("verbs_right"), True), Measure("found", _found, True)),
    ),
    "languages": (("language", "phrasing", "seed", "instruction"), (Measure("same plan", _said("same"), True),)),
    "words": (("language", "kind", "seed"), _SENTENCES),
    "phrases": (("language", "scene", "instruction"), _SENTENCES),
    "bench camera": (
        ("seed",),
        (Measure("false alarms", _said("is_off"), False), Measure("checked", _said("is_checked"), True)),
    ),
    "bench camera --live": (("seed", "off_mm"), (Measure("right verdicts", _is_right_verdict, True),)),
    "bench planner": (("seed",), (Measure("same reply", _said("is_same"), True),)),
    "bench latency": (("busy", "seed"), (Measure("moved", lambda row: "first_motion" in row["seconds"], True),)),
    "bench kills": (("key",), (Measure("halted", lambda row: row["ended"] == "halted", True),)),
    "bench controllers": (("case",), (Measure("differs from the real one", _said("differ"), False),)),
}
_COUNTS: dict[str, tuple[Count, ...]] = {
    "bench hazards": (
        Count("hazards accepted", "hazardous_accepted", "hazardous", False, is_danger=True),
        Count("safe refused", "safe_refused", "safe", False),
    ),
    "bench judge": (
        Count("false success", "false_success", "no_success", False, is_danger=True),
        Count("not verified", "not_verified", "success", False),
    ),
    "bench degradation": (
        Count("right causes", "right", "stopped", True),
        Count("false alarms", "false_alarms", "scenes", False),
    ),
}
_CLASSES = {"bench hazards": "classes"}
_LISTS = ("episodes", "scenes", "frames", "cases", "trials", "checks")


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A file that `--json` wrote.

    Attributes:
        kind: its suite, or its command.
        rows: what was tried, one by one; none where the file has totals alone.
    """

    path: str
    kind: str
    data: dict[str, Any]
    rows: tuple[Row, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """What was run, apart from what was found: to be the same in two files that are compared."""
        return {
            k: v for k, v in self.data.items() if isinstance(v, str | int | bool) and k not in ("command", "seconds")
        }


def load_result(path: Path) -> ResultFile:
    """Read a result file.

    Raises:
        BadInputError: not JSON, or nothing that `eval` or `bench` wrote.
    """
    data = parse_json(read_text(path, RESULT_BYTES), str(path))
    if (
        not isinstance(data, dict)
        or not isinstance(data.get("totals"), dict)
        or not isinstance(data.get("command"), str)
    ):
        raise BadInputError(f"{path}: no result of `eval` or `bench` (they have `command` and `totals`)")
    words = data["command"].split()[_PROGRAM_WORDS:]
    kind = str(data.get("suite") or " ".join([*words[:2], *(w for w in words[2:] if w == "--live")]))
    lists = [data[name] for name in _LISTS if isinstance(data.get(name), list)]
    rows = tuple(row for row in (lists[0] if lists else ()) if isinstance(row, dict))
    return ResultFile(str(path), kind, data, rows)


def compare(before: ResultFile, after: ResultFile) -> list[Compared]:
    """Compare two result files, the older one first.

    Raises:
        BadInputError: they are of different benchmarks, or of one without anything to compare.
    """
    if before.kind != after.kind:
        raise BadInputError(f"{before.path} is of {shown(before.kind)}, {after.path} of {shown(after.kind)}")
    if before.kind not in _ROWS and before.kind not in _COUNTS:
        known = ", ".join(sorted([*_ROWS, *_COUNTS]))
        raise BadInputError(f"{before.path}: {shown(before.kind)} has nothing to compare; these have: {known}")
    try:
        found = [*_by_rows(before, after), *_by_counts(before, after)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(f"{before.path}, {after.path}: not as this version writes them ({error!r})") from error
    if not found:
        raise BadInputError(f"{before.path} and {after.path} have nothing in common that could be compared")
    return _corrected(found)


def is_regression(found: Iterable[Compared]) -> bool:
    """Whether anything is worse by more than chance, or a danger was met more often at all."""
    return any(c.verdict == "worse" and not c.is_time for c in found)


def differences(before: ResultFile, after: ResultFile) -> list[str]:
    """List what was run otherwise, in words: another camera, seed or machine."""
    a, b = before.settings, after.settings
    said = [
        f"{key}: {a.get(key, 'not said')} → {b.get(key, 'not said')}"
        for key in sorted({*a, *b})
        if a.get(key) != b.get(key)
    ]
    half = [r.path for r in (before, after) if r.data.get("is_complete") is False]
    return said + [f"{path} is of a run that did not end" for path in half]


# ------------------------------------------------------------------------------------------- what is compared


def _by_rows(before: ResultFile, after: ResultFile) -> Iterator[Compared]:
    fields, measures = _ROWS.get(before.kind, ((), ()))
    if not measures:
        return
    a, b = _keyed(before, fields), _keyed(after, fields)
    common = [key for key in a if key in b]
    for measure in measures:
        if common:
            pairs = [(measure.of(a[key]), measure.of(b[key])) for key in common]
            known = [(bool(x), bool(y)) for x, y in pairs if x is not None and y is not None]
            if known:
                yield _paired(measure, known)
            continue
        counts = [[v for v in map(measure.of, rows.values()) if v is not None] for rows in (a, b)]
        if all(counts):
            yield _unpaired(measure, (sum(counts[0]), len(counts[0])), (sum(counts[1]), len(counts[1])))
    if before.data.get("machine") == after.data.get("machine"):
        yield from _times([(a[key], b[key]) for key in common])


def _keyed(result: ResultFile, fields: tuple[str, ...]) -> dict[Key, Row]:
    return {tuple(str(row[field]) for field in fields): row for row in result.rows}


def _by_counts(before: ResultFile, after: ResultFile) -> Iterator[Compared]:
    counts = _COUNTS.get(before.kind, ())
    tables = [("", before.data["totals"], after.data["totals"])]
    name = _CLASSES.get(before.kind)
    if name is not None:
        a, b = before.data["totals"][name], after.data["totals"][name]
        tables += [(f"{key}: ", a[key], b[key]) for key in a if key in b]
    for prefix, a, b in tables:
        for count in counts:
            if a[count.whole] and b[count.whole]:
                named = Measure(prefix + count.name, _said(count.part), count.higher_is_better, count.is_danger)
                yield _unpaired(named, (a[count.part], a[count.whole]), (b[count.part], b[count.whole]))


def _times(pairs: list[tuple[Row, Row]]) -> Iterator[Compared]:
    """Compare how long the same rows took, on one machine: does one take longer in more rows than chance allows?"""
    names = sorted({n for a, _ in pairs if isinstance(a.get("seconds"), dict) for n in a["seconds"]})
    for name in names:
        both = [
            (a["seconds"][name], b["seconds"][name]) for a, b in pairs if name in a["seconds"] and name in b["seconds"]
        ]
        if both:
            slower, faster = sum(y > x for x, y in both), sum(y < x for x, y in both)
            p_value = binomial_p(slower, slower + faster)
            a_s, b_s = median(x for x, _ in both), median(y for _, y in both)
            verdict = "as before" if a_s == b_s else "worse" if b_s > a_s else "better"
            yield Compared(f"seconds: {name}", (a_s, len(both)), (b_s, len(both)), "sign", p_value, verdict)


# ------------------------------------------------------------------------------------------------- exact tests


def binomial_p(successes: int, trials: int) -> float:
    """Two-sided p-value of a fair coin that shows heads so often (the sign test, and McNemar's).

    >>> round(binomial_p(0, 6), 5)
    0.03125
    """
    tail = sum(exp(_log_comb(trials, k) - trials * _LOG_2) for k in range(min(successes, trials - successes) + 1))
    return min(1.0, 2 * tail)


def fisher_p(a: tuple[int, int], b: tuple[int, int]) -> float:
    """Two-sided p-value of Fisher's exact test: the chance of counts as unlike as these if both shares are one.

    Args:
        a, b: how many of how many.

    >>> round(fisher_p((1, 10), (8, 10)), 4)
    0.0055
    """
    hits, total = a[0] + b[0], a[1] + b[1]
    counts = range(max(0, hits - b[1]), min(hits, a[1]) + 1)
    chances = [exp(_log_comb(a[1], k) + _log_comb(b[1], hits - k) - _log_comb(total, hits)) for k in counts]
    own = chances[a[0] - counts.start] * (1 + _ROUNDING)
    return min(1.0, sum(chance for chance in chances if chance <= own))


def _log_comb(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _paired(measure: Measure, pairs: list[tuple[bool, bool]]) -> Compared:
    lost, won = sum(x and not y for x, y in pairs), sum(y and not x for x, y in pairs)
    before, after = sum(x for x, _ in pairs), sum(y for _, y in pairs)
    return _judged(measure, (before, len(pairs)), (after, len(pairs)), "McNemar", binomial_p(lost, lost + won))


def _unpaired(measure: Measure, before: tuple[int, int], after: tuple[int, int]) -> Compared:
    for part, whole in (before, after):
        if not 0 <= part <= whole <= _MOST:
            raise ValueError(f"{measure.name}: {part} of {whole}")
    return _judged(measure, before, after, "Fisher", fisher_p(before, after))


def _judged(measure: Measure, before: tuple[int, int], after: tuple[int, int], test: str, p_value: float) -> Compared:
    """Say which is better; chance is left to `_corrected`, but for a danger, where it is no excuse."""
    risen = after[0] * before[1] - before[0] * after[1]
    if risen == 0:
        return Compared(measure.name, before, after, test, p_value)
    is_better = (risen > 0) == measure.higher_is_better
    sure = 0.0 if measure.is_danger and not is_better else p_value
    return Compared(measure.name, before, after, test, sure, "better" if is_better else "worse")


def _corrected(found: list[Compared]) -> list[Compared]:
    """Apply Holm's step-down correction, and call what chance explains "as before"."""
    order = sorted(range(len(found)), key=lambda i: found[i].p_value)
    corrected, highest = [0.0] * len(found), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(found) - rank) * found[index].p_value))
        corrected[index] = highest
    return [
        Compared(c.name, c.before, c.after, c.test, p, c.verdict if p < ALPHA else "as before")
        for c, p in zip(found, corrected, strict=True)
    ]
