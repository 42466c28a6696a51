"""Tokens → the same, each word of several meanings with the one that its neighbours leave it."""

from __future__ import annotations

from dataclasses import replace

from qwen2vl_robot.languages import MADE
from qwen2vl_robot.reading.letters import END, PAUSE
from qwen2vl_robot.reading.lexicon import Lexicon
from qwen2vl_robot.reading.ranks import settle_rank
from qwen2vl_robot.reading.things import number_of
from qwen2vl_robot.reading.tokens import Token, is_verb

_ASKING = frozenset({"ask", "ask first", "ask last", "not", "did", "be", "suppose"})
_ALIVE = ("duck", "bear")
_SIDES = frozenset({"behind", "in_front_of"})
_EXACT = ("on", "in", "in_front_of", "behind", "next_to")


def settle_tags(tokens: list[Token], lexicon: Lexicon) -> list[Token]:
    """Decide by its neighbours what a word of several meanings is: "noch" behind "weder" is "nor"."""
    settled = list[Token]()
    has_first = False
    tokens = _settle_due(_settle_seen(tokens, lexicon))
    for at, token in enumerate(tokens):
        has_first = (has_first and token.gap < END) or token.has("neither")
        before, follows = settled[-1] if settled else None, tokens[at + 1] if at + 1 < len(tokens) else None
        tags = settle_rank(tokens, at, lexicon)
        if has_first and "nor" in tags:
            tags = (tags - {"filler"}) | {"not", "and"}
        if token.verbs and lexicon.grammar.articles and before is not None and before.has("own") and not token.gap:
            tags = frozenset(tag for tag in tags if not is_verb(tag))  # "with your hand" and "hand me the ball"
        if {"if", "in_front_of"} <= tags:
            tags -= {"in_front_of"} if _begins_deed(tokens, at) else {"if", "before"}  # "before the plate"
        if "1" in tags and before and follows and before.verbs and before.text == follows.text:
            tags = frozenset({"filler"})  # "推一推"
        if "then" in tags and tags & _SIDES:  # "놓은 뒤" and "접시 뒤"
            tags = frozenset({"then"}) if before is not None and before.verbs else tags - {"then"}
        if "still" in tags and _is_awaited(tokens, at):
            tags = frozenset({"filler"})  # "そのまま30秒待って" and "皿はそのままで"
        if {"not", "then"} <= tags:  # "掴まず" and "まず、掴んで"
            tags -= {"then"} if before is not None and before.verbs and not token.gap else {"not"}
        if {"not", "from"} <= tags or {"not", "case at"} <= tags:  # "khỏi lấy" and "lấy khỏi"
            tags -= {"from", "case at"} if follows is not None and follows.verbs else {"not"}
        if {"filler", "to"} <= tags and "go" not in tags:  # "đặt xuống đĩa" and "đặt xuống"
            tags -= {"filler"} if _begins_thing(follows, lexicon) else {"to"}
        if {"filler", "ask"} <= tags:  # "Nào, đi nào" and "khối nào"
            is_lone = before is None and follows is not None and follows.gap >= PAUSE
            is_last = (follows is None or follows.gap == PAUSE) and before and (before.verbs or before.has("filler"))
            tags = frozenset({"filler"}) if is_lone or is_last else tags - {"filler"}
        if {"filler", "right"} <= tags and follows is not None and not follows.gap and follows.verbs:
            tags -= {"right"}  # "phải đặt"
        if {"filler", "right"} <= tags:  # "Right, push the ball" and "push the ball right"
            is_lone = before is None and follows is not None and follows.gap >= PAUSE
            is_exact = follows is not None and not follows.gap and follows.has(*_EXACT)  # "right behind the bowl"
            tags = tags - {"right"} if is_lone or is_exact else tags - {"filler"}
        if {"filler", "ask first"} <= tags:  # "Tell me, could you ...?" and "Tell me where it is"
            is_lone = follows is None or follows.gap >= PAUSE or follows.has("name", "own")
            tags -= {"ask first"} if is_lone else {"filler"}
        tags = _settle_retake(tags, settled, tokens[at : at + 2], lexicon)
        tags = _settle_denial(tags, settled, tokens[at : at + 2], lexicon)
        if token.verbs and tags & lexicon.superlatives and _is_indefinite(follows, lexicon):
            tags = frozenset(tag for tag in tags if not is_verb(tag))  # "أبعد شيء" and "أبعد الشيء"
        if {"filler", "it", "thing"} <= tags:  # "那个，拿球" and "拿那个"
            is_lone = before is None and follows is not None and follows.gap >= PAUSE
            tags = frozenset({"filler"}) if is_lone else tags - {"filler"}
        tags = _settle_going(tags, settled, tokens[at:])
        if {"the", "it"} <= tags and token.before == "-" and before is not None and before.verbs:
            tags -= {"the"}  # "repousse-la plus loin" is not about "la plus loin"
        tags = _settle_small(tags, settled, tokens[at : at + 3], lexicon)
        if {"second", "then"} <= tags:  # "first take it, second ..." and "for a second"
            is_then = follows is not None and follows.verbs and not (before and number_of(before))
            tags = frozenset({"then"}) if is_then else tags - {"then"}
        if "light" in tags and _is_back(settled, tokens[at : at + 1], ("place", "push", "move")) and settled[-1].verbs:
            tags = frozenset({"filler"})  # "넣어 버려" says only that it is done for good
        settled.append(token if tags is token.tags else replace(token, tags=tags))
    return _join_given(settled)


