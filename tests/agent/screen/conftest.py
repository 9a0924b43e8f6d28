"""Fixtures of the operator screen's tests."""

from __future__ import annotations

import numpy as np
import pytest

from lineside_models.anomaly.learning import LearningOptions, learn
from lineside_models.anomaly.packaging import write_bundle
from lineside_models.frame import Frame
from lineside_models.simulator import render
from lineside_runtime.bundle import Bundle, open_bundle


@pytest.fixture(scope="session")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that has learned from few good parts."""
    out = tmp_path_factory.mktemp("learnt") / "strips"
    frames = (Frame(image=np.asarray(render("steel", seed, defects=0).image)) for seed in range(10))
    write_bundle(learn(frames, LearningOptions(bank_bytes=32_000)), out, name="strips", source="the simulator")
    return open_bundle(out)
