"""A prompt, its pictures and a grammar → the tokens of the reply, decoded greedily and fast.

Tokens that the grammar forces are never decoded one by one: one forward pass appends them together with the chosen
token and with a draft of what may come next, and the same pass confirms or rejects the draft. The prefix that this
prompt shares with the last one (the system text, and the picture if it is the same) stays in the key-value cache. The
result equals that of `generate_plainly`, which is transformers' own loop.
"""

from __future__ import annotations

import time
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.planner.drafts import Drafts
from qwen2vl_robot.planner.engines import choose_engine

_MAX_REPLY_TOKENS = 640


@dataclass(frozen=True, slots=True)
class Prompt:
    """A tokenised prompt.

    Attributes:
        ids: (n,) with one placeholder token for each image token.
        pictures: pixel_values and image_grid_thw, from the image processor; with a clip also
            pixel_values_videos and video_grid_thw.
        picture_key: equal for equal pictures.
    """

    ids: list[int]
    pictures: dict[str, Tensor]
    picture_key: bytes


@dataclass(frozen=True, slots=True)
class Decoded:
    """The tokens of a reply, without the end token, and how they were produced.

    Attributes:
        decoded_tokens: number of tokens that the model chose.
        passes: number of forward passes.
        forced_tokens: number of tokens for which the grammar left no choice.
        reused_tokens: number of prompt tokens found in the cache.
        decode_s: seconds spent after the first forward pass.
    """

    ids: list[int]
    decoded_tokens: int
    passes: int
    forced_tokens: int
    reused_tokens: int
    decode_s: float = 0.0


class Decoder:
    """Greedy, grammar-constrained decoding with one model; keeps the last prompt's cache and recent reply shapes.

    Args:
        examples: replies of common shapes, to draft from before the first reply.
    """

    def __init__(self, model: Any, tokenizer: Any, examples: tuple[str, ...] = ()) -> None:
        self._model = model
        self._engine = choose_engine(model)
        self.tokenizer = grammar_tokenizer(model, tokenizer)
        texts = [tokenizer.decode([token]) for token in range(int(model.config.get_text_config().vocab_size))]
        self._drafts = Drafts(texts, (tokenizer(text, add_special_tokens=False)["input_ids"] for text in examples))
        self._matchers: dict[str, LLMatcher] = {}
        self._seen_tokens = {model.config.image_token_id, model.config.video_token_id}
        self._held: list[int] = []  # the tokens in the engine's cache
        self._picture_key = b""

    @torch.inference_mode()
    def decode(self, prompt: Prompt, grammar: str) -> Decoded:
        """Decode the reply to one prompt.

        Raises:
            PlannerError: the reply does not end, or the model's logits are NaN.
        """
        matcher = self._matcher(grammar)
        reused = self._reuse(prompt)
        positions, next_position = self._positions(prompt)
        pictures = None if self._seen_tokens.isdisjoint(prompt.ids[reused:]) else prompt.pictures
        reply: list[int] = _forced(matcher)
        forced, decoded, passes, began_s = len(reply), 0, 0, time.perf_counter()
        new, self._held = [*prompt.ids[reused:], *reply], []  # an error below leaves the cache invalid
        while not matcher.is_accepting():
            if len(reply) > _MAX_REPLY_TOKENS:
                raise PlannerError(f"the model's reply does not end within {_MAX_REPLY_TOKENS} tokens")
            draft = self._drafts.propose(prompt.ids, reply)
            start = len(prompt.ids) + len(reply) - len(new)
            following = _positions_after(
                next_position, max(0, start - len(prompt.ids)), len(reply) + len(draft), positions
            )
            at = torch.cat([positions[:, :, start:], following], dim=2)
            logits = self._engine.append([*new, *draft], at, pictures, len(draft) + 1)
            pictures, passes = None, passes + 1
            began_s = time.perf_counter() if passes == 1 else began_s
            confirmed, new = 0, []
            while not new and not matcher.is_accepting():
                run = [_choose(matcher, logits[confirmed])]
                decoded += 1
                run += _forced(matcher)
                forced += len(run) - 1
                same = _common_prefix(run, draft[confirmed:])
                reply, confirmed, new = [*reply, *run], confirmed + same, run[same:]
            self._engine.crop(len(prompt.ids) + len(reply) - len(new))
        self._held, self._picture_key = [*prompt.ids, *reply[: len(reply) - len(new)]], prompt.picture_key
        self._drafts.remember(reply)
        return Decoded(reply, decoded, passes, forced, reused, time.perf_counter() - began_s)

    def _matcher(self, grammar: str) -> LLMatcher:
        if grammar not in self._matchers:
            self._matchers[grammar] = new_matcher(self.tokenizer, grammar)
        matcher = self._matchers[grammar]
        matcher.reset()
        return matcher

    def _reuse(self, prompt: Prompt) -> int:
        """Keep the cached prefix that the prompt shares; leave at least one token to compute."""
        limit = min(len(self._held), len(prompt.ids) - 1)
        if prompt.picture_key != self._picture_key:
            limit = next((i for i, token in enumerate(prompt.ids[:limit]) if token in self._seen_tokens), limit)
        same = 0
        while same < limit and self._held[same] == prompt.ids[same]:
            same += 1
        self._engine.crop(same)
        return same

    def _positions(self, prompt: Prompt) -> tuple[Tensor, int]:
        """Compute the M-RoPE positions (3, 1, n) of the prompt and the position of the token after it."""
        ids = torch.tensor([prompt.ids], device=self._model.device)
        grids = {name: grid for name, grid in prompt.pictures.items() if name.endswith("_grid_thw")}
        positions, _ = self._model.model.get_rope_index(ids, mm_token_type_ids=_kinds(self._model, ids), **grids)
        return positions, int(positions.max()) + 1


