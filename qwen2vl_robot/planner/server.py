"""A Qwen-VL behind an OpenAI-compatible server → grounded plans, in a process of its own.

The server is not trusted: time, size and form of its answers are bounded, and a server that keeps failing gets no
requests for a while.
"""

from __future__ import annotations

import base64
import io
import os
import time
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from qwen2vl_robot.bounds import REPLY_BYTES, shown
from qwen2vl_robot.documents import parse_json
from qwen2vl_robot.errors import BadInputError, PlannerError
from qwen2vl_robot.messages import Plan, PlannerRequest
from qwen2vl_robot.planner.contract import (
    MAX_BOXES,
    MAX_OBJECTS,
    PlannerMode,
    PromptStyle,
    build_detection_messages,
    convention_of,
    messages_for,
    prompt_text,
)
from qwen2vl_robot.planner.deeds import plan_each
from qwen2vl_robot.planner.detect import Found, found_in, get_ready, plan_by_detection
from qwen2vl_robot.planner.exchange import Answer, Failure, NoAnswerError, Request, ask
from qwen2vl_robot.planner.picture import MAX_CLIP_PIXELS, MIN_CLIP_PIXELS, check_picture, resized_size_px
from qwen2vl_robot.planner.reply import RawReply, Reply, plan_of
from qwen2vl_robot.planner.sources import PIXELS_A_TOKEN, ModelSettings
from qwen2vl_robot.reasons import PlannerReason

MAX_ATTEMPTS = 3
_WAITS_S = (0.5, 1.0)
_RETRIED = (408, 409, 429, *range(500, 600))
_MAX_REPLY_TOKENS = 1024
_BREAKS_AFTER = 3  # failed plans in a row
_STAYS_OPEN_S = 30.0
_BOX = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
_THING = {"bbox_2d": _BOX, "label": {"type": "string", "maxLength": 80}}
_DETECTIONS = {
    "type": "array",
    "maxItems": MAX_OBJECTS * MAX_BOXES,
    "items": {"type": "object", "properties": _THING, "required": [*_THING], "additionalProperties": False},
}
_SHARE_OF_TIME = 0.9  # of the time-out; the rest lets our own error cross the process boundary in time


class ServerPlanner:
    """A planner that asks one model on one server.

    Raises:
        BadInputError: the key's environment variable is empty, or the key is not plain ASCII.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._convention = settings.convention or convention_of(settings.model)
        self._style = settings.prompt_style or PromptStyle.FULL
        self._key = _key(settings)
        if settings.mode is PlannerMode.DETECT:
            get_ready()
        self._failures = 0
        self._closed_until_s = -float("inf")

    def plan(self, request: PlannerRequest, *, mode: PlannerMode | None = None) -> Plan:
        """Plan for one request: a picture, those of further cameras and a clip.

        Args:
            mode: by default that of the settings; where only boxes are asked for, only the first picture is shown.

        Raises:
            PlannerError: the picture, the server or its reply cannot be used.
        """
        if (mode or self._settings.mode) is PlannerMode.DETECT:
            return plan_by_detection(request, self._find)
        return plan_each(request, self._plan_one) if self._style is PromptStyle.COMPACT else self._plan_one(request)

    def _plan_one(self, request: PlannerRequest) -> Plan:
        answer = self.reply(request)
        return plan_of(answer, request, self._convention)

    def _find(self, request: PlannerRequest, nouns: tuple[str, ...]) -> Found:
        answer = self.locate(request, nouns)
        return found_in(answer, nouns, self._convention)

    def locate(self, request: PlannerRequest, nouns: tuple[str, ...]) -> RawReply:
        """Ask the server for the raw reply about where some things are in the request's picture.

        Raises:
            PlannerError: as `reply`.
        """
        return self.reply(replace(request, others=(), clip=()), nouns=nouns)

    def reply(self, request: PlannerRequest, *, nouns: tuple[str, ...] = ()) -> RawReply:
        """Ask the server for the raw reply: a plan, or where some nouns are.

        Raises:
            PlannerError: unusable picture, no usable answer in time, or too many failures just before.
        """
        began_s = time.monotonic()
        for picture in (request.rgb, *request.others, *request.clip):
            check_picture(picture)
        if began_s < self._closed_until_s:
            left_s = self._closed_until_s - began_s
            raise _no_reply(
                f"the server failed {self._failures} times in a row; wait {left_s:.0f} s before the next plan"
            )
        messages = build_detection_messages(nouns) if nouns else messages_for(request, self._style)
        question = self._question(request, messages, nouns)
        try:
            body = self._post(question, began_s + self._settings.timeout_s * _SHARE_OF_TIME)
            text = _content(body)
        except PlannerError:
            self._failures += 1
            if self._failures >= _BREAKS_AFTER:
                self._closed_until_s = time.monotonic() + _STAYS_OPEN_S
            raise
        self._failures = 0
        size_px = self._settings.as_sent(self._size_px(request.rgb))
        return RawReply(text, size_px, seconds=time.monotonic() - began_s, prompt=prompt_text(messages))

    def _size_px(self, rgb: npt.NDArray[np.uint8]) -> tuple[int, int]:
        """Compute the size that the model's own processor would choose, so that the server resizes nothing."""
        low = self._settings.min_pixels or 4 * PIXELS_A_TOKEN
        high = self._settings.max_pixels or 1280 * PIXELS_A_TOKEN
        factor = 32 if "qwen3" in self._settings.model.lower() else 28
        return resized_size_px((rgb.shape[1], rgb.shape[0]), factor, low, high)

    def _url(self, rgb: npt.NDArray[np.uint8]) -> str:
        """Encode the picture, as the model will see it, as a data URL."""
        return "data:image/png;base64," + _encoded(rgb, self._size_px(rgb), "PNG", compress_level=1)

    def _film_url(self, clip: tuple[npt.NDArray[np.uint8], ...]) -> str:
        """Encode the clip as vLLM reads it: JPEG pictures in one data URL."""
        size_px = resized_size_px((clip[0].shape[1], clip[0].shape[0]), 28, MIN_CLIP_PIXELS, MAX_CLIP_PIXELS)
        return "data:video/jpeg;base64," + ",".join(_encoded(rgb, size_px, "JPEG", quality=90) for rgb in clip)

    def _question(
        self, request: PlannerRequest, messages: list[dict[str, Any]], nouns: tuple[str, ...]
    ) -> dict[str, Any]:
        """Build the request body: messages with the pictures in them, the reply's schema, decoding parameters."""
        urls = iter([self._url(rgb) for rgb in (request.rgb, *request.others)])

        def filled(part: dict[str, Any]) -> dict[str, Any]:
            if part["type"] == "video":
                return {"type": "video_url", "video_url": {"url": self._film_url(request.clip)}}
            return {"type": "image_url", "image_url": {"url": next(urls)}} if part["type"] == "image" else part

        def shown(content: Any) -> Any:
            return [filled(part) for part in content] if isinstance(content, list) else content

        messages = [{**message, "content": shown(message["content"])} for message in messages]
        question: dict[str, Any] = {"model": self._settings.model, "messages": messages}
        schema = _DETECTIONS if nouns else Reply.model_json_schema()
        if self._settings.constrain == "structured_outputs":
            question["structured_outputs"] = {"json": schema}
        elif self._settings.constrain == "response_format" and not nouns:  # its schemas are objects, no lists
            named = {"name": "plan", "schema": schema}
            question["response_format"] = {"type": "json_schema", "json_schema": named}
        return {**question, "temperature": 0.0, "seed": 0, "max_tokens": _MAX_REPLY_TOKENS}

    def _post(self, question: dict[str, Any], deadline_s: float) -> bytes:
        """Ask up to MAX_ATTEMPTS times, never past the deadline; return the body of the first HTTP success.

        Raises:
            PlannerError: no answer in time, or the server refused the request.
        """
        request = Request(f"{str(self._settings.server).rstrip('/')}/chat/completions", self._key, question)
        for attempt in range(MAX_ATTEMPTS):
            try:
                answer = ask(request, max(deadline_s - time.monotonic(), 0.01), REPLY_BYTES)
            except NoAnswerError as error:
                if error.failure is Failure.LATE:
                    raise _no_reply(f"the server did not answer within {self._settings.timeout_s:g} s") from error
                if error.failure is Failure.LONG:
                    raise PlannerError(f"the server's answer is {error}") from error
                problem, wait_s = f"no connection to {self._settings.server}: {error}", _WAITS_S[0]
            else:
                if answer.is_success:
                    return answer.body
                problem, wait_s = f"the server answered {answer.status}", _retry_after_s(answer, attempt)
                if answer.status not in _RETRIED:
                    raise _no_reply(f"{problem}: {_why(answer)}")
            if attempt + 1 == MAX_ATTEMPTS or time.monotonic() + wait_s >= deadline_s:
                raise _no_reply(f"{problem}, after {attempt + 1} of {MAX_ATTEMPTS} attempts")
            time.sleep(wait_s)
        raise _no_reply("no attempt was left")


