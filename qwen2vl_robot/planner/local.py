"""A Qwen2-VL checkpoint in this process → grounded plans; planner/process.py starts it."""

from __future__ import annotations

import functools
import hashlib
import time
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.messages import Plan, PlannerRequest
from qwen2vl_robot.planner.answers import speak_like
from qwen2vl_robot.planner.contract import (
    BoxConvention,
    PlannerMode,
    PromptStyle,
    build_detection_messages,
    messages_for,
    prompt_text,
)
from qwen2vl_robot.planner.decoding import Decoded, Prompt, generate_plainly
from qwen2vl_robot.planner.deeds import plan_each
from qwen2vl_robot.planner.detect import Found, find_each, found_in, get_ready, plan_by_detection
from qwen2vl_robot.planner.grammar import detection_grammar
from qwen2vl_robot.planner.loading import load_model
from qwen2vl_robot.planner.picture import MAX_CLIP_PIXELS, MIN_CLIP_PIXELS, check_picture
from qwen2vl_robot.planner.reply import RawReply, plan_of
from qwen2vl_robot.planner.sources import ModelSettings, read_settings
from qwen2vl_robot.reasons import PlannerReason

Picture = npt.NDArray[np.uint8]  # (h, w, 3)
Pictures = tuple[Picture, ...]
_TAKE_CLIPS = ("qwen2_vl", "qwen2_5_vl")  # Qwen3-VL needs time stamps between a video's frames
_IMAGE, _VIDEO = "<|image_pad|>", "<|video_pad|>"


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
        self._model, self._tokenizer, self._images = loaded.model, loaded.tokenizer, loaded.images
        self._contract, self._decoder, self._grammar = loaded.contract, loaded.decoder, loaded.grammar
        self._pictures: tuple[bytes, dict[str, Any]] = (b"", {})

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

    def plan(self, request: PlannerRequest, *, shows_all: bool = False, mode: PlannerMode | None = None) -> Plan:
        """Plan for one request.

        Args:
            shows_all: also show further cameras and the clip to a checkpoint with the compact prompt, which was trained
                on single pictures and otherwise gets one.
            mode: by default that of the settings.

        Raises:
            PlannerError: the picture, the clip or the reply cannot be used.
        """
        if (mode or self._mode) is PlannerMode.DETECT:
            return plan_by_detection(request, self._find)
        if self._contract.prompt_style is PromptStyle.COMPACT:
            plan = plan_each(request, functools.partial(self._plan_one, shows_all=shows_all))
            return speak_like(plan, request.instruction)
        return self._plan_one(request, shows_all=shows_all)

    def _plan_one(self, request: PlannerRequest, *, shows_all: bool) -> Plan:
        answer = self.reply(request, shows_all=shows_all)
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
        prompt, size_px = self._prompt((request.rgb,), messages)
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
        is_plain: bool = False,
        shows_all: bool = False,
    ) -> RawReply:
        """Decode the raw reply, greedily and inside the contract's grammar.

        Args:
            max_coordinate: largest box coordinate; by default that of the model's convention.
            is_plain: use transformers' `generate`, one token after the other: slow, the reference to compare with.
            shows_all: see `plan`.

        Raises:
            PlannerError: the picture or the clip cannot be used, the reply does not end, or the logits are NaN.
        """
        began_s = time.perf_counter()
        if self._contract.prompt_style is PromptStyle.COMPACT and not shows_all:
            request = replace(request, others=(), clip=())
        messages = self._messages(request)
        prompt, size_px = self._prompt((request.rgb, *request.others), messages, request.clip)
        grammar = self._grammar(max_coordinate or self._limit(size_px))
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

    def _prompt(
        self, seen: Pictures, messages: list[dict[str, object]], clip: Pictures = ()
    ) -> tuple[Prompt, tuple[int, int]]:
        """Build the tokenised prompt, and the (width, height) in pixels to which the first picture was resized."""
        hashed = hashlib.blake2b(digest_size=16, person=str(len(clip)).encode())
        for rgb in (*seen, *clip):
            hashed.update(repr(rgb.shape).encode())
            hashed.update(np.ascontiguousarray(rgb).data)
        key = hashed.digest()
        if key != self._pictures[0]:
            self._pictures = (key, {**self._images_of(seen), **(self._video_of(clip) if clip else {})})
        pictures = self._pictures[1]
        patch, merge = self._images.patch_size, self._images.merge_size
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        grids = pictures["image_grid_thw"].tolist()
        for pad, shapes in ((_IMAGE, grids), (_VIDEO, pictures.get("video_grid_thw", torch.empty(0)).tolist())):
            first, *rest = text.split(pad)
            text = first + "".join(
                pad * (int(times * rows * columns) // merge**2) + part
                for (times, rows, columns), part in zip(shapes, rest, strict=True)
            )
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return Prompt(ids, pictures, key), (grids[0][2] * patch, grids[0][1] * patch)

    def _images_of(self, seen: Pictures) -> dict[str, Any]:
        encoded = self._images(images=[Image.fromarray(rgb) for rgb in seen], return_tensors="pt")
        device, dtype = self._model.device, self._model.dtype
        return {
            "pixel_values": encoded["pixel_values"].to(device, dtype),
            "image_grid_thw": encoded["image_grid_thw"].to(device),
        }

    def _video_of(self, clip: Pictures) -> dict[str, Any]:
        """Turn a clip into video patches: every two pictures make one time step; an odd last one is repeated."""
        even = (*clip, *clip[-1:])[: len(clip) + len(clip) % 2]
        film = [Image.fromarray(rgb).resize(clip[0].shape[1::-1]) for rgb in even]
        size = {"shortest_edge": MIN_CLIP_PIXELS, "longest_edge": MAX_CLIP_PIXELS}
        encoded = self._images(images=film, size=size, return_tensors="pt")
        rows, columns = encoded["image_grid_thw"][0, 1:].tolist()
        # A still image repeats itself in both time slots of a patch; here the second slot gets the next picture.
        still = encoded["pixel_values"].unflatten(0, (len(film) // 2, 2, rows * columns)).unflatten(-1, (3, 2, -1))
        moving = torch.stack([still[:, 0, :, :, 0], still[:, 1, :, :, 1]], dim=3).flatten(2).flatten(0, 1)
        device = self._model.device
        return {
            "pixel_values_videos": moving.to(device, self._model.dtype),
            "video_grid_thw": torch.tensor([[len(film) // 2, rows, columns]], device=device),
        }
