"""A prompt, its pictures and a grammar → the reply's tokens, greedily and fast.

What the grammar forces is never decoded one by one: it is appended together with the token that was chosen, in one
forward pass. What the last prompt and this one share (the system's text; with the same picture also the picture) keeps
its place in the key-value cache. The tokens are those of `generate_plainly`, which is transformers' own loop.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList

from qwen2vl_robot.errors import PlannerError

_MAX_REPLY_TOKENS = 640
_ROOM_TOKENS = 256  # the cache grows by this much


@dataclass(frozen=True, slots=True)
class Prompt:
    """A tokenised prompt.

    Attributes:
        ids: (n,) with one placeholder for each image token.
        pictures: pixel_values and image_grid_thw, as the image processor makes them.
        picture_key: equal for equal pictures.
    """

    ids: list[int]
    pictures: dict[str, Tensor]
    picture_key: bytes


@dataclass(frozen=True, slots=True)
class Decoded:
    """A reply's tokens, without the end token, and how they came about.

    Attributes:
        decoded_tokens: chosen by the model, one forward pass each.
        forced_tokens: the grammar left no choice.
        reused_tokens: of the prompt, found in the cache.
    """

    ids: list[int]
    decoded_tokens: int
    forced_tokens: int
    reused_tokens: int


class Decoder:
    """Greedy, grammar-constrained decoding with one model; remembers the last prompt."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        self._engine: Engine = FusedEngine(model) if can_be_fused(model) else LibraryEngine(model)
        self.tokenizer = grammar_tokenizer(model, tokenizer)
        self._matchers: dict[str, LLMatcher] = {}
        self._held: list[int] = []  # the tokens in the engine's cache
        self._picture_key = b""

    @torch.inference_mode()
    def decode(self, prompt: Prompt, grammar: str) -> Decoded:
        """Answer one prompt.

        Raises:
            PlannerError: the reply does not end, or the model's numbers are no numbers.
        """
        matcher = self._matcher(grammar)
        reused = self._reuse(prompt)
        positions, next_position = self._positions(prompt)
        image_token = self._model.config.image_token_id
        pictures = prompt.pictures if image_token in prompt.ids[reused:] else None
        reply: list[int] = _forced(matcher)
        forced, decoded = len(reply), 0
        new = [*prompt.ids[reused:], *reply]
        held, self._held = [*prompt.ids], []  # until it has gone well, nothing is held
        while True:
            after = torch.arange(len(reply)).expand(3, 1, -1).to(positions) + next_position
            at = torch.cat([positions, after], dim=2)[:, :, -len(new) :]
            logits = self._engine.append(new, at, pictures)
            held, pictures = [*prompt.ids, *reply], None
            new = [_choose(matcher, logits)]
            decoded += 1
            run = _forced(matcher)
            forced += len(run)
            new += run
            reply += new
            if matcher.is_accepting():
                break
            if len(reply) > _MAX_REPLY_TOKENS:
                raise PlannerError(f"the model's reply does not end within {_MAX_REPLY_TOKENS} tokens")
        self._held, self._picture_key = held, prompt.picture_key
        return Decoded(reply, decoded, forced, reused)

    def _matcher(self, grammar: str) -> LLMatcher:
        if grammar not in self._matchers:
            self._matchers[grammar] = new_matcher(self.tokenizer, grammar)
        matcher = self._matchers[grammar]
        matcher.reset()
        return matcher

    def _reuse(self, prompt: Prompt) -> int:
        """Keep what the cache shares with the prompt; at least one token is left to compute."""
        limit = min(len(self._held), len(prompt.ids) - 1)
        if prompt.picture_key != self._picture_key and self._model.config.image_token_id in prompt.ids:
            limit = min(limit, prompt.ids.index(self._model.config.image_token_id))
        same = 0
        while same < limit and self._held[same] == prompt.ids[same]:
            same += 1
        self._engine.crop(same)
        return same

    def _positions(self, prompt: Prompt) -> tuple[Tensor, int]:
        """M-RoPE positions (3, 1, n) of the prompt and the position of the token behind it."""
        ids = torch.tensor([prompt.ids], device=self._model.device)
        kinds = (ids == self._model.config.image_token_id).int()
        grid = prompt.pictures["image_grid_thw"]
        positions, _ = self._model.model.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=grid)
        return positions, int(positions.max()) + 1


# --------------------------------------------------------------------------------------------- the grammar


