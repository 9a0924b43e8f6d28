"""The last layer of PP-OCR's recognition network, run apart from it.

The layer scores 18,710 characters at each place of a line, most of them Chinese. Inside the network it takes 9 MB of
weights twice and 75 kB of outputs a place, 30 MB for a long line. Here the characters that are read are scored first,
and all others, which their probabilities count too, only at places where a character begins.
"""

from __future__ import annotations

import unicodedata

import numpy as np
import numpy.typing as npt

from lineside_models.anomaly.onnx_tail import read_weights
from lineside_runtime.errors import BundleFormatError

_SCRIPTS = ("LATIN", "GREEK", "CYRILLIC")
"""Scripts whose letters are read; the network knows Chinese and Japanese characters besides."""

_PLACES = 32
"""Places whose probabilities are taken at once: 2.4 MB."""

Floats = npt.NDArray[np.float32]


class CharacterHead:
    """Features of places of a line to characters.

    Args:
        weights: ``(D, C)``.
        bias: ``(C,)``.
        characters: Of the outputs behind the first, one a line.
    """

    def __init__(self, weights: Floats, bias: Floats, characters: str) -> None:
        names = ["", *characters.split("\n")]
        names += [" "] * (names[-1] != " ")
        if not weights.shape[1:] == bias.shape == (len(names),):
            raise ValueError(f"{len(names)} characters for weights {weights.shape} and bias {bias.shape}")
        self._weights, self._bias = weights, bias
        self._read = np.array([number for number, name in enumerate(names) if number == 0 or _is_read(name)])
        self._read_weights, self._read_bias = weights[:, self._read], bias[self._read]
        self._names = [names[number] for number in self._read]

    def characters(self, features: Floats) -> list[tuple[str, int, float]]:
        """Returns the characters, the places where they begin, and their probabilities.

        The best path of CTC (Graves et al. 2006, section 3.2).

        Args:
            features: ``(T, D)``.
        """
        best = (features @ self._read_weights + self._read_bias).argmax(axis=1)
        begins = np.flatnonzero(np.concatenate(([True], best[1:] != best[:-1])) & (best > 0))
        scores = self._probabilities(features[begins], self._read[best[begins]])
        return [(self._names[best[at]], at, score) for at, score in zip(begins.tolist(), scores, strict=True)]

    def _probabilities(self, features: Floats, outputs: npt.NDArray[np.int64]) -> list[float]:
        found: list[float] = []
        for first in range(0, len(features), _PLACES):
            values = features[first : first + _PLACES] @ self._weights + self._bias
            values -= values.max(axis=1, keepdims=True)
            np.exp(values, out=values)
            rows = np.arange(len(values))
            found += (values[rows, outputs[first : first + _PLACES]] / values.sum(axis=1)).tolist()
        return found


def _is_read(name: str) -> bool:
    if len(name) != 1 or name == "\u3000":
        return False
    kind = unicodedata.category(name)
    if kind[0] == "L":
        return unicodedata.name(name, "").startswith((*_SCRIPTS, "FEMININE", "MASCULINE", "MICRO"))
    return name == " " or (ord(name) < 0x3000 and kind[0] in "NPS")


def read_head(content: bytes) -> CharacterHead:
    """Reads the layer as a bundle holds it.

    Args:
        content: Arrays as `lineside_models.anomaly.onnx_tail.with_weights` writes them: ``weights`` ``(D, C) int8`` and
            ``scales`` ``(C,)``, which they are multiplied with, ``bias`` ``(C,)``, and ``characters``, in UTF-8, one
            line for each output behind the first.

    Raises:
        BundleFormatError: It holds something else.
    """
    try:
        found = read_weights(content)
        characters = found["characters"].tobytes().decode()
        weights = found["weights"].astype(np.float32) * found["scales"]
        return CharacterHead(weights, found["bias"], characters)
    except (ValueError, KeyError, IndexError, StopIteration) as error:
        raise BundleFormatError(f"the last layer of a network for text recognition: {error!r}") from error
