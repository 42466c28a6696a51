"""A Qwen2-VL checkpoint in this process → grounded plans; planner/process.py starts it."""

from __future__ import annotations

import functools
import time
from dataclasses import replace

import torch

from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.messages import ImageBox, ObjectReference, Plan, PlannerRequest
from qwen2vl_robot.planner.answers import speak_like
from qwen2vl_robot.planner.contract import (
    BoxConvention,
    PlannerMode,
    PromptStyle,
    build_detection_messages,
    messages_for,
    prompt_text,
)
from qwen2vl_robot.planner.decoding import Decoded, generate_plainly
from qwen2vl_robot.planner.deeds import plan_each
from qwen2vl_robot.planner.detect import Found, find_each, found_in, get_ready, plan_by_detection
from qwen2vl_robot.planner.grammar import detection_grammar, finishing_grammar
from qwen2vl_robot.planner.loading import load_model
from qwen2vl_robot.planner.picture import check_picture
from qwen2vl_robot.planner.prompts import Prompts
from qwen2vl_robot.planner.reply import RawReply, plan_of
from qwen2vl_robot.planner.sources import ModelSettings, read_settings
from qwen2vl_robot.planner.windows import format_objects, plan_looking_again
from qwen2vl_robot.reasons import PlannerReason

_TAKE_CLIPS = ("qwen2_vl", "qwen2_5_vl")  # Qwen3-VL needs time stamps between a video's frames


