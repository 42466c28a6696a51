"""A model name as a person writes it → where the model is and how to ask it.

checkpoints/mine                              a checkpoint folder, or the folder of a LoRA adapter
Qwen/Qwen2-VL-7B-Instruct-AWQ                 a Hugging Face hub name
modelscope:Qwen/Qwen2-VL-7B-Instruct          a ModelScope name
http://127.0.0.1:8000/v1#Qwen/Qwen2-VL-7B-Instruct   an OpenAI-compatible server, such as vLLM
dashscope:qwen2-vl-72b-instruct               DashScope; its key comes from DASHSCOPE_API_KEY
random:2B                                     random weights of that size, to measure speed
planner.yaml                                  a file with the fields of `ModelSettings`
detect:NAME                                   any of these in the mode `detect`; without a name the shipped checkpoint
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from qwen2vl_robot.bounds import IMAGE_SIDE_PX, NAME_CHARS, shown
from qwen2vl_robot.config import Strict, load_yaml, parse
from qwen2vl_robot.documents import is_file
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.adapter import base_of
from qwen2vl_robot.planner.contract import BoxConvention, PlannerMode, PromptStyle, family_of

SHIPPED_MODEL = str(Path(__file__).resolve().parents[1] / "checkpoints" / "tabletop")
DASHSCOPE_URL = "https://dashscope.aliyuncs.com/compatible-mode/v1"
DETECT = "detect:"
PIXELS_A_TOKEN = 28 * 28
MIN_CALIBRATED_IOU = 0.5  # median overlap of a model's boxes with the true ones
MIN_CALIBRATION_PICTURES = 6
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PLAIN = r"^[^\x00-\x1f\x7f]*$"  # no control characters: it is printed
_Pixels = Annotated[int, Field(ge=4 * PIXELS_A_TOKEN, le=16384 * PIXELS_A_TOKEN)]


_Factor = Annotated[float, Field(ge=0.05, le=20.0)]


class Calibration(Strict):
    """What `doctor --model NAME --calibrate` measured of one model on one server.

    Attributes:
        model, server: of which; settings that name another one are refused.
        pixels_factor: for boxes in pixels, how many of the model's pixels are one of the picture that is sent, in x and
            y; other than 1 where a server scales pictures.
        picture_px: (width, height) of the camera's pictures with which it was measured.
        median_iou, pictures: how well the boxes fit then.
    """

    model: Annotated[str, Field(max_length=NAME_CHARS)]
    server: Annotated[str, Field(max_length=NAME_CHARS)] | None = None
    box_convention: BoxConvention
    pixels_factor: tuple[_Factor, _Factor] = (1.0, 1.0)
    picture_px: tuple[Annotated[int, Field(ge=1, le=IMAGE_SIDE_PX)], Annotated[int, Field(ge=1, le=IMAGE_SIDE_PX)]]
    median_iou: Annotated[float, Field(ge=MIN_CALIBRATED_IOU, le=1.0)]
    pictures: Annotated[int, Field(ge=MIN_CALIBRATION_PICTURES)]


class ModelSettings(Strict):
    """Where a planner's model is and how to ask it.

    Attributes:
        model: a folder or a name; with `server`, the model's name on the server.
        server: base URL of an OpenAI-compatible server.
        key_variable: environment variable that holds the server's key; the key itself is stored nowhere.
        constrain: how to send the reply's schema to the server: vLLM's way, OpenAI's way, or not at all.
        timeout_s: time limit of one plan, including retries.
        device_map, dtype, attention: arguments of transformers' `from_pretrained`, for a local model.
        min_pixels, max_pixels: limits of a picture's size; 28 x 28 pixels cost one token.
        prompt_style, box_convention: override the model's planner.json and family.
        mode: whether the model is asked for a plan, or for boxes alone.
        calibration: what was measured of the model's boxes; needed where its family is not known by its name.
    """

    model: Annotated[str, Field(min_length=1, max_length=NAME_CHARS, pattern=_PLAIN)]
    server: Annotated[str, Field(max_length=NAME_CHARS, pattern=_PLAIN)] | None = None
    key_variable: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")] | None = None
    constrain: Literal["structured_outputs", "response_format", "none"] = "structured_outputs"
    timeout_s: Annotated[float, Field(gt=0.0, le=600.0)] = 60.0
    device_map: Annotated[str, Field(max_length=NAME_CHARS)] | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    min_pixels: _Pixels | None = None
    max_pixels: _Pixels | None = None
    prompt_style: PromptStyle | None = None
    box_convention: BoxConvention | None = None
    mode: PlannerMode = PlannerMode.PLAN
    calibration: Calibration | None = None

    @model_validator(mode="after")
    def _check_calibration(self) -> ModelSettings:
        measured = self.calibration
        if measured is None:
            return self
        if (measured.model, measured.server) != (self.model, self.server):
            raise ValueError("calibration: it is of another model or server; run doctor --calibrate again")
        if self.box_convention not in (None, measured.box_convention):
            raise ValueError(f"box_convention: the calibration says {measured.box_convention.value}")
        return self

    @property
    def convention(self) -> BoxConvention | None:
        """The box convention that is set or was measured, None where the model's family decides."""
        return self.calibration.box_convention if self.calibration else self.box_convention

    def as_sent(self, size_px: tuple[int, int]) -> tuple[int, int]:
        """The (width, height) in the model's own pixels of a picture that is sent with this size."""
        factors = self.calibration.pixels_factor if self.calibration else (1.0, 1.0)
        return round(size_px[0] * factors[0]), round(size_px[1] * factors[1])

    def why_uncalibrated(self, picture_px: tuple[int, int]) -> str:
        """Why nothing may be moved by this model's boxes in such a picture; empty where it may.

        >>> ModelSettings(model="Qwen/Qwen2-VL-2B-Instruct").why_uncalibrated((640, 480))
        ''
        """
        command = "run qwen2vl-robot doctor --model NAME --calibrate --out planner.yaml, then use --model planner.yaml"
        if self.calibration is not None:
            at = self.calibration.picture_px
            if self.calibration.pixels_factor == (1.0, 1.0) or at == picture_px:
                return ""
            sizes = f"{at[0]} x {at[1]}, not {picture_px[0]} x {picture_px[1]}"
            return f"the server scales pictures; how much was measured with {sizes}"
        is_local = self.server is None and is_file(Path(self.model) / "planner.json")
        if is_local or family_of(base_of(self.model)) is not None:
            return ""
        return f"{shown(self.model, 60)}: no model family is known by this name, nor the unit of its boxes; {command}"


