"""The small checkpoint's architecture, its forward pass in training, and its training heads.

The architecture is transformers' own `Qwen2VLForConditionalGeneration`, only smaller. The forward pass below runs the
same weights on a batch of equal-sized images with several questions each, which do not see each other. A test checks
that it equals the library's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration

CLIP_MEAN = torch.tensor(np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32))
CLIP_STD = torch.tensor(np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32))
_POINT_AFTER_LAYER = 3
_PLACE_AFTER_LAYER = 3
_WHITENING_FLOOR = 0.01  # added to the variance, so that noise stays small
_ROUTE_HEAD = 0  # head of the layer after pointing that must attend to the chosen object


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLForConditionalGeneration:
    """Build a Qwen2-VL of about 7 million parameters with random weights."""

    def token(text: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(text))

    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]},
            "bos_token_id": token("<|im_start|>"),
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 4,
            "embed_dim": 192,
            "hidden_size": 256,
            "num_heads": 3,
            "mlp_ratio": 4,
            "hidden_act": "silu",
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        bos_token_id=token("<|im_start|>"),
        eos_token_id=token("<|im_end|>"),
        pad_token_id=token("<|endoftext|>"),
        tie_word_embeddings=True,
    )
    model = Qwen2VLForConditionalGeneration(config)
    ids = torch.tensor([token(str(n)) for n in range(1001)])
    with torch.no_grad():
        model.model.language_model.embed_tokens.weight[ids] = number_embeddings(256)
    return model


def number_embeddings(width: int) -> Tensor:
    """Build initial embeddings (1001, width) of the numbers as Fourier features: near numbers start near each other.

    From random embeddings a model would first have to learn, pair by pair, that 411 is next to 412.
    """
    cycles = torch.logspace(math.log10(0.5), math.log10(60.0), width // 8)
    angle = 2.0 * math.pi * cycles[None, :] * torch.arange(1001)[:, None] / 1000.0
    features = torch.cat([angle.cos(), angle.sin()], dim=1)
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(width, features.shape[1], generator=generator)).Q
    return features @ turn.t() / features[0].norm()


@dataclass(slots=True)
class Batch:
    """Equal-sized images with several questions each, which do not see each other.

    Attributes:
        patches: (b, n, 1176) as the image processor flattens them.
        grid: rows and columns of image tokens.
        prefix_ids: (p,) tokens before the questions; image tokens stand at `image_start .. + rows * columns`.
        prefix_positions: (3, p) M-RoPE positions.
        ids: (b, q, l) tokens of questions and replies, padded at the end.
        is_token: (b, q, l) False for padding.
        first_position: M-RoPE position of every question's first token.
    """

    patches: Tensor
    grid: tuple[int, int]
    prefix_ids: Tensor
    prefix_positions: Tensor
    ids: Tensor
    is_token: Tensor
    first_position: int
    image_start: int


@dataclass(slots=True)
class Features:
    """Inputs of the losses; t is the number of real tokens of all questions.

    Attributes:
        vision: (b, cells, d) output of the vision tower.
        place: (b, cells, d) image tokens after an inner layer.
        point_cells, point_tokens: (b, cells, d) and (t, d) after a later inner layer.
        route: (t, cells) attention of one head, in the layer after pointing, from tokens to image tokens.
        reading: (t, l) attention of the same head from tokens to the tokens of their question.
        last: (t, d) after the last norm.
    """

    vision: Tensor
    place: Tensor
    point_cells: Tensor
    point_tokens: Tensor
    route: Tensor
    reading: Tensor
    last: Tensor


def patchify(images: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Cut images (b, h, w, 3) in 0..1 into patches (b, n, 1176) in the processor's order; also return the grid."""
    b, h, w, _ = images.shape
    rows, columns = h // 28, w // 28
    x = ((images - mean) / std).permute(0, 3, 1, 2).reshape(b, 3, rows, 2, 14, columns, 2, 14)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7)  # b, rows, columns, 2, 2, channel, 14, 14
    x = x.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1)  # a still image fills both frames
    return x.reshape(b, rows * columns * 4, 3 * 2 * 14 * 14), (rows, columns)


