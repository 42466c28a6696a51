"""A question → its answer in the person's language, from what is measured now, what was done, and the cell's rules.

No model has a part in it, and nothing moves. What is not seen is said so, with how much of the table is hidden.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from qwen2vl_robot.belief import Belief
from qwen2vl_robot.errors import ObservationError, PerceptionError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.languages import Language, fill, load_languages
from qwen2vl_robot.messages import Cause, Instruction, Observation, Outcome, OutcomeKind, TaskReport
from qwen2vl_robot.parts import Parts
from qwen2vl_robot.perception import Stock, Surroundings, take_stock
from qwen2vl_robot.perception.stock import Item
from qwen2vl_robot.planner.phrasing import example_sentences
from qwen2vl_robot.reading import Asks, Question, Thing
from qwen2vl_robot.reasons import TaskReason
from qwen2vl_robot.spots import Moved
from qwen2vl_robot.stocktaking import Matched, match, parts_of_table, place_of

_KEPT = 16  # tasks that are remembered
_MOST_CAUSES = 3
_MOST_PLACES = 3


@dataclass(frozen=True, slots=True)
class Past:
    """A task that was taken.

    Attributes:
        outcome: None until it ended, and for good where an error ended it.
        deeds: what was achieved, in words.
        moved: what of that was moved on the table, from where to where.
    """

    said: str
    outcome: Outcome | None = None
    deeds: tuple[str, ...] = ()
    moved: tuple[Moved, ...] = ()


class Memory:
    """The latest tasks that were no questions, the oldest first."""

    def __init__(self) -> None:
        self._tasks: deque[Past] = deque(maxlen=_KEPT)

    def began(self, instruction: Instruction) -> None:
        """Note a task before anything is done for it."""
        self._tasks.append(Past(instruction.text))

    def meant(self, text: str) -> None:
        """Note what the latest task's words mean, where they mean what came before ("again")."""
        self._tasks[-1] = replace(self._tasks[-1], said=text)

    def ended(self, report: TaskReport) -> TaskReport:
        """Note how the latest task ended, and return its report; one that was a question is forgotten."""
        task = self._tasks.pop()
        deeds = tuple(s.action.describe() for s in report.steps if s.outcome.kind is OutcomeKind.ACHIEVED)
        if report.outcome.kind is not OutcomeKind.ANSWERED:
            self._tasks.append(
                replace(task, outcome=report.outcome, deeds=deeds, moved=tuple(_moved(report, self.moved)))
            )
        return report

    @property
    def moved(self) -> tuple[Moved, ...]:
        """What was moved in these tasks, the oldest first."""
        return tuple(moved for task in self._tasks for moved in task.moved)

    def before(self, *, is_failure: bool) -> Past | None:
        """The task before the current one; where it may be, the latest that was not achieved."""
        tasks = list(self._tasks)[-2::-1]
        failed = (t for t in tasks if t.outcome is None or t.outcome.kind is not OutcomeKind.ACHIEVED)
        latest = tasks[0] if tasks else None
        return next(failed, latest) if is_failure else latest


def _moved(report: TaskReport, before: Sequence[Moved]) -> Iterator[Moved]:
    """What a task moved on the table: where it was taken, or pushed, and where it was meant to end.

    Args:
        before: what was moved in earlier tasks; what the last of them took may be put down in this one.
    """
    held = before[-1] if before and before[-1].to_xy_m is None else None
    taken: dict[str, Array] = {}
    for step in report.steps:
        effect = None if step.motion is None else step.motion.effect
        if effect is None or effect.name is None or step.scene is None or step.outcome.kind is not OutcomeKind.ACHIEVED:
            continue
        if effect.kind in ("hold", "push"):
            taken[effect.name] = step.scene.find(effect.name).T_base_object
        if effect.kind == "release" and effect.T_base_object is not None and not taken and held is not None:
            now = effect.T_base_object
            yield Moved(held.from_xy_m, (float(now[0, 3]), float(now[1, 3])))
            held = None
        if effect.T_base_object is not None and effect.name in taken:
            was, now = taken.pop(effect.name), effect.T_base_object
            yield Moved((float(was[0, 3]), float(was[1, 3])), (float(now[0, 3]), float(now[1, 3])))
    for was in taken.values():
        yield Moved((float(was[0, 3]), float(was[1, 3])), None)


def answer(
    instruction: Instruction, parts: Parts, belief: Belief, memory: Memory, look: Callable[[], Observation]
) -> Outcome | None:
    """Answer an instruction that is a question; None for one that is none.

    Args:
        look: takes a fresh observation; called only for a question about what is to be seen.
    """
    goal = parts.cell.read(instruction)
    if goal.question is None:
        return None
    speech = load_languages()[goal.language]
    try:
        if goal.question.asks is Asks.ABILITY:
            told = _abilities(speech, goal.language, parts)
        elif goal.question.asks in (Asks.DONE, Asks.WHY):
            told = _past(memory.before(is_failure=goal.question.asks is Asks.WHY), speech)
        elif goal.question.asks is Asks.HELD:
            told = _held(belief.state_of(parts.arm).held, belief.state_of(parts.arm).gripper_width_m, speech)
        else:
            around = parts.surroundings.heard(instruction.text)
            told = _seen(goal.question, take_stock(look(), around, belief.scene), around, speech)
    except (ObservationError, PerceptionError) as error:
        return Outcome(OutcomeKind.REFUSED, (Cause(error.reason, str(error)),))
    return Outcome(OutcomeKind.ANSWERED, (Cause(TaskReason.ANSWERED, " ".join(told)),))


# -------------------------------------------------------------------------------------- the robot itself


