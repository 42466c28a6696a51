"""What a sentence says, as frozen values, and back into plain English."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from qwen2vl_robot.messages import Direction, Relation
from qwen2vl_robot.reading.named import CORNERS as CORNERS
from qwen2vl_robot.reading.named import HOLLOW as HOLLOW
from qwen2vl_robot.reading.named import LAST as LAST
from qwen2vl_robot.reading.named import MANY as MANY
from qwen2vl_robot.reading.named import NTH as NTH
from qwen2vl_robot.reading.named import PARTS as PARTS
from qwen2vl_robot.reading.named import PLACE, WAY
from qwen2vl_robot.reading.named import Place as Place
from qwen2vl_robot.reading.named import Quantity as Quantity
from qwen2vl_robot.reading.named import Thing as Thing
from qwen2vl_robot.reading.named import upon as upon


class Mood(str, Enum):
    """How a sentence is meant; only an order asks for motion."""

    ORDER = "order"
    QUESTION = "question"
    HYPOTHETICAL = "hypothetical"
    REPORT = "report"


class Polarity(str, Enum):
    DO = "do"
    DO_NOT = "do_not"


class Deed(str, Enum):
    """What a step asks for; OTHER is what the robot does not do ("throw"), named by the step's `word`."""

    PICK = "pick"
    PLACE = "place"
    PUSH = "push"
    STACK = "stack"
    SORT = "sort"
    SWAP = "swap"
    LINE_UP = "line up"
    CLEAR = "clear"
    HOME = "home"
    WAIT = "wait"
    STOP = "stop"
    OTHER = "other"


