"""sim/rules/families.yaml + a text → the words of it that belong to a family of things, however they are spelled."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import Field

from qwen2vl_robot.config import Strict, load_yaml
from qwen2vl_robot.languages import load_languages
from qwen2vl_robot.reading.letters import split_words
from qwen2vl_robot.resources import resolve

_KATAKANA, _HIRAGANA = "\u30a1-\u30ff", "\u3041-\u309f"


class FamilyWords(Strict):
    """sim/rules/families.yaml, which explains its marks.

    Attributes:
        families: family → language → its words, parted by commas.
        endings, beginnings: language → what may be joined to a word.
        harmless: language → what only looks like a word of a family.
    """

    families: dict[str, dict[str, str]]
    endings: dict[str, str] = Field(default_factory=dict)
    beginnings: dict[str, str] = Field(default_factory=dict)
    harmless: dict[str, str] = Field(default_factory=dict)


def fold(text: str) -> str:
    """A text's words in one spelling, parted by spaces.

    >>> fold("Ｔｈｅ knіfe-shaped BLOCK!")
    'the knife shaped block'
    """
    return " ".join(word.text for word in split_words(text))


class Families:
    """Words of families of things in every language."""

    def __init__(self, words: FamilyWords) -> None:
        self._words = words
        self._letters = {
            code: {ord(pair[0]): pair[1:] for pair in language.reading.letters.split()}
            for code, language in load_languages().items()
        }
        self._joined = {code for code, speech in load_languages().items() if speech.reading.spacing == "none"}
        self._around = {
            code: tuple(
                "|".join(re.escape(self._fold_in(code, fold(part))) for part in table.get(code, "").split())
                for table in (words.beginnings, words.endings)
            )
            for code in self._letters
        }
        self._harmless = {code: self._any_phrase(code, forms) for code, forms in words.harmless.items()}
        self._found: dict[tuple[str, str], re.Pattern[str]] = {}
        for family, languages in words.families.items():
            for code, forms in languages.items():
                ways = {form: self._form(code, form) for form in _parted(forms)}
                phrases = [way for form, way in ways.items() if " " in form or code in self._joined]
                self._found[family, code] = _any_way(way for form, way in ways.items() if form[0] != "=")
                self._found[family, f"={code}"] = _any_way(ways.values())
                self._found[family, f"+{code}"] = _any_way(phrases)

    def __contains__(self, family: object) -> bool:
        return family in self._words.families

    def name(self, family: str, language: str) -> str:
        """How a language calls the first of a family; what is no family is called as it is."""
        words = self._words.families.get(family, {}).get(language, family)
        return words.split(",")[0].strip(" -=")

    def find(self, text: str, families: Iterable[str], language: str, *, phrases_only: bool = False) -> str | None:
        """The first word of a text that belongs to one of the families, folded; None when there is none.

        Args:
            families: names of families; others are passed over.
            language: code of the text's language; the words of the others count too, but for those that mean
                something harmless elsewhere.
            phrases_only: look for what is more than one word, or joined to others, in that language alone.
        """
        folded = fold(text)
        for family in families:
            for code in self._words.families.get(family, {}):
                if phrases_only and code != language:
                    continue
                bare = self._fold_in(code, folded)
                bare = self._harmless[code].sub(" ", bare) if code in self._harmless else bare
                mark = "+" if phrases_only else "=" if code == language else ""
                match = self._found[family, f"{mark}{code}"].search(bare)
                if match is not None:
                    return match[0]
        return None

    def suspects(self, text: str, unread: Iterable[str], language: str) -> list[str]:
        """The unread words of a text but for those that stand in a harmless phrase ("with your hand")."""
        harmless = self._harmless.get(language)
        if harmless is None:
            return list(unread)
        innocent = set(" ".join(harmless.findall(self._fold_in(language, fold(text)))).split())
        return [word for word in unread if self._fold_in(language, fold(word)) not in innocent]

    def _fold_in(self, code: str, folded: str) -> str:
        return folded.translate(self._letters[code])

    def _any_phrase(self, code: str, forms: str) -> re.Pattern[str]:
        bare = [re.escape(self._fold_in(code, fold(form))) for form in _parted(forms)]
        joint = "|".join(sorted(bare, key=len, reverse=True))
        return re.compile(joint if code in self._joined else rf"(?<!\w)(?:{joint})(?!\w)")

    def _form(self, code: str, form: str) -> str:
        """What finds one form, as a whole word with its beginnings and endings, or anywhere in a run of letters."""
        bare, is_part = self._fold_in(code, fold(form)), form.lstrip("=").startswith("-")
        if code in self._joined and (is_part or len(bare) > 1):
            return "".join((_edge(bare[0], "<"), re.escape(bare), _edge(bare[-1], "") if bare[-1] >= "\u30a1" else ""))
        before, after = self._around[code]
        first = r"\w*" if is_part else f"(?:{before})?"
        return rf"(?<!\w){first}{re.escape(bare)}(?:{after})?(?!\w)"


def _any_way(ways: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(sorted(ways, key=len, reverse=True)) or r"(?!)")


def _edge(char: str, side: str) -> str:
    """What must not stand beside a word of kana: more of the same, which would make it another word."""
    script = next((s for s in (_KATAKANA, _HIRAGANA) if re.match(f"[{s}]", char)), "")
    return f"(?{side}![{script}])" if script else ""


def _parted(forms: str) -> Iterator[str]:
    return (form.strip() for form in forms.split(",") if form.strip())


@functools.lru_cache(maxsize=4)
def load_families(path: str | Path = "rules/families.yaml") -> Families:
    """Load the families of things.

    Raises:
        BadInputError: the file is missing or wrong.
    """
    return Families(load_yaml(resolve(str(path)), FamilyWords))