class LocalPlanner:
    """One loaded checkpoint.

    Args:
        model: a model name as in sources.py, or its settings; not a model behind a server.

    Raises:
        BadInputError: no such model, a missing or truncated file, not a Qwen-VL, or not enough memory.
    """

    def __init__(self, model: str | ModelSettings) -> None:
        settings = read_settings(model) if isinstance(model, str) else model
        loaded = load_model(settings)
        self._mode = settings.mode
        if self._mode is PlannerMode.DETECT:
            get_ready()
        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        self._contract, self._decoder, self._grammar = loaded.contract, loaded.decoder, loaded.grammar
        self._prompts = Prompts(loaded.tokenizer, loaded.images, loaded.model.device, loaded.model.dtype)

    def limits(self) -> tuple[int, float]:
        """Measure (bytes of the weights of text layers and output head, best memory bandwidth in bytes per second)."""
        text = self._model.model.language_model
        weights = sum(p.numel() * p.element_size() for p in [*text.layers.parameters(), self._model.lm_head.weight])
        block = torch.ones(2**28 if self._model.device.type == "cuda" else 2**25, device=self._model.device)
        seconds = []
        for _ in range(5):
            began_s = time.perf_counter()
            float(block.sum())
            seconds.append(time.perf_counter() - began_s)
        return weights, block.numel() * block.element_size() / min(seconds)

    def plan(
        self,
        request: PlannerRequest,
        *,
        shows_all: bool = False,
        mode: PlannerMode | None = None,
        work_place: ImageBox | None = None,
    ) -> Plan:
        """Plan for one request.

        Args:
            work_place: where in the picture the robot works, if that is known.
            shows_all: also show further cameras and the clip to a checkpoint with the compact prompt, which was trained
                on single pictures and otherwise gets one.
            mode: by default that of the settings.

        Raises:
            PlannerError: the picture, the clip or the reply cannot be used.
        """
        if (mode or self._mode) is PlannerMode.DETECT:
            return plan_by_detection(request, self._find)
        if self._contract.prompt_style is PromptStyle.COMPACT:
            how = (
                functools.partial(self._plan_one, shows_all=True)
                if shows_all
                else functools.partial(self._look_again, work_place=work_place)
            )
            return speak_like(plan_each(request, how), request.instruction)
        return self._plan_one(request, shows_all=shows_all)

    def _plan_one(self, request: PlannerRequest, *, shows_all: bool) -> Plan:
        answer = self.reply(request, shows_all=shows_all)
        return plan_of(answer, request, self._contract.box_convention)

    def _look_again(self, request: PlannerRequest, *, work_place: ImageBox | None) -> Plan:
        """Plan with the compact prompt, and look through windows where the picture is larger than the model's."""
        plan_one = functools.partial(self._plan_one, shows_all=False)
        if not self._prompts.shrinks(request.rgb):
            return plan_one(request)
        return plan_looking_again(request, work_place, plan_one, self._go_on)

    def _go_on(self, request: PlannerRequest, things: tuple[ObjectReference, ...]) -> Plan:
        """Have the model finish a reply whose objects are given."""
        answer = self.reply(request, grammar=finishing_grammar(format_objects(things), len(things)))
        return plan_of(answer, request, self._contract.box_convention)

    def _find(self, request: PlannerRequest, nouns: tuple[str, ...]) -> Found:
        convention = self._contract.box_convention
        if self._contract.prompt_style is PromptStyle.COMPACT:
            return find_each(request, nouns, convention, self.reply)
        return found_in(self.locate(request, nouns), nouns, convention)

    def locate(self, request: PlannerRequest, nouns: tuple[str, ...], *, max_coordinate: int | None = None) -> RawReply:
        """Decode the raw reply about where some things are in the request's picture.

        Args:
            max_coordinate: see `reply`.

        Raises:
            PlannerError: see `reply`.
        """
        began_s = time.perf_counter()
        check_picture(request.rgb)
        messages = build_detection_messages(nouns)
        prompt, size_px = self._prompts.make((request.rgb,), messages)
        answer = self._decoder.decode(prompt, detection_grammar(max_coordinate or self._limit(size_px), nouns))
        text = self._tokenizer.decode(answer.ids, skip_special_tokens=False)
        seconds = time.perf_counter() - began_s
        return RawReply(text, size_px, answer.decoded_tokens, seconds=seconds, prompt=prompt_text(messages))

    def _limit(self, size_px: tuple[int, int]) -> int:
        """The largest coordinate of the model's convention."""
        return max(size_px) if self._contract.box_convention is BoxConvention.RESIZED_PIXELS else 1000

    def reply(
        self,
        request: PlannerRequest,
        *,
        max_coordinate: int | None = None,
        grammar: str | None = None,
        is_plain: bool = False,
        shows_all: bool = False,
    ) -> RawReply:
        """Decode the raw reply, greedily and inside the contract's grammar.

        Args:
            max_coordinate: largest box coordinate; by default that of the model's convention.
            grammar: a narrower one than the contract's.
            is_plain: use transformers' `generate`, one token after the other: slow, the reference to compare with.
            shows_all: see `plan`.

        Raises:
            PlannerError: the picture or the clip cannot be used, the reply does not end, or the logits are NaN.
        """
        began_s = time.perf_counter()
        if self._contract.prompt_style is PromptStyle.COMPACT and not shows_all:
            request = replace(request, others=(), clip=())
        messages = self._messages(request)
        prompt, size_px = self._prompts.make((request.rgb, *request.others), messages, request.clip)
        grammar = grammar or self._grammar(max_coordinate or self._limit(size_px))
        if is_plain:
            ids = generate_plainly(self._model, self._decoder.tokenizer, prompt, grammar)
            answer = Decoded(ids, len(ids), len(ids), 0, 0)
        else:
            answer = self._decoder.decode(prompt, grammar)
        text = self._tokenizer.decode(answer.ids, skip_special_tokens=False)
        spent_s = time.perf_counter() - began_s
        return RawReply(
            text=text,
            image_size_px=size_px,
            decoded_tokens=answer.decoded_tokens,
            forced_tokens=answer.forced_tokens,
            reused_tokens=answer.reused_tokens,
            passes=answer.passes,
            seconds=spent_s,
            decode_s=answer.decode_s,
            prompt=prompt_text(messages),
        )

    def _messages(self, request: PlannerRequest) -> list[dict[str, object]]:
        """Build the chat messages of a request, whose pictures and clip it checks."""
        for picture in (request.rgb, *request.others, *request.clip):
            check_picture(picture)
        family = self._model.config.model_type
        if request.clip and family not in _TAKE_CLIPS:
            raise PlannerError(
                f"only {', '.join(_TAKE_CLIPS)} can read a clip, not {family}", reason=PlannerReason.BAD_REQUEST
            )
        return messages_for(request, self._contract.prompt_style)
