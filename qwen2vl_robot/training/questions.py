"""The contents of an image → instructions in nine languages with the right replies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qwen2vl_robot.languages import ENGLISH, Language, fill, split_label
from qwen2vl_robot.messages import Where
from qwen2vl_robot.planner.reply import ask_text, format_reply
from qwen2vl_robot.training.dataset import MIN_VISIBLE_PX
from qwen2vl_robot.training.samples import Sample
from qwen2vl_robot.training.shards import SeenObject

REFUSAL = "I only pick, place and push."
# Possible reasons in `contract.failure_line`: kinds of violations, reasons of errors and of the gate, outcomes.
REASONS = (
    "non_finite", "format", "start_state", "joint_position", "joint_velocity", "joint_acceleration", "joint_jerk",
    "joint_torque", "workspace", "tool_speed", "zone", "zone_speed", "unseen", "collision", "self_collision", "contact",
    "force", "grasp_slip", "moved_other", "wrong_effect", "uncertain", "worker_crashed", "worker_timeout",
    "worker_raised", "not_found", "no_depth", "ambiguous", "label_mismatch", "no_grasp", "no_path", "no_space",
    "out_of_reach", "unsupported", "not_accepted", "not_tried", "no_frame", "stale_frame", "scene_changed",
    "start_moved", "not_confirmed", "asked", "refused", "no_motion", "aborted",
)  # fmt: skip
RELATIONS = ("on", "in", "left_of", "right_of", "in_front_of", "behind", "next_to")
_TASKS = ("pick", *RELATIONS, "push_left", "push_right", "push_away", "push_closer", "home", "wait", "refuse")
_WEIGHTS = np.array([30, 14, 12, 6, 6, 4, 4, 4, 3, 3, 3, 3, 1, 1, 2], dtype=float)
# Ways to refer to a present object, and how often each is drawn.
REFERENCES = ("label", "kind", "colour", "superlative", "relation", "all", "ambiguous")
_REFERENCE_SHARES = np.array([40, 8, 5, 15, 11, 8, 13], dtype=float) / 100
_SYNONYM_RATIO = 0.25
_MAX_BOXES = 5  # no questions about more: each box adds four numbers to the reply
QUESTIONS_AN_IMAGE = 8
ABSENT_AN_IMAGE = 3
MAX_QUESTION_CHARS = 330  # of instruction and reply; a longer one would lengthen the padding of all others


@dataclass(frozen=True, slots=True)
class Question:
    """One instruction about one image, and the right reply.

    Attributes:
        objects: for each object of the reply, the indices of its boxes in the image's list; empty when it is absent.
        names: for each object of the reply, the words of the instruction that name it, in each grammatical case; empty
            where they are part of a longer name.
    """

    instruction: str
    reply: str
    objects: tuple[tuple[int, ...], ...]
    names: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Reference:
    """One object of a question: its name in two grammatical cases, and what the reply lists for it.

    Attributes:
        listed: (label, indices, where) of the object and of the one that its `where` refers to.
    """

    the: str
    of: str
    listed: tuple[tuple[str, tuple[int, ...], Where | None], ...]


@dataclass(frozen=True, slots=True)
class Mix:
    """How often questions differ from plain English ones.

    Attributes:
        foreign_ratio: share of questions in a language other than English.
        failed_ratio: share of questions after failed attempts, because a re-plan must be a familiar input.
        polite_ratio: share of phrasings that get a word such as "please" if they have none.
        place_first_ratio: share of placing sentences that name the place before the object, in languages with such
            phrasings; 0 keeps the share of the phrasings.
        often: codes of languages drawn three times as often as the other foreign ones.
    """

    foreign_ratio: float = 0.0
    failed_ratio: float = 0.0
    polite_ratio: float = 0.0
    place_first_ratio: float = 0.0
    often: tuple[str, ...] = ()


class QuestionMaker:
    """Draws questions about the contents of an image.

    Args:
        held_out: labels that are never used for absent objects.
        held_out_phrasings: use the phrasings that are kept out of the training.
        references: the ways to refer to objects; by default all, with their shares.
    """

    def __init__(
        self,
        languages: dict[str, Language],
        held_out: tuple[str, ...] = (),
        mix: Mix | None = None,
        *,
        held_out_phrasings: bool = False,
        references: tuple[str, ...] = REFERENCES,
    ) -> None:
        self._languages = languages
        self._mix = mix = mix or Mix()
        self._foreign = [code for code in languages if code != ENGLISH for _ in range(3 if code in mix.often else 1)]
        self._held_out = held_out
        self._is_unheard = held_out_phrasings
        shares = np.array([_REFERENCE_SHARES[REFERENCES.index(r)] for r in references])
        self._references, self._shares = references, shares / shares.sum()

    def draw(
        self,
        seen: list[SeenObject],
        rng: np.random.Generator,
        *,
        absent: bool,
        task: str | None = None,
        language: str | None = None,
    ) -> Question | None:
        """Draw one question; None when the image does not allow it.

        Args:
            absent: whether the question must ask for an absent object.
            task: name of the task; by default drawn by weight.
            language: code of the language; by default drawn.
        """
        count = 12 if absent else len(_TASKS)
        name = task or str(rng.choice(_TASKS[:count], p=_WEIGHTS[:count] / _WEIGHTS[:count].sum()))
        code = language or (str(rng.choice(self._foreign)) if rng.uniform() < self._mix.foreign_ratio else ENGLISH)
        speech = self._languages[code]
        template = self._template(speech, name, rng)
        if "{a" not in template:
            return self._without_object(name, template, rng)
        references = self._refer(speech, seen, rng, has_two="{b" in template, absent=absent)
        if references is None:
            return None
        text = fill(template, *((r.the, r.of) for r in references))
        if rng.uniform() < 0.15:
            text = text[0].upper() + text[1:] + str(rng.choice([".", "", "!"]))
        if rng.uniform() < self._mix.failed_ratio:
            text += _failures(name, [r.listed[0][0] for r in references], rng)
        return _answer(name, text, references, seen)

    def _template(self, speech: Language, name: str, rng: np.random.Generator) -> str:
        phrasing = speech.tasks[name]
        templates = phrasing.held_out if self._is_unheard and phrasing.held_out else phrasing.seen
        place_first = tuple(t for t in templates if 0 <= t.find("{b") < t.find("{a"))
        if self._mix.place_first_ratio and place_first and name in RELATIONS:
            is_first = rng.uniform() < self._mix.place_first_ratio
            templates = place_first if is_first else tuple(t for t in templates if t not in place_first)
        template = str(templates[int(rng.integers(len(templates)))])
        if self._mix.polite_ratio and speech.polite and rng.uniform() < self._mix.polite_ratio:
            around = str(rng.choice(speech.polite))
            said = around.replace("{s}", "").strip(" ,")
            wrapped = around.replace("{s}", template)
            return template if said in template or wrapped in phrasing.held_out else wrapped
        return template

    def _without_object(self, name: str, template: str, rng: np.random.Generator) -> Question:
        seconds = int(rng.integers(1, 21))
        action: dict[str, object] = {"do": "wait", "seconds": seconds} if name == "wait" else {"do": name}
        return Question(template.replace("{n}", str(seconds)), format_reply([], [action]), ())

    def _refer(
        self, speech: Language, seen: list[SeenObject], rng: np.random.Generator, *, has_two: bool, absent: bool
    ) -> list[Reference] | None:
        """Choose the question's objects; None when the image does not allow it."""
        visible = [i for i, s in enumerate(seen) if s.visible_px >= MIN_VISIBLE_PX]
        if len(visible) < 1 + has_two:
            return None
        chosen = [int(i) for i in rng.permutation(visible)[: 1 + has_two]]
        missing = int(rng.uniform() >= 0.6) if absent and has_two else 0
        return [
            self._absent(speech, seen, rng) if absent and k == missing else self._present(speech, seen, i, chosen, rng)
            for k, i in enumerate(chosen)
        ]

    def _absent(self, speech: Language, seen: list[SeenObject], rng: np.random.Generator) -> Reference:
        """Draw a label of an absent object; mostly one whose colour or kind is present."""
        english = self._languages[ENGLISH]
        there = {s.label for s in seen}
        pairs = [f"{c} {k}" for c in english.colours for k in english.kinds]
        pairs = [p for p in pairs if p not in there and p not in self._held_out]
        words = {w for label in there for w in label.split()}
        hard = [p for p in pairs if words & set(p.split())]
        bare = [w for w in (*english.kinds, *english.colours) if w not in words]
        pool = bare if rng.uniform() < 0.1 else hard if hard and rng.uniform() < 0.7 else pairs
        return _named(speech, str(rng.choice(pool)), (), rng)

    def _present(
        self, speech: Language, seen: list[SeenObject], index: int, chosen: list[int], rng: np.random.Generator
    ) -> Reference:
        """Refer to a present object in one of the ways that the image allows."""
        label = seen[index].label
        colour, kind = split_label(label, self._languages[ENGLISH])
        way = str(rng.choice(self._references, p=self._shares))
        bare = colour if way == "colour" or (way in ("all", "ambiguous") and rng.uniform() < 0.3) else kind
        same = _matching(seen, bare)
        others = [i for i in chosen if i != index]
        is_one, is_first = len(same) == 1, index == chosen[0]
        fits = {
            "label": False,
            "kind": is_one,
            "colour": is_one,
            "superlative": not is_one,
            "relation": True,
            "all": not is_one and is_first and len(others) > 0,
            "ambiguous": not is_one,
        }
        if not same or set(same) & set(others) or not fits[way]:
            return _named(speech, label, (index,), rng)
        if way == "superlative":
            return _named(speech, bare, same, rng, where=str(rng.choice(list(speech.superlatives))))
        if way == "all":
            return _named(speech, bare, same, rng, where="all")
        beside = [i for i, s in enumerate(seen) if i not in (*same, *others) and s.visible_px >= MIN_VISIBLE_PX]
        if way == "relation" and beside:
            return _related(speech, (bare, same), seen, int(rng.choice(beside)), rng)
        return _named(speech, bare, same, rng)


