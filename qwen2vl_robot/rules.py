"""Instruction + plan → what the cell's rules forbid, what needs a person, and where the arm may not be.

Deterministic, and downstream of every model: text that a model has read in the picture can fill a label, but an action
that the person's own words do not name waits for a person's confirmation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from qwen2vl_robot.agreement import agree
from qwen2vl_robot.config import NonNegative, Strict, Vector3, load_yaml
from qwen2vl_robot.languages import Language, load_languages, names_whole, normalise
from qwen2vl_robot.messages import (
    Action,
    Cause,
    Instruction,
    InstructionSource,
    Plan,
    Relation,
    Scene,
    SceneObject,
    Verb,
    Zone,
    shape_size_m,
)
from qwen2vl_robot.reading import read
from qwen2vl_robot.reasons import TaskReason
from qwen2vl_robot.resources import resolve

_ABOVE_M = 2.0  # how far up "above" reaches
_WORD = re.compile(r"[^\W\d_]+")
# Letters of Arabic, Japanese, Chinese and Korean, in which words join each other or their particles.
_JOINS = re.compile("[\u0600-\u06ff\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")
_TALK = (Verb.ASK, Verb.REFUSE)
_UPON = (Relation.ON, Relation.IN)


class ZoneRule(Strict):
    """A zone of the cell, see `messages.Zone`."""

    name: Annotated[str, Field(min_length=1, max_length=80)]
    min_m: Vector3
    max_m: Vector3
    speed_mps: NonNegative = 0.0

    @model_validator(mode="after")
    def _is_not_inside_out(self) -> ZoneRule:
        for axis, low, high in zip("xyz", self.min_m, self.max_m, strict=True):
            if low >= high:
                raise ValueError(f"zone {self.name!r} is inside out: min {axis} {low} m must be below max {high} m")
        return self

    def to_zone(self) -> Zone:
        """The same as a message."""
        return Zone(self.name, self.min_m, self.max_m, self.speed_mps)


class Pair(Strict):
    """Words for two things of which the first is never brought to the second."""

    first: tuple[str, ...]
    second: tuple[str, ...]


class CellRules(Strict):
    """sim/rules/NAME.yaml: zones and forbidden things of one cell."""

    zones: tuple[ZoneRule, ...] = ()
    never_touch: tuple[str, ...] = ()
    never_above: tuple[str, ...] = ()
    never_into: tuple[str, ...] = ()
    never_together: tuple[Pair, ...] = ()


class Vocabulary(Strict):
    """sim/rules/words.yaml: words that ask for an action, and words that mean the same."""

    verbs: dict[str, tuple[str, ...]]
    implied: dict[str, tuple[str, ...]]
    same: tuple[tuple[str, ...], ...] = ()
    colours: tuple[str, ...] = ()
    everything: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the rules say about a plan.

    Attributes:
        forbidden: sentences; any of them ends the plan.
        contradictions: sentences; any of them ends the plan: it is not what the person said.
        to_confirm: sentences; with any of them a person has to confirm every motion of the plan.
    """

    forbidden: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    to_confirm: tuple[str, ...] = ()

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Why the plan is refused; empty when it is not."""
        forbidden = tuple(Cause(TaskReason.FORBIDDEN, text) for text in self.forbidden)
        return (*forbidden, *(Cause(TaskReason.CONTRADICTION, text) for text in self.contradictions))


class RuleBook:
    """The rules of a cell with the words that they are written in."""

    def __init__(self, cell: CellRules, words: Vocabulary, languages: Iterable[Language] = ()) -> None:
        self._cell = cell
        self._words = words
        self._root = {word: group[0] for group in words.same for word in group}
        self._verbs = {verb: set(phrases) for verb, phrases in words.verbs.items()}
        self._everything = set(words.everything)
        joined: set[str] = set()
        for language in languages:
            self._learn(language, joined)
        self._phrase = _any_phrase(self._root, joined)

    def _learn(self, language: Language, joined: set[str]) -> None:
        """Take a language's words for verbs, colours and nouns; `joined` gathers those that stand inside others."""
        for phrase, english in language.lexicon():
            form = phrase.lower()
            if language.joined:
                joined.add(form)
            if english in language.colours or english in language.kinds:
                self._root.setdefault(form, self._root.get(english, english))
            if english in self._words.everything:
                self._everything.add(form)
            for verb, phrases in self._words.verbs.items():
                if english in phrases:
                    self._verbs[verb].add(form)

    @property
    def zones(self) -> tuple[Zone, ...]:
        """The cell's own zones."""
        return tuple(zone.to_zone() for zone in self._cell.zones)

    def judge(self, instruction: Instruction, plan: Plan) -> Ruling:
        """Hold a plan to the rules and to what the person asked for."""
        actions = [action for action in plan.actions if action.verb not in _TALK]
        forbidden = [objection for action in actions for objection in self._forbid(action)]
        held: str | None = None
        for action in actions:
            label = "" if action.object is None else action.object.label
            if action.verb is Verb.PLACE and held is not None:
                forbidden += self._forbid_pair(held, label)
            held = label if action.verb is Verb.PICK else None
        goal = read(instruction.text)
        agreement = agree(goal, plan)
        asked = list(agreement.doubts)
        if not goal.is_understood:  # the reader is not sure either: every word counts
            asked += [doubt for action in actions for doubt in self._doubt(action, instruction.text)]
        if instruction.source is InstructionSource.VOICE:
            asked.append("the instruction came by voice, which may be anybody's")
        return Ruling(tuple(dict.fromkeys(forbidden)), agreement.contradictions, tuple(dict.fromkeys(asked)))

    def restrict(self, scene: Scene) -> Scene:
        """The scene with the cell's zones, and with the space above what nothing may be moved over."""
        above = [self._column(body) for body in scene.objects if self._names_any(body.name, self._cell.never_above)]
        return replace(scene, zones=(*self.zones, *above))

    # ------------------------------------------------------------------------------------------- forbidden

    def _forbid(self, action: Action) -> Iterator[str]:
        label = "" if action.object is None else action.object.label
        if self._names_any(label, self._cell.never_touch):
            yield f"{action.describe()}: nothing is done to or with {label!r} here"
        if action.relation in _UPON and self._names_any(label, (*self._cell.never_into, *self._cell.never_above)):
            yield f"{action.describe()}: nothing is put {action.relation.value} {label!r} here"

    def _forbid_pair(self, first: str, second: str) -> Iterator[str]:
        for pair in self._cell.never_together:
            if self._names_any(first, pair.first) and self._names_any(second, pair.second):
                yield f"{first!r} is never brought to {second!r} here"

    def _column(self, body: SceneObject) -> Zone:
        half_m = np.abs(body.T_base_object[:3, :3]) @ np.array(shape_size_m(body.shape)) / 2
        low, high = body.T_base_object[:3, 3] - half_m, body.T_base_object[:3, 3] + half_m
        x, y, z = (float(v) for v in low)
        return Zone(f"above {body.name}", (x, y, z), (float(high[0]), float(high[1]), z + _ABOVE_M))

    # --------------------------------------------------------------------------------------- not asked for

    def _doubt(self, action: Action, text: str) -> Iterator[str]:
        """What of an action the instruction's words do not name."""
        verb, words = action.verb.value, self._tokens(text)
        names = [verb, *self._words.implied.get(verb, ())]
        if not any(_has(text, phrase) for name in names for phrase in self._verbs.get(name, ())):
            yield f"the instruction does not ask to {verb}"
        if action.object is None or any(_has(text, phrase) for phrase in self._everything):
            return
        label = action.object.label
        colours = {self._root.get(c, c) for c in self._words.colours}
        wanted = self._tokens(label)
        if not (wanted - colours) <= words or not wanted - colours:
            yield f"the instruction does not name the {label}"
        elif words & colours and not (wanted & colours) <= words:
            yield f"the instruction names another colour than that of the {label}"

    def _tokens(self, text: str) -> set[str]:
        """Words in their common form: lower case, singular, English, the first of their synonyms."""
        lower = normalise(text).lower()
        named = [match[0] for match in self._phrase.finditer(lower)]
        return {self._common(word) for word in (*named, *_WORD.findall(self._phrase.sub(" ", lower)))}

    def _common(self, word: str) -> str:
        single = word[:-1] if word.endswith("s") and len(word) > 3 and word not in self._root else word
        return self._root.get(word, self._root.get(single, single))

    def _names_any(self, label: str, words: Iterable[str]) -> bool:
        return bool(self._tokens(label) & {self._common(word.lower()) for word in words})


