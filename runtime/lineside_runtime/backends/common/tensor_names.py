"""Match the inputs and outputs of a converted model with the manifest: converters rename them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lineside_runtime.errors import UnsupportedModelError
from lineside_runtime.tensors import TensorSpec

_NUMBERED = re.compile(r"^(?:in|out|args_|output_)(\d+)$")
"""pnnx writes ``in0`` and ``out0``, litert-torch ``args_0`` and ``output_0``: the numbers are positions."""


def match(specs: Sequence[TensorSpec], names: Sequence[str], what: str) -> dict[str, str]:
    """Returns the model's own name for each of the manifest's.

    By name where they agree, by position where the converter numbers them, and where there is only one of them.

    Args:
        specs: What the manifest says, in its order; empty where there is no manifest.
        what: ``input`` or ``output``, for the message.

    Raises:
        UnsupportedModelError: They can't be matched.
    """
    wanted = [spec.name for spec in specs]
    if not wanted or set(wanted) == set(names):
        return {name: name for name in wanted or names}
    numbers = [found.group(1) for found in map(_NUMBERED.match, names) if found]
    if len(wanted) == len(names) and sorted(map(int, numbers)) == list(range(len(names))):
        ordered = sorted(names, key=lambda name: int(_NUMBERED.sub(r"\1", name)))
        return dict(zip(wanted, ordered, strict=True))
    if len(wanted) == len(names) == 1:
        return {wanted[0]: names[0]}
    raise UnsupportedModelError(f"the model has other {what}s than the manifest", expected=wanted, actual=list(names))