def draw_questions(samples: list[Sample], maker: QuestionMaker, rng: np.random.Generator) -> list[list[Question]]:
    """Draw questions for each image, some of them about absent objects."""
    groups = []
    for sample in samples:
        drawn = [maker.draw(sample.seen, rng, absent=k < ABSENT_AN_IMAGE) for k in range(QUESTIONS_AN_IMAGE)]
        groups.append([q for q in drawn if q is not None and len(q.instruction + q.reply) <= MAX_QUESTION_CHARS])
    return groups


def _matching(seen: list[SeenObject], word: str) -> tuple[int, ...]:
    """List every object that a word means, from left to right; empty when it cannot be asked about."""
    same = [i for i, s in enumerate(seen) if word in s.label.split()]
    if len(same) > _MAX_BOXES or any(seen[i].visible_px < MIN_VISIBLE_PX for i in same):
        return ()
    return tuple(sorted(same, key=lambda i: seen[i].box[0]))


def _named(
    speech: Language, label: str, indices: tuple[int, ...], rng: np.random.Generator, *, where: str = ""
) -> Reference:
    way = int(rng.integers(1, 4)) if rng.uniform() < _SYNONYM_RATIO else 0
    extra = where if where != "all" else ""
    case = "all" if where == "all" else "the"
    the = speech.phrase(label, case, extra=extra, way=0 if where == "all" else way)
    of = the if where == "all" else speech.phrase(label, "of", extra=extra, way=way)
    return Reference(the, of, ((label, indices, Where(where) if where else None),))


