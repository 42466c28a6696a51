"""Words of a sentence and a thing of a plan → whether the words name it: surely, possibly, or not."""

from __future__ import annotations

from qwen2vl_robot.reading import Quantity, Thing


def is_surely(words: Thing | None, thing: Thing | None) -> bool:
    """Whether the words name the thing, whichever of its kind it is."""
    if words is None or words.is_it:
        return True
    is_plain = words.reference is None and not words.superlative and not words.rank
    return is_plain and thing is not None and covers(words, thing)


def may_be(words: Thing | None, thing: Thing | None) -> bool:
    """Whether the words may name the thing: neither noun nor colour differs."""
    if words is None or words.is_it:
        return True
    if thing is None:
        return False
    pairs = ((words.noun, thing.noun), (words.colour, thing.colour))
    return all(not a or not b or a == b for a, b in pairs)


def covers(words: Thing, thing: Thing) -> bool:
    """Whether the words fit a thing; those without noun and colour fit none."""
    return bool(words.label) and words.noun in ("", thing.noun) and words.colour in ("", thing.colour)


def names(said: Thing | None, planned: Thing | None) -> bool:
    """Whether a plan's thing is the one that was said, or fills in what the sentence leaves open."""
    if said is None or said.is_it:
        return True
    if planned is None:  # the plan does not say which
        return not said.label
    return (
        said.noun in ("", planned.noun)
        and said.colour in ("", planned.colour)
        and (said.superlative, said.rank) == (planned.superlative, planned.rank)
        and (said.relation is None or _stands_alike(said, planned))
        and (said.relation is not None or said.reference is None or names(said.reference, planned.reference))
        and (planned.quantity is not Quantity.ALL or said.quantity is not Quantity.ONE)
    )


def _stands_alike(said: Thing, planned: Thing) -> bool:
    """Whether a plan names a thing by where it stands as the sentence does: "the block on the red plate"."""
    return said.relation is planned.relation and names(said.reference, planned.reference)
