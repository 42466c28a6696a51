"""A Qwen-VL and samples → a LoRA adapter; on one device or several, by accelerate; goes on where it was stopped."""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qwen2vl_robot.documents import exists
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.adapter import is_adapter
from qwen2vl_robot.planner.contract import PlannerMode
from qwen2vl_robot.planner.fit import RANDOM
from qwen2vl_robot.planner.hub import prepare_hub
from qwen2vl_robot.planner.loading import OpenedModel, open_model
from qwen2vl_robot.planner.merging import digest_of
from qwen2vl_robot.planner.sources import ModelSettings
from qwen2vl_robot.training.lora_data import IGNORED, Collator, Data, Example
from qwen2vl_robot.training.lora_files import Run, check_out, save_training, take_up
from qwen2vl_robot.training.memory import IMAGE_TOKENS, RANK

# The linear layers of the text model; vision stays as it is.
TARGETS = r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
ALPHA_A_RANK = 2  # lora_alpha = 2 * rank
RATE = 1e-4
SAVE_EVERY_S = 300.0
_WARM_UP_STEPS = 20
_LAST_RATE_RATIO = 0.1
_MOST_NORM = 1.0
_VALIDATION_BATCHES = 16


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Settings of a fine-tuning.

    Attributes:
        data: folder of shards to train on; validation: one that is only measured.
        out: folder of the adapter, and of the state from which a training goes on.
        steps: total number of steps, including those before it was stopped.
        image_tokens: at most in a batch, of each process.
    """

    model: ModelSettings
    data: Path
    out: Path
    steps: int
    seed: int
    validation: Path | None = None
    rank: int = RANK
    rate: float = RATE
    image_tokens: int = IMAGE_TOKENS


@dataclass(frozen=True, slots=True)
class _Work:
    """A training in progress with its data."""

    run: Run
    settings: LoraSettings
    collator: Collator
    data: Data


def check_extra() -> None:
    """Refuse to begin without the libraries of the extra.

    Raises:
        BadInputError: one is missing.
    """
    try:
        import accelerate  # noqa: F401
        import peft  # noqa: F401
    except ImportError as error:
        raise BadInputError(f"{error.name} is missing; run: pip install 'qwen2vl_robot[finetune]'") from error


def train_lora(settings: LoraSettings) -> Iterator[dict[str, float]]:
    """Train up to `steps` steps in total and write the adapter; yields each step's figures.

    The last step also has the loss on the validation samples.

    Raises:
        BadInputError: model, data or state cannot be used, or the loss became no number.
        UnsavedError: the disk is full; what was saved before is still there.
    """
    check_extra()
    check_out(settings.out)
    name = settings.model.model
    if settings.model.server is not None or settings.model.mode is PlannerMode.DETECT or name.startswith(RANDOM):
        raise BadInputError("--model: a folder or a hub name is trained, no server, no random weights, and not detect:")
    if is_adapter(name):
        raise BadInputError(f"--model {name}: an adapter; train its model, or merge it and train the result")
    prepare_hub(settings.model)
    if settings.model.device_map is not None:
        raise BadInputError("--model: device_map is for planning; several GPUs train by accelerate launch")
    try:
        yield from _steps(settings)
    except torch.OutOfMemoryError as error:
        raise BadInputError(
            f"the memory of the GPU is full; give fewer than --image-tokens {settings.image_tokens}, or more GPUs; "
            "train --method lora --memory says what it takes"
        ) from error


def _steps(settings: LoraSettings) -> Iterator[dict[str, float]]:
    work = _begin(settings, _accelerator())
    run = work.run
    held_back = None if settings.validation is None else _open(settings, settings.validation, run.opened)
    began_s, saved_s = time.monotonic() - run.spent_s, time.monotonic()
    while run.step < settings.steps:
        figures = _take_step(work)
        run.step, run.spent_s = run.step + 1, time.monotonic() - began_s
        is_last = run.step == settings.steps
        if is_last or _agreed(run, time.monotonic() - saved_s > SAVE_EVERY_S):
            save_training(settings.out, _found_from_anywhere(settings.model.model), run)
            saved_s = time.monotonic()
        if is_last and held_back is not None:
            figures["validation_loss"] = _measure(work, held_back)
        yield {"step": run.step, "seconds": run.spent_s, **figures}


def _found_from_anywhere(name: str) -> str:
    return str(Path(name).resolve()) if exists(Path(name)) else name


def _accelerator() -> Any:
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    has_gpu = torch.cuda.is_available()
    has_half = has_gpu and torch.cuda.is_bf16_supported()
    accelerator = Accelerator(mixed_precision="bf16" if has_half else "no", cpu=not has_gpu)
    set_seed(0)
    return accelerator


def _open(settings: LoraSettings, folder: Path, opened: OpenedModel) -> Data:
    return Data(folder, settings.image_tokens, settings.seed, opened.images)


def _begin(settings: LoraSettings, accelerator: Any) -> _Work:
    """Open model and data, and take up the state of an earlier run."""
    is_half = accelerator.mixed_precision == "bf16"
    dtype = settings.model.dtype or ("bfloat16" if is_half else "float32")
    opened = open_model(settings.model.model_copy(update={"dtype": dtype}))
    model = opened.model
    if getattr(model.config, "quantization_config", None) is not None:
        raise BadInputError(f"--model {settings.model.model}: its weights are quantised; train the plain ones")
    data = _open(settings, settings.data, opened)
    about = {
        "rank": settings.rank,
        "rate": settings.rate,
        "seed": settings.seed,
        "image_tokens": settings.image_tokens,
        "processes": accelerator.num_processes,
        "samples": data.digest,
        "base_digest": _digest(model, accelerator),
    }
    collator = Collator(opened.tokenizer, opened.images, opened.contract, model.config, accelerator.device)
    run = Run(accelerator, *_with_factors(model, settings, accelerator), opened, about)
    take_up(settings.out, run)
    return _Work(run, settings, collator, data)


def _with_factors(model: Any, settings: LoraSettings, accelerator: Any) -> tuple[Any, Any]:
    """The model with LoRA's factors, and their optimiser."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(settings.seed)
    alpha = ALPHA_A_RANK * settings.rank
    model.config.use_cache = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # new names that are not in every version that is allowed
        model = get_peft_model(model, LoraConfig(r=settings.rank, lora_alpha=alpha, target_modules=TARGETS))
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=settings.rate, weight_decay=0)
    prepared: tuple[Any, Any] = accelerator.prepare(model, optimiser)
    return prepared


