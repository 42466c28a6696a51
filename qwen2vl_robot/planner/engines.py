"""Tokens, positions and pictures → logits, one sequence with a key-value cache; two ways to run the same model.

`LibraryEngine` is transformers' forward pass. `FusedEngine` runs plain text layers of Qwen2-VL with fewer calls.
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
_ROOM_TOKENS = 256  # the cache grows by this much


class Engine(Protocol):
    """A model with a key-value cache of one sequence."""

    def append(
        self, ids: list[int], positions: Tensor, pictures: dict[str, Tensor] | None, keep: int = 1
    ) -> npt.NDArray[np.float32]:
        """Logits (keep, vocabulary) behind the last `keep` of these tokens; positions (3, 1, n)."""

    def crop(self, length: int) -> None:
        """Forget what comes after the first `length` tokens."""


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
            x[tokens == self._model.config.image_token_id] = self._look(pictures).to(x.dtype)
        cos, sin = self._rotary(x[None], positions)
        hidden = self._run(x, cos[0, :, None], sin[0, :, None])
        last = F.rms_norm(hidden[-keep:], hidden.shape[-1:], self._norm, self._eps)
        return _as_numpy(self._model.lm_head(last))

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


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with this many threads: for a few tokens of a small model, threads cost more than they bring."""
    before = torch.get_num_threads()
    if count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count != before:
            torch.set_num_threads(before)


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
