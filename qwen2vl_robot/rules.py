"""Instruction + plan → what the cell's rules forbid, what needs a person, and where the arm may not be.

Deterministic, and downstream of every model: text that a model has read in the picture can fill a label, but an action
that the person's own words do not name waits for a person's confirmation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from qwen2vl_robot.agreement import agree
from qwen2vl_robot.cell import CellRules, Vocabulary
from qwen2vl_robot.config import load_yaml
from qwen2vl_robot.families import Families, fold, load_families
from qwen2vl_robot.geometry import Array, read_only
from qwen2vl_robot.languages import ENGLISH, Language, detect_language, load_languages
from qwen2vl_robot.messages import (
    Action,
    Cause,
    Instruction,
    Outcome,
    OutcomeKind,
    Plan,
    Relation,
    Scene,
    SceneObject,
    Verb,
    Zone,
    shape_size_m,
)
from qwen2vl_robot.order import Order, answer_of, doubts_about, understand
from qwen2vl_robot.planner.contract import MAX_WAIT_S
from qwen2vl_robot.reading import HANDLING, Goal, Step, Thing, read
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.ruling import Ruling

_ABOVE_M = 2.0  # how far up "above" reaches
_WORD = re.compile(r"[^\W\d_]+")
# Letters of Arabic, Japanese, Chinese and Korean, in which words join each other or their particles.
_JOINS = re.compile("[\u0600-\u06ff\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")
_TALK = (Verb.ASK, Verb.REFUSE)
_UPON = (Relation.ON, Relation.IN)
_GENERIC = ("thing", "object", "item", "one")  # nouns that any thing may have


class RuleBook:
    """The rules of a cell with the words that they are written in."""

    def __init__(self, cell: CellRules, words: Vocabulary, languages: Iterable[Language], families: Families) -> None:
        self._cell = cell
        self._words = words
        self._families = families
        self._root = {fold(word): group[0] for group in words.same for word in group}
        self._verbs = {verb: set(phrases) for verb, phrases in words.verbs.items()}
        self._everything = set(words.everything)
        self._agreed: set[tuple[str, str]] = set()
        joined: set[str] = set()
        for language in languages:
            self._learn(language, joined)
        self._phrase = _any_phrase(self._root, joined)

    def _learn(self, language: Language, joined: set[str]) -> None:
        """Take a language's words for verbs, colours and nouns; `joined` gathers those that stand inside others."""
        for phrase, english in language.lexicon():
            form = fold(phrase)
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

    @property
    def free_m(self) -> Array:
        """Boxes (k, 2, 3), lowest and highest corners, of which a person vouches that nothing is ever there."""
        return read_only(np.array([(box.min_m, box.max_m) for box in self._cell.free]).reshape(-1, 2, 3))

    def never_touched(self, language: str) -> tuple[str, ...]:
        """What is never touched here, in a language's words, for people."""
        return tuple(self._families.name(word, language) for word in self._cell.never_touch)

    def judge(self, order: Order, plan: Plan, *, held: str | None = None) -> Ruling:
        """Hold a plan to the rules and to what the person asked for.

        Args:
            held: the label of what the gripper holds before the plan.
        """
        actions = [action for action in plan.actions if action.verb not in _TALK]
        goal, text = order.goal, order.instruction.text
        forbidden = [
            *self._forbid_words(goal, text),
            *(objection for action in actions for objection in self._forbid(action)),
            *self._forbid_waits(actions),
            *self._forbid_pairs(actions, held),
        ]
        labels = {action.object.label for action in actions if action.object is not None} or {""}
        unread = frozenset((word, label) for word in goal.unread for label in labels)
        trusts = self._cell.unread == "allow"
        known = {w for w in goal.unread if trusts or self._agreed.issuperset((w, label) for label in labels)}
        plain = self._in_plain_nouns(plan)
        agreement = agree(goal, plain, todo=order.todo, held=self._plain_noun(held or ""), known=known)
        asked = list(agreement.doubts)
        if not goal.is_understood and known != {*goal.unread}:  # the reader is not sure either: every word counts
            asked += [doubt for action in actions for doubt in self._doubt(action, text)]
        asked += doubts_about(order.instruction.source)
        return Ruling(
            tuple(dict.fromkeys(forbidden)),
            agreement.contradictions,
            tuple(dict.fromkeys(asked)),
            agreement.left_out,
            unread,
            tuple(word for word in goal.unread if word not in known),
        )

    def learn(self, ruling: Ruling) -> None:
        """Take a person's yes to a plan: its unknown words are known for its things, as long as this book lives."""
        self._agreed |= ruling.unread

    def restrict(self, scene: Scene) -> Scene:
        """The scene with the cell's zones, and with the space above what nothing may be moved over."""
        above = [self._column(body) for body in scene.objects if self._names_any(body.name, self._cell.never_above)]
        return replace(scene, zones=(*self.zones, *above))

    def understand(self, instruction: Instruction) -> Order | Outcome:
        """Read a sentence before anything is planned, as order.py does, with the words that only this cell uses."""
        asked = understand(self._in_known_words(instruction))
        if isinstance(asked, Outcome) and asked.kind is OutcomeKind.ASKED:
            forbidden = self.forbid(instruction)
            return Outcome(OutcomeKind.REFUSED, forbidden) if forbidden else asked
        return asked

    def answer(self, order: Order, plan: Plan) -> Outcome | None:
        """What a plan that only asks or refuses says; a refusal where the words are forbidden, whatever it says."""
        answer = answer_of(plan, order)
        forbidden = () if answer is None else self.forbid(order.instruction)
        return Outcome(OutcomeKind.REFUSED, forbidden) if forbidden else answer

    def forbid(self, instruction: Instruction) -> tuple[Cause, ...]:
        """Why a sentence is refused by its own words, whatever was planned; empty when it is not."""
        text = self._in_known_words(instruction).text
        return Ruling(tuple(self._forbid_words(read(text), text))).causes

    def read(self, instruction: Instruction) -> Goal:
        """Read a sentence with the words that only this cell uses."""
        return read(self._in_known_words(instruction).text)

    def _in_known_words(self, instruction: Instruction) -> Instruction:
        """The instruction with the plain nouns in the place of the words that only this cell uses."""
        speech = load_languages()[detect_language(instruction.text)]
        text = instruction.text
        for word, noun in self._cell.known.items():
            text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", speech.plain_form(noun), text, flags=re.IGNORECASE)
        return instruction if text == instruction.text else replace(instruction, text=text)

    def _in_plain_nouns(self, plan: Plan) -> Plan:
        """The same in a plan's labels."""
        actions = []
        for action in plan.actions:
            if action.object is not None:
                action = replace(action, object=replace(action.object, label=self._plain_noun(action.object.label)))
            actions.append(action)
        return replace(plan, actions=tuple(actions))

    def _plain_noun(self, label: str) -> str:
        return " ".join(self._cell.known.get(word, word) for word in label.split())

    # ------------------------------------------------------------------------------------------- forbidden

    def _forbid_words(self, goal: Goal, text: str) -> Iterator[str]:
        """What a sentence asks to handle that may not be touched, whatever the plan calls it.

        What was read says nothing of unknown words but that they are there. Beside something that must *not* be done
        they may belong to that, and a person is asked (see agreement.py).
        """
        if goal.exclusions or any(step.is_negated for step in goal.steps):
            return
        wanted = [step for step in goal.steps if step.deed in HANDLING]
        named = [
            *self._families.suspects(text, goal.unread, goal.language),
            *(t.noun for t in _things(wanted) if t.noun),
        ]
        if any(_is_open(step) for step in wanted):  # "pick up the arm": read as the robot's own, so as nothing to pick
            named.append(text)
        found = [self._word_of(name, self._cell.never_touch, goal.language) for name in named]
        found.append(self._families.find(text, self._cell.never_touch, goal.language, phrases_only=True))
        for word in dict.fromkeys(filter(None, found)):
            yield f"the sentence names {word!r}: nothing is done to or with that here"

    def _forbid(self, action: Action) -> Iterator[str]:
        label = "" if action.object is None else action.object.label
        reference = "" if action.object is None or action.object.where is None else action.object.where.reference or ""
        for name in (label, reference):
            if self._names_any(name, self._cell.never_touch):
                yield f"{action.describe()}: nothing is done to or with {name!r} here"
            if self._is_scene_name(name):
                yield f"{action.describe()}: {name!r} is a name of the robot's software, not of a thing"
        if action.relation in _UPON and self._names_any(label, (*self._cell.never_into, *self._cell.never_above)):
            yield f"{action.describe()}: nothing is put {action.relation.value} {label!r} here"

    def _forbid_waits(self, actions: Iterable[Action]) -> Iterator[str]:
        waits_s = sum(action.seconds or 0.0 for action in actions if action.verb is Verb.WAIT)
        if waits_s > MAX_WAIT_S:
            yield f"the plan waits for {waits_s:g} s in all; allowed {MAX_WAIT_S:g} s"

    def _forbid_pairs(self, actions: Iterable[Action], held: str | None) -> Iterator[str]:
        """What is brought to what it may not come near to."""
        carried = held
        for action in actions:
            label = "" if action.object is None else action.object.label
            if action.verb is Verb.PLACE and carried is not None:
                yield from self._forbid_pair(carried, label)
            if action.verb in (Verb.PICK, Verb.PLACE):
                carried = label if action.verb is Verb.PICK else None

    def _forbid_pair(self, first: str, second: str) -> Iterator[str]:
        for pair in self._cell.never_together:
            if self._names_any(first, pair.first) and self._names_any(second, pair.second):
                yield f"{first!r} is never brought to {second!r} here"

    def _is_scene_name(self, label: str) -> bool:
        """Whether a label is a part of the scene or of the robot; links are named with underscores."""
        words = {self._common(word) for word in _WORD.findall(fold(label))} - {*self._words.colours}
        return "_" in label or (bool(words) and words <= {*self._cell.scene_names})

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
        wanted = self._tokens(label) - {*_GENERIC}
        if not (wanted - colours) <= words or not wanted - colours:
            yield f"the instruction does not name the {label}"
        elif words & colours and not (wanted & colours) <= words:
            yield f"the instruction names another colour than that of the {label}"

    def _tokens(self, text: str) -> set[str]:
        """Words in their common form: lower case, singular, English, the first of their synonyms."""
        lower = fold(text)
        named = [match[0] for match in self._phrase.finditer(lower)]
        return {self._common(word) for word in (*named, *_WORD.findall(self._phrase.sub(" ", lower)))}

    def _common(self, word: str) -> str:
        single = word[:-1] if word.endswith("s") and len(word) > 3 and word not in self._root else word
        return self._root.get(word, self._root.get(single, single))

    def _names_any(self, label: str, words: Iterable[str]) -> bool:
        return self._word_of(label, words) is not None

    def _word_of(self, text: str, words: Iterable[str], language: str = ENGLISH) -> str | None:
        """What of a label or a text is one of the words, or of one of the families that they name."""
        found = self._families.find(text, words, language)
        return found or next(iter(self._tokens(text) & {self._common(fold(word)) for word in words}), None)


