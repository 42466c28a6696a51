"""A model's settings → weights, tokenizer, image processor and contract in this process."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from qwen2vl_robot.bounds import CONFIG_BYTES, shown
from qwen2vl_robot.config import Strict, parse
from qwen2vl_robot.documents import exists, is_file, read_json
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.adapter import is_adapter, read_adapter
from qwen2vl_robot.planner.contract import CONVENTIONS, BoxConvention, PromptStyle
from qwen2vl_robot.planner.decoding import Decoder
from qwen2vl_robot.planner.fit import KNOWN, RANDOM, estimate, memory, suggest
from qwen2vl_robot.planner.folder import check_folder
from qwen2vl_robot.planner.grammar import bench_grammar, reply_grammar
from qwen2vl_robot.planner.merging import add_adapter
from qwen2vl_robot.planner.reply import format_reply
from qwen2vl_robot.planner.sources import SHIPPED_MODEL, ModelSettings

_A, _B = ("red block", [(1, 2, 3, 4)]), ("blue plate", [(5, 6, 7, 8)])
_SAFE = {"use_safetensors": True, "trust_remote_code": False}  # neither a pickle nor code of a model is ever run
_PICK: dict[str, object] = {"do": "pick", "object": 0}
# The two most common shapes of plans, to draft from.
_EXAMPLES = (
    format_reply([_A], [_PICK]),
    format_reply([_A, _B], [_PICK, {"do": "place", "object": 1, "relation": "on"}]),
)


class ModelContract(Strict):
    """planner.json of a checkpoint: the prompt that it expects and its box convention.

    A checkpoint without the file gets the full prompt and the box convention of its model family.
    """

    prompt_style: PromptStyle = PromptStyle.FULL
    box_convention: BoxConvention = BoxConvention.THOUSANDTHS


@dataclass(frozen=True, slots=True, eq=False)
class OpenedModel:
    """One checkpoint in memory.

    Attributes:
        images: the image processor, with the settings' size limits.
    """

    model: Any
    tokenizer: Any
    images: Any
    contract: ModelContract


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel(OpenedModel):
    """One checkpoint that is ready to reply.

    Attributes:
        grammar: maps the largest box coordinate to the grammar of the replies.
    """

    decoder: Decoder
    grammar: Callable[[int], str] = reply_grammar


def load_model(settings: ModelSettings) -> LoadedModel:
    """Load a checkpoint folder, a hub name, or random weights of a published size.

    Raises:
        BadInputError: no such model, a missing or truncated file, not a Qwen-VL, or not enough memory.
    """
    with _refusing(settings.model):
        _check_memory(settings)
        if settings.model.startswith(RANDOM):
            return _load_random(settings)
        opened = _open(settings)
        model = opened.model if settings.device_map else opened.model.to(_device())
        decoder = Decoder(model.eval(), opened.tokenizer, _EXAMPLES)
        return LoadedModel(model, opened.tokenizer, opened.images, opened.contract, decoder)


def open_model(settings: ModelSettings) -> OpenedModel:
    """Read a checkpoint folder or a hub name, as it is: to train it, or to write it elsewhere.

    Raises:
        BadInputError: as `load_model`, but for the memory.
    """
    with _refusing(settings.model):
        return _open(settings)


@contextlib.contextmanager
def _refusing(name: str) -> Iterator[None]:
    """One clear line instead of what a library raises.

    Raises:
        BadInputError: whatever was raised.
    """
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise BadInputError(f"model {name}: cannot be loaded: {reason}") from error


def _open(settings: ModelSettings) -> OpenedModel:
    """Read a model; one that is an adapter is read from the model that it changes, and added."""
    adapter = read_adapter(Path(settings.model)) if is_adapter(settings.model) else None
    base = adapter.base if adapter else settings.model
    if exists(Path(base)):
        check_folder(Path(base))
    name = _local_name(base)
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    if config.model_type not in CONVENTIONS:
        raise ValueError(f"it is a {config.model_type}; a Qwen-VL is needed: {', '.join(CONVENTIONS)}")
    folders = ([adapter.folder] if adapter else []) + [Path(name)]  # what stands in the first one that has it counts
    contract = _read_contract(folders, CONVENTIONS[config.model_type], settings)
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    has_images = adapter is not None and is_file(adapter.folder / "preprocessor_config.json")
    images = Qwen2VLImageProcessorPil.from_pretrained(folders[0] if has_images else name)
    size = {"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels}
    images.size = {**dict(images.size), **{k: v for k, v in size.items() if v}}
    model, info = AutoModelForImageTextToText.from_pretrained(
        name, config=config, output_loading_info=True, **_SAFE, **_how_to_load(config, settings)
    )
    if info["missing_keys"]:
        raise ValueError(f"{len(info['missing_keys'])} weights are missing, such as {sorted(info['missing_keys'])[0]}")
    if adapter:
        add_adapter(model, adapter)
    return OpenedModel(model, tokenizer, images, contract)


def _load_random(settings: ModelSettings) -> LoadedModel:
    """Create random weights of a published size, with the tokenizer of the shipped checkpoint.

    Raises:
        ValueError: no such size.
    """
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED_MODEL)
    bounds = {"min_pixels": settings.min_pixels or 3136, "max_pixels": settings.max_pixels or 1003520}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(_device()):
            model = Qwen2VLForConditionalGeneration(config_of(settings.model, tokenizer)).eval()
    finally:
        torch.set_default_dtype(before)
    return LoadedModel(
        model,
        tokenizer,
        images=Qwen2VLImageProcessorPil(**bounds),
        contract=ModelContract(prompt_style=PromptStyle.COMPACT),
        decoder=Decoder(model, tokenizer, _EXAMPLES),
        grammar=bench_grammar,
    )


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def config_of(model: str, tokenizer: Any) -> Qwen2VLConfig:
    """Build the configuration of a published size.

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
    """Refuse a model that does not fit, before it is fetched and fills the memory.

    Raises:
        ValueError: it needs more memory than is free.
    """
    try:
        fit = estimate(settings, *memory())
    except BadInputError:
        return  # the size is unknown until the model is loaded
    if not fit.fits and settings.device_map is None:
        raise ValueError(f"{fit.describe()}; fits: {suggest(fit.available_gb, fit.device)}")