def _kinds(model: Any, ids: Tensor) -> Tensor:
    """Mark what each token (1, n) stands for: 0 text, 1 an image, 2 a video."""
    return (ids == model.config.image_token_id).int() + 2 * (ids == model.config.video_token_id).int()


def _common_prefix(a: list[int], b: list[int]) -> int:
    """Count the tokens of the common prefix of two lists."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _positions_after(first: int, start: int, end: int, like: Tensor) -> Tensor:
    """Compute the positions (3, 1, end - start) of a reply's tokens start..end; for text all three are equal."""
    return torch.arange(first + start, first + end, device=like.device).expand(3, 1, -1)


# --------------------------------------------------------------------------------------------- the grammar


def grammar_tokenizer(model: Any, tokenizer: Any) -> LLTokenizer:
    """Convert the tokenizer for llguidance; takes about a second for 150,000 tokens."""
    backend = copy(tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.no_truncation()
    words = int(model.config.get_text_config().vocab_size)
    return LLTokenizer(backend.to_str(), n_vocab=words, eos_token=tokenizer.eos_token_id)


def new_matcher(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """Create a matcher at the start of a reply.

    Raises:
        ValueError: the grammar has an error.
    """
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(grammar))
    if matcher.is_error():
        raise ValueError(f"grammar: {matcher.get_error()}")
    return matcher


def _forced(matcher: LLMatcher) -> list[int]:
    """Consume the tokens that the grammar forces, split as the tokenizer itself would split them."""
    run: list[int] = []
    while not matcher.is_accepting() and (tokens := matcher.compute_ff_tokens()):
        matcher.consume_tokens(tokens)
        run += tokens
    return run


def _choose(matcher: LLMatcher, logits: npt.NDArray[np.float32]) -> int:
    """Choose the likeliest allowed token and consume it."""
    allowed = _allowed(matcher, len(logits))
    best = int(allowed[logits[allowed].argmax()]) if len(allowed) else -1
    if best < 0 or not np.isfinite(logits[best]) or not matcher.consume_token(best):
        raise PlannerError("the model's output holds no usable token")
    return best


def _allowed(matcher: LLMatcher, words: int) -> npt.NDArray[np.intp]:
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    return np.flatnonzero(bits[:words])


# ------------------------------------------------------------------------------------------- the reference


class _OnlyAllowed(LogitsProcessor):
    """Masks every token that the grammar does not allow next."""

    def __init__(self, matcher: LLMatcher, prompt_length: int) -> None:
        self._matcher, self._seen = matcher, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        new = input_ids[0, self._seen :].tolist()
        self._matcher.consume_tokens(new)
        self._seen += len(new)
        allowed = torch.from_numpy(_allowed(self._matcher, scores.shape[1])).to(scores.device)
        masked = torch.full_like(scores, -torch.inf)
        masked[:, allowed] = scores[:, allowed]
        return masked


@torch.inference_mode()
def generate_plainly(model: Any, tokenizer: LLTokenizer, prompt: Prompt, grammar: str) -> list[int]:
    """Generate the reply with transformers' `generate` and the same grammar, one token after the other."""
    ids = torch.tensor([prompt.ids], device=model.device)
    processor = _OnlyAllowed(new_matcher(tokenizer, grammar), len(prompt.ids))
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=_kinds(model, ids),
        do_sample=False,
        max_new_tokens=_MAX_REPLY_TOKENS,
        logits_processor=LogitsProcessorList([processor]),
        **prompt.pictures,
    )
    reply: list[int] = out[0, len(prompt.ids) :].tolist()
    ends = set(tokenizer.eos_tokens)
    return [t for t in reply if t not in ends]
