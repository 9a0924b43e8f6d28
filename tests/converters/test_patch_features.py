"""The shipped features are what this release's maker would write."""

from __future__ import annotations

import pytest

from lineside_models import zoo
from lineside_models.anomaly.names import HEAD_FILE, OUTPUTS_FILE, SEARCH_FILE
from lineside_models.golden import replay
from lineside_runtime.bundle import open_bundle
from lineside_runtime.config import Config
from lineside_runtime.session import Session

pytestmark = pytest.mark.torch


def test_the_shipped_pieces_fit_one_another_and_this_release() -> None:
    pytest.importorskip("torch")
    from lineside_converters.bundles.patch_features import VARIANT, head_piece, search_piece

    bundle = open_bundle(zoo.path("patch-features"))
    assert bundle.file(SEARCH_FILE).read_bytes() == search_piece()
    assert bundle.file(HEAD_FILE).read_bytes() == head_piece()
    ending = bundle.file(OUTPUTS_FILE).read_bytes()
    model = bundle.file(VARIANT.file).read_bytes()
    assert model.endswith(ending)
    assert len(model) < 5_000_000
    with Session(bundle, Config(engines=("ort",), threads=1)) as session:
        assert min(replay(session, bundle).cosine.values()) > 0.99
