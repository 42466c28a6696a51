"""This machine → findings: what is installed, what is missing, and the command that fixes it.

`diagnose` imports nothing heavy, so that it answers at once, even where an import would crash.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.folder import tensors_bytes
from qwen2vl_robot.resources import PACKAGE, data_root

if TYPE_CHECKING:
    from qwen2vl_robot.planner.sources import ModelSettings

PYTHON_RANGE = ((3, 10), (3, 12))
INSTALL = "make setup"
CHECKPOINT = Path(__file__).resolve().parent / "checkpoints" / "tabletop"
CHECKPOINT_FILES = ("config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json", "chat_template*")
MIN_MEMORY_GIB = 3.0  # the processes of a demo together use less
CALIBRATION_PICTURES = 12
MODE_PICTURES = 10  # three questions each, in both modes
_NO_MODEL = "(none)"  # stands where the model of a server is not named
MIN_CORES = 2  # the planner's timings hold from here on; one core works, slower


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        name: what was checked.
        ok: whether it is there and usable.
        detail: its version or place, or what is missing.
        command: what to type to fix it; empty where there is nothing to do.
        is_required: whether the demo fails without it.
    """

    name: str
    ok: bool
    detail: str
    command: str = ""
    is_required: bool = True


def diagnose(checkpoint: Path = CHECKPOINT) -> list[Finding]:
    """Check everything that the commands need, without importing it."""
    return [
        check_python(sys.version_info[:2]),
        *check_distributions(),
        check_checkpoint(checkpoint),
        check_simulation_data(),
        check_cores(os.cpu_count() or 1),
        check_memory(Path("/proc/meminfo")),
        check_gpu(),
        check_ros(),
    ]


def is_ready(findings: Sequence[Finding]) -> bool:
    """Return whether nothing required is missing."""
    return all(finding.ok for finding in findings if finding.is_required)


def check_python(version: tuple[int, int]) -> Finding:
    """Compare an interpreter's (major, minor) with the supported range."""
    low, high = (".".join(map(str, bound)) for bound in PYTHON_RANGE)
    if PYTHON_RANGE[0] <= version <= PYTHON_RANGE[1]:
        return Finding("Python", True, f"{version[0]}.{version[1]}")
    return Finding(
        "Python", False, f"{version[0]}.{version[1]}; supported: {low} to {high}", "make setup PYTHON=python3.11"
    )


def check_distributions() -> list[Finding]:
    """Compare this package's requirements with what is installed, one finding per requirement."""
    try:
        lines = importlib.metadata.requires(PACKAGE) or []
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return [Finding(PACKAGE, False, f"not installed in {sys.prefix}, so its requirements are unknown", INSTALL)]
    needed = [line for line in lines if "extra ==" not in line]
    return [Finding(PACKAGE, True, version), *(check_distribution(line) for line in needed)]


def check_distribution(requirement: str) -> Finding:
    """Check one requirement such as "numpy>=1.26,<3" against the installed distributions."""
    name = re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0]
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, "not installed", INSTALL)
    if not _is_satisfied(requirement, version):
        return Finding(name, False, f"{version} is installed, needed: {requirement}", f"pip install '{requirement}'")
    return Finding(name, True, version)


def _is_satisfied(requirement: str, version: str) -> bool:
    try:
        from packaging.requirements import Requirement
    except ImportError:  # packaging itself may be missing; then any version counts
        return True
    return Requirement(requirement).specifier.contains(version, prereleases=True)


def check_checkpoint(folder: Path) -> Finding:
    """Check the shipped checkpoint: every file is there, and the weights have the size that their header states."""
    name = "planner checkpoint"
    restore = f"git checkout -- {folder}"
    missing = [pattern for pattern in CHECKPOINT_FILES if not any(folder.glob(pattern))]
    if missing:
        return Finding(name, False, f"{folder} lacks {', '.join(missing)}", restore)
    weights = folder / "model.safetensors"
    size = weights.stat().st_size
    expected = tensors_bytes(weights)
    if size != expected:
        problem = "no safetensors header" if expected is None else f"its header says {expected}"
        return Finding(name, False, f"{weights} has {size} bytes, {problem}", restore)
    return Finding(name, True, f"{folder} ({size / 1e6:.0f} MB)")


