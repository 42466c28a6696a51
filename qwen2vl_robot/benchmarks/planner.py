"""Seeds → how long a plan takes, compared with transformers' `generate` and the same grammar.

Each timed plan sees a new frame; both decoders get the same picture, and their replies are compared. The token rate is
that of the whole reply after the first pass. It is also given relative to the memory bandwidth's limit for a loop that
reads every weight for every token.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from qwen2vl_robot.benchmarks.box_convention import Picture, render_pictures
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.messages import Instruction, PlannerRequest
from qwen2vl_robot.planner.process import PlannerProcess
from qwen2vl_robot.planner.sources import read_settings
from qwen2vl_robot.process import peak_memory_mb

_TASKS = ("put the {a} on the {b}", "pick up the {a}", "push the {a} to the left", "put the {a} left of the {b}")
_WARM_UP = 2  # plans of each decoder that do not count, because they touch memory pages for the first time


def run_planner_bench(model: str, frames: int, seed: int) -> Iterator[dict[str, Any]]:
    """Plan once per frame with both decoders, in alternating order; each result carries the peak memory so far.

    Raises:
        BadInputError: the model is behind a server, which has no second decoder.
    """
    if read_settings(model).server is not None:
        raise BadInputError(f"--model {model}: only a local model can be compared with generate")
    with PlannerProcess(model, timeout_s=600.0) as planner:
        planner.start()
        weight_bytes, bytes_a_second = planner.limits()
        for index, picture in enumerate(render_pictures(frames + _WARM_UP, seed)):
            result = _plan_both_ways(planner, picture, _instruction(picture, index), is_fast_first=index % 2 == 0)
            if index >= _WARM_UP:
                result["of_bandwidth"] = result["tokens_per_s"] * weight_bytes / bytes_a_second
                yield {"seed": picture.seed, **result, "peak_memory_mb": round(peak_memory_mb(planner.pid or 0))}


def _instruction(picture: Picture, index: int) -> str:
    labels = [s.label for s in picture.seen]
    return _TASKS[index % len(_TASKS)].format(a=labels[0], b=labels[-1])


def _plan_both_ways(
    planner: PlannerProcess, picture: Picture, instruction: str, *, is_fast_first: bool
) -> dict[str, Any]:
    answers = {}
    for is_plain in (not is_fast_first, is_fast_first):
        # A picture of another scene clears the cache, so that neither decoder profits from the other.
        planner.raw_reply(PlannerRequest(picture.rgb[:, ::-1], Instruction("go home")))
        answers[is_plain] = planner.raw_reply(PlannerRequest(picture.rgb, Instruction(instruction)), is_plain=is_plain)
    fast, plain = answers[False], answers[True]
    return {
        "instruction": instruction,
        "reply": fast.text,
        "is_same": fast.text == plain.text,
        "plan_s": fast.seconds,
        "generate_s": plain.seconds,
        "decoded_tokens": fast.decoded_tokens,
        "forced_tokens": fast.forced_tokens,
        "generated_tokens": plain.decoded_tokens,
        "passes": fast.passes,
        "tokens_per_s": (fast.decoded_tokens + fast.forced_tokens) / fast.decode_s,
        "image_size_px": list(fast.image_size_px),
    }


def summarise_planner(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Compute medians and sums over all frames."""
    return {
        "frames": len(results),
        "same_replies": sum(r["is_same"] for r in results),
        "speedup_over_generate": round(
            median(r["generate_s"] for r in results) / median(r["plan_s"] for r in results), 2
        ),
        "speedup_median_of_pairs": round(median(r["generate_s"] / r["plan_s"] for r in results), 2),
        "plan_s_median": round(median(r["plan_s"] for r in results), 4),
        "plan_s_max": round(max(r["plan_s"] for r in results), 4),
        "generate_s_median": round(median(r["generate_s"] for r in results), 4),
        "decoded_tokens": sum(r["decoded_tokens"] for r in results),
        "forced_tokens": sum(r["forced_tokens"] for r in results),
        "generated_tokens": sum(r["generated_tokens"] for r in results),
        "passes": sum(r["passes"] for r in results),
        "tokens_per_s_median": round(median(r["tokens_per_s"] for r in results), 1),
        "tokens_of_bandwidth_ratio": round(median(r["of_bandwidth"] for r in results), 3),
        "peak_memory_mb": max(r["peak_memory_mb"] for r in results),
    }
