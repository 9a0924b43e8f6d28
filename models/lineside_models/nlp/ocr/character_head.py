"""The last layer of PP-OCR's recognition network, run apart from it.

The layer scores 18,710 characters at each place of a line, most of them Chinese. Inside the network it takes 9 MB of
weights twice and 75 kB of outputs a place, 30 MB for a long line. Here the characters that are read are scored first,
and all others, which their probabilities count too, only at places where a character begins.
"""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import numpy.typing as npt

from lineside_models.anomaly.onnx_tail import bytes_field, message_fields, number_field, read_tensor, with_output
from lineside_runtime.errors import UnsupportedModelError

# Numbers of fields: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_OUTPUT = 1, 5, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR = 1, 2, 4
_TENSOR_NAME, _VALUE_NAME = 8, 1
_KEY, _VALUE = 1, 2

_CHARACTERS = "character"
"""Key of the metadata: one character a line, without the blank of CTC, which is the first output."""

_SCRIPTS = ("LATIN", "GREEK", "CYRILLIC")
"""Scripts whose letters are read; the network knows Chinese and Japanese characters besides."""

_PLACES = 32
"""Places whose probabilities are taken at once: 2.4 MB."""

Floats = npt.NDArray[np.float32]

Fields = list[tuple[int, Any]]
"""Numbers and contents."""


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


def cut_head(model: bytes) -> tuple[bytes, CharacterHead]:
    """Divides a recognition network into what stands before its last layer, as an ONNX file, and that layer.

    Raises:
        UnsupportedModelError: It does not end with a product, a sum and a softmax, or names no characters.
    """
    fields = list(message_fields(memoryview(model)))
    graph = next((value for number, value in fields if number == _MODEL_GRAPH), b"")
    metadata = dict(_entry(value) for number, value in fields if number == _MODEL_METADATA)
    parts = list(message_fields(graph))
    tail = _Tail(parts)
    if _CHARACTERS not in metadata:
        raise UnsupportedModelError("a network for text recognition", expected=f"metadata {_CHARACTERS!r}")
    kept = [(number, value) for number, value in parts if number != _GRAPH_OUTPUT and not tail.holds(number, value)]
    rest = [(number, value) for number, value in fields if number != _MODEL_GRAPH]
    body = with_output(_written(rest) + bytes_field(_MODEL_GRAPH, _written(kept)), tail.features, ("N", "T", "D"))
    return body, CharacterHead(tail.weights, tail.bias, metadata[_CHARACTERS])


class _Tail:
    """The nodes and weights behind the features."""

    def __init__(self, parts: Fields) -> None:
        outputs = [_texts(value, _VALUE_NAME)[0] for number, value in parts if number == _GRAPH_OUTPUT]
        self._makers = {_texts(value, _NODE_OUTPUT)[0]: value for number, value in parts if number == _GRAPH_NODE}
        tensors = {_texts(value, _TENSOR_NAME)[0]: value for number, value in parts if number == _GRAPH_INITIALIZER}
        self._outputs: set[str] = set()
        (scores,) = self._inputs(outputs[0] if outputs else "", "Softmax") or ("",)
        summands = self._inputs(scores, "Add")
        product = next((one for one in summands if one not in tensors), "")
        bias = next((one for one in summands if one in tensors), "")
        factors = self._inputs(product, "MatMul")
        if not bias or len(factors) != 2 or factors[1] not in tensors:
            raise UnsupportedModelError(
                "a network for text recognition",
                expected="a product, a sum and a softmax at its end",
                actual="other operators",
                action="Install the version of rapidocr that lineside names.",
            )
        self.features = factors[0]
        self.weights, self.bias = (np.asarray(read_tensor(tensors[one]), np.float32) for one in (factors[1], bias))
        self._tensors = {factors[1], bias}

    def _inputs(self, name: str, operator: str) -> list[str]:
        """Returns the inputs of the operator that makes a value; none if another one makes it."""
        while name in self._makers:
            kind = _texts(self._makers[name], _NODE_OPERATOR)[0]
            inputs = _texts(self._makers[name], _NODE_INPUT)
            self._outputs.add(name)
            if kind == operator:
                return inputs
            if kind != "Identity":
                break
            name = inputs[0]
        return []

    def holds(self, number: int, value: Any) -> bool:
        """Whether a field of the graph belongs to the tail."""
        if number == _GRAPH_NODE:
            return _texts(value, _NODE_OUTPUT)[0] in self._outputs
        return number == _GRAPH_INITIALIZER and _texts(value, _TENSOR_NAME)[0] in self._tensors


def _texts(message: Any, wanted: int) -> list[str]:
    found = [bytes(value).decode() for number, value in message_fields(message) if number == wanted]
    return found or [""]


def _entry(message: Any) -> tuple[str, str]:
    return _texts(message, _KEY)[0], _texts(message, _VALUE)[0]


def _written(fields: Fields) -> bytes:
    return b"".join(number_field(*one) if isinstance(one[1], int) else bytes_field(*one) for one in fields)
