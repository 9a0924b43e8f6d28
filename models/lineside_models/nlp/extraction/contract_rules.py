"""Contracts by rules: patterns of titles, companies, quoted aliases, dates and laws in the first pages.

They serve where there is no model, and as the baseline that a model is compared with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from lineside_models.nlp.extraction.relations import Pair, Place
from lineside_models.nlp.extraction.spans import Mention
from lineside_models.nlp.normalization.dates import DATE
from lineside_models.nlp.normalization.legal_terms import SHIPPED, LegalTerms
from lineside_models.nlp.normalization.values import name_key

BEGINNING = 3600
"""Characters of the first pages."""

SCORE = 0.5
"""Of everything that rules find: nothing is known of how sure they are."""

CLAUSE = 500
"""Characters around a phrase of the governing law."""

_CALLED = r"(?:AGREEMENT|Agreement|CONTRACT|Contract|LICENSE)"
_TITLE = re.compile(  # neither beyond the empty line below it, nor with "This" of the first sentence
    rf"((?:(?!(?:This|THIS)\b|{_CALLED}\s*?\n\s*?\n)[A-Z][A-Za-z&,\-']*\s+){{0,8}}{_CALLED})\b"
)
_FORMS = r"(?:Inc|Incorporated|Corp|Corporation|LLC|L\.L\.C|Ltd|Limited|LP|L\.P|PLC|plc|GmbH|S\.A|N\.V|B\.V|Company|Co"
_FORMS += r"|Bank|Trust|LLP|AG|KGaA|University|Pte)\.?"
COMPANY = re.compile(rf"((?:[A-Z0-9][\w&.'’\-]*,?\s+){{1,7}}{_FORMS})(?!\w)")
"""The name of a company."""

_ALIAS = re.compile(
    r"\(\s*(?:the\s+|hereinafter[^\"“(]{0,40}|collectively,?\s+|together[^\"“(]{0,40}|each[^\"“(]{0,30}|herein[^\"“(]{0,30})?"
    r"[\"“]\s*([^\"”“]{2,45}?)\s*,?[\"”]"
)
_LAW = re.compile(r"govern(?:ed|ing)\b[^.]{0,120}\blaws?\b|governing law|construed in accordance", re.IGNORECASE)
_EFFECTIVE = re.compile("effective", re.IGNORECASE)
_NO_ALIAS = {"party", "parties", "agreement", "effectivedate", "thisagreement"}


def contract_mentions(text: str, terms: LegalTerms | None = None) -> list[Mention]:
    """Returns the rules' findings in a contract.

    Args:
        terms: Of laws; the shipped dictionary if ``None``.
    """
    pages = text[:BEGINNING]
    found = [_mention("title", match, 1) for match in _first(_TITLE, pages)]
    found += [_mention("party", match, 1) for match in COMPANY.finditer(pages)]
    found += [_mention("alias", match, 1) for match in _ALIAS.finditer(pages) if name_key(match[1]) not in _NO_ALIAS]
    dates = list(DATE.finditer(pages))
    found += [_mention("agreement_date", match, 0) for match in dates[:1]]
    for match in dates:
        if _EFFECTIVE.search(pages, max(0, match.start() - 90), match.end() + 60):
            found.append(_mention("effective_date", match, 0))
            break
    found += _laws(text, terms or LegalTerms.open(SHIPPED))
    return found


def contract_pairs(heads: Iterable[Place], tails: Iterable[Place]) -> list[Pair]:
    """Returns each alias with the party that stands shortly before it."""
    heads = sorted(heads, key=lambda one: one.start)
    found = []
    for tail in tails:
        before = [one for one in heads if one.end <= tail.start + 1 and tail.start - one.end < 700]
        if before and before[-1].key != tail.key:
            found.append(Pair(before[-1], tail, SCORE))
    return found


def _laws(text: str, terms: LegalTerms) -> list[Mention]:
    for match in _LAW.finditer(text):
        proposals = terms.propose(text, max(0, match.start() - 100), match.start() + CLAUSE)
        laws = sorted((start, end) for kind, start, end in proposals if kind == "governing_law" and end > match.start())
        if laws:
            return [Mention("governing_law", *laws[0], score=SCORE, weakest=SCORE)]
    return []


def _first(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    found = pattern.search(text)
    return [found] if found is not None else []


def _mention(type_name: str, match: re.Match[str], group: int) -> Mention:
    return Mention(type_name, match.start(group), match.end(group), SCORE, SCORE)


RULES: Mapping[str, Callable[[str, LegalTerms | None], list[Mention]]] = {"contract": contract_mentions}
"""Rules by the name of the schema."""