def _settle_retake(tags: frozenset[str], settled: list[Token], ahead: list[Token], lexicon: Lexicon) -> frozenset[str]:
    """Settle a word that may take back what was said, or end what is forbidden: "아니다", "بل", "别拿了"."""
    token, before, follows = ahead[0], settled[-1] if settled else None, ahead[1] if len(ahead) > 1 else None
    if "urge last" in tags:  # "집으라고" and "집으라고 하면", "chờ đã" and "đã chờ"
        return frozenset({"filler"}) if follows is None and before is not None else tags - {"urge last"}
    if "suppose" in tags and token.verbs and _begins_thing(follows, lexicon):
        return tags - {"suppose"}  # "laisse tomber" and "laisse tomber la balle dans le bol"
    if {"did", "over"} <= tags and follows is not None and follows.gap >= PAUSE and _is_forbidden(settled):
        return frozenset({"filler"})  # "别拿罐子了" and "我拿了罐子"
    is_parted = token.gap >= PAUSE and before is not None
    if {"suppose", "correct"} <= tags and is_parted:
        return tags - {"suppose"}
    if {"rather", "correct"} <= tags:
        return tags - ({"rather"} if is_parted and before is not None and before.has("correct") else {"correct"})
    if "or" in tags and is_parted and before is not None and before.has("correct"):
        return frozenset({"filler"})  # "不，还是放碗里"
    if {"filler", "in"} <= tags and lexicon.grammar.spacing == "strict":  # "بالوعاء" and "بالملقط"
        is_hollow = follows is not None and follows.has("bowl", "cup") and follows.has("defined")
        return frozenset({"in"} if is_hollow else {"filler"})
    return tags


def _settle_denial(tags: frozenset[str], settled: list[Token], ahead: list[Token], lexicon: Lexicon) -> frozenset[str]:
    """Settle a word that may deny a verb, or only a thing, or take back what was said."""
    token, before, follows = ahead[0], settled[-1] if settled else None, ahead[1] if len(ahead) > 1 else None
    if {"not", "except"} <= tags and follows is not None and follows.verbs and not follows.gap:
        tags -= {"except", "correct"}  # "ولا تدفع"
    if "not" in tags and before and follows and before.verbs and before.text == follows.text:
        tags = frozenset({"ask"})  # "放不放?"
    if "except after" in tags and token.gap >= PAUSE and _ends_in_verb(settled):
        tags = frozenset({"correct"})  # "取って、じゃなくて、押して"
    if "except after" in tags and lexicon.grammar.verb == "last" and before is not None and before.verbs:
        tags = (tags - {"except after", "correct"}) | {"if after"}  # "집는 대신 기다려"
    return tags


