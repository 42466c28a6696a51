"""A reply so far + earlier replies → a draft of what comes next, checked in one forward pass.

Replies differ in labels and coordinates and in little else, so what followed the same shape before will probably follow
again. A wrong draft costs a few tokens of computation and does not change the reply.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

MAX_DRAFT_TOKENS = 24
_REMEMBERED = 6
_LABEL, _COORDINATE = -1, -2


class Drafts:
    """Remembers the shapes of the last replies.

    Args:
        texts: the text of each token of the vocabulary.
        examples: token ids of replies to start with.
    """

    def __init__(self, texts: list[str], examples: Iterable[list[int]] = ()) -> None:
        self._texts = texts
        self._replies: deque[tuple[list[int], list[int]]] = deque(maxlen=_REMEMBERED)
        for example in examples:
            self.remember(example)

    def remember(self, reply: list[int]) -> None:
        """Store a finished reply; it replaces an earlier one of the same shape."""
        shape = self._shape(reply)
        for old in [entry for entry in self._replies if entry[0] == shape]:
            self._replies.remove(old)
        self._replies.append((shape, reply))

    def propose(self, prompt: list[int], reply: list[int]) -> list[int]:
        """Draft the tokens that may come next, up to the next one that cannot be predicted."""
        shape = self._shape(reply)
        word = self._next_word(prompt, reply) if shape and shape[-1] == _LABEL else []
        whole = [*shape, *([_LABEL] * len(word))]
        for known, tokens in reversed(self._replies):
            if known[: len(whole)] == whole:
                return [*word, *self._until_unknown(known[len(whole) :], tokens[len(whole) :])][:MAX_DRAFT_TOKENS]
        return word

    def _until_unknown(self, shape: list[int], tokens: list[int]) -> list[int]:
        end = next((i for i, key in enumerate(shape) if key in (_LABEL, _COORDINATE)), len(shape))
        return tokens[:end]

    def _next_word(self, prompt: list[int], reply: list[int]) -> list[int]:
        """Look up the word after the label's last word in the prompt: most labels repeat the person's words."""
        said = self._texts[reply[-1]].strip()
        places = [i for i, token in enumerate(prompt[:-1]) if self._texts[token].strip() == said]
        return [prompt[places[-1] + 1]] if places and said.isalpha() else []

    def _shape(self, tokens: list[int]) -> list[int]:
        """Replace the tokens of labels and coordinates by their kinds and keep all others."""
        shape: list[int] = []
        text, is_label = "", False
        for token in tokens:
            word = self._texts[token]
            is_label = is_label and '"' not in word
            is_inside_box = text.endswith(("[", ",")) or (shape[-1:] == [_COORDINATE])
            shape.append(_LABEL if is_label else _COORDINATE if word.isdigit() and is_inside_box else token)
            text += word
            is_label = is_label or text.endswith('"label":"')
        return shape
