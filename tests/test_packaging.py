"""The wheel holds everything, and works away from the source tree as pip and as an ament prefix lay it out."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import pytest

PACKAGE = "qwen2vl_robot"
ROOT = Path(__file__).resolve().parents[1]
PARTS = (PACKAGE, "sim", "launch", "resource", "package.xml", "setup.py", "setup.cfg", "README.md", "LICENSE")
# Imported only where it is there: ROS 2 brings it, or one planner backend needs it.
OPTIONAL = {
    *("aiohttp", "mcp", "mcp_types", "pyarrow", "rclpy", "rcl_interfaces", "modelscope", "playwright"),
    *("ray", "peft", "accelerate"),
}
# Modules whose distribution bears another name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "pinocchio": "pin",
    "pybullet_data": "pybullet",
    "yaml": "pyyaml",
}

needs_cli = pytest.mark.skipif(not (ROOT / PACKAGE / "cli").exists(), reason="cli/ does not exist yet")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built offline from a copy of the sources, so that no build folder is left in the tree."""
    source = tmp_path_factory.mktemp("source")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / part).exists():
            shutil.copy(ROOT / part, source / part)
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", str(source), "--no-build-isolation", "--wheel-dir", str(out))
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def prefix(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel under a prefix of its own: bin, lib and share, as in a virtual environment or an ament prefix."""
    folder = tmp_path_factory.mktemp("prefix")
    pip("install", str(wheel), "--no-compile", "--prefix", str(folder), "--ignore-installed")
    return folder


def pip(command: str, *arguments: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-deps")
    done = subprocess.run([sys.executable, "-m", "pip", command, *quiet, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def packages_of(prefix: Path) -> Path:
    return next(prefix.glob(f"**/{PACKAGE}/messages.py")).parents[1]


def run_outside(packages: Path, *command: str, cwd: Path, ament: str = "") -> str:
    """Run a command where only the installed copy and the dependencies can be seen; returns its output."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "AMENT_PREFIX_PATH")}
    environment |= {"PYTHONPATH": str(packages), "AMENT_PREFIX_PATH": ament, "NO_COLOR": "1"}
    done = subprocess.run([*command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


LOAD_EVERYTHING = f"""
import {PACKAGE}
from {PACKAGE}.config import load_robot
from {PACKAGE}.resources import data_root
for path in sorted((data_root() / "sim" / "robots").glob("*/robot.yaml")):
    assert load_robot(path.parent.name).urdf_path.exists()
print({PACKAGE}.__file__)
print(data_root())
"""


def test_the_wheel_holds_every_data_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    data = f"{wheel.name.rsplit('-', 3)[0]}.data/data/share"
    shipped = [p for folder in ("sim", "launch") for p in (ROOT / folder).rglob("*") if p.is_file()]
    wanted = {f"{data}/{PACKAGE}/{p.relative_to(ROOT).as_posix()}" for p in shipped if "__pycache__" not in p.parts}
    wanted |= {f"{data}/{PACKAGE}/package.xml", f"{data}/ament_index/resource_index/packages/{PACKAGE}"}
    assert wanted - names == set()


def test_the_wheel_holds_every_module_and_checkpoint_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [p for p in (ROOT / PACKAGE).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    wanted = {p.relative_to(ROOT).as_posix() for p in files if p.suffix == ".py" or "checkpoints" in p.parts}
    assert wanted - names == set()


def test_the_wheel_holds_no_tests(wheel: Path) -> None:
    assert [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("tests")] == []


def test_an_installed_copy_finds_its_robots(prefix: Path, tmp_path: Path) -> None:
    packages = packages_of(prefix)
    module, data = run_outside(packages, sys.executable, "-c", LOAD_EVERYTHING, cwd=tmp_path).split()
    assert Path(module).is_relative_to(prefix)
    assert Path(data) == prefix / "share" / PACKAGE


def test_a_copy_in_a_target_folder_finds_its_robots(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    pip("install", str(wheel), "--no-compile", "--target", str(target))
    _, data = run_outside(target, sys.executable, "-c", LOAD_EVERYTHING, cwd=tmp_path).split()
    assert Path(data) == target / "share" / PACKAGE


def test_a_copy_without_data_takes_it_from_the_ament_index(prefix: Path, tmp_path: Path) -> None:
    shutil.copytree(packages_of(prefix) / PACKAGE, tmp_path / "build" / PACKAGE)
    shutil.copytree(prefix / "share", tmp_path / "install" / "share")
    ament = os.pathsep.join(["/opt/no/such/distribution", str(tmp_path / "install")])
    packages = tmp_path / "build"
    _, data = run_outside(packages, sys.executable, "-c", LOAD_EVERYTHING, cwd=tmp_path, ament=ament).split()
    assert Path(data) == tmp_path / "install" / "share" / PACKAGE


def test_a_copy_without_any_data_says_where_it_looked(prefix: Path, tmp_path: Path) -> None:
    shutil.copytree(packages_of(prefix) / PACKAGE, tmp_path / PACKAGE)
    code = f"from {PACKAGE}.resources import data_root\ntry: data_root()\nexcept Exception as error: print(error)"
    if Path(sysconfig.get_path("data"), "share", PACKAGE).exists():
        pytest.skip("the environment holds an installed copy of the data")
    answer = run_outside(tmp_path, sys.executable, "-c", code, cwd=tmp_path)
    assert "reinstall it" in answer
    assert str(tmp_path) in answer


@needs_cli
def test_the_installed_console_script_shows_its_commands(prefix: Path, tmp_path: Path) -> None:
    script = next(prefix.glob("**/bin/qwen2vl-robot"))
    answer = run_outside(packages_of(prefix), str(script), "--help", cwd=tmp_path)
    assert all(command in answer for command in ("demo", "plan", "check", "eval", "datagen", "train", "doctor"))


@needs_cli
def test_the_interpreter_alone_shows_the_same_commands(prefix: Path, tmp_path: Path) -> None:
    answer = run_outside(packages_of(prefix), sys.executable, "-m", PACKAGE, "--help", cwd=tmp_path)
    assert "doctor" in answer


def metadata(wheel: Path) -> importlib.metadata.PackageMetadata:
    archive = zipfile.ZipFile(wheel)
    name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    return importlib.metadata.PathDistribution(zipfile.Path(archive, name.rpartition("/")[0] + "/")).metadata


def test_both_descriptions_of_the_package_agree(wheel: Path) -> None:
    described = ElementTree.parse(ROOT / "package.xml").getroot()
    built = metadata(wheel)
    assert described.findtext("version") == built["Version"]
    assert described.findtext("name") == built["Name"]
    assert described.findtext("license") == (built["License"] or built["License-Expression"])


def required(wheel: Path) -> set[str]:
    lines = [line for line in metadata(wheel).get_all("Requires-Dist") or [] if "extra ==" not in line]
    return {canonical(re.split(r"[^A-Za-z0-9._-]", line)[0]) for line in lines}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_imported_library_is_required(wheel: Path) -> None:
    needed = required(wheel)
    missing = [
        f"{path.relative_to(ROOT)}:{line}: {module} is in no requirement of setup.py"
        for path in sorted((ROOT / PACKAGE).rglob("*.py"))
        for line, module in third_party_imports(path)
        if canonical(DISTRIBUTIONS.get(module, module)) not in needed
    ]
    assert not missing, "\n" + "\n".join(missing)


def third_party_imports(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
            found += [(node.lineno, name.partition(".")[0]) for name in names]
    own = {*sys.stdlib_module_names, *OPTIONAL, PACKAGE}
    return [(line, name) for line, name in found if name not in own]


def test_every_requirement_is_pinned_for_the_python_that_was_measured(wheel: Path) -> None:
    lines = (ROOT / "constraints" / "py311.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonical(line.partition("==")[0]) for line in lines if "==" in line}
    assert required(wheel) - pinned == set()


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.launch.py")), ids=lambda path: path.name)
def test_a_launch_file_compiles_and_describes_itself(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    compile(tree, path, "exec")
    assert ast.get_docstring(tree)
    assert "generate_launch_description" in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}


@needs_cli
@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.launch.py")), ids=lambda path: path.name)
def test_a_launch_file_passes_only_options_that_exist(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    helped = [
        run_outside(ROOT, sys.executable, "-m", PACKAGE, c, "--help", cwd=tmp_path)
        for c in ("run", "supervisor", "sim")
    ]
    options = set(re.findall(r"--[a-z-]+", "".join(helped)))
    tuples = re.search(r"options = \(([^)]*)\)", text)
    given = [f"--{name.replace('_', '-')}" for name in re.findall(r'"(\w+)"', tuples[1])] if tuples else []
    given += re.findall(r'"(--[a-z-]+)"', text)
    assert given
    assert set(given) <= options