def _local_name(model: str) -> str:
    """Find the folder or hub name to load from; ModelScope's own client fetches its models."""
    scheme, _, name = model.partition(":")
    if scheme != "modelscope":
        return model
    try:
        from modelscope import snapshot_download
    except ImportError as error:
        raise ValueError("a ModelScope name needs ModelScope's client: pip install modelscope") from error
    return str(snapshot_download(name))


def _how_to_load(config: Any, settings: ModelSettings) -> dict[str, Any]:
    """Choose the arguments of `from_pretrained`.

    A small checkpoint is stored in bfloat16 but runs fastest on a CPU in float32; large ones keep their type.
    """
    is_small = bool(config.get_text_config().hidden_size <= 1024)
    dtype = settings.dtype or ("float32" if is_small and not torch.cuda.is_available() else "auto")
    chosen = {"device_map": settings.device_map, "attn_implementation": settings.attention}
    return {"dtype": dtype, **{name: value for name, value in chosen.items() if value is not None}}


def _read_contract(folders: list[Path], convention: BoxConvention, settings: ModelSettings) -> ModelContract:
    """Read the contract from the settings, else from the first planner.json, else from the model family."""
    files = [folder / "planner.json" for folder in folders]
    file = next((file for file in files if file.is_file()), files[-1])
    data = read_json(file, CONFIG_BYTES) if file.is_file() else {"box_convention": convention}
    if not isinstance(data, dict):
        raise BadInputError(f"{shown(file)}: a mapping is needed")
    chosen = settings.model_dump(include={"prompt_style"}, exclude_none=True)
    if settings.convention is not None:
        chosen["box_convention"] = settings.convention
    return parse({**data, **chosen}, ModelContract, str(file))