def _settle_going(tags: frozenset[str], settled: list[Token], ahead: list[Token]) -> frozenset[str]:
    """Settle a word that could be "go", or say where to: "allez", "zurück", "back"."""
    before, follows = settled[-1] if settled else None, ahead[1] if len(ahead) > 1 else None
    if {"filler", "go"} <= tags and before is None and follows is not None and follows.gap >= PAUSE:
        tags -= {"go"}  # "Allez, prends la balle"
    if {"filler", "go"} <= tags and before is not None and (follows is None or follows.gap >= PAUSE):
        tags -= {"go"}  # "kệ nó đi"
    if {"filler", "go"} <= tags and _is_back(settled, ahead, ("place", "push", "move")):
        tags = tags - {"go", "filler"} or frozenset({"filler"})  # "leg sie zurück auf den Teller"
    if {"filler", "away"} <= tags:  # "put it back on the plate" and "push it back"
        is_placed = follows is not None and not follows.gap and follows.has("to", *_EXACT)
        is_placed = is_placed and _is_back(settled, ahead, ("place",))
        tags = frozenset({"filler"}) if is_placed else tags - {"filler"}
    return tags


def settle_bare(tokens: list[Token], lexicon: Lexicon) -> list[Token]:
    """Give a word that lost its marks the meaning that its place leaves it; one that might forbid, forbids."""
    pairs = (pair.split("=") for pair in lexicon.grammar.bare.split(", "))
    chosen = {
        word: [frozenset(tag.replace("+", " ") for tag in tags.split()) for tags in told.split("|")]
        for word, told in pairs
    }
    settled = list[Token]()
    for at, token in enumerate(tokens):
        before, follows = settled[-1] if settled else None, tokens[at + 1] if at + 1 < len(tokens) else None
        if token.text in chosen:
            is_behind = before is not None and not token.gap and bool(before.tags & (lexicon.kinds | {"thing"}))
            tags = chosen[token.text][0 if is_behind else 1]
            coming = frozenset() if follows is None else chosen.get(follows.text, [follows.tags])[-1]
            if token.has("not") and any(is_verb(tag) for tag in coming):
                tags = frozenset({"not"})
            if token.has("wait") and follows is not None and number_of(follows):
                tags = frozenset({"wait"})
            token = replace(token, tags=tags)
        settled.append(token)
    return settled


def _ends_in_verb(settled: list[Token]) -> bool:
    """Whether the last word of weight is a verb: "取って"."""
    return next((bool(token.verbs) for token in reversed(settled) if not token.has("filler")), False)


def _begins_deed(tokens: list[Token], at: int) -> bool:
    """Whether what stands behind a word, before any pause or link, does something and is no thing alone."""
    for token in tokens[at + 1 :]:
        if token.gap >= PAUSE or token.has("and", "then", "but"):
            return False
        if token.verbs or token.has("i", "start", "did") or _is_made(token):
            return True
    return False


def _is_awaited(tokens: list[Token], at: int) -> bool:
    """Whether the next verb, before any pause, is to wait."""
    end = next((k for k in range(at + 1, len(tokens)) if tokens[k].gap >= PAUSE), len(tokens))
    return next((token.has("wait") for token in tokens[at + 1 : end] if token.verbs), False)


def _settle_small(tags: frozenset[str], settled: list[Token], ahead: list[Token], lexicon: Lexicon) -> frozenset[str]:
    """Settle a word that has a second meaning in some places only: "or", a topic's particle, the formal "Sie"."""
    token, behind = ahead[0], ahead[1:]
    before, follows = settled[-1] if settled else None, behind[0] if behind else None
    gap, is_capital = token.gap, token.spelling.istitle()
    if "or" in tags:  # "don't push or lift it" and "on the plate or the bowl"
        tags = frozenset({"and"} if _is_forbidden(settled) else ())
    if "topic" in tags:  # "红球呢，放在碗里"
        is_topic = before is not None and follows is not None and (follows.gap == PAUSE or bool(follows.verbs))
        tags = frozenset({"filler"}) if is_topic else tags - {"topic"}
    if "whom" in tags:  # "coge al pato"
        is_whom = before is not None and before.verbs and any(t.has(*_ALIVE) for t in behind)
        tags = frozenset({"filler"}) if is_whom else tags - {"whom"}
    if "you" in tags:  # "legen Sie den Ball hin" and "legen sie hin"
        is_asked = before is not None and bool(before.verbs) and _begins_thing(follows, lexicon)
        is_first = before is None or gap >= PAUSE
        if is_first and follows is not None and not follows.gap and follows.verbs and follows.text.endswith("t"):
            return frozenset({"i"})  # "Sie legt den Ball hin"
        is_formal = before is not None and not gap and (before.verbs or before.has("filler")) and is_capital
        if is_asked or is_formal:
            return frozenset({"filler"})
        is_hers = (
            before is not None
            and bool(before.verbs)
            and before.text.endswith("t")
            and not gap
            and _has_thing(settled, lexicon)
        )
        tags = frozenset({"i"}) if is_hers else tags - {"you"}  # "den Ball hebt sie auf"
    return tags


