"""OpenVINO's own format, ``model.xml`` with ``model.bin``.

Two ways to INT8: the QDQ ONNX file taken over as it is, with all that was decided for it, or NNCF's post-training
quantisation with its bias correction. Which is faster depends on the model; both go through the gates.

NNCF's ``PERFORMANCE`` preset (symmetric activations) ran EfficientNet-Lite0 in 3.9 ms where ``MIXED`` took 4.6.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openvino

from lineside_converters.compress.cleanup import first_line
from lineside_converters.convert import Order
from lineside_runtime.errors import GraphError

_BETWEEN = re.compile(rb">\s+<")


def make(order: Order) -> Path:
    """Converts the INT8 form, or the float graph where nothing is quantised.

    Raises:
        GraphError: OpenVINO can't read the graph.
    """
    return _save(_read(order.int8 or order.clean), order.folder)


def make_nncf(order: Order) -> Path:
    """Quantises the float graph by NNCF.

    Raises:
        GraphError: NNCF can't quantise the graph.
    """
    if order.int8 is None:
        raise GraphError("NNCF has nothing to do at level 0", action="")
    if order.float_nodes:
        raise GraphError("layers stay in float, by their names in the ONNX graph, which NNCF doesn't see", action="")
    import nncf

    model = _read(order.clean)
    feeds = [dict(feed) for feed in order.feeds]
    try:
        with _quiet():
            made = nncf.quantize(
                model,
                nncf.Dataset(feeds),
                preset=nncf.QuantizationPreset.PERFORMANCE,
                subset_size=len(feeds),
            )
    except (nncf.InternalError, nncf.ValidationError, RuntimeError, ValueError, KeyError, IndexError) as error:
        raise GraphError("NNCF can't quantise this graph", actual=first_line(error)) from error
    return _save(made, order.folder)


def _read(path: Path) -> Any:
    try:
        return openvino.convert_model(str(path))
    except (RuntimeError, ValueError, openvino.exceptions.OVError) as error:
        raise GraphError("OpenVINO can't read this graph", actual=first_line(error)) from error


def _save(model: Any, folder: Path) -> Path:
    target = folder / "model.xml"
    openvino.save_model(model, str(target), compress_to_fp16=False)
    # A fifth of the file is indentation.
    target.write_bytes(_BETWEEN.sub(b"><", target.read_bytes()))
    return target


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps NNCF's bars and notes off stdout, where ``--json`` prints."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