def _encoded(rgb: npt.NDArray[np.uint8], size_px: tuple[int, int], kind: str, **how: int) -> str:
    """Encode a picture, resized to (width, height), as an image file in base64."""
    file = io.BytesIO()
    Image.fromarray(rgb).resize(size_px, Image.Resampling.BICUBIC).save(file, kind, **how)
    return base64.b64encode(file.getvalue()).decode()


def _key(settings: ModelSettings) -> str:
    if settings.key_variable is None:
        return "none"  # a private server needs no key
    key = os.environ.get(settings.key_variable, "").strip()
    if not key:
        raise BadInputError(f"model {settings.model}: the environment variable {settings.key_variable} holds no key")
    if not key.isascii() or not key.isprintable():
        raise BadInputError(f"model {settings.model}: the key in {settings.key_variable} is not plain ASCII")
    return key


def _content(body: bytes) -> str:
    """Extract the text of the first choice.

    Raises:
        PlannerError: the body is not a chat completion, or its text is missing or cut off.
    """
    try:
        answer = parse_json(body, "the answer")
        choice = answer["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
    except (BadInputError, KeyError, IndexError, TypeError, AttributeError) as error:
        begins = shown(body[:80].decode("utf-8", "replace"))
        raise PlannerError(f"the server's answer is no chat completion; it begins with {begins!r}") from error
    if not isinstance(text, str) or not text.strip():
        raise PlannerError("the server's answer has no text")
    if reason == "length":
        raise PlannerError(
            f"the model's reply does not end within {_MAX_REPLY_TOKENS} tokens", reason=PlannerReason.REPLY_CUT
        )
    return text


def _no_reply(text: str) -> PlannerError:
    return PlannerError(text, reason=PlannerReason.NO_REPLY)


def _why(answer: Answer) -> str:
    """What a server says about its refusal, or what to do about it."""
    if 300 <= answer.status < 400:
        return "redirects are not followed; give the address itself"
    return shown(answer.body[:1000].decode("utf-8", "replace")) or "it does not say why"


def _retry_after_s(answer: Answer, attempt: int) -> float:
    """Read how long the server asks us to wait; at least our own pause."""
    pause_s = _WAITS_S[min(attempt, len(_WAITS_S) - 1)]
    try:
        wanted_s = float(answer.retry_after or pause_s)
    except ValueError:
        return pause_s
    return max(wanted_s, pause_s) if np.isfinite(wanted_s) else pause_s
