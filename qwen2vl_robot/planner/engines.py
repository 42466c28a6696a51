"""Tokens, positions and pictures → logits: three ways to run a model with a key-value cache.

`LibraryEngine` is transformers' forward pass. `FusedEngine` runs plain text layers of Qwen2-VL with fewer calls, and
`GraphedEngine` replays them on a GPU as CUDA graphs over a cache that stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

_FEW_TOKENS = 32
_FEW_ROWS = 8
_ROOM_TOKENS = 256  # the cache grows by this much
_STATIC_TOKENS = 2048  # prompt, picture and reply mostly fit
_STEP_SIZES = (1, 2, 4, 8, 16, 32)
_WARM_UP_STEPS = 3


class Engine(Protocol):
    """A model with a key-value cache of one sequence."""

    def append(
        self, ids: list[int], positions: Tensor, pictures: dict[str, Tensor] | None, keep: int = 1
    ) -> npt.NDArray[np.float32]:
        """Append n tokens at positions (3, 1, n); return the logits (keep, vocabulary) after the last `keep`."""

    def crop(self, length: int) -> None:
        """Drop everything after the first `length` tokens from the cache."""


class LibraryEngine:
    """transformers' forward pass: any family, quantised or spread over devices."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache = DynamicCache(config=model.config)

    def append(
        self, ids: list[int], positions: Tensor, pictures: dict[str, Tensor] | None, keep: int = 1
    ) -> npt.NDArray[np.float32]:
        out = self._model(
            input_ids=torch.tensor([ids], device=self._model.device),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=keep,
            **(pictures or {}),
        )
        return _as_numpy(out.logits[0])

    def crop(self, length: int) -> None:
        if length == 0:
            self._cache = DynamicCache(config=self._model.config)
        else:
            self._cache.crop(length - int(self._cache.get_seq_length()))


def choose_engine(model: Any) -> Engine:
    """Choose the fastest engine that can run a model."""
    if not can_be_fused(model):
        return LibraryEngine(model)
    return GraphedEngine(model) if model.device.type == "cuda" else FusedEngine(model)


def can_be_fused(model: Any) -> bool:
    """Check that the text layers are plain and on one device: not quantised, no adapters, not spread over devices."""
    text = model.model.language_model
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    owners = [owner for layer in text.layers for owner in (layer.self_attn, layer.mlp)]
    plain = all(type(getattr(o, name)) is torch.nn.Linear for o in owners for name in names if hasattr(o, name))
    plain = plain and type(model.lm_head) is torch.nn.Linear and model.lm_head.bias is None
    known = type(text).__name__ in ("Qwen2VLTextModel", "Qwen2_5_VLTextModel")
    return known and plain and not text.has_sliding_layers and len({p.device for p in model.parameters()}) == 1


@dataclass(slots=True)
class _Layer:
    """One decoder layer's weights; those with the same input are concatenated."""

    norm_in: Tensor
    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    norm_mlp: Tensor
    gate_up: Tensor
    down: Tensor