def read_settings(model: str) -> ModelSettings:
    """Read the settings behind a model name as a person writes it.

    Raises:
        BadInputError: the file or the server's address cannot be used.
    """
    if model.startswith(DETECT):
        name = model.removeprefix(DETECT)
        if name.startswith(DETECT):
            raise BadInputError(f"--model {shown(model)}: {DETECT} once is enough")
        settings = read_settings(name or SHIPPED_MODEL)
        return settings.model_copy(update={"mode": PlannerMode.DETECT})
    if model.endswith((".yaml", ".yml")):
        return _checked(load_yaml(Path(model), ModelSettings), model)
    scheme, _, rest = model.partition(":")
    if scheme == "dashscope":
        data: dict[str, str] = {"model": rest, "server": DASHSCOPE_URL, "key_variable": "DASHSCOPE_API_KEY"}
        return _checked(parse({**data, "constrain": "none"}, ModelSettings, model), model)
    if scheme in ("http", "https"):
        server, _, name = model.partition("#")
        if not name:
            raise BadInputError(
                f"--model {model}: name one of its models: {server}#MODEL "
                f"(qwen2vl-robot doctor --model {server} lists them)"
            )
        return _checked(parse({"model": name, "server": server}, ModelSettings, model), model)
    return parse({"model": model}, ModelSettings, "--model")


def _checked(settings: ModelSettings, origin: str) -> ModelSettings:
    """Refuse an invalid server address, and a key that would travel unencrypted.

    Raises:
        BadInputError: the address is invalid, holds a key, or would send the key over plain http.
    """
    if settings.server is None:
        return settings
    try:
        parts = urlsplit(settings.server)
        host = parts.hostname
        _ = parts.port
    except ValueError as error:
        raise BadInputError(f"{origin}: the server's address {settings.server!r} is invalid: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise BadInputError(f"{origin}: the server's address is {settings.server!r}; http://HOST:PORT/v1 is needed")
    if parts.username or parts.password:
        raise BadInputError(
            "a key in the server's address ends up in logs; name an environment variable in key_variable"
        )
    if settings.key_variable and parts.scheme == "http" and host not in _LOOPBACK:
        raise BadInputError(f"{origin}: a key is sent over https only, but the server is {settings.server}")
    return settings
