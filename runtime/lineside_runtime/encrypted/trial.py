"""Measure an encrypted head on this machine, and compare every answer with the INT8 engine's sums."""

from __future__ import annotations

import statistics
import time

import msgspec
import numpy as np
import numpy.typing as npt

from lineside_runtime.encrypted.head import Ints, LinearHead
from lineside_runtime.encrypted.scheme import CipherHead, DeviceKeys


class HeadTrial(msgspec.Struct, frozen=True, kw_only=True):
    """Result of `try_head`.

    Attributes:
        equal: Answers whose every sum is that of the INT8 engine.
        encrypt_ms: Median processor time of the device, for one image.
        head_ms: Median processor time of the server.
        decrypt_ms: Median processor time of the device.
        up_bytes: Size of an encrypted query.
        down_bytes: Size of an answer.
        key_bytes: Size of the evaluation keys, which are sent once.
        noise_budget_bits: Least noise budget of all answers.
    """

    features: int
    classes: int
    sum_bits: int
    queries: int
    equal: int
    encrypt_ms: float
    head_ms: float
    head_p95_ms: float
    decrypt_ms: float
    up_bytes: int
    down_bytes: int
    key_bytes: int
    noise_budget_bits: int


def try_head(head: LinearHead, queries: int, *, features: npt.NDArray[np.integer] | None = None) -> HeadTrial:
    """Encrypts, computes and decrypts in this process.

    Args:
        features: ``(n, features)``, of which each query takes one in turn; random ones if not given.
    """
    described = head.description
    low, high = described.feature_range
    if features is None:
        features = np.random.default_rng(0).integers(low, high + 1, (queries, described.features))
    wanted = head.sums(features)
    served = CipherHead(head)
    keys = DeviceKeys(served.packing, described.sum_bits)
    read = served.read_keys(keys.evaluation_keys)
    times: dict[str, list[float]] = {"encrypt": [], "head": [], "decrypt": []}
    equal, budget, sizes = 0, 1 << 30, (0, 0)
    for number in range(queries):
        row = number % len(features)
        moments = [time.process_time()]
        query = keys.encrypt(features[row].astype(np.int64))
        moments.append(time.process_time())
        answer = served.apply(query, read)
        moments.append(time.process_time())
        sums, left = keys.decrypt(answer)
        moments.append(time.process_time())
        for name, began, ended in zip(times, moments, moments[1:], strict=False):
            times[name].append((ended - began) * 1e3)
        equal += _same(sums, wanted[row])
        budget, sizes = min(budget, left), (max(sizes[0], len(query)), max(sizes[1], len(answer)))
    return HeadTrial(
        features=described.features,
        classes=described.classes,
        sum_bits=described.sum_bits,
        queries=queries,
        equal=equal,
        encrypt_ms=statistics.median(times["encrypt"]),
        head_ms=statistics.median(times["head"]),
        head_p95_ms=float(np.percentile(times["head"], 95)),
        decrypt_ms=statistics.median(times["decrypt"]),
        up_bytes=sizes[0],
        down_bytes=sizes[1],
        key_bytes=len(keys.evaluation_keys),
        noise_budget_bits=budget,
    )


def _same(sums: Ints, wanted: Ints) -> int:
    return int(np.array_equal(sums, wanted))
