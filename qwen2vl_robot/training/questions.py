"""What an image shows + a random generator → instructions with the replies that a planner should give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qwen2vl_robot.config import Catalogue, Phrasing, Phrasings
from qwen2vl_robot.planner.contract import ask_text, format_reply
from qwen2vl_robot.training.dataset import MIN_VISIBLE_PX, SeenObject

SYNONYMS = {"block": "cube", "ball": "sphere", "cylinder": "can", "plate": "dish", "bowl": "bowl"}
REFUSAL = "I only pick, place and push."
_FAILED_RATIO = 0.25  # the share of questions that follow a try that failed; a re-plan must not read like news
_REASONS = (
    "collision", "contact", "self_collision", "joint_position", "grasp_slip", "moved_other", "wrong_effect",
    "no_motion", "no_path", "no_space", "no_grasp", "out_of_reach", "label_mismatch", "no_depth",
    "ambiguous", "stale_state",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """One instruction about one image, with the right reply.

    Attributes:
        objects: for each object of the reply, its index in the image's list, or None when it is not there.
    """

    instruction: str
    reply: str
    objects: tuple[int | None, ...]


RELATIONS = ("on", "in", "left_of", "right_of", "in_front_of", "behind", "next_to")
_TASKS = ("pick", *RELATIONS, "push_left", "push_right", "push_away", "push_closer", "home", "wait", "refuse")
_WEIGHTS = np.array([30, 14, 12, 6, 6, 4, 4, 4, 2, 2, 2, 2, 1, 1, 2], dtype=float)


class QuestionMaker:
    """Draws questions about what an image shows."""

    def __init__(self, phrasings: Phrasings, catalogue: Catalogue, *, held_out_phrasings: bool = False) -> None:
        self._phrasings = phrasings
        self._catalogue = catalogue
        self._held_out = held_out_phrasings

    def draw(
        self, seen: list[SeenObject], rng: np.random.Generator, *, absent: bool, task: str | None = None
    ) -> Question | None:
        """Draw one question; None when the image cannot serve it.

        Args:
            absent: whether an object that is not there must be asked for.
            task: one of the task names, else drawn by weight.
        """
        name = task or str(rng.choice(_TASKS[:12] if absent else _TASKS, p=_share(12 if absent else len(_TASKS))))
        template = self._template(name, rng)
        if "{a}" not in template:
            return self._without_object(name, template, rng)
        visible = [i for i, s in enumerate(seen) if s.visible_px >= MIN_VISIBLE_PX]
        if not visible:
            return None
        first: int | str = int(rng.choice(visible))
        second: int | str | None = None
        if "{b}" in template:
            others = [i for i in visible if i != first]
            if not others:
                return None
            second = int(rng.choice(others))
        if absent:
            missing = self._absent_label(seen, rng)
            if second is None or rng.uniform() < 0.6:
                first = missing
            else:
                second = missing
        return self._with_objects(name, template, seen, (first, second), rng)

    def _template(self, name: str, rng: np.random.Generator) -> str:
        phrasing: Phrasing = getattr(self._phrasings, "in_" if name == "in" else name)
        templates = phrasing.held_out if self._held_out and phrasing.held_out else phrasing.seen
        return str(templates[int(rng.integers(len(templates)))])

    def _without_object(self, name: str, template: str, rng: np.random.Generator) -> Question:
        seconds = int(rng.integers(1, 21))
        action: dict[str, object] = {"do": "wait", "seconds": seconds} if name == "wait" else {"do": name}
        return Question(template.replace("{n}", str(seconds)), format_reply([], [action]), ())

    def _with_objects(
        self,
        name: str,
        template: str,
        seen: list[SeenObject],
        chosen: tuple[int | str, int | str | None],
        rng: np.random.Generator,
    ) -> Question:
        words, labels = zip(*(self._name(c, seen, rng) for c in chosen if c is not None), strict=True)
        instruction = template.replace("{a}", words[0]).replace("{b}", words[-1])
        if rng.uniform() < 0.15:
            instruction = instruction[0].upper() + instruction[1:] + str(rng.choice([".", "", "!"]))
        if rng.uniform() < _FAILED_RATIO:
            instruction += _failures(name, labels, rng)
        indices = tuple(c if isinstance(c, int) else None for c in chosen if c is not None)
        objects = [(label, [] if i is None else [seen[i].box]) for label, i in zip(labels, indices, strict=True)]
        missing = [label for label, i in zip(labels, indices, strict=True) if i is None]
        return Question(instruction, format_reply(objects, _actions(name, missing)), indices)

    def _name(self, chosen: int | str, seen: list[SeenObject], rng: np.random.Generator) -> tuple[str, str]:
        """(words of the instruction, label of the reply) for an object that is or is not there."""
        label = chosen if isinstance(chosen, str) else seen[chosen].label
        colour, _, kind = label.partition(" ")
        is_only_one = sum(s.label.endswith(kind) for s in seen) == 1
        if isinstance(chosen, int) and is_only_one and rng.uniform() < 0.15:
            return kind, kind
        if rng.uniform() < 0.1:
            return f"{colour} {SYNONYMS.get(kind, kind)}", label
        return label, label

    def _absent_label(self, seen: list[SeenObject], rng: np.random.Generator) -> str:
        """A colour and kind that is not there; mostly one whose colour or kind is."""
        there = {s.label for s in seen}
        pairs = [
            f"{c} {k}"
            for c in self._catalogue.colours
            for k in self._catalogue.kinds
            if f"{c} {k}" not in there and f"{c} {k}" not in self._catalogue.held_out
        ]
        colours, kinds = {s.label.split()[0] for s in seen}, {s.label.split()[1] for s in seen}
        hard = [p for p in pairs if p.split()[0] in colours or p.split()[1] in kinds]
        pool = hard if hard and rng.uniform() < 0.7 else pairs
        return str(rng.choice(pool))


def _failures(name: str, labels: tuple[str, ...], rng: np.random.Generator) -> str:
    """One or two lines about earlier tries, each as `contract.failure_line` writes it."""
    if name.startswith("push_"):
        tried = [f"push {labels[0]} {name.removeprefix('push_')}"]
    else:
        tried = [f"pick {labels[0]}"] + [f"place {name} {b}" for b in labels[1:]]
    lines = [
        f"failed: {tried[int(rng.integers(len(tried)))]}: {_REASONS[int(rng.integers(len(_REASONS)))]}"
        for _ in range(int(rng.integers(1, 3)))
    ]
    return "".join(f"\n{line}" for line in lines)


def _actions(name: str, missing: list[str]) -> list[dict[str, object]]:
    if name == "refuse":
        return [{"do": "refuse", "text": REFUSAL}]
    if missing:
        return [{"do": "ask", "text": ask_text(missing[0])}]
    if name == "pick":
        return [{"do": "pick", "object": 0}]
    if name.startswith("push_"):
        return [{"do": "push", "object": 0, "direction": name.removeprefix("push_")}]
    return [{"do": "pick", "object": 0}, {"do": "place", "object": 1, "relation": name}]


def _share(count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    weights = _WEIGHTS[:count]
    share: np.ndarray[tuple[int], np.dtype[np.float64]] = weights / weights.sum()
    return share
