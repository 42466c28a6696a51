"""Commands that do one thing once: demo, plan, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from qwen2vl_robot.cli.base import STDOUT, CameraName, JsonFile, ModelName, app
from qwen2vl_robot.cli.output import save_json, saved_on_failure, say
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.sides import SeenFrom

Scene = Annotated[str, typer.Option(help="A scene file; names under sim/ work too.")]


@app.command(epilog="Example: qwen2vl-robot demo --instruction 'put the red block on the blue plate' --seed 3")
def demo(
    instruction: Annotated[str, typer.Option(help="What to do.")] = "put the red block on the blue plate",
    seed: Annotated[int, typer.Option(min=0, help="Draws poses, light, camera and the rest.")] = 0,
    scene: Scene = "scenes/default.yaml",
    out: Annotated[
        Path, typer.Option(help="Folder for report.json and the pictures; one command uses it at a time.")
    ] = Path("out/demo"),
    model: ModelName = None,
    headless: Annotated[
        bool, typer.Option("--headless", help="Simulate as fast as possible and open no window.")
    ] = False,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Ask at the prompt before each step, and about what was not understood.")
    ] = False,
    seen_from: Annotated[
        SeenFrom | None,
        typer.Option(help="Whose left, right, front and behind count; else as sim/tasks/relations.yaml says."),
    ] = None,
    camera: CameraName = None,
    graph: Annotated[
        str | None, typer.Option(help="dds or ros: robot and controller as two processes on the ROS 2 graph.")
    ] = None,
    console: Annotated[
        bool,
        typer.Option("--console", help="The robot as processes, and a web page to approve each step; until Ctrl+C."),
    ] = False,
    record: Annotated[
        Path | None, typer.Option(help="Record every decision in this new MCAP file, for `replay` and Foxglove.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Do one job in simulation from start to end: see, plan, check, move, look again.

    Exit code 0: achieved, or a question that is answered. 1: anything else, a refusal
    and a question of the robot's own included.
    """
    with saved_on_failure(json_file):
        _check_together(graph or ("the console" if console else None), confirm, record)
        from qwen2vl_robot.demo import DemoScene, run_demo
        from qwen2vl_robot.recording.session import Recording

        where = DemoScene(scene, seed, headless, seen_from, camera)
        if console:
            from qwen2vl_robot.demo_graph import run_console_demo

            run_console_demo(instruction, where, out, model, transport=graph or "dds", say=say)
            return
        if graph is not None:
            from qwen2vl_robot.demo_graph import run_graph_demo

            report = run_graph_demo(instruction, where, out, model, transport=graph, say=say)
        else:
            ask, bag = _ask if confirm else None, None if record is None else Recording(record)
            report = run_demo(instruction, where, out, model, say=say, ask=ask, record=bag)
    save_json(report, json_file)
    film = out / "film.gif"
    if not headless and graph is None and film.is_file():
        typer.launch(str(film))
    raise typer.Exit(0 if report["outcome"] in ("achieved", "answered") else 1)


def _check_together(graph: str | None, confirm: bool, record: Path | None) -> None:
    if graph is not None and confirm:
        raise BadInputError(
            "--confirm: not with --graph or --console; there `qwen2vl-robot approve` or the page answers"
        )
    if graph is not None and record is not None:
        raise BadInputError("--record: not with --graph or --console; there the node's parameter `record` does it")


