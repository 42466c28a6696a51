"""Train the small checkpoint: samples → batches → losses → weights, in one linear file; resumes where it stopped.

The losses beside the language model's own teach vision to name what it sees, the inner layers to know where, and the
reply to point at the object that it names before it writes the box.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

from qwen2vl_robot.config import Catalogue, load_yaml
from qwen2vl_robot.geometry import intersection_over_union
from qwen2vl_robot.languages import ENGLISH, load_languages
from qwen2vl_robot.planner.contract import COMPACT_SYSTEM_PROMPT
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.training.batches import Batcher, CellTargets, Sample, Samples, Targets, augment
from qwen2vl_robot.training.crops import draw_crops
from qwen2vl_robot.training.dataset import MAX_PIXELS, MIN_PIXELS
from qwen2vl_robot.training.model import (
    Batch,
    Features,
    TrainingHeads,
    build_model,
    build_tokenizer,
    encode_images,
    forward,
    plain_state,
    soft_number_targets,
    whiten,
)
from qwen2vl_robot.training.questions import Question, QuestionMaker
from qwen2vl_robot.training.vocabulary import grow

VISION_IMAGES_A_STEP = 16
IMAGES_A_STEP = 12
QUESTIONS_AN_IMAGE = 8
ABSENT_AN_IMAGE = 2
PEAK_RATE = 8e-4
WARM_UP_STEPS = 100
VISION_STEPS_RATIO = 0.3  # the first share of the steps trains vision alone: cheap, and pointing needs it
_PRESENCE_WEIGHT = 5.0
# A training that starts from a checkpoint is as sharp as that ended, slower, and begins with heads that it lacks.
MATURE_RATIO = 0.8
MATURE_IMAGES_A_STEP = 6
CROPS_A_STEP = 96
MATURE_WARM_UP_STEPS = 20
MATURE_RATE_RATIO = 0.6
HEADS_STEPS = 80
MAX_QUESTION_CHARS = 330  # a longer one, with its reply, makes the padding of all others longer
FOREIGN_RATIO = 0.65
FAILED_RATIO = 0.3
POLITE_RATIO = 0.2
PLACE_FIRST_RATIO = 0.5
OFTEN = ("zh",)  # no particle beside a Chinese noun says what it is: only the order does, and that is learned last
SIGMA_FIRST, SIGMA_LAST = 24.0, 3.0
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
_SAVE_EVERY_S = 300.0
_EVALUATE_EVERY = 3  # savings
_EVALUATED_BATCHES = 6
_WHITENED_BATCHES = 24


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
    # Whether an object is there, or another one, is one token among many, and the one that a motion hangs on.
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

    # Pointing: the token before the boxes must pick any of the object's image tokens, or "absent".
    log_p = _point_log_p(heads, features, targets)
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
    """Teacher-forced figures on samples that were never trained on; a reply is right but for the boxes' numbers."""
    rng = np.random.default_rng(0)
    model.eval()
    pointed, ious, said_absent, said_present, right = [], [], [], [], []
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
        is_absent = targets.point_cells[:, -1] > 0
        said = F.linear(hidden[targets.point_at].float(), embedding).argmax(dim=-1)
        opens = torch.tensor([int(t) in batcher.opens_box for t in said])
        said_absent += (~opens[is_absent]).float().tolist()
        said_present += opens[~is_absent].float().tolist()
        number_rows = embedding[torch.tensor(batcher.number_ids)]
        boxes = F.linear(hidden[targets.box_at].float(), number_rows).argmax(dim=-1).float()
        ious += intersection_over_union(boxes.numpy(), targets.box.numpy()).tolist()
        words = targets.number < 0
        told = F.linear(hidden[targets.reply_at[words]].float(), embedding).argmax(dim=-1)
        wrong = torch.zeros(sum(len(group) for group in questions))
        wrong.index_add_(0, targets.reply_of[words], (told != targets.reply_ids[words]).float())
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