def _has_thing(before: list[Token], lexicon: Lexicon) -> bool:
    """Whether a thing stands between the last pause and here."""
    for token in reversed(before):
        if token.tags & lexicon.kinds:
            return True
        if token.gap:
            return False
    return False


def _settle_due(tokens: list[Token]) -> list[Token]:
    """ "the block should be placed", "it would be great if you took it": behind what is due, participles are orders."""
    last = next((k for k in range(len(tokens) - 1, -1, -1) if tokens[k].has("wished")), 0)
    settled = list[Token]()
    is_due = False
    for at, token in enumerate(tokens):
        is_due = is_due and token.gap < END and not token.has("i")
        made = frozenset(tag.removeprefix(MADE) for tag in token.tags if tag.startswith(MADE))
        tags = frozenset(tag for tag in token.tags if not tag.startswith(MADE))
        if "due first" in tags:
            tags = frozenset({"due"}) if _is_wished_first(tokens, at) else tags - {"due first"}
        if made:
            tags = (tags - {"did"}) | made if is_due or tags & made else tags | {"did"}
        if "aux" in tags:
            tags = (tags - {"did", "suppose", "aux"}) | {"filler"} if is_due else tags - {"aux"}
        if is_due and tags & {"go", "state"}:  # "the duck should go, or sit, next to the bear"
            tags = (tags - {"go", "be", "not"}) | {"want"}
        tags -= {"state", "want"} if "so" in tags else {"state"}
        if "if" in tags and at < last:
            tags = frozenset({"want"})  # "要是球在碗里就好了"
        if {"due", "if"} <= tags:  # "once you've put it down, go home" begins with what is done first
            is_first = (at == 0 or token.gap >= END) and _is_done_first(tokens, at)
            tags -= {"if"} if is_first else {"due"}
        if "may" in tags:
            tags = frozenset({"due"}) if _may_go(tokens, at) else tags - {"may"}
        if tags & {"due", "want"}:
            is_due = True
            tags = tags | {"filler"} if "due" in tags else tags
        settled.append(token if tags == token.tags else replace(token, tags=tags))
    return settled


def _is_wished_first(tokens: list[Token], at: int) -> bool:
    """Whether "que la balle soit ..." says what should be: a thing's article follows, and then such a verb."""
    is_first = tokens[at].gap >= PAUSE or all(token.has("filler", "name") for token in tokens[:at])
    end = next((k for k in range(at + 1, len(tokens)) if tokens[k].gap >= PAUSE), len(tokens))
    has_the = at + 1 < end and tokens[at + 1].has("the")
    return is_first and has_the and any(token.has("state") for token in tokens[at + 1 : end])


def _is_done_first(tokens: list[Token], at: int) -> bool:
    """Whether a deed of the robot's is said before the next pause: not so in "once you have a ball, ..."."""
    end = next((k for k in range(at + 1, len(tokens)) if tokens[k].gap >= PAUSE), len(tokens))
    return any(token.verbs or _is_made(token) for token in tokens[at + 1 : end])


def _may_go(tokens: list[Token], at: int) -> bool:
    """Whether "could" begins a sentence that says where something could go: "could the ring go on the plate?"."""
    end = next((k for k in range(at + 1, len(tokens)) if tokens[k].gap >= END), len(tokens))
    verb = next((token for token in tokens[at + 1 : end] if token.verbs or _is_made(token)), None)
    return verb is not None and (verb.has("go") or _is_made(verb))