MEASURED_RANKS = ("tallest", "lowest", "middlemost", "lightest", "darkest")  # superlatives that no model learned
ARRANGING = (Deed.STACK, Deed.SORT, Deed.SWAP, Deed.LINE_UP, Deed.CLEAR)  # several deeds that follow from what is seen
HANDLING = (Deed.PICK, Deed.PLACE, Deed.PUSH, *ARRANGING)  # what is done to a thing
_MOVING = (*HANDLING, Deed.HOME)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, or not to do.

    Attributes:
        word: for Deed.OTHER, the English word of what is asked for: "throw"; for Deed.SORT "colour" or "kind".
        place: where to, instead of a relation and its reference.
        relation, reference: where to; a place may have a direction instead ("put it to the left"). Deed.CLEAR takes
            everything off its thing, or out of it, or only the reference.
        seconds: of a wait, None when it was not said.
    """

    deed: Deed
    thing: Thing | None = None
    relation: Relation | None = None
    reference: Thing | None = None
    direction: Direction | None = None
    seconds: float | None = None
    is_negated: bool = False
    word: str = ""
    place: Place | None = None

    @property
    def goes_nowhere(self) -> bool:
        """Whether it puts something and does not say where."""
        is_said = self.relation is not None or self.direction is not None or self.place is not None
        return self.deed is Deed.PLACE and not is_said

    @property
    def is_motion(self) -> bool:
        """Whether it asks for a motion that the robot has."""
        return self.deed in _MOVING and not self.is_negated

    def describe(self) -> str:
        """Say it in English.

        >>> Step(Deed.PLACE, Thing("block", "red"), Relation.ON, Thing("plate", "blue")).describe()
        'put the red block on the blue plate'
        """
        words = ["do not"] if self.is_negated else []
        if self.deed is Deed.PICK and self.thing is not None and self.thing.is_it:
            return " ".join([*words, "pick it up"])
        said = {Deed.PICK: "pick up", Deed.PLACE: "put", Deed.HOME: "go home", Deed.OTHER: self.word}
        words.append(said.get(self.deed, self.deed.value))
        words += [self.thing.describe()] if self.thing else []
        if self.relation is not None and self.reference is not None:
            words.append(f"{PLACE[self.relation]} {self.reference.describe()}")
        elif self.deed is Deed.CLEAR and self.reference is not None and self.thing is not None:
            words = [*words[:-1], f"{self.reference.describe()} off {self.thing.describe()}"]
        elif self.reference is not None:
            words.append(f"{'and' if self.deed is Deed.SWAP else 'into'} {self.reference.describe()}")
        if self.deed is Deed.SORT and self.word:
            words.append(f"by {self.word}")
        if self.place is not None:
            words.append(self.place.describe())
        elif self.direction is not None:
            words.append(WAY[self.direction])
        elif self.deed is Deed.PLACE and self.relation is None:
            words.append("down")
        if self.seconds is not None:
            words.append(f"for {self.seconds:g} second{'s' * (self.seconds != 1)}")
        return " ".join(words)


class Asks(str, Enum):
    """What a question is about that the robot answers: the scene (up to WHERE), or the robot and its tasks."""

    WHAT = "what"
    WHETHER = "whether"
    COUNT = "count"
    WHERE = "where"
    HELD = "held"
    DONE = "done"
    WHY = "why"
    ABILITY = "ability"


@dataclass(frozen=True, slots=True)
class Question:
    """A question that the robot answers without moving anything.

    Attributes:
        thing: what it is about, None for everything.
        relation, reference: "is the block on the plate?", "what is in the bowl?".
    """

    asks: Asks
    thing: Thing | None = None
    relation: Relation | None = None
    reference: Thing | None = None

    def describe(self) -> str:
        """Say in English what is asked.

        >>> Question(Asks.WHETHER, Thing("block", "red"), Relation.ON, Thing("plate")).describe()
        'whether: the red block on the plate'
        """
        words = [] if self.thing is None else [self.thing.describe()]
        if self.relation is not None and self.reference is not None:
            words.append(f"{PLACE[self.relation]} {self.reference.describe()}")
        return ": ".join(part for part in (self.asks.value, " ".join(words)) if part)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a sentence says. Two readings are equal when they mean the same, however they were spelled.

    Attributes:
        steps: in the order in which they are said, negated ones too; none when nothing was understood.
        exclusions: what is named as not meant ("not the green one").
        corrections: what was said first and taken back ("the red one, no, the green one").
        conditions: what cannot be carried ("if it is dry", "twice", "tomorrow"), in the person's spelling.
        unread: the words that were not read, in the person's spelling.
        folded: conditions and unread words as they are compared: without case, width and look-alike letters.
        language: code of the language in which it was read.
        question: what is asked that the robot can answer; then nothing else is said.
    """

    mood: Mood = Mood.ORDER
    steps: tuple[Step, ...] = ()
    exclusions: tuple[Thing, ...] = ()
    corrections: tuple[Thing, ...] = ()
    conditions: tuple[str, ...] = field(default=(), compare=False)
    unread: tuple[str, ...] = field(default=(), compare=False)
    folded: tuple[str, ...] = ()
    language: str = field(default="en", compare=False)
    question: Question | None = None

    @property
    def polarity(self) -> Polarity:
        """DO_NOT when there are steps and every one is negated."""
        return Polarity.DO_NOT if self.steps and all(s.is_negated for s in self.steps) else Polarity.DO

    @property
    def is_understood(self) -> bool:
        """Whether it was read whole: something is said, and no word is left."""
        return bool(self.steps or self.mood is not Mood.ORDER) and not self.unread

    @property
    def is_contradictory(self) -> bool:
        """Whether a step is asked for and forbidden, or needs what is, or a thing is to lie on what lies on it.

        >>> red, blue = Thing("block", "red"), Thing("block", "blue")
        >>> steps = Step(Deed.PLACE, red, Relation.ON, blue), Step(Deed.PLACE, blue, Relation.ON, red)
        >>> Goal(steps=steps).is_contradictory
        True
        """
        wanted = {replace(s, is_negated=True) for s in self.steps if not s.is_negated}
        return any(s in wanted for s in self.steps) or self._needs_forbidden or self._is_circular

    @property
    def _needs_forbidden(self) -> bool:
        """Whether a step needs what another forbids: "don't pick up the ball, put it on the plate"."""
        handled = {(s.deed, s.thing) for s in self.steps if not s.is_negated and s.thing is not None}
        lifted = {thing for deed, thing in handled if deed in (Deed.PICK, Deed.PLACE)}
        touched = {thing for deed, thing in handled if deed in HANDLING}
        return any(
            (s.deed is Deed.PICK and s.thing in lifted) or (s.word == "touch" and s.thing in touched)
            for s in self.steps
            if s.is_negated
        )

    @property
    def _is_circular(self) -> bool:
        below: dict[Thing, Thing] = {}
        for step in self.steps:
            if step.deed is not Deed.PLACE or step.is_negated or step.thing is None or step.reference is None:
                continue
            if not step.thing.label or not step.reference.label:
                continue
            below[step.thing] = step.reference
            support: Thing | None = step.reference
            while support is not None and support != step.thing:
                support = below.get(support)
            if support is not None:
                return True
        return False

    @property
    def asks_for_motion(self) -> bool:
        """Whether a person orders a motion, without forbidding the same; `is_understood` says if that is all."""
        return self.mood is Mood.ORDER and not self.is_contradictory and any(s.is_motion for s in self.steps)

    @property
    def asks_to_stop(self) -> bool:
        """Whether everything is to stop now: it begins with a stop, or forbids every motion.

        >>> Goal(steps=(Step(Deed.STOP),)).asks_to_stop, Goal(steps=(Step(Deed.PICK), Step(Deed.STOP))).asks_to_stop
        (True, False)
        """
        if self.mood is not Mood.ORDER or not self.steps or self.conditions:
            return False
        first = self.steps[0]
        forbids_all = first.is_negated and first.deed in HANDLING and first.thing is None and first.reference is None
        return forbids_all or (first.deed is Deed.STOP and not first.is_negated)

    def describe(self) -> str:
        """Say in English what was read, without the words that were not.

        >>> Goal(steps=(Step(Deed.PICK, Thing("block", "red")), Step(Deed.HOME))).describe()
        'pick up the red block and then go home'
        """
        if self.question is not None:
            return f"({self.mood.value}) {self.question.describe()}"
        told = [" and then ".join(step.describe() for step in self.steps)]
        told += [f"not {thing.describe()}" for thing in self.exclusions]
        text = ", ".join(part for part in (*told, *self.conditions) if part)
        return text if self.mood is Mood.ORDER else f"({self.mood.value}) {text}".strip()