def draw_questions(samples: list[Sample], maker: QuestionMaker, rng: np.random.Generator) -> list[list[Question]]:
    """Questions for each image, some of them about objects that are not there."""
    groups = []
    for sample in samples:
        drawn = [maker.draw(sample.seen, rng, absent=k < ABSENT_AN_IMAGE) for k in range(QUESTIONS_AN_IMAGE)]
        groups.append([q for q in drawn if q is not None and len(q.instruction + q.reply) <= MAX_QUESTION_CHARS])
    return groups


def learning_rate(step: int, steps: int, warm_up_steps: int = WARM_UP_STEPS) -> float:
    """Linear warm-up, constant to two thirds of the steps, then linear down to a fiftieth."""
    if step < warm_up_steps:
        return PEAK_RATE * (step + 1) / warm_up_steps
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
    state = {name: value.detach().to(torch.bfloat16) for name, value in plain_state(model).items()}
    half = Qwen2VLForConditionalGeneration(model.config).to(torch.bfloat16)
    half.load_state_dict(state)
    half.generation_config.do_sample = False
    half.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS).save_pretrained(folder)
    contract = {"prompt_style": "compact", "box_convention": "thousandths"}
    (folder / "planner.json").write_text(json.dumps(contract, indent=2) + "\n")


def train(
    data: Path, validation: Path, out: Path, run: Path, *, steps: int, seed: int, start: Path | None = None,
    stage: str = "all", threads: int | None = None,
) -> dict[str, float]:  # fmt: skip
    """Train for `steps` in all, resuming from `run` when it holds a state, and write the checkpoint to `out`.

    Args:
        start: a checkpoint to begin with, instead of random weights; a `state.pt` beside it also gives the heads.
        stage: "words" leaves the vision tower as it is; "sights" trains it alone, on pieces around single objects.
        threads: of torch, else one a core; on a busy machine one is faster, for threads wait for each other.

    Returns:
        The figures of the last evaluation, on all nine languages.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(threads or os.cpu_count() or 1)
    run.mkdir(parents=True, exist_ok=True)
    languages = load_languages()
    held_out = load_yaml(resolve("objects/catalogue_wide.yaml"), Catalogue).held_out  # those of the other one as well
    plainly = QuestionMaker(languages, held_out, references=("label",))
    maker = QuestionMaker(
        languages, held_out, foreign_ratio=FOREIGN_RATIO, failed_ratio=FAILED_RATIO, polite_ratio=POLITE_RATIO,
        place_first_ratio=PLACE_FIRST_RATIO, often=OFTEN,
    )  # fmt: skip
    samples, held_back = Samples(data), Samples(validation)
    state_file, tokenizer_folder = run / "state.pt", run / "tokenizer"
    is_resumed = state_file.is_file()
    if is_resumed:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
        model = build_model(tokenizer)
    else:
        if start is None:
            tokenizer = build_tokenizer(corpus(plainly, samples, np.random.default_rng(seed)))
            model = build_model(tokenizer)
        else:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(start)
            model = Qwen2VLForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
        grow(tokenizer, model, languages)
        tokenizer.save_pretrained(tokenizer_folder)
    batcher = Batcher(tokenizer, languages[ENGLISH])
    whiten(model, _some_patches(batcher, samples, seed))
    heads = TrainingHeads(model.config.text_config.hidden_size, len(batcher.colours), len(batcher.kinds))
    parameters = [*model.parameters(), *heads.parameters()]
    decayed = [p for p in parameters if p.ndim >= 2]
    plain = [p for p in parameters if p.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=PEAK_RATE, betas=(0.9, 0.98), fused=True,
    )  # fmt: skip
    step, spent_s = 0, 0.0
    heads_steps = HEADS_STEPS if start and not _take_heads(heads, start) else 0
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
    savings = 0
    means: dict[str, float] = {}
    model.train()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("training", total=steps, completed=step)
        while step < steps:
            rng = np.random.default_rng([seed, step])  # a resumed run draws what an unbroken one would
            for group in optimiser.param_groups:
                group["lr"] = (
                    MATURE_RATE_RATIO * learning_rate(step, steps, MATURE_WARM_UP_STEPS)
                    if start
                    else learning_rate(step, steps)
                )
            model.requires_grad_(step >= heads_steps and stage != "sights")
            model.model.visual.requires_grad_(step >= heads_steps and stage != "words")
            model.model.language_model.embed_tokens.weight.requires_grad_(stage != "sights")
            progressed = max(step / steps, MATURE_RATIO if start else 0.0)
            images = MATURE_IMAGES_A_STEP if start else IMAGES_A_STEP
            if stage == "sights":
                parts = _sight_losses(model, heads, batcher, draw_crops(samples, rng, CROPS_A_STEP))
            else:
                parts = _step_losses(model, heads, batcher, samples, maker, rng, progressed, images)
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
                console.print(f"step {step} {seconds:.0f} s {len(samples)} samples {_short(means)}")
                savings += 1
                if savings % _EVALUATE_EVERY == 0 or step == steps:
                    on_plain = evaluate(model, heads, batcher, held_back, plainly)
                    figures = evaluate(model, heads, batcher, held_back, maker)
                    console.print(f"  plain English {_short(on_plain)}\n  everything {_short(figures)}")
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


def _some_patches(batcher: Batcher, samples: Samples, seed: int) -> Tensor:
    """Patches (n, 1176) of enough pictures to say how patches vary."""
    rng = np.random.default_rng(seed)
    drawn = [batcher.patches(samples.draw(rng, IMAGES_A_STEP))[0].flatten(0, 1) for _ in range(_WHITENED_BATCHES)]
    return torch.cat(drawn)


def _take_heads(heads: TrainingHeads, start: Path) -> bool:
    """Take the heads of the training that made a checkpoint, where its state is there and they still fit."""
    file = start / "state.pt"
    if not file.is_file():
        return False
    own = heads.state_dict()
    found = torch.load(file, weights_only=True)["heads"]
    heads.load_state_dict({name: found[name] if found[name].shape == v.shape else v for name, v in own.items()})
    return True


def _step_losses(
    model: Qwen2VLForConditionalGeneration,
    heads: TrainingHeads,
    batcher: Batcher,
    samples: Samples,
    maker: QuestionMaker,
    rng: np.random.Generator,
    progress: float,
    images: int,
) -> dict[str, Tensor]:
    """Losses of one freshly drawn batch; `progress` is the share of the training that is done."""
    is_vision_only = progress < VISION_STEPS_RATIO
    chunk = [augment(s, rng) for s in samples.draw(rng, VISION_IMAGES_A_STEP if is_vision_only else images)]
    if is_vision_only:
        return _sight_losses(model, heads, batcher, chunk)
    sharpened = min(1.0, max(0.0, (progress - 0.35) / 0.45))  # first roughly where, then exactly
    sigma = SIGMA_FIRST + (SIGMA_LAST - SIGMA_FIRST) * sharpened
    batch, all_targets = batcher.build(chunk, draw_questions(chunk, maker, rng), rng)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return losses(model, heads, batcher, batch, all_targets, sigma)


def _sight_losses(
    model: Qwen2VLForConditionalGeneration, heads: TrainingHeads, batcher: Batcher, chunk: list[Sample]
) -> dict[str, Tensor]:
    """Losses of the vision tower alone."""
    patches, grid = batcher.patches(chunk)
    targets = batcher.cell_targets(chunk, grid[0] * grid[1])
    embedding = model.model.language_model.embed_tokens.weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return vision_losses(heads, batcher, embedding, encode_images(model, patches, grid), targets, grid)


def _short(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in values.items())
