"""A Qwen2-VL checkpoint in process → grounded plans. Runs in a process of its own (`planner/process.py`).

With decoding.py and training/ the only code that loads torch.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from PIL import Image
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from qwen2vl_robot.config import Strict, parse
from qwen2vl_robot.errors import BadInputError, PlannerError
from qwen2vl_robot.messages import Plan
from qwen2vl_robot.planner.answers import speak_like
from qwen2vl_robot.planner.contract import (
    CONVENTIONS,
    BoxConvention,
    PromptStyle,
    RawReply,
    build_messages,
    check_instruction,
    format_reply,
    parse_reply,
)
from qwen2vl_robot.planner.decoding import Decoded, Decoder, Prompt, generate_plainly
from qwen2vl_robot.planner.fit import KNOWN, RANDOM, estimate, memory, suggest
from qwen2vl_robot.planner.grammar import bench_grammar, reply_grammar
from qwen2vl_robot.planner.picture import MAX_CLIP_PIXELS, MIN_CLIP_PIXELS, check_picture
from qwen2vl_robot.planner.sources import SHIPPED_MODEL, ModelSettings, read_settings

Picture = npt.NDArray[np.uint8]  # (h, w, 3)
Pictures = tuple[Picture, ...]
_TAKE_CLIPS = ("qwen2_vl", "qwen2_5_vl")  # Qwen3-VL wants the time written between a video's steps
_IMAGE, _VIDEO = "<|image_pad|>", "<|video_pad|>"
_A, _B = ("red block", [(1, 2, 3, 4)]), ("blue plate", [(5, 6, 7, 8)])
_PICK: dict[str, object] = {"do": "pick", "object": 0}
# The shapes that most plans have.
_EXAMPLES = (
    format_reply([_A], [_PICK]),
    format_reply([_A, _B], [_PICK, {"do": "place", "object": 1, "relation": "on"}]),
)


class ModelContract(Strict):
    """planner.json of a checkpoint: how it wants to be asked and how it writes boxes.

    A checkpoint without the file is one of the Qwen team's: told everything, boxes as its family writes them.
    """

    prompt_style: PromptStyle = PromptStyle.FULL
    box_convention: BoxConvention = BoxConvention.THOUSANDTHS


class LocalPlanner:
    """One loaded checkpoint.

    Args:
        model: what a person calls it (see sources.py), or its settings; not one behind a server.

    Raises:
        BadInputError: no such model, a file is missing or cut short, or it is no Qwen-VL.
    """

    def __init__(self, model: str | ModelSettings) -> None:
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        settings = read_settings(model) if isinstance(model, str) else model
        folder = Path(settings.model)
        if folder.exists():
            _check_folder(folder)
        torch.manual_seed(0)
        self._pictures: tuple[bytes, dict[str, Any]] = (b"", {})
        self._grammar: Callable[[int], str] = reply_grammar
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._load(settings)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise BadInputError(f"model {settings.model}: cannot be loaded: {reason}") from error

    def _load(self, settings: ModelSettings) -> None:
        _check_memory(settings)
        if settings.model.startswith(RANDOM):
            return self._invent(settings)
        name = _local_name(settings.model)
        config = AutoConfig.from_pretrained(name)
        if config.model_type not in CONVENTIONS:
            raise ValueError(f"it is a {config.model_type}; a Qwen-VL is needed: {', '.join(CONVENTIONS)}")
        self._contract = _read_contract(Path(name), CONVENTIONS[config.model_type], settings)
        self._tokenizer = AutoTokenizer.from_pretrained(name)
        self._images = Qwen2VLImageProcessorPil.from_pretrained(name)
        size = {"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels}
        self._images.size = {**dict(self._images.size), **{k: v for k, v in size.items() if v}}
        loaded, info = AutoModelForImageTextToText.from_pretrained(
            name, config=config, output_loading_info=True, **_how_to_load(config, settings)
        )
        if info["missing_keys"]:
            raise ValueError(
                f"{len(info['missing_keys'])} weights are missing, such as {sorted(info['missing_keys'])[0]}"
            )
        if settings.device_map is None:
            loaded = loaded.to("cuda" if torch.cuda.is_available() else "cpu")
        self._model = loaded.eval()
        self._decoder = Decoder(self._model, self._tokenizer, _EXAMPLES)

    def _invent(self, settings: ModelSettings) -> None:
        """Random weights of a true size, with the tokens of the shipped checkpoint.

        Raises:
            ValueError: no such size.
        """
        self._contract = ModelContract(prompt_style=PromptStyle.COMPACT)
        self._tokenizer = AutoTokenizer.from_pretrained(SHIPPED_MODEL)
        bounds = {"min_pixels": settings.min_pixels or 3136, "max_pixels": settings.max_pixels or 1003520}
        self._images = Qwen2VLImageProcessorPil(**bounds)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device(device):
                self._model = Qwen2VLForConditionalGeneration(_config_of(settings.model, self._tokenizer)).eval()
        finally:
            torch.set_default_dtype(before)
        self._decoder = Decoder(self._model, self._tokenizer, _EXAMPLES)
        self._grammar = bench_grammar

    def limits(self) -> tuple[int, float]:
        """(bytes of the text layers' weights, bytes a second that reading them takes at best), measured now."""
        text = self._model.model.language_model
        weights = sum(p.numel() * p.element_size() for p in [*text.layers.parameters(), self._model.lm_head.weight])
        block = torch.ones(2**28 if self._model.device.type == "cuda" else 2**25, device=self._model.device)
        seconds = []
        for _ in range(5):
            began_s = time.perf_counter()
            float(block.sum())
            seconds.append(time.perf_counter() - began_s)
        return weights, block.numel() * block.element_size() / min(seconds)

    def plan(
        self,
        rgb: Picture,
        instruction: str,
        failures: tuple[str, ...] = (),
        others: Pictures = (),
        clip: Pictures = (),
        *,
        shows_all: bool = False,
    ) -> Plan:
        """Answer for a picture; `failures` are lines about what went wrong before.

        Args:
            others: pictures of further cameras, clip: of the seconds before, CLIP_STEP_S apart; a checkpoint of the
                compact prompt has learned to look at one picture, and is shown no more.
            shows_all: show them to such a checkpoint, too.

        Raises:
            BadInputError: the instruction is empty, too long or binary.
            ObservationError: the picture cannot be used.
            PlannerError: the reply cannot be used.
        """
        text = check_instruction(instruction)
        answer = self.reply(rgb, text, failures, others, clip, shows_all=shows_all)
        plan = parse_reply(
            answer.text, convention=self._contract.box_convention, image_size_px=answer.image_size_px, said=text
        )
        return speak_like(plan, text) if self._contract.prompt_style is PromptStyle.COMPACT else plan

    def reply(
        self,
        rgb: Picture,
        instruction: str,
        failures: tuple[str, ...] = (),
        others: Pictures = (),
        clip: Pictures = (),
        *,
        max_coordinate: int | None = None,
        is_plain: bool = False,
        shows_all: bool = False,
    ) -> RawReply:
        """The raw reply, greedily decoded inside the contract's grammar.

        Args:
            max_coordinate: bound of the boxes' numbers, else that of the model's convention.
            is_plain: use transformers' `generate`, one token after the other: slower, and what is compared with.
            shows_all: see `plan`.
        """
        began_s = time.perf_counter()
        style = self._contract.prompt_style
        if style is PromptStyle.COMPACT and not shows_all:
            others, clip = (), ()
        seen = (rgb, *others)
        for picture in (*seen, *clip):
            check_picture(picture)
        if clip and self._model.config.model_type not in _TAKE_CLIPS:
            raise PlannerError(
                f"a clip can be shown to {', '.join(_TAKE_CLIPS)}, not to a {self._model.config.model_type}"
            )
        messages = build_messages(instruction, failures, style, len(seen), has_clip=bool(clip))
        prompt, size_px = self._prompt(seen, messages, clip)
        by_pixels = self._contract.box_convention is BoxConvention.RESIZED_PIXELS
        grammar = self._grammar(max_coordinate or (max(size_px) if by_pixels else 1000))
        if is_plain:
            ids = generate_plainly(self._model, self._decoder.tokenizer, prompt, grammar)
            answer = Decoded(ids, len(ids), len(ids), 0, 0)
        else:
            answer = self._decoder.decode(prompt, grammar)
        text = self._tokenizer.decode(answer.ids, skip_special_tokens=False)
        spent_s = time.perf_counter() - began_s
        return RawReply(
            text=text,
            image_size_px=size_px,
            decoded_tokens=answer.decoded_tokens,
            forced_tokens=answer.forced_tokens,
            reused_tokens=answer.reused_tokens,
            passes=answer.passes,
            seconds=spent_s,
            decode_s=answer.decode_s,
        )

    def _prompt(
        self, seen: Pictures, messages: list[dict[str, object]], clip: Pictures = ()
    ) -> tuple[Prompt, tuple[int, int]]:
        """The tokenised prompt, and the (width, height) in pixels to which the first picture was resized."""
        hashed = hashlib.blake2b(digest_size=16, person=str(len(clip)).encode())
        for rgb in (*seen, *clip):
            hashed.update(repr(rgb.shape).encode())
            hashed.update(np.ascontiguousarray(rgb).data)
        key = hashed.digest()
        if key != self._pictures[0]:
            self._pictures = (key, {**self._images_of(seen), **(self._video_of(clip) if clip else {})})
        pictures = self._pictures[1]
        patch, merge = self._images.patch_size, self._images.merge_size
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        grids = pictures["image_grid_thw"].tolist()
        for pad, shapes in ((_IMAGE, grids), (_VIDEO, pictures.get("video_grid_thw", torch.empty(0)).tolist())):
            first, *rest = text.split(pad)
            text = first + "".join(
                pad * (int(times * rows * columns) // merge**2) + part
                for (times, rows, columns), part in zip(shapes, rest, strict=True)
            )
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return Prompt(ids, pictures, key), (grids[0][2] * patch, grids[0][1] * patch)

    def _images_of(self, seen: Pictures) -> dict[str, Any]:
        made = self._images(images=[Image.fromarray(rgb) for rgb in seen], return_tensors="pt")
        device, dtype = self._model.device, self._model.dtype
        return {
            "pixel_values": made["pixel_values"].to(device, dtype),
            "image_grid_thw": made["image_grid_thw"].to(device),
        }

    def _video_of(self, clip: Pictures) -> dict[str, Any]:
        """Patches of a film of which each two pictures, the last one perhaps twice, make one step of time."""
        even = (*clip, *clip[-1:])[: len(clip) + len(clip) % 2]
        film = [Image.fromarray(rgb).resize(clip[0].shape[1::-1]) for rgb in even]
        size = {"shortest_edge": MIN_CLIP_PIXELS, "longest_edge": MAX_CLIP_PIXELS}
        made = self._images(images=film, size=size, return_tensors="pt")
        rows, columns = made["image_grid_thw"][0, 1:].tolist()
        # A still image fills both of a patch's two moments with itself; here the second one is the next picture's.
        still = made["pixel_values"].unflatten(0, (len(film) // 2, 2, rows * columns)).unflatten(-1, (3, 2, -1))
        moving = torch.stack([still[:, 0, :, :, 0], still[:, 1, :, :, 1]], dim=3).flatten(2).flatten(0, 1)
        device = self._model.device
        return {
            "pixel_values_videos": moving.to(device, self._model.dtype),
            "video_grid_thw": torch.tensor([[len(film) // 2, rows, columns]], device=device),
        }


def _config_of(model: str, tokenizer: Any) -> Qwen2VLConfig:
    """The configuration of a true size.

    Raises:
        ValueError: no such size.
    """
    if model.removeprefix(RANDOM) not in KNOWN:
        raise ValueError(f"sizes are {', '.join(KNOWN)}")
    shape = KNOWN[model.removeprefix(RANDOM)]
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")
    }
    ids |= {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>") for name in ("image", "video")}
    ends = {"bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    half = shape.width // shape.heads // 2
    return Qwen2VLConfig(
        text_config={
            "vocab_size": shape.words,
            "hidden_size": shape.width,
            "intermediate_size": shape.mlp_width,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [half // 4, half * 3 // 8, half * 3 // 8],
            },
            "tie_word_embeddings": shape.is_tied,
            **ends,
        },
        vision_config={
            "depth": shape.vision_depth,
            "embed_dim": shape.vision_width,
            "hidden_size": shape.width,
            "num_heads": shape.vision_width // 80,
        },
        tie_word_embeddings=shape.is_tied,
        **ids,
        **ends,
    )


def _check_memory(settings: ModelSettings) -> None:
    """Say that a model does not fit before it is fetched and fills the memory.

    Raises:
        ValueError: it needs more than there is.
    """
    try:
        fit = estimate(settings, *memory())
    except BadInputError:
        return  # of a size that nobody knows before it is loaded
    if not fit.fits and settings.device_map is None:
        raise ValueError(f"{fit.describe()}; fits: {suggest(fit.available_gb, fit.device)}")


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


def _local_name(model: str) -> str:
    """The folder or hub name to load from; ModelScope's own client fetches what is named there."""
    scheme, _, name = model.partition(":")
    if scheme != "modelscope":
        return model
    try:
        from modelscope import snapshot_download
    except ImportError as error:
        raise ValueError("names of ModelScope need its client: pip install modelscope") from error
    return str(snapshot_download(name))


def _how_to_load(config: Any, settings: ModelSettings) -> dict[str, Any]:
    """Arguments of `from_pretrained`.

    The small checkpoint is stored in bfloat16 and fastest on a CPU in float32; the large ones stay as they are.
    """
    is_small = bool(config.get_text_config().hidden_size <= 1024)
    dtype = settings.dtype or ("float32" if is_small and not torch.cuda.is_available() else "auto")
    chosen = {"device_map": settings.device_map, "attn_implementation": settings.attention}
    return {"dtype": dtype, **{name: value for name, value in chosen.items() if value is not None}}


def _read_contract(folder: Path, convention: BoxConvention, settings: ModelSettings) -> ModelContract:
    """What the settings say, else the checkpoint's planner.json, else what its family does."""
    file = folder / "planner.json"
    data = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"box_convention": convention}
    said = settings.model_dump(include={"prompt_style", "box_convention"}, exclude_none=True)
    return parse({**data, **said}, ModelContract, str(file))