def check_simulation_data() -> Finding:
    """Check that sim/ is installed and has robots."""
    try:
        root = data_root()
    except BadInputError as error:
        return Finding("simulation data", False, str(error), INSTALL)
    robots = sorted(path.parent.name for path in (root / "sim" / "robots").glob("*/robot.yaml"))
    detail = f"{root / 'sim'}; robots: {', '.join(robots) or 'none'}"
    return Finding("simulation data", bool(robots), detail, "" if robots else INSTALL)


def check_cores(count: int) -> Finding:
    """Check the number of CPU cores; with fewer than two it is only slower."""
    detail = f"{count}; {MIN_CORES} or more are recommended"
    return Finding("CPU cores", count >= MIN_CORES, detail, is_required=False)


def check_memory(meminfo: Path) -> Finding:
    """Check the memory that Linux reports as available."""
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    except OSError:
        match = None
    if match is None:
        return Finding("memory", False, f"unknown; {meminfo} does not report it", is_required=False)
    available_gib = int(match[1]) / 2**20
    detail = f"{available_gib:.1f} GiB available; {MIN_MEMORY_GIB:g} or more are recommended"
    return Finding("memory", available_gib >= MIN_MEMORY_GIB, detail, is_required=False)


def check_gpu() -> Finding:
    """Ask nvidia-smi for a GPU; the shipped checkpoint needs none."""
    tool = shutil.which("nvidia-smi")
    absent = Finding("GPU", False, "none found; only larger Qwen2-VL models need one", is_required=False)
    if tool is None:
        return absent
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return absent
    names = "; ".join(line.strip() for line in answer.splitlines() if line.strip())
    return Finding("GPU", True, names, is_required=False) if names else absent


_MESSAGES = {
    "qwen2vl_robot_msgs": "no tasks and motions as goals; colcon builds it from msgs/",
    "moveit_msgs": "no planning scene",
}


def check_ros(is_there: Callable[[str], object] = importlib.util.find_spec) -> Finding:
    """Look for rclpy and the messages that it may lack, without importing them.

    Args:
        is_there: a package's name → whether it is installed.
    """
    if not is_there("rclpy"):
        return Finding("rclpy", False, "not installed; it comes with ROS 2 and is optional", is_required=False)
    said = f"ROS 2 {os.environ.get('ROS_DISTRO', 'of an unknown distribution')}"
    lacks = [f"no {package}: {what}" for package, what in _MESSAGES.items() if not is_there(package)]
    return Finding("rclpy", True, "; ".join([said, *lacks]), is_required=False)


# ----------------------------------------------------------------------------------------------- one model


