"""What a found word or phrase carries, and what a form of a language stands for."""

from __future__ import annotations

import re
from dataclasses import dataclass

OTHER = "other "  # begins the tags of what the robot does not do: "other throw"
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
PREFIX, PLAIN, SUFFIX = "prefix", "plain", "suffix"
VERBS = frozenset(
    (
        *("pick", "place", "place on", "place in", "move", "push", "push left", "push right", "push away"),
        *("push closer", "home", "go", "wait", "stop", "leave", "want"),
        *("sort", "swap", "line up", "stack", "clear", "gather"),
    )
)


@dataclass(frozen=True, slots=True)
class Token:
    """A word or phrase that was found, or a word that was not (no tags).

    Attributes:
        spelling: the person's.
        gap: what stands before it, see letters.Word.
        before: what parts it from the token before, see letters.Word.
    """

    text: str
    spelling: str
    tags: frozenset[str]
    gap: int = 0
    before: str = " "

    def has(self, *tags: str) -> bool:
        """Whether it carries any of the tags."""
        return not self.tags.isdisjoint(tags)

    @property
    def verbs(self) -> list[str]:
        """The tags that are verbs."""
        return sorted(tag for tag in self.tags if is_verb(tag))


@dataclass(frozen=True, slots=True)
class Entry:
    """What a form means.

    Attributes:
        tags: of each token that it stands for; two where a pronoun is joined to a verb ("cógelo").
        spaces: letters of the form (written without spaces) before which a space may stand.
    """

    tags: tuple[frozenset[str], ...]
    spaces: frozenset[int] = frozenset()


def is_verb(tag: str) -> bool:
    return tag in VERBS or tag.startswith(OTHER)


def is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def spell(tokens: list[Token]) -> str:
    """What the person wrote, with the spaces that stood between the tokens."""
    return "".join(token.before + token.spelling for token in tokens).strip()
