"""Commands about bags of decisions: replay, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from qwen2vl_robot.cli.base import JsonFile, ModelName, app
from qwen2vl_robot.cli.output import save_json, say
from qwen2vl_robot.errors import BadInputError


@app.command(epilog="Example: qwen2vl-robot replay out/demo.mcap --film out/replay.gif")
def replay(
    bag: Annotated[Path, typer.Argument(help="A bag of decisions, or a folder of them.")],
    model: ModelName = None,
    robot: Annotated[str | None, typer.Option(help="The robot file, where the bag was made with your own.")] = None,
    rules: Annotated[str | None, typer.Option(help="The cell's rules, where the bag was made with your own.")] = None,
    film: Annotated[Path | None, typer.Option(help="Write the rehearsals beside what the camera saw here.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Run recorded decisions again over what was seen then, and print each difference. Nothing moves.

    Reading, plan, perception, motion, verdict, gate and judgement are done anew; camera, arm, clock, approvals and
    stops answer from the bag. Exit code 0: no difference. 1: differences. 2: bad input.
    """
    from qwen2vl_robot.recording.replay import Files

    files = Files(model, robot, rules)
    if bag.is_dir():
        if film is not None:
            raise BadInputError("--film: give one bag, not a folder")
        reports = [_replay_of_folder(path, files) for path in _bags_in(bag)]
    else:
        reports = [_replay(bag, files, film)]
    different = sum(bool(report["differences"]) for report in reports)
    unusable = [report for report in reports if report.get("problem")]
    if bag.is_dir():
        good = len(reports) - different - len(unusable)
        say(f"{len(reports)} bags: {good} without a difference, {different} with, {len(unusable)} unusable")
    save_json({"bags": reports}, json_file)
    raise typer.Exit(2 if unusable else 1 if different else 0)


@app.command(epilog="Example: qwen2vl-robot export out/bags --lerobot out/lerobot")
def export(
    bags: Annotated[list[Path], typer.Argument(help="Bags of decisions, or folders of them.")],
    lerobot: Annotated[
        Path | None, typer.Option("--lerobot", help="A new folder for the LeRobot data set (version 3).")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option("--samples", help="A new folder for shards that train --method lora reads.")
    ] = None,
) -> None:
    """Write recorded tasks as data for training.

    --lerobot: every task is an episode, refused and failed ones marked. --samples: the plans of achieved tasks.
    """
    if (lerobot is None) == (samples is None):
        raise BadInputError("give one of --lerobot and --samples")
    files = [file for bag in bags for file in (_bags_in(bag) if bag.is_dir() else [bag])]
    if lerobot is not None:
        from qwen2vl_robot.recording.lerobot import export as write

        counts = write(files, lerobot)
        kinds = ", ".join(f"{n} {kind}" for kind, n in counts.items())
        say(f"{sum(counts.values())} episodes in {lerobot}: {kinds}")
    elif samples is not None:
        from qwen2vl_robot.training.demonstrations import export_demonstrations

        say(f"{export_demonstrations(files, samples)} plans of achieved tasks in {samples}")


def _bags_in(folder: Path) -> list[Path]:
    bags = sorted(folder.glob("*.mcap"))
    if not bags:
        raise BadInputError(f"{folder}: no file *.mcap in it")
    return bags


def _replay_of_folder(path: Path, files: Any) -> dict[str, Any]:
    """One bag of several; one that cannot be used stops no other."""
    try:
        return _replay(path, files, None)
    except BadInputError as error:
        say(str(error))
        return {"bag": str(path), "differences": [], "problem": str(error)}


def _replay(path: Path, files: Any, film: Path | None) -> dict[str, Any]:
    from qwen2vl_robot.recording.replay import replay as run

    result = run(path, files, film_to=film)
    for note in result.notes:
        say(f"{path}: {note}")
    for line in result.differences:
        say(f"{path}: {line}")
    cut = f", cut ({result.cut}): compared as far as it goes" if result.cut else ""
    count = f"{len(result.differences)} differences" if result.differences else "no difference"
    say(f"{path}: {result.tasks} whole tasks, {result.decisions} decisions: {count}{cut}")
    return {
        "bag": str(path),
        "tasks": result.tasks,
        "decisions": result.decisions,
        "differences": result.differences,
        "notes": result.notes,
        "cut": result.cut,
    }
