"""The pages that people read → one line for each thing they say that is not there: links, commands, files, size.

Pages: README.md, CONTRIBUTING.md, sim/README.md and docs/. A link must lead somewhere; a `qwen2vl-robot` command in
code must exist, with these options; docs/architecture.md draws the tree of the package as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from qwen2vl_robot.cli import app

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "qwen2vl_robot"
TREE_PAGE = "docs/architecture.md"
DECISIONS = "docs/decisions"
MAX_README_LINES, MAX_README_WORDS = 180, 2000
PROGRAM = "qwen2vl-robot"
PLACEHOLDER = "COMMAND"  # in `qwen2vl-robot COMMAND --help`

_FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
_CALL = re.compile(rf"(?:^|[\s/(])({PROGRAM})(?=\s|$)(.*)")
_BETWEEN_CALLS = re.compile(r"[|;&]")
_ENDS_A_CALL = re.compile(r"\s#|[|;&)]|\\$")
_TREE_LINE = re.compile(r"^( *)([\w.\-]+/?)(?: +(\S.*))?$")


@dataclass(frozen=True)
class Page:
    """A Markdown file, `path` below the repository's root."""

    path: str
    text: str

    @property
    def blocks(self) -> list[str]:
        """What stands in fenced code."""
        return [match[1] for match in _FENCE.finditer(self.text)]

    @property
    def prose(self) -> str:
        """Everything but fenced code."""
        return _FENCE.sub("\n", self.text)

    @property
    def spans(self) -> list[str]:
        """What stands in inline code, each on one line."""
        return [" ".join(match[2].split()) for match in _SPAN.finditer(self.prose)]


def load_pages() -> list[Page]:
    files = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "sim/README.md")]
    files += sorted((ROOT / "docs").rglob("*.md"))
    return [Page(f.relative_to(ROOT).as_posix(), f.read_text(encoding="utf-8")) for f in files]


PAGES = load_pages()


# ------------------------------------------------------------------------------------------------- links


