"""Train the small checkpoint: samples → batches → losses → weights, in one linear file; resumes where it stopped.

The losses beside the language model's own teach vision to name what it sees, the inner layers to know where, and the
reply to point at the object that it names before it writes the box.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

from qwen2vl_robot.config import Catalogue, Phrasings, load_yaml
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.contract import COMPACT_SYSTEM_PROMPT
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.training.dataset import MAX_PIXELS, MIN_PIXELS, SeenObject, load_shards
from qwen2vl_robot.training.model import (
    CLIP_MEAN,
    CLIP_STD,
    Batch,
    Features,
    TrainingHeads,
    build_model,
    build_tokenizer,
    encode_images,
    forward,
    patchify,
    soft_number_targets,
)
from qwen2vl_robot.training.questions import Question, QuestionMaker

VISION_IMAGES_A_STEP = 16
IMAGES_A_STEP = 12
QUESTIONS_AN_IMAGE = 8
ABSENT_AN_IMAGE = 2
PEAK_RATE = 8e-4
WARM_UP_STEPS = 100
VISION_STEPS_RATIO = 0.3  # the first share of the steps trains vision alone: cheap, and pointing needs it
_PRESENCE_WEIGHT = 5.0
_CUT_RATIO = 0.6  # the share of replies that end behind their last box: the rest of a reply is soon learned
SIGMA_FIRST, SIGMA_LAST = 24.0, 3.0
LOSS_WEIGHTS = {
    "reply": 1.0,
    "class": 0.5,
    "relative_box": 0.5,
    "cell": 0.3,
    "absolute_box": 1.0,
    "route": 1.0,
    "point": 1.0,
}
_SAVE_EVERY_S = 200.0
_EVALUATED_BATCHES = 12


@dataclass(slots=True)
class Sample:
    """One image (h, w, 3) uint8 and what it shows."""

    image: npt.NDArray[np.uint8]
    seen: list[SeenObject]


class Samples:
    """The shards of a folder by image size; draws batches of one size."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.refresh()

    def refresh(self) -> None:
        """Read the folder again: shards may be added while a training runs."""
        self._by_size: dict[tuple[int, int], list[tuple[npt.NDArray[np.uint8], list[SeenObject]]]] = {}
        for images, shown in load_shards(self._folder):
            size = (images.shape[2], images.shape[1])
            self._by_size.setdefault(size, []).extend(zip(images, shown, strict=True))
        if not self._by_size:
            raise BadInputError(
                f"{self._folder}: no samples; make some with: qwen2vl-robot datagen --out {self._folder}"
            )

    def __len__(self) -> int:
        return sum(len(v) for v in self._by_size.values())

    def draw(self, rng: np.random.Generator, count: int) -> list[Sample]:
        """Draw `count` samples of one size."""
        sizes = sorted(self._by_size)
        weights = np.array([len(self._by_size[s]) for s in sizes], dtype=float)
        pool = self._by_size[sizes[int(rng.choice(len(sizes), p=weights / weights.sum()))]]
        return [Sample(np.array(pool[i][0]), pool[i][1]) for i in rng.integers(0, len(pool), count)]

    def in_order(self, count: int) -> Iterator[list[Sample]]:
        """Batches of `count` of every size, in a fixed order."""
        for size in sorted(self._by_size):
            pool = self._by_size[size]
            for start in range(0, len(pool), count):
                yield [Sample(np.array(image), seen) for image, seen in pool[start : start + count]]


