"""Samples → batches → losses → the small checkpoint's weights; resumes after interruptions."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

from qwen2vl_robot.config import Catalogue, load_yaml
from qwen2vl_robot.languages import ENGLISH, Language, load_languages
from qwen2vl_robot.planner.contract import COMPACT_SYSTEM_PROMPT
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.training.batches import Batcher
from qwen2vl_robot.training.crops import draw_crops
from qwen2vl_robot.training.dataset import MAX_PIXELS, MIN_PIXELS
from qwen2vl_robot.training.evaluation import evaluate
from qwen2vl_robot.training.losses import LOSS_WEIGHTS, fast_type, losses, vision_losses
from qwen2vl_robot.training.model import TrainingHeads, build_model, encode_images, plain_state, whiten
from qwen2vl_robot.training.questions import Mix, QuestionMaker, draw_questions
from qwen2vl_robot.training.samples import Sample, Samples, augment
from qwen2vl_robot.training.tokenizer import build_tokenizer
from qwen2vl_robot.training.vocabulary import grow

VISION_IMAGES_A_STEP = 16
IMAGES_A_STEP = 12
PEAK_RATE = 8e-4
WARM_UP_STEPS = 100
VISION_STEPS_RATIO = 0.3  # share of the steps, at the start, that train vision alone: cheap, and pointing needs it
# From a checkpoint: starts with sharp targets and a lower rate, and first trains the heads if they are missing.
MATURE_RATIO = 0.8
MATURE_IMAGES_A_STEP = 6
CROPS_A_STEP = 96
MATURE_WARM_UP_STEPS = 20
MATURE_RATE_RATIO = 0.6
HEADS_STEPS = 80
MIX = Mix(
    foreign_ratio=0.65,
    failed_ratio=0.3,
    polite_ratio=0.2,
    place_first_ratio=0.5,
    often=("zh",),  # Chinese marks roles by word order alone, which is learned last
)
SIGMA_FIRST, SIGMA_LAST = 24.0, 3.0
_SAVE_EVERY_S = 300.0
_EVALUATE_EVERY = 3  # saves
_WHITENED_BATCHES = 24


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Settings of a training.

    Attributes:
        data, validation: folders with the samples to train on, and the one with those to evaluate on.
        out: folder for the checkpoint.
        run: folder for the training state; a training resumes from the state in it.
        steps: total number of steps, including those before a resumption.
        start: a checkpoint to start from, instead of random weights; a `state.pt` in its folder also gives the heads.
        stage: "all"; "words" keeps the vision tower fixed; "sights" trains it alone, on crops around single objects.
        threads: of torch; by default one per core. One is faster on a busy machine: threads wait for each other.
    """

    data: tuple[Path, ...]
    validation: Path
    out: Path
    run: Path
    steps: int
    seed: int
    start: Path | None = None
    stage: str = "all"
    threads: int | None = None

    @property
    def state_file(self) -> Path:
        return self.run / "state.pt"


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The samples, and the questions about them: plain English, or everything."""

    samples: Samples
    held_back: Samples
    plainly: QuestionMaker
    maker: QuestionMaker


@dataclass(slots=True)
class TrainingState:
    """The state that a training changes, and its progress.

    Attributes:
        heads_steps: number of first steps that train the heads alone.
        spent_s: seconds of training so far, over all resumptions.
    """

    tokenizer: PreTrainedTokenizerFast
    model: Qwen2VLForConditionalGeneration
    heads: TrainingHeads
    batcher: Batcher
    optimiser: torch.optim.Optimizer
    heads_steps: int = 0
    step: int = 0
    spent_s: float = 0.0

    def parameters(self) -> list[Tensor]:
        return [*self.model.parameters(), *self.heads.parameters()]


def train(settings: TrainingSettings) -> dict[str, float]:
    """Train up to `steps` steps in total and write the checkpoint to `out`.

    Returns:
        The figures of the last evaluation, on all nine languages.
    """
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    settings.run.mkdir(parents=True, exist_ok=True)
    languages = load_languages()
    data = _open_data(settings, languages)
    state = _begin(settings, data, languages)
    console = Console(stderr=True)
    console.print(
        f"{sum(p.numel() for p in state.model.parameters()) / 1e6:.1f} M parameters, {len(state.tokenizer)} tokens, "
        f"{len(data.samples)} samples, step {state.step} of {settings.steps}, seed {settings.seed}"
    )
    return _take_steps(state, settings, data, console)


def _open_data(settings: TrainingSettings, languages: dict[str, Language]) -> TrainingData:
    # The wide catalogue's held-out labels include those of the narrow one.
    held_out = load_yaml(resolve("objects/catalogue_wide.yaml"), Catalogue).held_out
    return TrainingData(
        samples=Samples(*settings.data),
        held_back=Samples(settings.validation),
        plainly=QuestionMaker(languages, held_out, references=("label",)),
        maker=QuestionMaker(languages, held_out, MIX),
    )


def _begin(settings: TrainingSettings, data: TrainingData, languages: dict[str, Language]) -> TrainingState:
    """Create a new model, load one from a checkpoint, or resume the one in the run's folder."""
    tokenizer, model = _tokenizer_and_model(settings, data, languages)
    batcher = Batcher(tokenizer, languages[ENGLISH])
    whiten(model, _some_patches(batcher, data.samples, settings.seed))
    heads = TrainingHeads(model.config.text_config.hidden_size, len(batcher.colours), len(batcher.kinds))
    state = TrainingState(tokenizer, model, heads, batcher, _optimiser([*model.parameters(), *heads.parameters()]))
    if settings.start is not None and not _take_heads(heads, settings.start):
        state.heads_steps = HEADS_STEPS
    if settings.state_file.is_file():
        saved = torch.load(settings.state_file, weights_only=True)
        model.load_state_dict(saved["model"])
        heads.load_state_dict(saved["heads"])
        state.optimiser.load_state_dict(saved["optimiser"])
        state.step, state.spent_s = saved["step"], saved["seconds"]
    return state


