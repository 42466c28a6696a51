"""Tokens of a sentence → its mood, its conditions, and its clauses: a verb with its words."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qwen2vl_robot.messages import Relation
from qwen2vl_robot.reading.goal import Mood
from qwen2vl_robot.reading.letters import END, PAUSE
from qwen2vl_robot.reading.lexicon import Lexicon
from qwen2vl_robot.reading.tokens import Token

_LINKS = ("and", "then", "but")
_RELATIONS = tuple(relation.value for relation in Relation)
_TELLING = ("place in", "place on", "push closer", "push away", "push", "place", "move", "pick", "home", "go", "wait")
_LIGHT = ("filler", "not", "ask", "i", "self", "the", "it", "be")  # what may stand between "and" and its verb


@dataclass(frozen=True, slots=True)
class Clause:
    """A verb with the tokens around it.

    Attributes:
        verb: its token, None in a sentence without one.
        is_part: whether others stand beside it, so that nothing of it may be left out in silence.
    """

    tokens: tuple[Token, ...]
    verb: Token | None = None
    is_negated: bool = False
    is_part: bool = False


def find_mood(tokens: list[Token]) -> Mood:
    """A question or a report anywhere in a text makes all of it one: no motion follows from either."""
    places = range(len(tokens))
    if any(t.has("ask") for t in tokens) or any(
        _asks_first(tokens, k) or _ends_in(tokens, k, "ask last") for k in places
    ):
        return Mood.QUESTION
    if any(t.has("suppose") for t in tokens):
        return Mood.HYPOTHETICAL
    has_verb = any(t.verbs for t in tokens)
    if any(t.has("did", "i") or _ends_in(tokens, k, "did last") for k, t in enumerate(tokens)):
        return Mood.REPORT
    return Mood.REPORT if not has_verb and any(t.has("be") for t in tokens) else Mood.ORDER


def drop_asking(tokens: list[Token]) -> list[Token]:
    """Leave out the word that only makes a wish of "you can" ("bạn có thể ... không?")."""
    if not any(token.has("can") for token in tokens):
        return tokens
    return [t for k, t in enumerate(tokens) if not _ends_in(tokens, k, "ask last")]


def _ends_in(tokens: list[Token], at: int, tag: str) -> bool:
    """Whether a token carries a tag and ends a sentence, but for small words."""
    return tokens[at].has(tag) and all(t.has("filler", "self") for t in tokens[at + 1 :])


def _asks_first(tokens: list[Token], at: int) -> bool:
    """Whether a token begins a question: it stands first, or behind a pause, but for small words."""
    if not tokens[at].has("ask first") or (tokens[at].has("that") and at > 0 and tokens[at - 1].has("all")):
        return False  # "alles, was rot ist"
    while at > 0 and tokens[at].gap < PAUSE and tokens[at - 1].has("filler", "correct", "self", *_LINKS):
        at -= 1
    return at == 0 or tokens[at].gap >= PAUSE


# -------------------------------------------------------------------------------------------- conditions


def take_conditions(tokens: list[Token], lexicon: Lexicon) -> tuple[list[Token], list[list[Token]]]:
    """Part the tokens from the conditions among them: "if ...", "tomorrow", "twice"."""
    taken = set[int]()
    groups: list[list[Token]] = []
    for at, token in enumerate(tokens):
        if at in taken or not token.has("if", "if after", "because", "because after", "manner"):
            continue
        begin, end = at, at + 1
        if token.has("if", "because"):
            end = _end_of_condition(tokens, at, lexicon)
        elif token.has("manner") and at > 0 and tokens[at - 1].has("number"):
            begin = at - 1  # "3 times"
        elif token.has("if after", "because after"):
            begin = _start_of_condition(tokens, at, taken)
        groups.append(tokens[begin:end])
        taken |= set(range(begin, end))
    return [t for k, t in enumerate(tokens) if k not in taken], groups


def _end_of_condition(tokens: list[Token], begin: int, lexicon: Lexicon) -> int:
    """A condition goes on to a pause, to "then", or to a verb that has no subject before it."""
    for at in range(begin + 1, len(tokens)):
        token, before = tokens[at], tokens[at - 1]
        has_subject = at == begin + 1 or before.has("i", "self", "the", "it", "filler", "not", "of", *lexicon.kinds)
        if (
            token.gap >= PAUSE
            or token.has("then")
            or (token.verbs and not has_subject and lexicon.grammar.verb != "last")
        ):
            return at
        if token.has("if after"):
            return at + 1
    return len(tokens)


def _start_of_condition(tokens: list[Token], at: int, taken: set[int]) -> int:
    while at > 0 and tokens[at].gap < PAUSE and at - 1 not in taken and not tokens[at - 1].has("then", "but"):
        at -= 1
    return at


# ----------------------------------------------------------------------------------------------- clauses


def split_clauses(tokens: list[Token], lexicon: Lexicon) -> list[Clause]:
    """Cut where a new verb's words begin; what stands before the first verb or behind the last belongs to it."""
    verbs = _verbs(tokens, lexicon)
    if not verbs:
        return [Clause(tuple(tokens), None, False)] if tokens else []
    inner = (_boundary(tokens, a, b, lexicon) for a, b in zip(verbs, verbs[1:], strict=False))
    bounds = [0, *(_before_correction(tokens, at) for at in inner), len(tokens)]
    pairs = zip(verbs, bounds, bounds[1:], strict=False)
    clauses = [Clause(tuple(tokens[a:b]), tokens[v]) for v, a, b in pairs]
    cut = [part for clause in clauses for part in _cut_head(clause, lexicon)]
    return _stop_others([*cut[:-1], *_cut_tail(cut[-1], lexicon)], lexicon)


