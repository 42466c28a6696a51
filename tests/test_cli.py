"""The commands: exit codes, one clear line on bad input, JSON alone on stdout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from qwen2vl_robot import cli
from qwen2vl_robot.resources import data_root

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


def test_every_command_has_help_with_an_example() -> None:
    for command in ("demo", "plan", "check", "eval", "datagen", "train", "doctor", "bench planner"):
        done = subprocess.run(
            [sys.executable, "-m", "qwen2vl_robot.cli", *command.split(), "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "Example: qwen2vl-robot" in done.stdout, command


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


def test_a_missing_truncated_or_foreign_checkpoint_is_one_line(run, picture: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    shipped = Path(cli.__file__).parent / "checkpoints" / "tabletop"
    lacking, cut, foreign = tmp_path / "lacking", tmp_path / "cut", tmp_path / "foreign"
    for folder in (lacking, cut, foreign):
        shutil.copytree(shipped, folder)
    (lacking / "tokenizer.json").unlink()
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    (foreign / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')
    for folder, says in ((lacking, "tokenizer.json is missing"), (cut, "cannot be loaded"), (foreign, "gpt2")):
        code, _, err = run("plan", str(picture), "pick up the red block", "--model", str(folder))
        assert code == 2
        assert is_one_line(err)
        assert says in err


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
    for path in sorted(HAZARDS.glob("*ed_*.yaml")):
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