def examine_model(name: str | None, say: Callable[[str], object], *, calibrates: bool, out: Path | None = None) -> bool:
    """Say whether a model fits into memory or its server answers and, on request, in which unit it writes boxes.

    Args:
        name: a checkpoint folder, hub name or server; None for the shipped checkpoint.
        say: prints a line.
        calibrates: whether to load the model, if it fits, and show it pictures with known boxes.
        out: where the settings with the calibration are written, if it succeeds.

    Returns:
        Whether it can be used.

    Raises:
        BadInputError: there is no such model, or its size is unknown.
        PlannerError: it does not answer.
    """
    from qwen2vl_robot.planner.fit import estimate, memory, suggest
    from qwen2vl_robot.planner.listing import examine_server
    from qwen2vl_robot.planner.sources import read_settings

    model = name or str(CHECKPOINT)
    is_named = not model.startswith(("http://", "https://")) or bool(model.partition("#")[2])
    settings = read_settings(model if is_named else f"{model.rstrip('#')}#{_NO_MODEL}")
    if settings.server is not None:
        if not examine_server(settings, say, named=is_named):
            return False
    else:
        fit = estimate(settings, *memory())
        say(f"{fit.name}: {'fits' if fit.fits else 'does not fit'}: {fit.describe()}")
        if not fit.fits:
            say(f"use instead: {suggest(fit.available_gb, fit.device)}")
            return False
    if not calibrates:
        return True
    calibrated = _calibrate(settings, say)
    if calibrated is None:
        return False
    from qwen2vl_robot.benchmarks.modes import compare_modes, recommend

    right = compare_modes(calibrated, MODE_PICTURES, seed=1000)
    for mode, answers in right.items():
        say(f"mode {mode.value}: {sum(answers)} of {len(answers)} questions right")
    calibrated = calibrated.model_copy(update={"mode": recommend(right)})
    say(f"recommended: mode {calibrated.mode.value}")
    if out is not None:
        _write_settings(calibrated, out)
        say(f"{out}: use it with --model {out}")
    return True


def _calibrate(settings: ModelSettings, say: Callable[[str], object]) -> ModelSettings | None:
    """The settings with what was measured of the model's boxes; None where they fit no unit that is read."""
    from qwen2vl_robot.benchmarks import box_convention
    from qwen2vl_robot.planner.contract import BoxConvention
    from qwen2vl_robot.planner.process import PlannerProcess
    from qwen2vl_robot.planner.sources import Calibration

    bound = {"max_coordinate": box_convention.MAX_COORDINATE} if settings.server is None else {}
    bare = settings.model_copy(update={"calibration": None})
    pictures = list(box_convention.render_pictures(CALIBRATION_PICTURES, seed=0))
    fits = []
    with PlannerProcess(bare) as planner:
        for way in (
            lambda request, noun: planner.raw_reply(request, **bound),
            lambda request, noun: planner.raw_locations(request, (noun,), **bound),
        ):
            answers = box_convention.ask(way, pictures)
            fits += [box_convention.calibrate(answers, len(pictures))] if answers else []
            if fits and fits[-1].fits:
                break
    if not fits:
        say(f"refused: none of {len(pictures)} replies had a box; the model does not answer in a form that is read")
        return None
    found = max(fits, key=lambda fit: (fit.fits, fit.iou[fit.convention]))
    for convention, overlap in found.iou.items():
        say(f"  {convention}: median IoU {overlap:.3f}")
    say(f"  {found.answered} of {found.asked} replies had a box; median error {found.error:g} of 1000 a side")
    if not found.fits:
        say(f"refused: no convention fits; a median IoU of {box_convention.MIN_IOU} in half of the replies is needed")
        return None
    if found.convention not in box_convention.SUPPORTED:
        say(f"refused: the model writes {found.convention}; read are {', '.join(box_convention.SUPPORTED)}")
        return None
    say(f"box_convention: {found.convention}")
    if found.factor != (1.0, 1.0):
        say(f"the server scales pictures: its boxes are {found.factor[0]:g} x {found.factor[1]:g} of what was sent")
    height, width = pictures[0].rgb.shape[:2]
    measured = Calibration(
        model=settings.model,
        server=settings.server,
        box_convention=BoxConvention(found.convention),
        pixels_factor=found.factor,
        picture_px=(width, height),
        median_iou=found.iou[found.convention],
        pictures=found.answered,
    )
    return settings.model_copy(update={"calibration": measured, "box_convention": None})


def _write_settings(settings: ModelSettings, out: Path) -> None:
    """Write a model's settings as `--model` reads them.

    Raises:
        BadInputError: the file cannot be written.
    """
    if out.suffix not in (".yaml", ".yml"):
        raise BadInputError(f"--out {out}: a name that ends in .yaml is needed, as --model reads it")
    try:  # JSON is YAML too
        out.write_text(settings.model_dump_json(exclude_none=True, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"--out {out}: {error.strerror}") from error
