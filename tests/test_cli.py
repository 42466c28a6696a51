"""The commands: exit codes, one clear line on bad input, JSON alone on stdout."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from qwen2vl_robot import cli
from qwen2vl_robot.benchmarks import box_convention
from qwen2vl_robot.bounds import ERROR_CHARS
from qwen2vl_robot.planner.sources import SHIPPED_MODEL
from qwen2vl_robot.resources import data_root
from tests.hostile import MOST_MB, grown_mb
from tests.quick import quick_scene

HAZARDS = data_root() / "sim" / "hazards"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Call the command line in this process: (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qwen2vl-robot", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return call


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "grey.png"
    Image.new("RGB", (320, 240), (128, 128, 128)).save(path)
    return path


def is_one_line(text: str) -> bool:
    return text.startswith("qwen2vl-robot: ") and text.count("\n") == 1 and "Traceback" not in text


def test_every_command_has_help_with_an_example(run) -> None:  # type: ignore[no-untyped-def]
    command = [sys.executable, "-m", "qwen2vl_robot.cli", "demo", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Example: qwen2vl-robot" in done.stdout
    for name in ("plan", "check", "eval", "datagen", "train", "doctor", "bench planner"):
        code, out, _ = run(*name.split(), "--help")
        assert code == 0
        assert "Example: qwen2vl-robot" in out, name


def commands() -> list[tuple[str, Any]]:
    """Every command ("bench stop") as the program defines it."""
    found: list[tuple[str, Any]] = []
    waiting = [("", typer.main.get_command(cli.app))]
    while waiting:
        name, command = waiting.pop()
        inner = getattr(command, "commands", {})
        waiting += [(f"{name} {word}".strip(), part) for word, part in inner.items()]
        found += [] if inner else [(name, command)]
    return found


@pytest.mark.parametrize(("name", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_has_an_example_that_works_and_a_line_for_each_option(name: str, command: Any) -> None:
    assert command.epilog.startswith(f"Example: qwen2vl-robot {name}")
    assert command.help
    assert [p.name for p in command.params if not p.help and not getattr(p, "hidden", False)] == []
    files = [word for word in command.epilog.split() if word.startswith("sim/")]
    assert all((data_root() / file).is_file() for file in files)


def test_the_version_is_printed(run) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = run("--version")
    assert code == 0
    assert re.fullmatch(r"qwen2vl-robot \d+\.\d+\.\d+\S*\n", out)


def test_the_shell_completes_commands() -> None:
    asked = {"_QWEN2VL_ROBOT_COMPLETE": "complete_bash", "COMP_WORDS": "qwen2vl-robot ca", "COMP_CWORD": "1"}
    command = [sys.executable, "-m", "qwen2vl_robot"]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["calibrate"]


def test_an_unknown_option_is_one_line(run) -> None:  # type: ignore[no-untyped-def]
    code, _, err = run("demo", "--colour", "red")
    assert code == 2
    assert is_one_line(err)


BAD_PICTURES = {"missing": None, "empty": b"", "text": b"this is no picture", "truncated": b"\x89PNG\r\n\x1a\n\x00\x00"}


@pytest.mark.parametrize("content", BAD_PICTURES.values(), ids=BAD_PICTURES.keys())
def test_an_unreadable_picture_is_one_line(run, tmp_path: Path, content: bytes | None) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    code, _, err = run("plan", str(path), "pick up the red block")
    assert code == 2
    assert is_one_line(err)
    assert "x.png" in err


@pytest.mark.parametrize("text", ["", "x" * 1_000_000, "\x00\x01\x02"], ids=["empty", "1 MB", "binary"])
def test_an_unusable_instruction_is_one_line(run, picture: Path, text: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for arguments in (("plan", str(picture), text), ("demo", "--instruction", text, "--out", str(tmp_path / "out"))):
        code, _, err = run(*arguments)
        assert code == 2
        assert is_one_line(err)


def test_a_truncated_checkpoint_is_one_line(run, picture: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """What else may be wrong with one is tried in planner/test_loading.py, without a process for each."""
    cut = tmp_path / "cut"
    shutil.copytree(SHIPPED_MODEL, cut)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    code, _, err = run("plan", str(picture), "pick up the red block", "--model", str(cut))
    assert code == 2
    assert is_one_line(err)
    assert "cannot be loaded" in err


def test_a_model_name_that_is_nowhere_is_one_line(run, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = run("plan", str(picture), "pick up the red block", "--model", "nobody/nothing")
    assert code == 2
    assert is_one_line(err)


BAD_SCENES = {
    "an unknown field": "colour_of_the_sky: blue\n",
    "a NaN": "gap_m: .nan\n",
    "a negative size": "gap_m: -1\n",
    "no YAML": "]: [",
}


@pytest.mark.parametrize("line", BAD_SCENES.values(), ids=BAD_SCENES.keys())
def test_a_wrong_scene_is_one_line_that_names_the_field(run, tmp_path: Path, line: str) -> None:  # type: ignore[no-untyped-def]
    good = (data_root() / "sim" / "scenes" / "default.yaml").read_text()
    key = line.split(":")[0]
    scene = tmp_path / "scene.yaml"
    scene.write_text("".join(x for x in good.splitlines(keepends=True) if not x.startswith(key)) + line)
    code, _, err = run("demo", "--scene", str(scene), "--out", str(tmp_path / "out"), "--headless")
    assert code == 2
    assert is_one_line(err)
    assert key in err or "not YAML" in err


def test_a_missing_scene_is_one_line(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, _, err = run("demo", "--scene", "nowhere.yaml", "--out", str(tmp_path / "out"))
    assert code == 2
    assert is_one_line(err)


def test_an_unknown_suite_is_one_line_with_the_known_ones(run) -> None:  # type: ignore[no-untyped-def]
    code, _, err = run("eval", "--suite", "kitchen")
    assert code == 2
    assert is_one_line(err)
    assert "tabletop" in err


def test_check_answers_by_exit_code_and_writes_json_alone_to_stdout(run) -> None:  # type: ignore[no-untyped-def]
    # Every file is answered in validation/test_request.py, by one twin.
    for name in ("accepted_over_block", "refused_carried_block", "refused_wrong_start"):
        path = HAZARDS / f"{name}.yaml"
        code, out, _ = run("check", str(path), "--json", "-")
        answer = json.loads(out)
        assert code == (0 if answer["accepted"] else 1)
        assert answer["accepted"] is path.name.startswith("accepted"), (path.name, answer["violations"])
        assert set(answer) == {"accepted", "violations", "explanation", "trials", "seconds"}


def test_json_is_written_to_a_file_in_a_new_folder(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    target = tmp_path / "deep" / "answer.json"
    request = next(iter(sorted(HAZARDS.glob("accepted*.yaml"))))
    code, out, _ = run("check", str(request), "--json", str(target))
    assert code == 0
    assert "accepted" in out
    assert json.loads(target.read_text())["accepted"] is True


# ------------------------------------------------------------------------------------------------ in a pipe


def test_a_long_line_stays_one_line_in_a_pipe() -> None:
    code = "from qwen2vl_robot.cli.output import say; say('[red]word[/red] 3 ' * 200)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[red]word[/red] 3 " * 200 + "\n"


def test_a_table_is_neither_wrapped_nor_coloured_in_a_pipe(run) -> None:  # type: ignore[no-untyped-def]
    _, out, _ = run("doctor")
    assert "\x1b" not in out
    rows = [line for line in out.splitlines() if "simulation data" in line]
    assert len(rows) == 1
    assert "franka_panda" in rows[0]


# --------------------------------------------------------------------------------------------------- --json


def test_json_that_cannot_be_written_is_refused_before_the_work(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "file").write_text("")
    for target, says in ((tmp_path, "this is a folder"), (tmp_path / "file" / "a.json", "File exists")):
        began_s = time.perf_counter()
        code, _, err = run("eval", "--json", str(target))
        assert code == 2
        assert is_one_line(err)
        assert says in err
        assert time.perf_counter() - began_s < 10.0  # an evaluation takes minutes


def test_an_answer_for_which_there_is_no_room_is_one_line(run) -> None:  # type: ignore[no-untyped-def]
    code, _, err = run("check", str(HAZARDS / "accepted_over_block.yaml"), "--json", "/dev/full")
    assert code == 1
    assert is_one_line(err)
    assert "No space left on device" in err


def test_an_answer_is_written_before_its_picture(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "a.png").mkdir()
    request, answer = HAZARDS / "refused_thin_wall.yaml", tmp_path / "answer.json"
    code, out, err = run("check", str(request), "--json", str(answer), "--picture", str(tmp_path / "a.png"))
    assert code == 1
    assert is_one_line(err)
    assert "Is a directory" in err
    assert "would hit the thin wall" in out
    assert json.loads(answer.read_text())["accepted"] is False


def _hear_interrupts() -> None:
    """A shell lets background jobs, and so perhaps these tests, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupted_evaluation_keeps_its_results(tmp_path: Path) -> None:
    answer = tmp_path / "eval.json"
    command = [sys.executable, "-m", "qwen2vl_robot", "eval", "--planner", "truth", "--json", str(answer)]
    command += ["--scene", quick_scene()]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_hear_interrupts
    ) as process:
        until_s = time.monotonic() + 120.0
        while not answer.exists() and time.monotonic() < until_s:
            time.sleep(0.05)
        kept = json.loads(answer.read_text())  # what even a killed process leaves
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert f"of 50 episodes are in {answer}" in err
    after = json.loads(answer.read_text())
    assert kept["is_complete"] is after["is_complete"] is False
    assert 1 <= len(kept["episodes"]) <= len(after["episodes"]) == after["totals"]["episodes"] < 50