def _related(
    speech: Language, what: tuple[str, tuple[int, ...]], seen: list[SeenObject], beside: int, rng: np.random.Generator
) -> Reference:
    """Refer by a relation, as in "the block left of the blue bowl"; whether it holds is left to geometry."""
    label, indices = what
    relation = str(rng.choice(list(speech.which)))
    other = seen[beside].label
    names = (speech.phrase(other), speech.phrase(other, "of"))
    the, of = (fill(speech.which[relation], speech.phrase(label, case), names) for case in ("the", "of"))
    return Reference(the, of, ((label, indices, Where(relation, other)), (other, (beside,), None)))


def _answer(name: str, text: str, references: list[Reference], seen: list[SeenObject]) -> Question:
    listed = [entry for r in references for entry in r.listed]
    objects = [(label, [seen[i].box for i in indices], where) for label, indices, where in listed]
    missing = [label for label, indices, _ in listed if not indices]
    actions = _actions(name, missing, len(references[0].listed))
    names = tuple((r.the, r.of) if len(r.listed) == 1 else () for r in references for _ in r.listed)
    return Question(text, format_reply(objects, actions), tuple(indices for _, indices, _ in listed), names)


def _failures(name: str, labels: list[str], rng: np.random.Generator) -> str:
    """Write one to three lines about failed attempts, as `contract.failure_line` does."""
    if name.startswith("push_"):
        tried = [f"push {labels[0]} {name.removeprefix('push_')}"]
    else:
        tried = [f"pick {labels[0]}"] + [f"place {name} {b}" for b in labels[1:]]
    lines = [
        f"failed: {tried[int(rng.integers(len(tried)))]}: {REASONS[int(rng.integers(len(REASONS)))]}"
        for _ in range(int(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2])))
    ]
    return "".join(f"\n{line}" for line in lines)


def _actions(name: str, missing: list[str], second: int) -> list[dict[str, object]]:
    """List the actions of a task; `second` is the reply's index of the reference object of a place."""
    if name == "refuse":
        return [{"do": "refuse", "text": REFUSAL}]
    if missing:
        return [{"do": "ask", "text": ask_text(missing[0])}]
    if name == "pick":
        return [{"do": "pick", "object": 0}]
    if name.startswith("push_"):
        return [{"do": "push", "object": 0, "direction": name.removeprefix("push_")}]
    return [{"do": "pick", "object": 0}, {"do": "place", "object": second, "relation": name}]