def _digest(model: Any, accelerator: Any) -> str:
    """The digest of the weights, from the first process: under FSDP the others load none."""
    from accelerate.utils import broadcast_object_list

    names = sorted(name for name, _ in model.named_modules() if _is_target(name))
    found = [digest_of(model, names) if accelerator.is_main_process else ""]
    return str(broadcast_object_list(found)[0])


def _is_target(name: str) -> bool:
    return re.fullmatch(TARGETS, name) is not None


def learning_rate(step: int, settings: LoraSettings) -> float:
    """Warm up linearly, then fall linearly to a tenth."""
    warm_up = min(1.0, (step + 1) / _WARM_UP_STEPS)
    return settings.rate * warm_up * (1.0 - (1.0 - _LAST_RATE_RATIO) * step / settings.steps)


def _take_step(work: _Work) -> dict[str, float]:
    """Learn from one batch on each process.

    Raises:
        BadInputError: the loss or its gradient is no number; nothing was changed by it.
    """
    run, settings, accelerator = work.run, work.settings, work.run.accelerator
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(run.step, settings)
    examples = work.data.batch(run.step * accelerator.num_processes + accelerator.process_index)
    loss, tokens = _loss(work, examples)
    run.optimiser.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    norm = _number(accelerator.clip_grad_norm_(run.model.parameters(), _MOST_NORM))
    mean = float(accelerator.reduce(loss.detach().float(), "mean"))
    if not math.isfinite(mean) or not math.isfinite(norm):
        raise BadInputError(
            f"step {run.step + 1}: the loss is {mean:g}, its gradient {norm:g}; give a lower --rate than "
            f"{settings.rate:g}; {settings.out} keeps what was saved before"
        )
    run.optimiser.step()
    return {"loss": mean, "image_tokens": tokens}


def _number(norm: Any) -> float:
    """The number of a norm that may be shared out over processes."""
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def _loss(work: _Work, examples: list[Example]) -> tuple[Tensor, int]:
    """The mean loss of the replies' tokens, and the number of image tokens."""
    inputs, labels = work.collator.collate(examples)
    logits = work.run.model(**inputs, logits_to_keep=labels.shape[1] + 1).logits[:, :-1]
    loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    return loss, int(inputs["mm_token_type_ids"].sum())


def _measure(work: _Work, data: Data) -> float:
    """The mean loss of the first batches of held-back samples; the same ones on each process."""
    model = work.run.model
    model.eval()
    try:
        with torch.no_grad():
            count = min(_VALIDATION_BATCHES, len(data))
            losses = [float(_loss(work, data.batch(number))[0]) for number in range(count)]
    finally:
        model.train()
    return sum(losses) / len(losses)


def _agreed(run: Run, wants: bool) -> bool:
    """Whether the first process wants it: clocks differ, and saving takes all of them."""
    flag = torch.tensor([float(wants and run.accelerator.is_main_process)], device=run.accelerator.device)
    return bool(run.accelerator.reduce(flag, "sum").item() > 0)
