"""The syntax trees of the package → one line a violation of its architecture, with file and line."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "qwen2vl_robot"
ROOT = Path(__file__).resolve().parents[1]

# A module imports from its own layer and the layers above it, never from one below. The longest prefix decides.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("reasons", "log", "bounds"),
    ("errors",),
    ("geometry", "messages", "guarded", "sides", "spots", "camera_verdict"),
    ("documents", "complaints"),
    ("fields",),
    (
        "ports",
        "resources",
        "config",
        "gripper",
        "process",
        "description",
        "urdf_files",
        "joint_kinds",
        "mounting",
        "languages",
        "phrases",
        "meshes",
        "link_meshes",
        "results",
        "kept",
        "photos",
        "retreat",
    ),
    ("bullet",),
    (
        "film",
        "legend",
        "kinematics",
        "relations",
        "planner.contract",
        "planner.reply",
        "planner.extraction",
        "planner.boxes",
        "planner.detections",
        "planner.detect",
        "planner.answers",
        "perception",
        "motion",
        "validation",
        "reading",
        "families",
        "cell",
        "rules",
        "ruling",
        "halt",
        "approval",
        "camera_guard",
        "gate",
        "executor",
        "lookout",
        "gripping",
        "feeling",
        "judge",
        "evidence",
        "belief",
        "policy",
        "agreement",
        "order",
        "stocktaking",
        "programme",
        "deeds",
        "recalling",
        "choosing",
        "room",
        "answering",
        "holding",
        "naming",
        "planner.phrasing",
        "task",
        "parts",
        "admission",
        "foreign",
        "foreign_task",
    ),
    ("controller",),
    ("planner", "graph", "plant", "fleet"),
    ("assembly",),
    ("recording",),
    ("nodes", "training", "benchmarks", "arms", "console"),
    ("demo", "demo_graph", "doctor", "framed", "cli", "__main__"),
)

# (importer, imported, why), on top of the layers.
FORBIDDEN = (
    ("validation", "motion", "a checker that shares the code it checks shares its bugs"),
    ("validation", "kinematics", "a checker that shares the code it checks shares its bugs"),
    ("motion", "bullet", "motion has kinematics of its own"),
    ("motion", "validation", "a motion is made without knowing how it will be judged"),
    ("perception", "bullet", "perception measures; it never asks a simulator"),
    ("planner", "bullet", "a planner sees images only"),
    ("planner", "nodes", "a planner never peeks at the plant"),
    ("graph", "nodes", "the transport does not know what is launched"),
    ("graph", "plant", "the transport does not know what is launched"),
    ("plant", "executor", "a checker that shares the code it checks shares its bugs"),
    ("plant", "validation", "a checker that shares the code it checks shares its bugs"),
    ("plant", "motion", "the stand-in for hardware carries out motions and makes none"),
    ("plant", "gate", "the stand-in for hardware checks an approval by itself, as a careful driver does"),
    *(
        (side, "plant", "the stand-in for hardware and its truth stay outside")
        for side in ("controller", "gate", "executor", "perception", "motion", "validation", "planner")
    ),
)

# Third-party module → where alone it may be imported at run time, and why.
CONFINED = {
    "pybullet": (("bullet.client",), "one module owns the simulator"),
    "torch": (
        (
            *("planner.loading", "planner.local", "planner.decoding", "planner.engines", "planner.prompts"),
            *("planner.merging", "training", "nodes.whisper"),
        ),
        "no other process pays for torch",
    ),
    "transformers": (
        ("planner.loading", "planner.decoding", "planner.engines", "training", "nodes.whisper"),
        "no other process pays for torch",
    ),
    "httpx2": (("planner.exchange",), "one module speaks to servers, within its bounds"),
    "yaml": (("documents", "nodes.camera_calibration", "benchmarks.stop"), "one module reads YAML, within its bounds"),
    "pinocchio": (("kinematics", "motion"), "validation has Bullet's kinematics"),
    "mcp": (("nodes.agent_server",), "one module speaks the protocol of agents"),
    "mcp_types": (("nodes.agent_server",), "one module speaks the protocol of agents"),
    "ompl": (("motion",), "paths are made in one place"),
    "ruckig": (("motion",), "timing is made in one place"),
    "rclpy": (
        (
            "graph.ros",
            "graph.ros_actions",
            "graph.ros_newest",
            "graph.ros_process",
            "graph.ros_qos",
            "graph.ros_services",
            "graph.lifecycle",
        ),
        "ROS 2 stays optional",
    ),
    "rcl_interfaces": (("graph.lifecycle",), "ROS 2 stays optional"),
    "trimesh": (("link_meshes",), "one module reads meshes, and compares them"),
    "mcap": (("recording.bag",), "one module knows the file format"),
    "pyarrow": (("recording.lerobot",), "an export alone needs it"),
    "cyclonedds": (("graph.dds_endpoints", "graph.dds_domain", "graph.idl"), "one transport among two"),
    "ray": (("fleet.ray_driver",), "one process speaks with a cluster, and ends with it"),
    "peft": (("training.lora",), "one module makes adapters; whoever plans with one needs no extra"),
    "accelerate": (("training.lora",), "one module knows of several processes"),
    "aiohttp": (("console",), "the console is the only server"),
    "typer": (("cli",), "commands are made in one place"),
    "scipy": ((), "scipy belongs to the tests"),
}

MAX_LINES = 350
# Longer ones, with the reason and the length at which they have to be split; there may be six at most.
LONG_MODULES = {
    "config": (420, "every file format that people write, side by side"),
    "messages": (800, "the messages of the whole flow, read in flow order"),
}
MOST_LONG_MODULES = 6
MAX_FUNCTION_LINES, MAX_CLASS_LINES, MAX_PARAMETERS = 60, 250, 7
# Functions with more parameters, with the reason; there may be six at most.
MANY_PARAMETERS = {
    "cli.single.demo": "a parameter an option of the command",
    "cli.training.datagen": "a parameter an option of the command",
    "cli.training.train": "a parameter an option of the command",
    "cli.graph.run": "a parameter an option of the command",
    "cli.graph.sim": "a parameter an option of the command",
    "cli.scoring.evaluate": "a parameter an option of the command",
}
MOST_MANY_PARAMETERS = 6

APPROVED = "ApprovedMotion"

# What no hardware could give, and where alone it may be named: the plant, scoring and the truth planner.
TRUTH = ("PlantTruth", "truth", "true_objects", "true_boxes", "true_T_base_camera")
KNOWS_TRUTH = ("plant", "benchmarks")

SINCE_3_11 = {
    *("tomllib", "enum.StrEnum", "enum.verify", "datetime.UTC", "contextlib.chdir", "itertools.batched"),
    *("asyncio.TaskGroup", "asyncio.timeout", "asyncio.Runner", "collections.abc.Buffer", "hashlib.file_digest"),
    *(
        f"typing.{name}"
        for name in (
            *("Self", "Never", "LiteralString", "Required", "NotRequired", "Unpack", "TypeVarTuple"),
            *("assert_never", "assert_type", "reveal_type", "override", "dataclass_transform", "TypeAliasType"),
        )
    ),
}


@dataclass(frozen=True)
class Import:
    """`target` is dotted: "qwen2vl_robot.bullet" or "numpy.typing"; a name imported from a module is not part of it."""

    target: str
    line: int
    is_for_types_only: bool

    @property
    def inside(self) -> str | None:
        """The target's name below the package, None for a third party."""
        return self.target.partition(".")[2] if is_within(self.target, PACKAGE) else None


