"""Result files → pages for people: a plot of two that are compared, and one HTML file of all that lie in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from qwen2vl_robot.benchmarks.comparing import Compared, ResultFile

_LEFT_PX, _WIDE_PX, _ROW_PX = 260, 400, 34
_BEFORE, _AFTER = "#7a7f87", "#1f6fb2"
_VERDICTS = {"better": "#1a7f37", "worse": "#c62828", "as before": "#57606a"}
_MOST_ITEMS = 60  # of a list or a mapping that a page shows
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .3rem 0; }
th, td { text-align: left; padding: .15rem .8rem .15rem 0; vertical-align: top; border-bottom: 1px solid #8884; }
th { opacity: .8; font-weight: normal; }
code { overflow-wrap: anywhere; }
section { border-top: 2px solid #8888; margin-top: 2rem; }
nav a { margin-right: 1rem; }
"""


def plot_svg(found: Sequence[Compared]) -> str:
    """Draw each share in both files with its 95 % interval."""
    shares = [c for c in found if not c.is_time]
    height = _ROW_PX * len(shares) + 60
    rows = "".join(_plot_row(index, compared) for index, compared in enumerate(shares))
    axis = "".join(
        f'<line x1="{_x(t)}" x2="{_x(t)}" y1="34" y2="{height - 20}" stroke="#8886"/>'
        f'<text x="{_x(t)}" y="{height - 5}" text-anchor="middle">{t:.0%}</text>'
        for t in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    key = (
        f'<circle cx="{_LEFT_PX}" cy="14" r="5" fill="{_BEFORE}"/><text x="{_LEFT_PX + 10}" y="18">before</text>'
        f'<circle cx="{_LEFT_PX + 90}" cy="14" r="5" fill="{_AFTER}"/><text x="{_LEFT_PX + 100}" y="18">after</text>'
    )
    width = _LEFT_PX + _WIDE_PX + 130
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="13">'
        f'<rect width="{width}" height="{height}" fill="white"/>{axis}{key}{rows}</svg>\n'
    )


def _plot_row(index: int, compared: Compared) -> str:
    y = 48 + _ROW_PX * index
    parts = [f'<text x="{_LEFT_PX - 12}" y="{y + 8}" text-anchor="end">{escape(compared.name)}</text>']
    for own, colour, at in ((compared.before, _BEFORE, y), (compared.after, _AFTER, y + 10)):
        low, high = compared.interval_95(own)
        parts.append(f'<line x1="{_x(low)}" x2="{_x(high)}" y1="{at}" y2="{at}" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<circle cx="{_x(own[0] / own[1])}" cy="{at}" r="5" fill="{colour}"/>')
    side = _LEFT_PX + _WIDE_PX + 20
    parts.append(f'<text x="{side}" y="{y + 8}" fill="{_VERDICTS[compared.verdict]}">{compared.verdict}</text>')
    return "".join(parts)


def _x(ratio: float) -> float:
    return round(_LEFT_PX + ratio * _WIDE_PX, 1)


def page_html(results: Sequence[ResultFile]) -> str:
    """Make one HTML page of result files that needs no other file: what was run, on which machine, and its totals."""
    links = "".join(f'<a href="#r{i}">{escape(_name(r))}</a>' for i, r in enumerate(results))
    sections = "".join(_section(i, result) for i, result in enumerate(results))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Results</title><style>{_STYLE}</style><h1>Results</h1><nav>{links}</nav>{sections}</html>\n"
    )


def _name(result: ResultFile) -> str:
    return result.path.rsplit("/", 1)[-1]


def _section(index: int, result: ResultFile) -> str:
    whole = "" if result.data.get("is_complete", True) else "<p><strong>This run did not end.</strong></p>"
    said = {"command": result.data["command"], "rows": len(result.rows), **result.settings}
    facts = "".join(f"<tr><th>{escape(k)}</th><td><code>{escape(str(v))}</code></td></tr>" for k, v in said.items())
    head = f'<section id="r{index}"><h2>{escape(result.kind)} <small>{escape(_name(result))}</small></h2>{whole}'
    head += f"<table>{facts}</table>"
    return f"{head}<h3>totals</h3>{_table(result.data['totals'])}</section>"


def _table(value: Any) -> str:
    if isinstance(value, dict):
        rows = "".join(f"<tr><th>{escape(str(k))}</th><td>{_table(v)}</td></tr>" for k, v in _some(_joined(value)))
        return f"<table>{rows}</table>"
    if isinstance(value, list):
        return escape(", ".join(str(v) for v in value[:_MOST_ITEMS])) or "none"
    return escape(str(value))


def _some(value: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from list(value.items())[:_MOST_ITEMS]
    if len(value) > _MOST_ITEMS:
        yield "", f"{len(value) - _MOST_ITEMS} more"


def _joined(value: dict[str, Any]) -> dict[str, Any]:
    """Put an interval beside the value it belongs to: `success_ratio` and `success_interval_95` are one line."""
    joined = {k: v for k, v in value.items() if not k.endswith("interval_95")}
    for key, interval in value.items():
        if not key.endswith("interval_95") or not isinstance(interval, list) or len(interval) != 2:
            continue
        stem = key.removesuffix("interval_95").removesuffix("_")
        owner = next((name for name in (f"{stem}_ratio", stem, "ratio") if name in joined), None)
        if owner is None:
            joined[key] = interval
        else:
            joined[owner] = f"{joined[owner]} (95 %: {interval[0]} to {interval[1]})"
    return joined