def grammar_tokenizer(model: Any, tokenizer: Any) -> LLTokenizer:
    """The tokenizer in the form that llguidance reads; takes about a second for 150,000 tokens."""
    backend = copy(tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.no_truncation()
    words = int(model.config.get_text_config().vocab_size)
    return LLTokenizer(backend.to_str(), n_vocab=words, eos_token=tokenizer.eos_token_id)


def new_matcher(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """A matcher at the start of a reply.

    Raises:
        ValueError: the grammar is wrong.
    """
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(grammar))
    if matcher.is_error():
        raise ValueError(f"grammar: {matcher.get_error()}")
    return matcher


def _forced(matcher: LLMatcher) -> list[int]:
    """Take the tokens that the grammar leaves no choice about, as the tokenizer itself would split them."""
    run: list[int] = []
    while not matcher.is_accepting() and (tokens := matcher.compute_ff_tokens()):
        matcher.consume_tokens(tokens)
        run += tokens
    return run


def _choose(matcher: LLMatcher, logits: npt.NDArray[np.float32]) -> int:
    """Take the likeliest token among the allowed ones."""
    allowed = _allowed(matcher, len(logits))
    best = int(allowed[logits[allowed].argmax()]) if len(allowed) else -1
    if best < 0 or not np.isfinite(logits[best]) or not matcher.consume_token(best):
        raise PlannerError("the model's output holds no usable token")
    return best


def _allowed(matcher: LLMatcher, words: int) -> npt.NDArray[np.intp]:
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    return np.flatnonzero(bits[:words])


# --------------------------------------------------------------------------------------------- the engines


class Engine(Protocol):
    """A model with a key-value cache of one sequence."""

    def append(self, ids: list[int], positions: Tensor, pictures: dict[str, Tensor] | None) -> npt.NDArray[np.float32]:
        """Logits (vocabulary,) behind the last of these tokens; positions (3, 1, n)."""

    def crop(self, length: int) -> None:
        """Forget what comes after the first `length` tokens."""


class LibraryEngine:
    """transformers' forward pass: any family, quantised or spread over devices."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache = DynamicCache(config=model.config)

    def append(self, ids: list[int], positions: Tensor, pictures: dict[str, Tensor] | None) -> npt.NDArray[np.float32]:
        out = self._model(
            input_ids=torch.tensor([ids], device=self._model.device),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            **(pictures or {}),
        )
        return _as_numpy(out.logits[0, -1])

    def crop(self, length: int) -> None:
        if length == 0:
            self._cache = DynamicCache(config=self._model.config)
        else:
            self._cache.crop(length - int(self._cache.get_seq_length()))


def can_be_fused(model: Any) -> bool:
    """Whether the text layers are plain ones on one device: neither quantised nor adapted nor spread."""
    text = model.model.language_model
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    owners = [owner for layer in text.layers for owner in (layer.self_attn, layer.mlp)]
    plain = all(type(getattr(o, name)) is torch.nn.Linear for o in owners for name in names if hasattr(o, name))
    known = type(text).__name__ in ("Qwen2VLTextModel", "Qwen2_5_VLTextModel")
    return known and plain and not text.has_sliding_layers and len({p.device for p in model.parameters()}) == 1


@dataclass(slots=True)
class _Layer:
    """One decoder layer's weights; those that see the same input lie one after the other."""

    norm_in: Tensor
    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    norm_mlp: Tensor
    gate_up: Tensor
    down: Tensor


class FusedEngine:
    """The text layers of Qwen2-VL and Qwen2.5-VL with few, large operations: a small model's time goes to calls."""

    def __init__(self, model: Any) -> None:
        self._model = model
        text = model.model.language_model
        attention = text.layers[0].self_attn
        self._head_size = int(attention.head_dim)
        self._heads = int(attention.num_heads)
        self._kv_heads = int(attention.num_key_value_heads)
        self._eps = float(text.config.rms_norm_eps)
        self._layers = [_fuse(layer) for layer in text.layers]
        self._embed, self._rotary, self._norm = text.embed_tokens, text.rotary_emb, text.norm.weight
        self._patches = _LinearPatches(model.model.visual.patch_embed)
        self._length = 0
        self._cache = self._embed.weight.new_empty(len(self._layers), 2, self._kv_heads, 0, self._head_size)

    def crop(self, length: int) -> None:
        self._length = length

    def append(self, ids: list[int], positions: Tensor, pictures: dict[str, Tensor] | None) -> npt.NDArray[np.float32]:
        tokens = torch.tensor(ids, device=self._embed.weight.device)
        x = self._embed(tokens)
        if pictures is not None:
            x[tokens == self._model.config.image_token_id] = self._look(pictures).to(x.dtype)
        cos, sin = self._rotary(x[None], positions)
        hidden = self._run(x, cos[0, :, None], sin[0, :, None])
        return _as_numpy(self._model.lm_head(F.rms_norm(hidden[-1:], hidden.shape[-1:], self._norm, self._eps))[0])

    def _look(self, pictures: dict[str, Tensor]) -> Tensor:
        """Image tokens (m, d) by the library's vision tower, with our patch embedding for this call only."""
        visual = self._model.model.visual
        convolution, visual.patch_embed = visual.patch_embed, self._patches
        try:
            return torch.cat(tuple(self._model.model.get_image_features(**pictures).pooler_output))
        finally:
            visual.patch_embed = convolution

    def _run(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Hidden states (n, d) of new tokens (n, d); cos and sin are (n, 1, head)."""
        n, start, end = len(x), self._length, self._length + len(x)
        self._make_room(end)
        half, q_heads = self._head_size // 2, self._heads
        turned = q_heads + self._kv_heads
        groups = q_heads // self._kv_heads
        later = None
        if n > 1:  # a token sees those before it and itself
            later = torch.ones(n, end, dtype=torch.bool, device=x.device).triu(start + 1).repeat(groups, 1)
        for layer, (keys, values) in zip(self._layers, self._cache, strict=True):
            h = F.rms_norm(x, x.shape[-1:], layer.norm_in, self._eps)
            qkv = F.linear(h, layer.qkv, layer.qkv_bias).view(n, -1, self._head_size)
            qk = qkv[:, :turned]
            qk = qk * cos + torch.cat((-qk[..., half:], qk[..., :half]), dim=-1) * sin
            keys[:, start:end] = qk[:, q_heads:].transpose(0, 1)
            values[:, start:end] = qkv[:, turned:].transpose(0, 1)
            # Heads that share their keys become more queries of one head: (kv_heads, groups * n, head).
            q = qk[:, :q_heads].reshape(n, self._kv_heads, groups, -1).permute(1, 2, 0, 3).flatten(1, 2)
            share = q @ keys[:, :end].transpose(1, 2) * self._head_size**-0.5
            if later is not None:
                share = share.masked_fill(later, -torch.inf)
            seen = share.softmax(dim=-1, dtype=torch.float32).to(x.dtype) @ values[:, :end]
            seen = seen.view(self._kv_heads, groups, n, -1).permute(2, 0, 1, 3).reshape(n, -1)
            x = x + F.linear(seen, layer.out)
            h = F.rms_norm(x, x.shape[-1:], layer.norm_mlp, self._eps)
            gate, up = F.linear(h, layer.gate_up).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        self._length = end
        return x

    def _make_room(self, length: int) -> None:
        room = self._cache.shape[3]
        if length > room:
            more = self._cache.new_empty(*self._cache.shape[:3], length + _ROOM_TOKENS - room, self._head_size)
            self._cache = torch.cat([self._cache, more], dim=3)


class _LinearPatches(torch.nn.Module):
    """The patch embedding as a matrix product: a convolution whose kernel is the whole patch is slow on a CPU."""

    def __init__(self, convolution: Any) -> None:
        super().__init__()
        self._weight, self._bias = convolution.proj.weight.data.flatten(1), convolution.proj.bias

    def forward(self, patches: Tensor) -> Tensor:
        return F.linear(patches.view(-1, self._weight.shape[1]).to(self._weight.dtype), self._weight, self._bias)


def _fuse(layer: Any) -> _Layer:
    """Gather a layer's weights; the modules' own become views into the gathered ones, so nothing is held twice."""
    attention, mlp = layer.self_attn, layer.mlp
    inputs = (attention.q_proj, attention.k_proj, attention.v_proj)
    return _Layer(
        norm_in=layer.input_layernorm.weight,
        qkv=_gather(inputs, "weight"),
        qkv_bias=_gather(inputs, "bias"),
        out=attention.o_proj.weight,
        norm_mlp=layer.post_attention_layernorm.weight,
        gate_up=_gather((mlp.gate_proj, mlp.up_proj), "weight"),
        down=mlp.down_proj.weight,
    )


def _gather(modules: tuple[Any, ...], name: str) -> Tensor:
    parts = [getattr(m, name).data for m in modules]
    whole = torch.cat(parts)
    for module, part in zip(modules, whole.split([len(p) for p in parts]), strict=True):
        getattr(module, name).data = part
    return whole


def _as_numpy(logits: Tensor) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = logits.float().cpu().numpy()
    return values


# --------------------------------------------------------------------------------------- what it is held to


class _OnlyAllowed(LogitsProcessor):
    """Leaves `generate` the tokens that the grammar allows next."""

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
    """The reply's tokens by transformers' `generate` with the same grammar, one after the other."""
    ids = torch.tensor([prompt.ids], device=model.device)
    processor = _OnlyAllowed(new_matcher(tokenizer, grammar), len(prompt.ids))
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
        do_sample=False,
        max_new_tokens=_MAX_REPLY_TOKENS,
        logits_processor=LogitsProcessorList([processor]),
        **prompt.pictures,
    )
    reply: list[int] = out[0, len(prompt.ids) :].tolist()
    ends = set(tokenizer.eos_tokens)
    return [t for t in reply if t not in ends]