def _verbs(tokens: list[Token], lexicon: Lexicon) -> list[int]:
    """Where the verbs stand; of two that say the same ("집어 들어"), and of "go" with another, one counts."""
    found: list[int] = []
    for at, token in enumerate(tokens):
        if not token.verbs or _is_noun(tokens, at, lexicon) or (token.has("want") and _is_said(tokens, at, lexicon)):
            continue
        if found and _is_light(tokens[found[-1] + 1 : at + 1], lexicon):
            earlier = tokens[found[-1]].verbs
            if earlier == token.verbs or earlier == ["go"]:
                found[-1] = at
                continue
            if token.verbs == ["go"]:
                continue
            if lexicon.grammar.spacing == "loose" and _is_compound(tokens[found[-1] : at + 1]):
                found[-1] = min(found[-1], at, key=lambda k: _rank(tokens[k]))  # "옮겨 담아" is one deed
                continue
        found.append(at)
    return found


def _is_compound(tokens: list[Token]) -> bool:
    """Whether two verbs, with nothing but an ending between, are one deed: "밀어 넣어"."""
    verbs = all(_rank(token) < len(_TELLING) for token in (tokens[0], tokens[-1]))
    return verbs and all(t.has("filler") and not t.has("then", "thing", "object", "to") for t in tokens[1:-1])


def _rank(token: Token) -> int:
    """Of two joined verbs the one with the lower rank says more."""
    return min((_TELLING.index(verb) for verb in token.verbs if verb in _TELLING), default=len(_TELLING))


def _is_said(tokens: list[Token], at: int, lexicon: Lexicon) -> bool:
    """Whether another verb says what is wished: "I want the block to be lifted" wishes for a deed, not for a state."""
    begin = end = at
    while end + 1 < len(tokens) and not _begins_order(tokens[end + 1]):
        end += 1
    while begin > 0 and lexicon.grammar.verb != "first" and tokens[begin].gap < END and not tokens[begin].has("then"):
        begin -= 1
    first = max(k for k in range(at, -1, -1) if k == 0 or tokens[k].gap >= END or tokens[k].has("then"))
    is_again = any(token.has("want") for token in tokens[first:at])
    return is_again or any(token.verbs and not token.has("want", "go") for token in tokens[begin : end + 1])


