"""Words that values of a type usually have, by which words that text recognition misread are mended."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lineside_models.nlp.normalization.values import name_key

ALIKE = ("o0dqcgu", "il1tjf!|:", "b8630rh", "s5", "mnhkru", "ceoa", "vyg", "z27", "prkx", "wv", "gq9y", "6g", "4a")
"""Groups of characters that text recognition takes for each other. Written for readings of receipts of SROIE's train
fold."""

KEY_MIN = 3
"""Letters and digits from which a word is compared by them alone, without its punctuation."""

_WORD = re.compile(r"\w(?:[^\s,;]*\w)?")
_MISTAKEN = {(one, other) for group in ALIKE for one in group for other in group if one != other}


class Lexicon:
    """Mends words with one misread character.

    A word is mended if it is none of the lexicon, and differs from exactly one of them in one character that looks like
    the other (`ALIKE`). More than that did harm: with any character, one word of three that changed had been right.
    """

    def __init__(self, words: Iterable[str]) -> None:
        """Reads the words; case does not count."""
        self._by_length: dict[int, dict[str, str]] = {}
        for word in words:
            key = _key(word)
            self._by_length.setdefault(len(key), {})[key] = word.lower()

    def mend(self, text: str) -> str:
        """Returns a text with its misread words mended."""
        return _WORD.sub(lambda found: self._mended(found[0]), text)

    def _mended(self, word: str) -> str:
        key = _key(word)
        known = self._by_length.get(len(key), {})
        letters, signs = (sum(map(counts, key)) for counts in (str.isalpha, str.isalnum))
        if key in known or 2 * letters < signs:
            return word
        alike = [spelled for one, spelled in known.items() if _misread(key, one)]
        if len(alike) != 1:
            return word
        return alike[0].upper() if word.upper() == word else alike[0].title() if word[0].isupper() else alike[0]


def _key(word: str) -> str:
    key = name_key(word)
    return key if len(key) >= KEY_MIN else word.lower()


def _misread(read: str, word: str) -> bool:
    """Returns whether two words of one length differ in one character alone, and these two look alike."""
    differing = [pair for pair in zip(read, word, strict=True) if pair[0] != pair[1]]
    return len(differing) == 1 and differing[0] in _MISTAKEN
