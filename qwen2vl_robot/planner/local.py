"""A Qwen2-VL checkpoint in process → grounded plans. Runs in a process of its own (`planner/process.py`).

With decoding.py and training/ the only code that loads torch.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from PIL import Image
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

from qwen2vl_robot.config import parse
from qwen2vl_robot.errors import BadInputError, ObservationError
from qwen2vl_robot.messages import Plan
from qwen2vl_robot.planner.contract import (
    BoxConvention,
    PromptStyle,
    build_messages,
    check_instruction,
    parse_reply,
)

_MODEL_TYPES = ("qwen2_vl",)
_MAX_NEW_TOKENS = 320
_MIN_SIDE_PX = 28
_MAX_SIDE_PX = 8192


class ModelContract(BaseModel):
    """planner.json of a checkpoint: how it wants to be asked and how it writes boxes.

    A checkpoint without the file is one of the Qwen team's: told everything, boxes in 0..1000.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt_style: PromptStyle = PromptStyle.FULL
    box_convention: BoxConvention = BoxConvention.THOUSANDTHS


class LocalPlanner:
    """One loaded checkpoint.

    Args:
        model: a folder, or a name of the Hugging Face hub such as Qwen/Qwen2-VL-2B-Instruct.

    Raises:
        BadInputError: no such model, a file is missing or cut short, or it is no Qwen2-VL.
    """

    def __init__(self, model: str) -> None:
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self._name = model
        folder = Path(model)
        if folder.exists():
            _check_folder(folder)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._load(model)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise BadInputError(f"model {model}: cannot be loaded: {reason}") from error

    def _load(self, model: str) -> None:
        config = AutoConfig.from_pretrained(model)
        if config.model_type not in _MODEL_TYPES:
            raise ValueError(f"it is a {config.model_type}; a Qwen2-VL (model_type qwen2_vl) is needed")
        self._contract = _read_contract(Path(model))
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._images = Qwen2VLImageProcessorPil.from_pretrained(model)
        # The small checkpoint is stored in bfloat16 and fastest on a CPU in float32; the large ones stay as they are.
        dtype: Any = torch.float32 if self._device == "cpu" and _is_small(config) else "auto"
        loaded, info = Qwen2VLForConditionalGeneration.from_pretrained(
            model, config=config, dtype=dtype, output_loading_info=True
        )
        if info["missing_keys"]:
            raise ValueError(
                f"{len(info['missing_keys'])} weights are missing, such as {sorted(info['missing_keys'])[0]}"
            )
        self._model = loaded.to(self._device).eval()

    def plan(self, rgb: npt.NDArray[np.uint8], instruction: str, failures: tuple[str, ...] = ()) -> Plan:
        """Answer for one picture (h, w, 3) uint8; `failures` are lines about what went wrong before.

        Raises:
            BadInputError: the instruction is empty, too long or binary.
            ObservationError: the picture cannot be used.
            PlannerError: the reply cannot be used.
        """
        text = check_instruction(instruction)
        check_picture(rgb)
        reply, grid_px = self.reply(rgb, text, failures)
        return parse_reply(reply, convention=self._contract.box_convention, image_size_px=grid_px)

    def reply(
        self, rgb: npt.NDArray[np.uint8], instruction: str, failures: tuple[str, ...] = ()
    ) -> tuple[str, tuple[int, int]]:
        """The raw reply, greedily decoded, and the (width, height) in pixels to which the picture was resized."""
        messages = build_messages(instruction, failures, self._contract.prompt_style)
        pictures = self._images(images=[Image.fromarray(rgb)], return_tensors="pt")
        _, rows, columns = (int(v) for v in pictures["image_grid_thw"][0])
        patch, merge = self._images.patch_size, self._images.merge_size
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        text = text.replace("<|image_pad|>", "<|image_pad|>" * (rows * columns // merge**2))
        ids = self._tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"].to(self._device)
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == self._model.config.image_token_id).int(),
                pixel_values=pictures["pixel_values"].to(self._device, self._model.dtype),
                image_grid_thw=pictures["image_grid_thw"].to(self._device),
                do_sample=False,
                max_new_tokens=_MAX_NEW_TOKENS,
            )
        # Special tokens stay: Qwen's box markers are among them, and the parser drops the rest.
        reply = self._tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=False)
        return reply, (columns * patch, rows * patch)


def check_picture(rgb: npt.NDArray[np.uint8]) -> None:
    """Refuse what is not a colour picture of a usable size.

    Raises:
        ObservationError: wrong type, channels or size.
    """
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        found = f"{getattr(rgb, 'dtype', type(rgb).__name__)} {getattr(rgb, 'shape', '')}"
        raise ObservationError(f"the picture is {found}; (height, width, 3) uint8 is needed")
    if not all(_MIN_SIDE_PX <= side <= _MAX_SIDE_PX for side in rgb.shape[:2]):
        raise ObservationError(
            f"the picture has {rgb.shape[1]}x{rgb.shape[0]} pixels; each side must be {_MIN_SIDE_PX} to {_MAX_SIDE_PX}"
        )


def _check_folder(folder: Path) -> None:
    """Name the file that a checkpoint folder lacks, before a library says it in a page of traceback.

    Raises:
        BadInputError: not a folder, or a needed file is missing.
    """
    if not folder.is_dir():
        raise BadInputError(f"model {folder}: a folder with a checkpoint is needed, this is a file")
    for pattern in ("config.json", "*.safetensors", "tokenizer.json", "preprocessor_config.json"):
        if not list(folder.glob(pattern)):
            present = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
            raise BadInputError(f"model {folder}: {pattern} is missing; the folder holds {present}")


def _read_contract(folder: Path) -> ModelContract:
    file = folder / "planner.json"
    if not file.is_file():
        return ModelContract()
    return parse(json.loads(file.read_text(encoding="utf-8")), ModelContract, str(file))


def _is_small(config: Any) -> bool:
    return bool(config.text_config.hidden_size <= 1024)