def _begins_order(token: Token) -> bool:
    """Whether what is ordered next begins: "the ring should be on the plate, put it there"."""
    return token.gap >= END or token.has("then") or (token.gap >= PAUSE and bool(token.verbs))


def _cut_head(clause: Clause, lexicon: Lexicon) -> list[Clause]:
    """ "クマはそのままで、アヒルを取って": words that negate end before a pause, where a verb ends what is said."""
    tokens = clause.tokens
    verb_at = next(k for k, token in enumerate(tokens) if token is clause.verb)
    then = next((k for k in range(verb_at, 0, -1) if tokens[k].has("then")), 0)
    named = [token for token in tokens[:then] if token.tags & lexicon.kinds]
    is_whole = len(named) > 1 and any(token.has("to", *_RELATIONS) for token in tokens[:then])
    if is_whole or any(token.has("start") for token in tokens[:then]):
        return [Clause(tokens[:then], is_part=True), replace(clause, tokens=tokens[then:])]  # "A onto B, then go home"
    if lexicon.grammar.verb != "last":
        return _cut_unwanted(clause, verb_at, lexicon)
    for at in range(1, verb_at if lexicon.grammar.verb == "last" else 0):
        if tokens[at].gap < PAUSE:
            continue
        head, rest = tokens[:at], tokens[at:verb_at]
        is_told = all(any(t.tags & (lexicon.kinds | {"thing"}) for t in part) for part in (head, rest))
        ends = next((t for t in reversed(head) if not t.has("filler", "object", "to") or t.has("not")), head[0])
        if is_told and ends.has("not") and not ends.has("correct", "except after"):
            return [Clause(head), replace(clause, tokens=tokens[at:])]
    return [clause]


def _cut_unwanted(clause: Clause, verb_at: int, lexicon: Lexicon) -> list[Clause]:
    """ "not the red ball, take the blue one": what is not wanted ends at a pause, if the verb has its own thing."""
    tokens, known = clause.tokens, lexicon.kinds | lexicon.colours | {"thing"}
    for at in range(1, verb_at + 1):
        head, rest = tokens[:at], tokens[at:]
        is_unwanted = tokens[at].gap >= PAUSE and head[0].has("not") and any(t.tags & known for t in head[1:])
        is_unwanted = is_unwanted and (head[1].gap < PAUSE or not head[0].has("correct"))  # "no, the blue one, ..."
        if (
            not is_unwanted
            or any(t.has("marks object", "to", *_RELATIONS) for t in head)
            or any(t.has("not", "rather") for t in rest)
        ):
            continue
        first = next((k for k, t in enumerate(rest) if t.tags & known), None)
        if first is not None and not any(t.has("toward", "case at") for t in rest[:first]):
            return [Clause(head), replace(clause, tokens=rest)]
    return [clause]


def _cut_tail(clause: Clause, lexicon: Lexicon) -> list[Clause]:
    """ "Push the green one. The red one: hands off!": a sentence that negates, behind the verb's, is a clause."""
    tokens = clause.tokens
    verb_at = next(k for k, token in enumerate(tokens) if token is clause.verb)
    known = lexicon.kinds | lexicon.colours | {"thing"}
    for at in range(verb_at + 1, len(tokens)):
        tail = tokens[at:]
        is_sentence = tokens[at].gap >= END and any(t.tags & known for t in tail)
        if is_sentence and any(t.has("not") for t in tail) and not any(t.has("correct", "except after") for t in tail):
            return [replace(clause, tokens=tokens[:at]), Clause(tail)]
    return [clause]


def _is_noun(tokens: list[Token], at: int, lexicon: Lexicon) -> bool:
    """Whether an article makes a noun of a verb: "the can"; in "cái màu hồng đó" it stands behind its thing."""
    before = tokens[at - 1] if at > 0 else None
    named = lexicon.kinds | lexicon.colours
    if lexicon.grammar.adjectives == "after" and at > 1 and not tokens[at - 1].gap and tokens[at - 2].tags & named:
        return False
    return before is not None and tokens[at].gap < PAUSE and before.has("the") and not before.has("it")


