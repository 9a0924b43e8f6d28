"""The last layer of the recognition network, apart from it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lineside_models import zoo
from lineside_models.anomaly.onnx_tail import with_weights
from lineside_models.nlp.ocr.character_head import CharacterHead, read_head
from lineside_models.nlp.ocr.networks import HEAD_FILE
from lineside_runtime.bundle import open_bundle
from lineside_runtime.errors import BundleFormatError

CHARACTERS = "a\nb\n中\n7"


def test_the_best_path_and_its_probabilities() -> None:
    rng = np.random.default_rng(3)
    weights, bias = rng.normal(size=(5, 6)).astype(np.float32), rng.normal(size=6).astype(np.float32)
    places = 200
    features = rng.normal(size=(places, 5)).astype(np.float32) * 2
    whole = np.exp(features @ weights + bias)
    whole /= whole.sum(axis=1, keepdims=True)

    head = CharacterHead(weights, bias, CHARACTERS)
    found = head.characters(features)

    names = ["", "a", "b", "中", "7", " "]
    read = whole.copy()
    read[:, 3] = 0  # not of a script that is read, but it counts in the others' probabilities
    best = read.argmax(axis=1)
    wanted = [at for at in range(places) if best[at] and (at == 0 or best[at] != best[at - 1])]
    assert [(name, at) for name, at, _ in found] == [(names[best[at]], at) for at in wanted]
    np.testing.assert_allclose([score for *_, score in found], [whole[at, best[at]] for at in wanted], atol=1e-6)
    assert len(wanted) > 40
    assert head.characters(features[:0]) == []


def test_what_a_bundle_holds() -> None:
    content = open_bundle(zoo.path("text-lines")).file(HEAD_FILE).read_bytes()
    read_head(content)
    few: dict[str, npt.NDArray[Any]] = {"weights": np.ones((2, 3), np.int8), "bias": np.ones(3, np.float32)}
    none = with_weights(b"", few)
    few |= {"scales": np.ones(3, np.float32), "characters": np.full(7, 10, np.uint8)}
    for damaged in (content[:1000], b"no arrays", none, with_weights(b"", few)):
        with pytest.raises(BundleFormatError):
            read_head(damaged)