def forward(model: Qwen2VLForConditionalGeneration, batch: Batch) -> Features:
    """Run vision and text on a batch and keep what the losses need."""
    vision = encode_images(model, batch.patches, batch.grid)
    text = model.model.language_model
    start, cells = batch.image_start, vision.shape[1]
    prefix = text.embed_tokens(batch.prefix_ids).expand(len(vision), -1, -1)
    prefix = torch.cat([prefix[:, :start], vision.to(prefix.dtype), prefix[:, start + cells :]], dim=1)
    tokens = text.embed_tokens(batch.ids[batch.is_token])
    length = batch.ids.shape[2]
    turn = text.rotary_emb(prefix, batch.prefix_positions[:, None])
    later = torch.arange(batch.first_position, batch.first_position + length).expand(3, 1, -1)
    question_turn = text.rotary_emb(prefix, later)
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    for index, layer in enumerate(text.layers, start=1):
        prefix, tokens, share = _text_layer(layer, prefix, tokens, batch.is_token, turn, question_turn)
        kept[index] = (prefix[:, start : start + cells], tokens)
        if index == _POINT_AFTER_LAYER + 1:
            looks = share[:, _ROUTE_HEAD].reshape(*batch.is_token.shape, -1)[batch.is_token]
            route, reading = looks[:, start : start + cells], looks[:, -length:]
    place, point = kept[_PLACE_AFTER_LAYER], kept[_POINT_AFTER_LAYER]
    return Features(vision, place[0], point[0], point[1], route, reading, text.norm(tokens))


