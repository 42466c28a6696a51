"""A model, its training heads and a batch → every loss, unweighted; and the loss weights.

The extra losses teach vision to name what it sees, the inner layers to locate it, and the reply to point at the object
that it names before it writes the box.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen2VLForConditionalGeneration

from qwen2vl_robot.training.batches import Batcher, CellTargets, Targets
from qwen2vl_robot.training.model import Batch, Features, TrainingHeads, forward

LOSS_WEIGHTS = {
    "reply": 1.0,
    "class": 0.5,
    "relative_box": 0.5,
    "cell": 0.3,
    "absolute_box": 1.0,
    "route": 1.0,
    "reading": 0.5,
    "point": 1.0,
}
_PRESENCE_WEIGHT = 5.0


def fast_type() -> torch.autocast:
    """Compute in bfloat16 where this processor is fast at it; without AVX-512 it takes sixty times as long."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled="AVX512" in torch.backends.cpu.get_cpu_capability())


def losses(
    model: Qwen2VLForConditionalGeneration,
    heads: TrainingHeads,
    batcher: Batcher,
    batch: Batch,
    targets: Targets,
    sigma: float,
) -> dict[str, Tensor]:
    """Compute every loss of one batch, unweighted."""
    features = forward(model, batch)
    embedding = model.model.language_model.embed_tokens.weight
    out = vision_losses(heads, batcher, embedding, features.vision, targets.cells, batch.grid)

    # The reply: cross-entropy, softened for the numbers of boxes.
    log_p = F.log_softmax(F.linear(features.last[targets.reply_at], embedding).float(), dim=-1)
    is_number = targets.number >= 0
    token_loss = -log_p[~is_number].gather(1, targets.reply_ids[~is_number][:, None])
    soft = soft_number_targets(targets.number[is_number], sigma)
    number_loss = -(soft * log_p[is_number][:, batcher.number_ids]).sum(dim=1)
    # One token decides whether there is an object, or another one; a motion depends on it, so it weighs more.
    decides = torch.cat([targets.point_at, targets.box_at[:, -1] + 1])
    weight = 1.0 + (_PRESENCE_WEIGHT - 1.0) * torch.isin(targets.reply_at[~is_number], decides)
    out["reply"] = ((token_loss.squeeze(1) * weight).sum() + number_loss.sum()) / len(targets.reply_ids)

    # Where, inside the language model: row, column and the absolute box as numbers, on the image tokens.
    rows, columns = batch.grid
    cell = torch.arange(rows * columns)
    where = heads.cell(features.place).float()
    out["cell"] = F.cross_entropy(where[..., :32].flatten(0, 1), (cell // columns).repeat(len(where)))
    out["cell"] = out["cell"] + F.cross_entropy(where[..., 32:].flatten(0, 1), (cell % columns).repeat(len(where)))
    is_object = ~targets.cells.box[..., 0].isnan()
    queries = heads.absolute_box(features.place[is_object]).reshape(-1, 4, embedding.shape[1])
    log_n = F.log_softmax((8.0 * queries @ embedding[batcher.number_ids].t().to(queries.dtype)).float(), dim=-1)
    soft = soft_number_targets(targets.cells.box[is_object].reshape(-1), max(sigma, 6.0)).reshape(-1, 4, 1001)
    out["absolute_box"] = -(soft * log_n).sum(dim=-1).mean()

    # Pointing: the token before the boxes must choose one of the object's image tokens, or "absent".
    log_p = point_log_p(heads, features, targets)
    out["point"] = -torch.logsumexp(log_p.masked_fill(targets.point_cells == 0, -1e9), dim=-1).mean()

    # Looking where it was pointed: the tokens that predict a box's numbers attend to that object's image tokens.
    on_object = (features.route[targets.box_at].float() * targets.box_cells[:, None]).sum(dim=-1)
    out["route"] = -(on_object + 1e-4).log().mean()

    # Reading what it names: the tokens that predict a label attend to the words of the instruction that name it.
    on_words = (features.reading[targets.name_at].float() * targets.name_words).sum(dim=-1)
    out["reading"] = -(on_words + 1e-4).log().sum() / max(1, len(on_words))
    return out


def vision_losses(
    heads: TrainingHeads,
    batcher: Batcher,
    embedding: Tensor,
    vision: Tensor,
    targets: CellTargets,
    grid: tuple[int, int],
) -> dict[str, Tensor]:
    """Compute losses of colour, kind and relative box in each image token of the vision output (b, cells, d)."""
    total = torch.zeros(())
    for which, label in enumerate((targets.colour, targets.kind)):
        words = embedding[batcher.word_ids[which]]
        weight = torch.ones(len(words) + 1)
        weight[-1] = 0.2  # most of an image is nothing
        free = (heads.free_colour, heads.free_kind)[which](vision)
        for logits in (heads.class_logits(vision, words, which), free):
            total = total + F.cross_entropy(logits.float().flatten(0, 1), label.flatten(), weight=weight)
    rows, columns = grid
    cell = torch.arange(rows * columns)
    centre = torch.stack([(cell % columns + 0.5) / columns, (cell // columns + 0.5) / rows], dim=1) * 1000.0
    scale = torch.tensor([1000.0 / columns, 1000.0 / rows]).repeat(2)
    is_object = ~targets.box[..., 0].isnan()
    relative = ((targets.box - centre.repeat(1, 2)[None]) / scale)[is_object]
    predicted = heads.relative_box(vision[is_object]).float()
    return {"class": total, "relative_box": F.smooth_l1_loss(predicted, relative, beta=0.2)}


def point_log_p(heads: TrainingHeads, features: Features, targets: Targets) -> Tensor:
    """Compute log-probabilities (q, cells + 1) of pointing at each image token, the last one for "absent"."""
    queries = features.point_tokens[targets.point_at]
    return F.log_softmax(heads.point_logits(queries, features.point_cells[targets.point_image]).float(), dim=-1)


def soft_number_targets(values: Tensor, sigma: float) -> Tensor:
    """Build distributions (n, 1001) around numbers (n,) of 0..1000, normal with `sigma`."""
    grid = torch.arange(1001, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((grid[None, :] - values[:, None].float()) / sigma) ** 2)
    return weights / weights.sum(dim=1, keepdim=True)
