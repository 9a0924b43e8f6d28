"""A round of federated training: its signed description, and the whole numbers in which updates are summed.

A round has two sums by secure aggregation:

1. *exponents*: for each tensor, how many plants need which power of two so that their change fits. The largest one is
   the step size that all plants share. The accuracy on the held-out shares is added up with it.
2. *update*: the changes of all tensors as whole numbers of that step size. Their sum is exact.
"""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from lineside_hub.federation.differential_privacy import WORD_BITS, PrivacySettings
from lineside_link.aggregation.messages import largest_value
from lineside_link.messages import BundleRef
from lineside_runtime.bundle import FileEntry
from lineside_runtime.decoding import JsonDecoder
from lineside_runtime.errors import AggregationError, BundleFormatError, ConfigError, TrainingError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Weights = dict[str, Floats]
"""Tensors of a network by name."""

GROUP = "training"
"""Group of the repository whose key signs rounds."""

WEIGHTS_NAME = "weights.npz"
EXPONENT_MIN, EXPONENT_MAX = -40, 7
_CELLS = EXPONENT_MAX - EXPONENT_MIN + 1
SCORE_UNIT = 1000
"""Parts of an accuracy of 1."""

_STATISTICS = (".running_mean", ".running_var")
"""Endings of tensors that no gradient moves."""

_VALUE_MIN = 1024
"""Largest number of a plant, at least: 11 bits with the sign."""


class FederationSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all plants of a federated training agree on.

    Attributes:
        kind: Kind of model, as in ``lineside train KIND``.
        labels: Types, in the order of the network's outputs.
        shared: Tensors that are averaged, in the order of the vector. The others stay as they are at each plant.
        outer_rate: Factor on the mean change of the plants; 1 for their plain average (FedAvg).
        outer_momentum: Nesterov momentum of the mean change, as in DiLoCo (arXiv:2311.08105); 0 for none.
        privacy: Bound and noise of a plant's change; ``None`` without differential privacy. With it batch norms stay
            local, and no plant tells its accuracy.
    """

    kind: Literal["detector"] = "detector"
    settings: dict[str, Any]
    labels: tuple[str, ...]
    shared: tuple[str, ...]
    rounds: Annotated[int, msgspec.Meta(ge=1, le=100_000)]
    steps: Annotated[int, msgspec.Meta(ge=1)]
    outer_rate: Annotated[float, msgspec.Meta(gt=0, le=2)] = 1.0
    outer_momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    privacy: PrivacySettings | None = None

    def __post_init__(self) -> None:
        if self.privacy is not None and any(name.endswith(_STATISTICS) for name in self.shared):
            raise ConfigError(
                "a private training that shares statistics of batch norms",
                expected="batch norms that stay at each plant",
                action="Add --local-norms to lineside federate init.",
            )


class TrainingRound(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A round, as the repository signs it.

    Attributes:
        number: From 1. The one after the last is the result, which is not trained further.
        attempt: From 1; more if a round was given up.
        plants: Public key of each plant, by its name.
        files: The weights.
    """

    schema: Literal[1] = 1
    number: Annotated[int, msgspec.Meta(ge=1)]
    attempt: Annotated[int, msgspec.Meta(ge=1)]
    federation: FederationSettings
    plants: dict[str, str]
    files: dict[str, FileEntry]

    @property
    def size_bytes(self) -> int:
        """Size of the weights."""
        return sum(entry.size for entry in self.files.values())

    @property
    def is_result(self) -> bool:
        """Whether the training is over."""
        return self.number > self.federation.rounds


class TrainingQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What is summed, as it stands in the plan of a sum.

    Attributes:
        round: sha256 of the signed `TrainingRound`.
        exponents: Of an update: step size 2^e of each shared tensor.
    """

    kind: Literal["exponents", "update"]
    round: str
    exponents: tuple[Annotated[int, msgspec.Meta(ge=EXPONENT_MIN, le=EXPONENT_MAX)], ...] = ()

    @property
    def text(self) -> str:
        """As it stands in the plan."""
        return msgspec.json.encode(self).decode()


class TrainingEnd(msgspec.Struct, frozen=True, kw_only=True):
    """What ``pool/training`` carries after a training.

    Attributes:
        ended_root: sha256 of ``root.json`` of the training that is over: the next one of a pool has another.
        rounds: How many it had.
    """

    ended_root: str
    rounds: int


_ANNOUNCEMENT = JsonDecoder(BundleRef)
_END = JsonDecoder(TrainingEnd)
_QUESTION = JsonDecoder(TrainingQuestion)
_ROUND = JsonDecoder(TrainingRound)


def read_announcement(data: bytes) -> BundleRef | TrainingEnd:
    """Reads what ``pool/training`` carries: target and sha256 of the present round, or that there is none any more.

    Raises:
        msgspec.DecodeError: It is neither.
    """
    with contextlib.suppress(msgspec.DecodeError):
        return _END.decode(data)
    return _ANNOUNCEMENT.decode(data)


def read_question(text: str) -> TrainingQuestion:
    """Reads a question.

    Raises:
        ConfigError: It is none that this release answers.
    """
    try:
        return _QUESTION.decode(text.encode())
    except msgspec.DecodeError as error:
        raise ConfigError(f"a question of another release: {error}", action="Update this plant.") from error


def read_round(data: bytes) -> TrainingRound:
    """Reads a signed round.

    Raises:
        BundleFormatError: It is none that this release knows.
    """
    try:
        found = _ROUND.decode(data)
    except msgspec.DecodeError as error:
        raise BundleFormatError(f"a training round: {error}", action="Update this plant.") from error
    if set(found.files) != {WEIGHTS_NAME}:
        raise BundleFormatError(
            "files of a training round", expected=WEIGHTS_NAME, actual=sorted(found.files), action="Update this plant."
        )
    return found


def write_weights(weights: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Returns tensors as an uncompressed ``.npz``."""
    buffer = io.BytesIO()
    np.savez(buffer, **weights)  # type: ignore[arg-type]  # numpy types its allow_pickle into the arrays
    return buffer.getvalue()


