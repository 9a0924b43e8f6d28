from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside_runtime.errors import EngineError, RequestError
from lineside_runtime.server.calls import InferAnswer
from lineside_runtime.server.rest import _accepted
from lineside_runtime.server.rest_codec import compress, decompress, encode_answer, parse_request
from lineside_runtime.serving.types import Prediction


def request(*outputs: dict[str, Any], **parameters: Any) -> tuple[bytes, str]:
    tensors = [
        {"name": "a", "shape": [1, 2], "datatype": "UINT8", "parameters": {"binary_data_size": 2}},
        {"name": "b", "shape": [1], "datatype": "FP32", "data": [1.5]},
        {"name": "c", "shape": [3], "datatype": "INT8", "parameters": {"binary_data_size": 3}},
    ]
    head = json.dumps({"id": "7", "inputs": tensors, "outputs": list(outputs), "parameters": parameters}).encode()
    return head + b"\x01\x02" + b"\x03\x04\x05", str(len(head))


def answer(parsed: Any, **outputs: np.ndarray[Any, Any]) -> InferAnswer:
    prediction = Prediction(outputs, "npu:0", "ort/cpu:0", True, 1.0, "test@1")
    return InferAnswer(parsed.request, "1", prediction, tuple(outputs))


def test_the_default_for_outputs_can_be_binary() -> None:
    parsed = parse_request("m", "", *request(binary_data_output=True))
    body, length = encode_answer(answer(parsed, x=np.ones(2, np.uint8)), parsed)
    assert length is not None
    assert body[length:] == b"\x01\x01"
    parsed = parse_request("m", "", *request())
    body, length = encode_answer(answer(parsed, x=np.ones(2, np.uint8)), parsed)
    assert length is None
    assert json.loads(body)["outputs"][0]["data"] == [1, 1]


def test_an_output_that_the_protocol_cannot_carry_is_an_error() -> None:
    parsed = parse_request("m", "", *request())
    with pytest.raises(EngineError, match="complex"):
        encode_answer(answer(parsed, x=np.ones(1, np.complex64)), parsed)


def test_encodings_both_ways() -> None:
    body = b"numbers" * 1000
    assert decompress(body, "", 10_000) is body
    for name, other in (("gzip", gzip.decompress), ("deflate", zlib.decompress)):
        assert other(compress(body, name)) == body
        assert decompress(compress(body, name), name, len(body)) == body
        with pytest.raises(RequestError) as caught:
            decompress(compress(body, name), name, len(body) - 1)
        assert caught.value.status == 413


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        ("", ""),
        ("identity", ""),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip; q=0.0, deflate;q=0.000", ""),
        ("br", ""),
        ("GZIP", "gzip"),
    ],
)
def test_which_encoding_the_client_takes(header: str, encoding: str) -> None:
    assert _accepted(header) == encoding


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_is_changed_in_a_request_it_is_read_or_refused(data: st.DataObject) -> None:
    body, length = request({"name": "x"}, binary_data_output=True)
    changed = bytearray(body)
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(changed)))
    for part in (changed, changed[:cut]):
        with contextlib.suppress(RequestError):
            parsed = parse_request("m", "", part, data.draw(st.sampled_from([length, "", str(cut), "3"])))
            assert all(isinstance(one.data, list | memoryview) for one in parsed.request.inputs)
