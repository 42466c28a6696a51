"""Files and texts from outside: whatever they hold, they end soon, in one line, and that line prints no secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qwen2vl_robot.bounds import NUMBER_CHARS, YAML_BYTES, YAML_DEPTH, YAML_NODES
from qwen2vl_robot.cell import CellRules
from qwen2vl_robot.config import RobotProfile, load_yaml
from qwen2vl_robot.documents import parse_json, parse_yaml, read_file
from qwen2vl_robot.errors import BadInputError
from tests.hostile import MOST_MB, grown_mb

BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
HOSTILE = {
    "an alias bomb": BOMB,
    "a bomb of merged keys": BOMB.replace("[x,x,x,x,x,x,x,x,x]", "{x: 1}").replace("&a1 [", "&a1 {<<: [") + "}",
    "an alias inside itself": "a: &a [*a]",
    "deep flows": "[" * 1_000_000,
    "deep blocks": "- " * 1_000_000,
    "deep keys": "? " * 1_000_000,
    "many values": "a:\n" + "- 1\n" * (YAML_NODES + 1),
    "many texts": "[" + "x," * 1_000_000,
    "a huge integer": "a: " + "9" * 1_000_000,
    "a huge integer with a tag": f"a: !!int '{'9' * 1_000_000}'",
    "a huge integer of base sixteen": "a: -0x" + "f" * 1_000_000,
    "a huge integer of ones": "a: 0b" + "1" * 1_000_000,
    "a huge float": "a: " + "9" * 1_000_000 + ".0",
    "a number of minutes": "a: " + ":".join(["1"] * 1_000_000),
    "many directives": "".join(f"%TAG !{i}! x\n" for i in range(200_000)) + "--- a",
    "many documents": "--- a\n" * 400_000,
    "more bytes than allowed": "#" * (YAML_BYTES + 1),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_yaml_ends_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError) as refused:
        load_yaml(tmp_path / "a.yaml", CellRules)
    assert len(str(refused.value)) < 500
    assert str(refused.value).isprintable()


NEAR: dict[str, tuple[str, object]] = {
    "as deep as allowed": ("[" * YAML_DEPTH + "]" * YAML_DEPTH, None),
    "a long number": ("9" * NUMBER_CHARS, int("9" * NUMBER_CHARS)),
    "a long text of digits": ("'" + "9" * 1000 + "'", "9" * 1000),
    "a digest": ("f" * 128, "f" * 128),
    "a long text": ("3 blocks " + "and so on " * 100, "3 blocks " + ("and so on " * 100).strip()),
    "an alias": ("a: &a [1, 2]\nb: *a", {"a": [1, 2], "b": [1, 2]}),
    "many values": ("[" + "1," * (YAML_NODES - 1) + "]", [1] * (YAML_NODES - 1)),
}


@pytest.mark.parametrize(("text", "value"), NEAR.values(), ids=NEAR.keys())
def test_what_is_just_within_the_bounds_is_read(text: str, value: object) -> None:
    read = parse_yaml(text, "a.yaml")
    assert value is None or read == value


@pytest.mark.parametrize("name", ["pipe", "folder", "/dev/zero", "nowhere", "a\0b", "a" * 300])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(
        BadInputError, match=r"not a file|no such file|No such file|too long|Is a directory|No such dev"
    ):
        read_file(tmp_path / name, 100)


def test_a_file_is_as_long_as_allowed_and_no_byte_longer(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    assert len(read_file(tmp_path / "a", 100)) == 100
    with pytest.raises(BadInputError, match="more than 99 bytes"):
        read_file(tmp_path / "a", 99)


SECRETS = {
    "netrc": "machine example.org login me password hunter2\n",
    "several lines of netrc": "machine example.org\n  login me\n  password hunter2\n",
    "shadow": "root:$6$hunter2$x:19000:0:99999:7:::\n",
    "shadow without colons behind it": "root:$6$hunter2$x:19000:0\ndaemon:*:19000:0\n",
    "a key and its value": "password: hunter2\n",
    "environment": "export TOKEN=hunter2\n",
    "credentials": "[default]\naws_secret_access_key = hunter2\n",
    "a private key": "-----BEGIN PRIVATE KEY-----\nhunter2hunter2\n-----END PRIVATE KEY-----\n",
    "json": '{"token": {"secret": "hunter2"}}',
    "a list": "- hunter2\n",
    "broken YAML": "hunter2: [hunter2, hunter2: 'hunter2\n",
    "an alias": "a: *hunter2\n",
    "a tag": "a: !hunter2 b\n",
    "bytes": "hunter2\udcff",
    "a field of ours among others": "name: x\npassword: hunter2\n",
    "a whole part of the file": "name: [hunter2]\nsafety: [hunter2]\ngripper: hunter2 hunter2\n",
}


@pytest.mark.parametrize("text", SECRETS.values(), ids=SECRETS.keys())
def test_a_file_of_secrets_that_is_given_by_mistake_is_not_printed(tmp_path: Path, text: str) -> None:
    file = tmp_path / "robot.yaml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadInputError) as refused:
        load_yaml(file, RobotProfile)
    assert "hunter2" not in str(refused.value)


def test_a_wrong_value_is_shown_as_a_short_piece(tmp_path: Path) -> None:
    (tmp_path / "cell.yaml").write_text("unread: " + "y" * 1000, encoding="utf-8")
    with pytest.raises(BadInputError, match=r"unread = 'yyy.*\.\.\.: Input should be 'confirm' or 'allow'") as refused:
        load_yaml(tmp_path / "cell.yaml", CellRules)
    assert "y" * 40 not in str(refused.value)


HOSTILE_JSON = {
    "deep": "[" * 1_000_000,
    "as deep as the reader goes": "[" * 900 + "]" * 900,
    "a huge integer": "9" * 1_000_000,
    "a huge float": "0." + "9" * 1_000_000,
    "not a number": '{"a": NaN}',
    "a key twice": '{"a": 1, "a": 2}',
    "cut": '{"a": [1, 2',
    "not text": b"\xff\xfe\xff",
    "nothing": "",
}


@pytest.mark.parametrize("text", HOSTILE_JSON.values(), ids=HOSTILE_JSON.keys())
def test_hostile_json_ends_in_one_line(text: str | bytes) -> None:
    with pytest.raises(BadInputError, match="^it") as refused:
        parse_json(text, "it")
    assert str(refused.value).isprintable()


def test_json_within_the_bounds_is_read() -> None:
    assert parse_json("[" * YAML_DEPTH + "]" * YAML_DEPTH, "it") is not None
    assert parse_json(b'{"a": [1, 2.5, "' + b"9" * 1000 + b'"]}', "it") == {"a": [1, 2.5, "9" * 1000]}


WORST = {
    "an error for each of many values": "'a:\\n' + '- 1\\n' * 199_000",
    "an error for each of many fields": "''.join(f'a{i}: 1\\n' for i in range(99_000))",
    "a bomb": repr(BOMB),
    "one long text": "'a' * 4_000_000",
}


@pytest.mark.parametrize("text", WORST.values(), ids=WORST.keys())
def test_the_worst_refused_file_takes_little_memory(tmp_path: Path, text: str) -> None:
    code = f"""
import sys
from pathlib import Path
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.config import load_yaml
from qwen2vl_robot.validation.request import Request
file = Path(sys.argv[1])
file.write_text({text}, encoding="utf-8")
def attack():
    try:
        load_yaml(file, Request)
    except BadInputError:
        return True
"""
    assert grown_mb(code, str(tmp_path / "request.yaml")) < MOST_MB
