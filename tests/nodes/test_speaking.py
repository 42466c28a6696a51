"""Questions and refusals are said aloud, once, in order, and never a word that could stop the robot."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.messages import InstructionSource, OutcomeKind
from qwen2vl_robot.nodes.reports import StatusReport, TaskOutcome
from qwen2vl_robot.nodes.speaking import News, Speaker


def mouth(file: Path, seconds: float = 0.0) -> list[str]:
    """A command that writes what it would say to a file."""
    code = f"import sys, time; time.sleep({seconds}); open({str(file)!r}, 'a').write(sys.stdin.read() + '|')"
    return [sys.executable, "-c", code]


def wait_until_quiet(speaker: Speaker) -> None:
    deadline = time.monotonic() + 20
    while speaker.is_speaking() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_texts_are_said_in_their_order_and_meanwhile_it_speaks(tmp_path: Path) -> None:
    speaker = Speaker(mouth(tmp_path / "said", 0.2))
    speaker.say("Which one?")
    assert speaker.is_speaking()
    speaker.say("No.")
    wait_until_quiet(speaker)
    speaker.close()
    assert (tmp_path / "said").read_text() == "Which one?|No.|"


@pytest.mark.parametrize("text", ["stop", "Say stop to end it.", "", "   "])
def test_a_stop_word_is_never_said(tmp_path: Path, text: str) -> None:
    speaker = Speaker(mouth(tmp_path / "said"))
    speaker.say(text)
    wait_until_quiet(speaker)
    speaker.close()
    assert not (tmp_path / "said").exists()


def test_a_long_text_is_cut_and_many_are_left_out(tmp_path: Path) -> None:
    speaker = Speaker(mouth(tmp_path / "said", 0.1))
    for _ in range(30):
        speaker.say("x" * 5000)
    wait_until_quiet(speaker)
    speaker.close()
    said = (tmp_path / "said").read_text().split("|")[:-1]
    assert 1 <= len(said) <= 5
    assert {len(text) for text in said} == {200}


def test_a_mouth_that_fails_is_no_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    speaker = Speaker([sys.executable, "-c", "raise SystemExit(1)"])
    speaker.say("Which one?")
    wait_until_quiet(speaker)
    speaker.close()
    assert "could not be said aloud" in caplog.text


def test_without_a_mouth_it_says_what_to_install() -> None:
    with pytest.raises(BadInputError, match="needs no-such-voice; run"):
        Speaker(["no-such-voice"])


def status(**said: Any) -> SimpleNamespace:
    return SimpleNamespace(data=StatusReport(state="idle", doing="", **said).model_dump_json())


def ended(outcome: OutcomeKind, tasks: int, *reasons: str) -> SimpleNamespace:
    task = TaskOutcome(
        instruction="x", source=InstructionSource.VOICE, outcome=outcome, causes=[], reasons=list(reasons), steps=[],
        seconds={},
    )  # fmt: skip
    return status(tasks=tasks, last_task=task)


def test_news_are_said_once_and_old_ones_never() -> None:
    said = list[str]()
    news = News(said.append)
    for message in (
        ended(OutcomeKind.ASKED, 3, "Which block?"),  # from before it listened
        ended(OutcomeKind.ASKED, 4, "Which ball?"),
        ended(OutcomeKind.ASKED, 4, "Which ball?"),
        ended(OutcomeKind.REFUSED, 5, "It is too heavy"),
        ended(OutcomeKind.ACHIEVED, 6, "done"),
        status(tasks=6, refused_instructions=1, last_refusal="Another task runs"),
        status(tasks=6, refused_instructions=1, last_refusal="Another task runs", awaits="ab12"),
        SimpleNamespace(data="no status"),
    ):
        news.take(message)
    assert said[:3] == ["Which ball?", "No. It is too heavy", "No. Another task runs"]
    assert "by hand" in said[3]
    assert len(said) == 4
