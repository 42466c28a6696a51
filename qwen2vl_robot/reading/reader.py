"""A sentence in any language → a Goal, read in the one that leaves the fewest letters unread."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

from qwen2vl_robot.languages import Language, load_languages, normalise
from qwen2vl_robot.reading.arranging import leave_out
from qwen2vl_robot.reading.changes import Reading
from qwen2vl_robot.reading.clauses import drop_asking, find_mood, split_clauses, take_conditions
from qwen2vl_robot.reading.goal import HANDLING, Deed, Goal, Mood, Step
from qwen2vl_robot.reading.letters import MAX_CHARS, Word, split_words
from qwen2vl_robot.reading.lexicon import Lexicon
from qwen2vl_robot.reading.questions import QuestionForms
from qwen2vl_robot.reading.roles import settle_roles
from qwen2vl_robot.reading.settling import settle_bare, settle_tags
from qwen2vl_robot.reading.steps import read_clause
from qwen2vl_robot.reading.stopping import load_stop_words, mentions_stop, stop_word
from qwen2vl_robot.reading.talk import drop_talk
from qwen2vl_robot.reading.tokens import Token, spell

_ENOUGH = 3  # languages that are read to the end, of those whose words cover a text alike
_ASKING = "?？؟"  # with one of them "the ball has to go in the bowl" is a question
_URGING = "!！"  # with one of them "the ball in the bowl" is an order
_URGE = Token("", "", frozenset({"urge", "filler"}))  # what such a mark is among the words
_ELSE = ("i", "not", "ask", "did", "if", "if after", "manner")  # more than "before you go home"
_HANDLING = (*HANDLING, Deed.OTHER)


@dataclass(frozen=True, slots=True)
class _Draft:
    """The tokens of a text in one language, without its small talk."""

    lexicon: Lexicon
    code: str
    tokens: list[Token]
    talk: list[Token]

    @property
    def unread(self) -> int:
        """Letters that no form covers."""
        return sum(len(token.text) for token in self.tokens if not token.tags)


class Reader:
    """The lexicons of some languages; the sentence templates of their files are not used."""

    def __init__(self, languages: Mapping[str, Language]) -> None:
        self._lexicons = {code: Lexicon(language) for code, language in languages.items()}
        marked = {code: language for code, language in languages.items() if language.reading.bare}
        self._bare = {code: Lexicon(language, is_bare=True) for code, language in marked.items()}
        self._languages, self._questions = languages, dict[str, QuestionForms]()

    def read(self, text: str) -> Goal:
        """Read a text; one that says nothing, or is longer than 500 characters, gives a goal without steps."""
        if len(normalise(text[: 4 * MAX_CHARS])) > MAX_CHARS:
            return Goal(unread=(text[:MAX_CHARS],), folded=("",))
        words = split_words(text)
        has_mark = any(mark in text for mark in _ASKING)
        is_urged = not has_mark and any(mark in text for mark in _URGING)
        drafts = [self._draft(code, words) for code in self._lexicons]
        if not any(draft.unread == 0 for draft in drafts) and all(word.text.isascii() for word in words):
            drafts += [self._draft(code, words, is_bare=True) for code in self._bare]
        fewest = sorted(drafts, key=lambda draft: draft.unread)
        alike = [draft for draft in fewest if draft.unread == fewest[0].unread]
        goals = [
            (self._read_in(draft, has_mark=has_mark, is_urged=is_urged), len(draft.tokens)) for draft in alike[:_ENOUGH]
        ]
        goal = max(goals, key=lambda goal: _fitness(*goal), default=(Goal(), 0))[0]
        is_order = goal.mood is Mood.ORDER and goal.is_understood
        return goal if is_order else self._as_question(goal, words)

    def _as_question(self, goal: Goal, words: list[Word]) -> Goal:
        """The goal, or the question that the words ask and nothing else, first in the language of the goal."""
        for code in sorted(self._lexicons, key=lambda code: code != goal.language):
            if code not in self._questions:  # most sentences are orders and need none
                self._questions[code] = QuestionForms(self._languages[code], self._lexicons[code])
            question = self._questions[code].read(words)
            if question is not None:
                return Goal(Mood.QUESTION, language=code, question=question)
        return goal

    def _draft(self, code: str, words: list[Word], *, is_bare: bool = False) -> _Draft:
        lexicon = self._bare[code] if is_bare else self._lexicons[code]
        tokens = lexicon.tokens(words)
        tokens = settle_tags(settle_bare(tokens, lexicon) if is_bare else tokens, lexicon)
        tokens, talk = drop_talk(settle_roles(tokens, lexicon), lexicon)
        return _Draft(lexicon, code, tokens, talk)

    def _read_in(self, draft: _Draft, *, has_mark: bool, is_urged: bool) -> Goal:
        lexicon, talk = draft.lexicon, draft.talk
        tokens = leave_out(drop_asking(draft.tokens), lexicon.kinds | {"thing"})
        rest, conditions = take_conditions(tokens, lexicon)
        if is_urged and not any(token.verbs for token in rest):
            rest.append(_URGE)
        is_asked = any(token.has("ask") or (token.has("asked") and has_mark) for token in tokens)
        mood = Mood.QUESTION if is_asked else find_mood(rest)
        if any(token.has("suppose") for group in conditions for token in group):
            mood = Mood.HYPOTHETICAL if mood is Mood.ORDER else mood
        has_verb = any(token.verbs for token in rest)
        if not has_verb and any(token.verbs or token.has("did") for group in conditions for token in group):
            mood = Mood.HYPOTHETICAL if mood is not Mood.QUESTION else mood  # "if you push it, it falls"
        reading = Reading()
        for clause in split_clauses(rest, lexicon):
            read_clause(clause, lexicon, reading, has_mark=has_mark)
        conditions = _go_home_behind(conditions, reading, lexicon)
        if any(thing is not None and thing.is_it for s in reading.steps for thing in (s.thing, s.reference)):
            reading.unread += talk  # "There is a knife. Pick it up."
            rest = [*talk, *rest]
        left = {id(token) for token in reading.unread}
        unread = [t for t in rest if id(t) in left and t.spelling and (mood is Mood.ORDER or not t.tags)]
        return _goal(mood, reading, conditions, unread, draft.code)


def _go_home_behind(conditions: list[list[Token]], reading: Reading, lexicon: Lexicon) -> list[list[Token]]:
    """Add what comes behind the order ("before you go home, put the ball in the bowl"); the other conditions."""
    if not reading.steps or any(step.is_negated for step in reading.steps):
        return conditions
    homes = [group for group in conditions if _is_before_home(group, lexicon)]
    reading.steps += [Step(Deed.HOME) for _ in homes]
    return [group for group in conditions if group not in homes]


def _is_before_home(group: list[Token], lexicon: Lexicon) -> bool:
    """Whether a condition says "before you go home", and nothing else."""
    words = [token for token in group if not token.has("before")]
    if not (group[0].has("before") or group[-1].has("before")) or any(token.has(*_ELSE) for token in words):
        return False
    first = Reading()
    for clause in split_clauses(words, lexicon):
        read_clause(clause, lexicon, first)
    return first.steps == [Step(Deed.HOME)] and not first.unread


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


@functools.lru_cache(maxsize=1)
def load_reader() -> Reader:
    """The reader of every language of sim/languages."""
    return Reader(load_languages())


def load_words() -> None:
    """Load all that reading needs; otherwise the first sentence, which may be a stop, waits seconds for it."""
    load_stop_words()
    load_reader()


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