class FusedEngine:
    """Runs Qwen2-VL's and Qwen2.5-VL's text layers as few, large operations: a small model's time goes to calls."""

    def __init__(self, model: Any) -> None:
        self._model = model
        text = model.model.language_model
        attention = text.layers[0].self_attn
        self._head_size = int(attention.head_dim)
        self._heads = int(attention.num_heads)
        self._kv_heads = int(attention.num_key_value_heads)
        self._eps = float(text.config.rms_norm_eps)
        self._is_small = text.config.hidden_size <= 512
        self._layers = [_fuse(layer) for layer in text.layers]
        self._embed, self._rotary, self._norm = text.embed_tokens, text.rotary_emb, text.norm.weight
        self._patches = _LinearPatches(model.model.visual.patch_embed)
        self._length = 0
        self._cache = self._embed.weight.new_empty(len(self._layers), 2, self._kv_heads, 0, self._head_size)

    def crop(self, length: int) -> None:
        self._length = length

    def append(
        self, ids: list[int], positions: Tensor, pictures: dict[str, Tensor] | None, keep: int = 1
    ) -> npt.NDArray[np.float32]:
        with _threads(1 if self._is_small and len(ids) <= _FEW_TOKENS else torch.get_num_threads()):
            return self._append(ids, positions, pictures, keep)

    def _append(
        self, ids: list[int], positions: Tensor, pictures: dict[str, Tensor] | None, keep: int
    ) -> npt.NDArray[np.float32]:
        tokens = torch.tensor(ids, device=self._embed.weight.device)
        x = self._embed(tokens)
        if pictures is not None:
            for token, seen in self._look(pictures).items():
                x[tokens == token] = seen.to(x.dtype)
        cos, sin = self._rotary(x[None], positions)
        hidden = self._run(x, cos[0, :, None], sin[0, :, None])
        return _as_numpy(self._score(hidden[-keep:]))

    def _score(self, hidden: Tensor) -> Tensor:
        """Compute logits (k, vocabulary) of hidden states (k, d)."""
        return _linear(F.rms_norm(hidden, hidden.shape[-1:], self._norm, self._eps), self._model.lm_head.weight)

    def _look(self, pictures: dict[str, Tensor]) -> dict[int, Tensor]:
        """Run the library's vision tower with our patch embedding; image or video token id → features (m, d)."""
        model, config = self._model.model, self._model.config
        convolution, model.visual.patch_embed = model.visual.patch_embed, self._patches
        try:
            images = model.get_image_features(pictures["pixel_values"], pictures["image_grid_thw"])
            seen = {config.image_token_id: torch.cat(tuple(images.pooler_output))}
            if "pixel_values_videos" in pictures:
                video = model.get_video_features(pictures["pixel_values_videos"], pictures["video_grid_thw"])
                seen[config.video_token_id] = torch.cat(tuple(video.pooler_output))
            return seen
        finally:
            model.visual.patch_embed = convolution

    def _run(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Compute hidden states (n, d) of new tokens (n, d); cos and sin are (n, 1, head)."""
        n, start, end = len(x), self._length, self._length + len(x)
        self._make_room(end)
        later = None
        if n > 1:  # causal: a token sees itself and those before it
            later = torch.ones(n, end, dtype=torch.bool, device=x.device).triu(start + 1)
        self._length = end
        return self._through(x, cos, sin, slice(start, end), end, later)

    def _through(
        self, x: Tensor, cos: Tensor, sin: Tensor, at: slice | Tensor, end: int, later: Tensor | None
    ) -> Tensor:
        """Run the layers; new tokens go to places `at` of the cache and see its first `end` except those in `later`."""
        n, half, q_heads = len(x), self._head_size // 2, self._heads
        turned = q_heads + self._kv_heads
        groups = q_heads // self._kv_heads
        sin = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
        mask = x.new_zeros(n, end) if later is None else x.new_zeros(n, end).masked_fill(later, -torch.inf)
        mask = mask.repeat(groups, 1)[None]
        for layer, (keys, values) in zip(self._layers, self._cache, strict=True):
            h = F.rms_norm(x, x.shape[-1:], layer.norm_in, self._eps)
            qkv = _linear(h, layer.qkv, layer.qkv_bias).view(n, -1, self._head_size)
            qk = qkv[:, :turned]
            qk = torch.addcmul(qk * cos, qk.roll(half, dims=-1), sin)
            keys[:, at] = qk[:, q_heads:].transpose(0, 1)
            values[:, at] = qkv[:, turned:].transpose(0, 1)
            # Heads that share their keys become extra queries of one head: (kv_heads, groups * n, head).
            q = qk[:, :q_heads].reshape(n, self._kv_heads, groups, -1).permute(1, 2, 0, 3).flatten(1, 2)
            share = torch.baddbmm(mask, q, keys[:, :end].transpose(1, 2), alpha=self._head_size**-0.5)
            seen = share.softmax(dim=-1, dtype=torch.float32).to(x.dtype) @ values[:, :end]
            seen = seen.view(self._kv_heads, groups, n, -1).permute(2, 0, 1, 3).reshape(n, -1)
            x = x + _linear(seen, layer.out)
            h = F.rms_norm(x, x.shape[-1:], layer.norm_mlp, self._eps)
            gate, up = _linear(h, layer.gate_up).chunk(2, dim=-1)
            x = x + _linear(F.silu(gate) * up, layer.down)
        return x

    def _make_room(self, length: int) -> None:
        room = self._cache.shape[3]
        if length > room:
            more = self._cache.new_empty(*self._cache.shape[:3], length + _ROOM_TOKENS - room, self._head_size)
            self._cache = torch.cat([self._cache, more], dim=3)


@dataclass(slots=True)
class _GraphedStep:
    """Buffers of a step of up to m tokens, always at the same memory addresses.

    Attributes:
        ids, positions: (m,) input tokens and (3, 1, m); start: (1,) number of tokens in the cache before them.
        scores: (m, vocabulary) logits.
        graph: the recorded CUDA graph; None on other devices.
    """

    ids: Tensor
    positions: Tensor
    start: Tensor
    scores: Tensor
    graph: Any = None


class GraphedEngine(FusedEngine):
    """A FusedEngine whose short steps have fixed shapes and addresses, so that a GPU replays each in one call.

    A step is padded to the next of a few sizes; the padding is masked and overwritten.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._steps: dict[int, _GraphedStep] = {}
        self._make_room(_STATIC_TOKENS)

    def crop(self, length: int) -> None:
        super().crop(length)
        if length == 0:
            self._cache.zero_()  # a step reads all of it: a NaN must not outlive its prompt

    def _append(
        self, ids: list[int], positions: Tensor, pictures: dict[str, Tensor] | None, keep: int
    ) -> npt.NDArray[np.float32]:
        n = len(ids)
        if pictures is not None or n > _STEP_SIZES[-1]:
            return super()._append(ids, positions, pictures, keep)
        size = next(m for m in _STEP_SIZES if m >= n)
        self._make_room(self._length + size)
        device = self._embed.weight.device
        given = (
            torch.tensor(ids + [0] * (size - n), device=device),
            torch.cat([positions, positions[:, :, -1:].expand(3, 1, size - n)], dim=2).to(device),
            torch.tensor([self._length], device=device),
        )
        step = self._steps.get(size)
        if step is None:
            step = self._steps[size] = self._prepare(*given)
        for place, value in zip((step.ids, step.positions, step.start), given, strict=True):
            place.copy_(value)
        if step.graph is None:
            step.scores = self._few(step)
        else:
            step.graph.replay()
        self._length += n
        return _as_numpy(step.scores[n - keep : n])

    def _prepare(self, ids: Tensor, positions: Tensor, start: Tensor) -> _GraphedStep:
        """Allocate a step's buffers; on CUDA, warm the step up and record it."""
        step = _GraphedStep(ids.clone(), positions.clone(), start.clone(), ids.new_empty(0))
        if ids.device.type != "cuda":
            return step
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP_STEPS):
                self._few(step)
        torch.cuda.current_stream().wait_stream(aside)
        step.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(step.graph):
            step.scores = self._few(step)
        return step

    def _few(self, step: _GraphedStep) -> Tensor:
        """Compute the logits (m, vocabulary) of a step's tokens over the whole cache."""
        x = self._embed(step.ids)
        cos, sin = self._rotary(x[None], step.positions)
        room = self._cache.shape[3]
        at = step.start + torch.arange(len(x), device=x.device)
        later = torch.arange(room, device=x.device)[None] > at[:, None]
        return self._score(self._through(x, cos[0, :, None], sin[0, :, None], at, room, later))

    def _make_room(self, length: int) -> None:
        room = self._cache.shape[3]
        super()._make_room(length)
        if self._cache.shape[3] > room:  # the cache has moved: recorded graphs hold the old address
            self._cache[:, :, :, room:] = 0.0  # masked, but 0 * NaN would still spoil a sum
            self._steps.clear()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with this many threads: for a few tokens of a small model, threads cost more than they gain."""
    before = torch.get_num_threads()
    if count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count != before:
            torch.set_num_threads(before)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute F.linear; for a few rows on a CPU transpose the product, which BLAS computes in half the time."""
    if x.device.type != "cpu" or not 1 < len(x) <= _FEW_ROWS:
        return F.linear(x, weight, bias)
    turned = torch.mm(weight, x.t()) if bias is None else torch.addmm(bias[:, None], weight, x.t())
    return turned.t()


class _LinearPatches(torch.nn.Module):
    """Patch embedding as a matrix product; a convolution whose kernel is the whole patch is slow on a CPU."""

    def __init__(self, convolution: Any) -> None:
        super().__init__()
        self._weight, self._bias = convolution.proj.weight.data.flatten(1), convolution.proj.bias

    def forward(self, patches: Tensor) -> Tensor:
        return F.linear(patches.view(-1, self._weight.shape[1]).to(self._weight.dtype), self._weight, self._bias)


def _fuse(layer: Any) -> _Layer:
    """Concatenate a layer's weights; the modules' own become views into the result, so that nothing is stored twice."""
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
