"""A model in training and held-back samples → how well it points, finds objects and answers."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch.nn import functional as F
from transformers import Qwen2VLForConditionalGeneration

from qwen2vl_robot.geometry import intersection_over_union
from qwen2vl_robot.training.batches import Batcher
from qwen2vl_robot.training.losses import fast_type, point_log_p
from qwen2vl_robot.training.model import TrainingHeads, forward
from qwen2vl_robot.training.questions import QuestionMaker, draw_questions
from qwen2vl_robot.training.samples import Samples

_EVALUATED_BATCHES = 6
_IMAGES_A_BATCH = 12


@torch.no_grad()
def evaluate(
    model: Qwen2VLForConditionalGeneration,
    heads: TrainingHeads,
    batcher: Batcher,
    samples: Samples,
    maker: QuestionMaker,
) -> dict[str, float]:
    """Compute teacher-forced figures on samples outside the training; box numbers do not count for a right reply."""
    rng = np.random.default_rng(0)
    model.eval()
    pointed, ious, said_absent, said_present, right = [], [], [], [], []
    for chunk in itertools.islice(samples.in_order(_IMAGES_A_BATCH), _EVALUATED_BATCHES):
        questions = draw_questions(chunk, maker, rng)
        batch, targets = batcher.build(chunk, questions)
        with fast_type():
            features = forward(model, batch)
            log_p = point_log_p(heads, features, targets)
        choice = log_p.argmax(dim=-1)
        pointed += targets.point_cells.gather(1, choice[:, None]).squeeze(1).tolist()
        embedding = model.model.language_model.embed_tokens.weight
        hidden = features.last
        is_absent = targets.point_cells[:, -1] > 0
        said = F.linear(hidden[targets.point_at].float(), embedding).argmax(dim=-1)
        opens = torch.tensor([int(t) in batcher.opens_box for t in said])
        said_absent += (~opens[is_absent]).float().tolist()
        said_present += opens[~is_absent].float().tolist()
        number_rows = embedding[torch.tensor(batcher.number_ids)]
        boxes = F.linear(hidden[targets.box_at].float(), number_rows).argmax(dim=-1).float()
        ious += intersection_over_union(boxes.numpy(), targets.box.numpy()).tolist()
        words = targets.number < 0
        predicted = F.linear(hidden[targets.reply_at[words]].float(), embedding).argmax(dim=-1)
        wrong = torch.zeros(sum(len(group) for group in questions))
        wrong.index_add_(0, targets.reply_of[words], (predicted != targets.reply_ids[words]).float())
        right += (wrong == 0).float().tolist()
    model.train()
    iou = np.array(ious)
    return {
        "pointing_right": float(np.mean(pointed)),
        "mean_iou": float(iou.mean()),
        "iou_50": float((iou >= 0.5).mean()),
        "absent_called_absent": float(np.mean(said_absent)),
        "present_called_present": float(np.mean(said_present)),
        "reply_right": float(np.mean(right)),
    }
