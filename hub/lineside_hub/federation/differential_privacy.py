"""Differential privacy of a federated training, at the level of plants: what a plant's whole data set may change.

Each plant scales its change down to a bound and adds noise before secure aggregation, so that the noise of the sum
hides one plant (distributed noise, Kairouz et al. 2021, arXiv:2102.06387; DP-FedAvg, arXiv:1710.06963). All is done in
whole numbers of one step size that follows from the settings alone, so that nothing else of a plant's change gets out:

1. the change of all tensors together is scaled down to the norm ``clip``, and cut to whole numbers towards zero, which
   makes no norm larger;
2. noise is drawn from a key of this plant alone and rounded to whole numbers;
3. a number that doesn't fit is refused, as everywhere.

The noise of two thirds of the plants, without that of the one who looks, has the deviation ``noise`` times ``clip``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from lineside_link.aggregation.masks import mask
from lineside_link.aggregation.messages import largest_value, least_threshold
from lineside_runtime.decoding import JsonDecoder
from lineside_runtime.errors import AggregationError, ConfigError, MissingExtraError, TrainingError
from lineside_runtime.files import write_atomic

WORD_BITS: Literal[32] = 32
"""Of a number: noise needs more room than the changes themselves."""

SPREAD_MIN = 1 << 14
"""Least deviation of one plant's noise in whole numbers: its rounding must not matter."""

TAIL = 8.6
"""Largest value of the normal distribution that `normal_noise` draws, in deviations: sqrt(2 ln 2^53)."""

SPARE_SUMS = 3
"""Sums beyond the number of rounds that a plant takes part in: a round that was given up is begun anew."""

EPSILON_AGREES = 1e-3
_ORDERS = (*(1 + each / 10 for each in range(1, 100)), *range(11, 64), 128, 256, 512)
_MARGIN = 1 - 1e-9


class PrivacySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the plants of a private training agree on.

    Attributes:
        clip: Largest L2 norm of a plant's change in a round; a larger one is scaled down.
        noise: Deviation of the noise of a sum, in terms of ``clip``.
        delta: Probability with which ``epsilon`` need not hold.
        sums: Sums that a plant takes part in at most.
        epsilon: Of all of them together, by the accountant.
    """

    clip: Annotated[float, msgspec.Meta(gt=0, le=1e6)]
    noise: Annotated[float, msgspec.Meta(gt=0, le=1e4)]
    delta: Annotated[float, msgspec.Meta(gt=0, le=0.01)]
    sums: Annotated[int, msgspec.Meta(ge=1)]
    epsilon: Annotated[float, msgspec.Meta(gt=0)]


def private_settings(*, clip: float, noise: float, delta: float, rounds: int) -> PrivacySettings:
    """Returns the settings of a training with so many rounds, with its epsilon.

    Raises:
        ConfigError: A number is out of range.
        MissingExtraError: The accountant isn't installed.
    """
    sums = rounds + SPARE_SUMS
    for name, value, largest in (("clip", clip, 1e6), ("noise", noise, 1e4), ("delta", delta, 0.01)):
        if not 0 < value <= largest:
            expected = f"more than 0, at most {largest:g}"
            raise ConfigError(name, expected=expected, actual=value, action=f"Give another --{name}.")
    epsilon = spent_epsilon(noise=noise, delta=delta, sums=sums)
    return PrivacySettings(clip=clip, noise=noise, delta=delta, sums=sums, epsilon=epsilon)


@functools.cache
def spent_epsilon(*, noise: float, delta: float, sums: int) -> float:
    """Returns epsilon of so many sums, by Opacus' accountant of Rényi differential privacy.

    Raises:
        MissingExtraError: Opacus isn't installed.
    """
    try:
        from opacus.accountants.analysis import rdp
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"the package {error.name!r} is not installed", action="Run: pip install 'lineside[federate]'"
        ) from error
    orders = list(_ORDERS)
    spent = rdp.compute_rdp(q=1.0, noise_multiplier=noise, steps=sums, orders=orders)
    epsilon, _ = rdp.get_privacy_spent(orders=orders, rdp=spent, delta=delta)
    return float(epsilon)


def check_privacy(privacy: PrivacySettings | None, epsilon_max: float | None) -> None:
    """Refuses a training that is less private than this plant wants.

    Args:
        epsilon_max: Largest epsilon that the plant accepts; ``None`` if it wants no differential privacy.

    Raises:
        AggregationError: It isn't private, or less than the plant wants or than it says.
    """
    if privacy is not None:
        spent = spent_epsilon(noise=privacy.noise, delta=privacy.delta, sums=privacy.sums)
        if abs(spent - privacy.epsilon) > EPSILON_AGREES * spent:
            raise AggregationError(
                "epsilon of the training",
                expected=f"{spent:.4f}, by this plant's accountant",
                actual=privacy.epsilon,
                action="Nothing was sent. Bring coordinator and plant to the same release of lineside and of opacus.",
            )
    if epsilon_max is not None and (privacy is None or privacy.epsilon > epsilon_max):
        raise AggregationError(
            "the training is less private than this plant wants",
            expected=f"epsilon of at most {epsilon_max:g}",
            actual="no differential privacy" if privacy is None else f"{privacy.epsilon:.2f}",
            action="Nothing was sent. Agree on other settings with the coordinator, or leave out --max-epsilon.",
        )


def plant_deviation(privacy: PrivacySettings, plants: int) -> float:
    """Returns the deviation of one plant's noise, so that the least number of plants less one is enough."""
    return privacy.noise * privacy.clip / math.sqrt(least_threshold(plants) - 1)