def _is_light(between: list[Token], lexicon: Lexicon) -> bool:
    """Whether nothing but small words, and no pause, stands before the last of the tokens."""
    inner = between[:-1]
    return all(t.gap < PAUSE for t in between) and all(t.has("filler", "of", "object", "to", "thing") for t in inner)


def _boundary(tokens: list[Token], first: int, second: int, lexicon: Lexicon) -> int:
    """Where the second verb's clause begins."""
    if lexicon.grammar.verb == "last":
        at = first + 1
        while at < second and not _begins_content(tokens[at]) and tokens[at].gap < PAUSE:
            at += 1
            if tokens[at - 1].has("and", "then"):
                break
        return at
    at = second
    while at - 1 > first and tokens[at - 1].has(*_LIGHT) and tokens[at].gap < PAUSE:
        at -= 1
    marks = range(first + 1, second)
    if tokens[at].gap >= PAUSE or tokens[at - 1].has(*_LINKS) or lexicon.grammar.verb == "first":
        return next((k for k in reversed(marks) if tokens[k].gap >= END), at)  # "Push it. The bear goes on the plate"
    strong = next((k for k in marks if tokens[k].has("then", "but", "marks object") or tokens[k].gap >= END), None)
    if strong is not None:
        return strong
    return next((k for k in marks if tokens[k].has("and") or tokens[k].gap >= PAUSE), at)


def _before_correction(tokens: list[Token], at: int) -> int:
    """Where "no" begins that takes back the clause before: "on the plate, oh no, put it in the bowl"."""
    begin = at
    while begin > 0 and tokens[begin - 1].has("correct", "filler"):
        begin -= 1
        if tokens[begin].gap >= PAUSE and any(token.has("correct") for token in tokens[begin:at]):
            return begin
    return at


def _begins_content(token: Token) -> bool:
    """Whether a token behind a verb is of the next one's words and not the verb's ending."""
    return not token.has("filler", "not", "did", "ask", "and", "then", "but", "be")


def _stop_others(clauses: list[Clause], lexicon: Lexicon) -> list[Clause]:
    """Mark the negated ones; "stop" beside a verb ("stop pushing", "押すのをやめて") negates that one."""
    marked: list[Clause] = []
    skip = False
    for at, clause in enumerate(clauses):
        if skip:
            skip = False
            continue
        other = clauses[at + 1] if at + 1 < len(clauses) else None
        if other is not None and _is_stopping(clause, other, lexicon):
            verb = other.verb if clause.verb and clause.verb.has("stop") else clause.verb
            tokens = (*clause.tokens, *other.tokens)
            joint = [t for t in tokens if t is verb or not t.tags & {"thing"} or t.tags & lexicon.colours]
            marked.append(Clause(tuple(joint), verb, True))
            skip = True
        else:
            marked.append(clause)
    return marked


def _is_stopping(first: Clause, second: Clause, lexicon: Lexicon) -> bool:
    is_joined = first.tokens[-1] is first.verb and second.tokens[0] is second.verb  # "그만 밀어"
    is_behind = lexicon.grammar.verb == "last" and not (is_joined and first.verb is not None and first.verb.has("stop"))
    stop, other = (second, first) if is_behind else (first, second)
    if not stop.verb or not stop.verb.has("stop") or not other.verb or other.verb.has("stop"):
        return False
    joint = [*first.tokens, *second.tokens]
    ends = [joint.index(v) for v in (first.verb, second.verb) if v is not None]
    between = joint[ends[0] + 1 : ends[1]]
    if stop.verb.has("cease"):  # "hör auf, den Block zu schieben"
        return not any(t.has(*_LINKS) for t in between)
    is_near = all(t.gap < PAUSE for t in joint[ends[0] + 1 : ends[1] + 1])
    return is_near and all(t.has("filler", "of", "object", "to", "thing", "the", "it", "not") for t in between)