class _Whitened(nn.Module):
    """A parametrisation of the patch embedding in whitened principal components of patches."""

    def __init__(self, turn: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("turn", turn)
        self.register_buffer("scale", scale)

    def forward(self, coefficients: Tensor) -> Tensor:
        weight = (coefficients / self.scale) @ self.turn.t() / 2
        return weight.reshape(-1, 3, 1, 14, 14).expand(-1, -1, 2, -1, -1)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.sum(dim=2).flatten(1) @ self.turn * self.scale


def whiten(model: Qwen2VLForConditionalGeneration, patches: Tensor) -> None:
    """Train the patch embedding in the principal components of patches (n, 1176), each scaled to unit variance.

    Brightness varies ten thousand times as much as edges, so without this the edges are learned last.
    """
    one_frame = patches.reshape(-1, 3, 2, 196)[:, :, 0].reshape(-1, 588)
    variance, turn = torch.linalg.eigh(torch.cov(one_frame.t()))
    scale = (variance.clamp(min=0.0) + _WHITENING_FLOOR).sqrt()
    parametrize.register_parametrization(model.model.visual.patch_embed.proj, "weight", _Whitened(turn, scale))


def plain_state(model: Qwen2VLForConditionalGeneration) -> dict[str, Tensor]:
    """Return the weights under the library's names, whitened or not."""
    state = {name: value for name, value in model.state_dict().items() if "parametrizations" not in name}
    state["model.visual.patch_embed.proj.weight"] = model.model.visual.patch_embed.proj.weight
    return state


def encode_images(model: Qwen2VLForConditionalGeneration, patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Compute image tokens (b, cells, d) of a batch of patches, equal to the library's vision tower."""
    visual = model.model.visual
    b, n, _ = patches.shape
    rows, columns = grid
    # Patch positions in the processor's order: the 2x2 patches of one token are adjacent.
    r = torch.arange(rows * 2).reshape(rows, 2)[:, None, :, None].expand(rows, columns, 2, 2)
    c = torch.arange(columns * 2).reshape(columns, 2)[None, :, None, :].expand(rows, columns, 2, 2)
    rotary = visual.rotary_pos_emb
    position = torch.stack([r.reshape(-1), c.reshape(-1)])[..., None].float()
    freqs = (position * rotary.inv_freq).transpose(0, 1).reshape(n, -1)
    angle = torch.cat([freqs, freqs], dim=-1)
    cos, sin = angle.cos(), angle.sin()
    # In bfloat16 the brightness of a patch would drown its edges, and so the difference between ball and block. So the
    # residual stream stays float32.
    with torch.autocast("cpu", enabled=False):
        weight = visual.patch_embed.proj.weight
        x = F.linear(patches, weight.reshape(weight.shape[0], -1))  # equals the convolution, but is fast on a CPU
    for block in visual.blocks:
        qkv = block.attn.qkv(block.norm1(x)).reshape(b, n, 3, block.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = _rotate(qkv[0], cos, sin), _rotate(qkv[1], cos, sin)
        share = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(
            dim=-1
        )  # on a CPU twice as fast as the fused kernel
        attended = share.to(qkv.dtype) @ qkv[2]
        x = x + block.attn.proj(attended.transpose(1, 2).reshape(b, n, -1))
        x = x + block.mlp.fc2(F.silu(block.mlp.fc1(block.norm2(x))))
    merger = visual.merger
    merged: Tensor = merger.mlp(merger.ln_q(x).reshape(b, n // 4, -1))
    return merged


def _text_layer(
    layer: nn.Module,
    prefix: Tensor,
    tokens: Tensor,
    is_token: Tensor,
    turn: tuple[Tensor, Tensor],
    question_turn: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one decoder layer on the shared prefix (b, p, d) and on the questions' tokens (t, d).

    A question sees the prefix and its own earlier tokens, so attention never builds the large matrix of all tokens.
    The third result is the attention (b, heads, q * l, p + l) of the questions' tokens.
    """
    attention = layer.self_attn
    b, p, width = prefix.shape
    q_count, length = is_token.shape[1:]
    groups, head_dim = attention.num_key_value_groups, attention.head_dim
    flat = torch.cat([prefix.reshape(b * p, width), tokens])
    h = layer.input_layernorm(flat)
    projected = [f(h) for f in (attention.q_proj, attention.k_proj, attention.v_proj)]
    q, k, v = (x[: b * p].view(b, p, -1, head_dim).transpose(1, 2) for x in projected)
    q, k = _rotate(q, *turn), _rotate(k, *turn)
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    on_prefix = F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), is_causal=True)
    # The questions' projections, padded to (b, heads, q, l, head_dim).
    padded = []
    for x in projected:
        room = x.new_zeros(b, q_count, length, x.shape[-1])
        room[is_token] = x[b * p :]
        padded.append(room.view(b, q_count, length, -1, head_dim).permute(0, 3, 1, 2, 4))
    qq, qk, qv = padded
    cos, sin = (x[:, None] for x in question_turn)
    qq, qk = _rotate(qq, cos, sin), _rotate(qk, cos, sin)
    qk, qv = qk.repeat_interleave(groups, dim=1), qv.repeat_interleave(groups, dim=1)
    heads = qq.shape[1]
    scale = head_dim**-0.5
    to_prefix = (qq.reshape(b, heads, q_count * length, head_dim) @ k.transpose(-1, -2)) * scale
    to_own = (qq @ qk.transpose(-1, -2)) * scale
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    to_own = to_own.masked_fill(later, torch.finfo(to_own.dtype).min).reshape(b, heads, q_count * length, length)
    share = torch.cat([to_prefix, to_own], dim=-1).softmax(dim=-1)
    seen = share[..., :p].to(v.dtype) @ v
    own = share[..., p:].to(v.dtype).reshape(b, heads, q_count, length, length) @ qv
    seen = seen.view(b, heads, q_count, length, head_dim) + own
    on_tokens = seen.permute(0, 2, 3, 1, 4).reshape(b, q_count, length, -1)[is_token]
    attended = torch.cat([on_prefix.transpose(1, 2).reshape(b * p, -1), on_tokens])
    flat = flat + attention.o_proj(attended)
    h = layer.post_attention_layernorm(flat)
    flat = flat + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(h)) * layer.mlp.up_proj(h))
    return flat[: b * p].view(b, p, width), flat[b * p :], share


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * cos + turned * sin


class TrainingHeads(nn.Module):
    """Heads that supervise the inner layers during training; the checkpoint does not contain them.

    The class heads and the absolute-box head use the model's own word and number embeddings, so that they teach what
    the language model reads.
    """

    def __init__(self, width: int, colours: int, kinds: int) -> None:
        super().__init__()
        self.colour = nn.Linear(width, width)
        self.kind = nn.Linear(width, width)
        self.none = nn.Parameter(torch.zeros(2))
        self.free_colour = nn.Linear(width, colours + 1)
        self.free_kind = nn.Linear(width, kinds + 1)
        self.relative_box = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 4))
        self.cell = nn.Linear(width, 2 * 32)
        self.absolute_box = nn.Linear(width, 4 * width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.absent_key = nn.Parameter(torch.zeros(width))

    def class_logits(self, vision: Tensor, words: Tensor, which: int) -> Tensor:
        """Compute logits (..., words + 1) with tied word embeddings (words, d); the last one is "nothing here"."""
        projected = (self.colour, self.kind)[which](vision)
        logits = projected @ words.t() / words.shape[-1] ** 0.5 * 4.0
        none = self.none[which].expand(*logits.shape[:-1], 1)
        return torch.cat([logits, none.to(logits.dtype)], dim=-1)

    def point_logits(self, queries: Tensor, cells: Tensor) -> Tensor:
        """Compute logits (q, cells + 1) of pointing from queries (q, d) at tokens (q, cells, d); last: "absent"."""
        q = self.query(queries)
        keys = torch.cat([self.key(cells), self.absent_key.expand(len(q), 1, -1).to(q.dtype)], dim=1)
        return torch.einsum("qd,qcd->qc", q, keys) / q.shape[-1] ** 0.5
