"""A Qwen2-VL checkpoint in process → grounded plans. Runs in a process of its own (`planner/process.py`).

With decoding.py and training/ the only code that loads torch.
"""

from __future__ import annotations

import hashlib
import json
import time
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
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, Qwen2VLImageProcessorPil

from qwen2vl_robot.config import parse
from qwen2vl_robot.errors import BadInputError, ObservationError
from qwen2vl_robot.messages import Plan
from qwen2vl_robot.planner.contract import (
    CONVENTIONS,
    BoxConvention,
    PromptStyle,
    RawReply,
    build_messages,
    check_instruction,
    parse_reply,
)
from qwen2vl_robot.planner.decoding import Decoded, Decoder, Prompt, generate_plainly
from qwen2vl_robot.planner.grammar import reply_grammar

_MIN_SIDE_PX = 28
_MAX_SIDE_PX = 8192


class ModelContract(BaseModel):
    """planner.json of a checkpoint: how it wants to be asked and how it writes boxes.

    A checkpoint without the file is one of the Qwen team's: told everything, boxes as its family writes them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt_style: PromptStyle = PromptStyle.FULL
    box_convention: BoxConvention = BoxConvention.THOUSANDTHS


class LocalPlanner:
    """One loaded checkpoint.

    Args:
        model: a folder, or a name of the Hugging Face hub such as Qwen/Qwen2-VL-2B-Instruct.

    Raises:
        BadInputError: no such model, a file is missing or cut short, or it is no Qwen-VL.
    """

    def __init__(self, model: str) -> None:
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        folder = Path(model)
        if folder.exists():
            _check_folder(folder)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(0)
        self._pictures: tuple[bytes, dict[str, Any]] = (b"", {})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._load(model)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise BadInputError(f"model {model}: cannot be loaded: {reason}") from error

    def _load(self, model: str) -> None:
        config = AutoConfig.from_pretrained(model)
        if config.model_type not in CONVENTIONS:
            raise ValueError(f"it is a {config.model_type}; a Qwen-VL is needed: {', '.join(CONVENTIONS)}")
        self._contract = _read_contract(Path(model), CONVENTIONS[config.model_type])
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._images = Qwen2VLImageProcessorPil.from_pretrained(model)
        # The small checkpoint is stored in bfloat16 and fastest on a CPU in float32; the large ones stay as they are.
        dtype: Any = torch.float32 if self._device == "cpu" and _is_small(config) else "auto"
        loaded, info = AutoModelForImageTextToText.from_pretrained(
            model, config=config, dtype=dtype, output_loading_info=True
        )
        if info["missing_keys"]:
            raise ValueError(
                f"{len(info['missing_keys'])} weights are missing, such as {sorted(info['missing_keys'])[0]}"
            )
        self._model = loaded.to(self._device).eval()
        self._decoder = Decoder(self._model, self._tokenizer)

    def plan(self, rgb: npt.NDArray[np.uint8], instruction: str, failures: tuple[str, ...] = ()) -> Plan:
        """Answer for one picture (h, w, 3) uint8; `failures` are lines about what went wrong before.

        Raises:
            BadInputError: the instruction is empty, too long or binary.
            ObservationError: the picture cannot be used.
            PlannerError: the reply cannot be used.
        """
        text = check_instruction(instruction)
        answer = self.reply(rgb, text, failures)
        return parse_reply(answer.text, convention=self._contract.box_convention, image_size_px=answer.image_size_px)

    def reply(
        self,
        rgb: npt.NDArray[np.uint8],
        instruction: str,
        failures: tuple[str, ...] = (),
        *,
        max_coordinate: int | None = None,
        is_plain: bool = False,
    ) -> RawReply:
        """The raw reply, greedily decoded inside the contract's grammar.

        Args:
            max_coordinate: bound of the boxes' numbers, else that of the model's convention.
            is_plain: use transformers' `generate`, one token after the other: slower, and what is compared with.
        """
        began_s = time.perf_counter()
        check_picture(rgb)
        prompt, size_px = self._prompt(rgb, build_messages(instruction, failures, self._contract.prompt_style))
        by_pixels = self._contract.box_convention is BoxConvention.RESIZED_PIXELS
        grammar = reply_grammar(max_coordinate or (max(size_px) if by_pixels else 1000))
        if is_plain:
            ids = generate_plainly(self._model, self._decoder.tokenizer, prompt, grammar)
            answer = Decoded(ids, len(ids), 0, 0)
        else:
            answer = self._decoder.decode(prompt, grammar)
        text = self._tokenizer.decode(answer.ids, skip_special_tokens=False)
        spent_s = time.perf_counter() - began_s
        return RawReply(text, size_px, answer.decoded_tokens, answer.forced_tokens, answer.reused_tokens, spent_s)

    def _prompt(self, rgb: npt.NDArray[np.uint8], messages: list[dict[str, object]]) -> tuple[Prompt, tuple[int, int]]:
        """The tokenised prompt, and the (width, height) in pixels to which the picture was resized."""
        key = hashlib.blake2b(np.ascontiguousarray(rgb).data, digest_size=16).digest() + repr(rgb.shape).encode()
        if key != self._pictures[0]:
            pictures = self._images(images=[Image.fromarray(rgb)], return_tensors="pt")
            pixels = pictures["pixel_values"].to(self._device, self._model.dtype)
            grid = pictures["image_grid_thw"].to(self._device)
            self._pictures = (key, {"pixel_values": pixels, "image_grid_thw": grid})
        pictures = self._pictures[1]
        _, rows, columns = (int(v) for v in pictures["image_grid_thw"][0])
        patch, merge = self._images.patch_size, self._images.merge_size
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        text = text.replace("<|image_pad|>", "<|image_pad|>" * (rows * columns // merge**2))
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return Prompt(ids, pictures, key), (columns * patch, rows * patch)


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


def _read_contract(folder: Path, convention: BoxConvention) -> ModelContract:
    file = folder / "planner.json"
    if not file.is_file():
        return ModelContract(box_convention=convention)
    return parse(json.loads(file.read_text(encoding="utf-8")), ModelContract, str(file))


def _is_small(config: Any) -> bool:
    return bool(config.get_text_config().hidden_size <= 1024)