def _tokenizer_and_model(
    settings: TrainingSettings, data: TrainingData, languages: dict[str, Language]
) -> tuple[PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration]:
    folder = settings.run / "tokenizer"
    if settings.state_file.is_file():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        return tokenizer, build_model(tokenizer)
    if settings.start is None:
        rng = np.random.default_rng(settings.seed)
        tokenizer = build_tokenizer(corpus(data.plainly, data.samples, rng))
        model = build_model(tokenizer)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(settings.start)
        model = Qwen2VLForConditionalGeneration.from_pretrained(settings.start, dtype=torch.float32)
    grow(tokenizer, model, languages)
    tokenizer.save_pretrained(folder)
    return tokenizer, model


def corpus(maker: QuestionMaker, samples: Samples, rng: np.random.Generator) -> list[str]:
    """Collect instructions and replies for the tokenizer."""
    texts = [COMPACT_SYSTEM_PROMPT, "system", "user", "assistant", "You are a helpful assistant."] * 50
    for _ in range(40):
        for group in draw_questions(samples.draw(rng, IMAGES_A_STEP), maker, rng):
            texts += [t for q in group for t in (q.instruction, " " + q.instruction, q.reply)]
    return texts


def _some_patches(batcher: Batcher, samples: Samples, seed: int) -> Tensor:
    """Collect patches (n, 1176) of enough pictures to estimate their covariance."""
    rng = np.random.default_rng(seed)
    drawn = [batcher.patches(samples.draw(rng, IMAGES_A_STEP))[0].flatten(0, 1) for _ in range(_WHITENED_BATCHES)]
    return torch.cat(drawn)


def _optimiser(parameters: list[Tensor]) -> torch.optim.Optimizer:
    decayed = [p for p in parameters if p.ndim >= 2]
    plain = [p for p in parameters if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), fused=True)


def _take_heads(heads: TrainingHeads, start: Path) -> bool:
    """Load the heads from a checkpoint's training state, if there is one and where shapes still fit."""
    file = start / "state.pt"
    if not file.is_file():
        return False
    own = heads.state_dict()
    saved = torch.load(file, weights_only=True)["heads"]
    heads.load_state_dict({name: saved[name] if saved[name].shape == v.shape else v for name, v in own.items()})
    return True


def _take_steps(
    state: TrainingState, settings: TrainingSettings, data: TrainingData, console: Console
) -> dict[str, float]:
    """Take the remaining steps and save from time to time; return the figures of the last evaluation."""
    begun = saved = time.monotonic()
    before_s, savings = state.spent_s, 0
    figures: dict[str, float] = {}
    means: dict[str, float] = {}
    state.model.train()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("training", total=settings.steps, completed=state.step)
        while state.step < settings.steps:
            for name, value in _take_step(state, settings, data).items():
                means[name] = 0.95 * means.get(name, value) + 0.05 * value
            progress.update(bar, completed=state.step, description=f"step {state.step} " + _short(means))
            now, is_last = time.monotonic(), state.step == settings.steps
            if now - saved > _SAVE_EVERY_S or is_last or state.step % 1000 == 0:
                saved, savings, state.spent_s = now, savings + 1, before_s + now - begun
                done = f"step {state.step} {state.spent_s:.0f} s {len(data.samples)} samples"
                console.print(f"{done} {_short(means)}")
                if savings % _EVALUATE_EVERY == 0 or is_last:
                    figures = _measure(state, data, console)
                _save_state(state, settings)
                save_checkpoint(state.model, state.tokenizer, settings.out)
                data.samples.refresh()
    return figures


