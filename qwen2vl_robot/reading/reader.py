"""A sentence in any language → a Goal, read in the one that leaves the fewest letters unread."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

from qwen2vl_robot.languages import Language, load_languages, normalise
from qwen2vl_robot.reading.changes import Reading
from qwen2vl_robot.reading.clauses import drop_asking, find_mood, split_clauses, take_conditions
from qwen2vl_robot.reading.goal import Deed, Goal, Mood, Step
from qwen2vl_robot.reading.letters import MAX_CHARS, split_words
from qwen2vl_robot.reading.lexicon import Lexicon
from qwen2vl_robot.reading.settling import settle_tags
from qwen2vl_robot.reading.steps import read_clause
from qwen2vl_robot.reading.stopping import mentions_stop, stop_word
from qwen2vl_robot.reading.talk import drop_talk
from qwen2vl_robot.reading.tokens import Token, spell

_ENOUGH = 3  # languages that are read to the end, of those whose words cover a text alike
_HANDLING = (Deed.PICK, Deed.PLACE, Deed.PUSH, Deed.OTHER)


class Reader:
    """The lexicons of some languages; the sentence templates of their files are not used."""

    def __init__(self, languages: Mapping[str, Language]) -> None:
        self._lexicons = {code: Lexicon(language) for code, language in languages.items()}

    def read(self, text: str) -> Goal:
        """Read a text; one that says nothing, or is longer than 500 characters, gives a goal without steps."""
        if len(normalise(text[: 4 * MAX_CHARS])) > MAX_CHARS:
            return Goal(unread=(text[:MAX_CHARS],), folded=("",))
        words = split_words(text)
        found, talk = {}, {}
        for code, lexicon in self._lexicons.items():
            found[code], talk[code] = drop_talk(settle_tags(lexicon.tokens(words), lexicon), lexicon)
        order = {code: k for k, code in enumerate(found)}
        fewest = sorted(found, key=lambda code: (_count_unread(found[code]), order[code]))
        alike = [c for c in fewest if _count_unread(found[c]) == _count_unread(found[fewest[0]])]
        goals = [(self._read_in(code, found[code], talk[code]), len(found[code])) for code in alike[:_ENOUGH]]
        return max(goals, key=lambda goal: _fitness(*goal), default=(Goal(), 0))[0]

    def _read_in(self, code: str, tokens: list[Token], talk: list[Token]) -> Goal:
        lexicon = self._lexicons[code]
        tokens = drop_asking(tokens)
        rest, conditions = take_conditions(tokens, lexicon)
        mood = Mood.QUESTION if any(token.has("ask") for token in tokens) else find_mood(rest)
        if any(token.has("suppose") for group in conditions for token in group):
            mood = Mood.HYPOTHETICAL if mood is Mood.ORDER else mood
        has_verb = any(token.verbs for token in rest)
        if not has_verb and any(token.verbs or token.has("did") for group in conditions for token in group):
            mood = Mood.HYPOTHETICAL if mood is not Mood.QUESTION else mood  # "if you push it, it falls"
        reading = Reading()
        for clause in split_clauses(rest, lexicon):
            read_clause(clause, lexicon, reading)
        if any(step.thing is not None and step.thing.is_it for step in reading.steps):
            reading.unread += talk  # "There is a knife. Pick it up."
            rest = [*talk, *rest]
        left = {id(token) for token in reading.unread}
        unread = [t for t in rest if id(t) in left and t.spelling and (mood is Mood.ORDER or not t.tags)]
        return _goal(mood, reading, conditions, unread, code)


def _goal(mood: Mood, reading: Reading, conditions: list[list[Token]], unread: list[Token], code: str) -> Goal:
    told = [*(" ".join(t.text for t in group) for group in conditions), *(t.text for t in unread)]
    return Goal(
        mood,
        _fill_forward(reading.steps),
        tuple(reading.exclusions),
        tuple(reading.corrections),
        tuple(spell(group) for group in conditions),
        tuple(t.spelling for t in unread),
        tuple(told),
        code,
    )


def _fill_forward(steps: list[Step]) -> tuple[Step, ...]:
    """ "pick up and put the block on the plate": a step without a thing is about that of the next."""
    filled = list(steps)
    for at in range(len(filled) - 2, -1, -1):
        if filled[at].thing is None and filled[at].deed in _HANDLING and filled[at + 1].deed in _HANDLING:
            filled[at] = replace(filled[at], thing=filled[at + 1].thing)
    return tuple(filled)


def _fitness(goal: Goal, tokens: int) -> tuple[bool, bool, int, int]:
    """What makes one of several readings the better one: it is whole, says something, leaves little, in few words."""
    return goal.is_understood, bool(goal.steps), -len(goal.unread) - len(goal.conditions), -tokens


def _count_unread(tokens: list[Token]) -> int:
    return sum(len(token.text) for token in tokens if not token.tags)


@functools.lru_cache(maxsize=1)
def load_reader() -> Reader:
    """The reader of every language of sim/languages."""
    return Reader(load_languages())


def read(text: str) -> Goal:
    """Say what a sentence asks for, in whichever of the nine languages; no model has a part in it.

    >>> read("please put the red block on the blue plate").describe()
    'put the red block on the blue plate'
    """
    return load_reader().read(text)


def asks_to_stop(text: str) -> bool:
    """Whether a text begins with a stop word, or says in other words that everything is to stop.

    >>> asks_to_stop("stop, the other one"), asks_to_stop("could you stop?"), asks_to_stop("when it is done stop")
    (True, True, False)
    """
    return stop_word(text) or (mentions_stop(text) and read(text[:MAX_CHARS]).asks_to_stop)