def _is_made(token: Token) -> bool:
    return any(tag.startswith(MADE) for tag in token.tags)


def _settle_seen(tokens: list[Token], lexicon: Lexicon) -> list[Token]:
    """ "Do you see the cup? Pick it up": the first sentence only names what the second is about."""
    at = next((k for k, token in enumerate(tokens) if token.has("see")), None)
    end = next((k for k in range(1, len(tokens)) if tokens[k].gap >= END), len(tokens))
    first, rest = tokens[:end], tokens[end:]
    known = lexicon.kinds | lexicon.colours | {"thing", "it"}
    is_about = next((t.has("it") for t in rest if t.tags & known or t.verbs), False) or _begins_with_it(rest, known)
    is_seen = at is not None and at < end and is_about and not any(t.verbs and not t.has("see") for t in first)
    small = _ASKING | {"see"}
    if is_seen:
        first = [replace(t, tags=frozenset({"filler"})) if t.tags & small and not t.tags & known else t for t in first]
        return [*first, *rest]
    return [replace(t, tags=t.tags - {"see"}) if t.has("see") else t for t in tokens]


def _begins_with_it(tokens: list[Token], known: frozenset[str] | set[str]) -> bool:
    """Whether a sentence orders something, and names no other thing than "it"."""
    named = [token for token in tokens if token.tags & known]
    return any(token.verbs for token in tokens) and all(token.has("it") for token in named[:1])


def _is_forbidden(tokens: list[Token]) -> bool:
    """Whether the sentence so far forbids."""
    for at in range(len(tokens) - 1, -1, -1):
        if tokens[at].has("not") and not tokens[at].has("correct"):
            return True
        if tokens[at].gap >= END:
            return False
    return False


def _begins_thing(token: Token | None, lexicon: Lexicon) -> bool:
    known = lexicon.kinds | lexicon.colours | lexicon.superlatives | {"the", "thing", "all"}
    return token is not None and token.gap < PAUSE and bool(token.tags & known) and not token.has(*_EXACT)


def _is_back(before: list[Token], rest: list[Token], deeds: tuple[str, ...]) -> bool:
    """Whether "back" belongs to a verb of putting before it, and does not say that the robot goes home."""
    for token in rest[1:]:
        if token.gap >= PAUSE or token.verbs:
            break
        if token.has("start"):
            return False
    for at in range(len(before) - 1, -1, -1):
        follows = before[at + 1] if at + 1 < len(before) else rest[0]
        if follows.gap >= PAUSE or before[at].has("then", "and"):
            return False
        if before[at].verbs:
            return any(verb.startswith(deeds) for verb in before[at].verbs)
    return False


def _join_given(tokens: list[Token]) -> list[Token]:
    """ "give it a push" is "push it"."""
    joined = list(tokens)
    for at, token in enumerate(tokens):
        has_article = at > 0 and tokens[at - 1].has("the", "1", "filler")
        if not token.has("given") or not (has_article or token.tags == {"given"}):
            continue
        give = next((k for k in range(at - 1, -1, -1) if tokens[k].has("give")), None)
        if give is not None:
            joined[give] = replace(tokens[give], tags=frozenset({"push"}))
            has_to = at + 1 < len(tokens) and tokens[at + 1].has("to") and _is_small(tokens[give + 1 : at])
            end = at + 1 + has_to
            begin = at - has_article
            joined[begin:end] = [replace(t, tags=frozenset({"filler"})) for t in tokens[begin:end]]
    return [t if t.tags - {"give", "given"} else replace(t, tags=frozenset()) for t in joined]


def _is_small(tokens: list[Token]) -> bool:
    """Whether nothing but an article stands here: "give a push to the block" says behind it what is pushed."""
    return all(token.has("the", "1", "it", "filler") for token in tokens)


def _is_indefinite(token: Token | None, lexicon: Lexicon) -> bool:
    return token is not None and token.has("thing", *lexicon.kinds) and not token.has("defined")
