"""What is true in the plant when a question is asked → whether an answer agrees with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

import numpy as np

from qwen2vl_robot.config import Strict
from qwen2vl_robot.languages import Language, fill, load_languages
from qwen2vl_robot.messages import OutcomeKind, Relation, TaskReport
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.plant.client import PlantTruth, TrueObject
from qwen2vl_robot.plant.scenes import load_scene
from qwen2vl_robot.relations import relation_holds
from qwen2vl_robot.sides import sides_seen_from

SCENE = "scenes/tabletop.yaml"
_PLACE_M = 0.03  # a place that is said may be so far off
_LIFTED_M = 0.03
Kind = Literal["list", "there", "count", "where", "held", "did", "why", "can", "order", "talk"]


class QuestionRow(Strict):
    """Sentences of one kind, with what they are about in the catalogue's words."""

    kind: Kind
    says: tuple[str, ...]
    about: str = ""
    relation: Relation | None = None
    reference: str = ""


class QuestionFile(Strict):
    """A file of sim/tasks/questions; that of English explains it."""

    questions: tuple[QuestionRow, ...]


class Asked(Strict):
    """One sentence in a language."""

    language: str
    row: QuestionRow
    text: str


def lifted(truth: PlantTruth) -> list[str]:
    """What hangs in the air: the arm holds it."""
    return [name for name, o in truth.objects().items() if _bottom_m(o) > _LIFTED_M and not _is_upon(name, truth)]


def _bottom_m(body: TrueObject) -> float:
    return body.body.bottom_m


def _is_upon(name: str, truth: PlantTruth) -> bool:
    objects = truth.objects()
    tops = [o.body.top_m for other, o in objects.items() if other != name]
    return any(abs(_bottom_m(objects[name]) - top_m) < 0.01 for top_m in tops)


class AnswerTruth:
    """What is true in the plant when a question is asked, and whether an answer agrees with it."""

    def __init__(self, truth: PlantTruth, around: Surroundings) -> None:
        self._plant, self._around = truth, around

    def is_right(self, asked: Asked, said: str, kind: OutcomeKind, before: TaskReport | None) -> bool:
        """Judge one answer."""
        row, speech = asked.row, load_languages()[asked.language]
        if kind is not OutcomeKind.ANSWERED:
            return False
        judges: dict[str, Callable[[], bool]] = {
            "list": lambda: self._lists(row, said, speech),
            "there": lambda: self._says_whether(row, said, speech),
            "count": lambda: self._counts(row, said),
            "where": lambda: self._places(row, said, speech),
            "held": lambda: self._holds(said, speech),
            "did": lambda: _recalls(said, speech, before),
            "why": lambda: _recalls(said, speech, before),
            "can": lambda: speech.answers.can in said,
        }
        return judges[row.kind]()

    def _bodies(self, row: QuestionRow) -> set[str]:
        """The labels of the things on the table that a question means; what the arm holds is not on it."""
        objects, held = self._plant.objects(), set(lifted(self._plant))
        sides = sides_seen_from(self._around.rules.seen_from, self._plant.T_base_camera())
        found = {label for label in objects if set(row.about.split()) <= set(label.split()) and label not in held}
        if row.relation is None:
            return found
        if row.reference not in objects:
            return set()
        other = objects[row.reference].body
        return {
            label
            for label in found - {row.reference}
            if relation_holds(row.relation, objects[label].body, other, self._around.rules, sides)
        }

    def _lists(self, row: QuestionRow, said: str, speech: Language) -> bool:
        named = _named(said.split(speech.answers.unsure.split("{")[0])[0], speech) - {row.reference}
        return named == self._bodies(row)

    def _says_whether(self, row: QuestionRow, said: str, speech: Language) -> bool:
        return said.startswith(speech.answers.yes.split("{")[0]) == bool(self._bodies(row)) and (
            bool(self._bodies(row)) or _begins_with_no(said, speech)
        )

    def _counts(self, row: QuestionRow, said: str) -> bool:
        number = re.search(r"\d+", said)
        return number is not None and int(number[0]) == len(self._bodies(row))

    def _places(self, row: QuestionRow, said: str, speech: Language) -> bool:
        """The place is near the true one, and what stands beside it does so in truth."""
        objects, found = self._plant.objects(), self._bodies(row)
        if not found:
            return _begins_with_no(said, speech)
        place = re.search(r"x (-?\d+\.\d+) m\D+?y (-?\d+\.\d+) m", said)
        if place is None:
            return False
        p_said_m = np.array([float(place[1]), float(place[2])])
        body = objects[row.about]
        is_near = bool(np.linalg.norm(body.T_base_object[:2, 3] - p_said_m) <= _PLACE_M)
        return is_near and self._is_beside(row, said, speech)

    def _is_beside(self, row: QuestionRow, said: str, speech: Language) -> bool:
        objects = self._plant.objects()
        sides = sides_seen_from(self._around.rules.seen_from, self._plant.T_base_camera())
        names = (speech.phrase(row.about), speech.phrase(row.about, "of"))
        claims = []
        for label in _named(said, speech) & set(objects) - {row.about}:
            for relation, form in speech.which.items():
                other = (speech.phrase(label), speech.phrase(label, "of"))
                if fill(form, names, other) in said:
                    claims.append(
                        relation_holds(
                            Relation(relation), objects[row.about].body, objects[label].body, self._around.rules, sides
                        )
                    )
        return all(claims) if claims else _named(said, speech) == {row.about}

    def _holds(self, said: str, speech: Language) -> bool:
        held = lifted(self._plant)
        if held:
            return said == speech.answers.holds.format(things=speech.phrase(held[0]))
        return said.startswith(speech.answers.empty.split("{")[0])


def _named(said: str, speech: Language) -> set[str]:
    """The labels of the catalogue that an answer names, in either case, the longest first."""
    _, catalogue = load_scene(SCENE)
    labels = [f"{colour} {kind}" for colour in catalogue.colours for kind in catalogue.kinds]
    return {label for label in labels if any(speech.phrase(label, case) in said for case in ("the", "of"))}


def _begins_with_no(said: str, speech: Language) -> bool:
    """Whether an answer says that something is not seen."""
    before, after = (part.strip(" .。") for part in speech.ask.split("{a}"))
    return bool(before and said.startswith(before)) or bool(after and after in said)


def _recalls(said: str, speech: Language, before: TaskReport | None) -> bool:
    """Whether an answer gives the sentence, the end and the first cause of the task before it."""
    if before is None:
        return said == speech.answers.idle
    parts = [before.instruction.text, speech.answers.outcomes[before.outcome.kind.value], *before.outcome.reasons[:1]]
    return all(part in said for part in parts)