@app.command(epilog="Example: qwen2vl-robot plan photo.png 'pick up the red block' --picture boxes.png --json -")
def plan(
    image: Annotated[Path, typer.Argument(help="A PNG, JPEG, WebP, BMP or TIFF; turned as its EXIF data says.")],
    instruction: Annotated[str, typer.Argument(help="What to do.")],
    model: ModelName = None,
    also: Annotated[
        list[Path] | None, typer.Option(help="A picture of another camera, as often as needed; boxes are in IMAGE.")
    ] = None,
    before: Annotated[
        list[Path] | None,
        typer.Option(help="A picture of the seconds before, the oldest first, half a second apart; shown as video."),
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the boxes over IMAGE and write it here.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Plan only: show a picture to the model and print its actions with their boxes.

    Boxes are left, top, right, bottom in 0..1000 of the picture's width and height.
    Exit code 1: the model asks or refuses.
    """
    from qwen2vl_robot.bounds import PICTURES
    from qwen2vl_robot.messages import Instruction, Outcome, PlannerRequest
    from qwen2vl_robot.order import understand
    from qwen2vl_robot.photos import read_photo
    from qwen2vl_robot.planner.process import SHIPPED_MODEL, PlannerProcess
    from qwen2vl_robot.planner.sources import read_settings
    from qwen2vl_robot.reading import whose_sides
    from qwen2vl_robot.relations import load_relations

    if len(also or ()) + len(before or ()) > PICTURES:
        raise BadInputError(f"--also and --before: at most {PICTURES} pictures, they are in memory together")
    wish, rgb = understand(Instruction(instruction), trusts_unread=True), read_photo(image, say)
    if isinstance(wish, Outcome):
        save_json({"instruction": instruction, "actions": [], "reasons": list(wish.reasons)}, json_file)
        if json_file != STDOUT:
            typer.echo(" ".join(wish.reasons))
        raise typer.Exit(1)
    unknown = read_settings(model or SHIPPED_MODEL).why_uncalibrated((rgb.shape[1], rgb.shape[0]))
    if unknown:
        say(f"nothing would be moved by these boxes: {unknown}")
    others, clip = (tuple(read_photo(path, say) for path in paths or ()) for paths in (also, before))
    with PlannerProcess(model or SHIPPED_MODEL) as planner:
        whose = whose_sides(instruction, load_relations().seen_from)
        request = PlannerRequest(rgb, wish.instruction, others=others, clip=clip, seen_from=whose)
        answer = planner.plan_picture(request)
    actions = [_action_as_json(a) for a in answer.actions]
    document = {"instruction": instruction, "actions": actions, "box_unit": BOX_UNIT, "reply": answer.reply}
    document["notes"] = list(answer.notes)
    save_json(document, json_file)
    if json_file != STDOUT:
        _print_plan(answer)
    if picture is not None:
        _draw_plan(picture, rgb, answer)
    raise typer.Exit(1 if any(action.verb.value in ("ask", "refuse") for action in answer.actions) else 0)


def _ask(question: str) -> bool:
    """Yes or no from the person at the terminal; no answer is a no."""
    try:
        return typer.confirm(question)
    except typer.Abort:
        return False


BOX_UNIT = "0..1000 of the picture's width and height: left, top, right, bottom"


def _print_plan(answer: Any) -> None:
    """One line an action, with the boxes of its object."""
    has_boxes = False
    for action in answer.actions:
        boxes = () if action.object is None else action.object.boxes
        has_boxes = has_boxes or bool(boxes)
        shown = (f"[{b.x0:.0f} {b.y0:.0f} {b.x1:.0f} {b.y1:.0f}]" for b in boxes)
        typer.echo(" ".join([action.describe(), *shown]))
    if has_boxes:
        typer.echo(f"boxes are in {BOX_UNIT}")


def _draw_plan(file: Path, rgb: Any, answer: Any) -> None:
    from qwen2vl_robot.film import draw_boxes
    from qwen2vl_robot.photos import write_photo

    boxes = [(a.object.label, b) for a in answer.actions if a.object is not None for b in a.object.boxes]
    write_photo(file, draw_boxes(rgb, boxes))
    say(f"{file} shows the boxes" if boxes else f"{file} shows the picture; the plan has no box")


def _action_as_json(action: Any) -> dict[str, Any]:
    reference = action.object and {
        "label": action.object.label,
        "boxes": [[b.x0, b.y0, b.x1, b.y1] for b in action.object.boxes],
    }
    fields = {
        "do": action.verb.value,
        "object": reference,
        "relation": action.relation and action.relation.value,
        "direction": action.direction and action.direction.value,
        "seconds": action.seconds,
        "text": action.text,
    }
    return {k: v for k, v in fields.items() if v is not None}


@app.command(epilog="Example: qwen2vl-robot check sim/hazards/refused_over_speed.yaml --json -")
def check(
    request: Annotated[
        Path, typer.Argument(help="A file with a scene and a motion (sim/README.md); with --frame a trajectory.")
    ],
    frame: Annotated[
        Path | None, typer.Option(help="A recorded frame (.npz), or a bag of decisions: its first look is the scene.")
    ] = None,
    robot: Annotated[str, typer.Option(help="With --frame: a robot of sim/robots, or a robot.yaml.")] = "franka_panda",
    picture: Annotated[Path | None, typer.Option(help="Write a picture of the moment of a refusal here.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Rehearse a motion of yours in a scene of yours, without camera or planner. Exit code 0: accepted, 1: refused.

    With --frame the scene is measured in the frame, and the motion is a trajectory as
    trajectory_msgs/JointTrajectory or moveit_msgs/RobotTrajectory has it, YAML or JSON.
    """
    answer, verdict = _rehearse(request, frame, robot)
    save_json(answer, json_file)
    if json_file != STDOUT:
        typer.echo("accepted" if answer["accepted"] else f"refused: {answer['explanation']}")
        for violation in answer["violations"]:
            typer.echo(f"  {_violation_line(violation)}")
    if picture is not None and verdict is not None and verdict.picture is not None:
        from qwen2vl_robot.photos import write_photo

        write_photo(picture, verdict.picture)
    raise typer.Exit(0 if answer["accepted"] else 1)


def _rehearse(request: Path, frame: Path | None, robot: str) -> tuple[dict[str, Any], Any]:
    """The answer and its verdict, in a scene that is written down or in what a frame shows."""
    if frame is not None:
        from qwen2vl_robot.framed import check_in_frame

        return check_in_frame(frame, request, robot)
    from qwen2vl_robot.validation.answer import to_answer
    from qwen2vl_robot.validation.request import rehearse_request

    verdict, case = rehearse_request(request)
    return to_answer(verdict, case), verdict


def _violation_line(v: dict[str, Any]) -> str:
    """What, where, when, and how much; beside a limit the value itself, not only how far it is beyond."""
    when = "" if v["time_s"] is None else f" at {v['time_s']:.2f} s"
    unit = v["unit"]
    if "limit" in v:
        much = f"{v['value']:.4g} {unit}, the limit is {v['limit']:.4g} {unit}"
    else:
        much = f"{v['amount'] * 1000:.1f} mm" if unit == "m" else f"{v['amount']:.4g} {unit}".rstrip()
    return f"{v['kind']}: {' with '.join(v['bodies'])}{when}, {much}"


@app.command(epilog="Example: qwen2vl-robot phrases --language de")
def phrases(
    language: Annotated[str, typer.Option(help="ar, de, en, es, fr, ja, ko, vi or zh.")] = "en",
    markdown: Annotated[bool, typer.Option("--markdown", help="Every language, as docs/phrases.md.")] = False,
) -> None:
    """Print what one can say to the robot."""
    from qwen2vl_robot.languages import load_languages
    from qwen2vl_robot.phrases import describe, page

    if language not in load_languages():
        raise BadInputError(f"--language {language}: allowed: {', '.join(load_languages())}")
    typer.echo(page() if markdown else describe(language), nl=not markdown)