def anchors_of(text: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings.

    >>> sorted(anchors_of("# On `a` robot\\n## On a robot"))
    ['on-a-robot', 'on-a-robot-1']
    """
    found: set[str] = set()
    for match in _HEADING.finditer(_FENCE.sub("\n", text)):
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1])
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        numbered = (f"{slug}-{n}" for n in range(1, 1000))
        found.add(slug if slug not in found else next(name for name in numbered if name not in found))
    return found


def link_violations(page: Page) -> Iterator[str]:
    for target in _LINK.findall(_SPAN.sub(" ", page.prose)):
        if re.match(r"[a-z][a-z0-9+.\-]*:", target):
            continue
        name, _, anchor = target.partition("#")
        file = ((ROOT / page.path).parent / name).resolve() if name else ROOT / page.path
        if not file.is_relative_to(ROOT) or not file.exists():
            yield f"{page.path}: links {target}, which does not exist"
        elif anchor and anchor not in anchors_of(page.text if not name else file.read_text(encoding="utf-8")):
            yield f"{page.path}: links {target}; {file.name} has no heading with that anchor"


# ---------------------------------------------------------------------------------------------- commands


@cache
def commands() -> Mapping[str, frozenset[str]]:
    """Every command ("bench stop") with its options, as the program itself defines them."""
    found: dict[str, frozenset[str]] = {}

    def walk(command: Any, name: str) -> None:
        options = {o for p in command.params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")}
        found[name] = frozenset({*options, "--help"})
        for word, inner in getattr(command, "commands", {}).items():
            walk(inner, f"{name} {word}".strip())

    walk(typer.main.get_command(app), "")
    return found


def calls_in(page: Page) -> Iterator[list[str]]:
    """The words after the program's name, of each call in code; also of `eval --seed 3`, which leaves the name out."""
    for code in (*page.blocks, *page.spans):
        for line in code.replace("\\\n", " ").splitlines():
            for match in filter(None, map(_CALL.search, _BETWEEN_CALLS.split(line))):
                yield _ENDS_A_CALL.split(match[2], maxsplit=1)[0].split()
    first_words = {name.partition(" ")[0] for name in commands() if name}
    for span in page.spans:
        words = _ENDS_A_CALL.split(span, maxsplit=1)[0].split()
        if words and words[0] in first_words and any(word.startswith("-") for word in words):
            yield words


def command_violations(page: Page) -> Iterator[str]:
    for words in calls_in(page):
        told = f"{page.path}: `{' '.join([PROGRAM, *words])}`"
        if not words or words[0] == PLACEHOLDER:
            continue
        wanted = ("",) if words[0].startswith("-") else (" ".join(words[:2]), words[0])
        names = [name for name in wanted if name in commands()]
        if not names or (names[0] == "bench" and words[1:2] != ["--help"]):
            yield f"{told}: no such command"
            continue
        for word in words:
            option = word.strip("[]'\",.").partition("=")[0]
            if re.match(r"--?[A-Za-z]", option) and option not in commands()[names[0]]:
                yield f"{told}: {names[0]} has no option {option}"


# -------------------------------------------------------------------------------------------- README, tree


def size_violations(page: Page) -> Iterator[str]:
    lines, words = page.text.count("\n"), len(page.text.split())
    if page.path == "README.md" and lines > MAX_README_LINES:
        yield f"{page.path}: {lines} lines, allowed {MAX_README_LINES}; docs/ is the place"
    if page.path == "README.md" and words > MAX_README_WORDS:
        yield f"{page.path}: {words} words, allowed {MAX_README_WORDS}; docs/ is the place"


def tree_of(page: Page) -> dict[str, str]:
    """Path → what is said of it, from the fenced tree that begins with the package; a folder ends in /.

    Two spaces more go one level down.
    """
    block = next((b for b in page.blocks if b.startswith(f"{PACKAGE}/")), "")
    found: dict[str, str] = {}
    above: list[str] = []
    for line in filter(str.strip, block.splitlines()):
        match = _TREE_LINE.match(line)
        assert match is not None, f"{page.path}: not a line of a tree: {line!r}"
        above = [*above[: len(match[1]) // 2], match[2]]
        found["".join(above)] = match[3] or ""
    return found


def files_of_package() -> set[str]:
    """Every folder and module of the package; a folder stands for its __init__.py."""
    paths = [p for p in (ROOT / PACKAGE).rglob("*") if "__pycache__" not in p.parts]
    folders = {p.relative_to(ROOT).as_posix() + "/" for p in paths if p.is_dir()}
    modules = {p.relative_to(ROOT).as_posix() for p in paths if p.suffix == ".py" and p.name != "__init__.py"}
    return {f"{PACKAGE}/", *folders, *modules}


def tree_violations(page: Page) -> Iterator[str]:
    if page.path != TREE_PAGE:
        return
    tree = tree_of(page)
    for path in sorted(files_of_package() - tree.keys()):
        yield f"{page.path}: the tree does not name {path}"
    for path, meaning in tree.items():
        if not ((ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file()):
            yield f"{page.path}: the tree names {path}, which does not exist"
        elif not meaning:
            yield f"{page.path}: the tree does not say what {path} is for"


# ------------------------------------------------------------------------------------------------ decisions


def index_violations(page: Page) -> Iterator[str]:
    """The index has a row with number, title and status for every file of a decision."""
    if page.path != f"{DECISIONS}/README.md":
        return
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in page.text.splitlines() if "|" in line]
    listed = {number.group(): row for row in rows if (number := re.search(r"\d{3}", row[0]))}
    for file in sorted((ROOT / DECISIONS).glob("[0-9]*.md")):
        number, _, title = file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ").partition(" ")
        row = listed.get(number)
        if row is None or len(row) != 3 or row[1] != title or not row[2] or file.name not in row[0]:
            yield f"{page.path}: needs the row | [{number}]({file.name}) | {title} | its status |"


# ------------------------------------------------------------------------------------------------- the tests

RULES = [link_violations, command_violations, size_violations, tree_violations, index_violations]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_page_breaks_a_rule(rule: Callable[[Page], Iterator[str]]) -> None:
    violations = [line for page in PAGES for line in rule(page)]
    assert not violations, "\n" + "\n".join(violations)


def test_every_page_that_has_a_rule_of_its_own_is_there() -> None:
    assert {"README.md", TREE_PAGE, f"{DECISIONS}/README.md"} <= {page.path for page in PAGES}


_TREE = "```text\n{}```\n"


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (link_violations, "README.md", "see [there](docs/nowhere.md)"),
        (link_violations, "docs/README.md", "a path from the root, not from the page: [x](docs/README.md)"),
        (link_violations, "README.md", "![film](docs/results/no.gif)"),
        (link_violations, "README.md", "[out](../../etc/passwd)"),
        (link_violations, "README.md", "# A title\n[x](#another-title)"),
        (link_violations, "README.md", "[x](CONTRIBUTING.md#no-such-heading)"),
        (command_violations, "README.md", "`qwen2vl-robot dance`"),
        (command_violations, "README.md", "`qwen2vl-robot --verzion`"),
        (command_violations, "README.md", "`qwen2vl-robot bench dance`"),
        (command_violations, "README.md", "`qwen2vl-robot bench`"),
        (command_violations, "README.md", "`qwen2vl-robot eval --world scenes/kuka_iiwa.yaml`"),
        (command_violations, "README.md", "`eval --world scenes/kuka_iiwa.yaml`"),
        (command_violations, "README.md", "```sh\n.venv/bin/qwen2vl-robot train \\\n    --epochs 3\n```"),
        (command_violations, "README.md", "`qwen2vl-robot run -q robot:=franka_panda`"),
        (command_violations, "README.md", "`qwen2vl-robot sim --seed 3 & qwen2vl-robot run --seed 3`"),
        (size_violations, "README.md", "a\n" * (MAX_README_LINES + 1)),
        (size_violations, "README.md", "a " * (MAX_README_WORDS + 1)),
        (tree_violations, TREE_PAGE, "no tree at all"),
        (tree_violations, TREE_PAGE, _TREE.format(f"{PACKAGE}/  the package\n  nothing.py  is not there\n")),
        (index_violations, f"{DECISIONS}/README.md", "| decision | title | status |\n|---|---|---|\n"),
    ],
)
def test_a_rule_reports_the_case_it_must_refuse(rule: Callable[[Page], Iterator[str]], path: str, text: str) -> None:
    assert list(rule(Page(path, text))) != []


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (link_violations, "README.md", "# A `b`, c\n[x](#a-b-c) [y](https://example.com/x) `[z](nowhere.md)`"),
        (link_violations, "docs/README.md", "[up](../README.md)"),
        (command_violations, "README.md", "`qwen2vl-robot COMMAND --help`, `qwen2vl-robot`, `'qwen2vl-robot[voice]'`"),
        (command_violations, "README.md", "```sh\nqwen2vl-robot sim --graph dds --seed 3 &  # --not-an-option\n```"),
        (command_violations, "README.md", "`qwen2vl-robot --version`"),
        (command_violations, "README.md", "`bench stop --trials 1000`, `ros2 launch x --show-args`"),
        (size_violations, "docs/README.md", "a\n" * 1000),
    ],
)
def test_a_rule_lets_pass_what_is_right(rule: Callable[[Page], Iterator[str]], path: str, text: str) -> None:
    assert list(rule(Page(path, text))) == []


@pytest.mark.parametrize(
    ("line", "instead"),
    [(r"\n  gate\.py [^\n]*", ""), (r"\n  gate\.py [^\n]*", "\n  gate.py")],
    ids=["missing", "bare"],
)
def test_the_tree_must_name_each_module_and_say_what_it_is_for(line: str, instead: str) -> None:
    text = re.sub(line, instead, next(page for page in PAGES if page.path == TREE_PAGE).text, count=1)
    violations = list(tree_violations(Page(TREE_PAGE, text)))
    assert len(violations) == 1
    assert f"{PACKAGE}/gate.py" in violations[0]
