"""The linear head of a classifier: what its server keeps, and what the device is told of it."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from lineside_runtime.bundle import Postprocess
from lineside_runtime.decoding import JsonDecoder
from lineside_runtime.errors import BundleFormatError, ConfigError, InputNotFoundError, reason_of
from lineside_runtime.files import write_atomic

Ints = npt.NDArray[np.int64]

FEATURES_MAX = 4096
"""Features of one image: half of the slots of a ciphertext, which rotate as one row."""

CLASSES_MAX = 256
"""A class costs a multiplication, and 256 of them about half a second."""

SUM_BITS_MAX = 30
"""Size of a class's sum; larger ones leave too little noise budget."""

HEAD_FILE_MAX_BYTES = 16 << 20


class HeadDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Description of a head for devices, without its weights.

    Attributes:
        name: ``name@version`` of the classifier's bundle.
        labels: Class names in the order of the head's outputs.
        features: Number of INT8 features that it takes.
        feature_range: Least and largest value of a feature.
        feature_output: The trunk's output that holds them.
        output: Name of the classifier's output that it gives.
        scales: One a class: times the class's sum, the logit.
        sum_bits: Bits of the largest sum of a class, without its sign.
        postprocess: How the logits are decoded.
    """

    name: str
    labels: tuple[str, ...]
    features: int
    feature_range: tuple[int, int]
    feature_output: str
    output: str
    scales: tuple[float, ...]
    sum_bits: int
    postprocess: Postprocess

    def __post_init__(self) -> None:
        if not 1 <= self.features <= FEATURES_MAX:
            raise ValueError(f"features must be 1 to {FEATURES_MAX}, not {self.features}")
        if not 1 <= len(self.scales) <= CLASSES_MAX:
            raise ValueError(f"a head has 1 to {CLASSES_MAX} classes, not {len(self.scales)}")
        if not 1 <= self.sum_bits <= SUM_BITS_MAX:
            raise ValueError(f"sums of {self.sum_bits} bits; at most {SUM_BITS_MAX} can be computed")
        if not all(np.isfinite(self.scales)):
            raise ValueError("scales must be finite numbers")

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.scales)


@dataclasses.dataclass(frozen=True)
class LinearHead:
    """The secret part.

    Attributes:
        weights: ``(classes, features) int64``, less the weights' zero point.
        bias: ``(classes,) int64``, in units of a sum; holds the correction for the features' zero point.
        description: The public part.
    """

    weights: Ints
    bias: Ints
    description: HeadDescription

    def __post_init__(self) -> None:
        wanted = (self.description.classes, self.description.features)
        if self.weights.shape != wanted or self.bias.shape != wanted[:1]:
            raise ConfigError("weights of a head", expected=f"{wanted} and {wanted[:1]}", actual=self.weights.shape)
        if not self.weights.any():
            raise ConfigError("weights of a head", expected="some that are not 0", actual="only zeros")
        found = sum_bits(self.weights, self.bias, self.description.feature_range)
        if found > self.description.sum_bits:
            raise ConfigError("sum_bits of a head", expected=f"at least {found}", actual=self.description.sum_bits)

    def sums(self, features: npt.NDArray[np.integer]) -> Ints:
        """Computes in the clear what the encrypted head computes: ``(n, features)`` to ``(n, classes) int64``."""
        return np.asarray(features.astype(np.int64) @ self.weights.T + self.bias, np.int64)


def sum_bits(weights: Ints, bias: Ints, feature_range: tuple[int, int]) -> int:
    """Returns the bits that the largest possible sum of a class needs, without its sign."""
    low, high = feature_range
    largest = np.maximum(np.abs(weights * low), np.abs(weights * high)).sum(axis=1) + np.abs(bias)
    return max(1, int(largest.max()).bit_length())


_DESCRIPTION = JsonDecoder(HeadDescription)


def read_description(data: bytes) -> HeadDescription:
    """Reads a description that another process or another party wrote.

    Raises:
        BundleFormatError: It is none.
    """
    try:
        return _DESCRIPTION.decode(data)
    except msgspec.DecodeError as error:
        raise BundleFormatError(
            f"description of a head: {error}", action="Split the classifier again: lineside privacy split."
        ) from error


def write_head(path: Path, head: LinearHead) -> None:
    """Writes a head, readable by its owner only."""
    buffer = io.BytesIO()
    description = np.frombuffer(msgspec.json.encode(head.description), np.uint8)
    np.savez_compressed(buffer, weights=head.weights, bias=head.bias, description=description)
    write_atomic(path, buffer.getvalue(), mode=0o600)


def read_head(path: Path) -> LinearHead:
    """Reads what `write_head` wrote.

    Raises:
        InputNotFoundError: There is no such file.
        BundleFormatError: It is no head.
    """
    if not path.is_file():
        raise InputNotFoundError(f"no head at {path}", action="Make one: lineside privacy split BUNDLE --out FOLDER")
    if path.stat().st_size > HEAD_FILE_MAX_BYTES:
        raise BundleFormatError("head file too large", expected=f"at most {HEAD_FILE_MAX_BYTES} bytes", actual=path)
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            described = read_description(arrays["description"].tobytes())
            return LinearHead(arrays["weights"].astype(np.int64), arrays["bias"].astype(np.int64), described)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, ConfigError) as error:
        # NumPy's own text advises to unpickle the file.
        reason = f": {reason_of(error)}" if isinstance(error, ConfigError) else ""
        raise BundleFormatError(
            f"{path} is no head{reason}",
            expected="what lineside privacy split writes",
            action="Split the classifier again: lineside privacy split.",
        ) from error