class Module:
    """One file, `name` being its dotted name below the package ("" for the package itself)."""

    def __init__(self, name: str, text: str, path: str = "example.py") -> None:
        self.name, self.text, self.path = name, text, path

    @functools.cached_property
    def nodes(self) -> list[ast.AST]:
        """Every node; who only collects the tests needs none."""
        return list(ast.walk(ast.parse(self.text, self.path)))

    def at(self, line: int, complaint: str) -> str:
        return f"{self.path}:{line}: {complaint}"

    def imports(self, known: frozenset[str] = frozenset()) -> Iterator[Import]:
        """Every import, wherever it stands; `known` are the modules that `from package import module` may mean."""
        type_only = {id(inner) for node in self.nodes for inner in _type_checking_block(node)}
        for node in self.nodes:
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                joined = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
                targets = [path if path in known else str(node.module) for path in joined.values()]
            else:
                continue
            yield from (Import(target, node.lineno, id(node) in type_only) for target in dict.fromkeys(targets))


def _type_checking_block(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for statement in node.body:
            yield from ast.walk(statement)


def is_within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def load_modules() -> list[Module]:
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    return [Module(_dotted(f), f.read_text(encoding="utf-8"), f.relative_to(ROOT).as_posix()) for f in files]


def _dotted(file: Path) -> str:
    parts = file.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = load_modules()
KNOWN = frozenset(f"{PACKAGE}.{module.name}" for module in MODULES)


# ---------------------------------------------------------------------------------------------- the rules


def layer_of(name: str) -> int | None:
    """The layer of a module below the package; the longest listed prefix decides."""
    prefixes = [(prefix, i) for i, layer in enumerate(LAYERS) for prefix in layer if is_within(name, prefix)]
    return max(prefixes, key=lambda entry: len(entry[0]))[1] if prefixes else None


def layer_violations(module: Module) -> Iterator[str]:
    own = layer_of(module.name)
    if own is None:
        if module.name:
            yield module.at(1, f"{module.name} has no layer; give it one in LAYERS")
        return
    for imported in module.imports(KNOWN):
        other = layer_of(imported.inside) if imported.inside else None
        if other is not None and other > own:
            yield module.at(imported.line, f"{module.name} imports {imported.inside}, which stands on top of it")


def forbidden_violations(module: Module) -> Iterator[str]:
    for imported in module.imports(KNOWN):
        for importer, target, why in FORBIDDEN:
            if not imported.inside or imported.is_for_types_only:
                continue
            if is_within(module.name, importer) and is_within(imported.inside, target):
                yield module.at(imported.line, f"{module.name} imports {imported.inside}: {why}")


def confined_violations(module: Module) -> Iterator[str]:
    for imported in module.imports():
        allowed, why = CONFINED.get(imported.target.partition(".")[0], (("",), ""))
        if allowed == ("",) or imported.is_for_types_only:
            continue
        if not any(is_within(module.name, prefix) for prefix in allowed):
            places = ", ".join(allowed) or "nothing in the package"
            yield module.at(imported.line, f"{module.name} imports {imported.target}; only {places} may: {why}")


def approval_violations(module: Module) -> Iterator[str]:
    """Outside gate.py the class may be named in imports, annotations, isinstance and match, and nowhere else."""
    if module.name == "gate":
        return
    harmless = {id(inner) for node in module.nodes for part in _only_read(node) for inner in ast.walk(part)}
    for node in module.nodes:
        named = getattr(node, "id", None) == APPROVED or getattr(node, "attr", None) == APPROVED
        if named and id(node) not in harmless:
            yield module.at(node.lineno, f"{module.name} uses {APPROVED} as a value; only gate.py makes one")
        if isinstance(node, ast.alias) and node.name == APPROVED and node.asname:
            yield module.at(node.lineno, f"{module.name} hides {APPROVED} behind the name {node.asname}")
        if isinstance(node, ast.Call) and _copies_an_approval(node):
            yield module.at(node.lineno, f"{module.name} copies an approval; only gate.py makes one")


def _copies_an_approval(call: ast.Call) -> bool:
    function = ast.unparse(call.func).rpartition(".")[2]
    copied = "".join(ast.unparse(argument) for argument in call.args[:1])
    return function in ("replace", "copy", "deepcopy") and "approved" in copied.lower()


def _only_read(node: ast.AST) -> list[ast.AST]:
    """The parts of a node in which a class is named without being called."""
    parts: list[ast.AST | None] = []
    if isinstance(node, (ast.arg, ast.AnnAssign)):
        parts = [node.annotation]
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        parts = [node.returns]
    elif isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
        parts = list(node.args[1:])
    elif isinstance(node, ast.MatchClass):
        parts = [node.cls]
    return [part for part in parts if part is not None]


def truth_violations(module: Module) -> Iterator[str]:
    """Outside `KNOWS_TRUTH` nobody names the plant's truth: by import, by attribute or by a method's name as text."""
    if any(is_within(module.name, place) for place in KNOWS_TRUTH):
        return
    places = ", ".join(KNOWS_TRUTH)
    for node in module.nodes:
        for name in _names_of_truth(node):
            line = getattr(node, "lineno", 1)
            yield module.at(line, f"{module.name} names {name}; only {places} may read what is true")


def _names_of_truth(node: ast.AST) -> list[str]:
    """What of the truth a node names. "truth" alone counts as an attribute only: it is a word for people as well."""
    if isinstance(node, ast.Attribute):
        return [node.attr] if node.attr in TRUTH else []
    if isinstance(node, ast.Name):
        found = [node.id]
    elif isinstance(node, ast.alias):
        found = [node.name]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # Worker.call("true_objects")
        found = [node.value]
    else:
        found = []
    return [name for name in found if name in TRUTH and name != "truth"]


def length_violations(module: Module) -> Iterator[str]:
    allowed, _ = LONG_MODULES.get(module.name, (MAX_LINES, ""))
    lines = module.text.count("\n")
    if lines > allowed:
        yield module.at(allowed, f"{lines} lines, allowed {allowed}; split it")


def size_violations(module: Module) -> Iterator[str]:
    """Functions, classes and lists of parameters that nobody can take in at a glance."""
    for node in module.nodes:
        lines = (getattr(node, "end_lineno", None) or 0) - getattr(node, "lineno", 0) + 1
        if isinstance(node, ast.ClassDef) and lines > MAX_CLASS_LINES:
            yield module.at(node.lineno, f"class {node.name} has {lines} lines, allowed {MAX_CLASS_LINES}")
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if lines > MAX_FUNCTION_LINES:
            yield module.at(node.lineno, f"{node.name} has {lines} lines, allowed {MAX_FUNCTION_LINES}")
        found = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        count = sum(a is not None and a.arg not in ("self", "cls") for a in found)
        if count > MAX_PARAMETERS and f"{module.name}.{node.name}" not in MANY_PARAMETERS:
            yield module.at(node.lineno, f"{node.name} has {count} parameters, allowed {MAX_PARAMETERS}")


def newer_python_violations(module: Module) -> Iterator[str]:
    try:
        ast.parse(module.text, module.path, feature_version=(3, 10))
    except SyntaxError as error:
        yield module.at(error.lineno or 1, f"not Python 3.10: {error.msg}")
    for node in module.nodes:
        for alias in getattr(node, "names", []) if isinstance(node, (ast.Import, ast.ImportFrom)) else []:
            dotted = f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
            if dotted in SINCE_3_11:
                yield module.at(node.lineno, f"{dotted} came after Python 3.10")


def cycle_violations(modules: list[Module]) -> Iterator[str]:
    """One line for each module that comes back to itself over imports that run."""
    edges = {
        f"{PACKAGE}.{m.name}": {i.target for i in m.imports(KNOWN) if i.target in KNOWN and not i.is_for_types_only}
        for m in modules
    }
    for module in modules:
        start = f"{PACKAGE}.{module.name}"
        reached, waiting = set[str](), set(edges[start])
        while waiting:
            name = waiting.pop()
            reached.add(name)
            waiting |= edges.get(name, set()) - reached
        if start in reached:
            yield module.at(1, f"{module.name} imports itself by way of {sorted(reached & set(edges[start]))}")


# ---------------------------------------------------------------------------------------------- the tests

RULES = [
    layer_violations,
    forbidden_violations,
    confined_violations,
    approval_violations,
    truth_violations,
    length_violations,
    size_violations,
    newer_python_violations,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_module_breaks_a_rule(rule: Callable[[Module], Iterator[str]]) -> None:
    violations = [line for module in MODULES for line in rule(module)]
    assert not violations, "\n" + "\n".join(violations)


def test_no_import_goes_in_a_circle() -> None:
    violations = list(cycle_violations(MODULES))
    assert not violations, "\n" + "\n".join(violations)


def test_every_listed_exception_still_exists() -> None:
    names = {module.name for module in MODULES}
    assert set(LONG_MODULES) <= names
    assert len(LONG_MODULES) <= MOST_LONG_MODULES
    assert all(lines > MAX_LINES and reason for lines, reason in LONG_MODULES.values())
    assert len(MANY_PARAMETERS) <= MOST_MANY_PARAMETERS
    functions = {f"{m.name}.{n.name}" for m in MODULES for n in m.nodes if isinstance(n, ast.FunctionDef)}
    assert set(MANY_PARAMETERS) <= functions


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (layer_violations, "gate", "from qwen2vl_robot.controller import run"),
        (layer_violations, "messages", "def f():\n    from qwen2vl_robot import config"),
        (layer_violations, "controller", "from qwen2vl_robot.planner.local import LocalPlanner"),
        (layer_violations, "utils", ""),
        (forbidden_violations, "validation.rehearsal", "import qwen2vl_robot.motion.ik"),
        (confined_violations, "validation.rehearsal", "import pybullet as p"),
        (confined_violations, "planner.contract", "from torch.nn import Module"),
        (approval_violations, "executor", "a = ApprovedMotion(motion)"),
        (approval_violations, "executor", "a = messages.ApprovedMotion(motion)"),
        (approval_violations, "executor", "make = ApprovedMotion"),
        (approval_violations, "executor", "a = object.__new__(ApprovedMotion)"),
        (approval_violations, "executor", "a = dataclasses.replace(approved, expires_ns=0)"),
        (approval_violations, "executor", "from qwen2vl_robot.messages import ApprovedMotion as A"),
        (forbidden_violations, "plant.cell", "from qwen2vl_robot.executor import JointTrack"),
        (forbidden_violations, "planner.local", "from qwen2vl_robot.plant.scenes import load_scene"),
        (forbidden_violations, "perception.view", "from qwen2vl_robot.plant import client"),
        (truth_violations, "demo", "from qwen2vl_robot.plant.client import PlantProcess, PlantTruth"),
        (truth_violations, "demo", "from qwen2vl_robot.plant.client import PlantTruth as Link"),
        (truth_violations, "demo", "def film(truth: PlantTruth) -> None: ..."),
        (truth_violations, "demo", "boxes = client.PlantTruth(wire).boxes()"),
        (truth_violations, "demo", "where = plant.truth.objects()"),
        (truth_violations, "controller", "where = cell.true_objects()"),
        (truth_violations, "nodes.controller_node", "seen = self._worker.call('true_boxes', timeout_s=1.0)"),
        (truth_violations, "nodes.graph_camera", "T = cell.true_T_base_camera()"),
        (length_violations, "gate", "x = 1\n" * (MAX_LINES + 1)),
        (size_violations, "gate", "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES),
        (size_violations, "gate", "class C:\n" + "    x = 1\n" * MAX_CLASS_LINES),
        (size_violations, "gate", "def f(a, b, c, d, *, e, f, g, h): ..."),
        (size_violations, "gate", "def f(a, b, c, d, e, f, g, **h): ..."),
        (newer_python_violations, "gate", "try:\n    pass\nexcept* ValueError:\n    pass"),
        (newer_python_violations, "gate", "from typing import Self"),
    ],
)
@pytest.mark.skipif(sys.version_info < (3, 11), reason="the newer syntax among the examples needs a newer parser")
def test_a_rule_reports_the_case_it_must_refuse(rule: Callable[[Module], Iterator[str]], name: str, text: str) -> None:
    assert list(rule(Module(name, text))) != []


@pytest.mark.parametrize(
    "text",
    [
        "def run(approved: ApprovedMotion) -> ApprovedMotion: ...",
        "def f(x): return isinstance(x, ApprovedMotion)",
        "match x:\n    case ApprovedMotion(): pass",
    ],
)
def test_naming_the_approval_in_a_type_is_no_violation(text: str) -> None:
    assert list(approval_violations(Module("executor", text))) == []


@pytest.mark.parametrize("name", ["plant.cell", "benchmarks.tabletop"])
def test_scoring_may_read_what_is_true(name: str) -> None:
    assert list(truth_violations(Module(name, "where = PlantTruth(wire).objects()"))) == []


def test_the_planner_that_is_called_truth_may_be_named() -> None:
    assert list(truth_violations(Module("cli", "KINDS = ('checkpoint', 'truth')\ntruth = KINDS[1]"))) == []


def test_a_circle_of_imports_is_reported() -> None:
    ring = [
        Module("gate", "import qwen2vl_robot.executor"),
        Module("executor", "from qwen2vl_robot.gate import admit"),
    ]
    assert len(list(cycle_violations(ring))) == 2


def test_the_controllers_side_loads_neither_simulator_nor_model() -> None:
    sides = (
        "controller",
        "gate",
        "executor",
        "lookout",
        "perception",
        "motion",
        "planner.contract",
        "planner.reply",
        "validation.pool",
        "film",
    )
    wanted = [f"{PACKAGE}.{m.name}" for m in MODULES if any(is_within(m.name, side) for side in sides)]
    if f"{PACKAGE}.controller" not in wanted:
        pytest.skip("controller.py does not exist yet")
    heavy = ["pybullet", "torch", "transformers", "rclpy"]
    code = f"import importlib, sys\nfor name in {wanted}: importlib.import_module(name)\n"
    code += f"print(*(name for name in {heavy} if name in sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == []
