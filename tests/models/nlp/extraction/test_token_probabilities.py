"""What a network says of tokens: its own mentions, and the probabilities of mentions that rules propose."""

import numpy as np
import pytest

from lineside_models.nlp.extraction.spans import Mention, TokenProbabilities
from lineside_models.nlp.extraction.windows import TokenWindow

TEXT = "MR. D.I.Y. (M) SDN BHD LOT 1"
WORDS = [(0, 3), (4, 10), (11, 14), (15, 18), (19, 22), (23, 26), (27, 28)]


def window(first: int, last: int) -> TokenWindow:
    offsets = np.array(WORDS[first:last], np.int64)
    return TokenWindow(np.zeros(len(offsets) + 2, np.int64), offsets)


def logits(*tags: tuple[float, float, float]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Returns the logits of one type with these probabilities, between the tokens that begin and end an input."""
    inner = np.log(np.array(tags))[:, None]
    return np.concatenate([np.zeros((1, 1, 3)), inner, np.zeros((1, 1, 3))])


def test_a_proposed_mention_has_the_probabilities_of_its_tokens_and_edges() -> None:
    out, begin, inside = (0.9, 0.05, 0.05), (0.1, 0.8, 0.1), (0.2, 0.1, 0.7)
    weak = (0.6, 0.3, 0.1)
    # The first window ends within the name; the second one sees it whole, and is unsure where it begins.
    seen = TokenProbabilities(
        [window(0, 3), window(0, 7)],
        [logits(begin, inside, inside), logits(weak, weak, inside, inside, inside, out, out)],
        ("company",),
    )

    (own, shorter) = seen.mentions(TEXT)
    assert [TEXT[one.start : one.end] for one in (own, shorter)] == ["MR. D.I.Y. (M)", "(M) SDN BHD"]

    whole = seen.scored(Mention("company", 0, 22, score=0.0, ruled=True))
    assert whole.ruled
    assert whole.score == pytest.approx((0.4 + 0.4 + 3 * 0.8) / 5)
    assert whole.weakest == pytest.approx(0.4)
    assert whole.begins == pytest.approx(0.3)
    assert whole.outside == pytest.approx(0.95)  # "LOT" goes on with it with 0.05
    cut = seen.scored(Mention("company", 11, 18, score=0.0))
    assert cut.outside == pytest.approx(0.3)  # "BHD" would go on with it
    assert seen.scored(Mention("company", 0, 10, score=0.0)).score == pytest.approx(0.85)  # of the surer window
    nowhere = TokenProbabilities([window(0, 3)], [logits(begin, inside, inside)], ("company",))
    assert nowhere.scored(Mention("company", 15, 22, score=0.9)).score == 0.0