def step_exponent(privacy: PrivacySettings, plants: int) -> int:
    """Returns e of the step size 2^e of all numbers, with which change and noise always fit.

    Raises:
        ConfigError: There is too little noise for so many plants to be drawn in whole numbers.
    """
    deviation = plant_deviation(privacy, plants)
    exponent = math.frexp((privacy.clip + TAIL * deviation) / (largest_value(plants, WORD_BITS) - 1))[1]
    if deviation * 2.0**-exponent < SPREAD_MIN:
        raise ConfigError(
            "noise of a private training",
            expected="more of it for so many plants",
            actual=f"{privacy.noise:g}",
            action="Make the training anew with a larger --noise: lineside federate init.",
        )
    return exponent


def private_values(
    change: dict[str, npt.NDArray[np.float32]],
    shared: Sequence[str],
    privacy: PrivacySettings,
    plants: int,
    seed: bytes,
) -> npt.NDArray[np.int64]:
    """Returns a plant's change, bounded and with its noise, in whole numbers of the step size.

    Args:
        change: Of each shared tensor.
        shared: Their names, in the order of the vector.
        seed: 32 random bytes, of this plant and round alone.

    Raises:
        TrainingError: A change is not finite.
    """
    flat = np.concatenate([change[name].astype(np.float64).reshape(-1) for name in shared])
    norm = float(np.linalg.norm(flat))
    if not math.isfinite(norm):
        raise TrainingError("the change is not finite", action="Train with a smaller learning rate.")
    if norm > privacy.clip:
        flat *= privacy.clip / norm * _MARGIN
    scale = 2.0 ** -step_exponent(privacy, plants)
    bounded = np.trunc(flat * scale).astype(np.int64)
    return bounded + np.rint(normal_noise(seed, len(flat)) * (plant_deviation(privacy, plants) * scale)).astype(
        np.int64
    )


def normal_noise(seed: bytes, length: int) -> npt.NDArray[np.float64]:
    """Returns standard normal numbers that follow from a key, by Box and Muller from ChaCha20's stream."""
    pairs = -(-length // 2)
    words = mask(seed, 2 * pairs, 64).reshape(2, pairs)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 1) * 2.0**-53  # above 0, at most 1
    radius, angle = np.sqrt(-2 * np.log(uniform[0])), 2 * np.pi * uniform[1]
    found: npt.NDArray[Any] = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:length]
    return found


class ReleasedSums:
    """Private sums that a plant has given its numbers for, in a file: its budget.

    Args:
        path: The file; made when the first numbers are given.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._rounds = JsonDecoder(list[str]).decode(path.read_bytes() if path.exists() else b"[]")
        except msgspec.DecodeError as error:
            raise ConfigError(
                f"{path} can't be read: {error}",
                action="Restore it: without it more could be asked for than was agreed.",
            ) from error

    def add(self, digest: str, most: int) -> None:
        """Notes a round, on the disk, before its numbers are given; the same round again costs nothing.

        Args:
            digest: Of the signed round.
            most: Sums that the settings allow.

        Raises:
            AggregationError: So many were given already.
        """
        if digest in self._rounds:
            return
        if len(self._rounds) >= most:
            raise AggregationError(
                "this plant's privacy budget is used up",
                expected=f"at most {most} sums",
                action="Nothing was sent. Begin another training; its epsilon adds to that of this one.",
            )
        write_atomic(self._path, msgspec.json.encode([*self._rounds, digest]), mode=0o600)
        self._rounds.append(digest)
