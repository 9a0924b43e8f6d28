"""The protocol's messages, from the descriptor that ``make proto`` compiles.

They live in a pool of their own, so that a process may hold them beside those of `tritonclient`, which have the same
names. And the classes are made from the descriptor at import and not from generated Python, because that refuses to
load with an older protobuf than it was generated with.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = "inference.GRPCInferenceService"
DESCRIPTOR = Path(__file__).with_name("open_inference.binpb")


@functools.cache
def _pool() -> Any:
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTOR.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


@functools.cache
def message(name: str) -> Any:
    """Returns the class of a message."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{PACKAGE}.{name}"))


def methods() -> Any:
    """Returns the descriptors of the service's methods."""
    return _pool().FindServiceByName(SERVICE).methods


def number_of(enum: str, name: str) -> int:
    """Returns the number of an enum's value, such as of ``DataType`` and ``TYPE_FP32``."""
    return int(_pool().FindEnumTypeByName(f"{PACKAGE}.{enum}").values_by_name[name].number)