def _take_step(state: TrainingState, settings: TrainingSettings, data: TrainingData) -> dict[str, float]:
    """Draw a batch and take one step of the optimiser; return its unweighted losses."""
    rng = np.random.default_rng([settings.seed, state.step])  # a resumed run draws the same as an uninterrupted one
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(state.step, settings)
    _choose_what_learns(state, settings.stage)
    parts = _step_losses(state, settings, data, rng)
    total = torch.stack([LOSS_WEIGHTS[name] * value for name, value in parts.items()]).sum()
    state.optimiser.zero_grad(set_to_none=True)
    total.backward()
    torch.nn.utils.clip_grad_norm_(state.parameters(), 1.0)
    state.optimiser.step()
    state.step += 1
    return {name: value.item() for name, value in parts.items()}


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Warm up linearly, stay constant to two thirds of the steps, then fall to a fiftieth; lower from a checkpoint."""
    warm_up_steps = MATURE_WARM_UP_STEPS if settings.start else WARM_UP_STEPS
    if step < warm_up_steps:
        rate = PEAK_RATE * (step + 1) / warm_up_steps
    else:
        rate = PEAK_RATE * max(0.02, min(1.0, 3.0 * (1.0 - step / settings.steps)))
    return MATURE_RATE_RATIO * rate if settings.start else rate


def _choose_what_learns(state: TrainingState, stage: str) -> None:
    has_heads = state.step >= state.heads_steps
    state.model.requires_grad_(has_heads and stage != "sights")
    state.model.model.visual.requires_grad_(has_heads and stage != "words")
    state.model.model.language_model.embed_tokens.weight.requires_grad_(stage != "sights")


def _step_losses(
    state: TrainingState, settings: TrainingSettings, data: TrainingData, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Compute the losses of a new batch: first of vision alone, then of everything, with ever sharper targets."""
    if settings.stage == "sights":
        return _sight_losses(state, draw_crops(data.samples, rng, CROPS_A_STEP))
    progress = max(state.step / settings.steps, MATURE_RATIO if settings.start else 0.0)
    is_vision_only = progress < VISION_STEPS_RATIO
    images = MATURE_IMAGES_A_STEP if settings.start else IMAGES_A_STEP
    drawn = data.samples.draw(rng, VISION_IMAGES_A_STEP if is_vision_only else images)
    chunk = [augment(sample, rng) for sample in drawn]
    if is_vision_only:
        return _sight_losses(state, chunk)
    sharpened = min(1.0, max(0.0, (progress - 0.35) / 0.45))  # first rough positions, then exact ones
    sigma = SIGMA_FIRST + (SIGMA_LAST - SIGMA_FIRST) * sharpened
    batch, targets = state.batcher.build(chunk, draw_questions(chunk, data.maker, rng), rng)
    with fast_type():
        return losses(state.model, state.heads, state.batcher, batch, targets, sigma)


def _sight_losses(state: TrainingState, chunk: list[Sample]) -> dict[str, Tensor]:
    """Compute the losses of the vision tower alone."""
    patches, grid = state.batcher.patches(chunk)
    targets = state.batcher.cell_targets(chunk, grid[0] * grid[1])
    embedding = state.model.model.language_model.embed_tokens.weight
    with fast_type():
        vision = encode_images(state.model, patches, grid)
        return vision_losses(state.heads, state.batcher, embedding, vision, targets, grid)


def _measure(state: TrainingState, data: TrainingData, console: Console) -> dict[str, float]:
    on_plain = evaluate(state.model, state.heads, state.batcher, data.held_back, data.plainly)
    figures: dict[str, float] = evaluate(state.model, state.heads, state.batcher, data.held_back, data.maker)
    console.print(f"  plain English {_short(on_plain)}\n  everything {_short(figures)}")
    return figures


def _save_state(state: TrainingState, settings: TrainingSettings) -> None:
    """Write the state for a resumption by a rename, so that the file is never incomplete."""
    saved = {
        "model": state.model.state_dict(),
        "heads": state.heads.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "step": state.step,
        "seconds": state.spent_s,
    }
    partial = settings.run / "state.partial.pt"
    torch.save(saved, partial)
    partial.rename(settings.state_file)


def save_checkpoint(model: Qwen2VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a plain Qwen2-VL checkpoint in bfloat16, with its image processor and planner.json."""
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


def _short(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in values.items())