def _has(text: str, phrase: str) -> bool:
    """Whether a phrase stands in a text as whole words; where words are joined to each other, anywhere in it."""
    bare = re.escape(fold(phrase))
    pattern = bare if _JOINS.search(phrase) else rf"(?<!\w){bare}(?!\w)"
    return re.search(pattern, fold(text)) is not None


def _things(steps: Iterable[Step]) -> Iterator[Thing]:
    """The steps' things, those that they refer to as well."""
    waiting: list[Thing | None] = [thing for step in steps for thing in (step.thing, step.reference)]
    while waiting:
        thing = waiting.pop()
        if thing is not None:
            waiting.append(thing.reference)
            yield thing


def _is_open(step: Step) -> bool:
    """Whether it is not said what is handled, or where it goes."""
    return step.thing is None or step.goes_nowhere


def _any_phrase(phrases: Iterable[str], joined: set[str]) -> re.Pattern[str]:
    """What finds the longest of the phrases that are joined to other words or made of several."""
    chosen = sorted((p for p in phrases if p in joined or " " in p), key=len, reverse=True)
    return re.compile("|".join(re.escape(p) if p in joined else rf"\b{re.escape(p)}\b" for p in chosen) or r"(?!)")


def spoken_labels(goal: Goal, plan: Plan) -> frozenset[str]:
    """The plan's labels that the person said as such, colour and noun together, in whatever language and case."""
    wanted = (step for step in goal.steps if not step.is_negated)
    said = {thing.label for thing in _things(wanted) if thing.colour and thing.noun}
    return frozenset(o.label for o in plan.objects if o.label in said)


def load_rules(path: str | Path = "rules/default.yaml", words: str | Path = "rules/words.yaml") -> RuleBook:
    """Load a cell's rules and the words that they use.

    Raises:
        BadInputError: a file is missing or wrong.
    """
    vocabulary = load_yaml(resolve(str(words)), Vocabulary)
    cell = load_yaml(resolve(str(path)), CellRules)
    return RuleBook(cell, vocabulary, load_languages().values(), load_families())
