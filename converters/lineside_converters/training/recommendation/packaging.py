"""From a trained recommender to its bundle: INT8 network within its gates, INT8 tables, model card and report."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from lineside_converters.gates.baseline import LEAST_SHARE
from lineside_converters.levels import level_options
from lineside_converters.optimizer import Optimizer
from lineside_converters.training.recommendation.objective import HeldChoices
from lineside_models.golden import RankingRequest, record_ranking
from lineside_models.networks.din import BIAS, CANDIDATES, HISTORY, SCORES
from lineside_models.recommendation.metrics import user_auc
from lineside_models.recommendation.tables import write_tables
from lineside_runtime.bundle import MANIFEST_NAME, Bundle, Rows, open_bundle, time_now, write_manifest
from lineside_runtime.bundle.install import check_target, install_bundle, staging_folder
from lineside_runtime.config import Config
from lineside_runtime.errors import AccuracyGateError, ParityGateError, SpeedGateError
from lineside_runtime.progress import TextListener
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array

log = logging.getLogger("lineside.training")

Run = Callable[[Mapping[str, Array]], dict[str, Array]]
Tables = Mapping[str, npt.NDArray[Any]]

MAX_DROP = 0.001
"""Of GAUC by INT8."""

LEAST_GAUC = 0.5 + LEAST_SHARE * 0.5
"""Of the baseline gate: a ranking without knowledge has 0.5. A bundle below it needs ``push --below-baseline``."""

CALIBRATION_USERS = 64
JUDGE_USERS = 1000
FLOAT_SLOWDOWN = 1000.0
"""Of the cleaned float network, which nothing could stand in for: its calls of 0.3 ms are timed, and not judged."""

_GOLDEN_ITEMS = 50

_CARD = """\
# {name}

Ranks items for a history of items. Trained on {choices} choices of {users} users among {items} items, which
{attributes} attributes describe.

- It learns what was chosen after what. It knows no reasons, prices or stock.
- An item that nobody has chosen is ranked by its attributes alone.
- Who shows its recommendations only, and trains on what is then chosen, teaches it its own taste: show some others
  (`exploration`), whose propensity is logged.
"""


def write_recommender(
    onnx: Path,
    tables: Tables,
    held: HeldChoices,
    out: Path,
    *,
    name: str,
    version: str,
    history_max: int,
    facts: Mapping[str, Any],
    previous: Bundle | None = None,
    overwrite: bool = False,
    on_progress: TextListener | None = None,
) -> Bundle:
    """Quantize the network within its gates, and write the bundle; a network whose INT8 form fails one stays float.

    Args:
        onnx: ``float.onnx`` of the run.
        held: Choices to calibrate and to judge on.
        history_max: Items of the longest history.
        facts: ``training.json``.
        previous: Bundle of the same network with older tables: all but the tables is taken from it, unmeasured.
        overwrite: Whether a bundle at ``out`` is replaced.
        on_progress: Told in words what is done.

    Raises:
        InputError: Something stands at ``out``.
    """
    check_target(out, overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="lineside-recommender-") as scratch, staging_folder(out) as folder:
        if previous is None:
            options = {
                "frames": (feeds := feeds_of(tables, held, history_max))[:CALIBRATION_USERS],
                "metric": _metric(feeds[:JUDGE_USERS]),
                "max_drop": MAX_DROP,
                "min_speedup": 1,
                "name": name,
                "card": _card(name, facts),
                "training": {"architecture": facts["architecture"], "held_gauc": facts["held_gauc"]},
                "out": Path(scratch) / "network",
                "on_progress": on_progress,
            }
            previous = _optimized(onnx, options)
        shutil.copytree(previous.path, folder, dirs_exist_ok=True)
        rows = Rows(tables=write_tables(folder, tables), history_max=history_max)
        preprocess = msgspec.structs.replace(previous.manifest.preprocess, rows=rows)
        (folder / MANIFEST_NAME).unlink()
        manifest = msgspec.structs.replace(
            previous.manifest, name=name, version=version, created_at=time_now(), preprocess=preprocess, golden=None
        )
        with Session(write_manifest(folder, manifest), Config(engines=("ort",), threads=1)) as session:
            golden = record_ranking(session, folder, _golden_request(tables))
        write_manifest(folder, msgspec.structs.replace(manifest, golden=golden))
        open_bundle(folder)
        install_bundle(folder, out)
    return open_bundle(out, verify=False)


def _golden_request(tables: Tables) -> RankingRequest:
    """Returns some items to rank for some others, evenly spread."""
    ids = [item.decode() for item in tables["items"][:: max(1, len(tables["items"]) // _GOLDEN_ITEMS)]]
    return RankingRequest(history=tuple(ids[:5]), candidates=tuple(ids))


def _metric(feeds: Sequence[Mapping[str, Array]]) -> Callable[[Run], Sequence[float]]:
    """Returns a measure for the optimizer: the AUC of each user."""

    def metric(run: Run) -> Sequence[float]:
        scores = np.concatenate([run(feed)[SCORES] for feed in feeds])
        return [float(each) for each in user_auc(scores[:, 0], scores[:, 1:])]

    return metric


def _optimized(onnx: Path, options: dict[str, Any]) -> Bundle:
    try:
        return Optimizer(onnx, "cpu", 1, min_metric=LEAST_GAUC, **options).run().bundle
    except (AccuracyGateError, ParityGateError, SpeedGateError) as error:
        log.warning("the network stays float: %s", error)
    level = dataclasses.replace(level_options(0), max_slowdown=FLOAT_SLOWDOWN)
    try:
        return Optimizer(onnx, "cpu", level, min_metric=LEAST_GAUC, **options).run().bundle
    except AccuracyGateError as error:
        log.warning("the baseline gate is not passed: %s", error)
        return Optimizer(onnx, "cpu", level, **options).run().bundle


def feeds_of(tables: Tables, held: HeldChoices, history_max: int) -> list[dict[str, Array]]:
    """Returns the network's inputs for held choices."""
    empty = len(tables["item_vectors"]) - 1
    feeds = []
    for history, candidates in zip(held.histories, held.candidates, strict=True):
        past = history[history >= 0][-history_max:]
        before, _ = vectors_of(tables, past if len(past) else np.array([empty]))
        vectors, bias = vectors_of(tables, candidates)
        feeds.append({HISTORY: before[None], CANDIDATES: vectors[None], BIAS: bias[None]})
    return feeds


def vectors_of(tables: Tables, rows: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Returns float vectors ``(n, features)`` and biases ``(n,)`` of items."""
    numbers = tables["item_attributes"][rows]
    given = (numbers > 0)[..., None].astype(np.float32)
    described = (tables["attribute_vectors"][numbers] * given).sum(1) / np.maximum(given.sum(1), 1)
    vectors = np.concatenate([tables["item_vectors"][rows], described], 1)
    return vectors.astype(np.float32), tables["item_bias"][rows].astype(np.float32)


def _card(name: str, facts: Mapping[str, Any]) -> str:
    found = facts["interactions"]
    return _CARD.format(
        name=name,
        choices=found["train_choices"],
        users=found["users"],
        items=found["items"],
        attributes=found["attributes"],
    )
