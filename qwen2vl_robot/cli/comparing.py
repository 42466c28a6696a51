"""The commands results compare and results page: files that `--json` wrote → what differs, and a page of all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from qwen2vl_robot.bounds import shown
from qwen2vl_robot.cli.base import STDOUT, JsonFile, app
from qwen2vl_robot.cli.output import provenance, save_json, say, show
from qwen2vl_robot.errors import BadInputError

if TYPE_CHECKING:
    from qwen2vl_robot.benchmarks.comparing import Compared

_results = typer.Typer(help="Compare result files, or make a page of them.", no_args_is_help=True)
app.add_typer(_results, name="results")
_STYLES = {"better": "green", "worse": "bold red", "as before": "dim"}


@_results.command(
    "compare", epilog="Example: qwen2vl-robot results compare docs/results/eval-truth.json out/eval-truth.json"
)
def compare_results(
    before: Annotated[Path, typer.Argument(help="The older result file.")],
    after: Annotated[Path, typer.Argument(help="The newer one, of the same benchmark.")],
    plot: Annotated[Path | None, typer.Option(help="Write the shares with their intervals as SVG.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Say what became better or worse by more than chance (exact tests, corrected for their number).

    Exit code 1: something is worse, or a danger (false success, hazard accepted, wrong motion) was met more often at
    all. Times are shown for files of one machine and decide nothing.
    """
    from qwen2vl_robot.benchmarks.comparing import compare, differences, is_regression, load_result
    from qwen2vl_robot.benchmarks.pages import plot_svg
    from qwen2vl_robot.results import write_text

    a, b = load_result(before), load_result(after)
    found, otherwise = compare(a, b), differences(a, b)
    worse = is_regression(found)
    if json_file != STDOUT:
        for line in otherwise:
            say(f"not the same: {shown(line)}")
        differing = [c for c in found if c.before[0] * c.after[1] != c.after[0] * c.before[1]]
        if differing:
            show(_table(differing))
        say(f"{len(found) - len(differing)} of {len(found)} measures are the same in both")
        say("a regression" if worse else "no regression")
    if plot is not None:
        write_text(plot, plot_svg(found))
    measures = [
        {
            "name": c.name,
            "before": c.before,
            "after": c.after,
            "test": c.test,
            "p_value": c.p_value,
            "verdict": c.verdict,
        }
        for c in found
    ]
    save_json({**provenance(), "differences": otherwise, "measures": measures, "is_regression": worse}, json_file)
    raise typer.Exit(1 if worse else 0)


@_results.command("page", epilog="Example: qwen2vl-robot results page out --out out/results.html")
def page_of_results(
    folder: Annotated[Path, typer.Argument(help="The folder with result files.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("out/results.html"),
) -> None:
    """Write one HTML page of all result files in a folder; it needs no other file."""
    from qwen2vl_robot.benchmarks.comparing import load_result
    from qwen2vl_robot.benchmarks.pages import page_html
    from qwen2vl_robot.results import write_text

    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            results.append(load_result(path))
        except BadInputError as error:
            say(f"left out: {error}")
    if not results:
        raise BadInputError(f"{folder}: no result files (what `eval` and `bench` write with --json)")
    write_text(out, page_html(results))
    say(f"{out}: {len(results)} results")


def _table(found: list[Compared]) -> Table:
    table = Table("measure", "before", "after", "test", "p (Holm)", "")
    for c in found:
        a, b = (f"{own[0]:.3f}" if c.is_time else f"{own[0]:.0f} of {own[1]}" for own in (c.before, c.after))
        table.add_row(escape(shown(c.name)), a, b, c.test, f"{c.p_value:.3g}", c.verdict, style=_STYLES[c.verdict])
    return table