def augment(sample: Sample, rng: np.random.Generator) -> Sample:
    """Mirror half of the images, and vary light and colour a little."""
    image, seen = sample.image, sample.seen
    if rng.uniform() < 0.5:
        columns = image.shape[1] // 28
        image = image[:, ::-1]
        seen = [
            SeenObject(
                s.label,
                (1000 - s.box[2], s.box[1], 1000 - s.box[0], s.box[3]),
                tuple(c // columns * columns + columns - 1 - c % columns for c in s.cells),
                s.visible_px,
            )
            for s in seen
        ]
    gain = rng.uniform(0.85, 1.15) * rng.uniform(0.96, 1.04, 3)
    return Sample(np.clip(image * gain.astype(np.float32), 0, 255).astype(np.uint8), seen)


@dataclass(slots=True)
class CellTargets:
    """What stands in each image token.

    Attributes:
        colour, kind: (b, cells) class indices, the last one "nothing".
        box: (b, cells, 4) box of the object in the cell, NaN where none.
    """

    colour: Tensor
    kind: Tensor
    box: Tensor


@dataclass(slots=True)
class _QuestionTokens:
    """One question's tokens, where its reply starts, the box numbers of the reply, where its `boxes` keys are."""

    ids: list[int]
    reply_start: int
    numbers: list[int]
    boxes_at: list[int]


@dataclass(slots=True)
class Targets:
    """What the losses compare with.

    Attributes:
        reply_at, reply_ids: (k,) flat indices of tokens that predict, and the tokens they must predict.
        number: (k,) the number 0..1000 that a box token stands for, -1 elsewhere.
        point_at: (q,) flat indices of the token before an object's boxes.
        point_image: (q,) which image; point_cells: (q, cells + 1) distribution over image tokens and "absent".
        point_box: (q, 4) the right box, NaN when absent.
    """

    reply_at: Tensor
    reply_ids: Tensor
    number: Tensor
    point_at: Tensor
    point_image: Tensor
    point_cells: Tensor
    point_box: Tensor
    cells: CellTargets


class Batcher:
    """Samples and questions → packed token batches with their targets."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, catalogue: Catalogue) -> None:
        self._encode = tokenizer.backend_tokenizer.encode_batch
        self.colours, self.kinds = list(catalogue.colours), list(catalogue.kinds)
        self.number_ids = [tokenizer.convert_tokens_to_ids(str(n)) for n in range(1001)]
        self._number_of = {token: n for n, token in enumerate(self.number_ids)}
        (self.boxes_id,) = self._ids("boxes")
        self._opens_box = {i for i in range(len(tokenizer)) if tokenizer.decode([i]).endswith("[[")}
        self._closes_box = {i for i in range(len(tokenizer)) if tokenizer.decode([i]).startswith("]]")}
        self._image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self._pad_id = tokenizer.pad_token_id
        self._head = self._ids(
            f"<|im_start|>system\n{COMPACT_SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        )
        self._tail = self._ids("<|vision_end|>")
        self.word_ids = [[self._word_id(w) for w in words] for words in (self.colours, self.kinds)]

    def _ids(self, text: str) -> list[int]:
        return list(self._encode([text], add_special_tokens=False)[0].ids)

    def _word_id(self, word: str) -> int:
        """The token of a word as it stands in an instruction, after a space."""
        (token,) = self._ids(f" {word}")
        return token

    def patches(self, samples: list[Sample]) -> tuple[Tensor, tuple[int, int]]:
        """Patches (b, n, 1176) of samples of one size, and their token grid."""
        images = torch.from_numpy(np.stack([s.image for s in samples])).float() / 255.0
        return patchify(images, CLIP_MEAN, CLIP_STD)

    def build(
        self, samples: list[Sample], questions: list[list[Question]], rng: np.random.Generator | None = None
    ) -> tuple[Batch, Targets]:
        """Pack samples of one size with their questions; with `rng`, most replies end behind their last box."""
        patches, (rows, columns) = self.patches(samples)
        cells, start = rows * columns, len(self._head)
        flat = [q for group in questions for q in group]
        prompts = self._encode([f"{q.instruction}<|im_end|>\n<|im_start|>assistant\n" for q in flat])
        replies = self._encode([f"{q.reply}<|im_end|>" for q in flat])
        rows_of_tokens = [
            self._question(q, prompt.ids, reply.ids, is_cut=rng is not None and rng.uniform() < _CUT_RATIO)
            for q, prompt, reply in zip(flat, prompts, replies, strict=True)
        ]
        b, count, length = len(samples), max(len(g) for g in questions), max(len(r.ids) for r in rows_of_tokens)
        ids = torch.full((b, count, length), self._pad_id)
        is_token = torch.zeros(b, count, length, dtype=torch.bool)
        reply_at: list[int] = []
        reply_ids: list[int] = []
        number: list[int] = []
        points: list[tuple[int, int, int | None]] = []
        offset, remaining = 0, iter(zip(flat, rows_of_tokens, strict=True))
        for i, group in enumerate(questions):
            for j in range(len(group)):
                question, row = next(remaining)
                n = len(row.ids)
                ids[i, j, :n], is_token[i, j, :n] = torch.tensor(row.ids), True
                reply_at += range(offset + row.reply_start - 1, offset + n - 1)
                reply_ids += row.ids[row.reply_start :]
                number += row.numbers
                points += [(offset + at, i, which) for at, which in zip(row.boxes_at, question.objects, strict=True)]
                offset += n
        after = start + max(rows, columns)  # where text positions go on behind the image
        r, c = torch.arange(cells) // columns, torch.arange(cells) % columns
        image_positions = start + torch.stack([torch.zeros_like(r), r, c])
        batch = Batch(
            patches=patches,
            grid=(rows, columns),
            prefix_ids=torch.tensor([*self._head, *[self._image_id] * cells, *self._tail]),
            prefix_positions=torch.cat(
                [torch.arange(start).expand(3, -1), image_positions, torch.full((3, 1), after)], dim=1
            ),
            ids=ids,
            is_token=is_token,
            first_position=after + 1,
            image_start=start,
        )
        point_cells, point_box = torch.zeros(len(points), cells + 1), torch.full((len(points), 4), math.nan)
        for k, (_, i, which) in enumerate(points):
            if which is None:
                point_cells[k, cells] = 1.0
            else:
                point_cells[k, list(samples[i].seen[which].cells)] = 1.0
                point_box[k] = torch.tensor(samples[i].seen[which].box, dtype=torch.float32)
        targets = Targets(
            reply_at=torch.tensor(reply_at),
            reply_ids=torch.tensor(reply_ids),
            number=torch.tensor(number),
            point_at=torch.tensor([at for at, _, _ in points], dtype=torch.long),
            point_image=torch.tensor([i for _, i, _ in points], dtype=torch.long),
            point_cells=point_cells,
            point_box=point_box,
            cells=self.cell_targets(samples, cells),
        )
        return batch, targets

    def _question(self, question: Question, prompt: list[int], reply: list[int], *, is_cut: bool) -> _QuestionTokens:
        """Tokens of one question; `is_cut` ends the reply behind the last box."""
        boxes_at: list[int] = []
        numbers: list[int] = []
        is_open, last_box = False, len(reply)
        for k, token in enumerate(reply):
            if token == self.boxes_id and len(boxes_at) < len(question.objects):
                boxes_at.append(len(prompt) + k)
            was_open = is_open
            is_open = (is_open or token in self._opens_box) and token not in self._closes_box
            if (was_open and not is_open) or (boxes_at and boxes_at[-1] == len(prompt) + k - 1):
                last_box = k + 1
            numbers.append(self._number_of[token] if is_open and token in self._number_of else -1)
        if is_cut and boxes_at:
            reply, numbers = reply[:last_box], numbers[:last_box]
        return _QuestionTokens([*prompt, *reply], len(prompt), numbers, boxes_at)

    def cell_targets(self, samples: list[Sample], cells: int) -> CellTargets:
        """What stands in each image token of samples of one size."""
        b = len(samples)
        colour = torch.full((b, cells), len(self.colours))
        kind = torch.full((b, cells), len(self.kinds))
        box = torch.full((b, cells, 4), math.nan)
        for i, sample in enumerate(samples):
            for seen in sorted(sample.seen, key=lambda s: -len(s.cells)):  # small objects win shared cells
                colour_word, kind_word = seen.label.split()
                at = list(seen.cells)
                colour[i, at] = self.colours.index(colour_word)
                kind[i, at] = self.kinds.index(kind_word)
                box[i, at] = torch.tensor(seen.box, dtype=torch.float32)
        return CellTargets(colour, kind, box)


def losses(
    model: Qwen2VLForConditionalGeneration,
    heads: TrainingHeads,
    batcher: Batcher,
    batch: Batch,
    targets: Targets,
    sigma: float,
) -> dict[str, Tensor]:
    """Every loss of one batch, unweighted."""
    features = forward(model, batch)
    embedding = model.model.language_model.embed_tokens.weight
    out = vision_losses(heads, batcher, embedding, features.vision, targets.cells, batch.grid)

    # The reply: cross-entropy, softened for the numbers of boxes.
    log_p = F.log_softmax(F.linear(features.last[targets.reply_at], embedding).float(), dim=-1)
    is_number = targets.number >= 0
    token_loss = -log_p[~is_number].gather(1, targets.reply_ids[~is_number][:, None])
    soft = soft_number_targets(targets.number[is_number], sigma)
    number_loss = -(soft * log_p[is_number][:, batcher.number_ids]).sum(dim=1)
    # Whether an object is there is one token among many, and the one that a motion hangs on.
    weight = 1.0 + (_PRESENCE_WEIGHT - 1.0) * torch.isin(targets.reply_at[~is_number], targets.point_at)
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

    # Pointing: the token before the boxes must pick any of the object's image tokens, or "absent".
    log_p = _point_log_p(heads, features, targets)
    out["point"] = -torch.logsumexp(log_p.masked_fill(targets.point_cells == 0, -1e9), dim=-1).mean()

    # Looking where it was pointed: the tokens that predict the box's numbers attend to the object's image tokens.
    is_there = ~targets.point_box[:, 0].isnan()
    predicts = targets.point_at[is_there][:, None] + 1 + 2 * torch.arange(4)[None, :]
    on_object = (features.route[predicts].float() * targets.point_cells[is_there][:, None, :-1]).sum(dim=-1)
    out["route"] = -(on_object + 1e-4).log().mean()
    return out


def vision_losses(
    heads: TrainingHeads,
    batcher: Batcher,
    embedding: Tensor,
    vision: Tensor,
    targets: CellTargets,
    grid: tuple[int, int],
) -> dict[str, Tensor]:
    """Colour, kind and relative box of what stands in each image token, on the vision output (b, cells, d)."""
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


def _point_log_p(heads: TrainingHeads, features: Features, targets: Targets) -> Tensor:
    queries = features.point_tokens[targets.point_at]
    return F.log_softmax(heads.point_logits(queries, features.point_cells[targets.point_image]).float(), dim=-1)


@torch.no_grad()
def evaluate(
    model: Qwen2VLForConditionalGeneration,
    heads: TrainingHeads,
    batcher: Batcher,
    samples: Samples,
    maker: QuestionMaker,
) -> dict[str, float]:
    """Teacher-forced figures on samples that were never trained on: pointing, boxes, presence."""
    rng = np.random.default_rng(0)
    model.eval()
    pointed, ious, said_absent, said_present = [], [], [], []
    for chunk in itertools.islice(samples.in_order(IMAGES_A_STEP), _EVALUATED_BATCHES):
        questions = draw_questions(chunk, maker, rng)
        batch, targets = batcher.build(chunk, questions)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = forward(model, batch)
            log_p = _point_log_p(heads, features, targets)
        choice = log_p.argmax(dim=-1)
        pointed += targets.point_cells.gather(1, choice[:, None]).squeeze(1).tolist()
        embedding = model.model.language_model.embed_tokens.weight
        hidden = features.last
        is_absent = targets.point_box[:, 0].isnan()
        said = F.linear(hidden[targets.point_at].float(), embedding).argmax(dim=-1)
        opens = torch.tensor([int(t) in batcher._opens_box for t in said])
        said_absent += (~opens[is_absent]).float().tolist()
        said_present += opens[~is_absent].float().tolist()
        # Numbers stand two tokens apart behind the opening: x0 , y0 , x1 , y1.
        number_rows = embedding[torch.tensor(batcher.number_ids)]
        at = targets.point_at[~is_absent][:, None] + 1 + 2 * torch.arange(4)[None, :]
        boxes = F.linear(hidden[at].float(), number_rows).argmax(dim=-1).float()
        ious += _iou(boxes, targets.point_box[~is_absent]).tolist()
    model.train()
    iou = np.array(ious)
    return {
        "pointing_right": float(np.mean(pointed)),
        "mean_iou": float(iou.mean()),
        "iou_50": float((iou >= 0.5).mean()),
        "absent_called_absent": float(np.mean(said_absent)),
        "present_called_present": float(np.mean(said_present)),
    }


def _iou(a: Tensor, b: Tensor) -> Tensor:
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    inter = (high - low).clamp(min=0).prod(dim=1)
    area_a, area_b = (a[:, 2:] - a[:, :2]).clamp(min=0).prod(dim=1), (b[:, 2:] - b[:, :2]).prod(dim=1)
    return inter / (area_a + area_b - inter).clamp(min=1e-6)


def draw_questions(samples: list[Sample], maker: QuestionMaker, rng: np.random.Generator) -> list[list[Question]]:
    """Questions for each image, some of them about objects that are not there."""
    groups = []
    for sample in samples:
        drawn = [maker.draw(sample.seen, rng, absent=k < ABSENT_AN_IMAGE) for k in range(QUESTIONS_AN_IMAGE)]
        groups.append([q for q in drawn if q is not None])
    return groups


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, constant to two thirds of the steps, then linear down to a fiftieth."""
    if step < WARM_UP_STEPS:
        return PEAK_RATE * (step + 1) / WARM_UP_STEPS
    return PEAK_RATE * max(0.02, min(1.0, 3.0 * (1.0 - step / steps)))


def corpus(maker: QuestionMaker, samples: Samples, rng: np.random.Generator) -> list[str]:
    """Instructions and replies for the tokenizer to learn from."""
    texts = [COMPACT_SYSTEM_PROMPT, "system", "user", "assistant", "You are a helpful assistant."] * 50
    for _ in range(40):
        for group in draw_questions(samples.draw(rng, IMAGES_A_STEP), maker, rng):
            texts += [t for q in group for t in (q.instruction, " " + q.instruction, q.reply)]
    return texts


def save_checkpoint(model: Qwen2VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a plain Qwen2-VL checkpoint in bfloat16, with its processor and what the planner must know of it."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().to(torch.bfloat16) for name, value in model.state_dict().items()}
    half = Qwen2VLForConditionalGeneration(model.config).to(torch.bfloat16)
    half.load_state_dict(state)
    half.generation_config.do_sample = False
    half.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS).save_pretrained(folder)
    contract = {"prompt_style": "compact", "box_convention": "thousandths"}
    (folder / "planner.json").write_text(json.dumps(contract, indent=2) + "\n")


def train(
    data: Path, validation: Path, out: Path, run: Path, *, steps: int, seed: int, fresh: bool = False
) -> dict[str, float]:
    """Train for `steps` in all, resuming from `run` when it holds a state, and write the checkpoint to `out`.

    Returns:
        The figures of the last evaluation.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(os.cpu_count() or 1)
    run.mkdir(parents=True, exist_ok=True)
    catalogue = load_yaml(resolve("objects/catalogue.yaml"), Catalogue)
    maker = QuestionMaker(load_yaml(resolve("tasks/phrasings.yaml"), Phrasings), catalogue)
    samples, held_back = Samples(data), Samples(validation)
    state_file, tokenizer_folder = run / "state.pt", run / "tokenizer"
    is_resumed = state_file.is_file()
    if is_resumed:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    else:
        tokenizer = build_tokenizer(corpus(maker, samples, np.random.default_rng(seed)))
        tokenizer.save_pretrained(tokenizer_folder)
    model = build_model(tokenizer)
    batcher = Batcher(tokenizer, catalogue)
    heads = TrainingHeads(model.config.text_config.hidden_size, len(batcher.colours), len(batcher.kinds))
    parameters = [*model.parameters(), *heads.parameters()]
    decayed = [p for p in parameters if p.ndim >= 2]
    plain = [p for p in parameters if p.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=PEAK_RATE, betas=(0.9, 0.98), fused=True,
    )  # fmt: skip
    step, spent_s = 0, 0.0
    if is_resumed:
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        optimiser.load_state_dict(state["optimiser"])
        step, spent_s = state["step"], state["seconds"]
    console = Console(stderr=True)
    console.print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {len(tokenizer)} tokens, "
        f"{len(samples)} samples, step {step} of {steps}, seed {seed}"
    )
    begun = saved = time.monotonic()
    figures: dict[str, float] = {}
    means: dict[str, float] = {}
    model.train()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("training", total=steps, completed=step)
        while step < steps:
            rng = np.random.default_rng([seed, step])  # a resumed run draws what an unbroken one would
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, steps)
            parts = _step_losses(model, heads, batcher, samples, maker, rng, step / steps)
            total = torch.stack([LOSS_WEIGHTS[name] * value for name, value in parts.items()]).sum()
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            step += 1
            for name, value in parts.items():
                means[name] = 0.95 * means.get(name, value.item()) + 0.05 * value.item()
            progress.update(bar, completed=step, description=f"step {step} " + _short(means))
            now = time.monotonic()
            if now - saved > _SAVE_EVERY_S or step == steps or step % 1000 == 0:
                saved = now
                seconds = spent_s + now - begun
                figures = evaluate(model, heads, batcher, held_back, maker)
                console.print(f"step {step} {seconds:.0f} s {len(samples)} samples {_short(means)} {_short(figures)}")
                state = {
                    "model": model.state_dict(),
                    "heads": heads.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "step": step,
                    "seconds": seconds,
                }
                torch.save(state, run / "state.partial.pt")
                (run / "state.partial.pt").rename(state_file)
                save_checkpoint(model, tokenizer, out)
                samples.refresh()
    return figures


def _step_losses(
    model: Qwen2VLForConditionalGeneration,
    heads: TrainingHeads,
    batcher: Batcher,
    samples: Samples,
    maker: QuestionMaker,
    rng: np.random.Generator,
    progress: float,
) -> dict[str, Tensor]:
    """Losses of one freshly drawn batch; `progress` is the share of the training that is done."""
    is_vision_only = progress < VISION_STEPS_RATIO
    chunk = [augment(s, rng) for s in samples.draw(rng, VISION_IMAGES_A_STEP if is_vision_only else IMAGES_A_STEP)]
    if is_vision_only:
        patches, grid = batcher.patches(chunk)
        targets = batcher.cell_targets(chunk, grid[0] * grid[1])
        embedding = model.model.language_model.embed_tokens.weight
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return vision_losses(heads, batcher, embedding, encode_images(model, patches, grid), targets, grid)
    sharpened = min(1.0, max(0.0, (progress - 0.35) / 0.45))  # first roughly where, then exactly
    sigma = SIGMA_FIRST + (SIGMA_LAST - SIGMA_FIRST) * sharpened
    batch, all_targets = batcher.build(chunk, draw_questions(chunk, maker, rng), rng)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return losses(model, heads, batcher, batch, all_targets, sigma)


def _short(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in values.items())