def _abilities(speech: Language, code: str, parts: Parts) -> Iterator[str]:
    words = parts.cell.never_touched(code)
    yield speech.answers.can
    yield speech.answers.example.format(
        sentences=speech.answers.comma.join(f'"{s}"' for s in example_sentences((), code))
    )
    if words:
        yield speech.answers.never.format(words=speech.answers.comma.join(words))


def _past(past: Past | None, speech: Language) -> Iterator[str]:
    says = speech.answers
    if past is None:
        yield says.idle
        return
    yield says.said.format(said=past.said)
    yield says.outcomes[OutcomeKind.ABORTED.value if past.outcome is None else past.outcome.kind.value]
    if past.deeds:
        yield says.done.format(deeds=says.comma.join(past.deeds))
    reasons = () if past.outcome is None else past.outcome.reasons[:_MOST_CAUSES]
    if reasons:
        yield says.because.format(causes="; ".join(reasons))


def _held(held: str | None, width_m: float, speech: Language) -> Iterator[str]:
    if held is not None:
        yield speech.answers.holds.format(things=_phrase(Thing(), speech, label=held))
    else:
        yield speech.answers.empty.format(width_mm=f"{1000 * width_m:.0f}")


# ------------------------------------------------------------------------------------- what is to be seen


def _seen(question: Question, stock: Stock, around: Surroundings, speech: Language) -> Iterator[str]:
    """What a question about the table is answered with; whatever could be hidden makes it less sure, and is said."""
    found, says = match(question, stock, around), speech.answers
    if found.unknown is not None:
        yield says.unknown.format(a=_phrase(found.unknown, speech))
        return
    named = [item for item in found.sure if _is_named(item, speech)]
    if found.missing is not None and found.missing.label:
        yield from _missing(question, found, stock, around, speech)
    elif question.asks is Asks.WHERE and found.sure:
        for item in found.sure[:_MOST_PLACES]:
            yield _place(item, stock, around, speech)
    elif not found.sure and found.maybe and question.asks is not Asks.COUNT:
        pass  # what follows says of what this is not sure
    elif not found.sure:
        yield says.none if question.asks is Asks.COUNT else says.nothing
    else:
        template = {Asks.COUNT: says.count, Asks.WHETHER: says.yes}.get(question.asks, says.see)
        if named or question.asks is Asks.COUNT:
            yield template.format(n=len(found.sure), things=_list(named, question, speech) or "-")
        if len(named) < len(found.sure):
            yield says.unnamed.format(n=len(found.sure) - len(named))
    doubtful = [item for item in found.maybe if _is_named(item, speech)]
    if doubtful:
        yield says.unsure.format(things=_list(doubtful, question, speech))
    percent = round(100 * stock.hidden_ratio)
    if percent and not (found.sure and question.asks in (Asks.WHETHER, Asks.WHERE)):
        yield says.hidden.format(percent=percent)


def _missing(question: Question, found: Matched, stock: Stock, around: Surroundings, speech: Language) -> Iterator[str]:
    """That something is not there; where it is elsewhere, where that is."""
    says, thing = speech.answers, question.thing
    elsewhere = match(Question(question.asks, thing), stock, around).sure if question.relation and thing else ()
    if question.asks is Asks.COUNT:
        yield says.none
    if elsewhere and thing is not None and question.relation and question.reference and found.missing is not None:
        is_there = found.missing == thing
        both = _which(question.relation.value, _cases(thing, speech), _cases(question.reference, speech), speech)
        yield speech.ask.replace("{a}", both if is_there else _phrase(found.missing, speech))
        for item in elsewhere[:_MOST_PLACES]:
            yield _place(item, stock, around, speech)
    elif found.missing is not None:
        yield speech.ask.replace("{a}", _phrase(found.missing, speech))


def _place(item: Item, stock: Stock, around: Surroundings, speech: Language) -> str:
    says, beside = speech.answers, place_of(item, stock, around)
    name = _item_cases(item, speech)
    told = name[0]
    if beside is not None and _is_named(beside[1], speech):
        told = _which(beside[0].value, name, _item_cases(beside[1], speech), speech)
    parts = [getattr(says, part) for part in parts_of_table(item.object, stock)]
    x, y = (f"{value:.2f}" for value in item.object.T_base_object[:2, 3])
    return says.where.format(a=told, side=says.comma.join(parts) or "-", x=x, y=y)


def _list(items: Sequence[Item], question: Question, speech: Language) -> str:
    """Name things, with where they are if that was asked."""
    names = []
    for item in items:
        name = _item_cases(item, speech)
        if question.relation is not None and question.reference is not None:
            names.append(_which(question.relation.value, name, _cases(question.reference, speech), speech))
        else:
            names.append(name[0])
    return speech.answers.comma.join(names)


def _is_named(item: Item, speech: Language) -> bool:
    """Whether a language has words for a thing's colour and kind."""
    return all(word in speech.colours or word in speech.kinds for word in item.label.split())


def _item_cases(item: Item, speech: Language) -> tuple[str, str]:
    if not _is_named(item, speech):
        return item.label, item.label
    return speech.phrase(item.label), speech.phrase(item.label, "of")


def _cases(thing: Thing, speech: Language) -> tuple[str, str]:
    return _phrase(thing, speech), _phrase(thing, speech, case="of")


def _phrase(thing: Thing, speech: Language, *, case: str = "the", label: str = "") -> str:
    """Name a thing as it is said, in English where the language has no word for it."""
    label, extra = label or thing.label, "" if thing.colour else thing.superlative
    try:
        return speech.phrase(label, case, extra=extra)
    except KeyError:
        return label or thing.describe()


def _which(relation: str, name: tuple[str, str], other: tuple[str, str], speech: Language) -> str:
    return fill(speech.which[relation], name, other)
