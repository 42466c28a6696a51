"""The doctor finds and names what a machine lacks, with the command that fixes it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from qwen2vl_robot import doctor
from qwen2vl_robot.doctor import CHECKPOINT_FILES, Finding

ROOT = Path(__file__).resolve().parents[1]


def write_checkpoint(folder: Path, tensor_bytes: int = 8) -> Path:
    """Write a folder that looks like a checkpoint: every file, and one tensor of `tensor_bytes`."""
    folder.mkdir()
    for pattern in CHECKPOINT_FILES:
        (folder / pattern.replace("*", ".jinja")).write_text("{}")
    header = json.dumps({"w": {"dtype": "U8", "shape": [tensor_bytes], "data_offsets": [0, tensor_bytes]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(tensor_bytes))
    return folder


@pytest.mark.parametrize("version", [(3, 10), (3, 11), (3, 12)])
def test_a_supported_python_is_accepted(version: tuple[int, int]) -> None:
    assert doctor.check_python(version).ok


@pytest.mark.parametrize("version", [(2, 7), (3, 9), (3, 13)])
def test_another_python_is_named_with_what_is_supported(version: tuple[int, int]) -> None:
    finding = doctor.check_python(version)
    assert not finding.ok
    assert "3.10 to 3.12" in finding.detail
    assert finding.command


def test_an_installed_requirement_shows_its_version() -> None:
    finding = doctor.check_distribution("numpy>=1.26,<3")
    assert finding.ok
    assert finding.detail[0].isdigit()


def test_a_missing_requirement_comes_with_the_command_that_installs_it() -> None:
    finding = doctor.check_distribution("no-such-distribution>=1")
    assert (finding.ok, finding.detail) == (False, "not installed")
    assert finding.command == "make setup"


def test_a_version_outside_the_range_is_refused() -> None:
    finding = doctor.check_distribution("numpy>=99")
    assert not finding.ok
    assert "numpy>=99" in finding.detail
    assert "numpy>=99" in finding.command


def test_a_complete_checkpoint_is_accepted(tmp_path: Path) -> None:
    assert doctor.check_checkpoint(write_checkpoint(tmp_path / "c")).ok


@pytest.mark.parametrize("pattern", CHECKPOINT_FILES)
def test_a_checkpoint_that_lacks_a_file_is_refused(pattern: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c")
    next(folder.glob(pattern)).unlink()
    finding = doctor.check_checkpoint(folder)
    assert not finding.ok
    assert pattern in finding.detail


@pytest.mark.parametrize("kept_bytes", [0, 4, 20, -1])
def test_truncated_weights_are_refused(kept_bytes: int, tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "c") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept_bytes])
    assert not doctor.check_checkpoint(weights.parent).ok


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\n", struct.pack("<Q", 2) + b"[]"])
def test_foreign_weights_are_refused(content: bytes, tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "c") / "model.safetensors"
    weights.write_bytes(content)
    assert not doctor.check_checkpoint(weights.parent).ok


@pytest.mark.parametrize(("available_kb", "ok"), [(4 * 2**20, True), (2**20, False)])
def test_memory_is_judged_by_what_is_available(available_kb: int, ok: bool, tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal:       99999999 kB\nMemAvailable:   {available_kb} kB\n")
    assert doctor.check_memory(meminfo).ok is ok


def test_unknown_memory_is_said_to_be_unknown(tmp_path: Path) -> None:
    finding = doctor.check_memory(tmp_path / "nowhere")
    assert not finding.ok
    assert "unknown" in finding.detail


def test_only_what_is_required_decides_whether_the_machine_is_ready() -> None:
    optional = Finding("GPU", False, "none", is_required=False)
    required = Finding("numpy", False, "not installed", "make setup")
    assert doctor.is_ready([optional])
    assert not doctor.is_ready([optional, required])


def test_every_required_thing_that_is_missing_has_a_command(tmp_path: Path) -> None:
    findings = doctor.diagnose(tmp_path / "no-checkpoint")
    assert "planner checkpoint" in {finding.name for finding in findings if not finding.ok}
    assert all(finding.command for finding in findings if finding.is_required and not finding.ok)


def test_a_diagnosis_loads_nothing_heavy() -> None:
    code = "import sys; from qwen2vl_robot.doctor import diagnose; diagnose(); print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"numpy", "torch", "pybullet", "transformers", "cv2"} & set(answer.stdout.split())


def test_a_model_that_fits_is_said_to_fit_before_it_is_loaded() -> None:
    lines: list[str] = []
    assert doctor.examine_model(None, lines.append, calibrates=False)
    assert "fits: needs" in lines[0]
    assert "GB free" in lines[0]


def test_a_model_that_does_not_fit_comes_with_what_to_take_instead(tmp_path: Path) -> None:
    text = {"num_hidden_layers": 800, "hidden_size": 8192, "intermediate_size": 29568, "num_attention_heads": 64}
    more = {
        "num_key_value_heads": 8,
        "vocab_size": 152064,
        "model_type": "qwen2_vl",
        "vision_config": {"hidden_size": 1},
    }
    (tmp_path / "config.json").write_text(json.dumps({**text, **more}))
    lines: list[str] = []
    assert not doctor.examine_model(str(tmp_path), lines.append, calibrates=True)
    assert "does not fit" in lines[0]
    assert "use instead" in lines[1]


def test_the_shipped_checkpoints_convention_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CALIBRATION_PICTURES", 6)
    monkeypatch.setattr(doctor, "MODE_PICTURES", 2)
    lines: list[str] = []
    assert doctor.examine_model(None, lines.append, calibrates=True)
    assert "box_convention: thousandths" in lines
    assert lines[-1].startswith("recommended: mode ")


def test_messages_that_rclpy_lacks_are_named_with_what_they_are_for() -> None:
    finding = doctor.check_ros(lambda name: name in ("rclpy", "moveit_msgs"))
    assert finding.ok
    assert "no qwen2vl_robot_msgs" in finding.detail
    assert "moveit_msgs:" not in finding.detail
    assert not doctor.check_ros(lambda name: False).ok