def _has(text: str, phrase: str) -> bool:
    """Whether a phrase stands in a text as whole words; where words are joined to each other, anywhere in it."""
    bare = re.escape(phrase)
    pattern = bare if _JOINS.search(phrase) else rf"(?<!\w){bare}(?!\w)"
    return re.search(pattern, normalise(text).lower()) is not None


def _any_phrase(phrases: Iterable[str], joined: set[str]) -> re.Pattern[str]:
    """What finds the longest of the phrases that are joined to other words or made of several."""
    chosen = sorted((p for p in phrases if p in joined or " " in p), key=len, reverse=True)
    return re.compile("|".join(re.escape(p) if p in joined else rf"\b{re.escape(p)}\b" for p in chosen) or r"(?!)")


def spoken_labels(instruction: Instruction, plan: Plan) -> frozenset[str]:
    """The plan's labels that the person said as such, colour and noun together."""
    return frozenset(o.label for o in plan.objects if names_whole(instruction.text, o.label))


def load_rules(path: str | Path = "rules/default.yaml", words: str | Path = "rules/words.yaml") -> RuleBook:
    """Load a cell's rules and the words that they use.

    Raises:
        BadInputError: a file is missing or wrong.
    """
    vocabulary = load_yaml(resolve(str(words)), Vocabulary)
    return RuleBook(load_yaml(resolve(str(path)), CellRules), vocabulary, load_languages().values())
