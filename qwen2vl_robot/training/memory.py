"""A model's shape → the memory of its fine-tuning with LoRA, before anything is loaded.

Frozen weights in bfloat16; the factors, their gradients and Adam's two moments in float32; activations with gradient
checkpointing: each layer keeps its input, and one layer at a time is computed again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qwen2vl_robot.planner.fit import Shape

RANK = 16
IMAGE_TOKENS = 2048  # of a batch
TEXT_TOKENS_A_PICTURE = 640  # the full prompt, the instruction and the reply
REPLY_TOKENS = 128
PICTURE_TOKENS = 391  # of a picture of 640 x 480
GPU_GB = 80.0
_HALF, _SINGLE = 2, 4  # bytes of a number
_RUNTIME_GB = 2.0  # CUDA's context, the library's buffers, and what lies between blocks of memory


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """The memory of a fine-tuning, in gigabytes (10^9 bytes).

    Attributes:
        weights: frozen, in bfloat16.
        factors: LoRA's own numbers, with gradients and Adam's moments.
        activations: of one batch, on each GPU.
        largest_unit: weights that a GPU gathers at once where they are sharded: a layer and the next one, or the
            embeddings.
    """

    lora_numbers: int
    weights: float
    factors: float
    activations: float
    largest_unit: float

    @property
    def one_gpu(self) -> float:
        """On one GPU."""
        return self.weights + self.factors + self.activations + _RUNTIME_GB

    def each_of(self, gpus: int) -> float:
        """On each of several GPUs that share weights and factors (FSDP)."""
        return (self.weights + self.factors) / gpus + self.largest_unit + self.activations + _RUNTIME_GB

    def fewest_gpus(self, gpu_gb: float = GPU_GB) -> int | None:
        """How many GPUs of this memory are enough; None where no number is."""
        if self.one_gpu <= gpu_gb:
            return 1
        room = gpu_gb - self.largest_unit - self.activations - _RUNTIME_GB
        return math.ceil((self.weights + self.factors) / room) if room > 0 else None


def lora_numbers(shape: Shape, rank: int) -> int:
    """Count the numbers of both factors of all seven linear layers of each text layer."""
    kv_width = shape.width // shape.heads * shape.kv_heads
    sides = 2 * (shape.width + shape.width) + 2 * (shape.width + kv_width) + 3 * (shape.width + shape.mlp_width)
    return shape.layers * rank * sides


def training_memory(shape: Shape, rank: int = RANK, image_tokens: int = IMAGE_TOKENS) -> TrainingMemory:
    """Compute the memory of a fine-tuning with batches of so many image tokens."""
    numbers = lora_numbers(shape, rank)
    a_layer = shape.linear_weights / shape.layers
    embeddings = shape.other_weights
    return TrainingMemory(
        lora_numbers=numbers,
        weights=(shape.linear_weights + shape.other_weights) * _HALF / 1e9,
        factors=numbers * 4 * _SINGLE / 1e9,  # the number, its gradient, two moments
        activations=activation_bytes(shape, image_tokens) / 1e9,
        largest_unit=(embeddings + 2 * a_layer) * _HALF / 1e9,
    )


def activation_bytes(shape: Shape, image_tokens: int) -> float:
    """The most that the activations of a batch take at once, in bytes.

    Either the vision tower's, which keeps nothing, or the kept inputs of all text layers with one layer that is
    computed again or the logits of the replies, whichever is more.
    """
    pictures = max(1.0, image_tokens / PICTURE_TOKENS)
    tokens = image_tokens + pictures * TEXT_TOKENS_A_PICTURE
    kept = shape.layers * tokens * shape.width * _HALF
    layer = tokens * (layer_bytes(shape) + _HALF * 3 * shape.mlp_width)  # and gradients of gate, up and their product
    logits = pictures * REPLY_TOKENS * shape.words * (_HALF + 2 * _SINGLE)
    vision = 4 * image_tokens * (6 * shape.vision_width + 2 * shape.vision_mlp_width) * _HALF
    return max(vision, kept + max(layer, logits))


def layer_bytes(shape: Shape) -> int:
    """What a text layer with factors keeps of each token while its way back is computed.

    Inputs of norms in float32, inputs of linear layers, queries, keys and values, and what lies between gate and down.
    A test measures it.
    """
    kv_width = shape.width // shape.heads * shape.kv_heads
    return 2 * _SINGLE * shape.width + _HALF * (6 * shape.width + 2 * kv_width + 6 * shape.mlp_width)
