"""Forms from the user's cache are those that are spelled out, and nothing that is wrong with a file changes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen2vl_robot.languages import load_languages
from qwen2vl_robot.reading.lexicon import Lexicon


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "qwen2vl_robot"


@pytest.mark.parametrize(("code", "is_bare"), [("en", False), ("vi", True), ("ja", False)])
def test_what_is_read_back_is_what_was_spelled_out(folder: Path, code: str, is_bare: bool) -> None:
    language = load_languages()[code]
    spelled = Lexicon(language, is_bare=is_bare)
    assert len(list(folder.glob("words-*.json"))) == 1
    again = Lexicon(language, is_bare=is_bare)
    assert again.entries == spelled.entries
    assert vars(again).keys() <= vars(spelled).keys(), "it was read, not spelled out"


@pytest.mark.parametrize("wrong", ["empty", "cut", "changed", "foreign", "deep"])
def test_a_wrong_file_is_spelled_out_anew(folder: Path, wrong: str) -> None:
    language = load_languages()["en"]
    right = Lexicon(language).entries
    (file,) = folder.glob("words-*.json")
    content = file.read_bytes()
    file.write_bytes(
        {
            "empty": b"",
            "cut": content[: len(content) // 2],
            "changed": content.replace(b'"stop"', b'"pick"', 1),
            "foreign": b"\x00\xff{]",
            "deep": b"[" * 100_000,
        }[wrong]
    )
    assert Lexicon(language).entries == right
    assert file.read_bytes() == content


def test_without_a_place_to_write_every_word_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert "block" in Lexicon(load_languages()["en"]).entries


def test_another_language_file_has_forms_of_its_own(folder: Path) -> None:
    language = load_languages()["en"]
    Lexicon(language)
    words = {**language.reading.words, "pick": "zorp"}
    other = language.model_copy(update={"reading": language.reading.model_copy(update={"words": words})})
    assert "zorp" in Lexicon(other).entries
    assert len(list(folder.glob("words-*.json"))) == 2
