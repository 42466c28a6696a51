"""Things and places as a person names them, as frozen values, and back into plain English."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from qwen2vl_robot.messages import Direction, Relation

NTH = ("", "first", "second", "third", "fourth", "fifth", "sixth", "last")  # a thing's rank, in words
LAST = len(NTH) - 1
HALVES = ("part left", "part right", "part near", "part far")  # of the table
CORNERS = ("corner near left", "corner near right", "corner far left", "corner far right")
PARTS = (*HALVES, *CORNERS, "corner")  # of the table; the last is any corner


class Quantity(str, Enum):
    """How many are meant; NUMBER goes with a thing's `count`."""

    ONE = "one"
    ALL = "all"
    NUMBER = "number"
    ANOTHER = "another"


MANY = (Quantity.ALL, Quantity.NUMBER)
HOLLOW = ("bowl", "cup")


def upon(noun: str) -> Relation:
    """How a thing is put where a noun alone says it: in what is hollow, else on it."""
    return Relation.IN if noun in HOLLOW else Relation.ON


@dataclass(frozen=True, slots=True)
class Thing:
    """What a person names, in the English words of the catalogue.

    Attributes:
        noun: "block", "plate" ...; "" for a generic one ("the red one", "thing", "it").
        colour, superlative: "red", "leftmost"; "" where none is said.
        count: how many, for Quantity.NUMBER; 1 otherwise.
        relation, reference: "the block that is on the plate"; without a relation, what "nearest" is measured from.
        is_it: a pronoun with no thing before it that it could mean.
        is_any: any one will do ("a block", "one of the blocks"); it only matters where several are in view.
        is_each: each by itself ("each block on a plate").
        rank: "the second leftmost" is 2; 0 where none is said. Without a superlative nobody knows from where to count.
            `LAST` is only kept without one: "the last on the right" is the rightmost.
    """

    noun: str = ""
    colour: str = ""
    superlative: str = ""
    quantity: Quantity = Quantity.ONE
    count: int = 1
    relation: Relation | None = None
    reference: Thing | None = None
    is_it: bool = False
    is_any: bool = field(default=False, compare=False)
    is_each: bool = field(default=False, compare=False)
    rank: int = 0

    @property
    def label(self) -> str:
        """Colour and noun, as a plan's object reference names them: "red block", "block", "red"."""
        return " ".join(word for word in (self.colour, self.noun) if word)

    @property
    def is_by(self) -> bool:
        """Whether it is told by how far it is from another thing: "the block nearest to the bowl"."""
        return self.reference is not None and self.relation is None

    def describe(self) -> str:
        """Name it in English.

        >>> Thing("block", "red", relation=Relation.ON, reference=Thing("plate")).describe()
        'the red block that is on the plate'
        """
        if self.is_it:
            return "it"
        is_many = self.quantity in MANY
        noun = (self.noun or "one") + ("es" if self.noun == "box" else "s") * is_many
        first = {Quantity.ALL: "all the", Quantity.NUMBER: str(self.count), Quantity.ANOTHER: "another"}
        rank = NTH[self.rank]
        words = [first.get(self.quantity, "the"), rank, "" if self.is_by else self.superlative, self.colour, noun]
        if self.is_by and self.reference is not None:
            link = "from" if self.superlative == "farthest" else "to"
            words.append(f"{self.superlative} {link} {self.reference.describe()}")
        if self.relation is not None and self.reference is not None:
            words.append(f"that {'are' if is_many else 'is'} {PLACE[self.relation]} {self.reference.describe()}")
        return " ".join(word for word in words if word)


PLACE = {
    Relation.ON: "on",
    Relation.IN: "in",
    Relation.LEFT_OF: "to the left of",
    Relation.RIGHT_OF: "to the right of",
    Relation.IN_FRONT_OF: "in front of",
    Relation.BEHIND: "behind",
    Relation.NEXT_TO: "next to",
}
WAY = {
    Direction.LEFT: "to the left",
    Direction.RIGHT: "to the right",
    Direction.AWAY: "away",
    Direction.CLOSER: "closer",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A place that no thing marks.

    Attributes:
        kind: "back" (where it was before), "middle" or one of `PARTS` (of the table), "between" two things, "there"
            (where the last thing was put), or "by" a distance in a direction.
    """

    kind: str
    direction: Direction | None = None
    distance_m: float = 0.0
    things: tuple[Thing, ...] = ()

    def describe(self) -> str:
        """Say it in English.

        >>> Place("by", Direction.LEFT, 0.1).describe()
        '10 cm to the left'
        """
        if self.kind == "by" and self.direction is not None:
            return f"{100 * self.distance_m:g} cm {WAY[self.direction]}"
        if self.kind == "between":
            return f"between {' and '.join(thing.describe() for thing in self.things)}"
        if self.kind in HALVES:
            return f"in the {self.kind.removeprefix('part ')} half of the table"
        if self.kind in CORNERS:
            return f"in the {self.kind.removeprefix('corner ')} corner of the table"
        said = {
            "back": "back where it was",
            "middle": "in the middle of the table",
            "corner": "in a corner of the table",
        }
        return said.get(self.kind, self.kind)