# ------------------------------------------------------------------------------------------------ plan, check


def test_a_question_of_the_model_is_exit_code_1(run, picture: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, err = run("plan", str(picture), "pick up the red block")
    assert (code, out, err) == (1, "ask I see no red block.\n", "")


def test_a_plan_says_in_which_unit_boxes_are_and_draws_them(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    shown = next(iter(box_convention.render_pictures(1, seed=0)))
    turned, drawn = tmp_path / "turned.png", tmp_path / "new" / "drawn.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter counterclockwise
    Image.fromarray(shown.rgb).rotate(90, expand=True).save(turned, exif=exif)
    label = shown.seen[0].label
    code, out, err = run("plan", str(turned), f"pick up the {label}", "--picture", str(drawn))
    assert code == 0
    assert re.match(rf"pick {label} \[\d+ \d+ \d+ \d+\]\n", out)
    assert out.endswith("boxes are in 0..1000 of the picture's width and height: left, top, right, bottom\n")
    assert err == f"{drawn} shows the boxes\n"
    difference = np.abs(np.asarray(Image.open(drawn)).astype(int) - shown.rgb).max(axis=2) > 30
    left_px = round(shown.seen[0].box[0] * shown.rgb.shape[1] / 1000)
    assert difference[:, max(0, left_px - 12) : left_px + 12].any()
    assert 0 < difference.mean() < 0.2


def test_a_misspelt_key_comes_with_the_right_one(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    request = tmp_path / "request.yaml"
    request.write_text((HAZARDS / "accepted_over_block.yaml").read_text().replace("start_q_rad:", "start_q_rads:"))
    code, _, err = run("check", str(request))
    assert code == 2
    assert is_one_line(err)
    assert "start_q_rads: " in err
    assert "did you mean start_q_rad?" in err


def test_a_speed_is_printed_with_its_limit(run) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = run("check", str(HAZARDS / "refused_over_speed.yaml"))
    assert code == 1
    assert out.splitlines() == [
        "refused: the arm's panda_joint1 would turn too fast after 1.0 s, 2.5 rad/s; the limit is 2.175 rad/s",
        "  joint_velocity: panda_joint1 at 1.00 s, 2.5 rad/s, the limit is 2.175 rad/s",
    ]


def test_a_server_without_a_models_name_is_one_line(run, picture: Path) -> None:  # type: ignore[no-untyped-def]
    code, _, err = run("plan", str(picture), "pick up the red block", "--model", "http://127.0.0.1:9/v1")
    assert code == 2
    assert is_one_line(err)
    assert "http://127.0.0.1:9/v1#MODEL" in err


LONG = "a" * 100_000
HOSTILE_ARGUMENTS = {
    "a long instruction": ("demo", "--instruction", LONG),
    "an instruction of control characters": ("demo", "--instruction", "pick\x1b[31m up\x07"),
    "an instruction of half letters": ("demo", "--instruction", "\udcff" * 100),
    "a long scene": ("demo", "--instruction", "go home", "--scene", LONG),
    "a scene that is a device": ("demo", "--instruction", "go home", "--scene", "/dev/zero"),
    "a long model": ("demo", "--model", LONG),
    "a long address": ("demo", "--model", f"http://{LONG}/v1#m"),
    "a model with control characters": ("demo", "--model", "\x1b[31m/no\x07"),
    "a long folder": ("demo", "--out", LONG),
    "a long answer": ("doctor", "--json", LONG),
    "a model to examine": ("doctor", "--model", LONG),
    "a long request": ("check", LONG),
    "a request that is a device": ("check", "/dev/zero"),
    "a request that is a folder": ("check", "/"),
    "a long picture": ("plan", LONG, "pick up the red block"),
    "a picture that is a device": ("plan", "/dev/zero", "pick up the red block"),
    "a long parameter": ("run", "--graph", "dds", "-p", f"robot:={LONG}"),
    "a parameter that is a bomb": ("run", "--graph", "dds", "-p", "robot:=[&a [*a]]"),
    "a deep parameter": ("run", "--graph", "dds", "-p", "robot:=" + "[" * 50_000),
    "a huge number": ("run", "--graph", "dds", "-p", "seed:=" + "9" * 50_000),
    "parameters from a device": ("run", "--graph", "dds", "--params-file", "/dev/zero"),
    "a long topic": ("run", "--graph", "dds", "-r", f"{LONG}:=x y"),
    "a long sound": ("voice", "--graph", "dds", "--source", LONG),
    "an option that does not exist": ("demo", f"--{LONG}"),
    "a long option": ("demo", "--seed", "9" * 50_000),
    "views that are not there": ("calibrate", LONG),
}


@pytest.mark.parametrize("arguments", HOSTILE_ARGUMENTS.values(), ids=HOSTILE_ARGUMENTS.keys())
def test_a_hostile_argument_is_one_short_line(  # type: ignore[no-untyped-def]
    run, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert is_one_line(err)
    assert err.strip().isprintable()
    assert len(err) <= ERROR_CHARS + 100


WORST_FILES = {
    "a bomb to check": ("check", b"a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\n" * 1000),
    "many wrong segments to check": ("check", b"motion:\n" + b"- {joints: [{a: 1}]}\n" * 33_000),
    "a large file to check": ("check", b"a" * 20_000_000),
    "a large picture": ("plan", b"\x89PNG\r\n\x1a\n" + bytes(70_000_000)),
    "a scene of many things": ("demo", b"always:\n" + b"- {colour: red, kind: block}\n" * 30_000),
}


@pytest.mark.parametrize(("command", "data"), WORST_FILES.values(), ids=WORST_FILES.keys())
def test_a_command_that_refuses_a_file_takes_little_memory(tmp_path: Path, command: str, data: bytes) -> None:
    file = tmp_path / "file.yaml"
    file.write_bytes(data)
    code = f"""
import sys
from qwen2vl_robot import cli
def run(name):
    more = {{"check": (name,), "plan": (name, "pick up the red block"), "demo": ("--scene", name, "--headless")}}
    sys.argv = ["qwen2vl-robot", {command!r}, *more[{command!r}]]
    try:
        cli.main()
    except SystemExit as ended:
        return ended.code == 2
run("/nowhere.yaml")  # what the command imports is no part of what the file takes
def attack():
    return run({str(file)!r})
"""
    assert grown_mb(code) < MOST_MB


@pytest.mark.parametrize("domain", ["²", "9" * 5000, "-1", "", "x\x1b", "102", "１２３４"])
def test_a_domain_that_is_none_is_one_line(run, monkeypatch: pytest.MonkeyPatch, domain: str) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    code, _, err = run("voice", "--graph", "dds", "--source", "/dev/zero")
    assert code == 2
    assert is_one_line(err)


@pytest.mark.parametrize("option", [["--confirm"], ["--record", "out/x.mcap"]])
def test_a_demo_with_a_console_takes_no_prompt_and_no_bag(run, option: list[str]) -> None:  # type: ignore[no-untyped-def]
    code, _, err = run("demo", "--console", *option)
    assert code == 2
    assert is_one_line(err)
    assert option[0] in err
