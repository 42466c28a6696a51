"""Tokenizer, embeddings and the languages' words → both extended by missing words.

Old tokens stay unchanged. Each new token starts with the embedding of the English word that it means, so that the model
transfers what it knows about "red block" to "bloque rojo" before it sees a Spanish sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration

from qwen2vl_robot.languages import ENGLISH, Language
from qwen2vl_robot.planner.contract import COMPACT_SYSTEM_PROMPT
from qwen2vl_robot.training.questions import REASONS

# English words that replies need besides the catalogue's, each with a known word of similar meaning.
_NEW_ENGLISH = {
    "where": "place", "kind": "object", "reference": "object", "all": "object", "one": "object", "ones": "objects",
    "nearest": "near", "farthest": "away", "leftmost": "left", "rightmost": "right", "largest": "top",
    "smallest": "down", "that": "the", "is": "are", **dict.fromkeys(REASONS, "collision"),
}  # fmt: skip
_NOISE = 0.01  # separates words of the same meaning


def grow(
    tokenizer: PreTrainedTokenizerFast, model: Qwen2VLForConditionalGeneration, languages: dict[str, Language]
) -> int:
    """Append every word that the languages name and the tokenizer lacks; in a text the longest match wins.

    Returns:
        The number of new tokens.
    """
    words = list(_missing(tokenizer, languages))
    tokenizer.add_tokens([token for token, _ in words])
    old = int(model.model.language_model.embed_tokens.weight.shape[0])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    rows = model.model.language_model.embed_tokens.weight
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for token, like in words:
            index = tokenizer.convert_tokens_to_ids(token.content)
            if index < old:
                continue  # already a piece of longer words; it keeps its row
            ids = [i for text in like for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
            noise = torch.randn(rows.shape[1], generator=generator) * _NOISE
            rows[index] = rows[torch.tensor(ids)].mean(dim=0) + noise
    return len(tokenizer) - old


def _missing(
    tokenizer: PreTrainedTokenizerFast, languages: dict[str, Language]
) -> Iterator[tuple[AddedToken, list[str]]]:
    """Yield each new token with the texts whose embeddings it starts from, English first.

    A word of English sentences or replies keeps its English tokens, even if it means something else elsewhere.
    """
    english = languages[ENGLISH]

    def is_known(text: str) -> bool:
        return len(tokenizer.tokenize(text)) == 1

    like = {word: [near] for word, near in _NEW_ENGLISH.items()}
    for table in (english.colours, english.kinds):
        known = [word for word in table if is_known(f" {word}")]
        like |= {word: known for word in table if word not in known}
    for word, near in like.items():
        # The model has to write these words: one token after a space, one after a quotation mark.
        for space, is_whole in ((" ", False), ("", True)):
            if not is_known(space + word):
                content = AddedToken(space + word, normalized=False, single_word=is_whole)
                yield content, [space + n for n in near]
    taken, done = {*_english_words(english), *like}, set()
    for code, language in languages.items():
        for word, meaning in language.lexicon() if code != ENGLISH else ():
            for form in (word, word[:1].upper() + word[1:], word.lower()):
                if form and form not in done and form not in taken and not is_known(f" {form}"):
                    done.add(form)
                    token = AddedToken(form, normalized=False, single_word=not language.joined, lstrip=True)
                    yield token, [f" {meaning}"]


def _english_words(english: Language) -> Iterator[str]:
    """Yield the words of English sentences, also with a capital letter; and of the nouns' phrases."""
    asked = [t for phrasing in english.tasks.values() for t in (*phrasing.seen, *phrasing.held_out)]
    for text in [COMPACT_SYSTEM_PROMPT, english.refuse, *english.which.values(), *asked]:
        for word in re.findall(r"[A-Za-z]+", text):
            yield from (word, word.capitalize())
    for noun in (n for nouns in english.kinds.values() for n in nouns):
        yield from re.findall(r"[a-z]+", noun.the)
