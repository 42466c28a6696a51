"""A goal → its motions, and the plainest sentences for them that the shipped checkpoint was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qwen2vl_robot.languages import Language, fill, load_languages
from qwen2vl_robot.messages import Direction, Relation
from qwen2vl_robot.reading import Deed, Goal, Quantity, Step, Thing

_MOVABLE, _WIDE = ("block", "cylinder", "ball"), ("plate", "bowl")  # kinds in examples: picked up, and put upon or into


def plainest(todo: Sequence[Step], goal: Goal) -> tuple[str, ...]:
    """A sentence for each motion of a goal that is to be done, for the checkpoint plans one deed at a time.

    One that is of a kind that the checkpoint never learned is said in English; if it is the only one, nothing is said,
    and the person's words are used.

    >>> from qwen2vl_robot.reading import read
    >>> plainly = lambda text: plainest(motions(read(text)), read(text))
    >>> plainly("Robot!! could you STACK that crimson, no, red cube onto the blue dish, please?")
    ()
    >>> plainly("would you mind putting the red cube onto the blue plate and then going home")
    ('put the red block on the blue plate', 'go home')
    """
    if goal.unread:
        return ()
    language = load_languages()[goal.language]
    said = [_say(step, language) for step in todo]
    return () if said == [""] else tuple(text or step.describe() for text, step in zip(said, todo, strict=True))


def motions(goal: Goal) -> list[Step]:
    """The motions that a goal asks for; a pick that only serves the place after it is part of the place, as in a plan.

    What is picked twice in a row ("grab the block and lift it") is picked once.

    >>> from qwen2vl_robot.reading import read
    >>> [step.describe() for step in motions(read("take the red block and put it on the blue plate, then go home"))]
    ['put the red block on the blue plate', 'go home']
    """
    steps: list[Step] = []
    for step in goal.steps:
        if step.is_negated or step.deed in (Deed.STOP, Deed.OTHER):
            continue
        thing, reference = (None if thing is None else off_table(thing) for thing in (step.thing, step.reference))
        last = steps[-1] if steps else None
        if step.deed is Deed.PLACE and last is not None and _only_lifts(last) and _is_it(thing, last.thing):
            steps[-1] = replace(step, thing=last.thing, reference=reference)
        elif step.deed is not Deed.PICK or last is None or not _is_picked(thing, last):
            steps.append(replace(step, thing=thing, reference=reference))
    return steps


def _is_picked(thing: Thing | None, last: Step) -> bool:
    """Whether a thing, or "it", is what the last step picks up."""
    return last.deed is Deed.PICK and (thing == last.thing or (thing is not None and thing.is_it))


def examples(labels: Sequence[str], code: str) -> str:
    """Say which two sentences would work.

    >>> examples(("green ball", "yellow block", "white plate"), "en")
    'I understand: "pick up the green ball", "put the green ball on the white plate".'
    """
    first, second = example_sentences(labels, code)
    return f'I understand: "{first}", "{second}".'


def example_sentences(labels: Sequence[str], code: str) -> tuple[str, str]:
    """Two sentences that would work where things with these labels are in view; any two where there are none."""
    language = load_languages()[code]
    names = [(label, label.split()[-1]) for label in labels]
    movable = [label for label, noun in names if noun in _MOVABLE]
    wide = [(label, noun) for label, noun in names if noun in _WIDE]
    moved = movable[0] if movable else "red block"
    onto, noun = wide[0] if wide and movable else ("blue plate", "plate")
    key = "in" if noun == "bowl" else "on"
    said = (("pick", (moved,)), (key, (moved, onto)))
    first, second = (
        fill(language.tasks[k].seen[0], *(_cases(label, language) for label in things)) for k, things in said
    )
    return first, second


def _cases(label: str, language: Language) -> tuple[str, str]:
    return language.phrase(label, "the"), language.phrase(label, "of")


def _only_lifts(step: Step) -> bool:
    """Whether a step takes a thing and does not say where it goes: "pick it up", "carry it"."""
    return step.deed is Deed.PICK or step.goes_nowhere


def _is_it(thing: Thing | None, before: Thing | None) -> bool:
    """Whether a thing is the one named just before: "it", nothing at all, or the same words again."""
    return thing is None or thing.is_it or thing == before


def off_table(thing: Thing) -> Thing:
    """Leave out that a thing is on the table, for there they all are.

    >>> off_table(Thing("ball", "red", relation=Relation.ON, reference=Thing("table"))).describe()
    'the red ball'
    """
    is_there = thing.relation is Relation.ON and thing.reference == Thing("table")
    return replace(thing, relation=None, reference=None) if is_there else thing


def _say(step: Step, language: Language) -> str:
    template = _template(step, language)
    if not template:
        return ""
    try:
        names = [_name(t, language) for t in (step.thing, step.reference) if t is not None]
    except KeyError:  # a thing that the checkpoint has no word for
        return ""
    said = fill(template, *names)
    return "" if "{" in said else said  # nothing was said for a slot


def _template(step: Step, language: Language) -> str:
    """The first phrasing of a deed's training."""
    key = ""
    if step.deed is Deed.PICK:
        key = "pick"
    elif step.deed is Deed.PLACE and step.relation is not None:
        key = step.relation.value
    elif step.deed is Deed.PUSH and isinstance(step.direction, Direction):
        key = f"push_{step.direction.value}"
    return language.tasks[key].seen[0] if key in language.tasks else ""


def _name(thing: Thing, language: Language) -> tuple[str, str]:
    """A thing in two cases.

    Raises:
        KeyError: it is not named by colour and noun, or by a superlative.
    """
    if thing.is_it or thing.rank or thing.relation is not None or thing.quantity not in (Quantity.ONE, Quantity.ALL):
        raise KeyError(thing.describe())
    if thing.quantity is Quantity.ALL:
        name = language.phrase(thing.label, "all")
        return name, name
    if thing.superlative and thing.colour:
        raise KeyError(thing.describe())
    label = thing.noun if thing.superlative else thing.label
    return language.phrase(label, "the", extra=thing.superlative), language.phrase(label, "of", extra=thing.superlative)