def read_weights(path: Path) -> Weights:
    """Reads what `write_weights` wrote.

    Raises:
        BundleFormatError: It is no such file.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        action = "It is damaged: restore it from a backup, or begin the training anew."
        raise BundleFormatError(f"{path} holds no weights: {error}", action=action) from error


def word_bits(plants: int, privacy: PrivacySettings | None = None) -> Literal[16, 32]:
    """Returns the bits of a number, so that a plant's own has 11 or more; noise needs more."""
    if privacy is not None:
        return WORD_BITS
    return 16 if largest_value(plants, 16) >= _VALUE_MIN else 32


def needed_exponents(update: Weights, shared: Sequence[str], value_max: int) -> list[int]:
    """Returns for each tensor the least e for which its largest change is at most ``value_max`` times 2^e.

    Raises:
        TrainingError: A change is not finite.
        AggregationError: A change is too large for any step size.
    """
    exponents = []
    for name in shared:
        largest = float(np.abs(update[name]).max(initial=0.0))
        if not math.isfinite(largest):
            raise TrainingError(f"the change of {name} is not finite", action="Train with a smaller learning rate.")
        exponent = max(EXPONENT_MIN, math.frexp(largest / value_max)[1])
        if exponent > EXPONENT_MAX:
            raise AggregationError(
                f"the change of {name} is too large to be summed",
                expected=f"at most {value_max * 2.0**EXPONENT_MAX:g}",
                actual=largest,
                action="Nothing was sent. Train with a smaller learning rate.",
            )
        exponents.append(exponent)
    return exponents


def exponents_vector(exponents: Sequence[int], score: float | None) -> Ints:
    """Returns a 1 in each tensor's cell of its exponent, and at the end accuracy and number of accuracies."""
    cells = np.zeros((len(exponents), _CELLS), np.int64)
    cells[np.arange(len(exponents)), np.asarray(exponents, np.int64) - EXPONENT_MIN] = 1
    ending = [0, 0] if score is None else [round(SCORE_UNIT * score), 1]
    return np.concatenate([cells.reshape(-1), np.asarray(ending, np.int64)])


def exponents_length(tensors: int) -> int:
    """Returns the length of `exponents_vector`."""
    return tensors * _CELLS + 2


def common_exponents(total: Ints) -> tuple[tuple[int, ...], float | None]:
    """Returns the exponents with which the changes of all plants fit, and the mean accuracy."""
    cells = total[:-2].reshape(-1, _CELLS)
    if len(cells) and not cells.any(axis=1).all():
        raise AggregationError("a tensor without an exponent", action="Update the plants to the same release.")
    highest = _CELLS - 1 - np.argmax(cells[:, ::-1] != 0, axis=1) if len(cells) else np.zeros(0, np.int64)
    score, scores = int(total[-2]), int(total[-1])
    return tuple(int(each) + EXPONENT_MIN for each in highest), score / SCORE_UNIT / scores if scores else None


def quantized_update(update: Weights, shared: Sequence[str], exponents: Sequence[int]) -> Ints:
    """Returns the changes in whole numbers of 2^e, rounded to nearest, one tensor after the other."""
    return np.concatenate(
        [
            np.rint(update[name].astype(np.float64).reshape(-1) * 2.0**-exponent).astype(np.int64)
            for name, exponent in zip(shared, exponents, strict=True)
        ]
    )


def mean_update(total: Ints, weights: Weights, shared: Sequence[str], exponents: Sequence[int], plants: int) -> Weights:
    """Returns the mean change of so many plants from the sum of their `quantized_update`."""
    mean, at = {}, 0
    for name, exponent in zip(shared, exponents, strict=True):
        size = weights[name].size
        change = total[at : at + size].astype(np.float64) * (2.0**exponent / plants)
        mean[name] = change.reshape(weights[name].shape).astype(np.float32)
        at += size
    return mean


def outer_step(
    weights: Weights, mean: Weights, momentum: Weights, settings: FederationSettings
) -> tuple[Weights, Weights]:
    """Returns the weights after a round, and the momentum; statistics of norms are averaged plainly."""
    after, moved = dict(weights), dict(momentum)
    for name, change in mean.items():
        if name.endswith(_STATISTICS):
            after[name] = weights[name] + change
            continue
        step = change
        if settings.outer_momentum:
            moved[name] = settings.outer_momentum * momentum.get(name, np.zeros_like(change)) + change
            step = change + settings.outer_momentum * moved[name]
        after[name] = weights[name] + np.float32(settings.outer_rate) * step
    return after, moved
