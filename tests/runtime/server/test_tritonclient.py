"""Somebody else's client, unchanged: NVIDIA's tritonclient over HTTP and gRPC, waiting and asyncio."""

from __future__ import annotations

import asyncio
import gc
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from lineside_runtime.tensors import DType
from tests.peers import wait_for
from tests.runtime.server.models import DTYPES
from tests.runtime.server.serving import Serving

# Its HTTP client closes itself again when it is collected, which gevent refuses in a thread that isn't the client's.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*InferenceServerClient.__del__:pytest.PytestUnraisableExceptionWarning"
)

Client = tuple[Any, Any]  # the module, and a client of it


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, serving: Serving) -> Iterator[Client]:
    if request.param == "http":
        waiting = triton_http.InferenceServerClient(serving.http, concurrency=8)
        yield triton_http, waiting
    else:
        waiting = triton_grpc.InferenceServerClient(serving.grpc)
        yield triton_grpc, waiting
    waiting.close()


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


def tensor(module: Any, name: str, array: np.ndarray[Any, Any], datatype: str = "", **options: Any) -> Any:
    given = module.InferInput(name, list(array.shape), datatype or np_to_triton_dtype(array.dtype))
    given.set_data_from_numpy(array, **options)
    return given


def echo_inputs(module: Any, rows: int = 2, **options: Any) -> tuple[dict[DType, np.ndarray[Any, Any]], list[Any]]:
    arrays = {dtype: (np.arange(rows * 3).reshape(rows, 3) - 2).astype(dtype) for dtype in DTYPES}
    return arrays, [tensor(module, f"in_{dtype}", array, **options) for dtype, array in arrays.items()]


def test_health_and_metadata(client: Client) -> None:
    module, asking = client
    assert asking.is_server_live()
    assert asking.is_server_ready()
    assert asking.is_model_ready("echo")
    assert asking.is_model_ready("echo", "3")
    as_json = {} if module is triton_http else {"as_json": True}
    server = asking.get_server_metadata(**as_json)
    assert server["name"] == "lineside"
    assert "binary_tensor_data" in server["extensions"]
    model = asking.get_model_metadata("test", **as_json)
    assert (model["name"], model["versions"], model["platform"]) == ("test", ["1"], "lineside_onnx")
    assert [(one["name"], one["datatype"]) for one in model["inputs"]] == [("x", "FP32")]
    assert [int(size) for size in model["inputs"][0]["shape"]] == [-1, 4]
    config = asking.get_model_config("test", **as_json)
    config = config.get("config", config)
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert [int(size) for size in config["output"][0]["dims"]] == [-1, 4]
    index = asking.get_model_repository_index(**as_json)
    names = {one["name"]: one["state"] for one in (index["models"] if isinstance(index, dict) else index)}
    assert names == {"echo": "READY", "busy": "READY", "large": "READY", "test": "READY"}


def test_every_type_there_and_back(client: Client) -> None:
    module, asking = client
    arrays, inputs = echo_inputs(module)
    result = asking.infer("echo", inputs, model_version="3", request_id="call-7")
    for dtype, array in arrays.items():
        answer = result.as_numpy(f"out_{dtype}")
        assert answer.dtype == array.dtype
        np.testing.assert_array_equal(answer, array)
    response = result.get_response()
    assert (response["id"] if module is triton_http else response.id) == "call-7"


def test_json_instead_of_binary(serving: Serving) -> None:
    with triton_http.InferenceServerClient(serving.http) as asking:
        arrays, _ = echo_inputs(triton_http)
        # tritonclient sends FP16 as binary only
        inputs = [tensor(triton_http, f"in_{d}", a, binary_data=d == "float16") for d, a in arrays.items()]
        outputs = [triton_http.InferRequestedOutput(f"out_{dtype}", binary_data=False) for dtype in DTYPES]
        result = asking.infer("echo", inputs, outputs=outputs)
        for dtype, array in arrays.items():
            np.testing.assert_array_equal(result.as_numpy(f"out_{dtype}"), array)
            assert "data" in result.get_output(f"out_{dtype}")


def test_only_the_outputs_that_are_asked_for(client: Client) -> None:
    module, asking = client
    arrays, inputs = echo_inputs(module)
    wanted = [module.InferRequestedOutput("out_int8"), module.InferRequestedOutput("out_float32")]
    result = asking.infer("echo", inputs, outputs=wanted)
    np.testing.assert_array_equal(result.as_numpy("out_int8"), arrays["int8"])
    np.testing.assert_array_equal(result.as_numpy("out_float32"), arrays["float32"])
    assert result.as_numpy("out_uint8") is None


def test_the_answer_says_which_device_was_asked_for_and_which_answered(client: Client) -> None:
    module, asking = client
    result = asking.infer("test", [tensor(module, "x", np.ones((1, 4), np.float32))])
    parameters = result.get_response()["parameters"] if module is triton_http else result.get_response().parameters
    values = {key: value if module is triton_http else value.string_param for key, value in parameters.items()}
    assert (values["requested_device"], values["used_device"]) == ("cpu:0", "ort/cpu:0")


def test_large_frames_and_batches(client: Client) -> None:
    module, asking = client
    batch = np.random.default_rng(1).random((100_000, 4), np.float32)  # 1.6 MB
    result = asking.infer("test", [tensor(module, "x", batch)])
    np.testing.assert_array_equal(result.as_numpy("y"), 2 * batch)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression_both_ways(serving: Serving, algorithm: str) -> None:
    batch = np.zeros((10_000, 4), np.float32)
    with triton_http.InferenceServerClient(serving.http) as asking:
        result = asking.infer(
            "test",
            [tensor(triton_http, "x", batch)],
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
        np.testing.assert_array_equal(result.as_numpy("y"), batch)
    with triton_grpc.InferenceServerClient(serving.grpc) as asking:
        result = asking.infer("test", [tensor(triton_grpc, "x", batch)], compression_algorithm=algorithm)
        np.testing.assert_array_equal(result.as_numpy("y"), batch)


def errors(function: Any, *arguments: Any, **options: Any) -> list[InferenceServerException]:
    try:
        function(*arguments, **options)
    except InferenceServerException as error:
        return [error]
    return []


def refusal(client: Client, *arguments: Any, **options: Any) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        client[1].infer(*arguments, **options)
    return caught.value.status(), caught.value.message()


def test_errors_have_a_status_and_our_code(client: Client) -> None:
    module, _ = client
    web = module is triton_http
    bad = "400" if web else "StatusCode.INVALID_ARGUMENT"
    right = tensor(module, "x", np.ones((1, 4), np.float32))

    status, text = refusal(client, "nothing", [right])
    assert status == ("404" if web else "StatusCode.NOT_FOUND")
    assert "[2011] no model 'nothing'; expected one of" in text

    status, text = refusal(client, "test", [right], model_version="9")
    assert status == ("404" if web else "StatusCode.NOT_FOUND")

    status, text = refusal(client, "test", [tensor(module, "x", np.ones((1, 5), np.float32))])
    assert status == bad
    assert "[2003]" in text
    assert "expected x (?, 4) float32" in text
    assert "got (1, 5) FP32" in text

    status, text = refusal(client, "test", [tensor(module, "x", np.ones((1, 4), np.uint8))])
    assert status == bad
    assert "got (1, 4) UINT8" in text

    status, text = refusal(client, "test", [tensor(module, "x", np.array([[b"a"]], np.object_), "BYTES")])
    assert status == bad
    assert "got (1, 1) BYTES" in text

    status, text = refusal(client, "test", [tensor(module, "z", np.ones((1, 4), np.float32))])
    assert status == bad
    assert "expected x; got z" in text

    status, text = refusal(client, "test", [right], outputs=[module.InferRequestedOutput("nope")])
    assert status == bad
    assert "expected some of y" in text


def test_what_is_not_served_is_refused_in_words(client: Client) -> None:
    module, asking = client
    web = module is triton_http
    given = module.InferInput("x", [1, 4], "FP32")
    given.set_shared_memory("frames", 16)
    status, text = refusal(client, "test", [given])
    assert status == ("400" if web else "StatusCode.INVALID_ARGUMENT")
    assert "the shared-memory extension is not served" in text

    right = tensor(module, "x", np.ones((1, 4), np.float32))
    status, text = refusal(client, "test", [right], outputs=[module.InferRequestedOutput("y", class_count=3)])
    assert "the classification extension is not served" in text
    assert "sequences are not served" in refusal(client, "test", [right], sequence_id=5)[1]
    assert "priorities are not served" in refusal(client, "test", [right], priority=2)[1]

    with pytest.raises(InferenceServerException, match="shared-memory extension is not served"):
        asking.register_system_shared_memory("frames", "/frames", 16)
    with pytest.raises(InferenceServerException, match="shared-memory extension is not served"):
        asking.get_cuda_shared_memory_status()


def test_a_deadline_ends_a_call_that_waits(client: Client) -> None:
    module, asking = client
    inputs = [tensor(module, "n", np.array([3000], np.int64))]
    with ThreadPoolExecutor(4) as others:
        work = asking.infer if module is triton_grpc else None
        running: list[Any] = [
            others.submit(work, "busy", inputs) if work else asking.async_infer("busy", inputs) for _ in range(2)
        ]
        brief = [tensor(module, "n", np.array([0], np.int64))]
        late: list[InferenceServerException] = []

        def refused_late() -> bool:
            late.extend(errors(asking.infer, "busy", brief, timeout=20_000))
            return bool(late)

        wait_for(refused_late)
        assert late[0].status() in ("504", "StatusCode.DEADLINE_EXCEEDED")
        assert "[1008]" in late[0].message()
        for one in running:
            answer = one.result() if work else one.get_result()
            assert answer.as_numpy("y").tolist() == [3000.0]


def test_many_callers_at_once_get_each_their_own_answer(serving: Serving) -> None:
    def ask_grpc(number: int) -> list[float]:
        with triton_grpc.InferenceServerClient(serving.grpc) as asking:
            arrays = [np.full((1 + step % 3, 4), number * 100 + step, np.float32) for step in range(20)]
            answers = [asking.infer("test", [tensor(triton_grpc, "x", array)]).as_numpy("y") for array in arrays]
            assert [answer.shape for answer in answers] == [array.shape for array in arrays]
            return [float(answer[0, 0]) for answer in answers]

    # tritonclient's HTTP client belongs to one thread: it is gevent underneath, and calls at once from there
    with ThreadPoolExecutor(4) as clients, triton_http.InferenceServerClient(serving.http, concurrency=4) as web:
        by_grpc = [clients.submit(ask_grpc, number) for number in range(4)]
        arrays = [np.full((1, 4), 1000 + step, np.float32) for step in range(80)]
        by_rest = [web.async_infer("test", [tensor(triton_http, "x", array)]) for array in arrays]
        assert [float(one.get_result().as_numpy("y")[0, 0]) for one in by_rest] == [2.0 * (1000 + i) for i in range(80)]
        for number, one in enumerate(by_grpc):
            assert one.result() == [2.0 * (number * 100 + step) for step in range(20)]


def test_asyncio_clients(serving: Serving) -> None:
    async def ask(module: Any, url: str) -> list[float]:
        client = module.InferenceServerClient(url)
        inputs = [tensor(module, "x", np.full((1, 4), 3, np.float32))]
        try:
            assert await client.is_server_ready()
            assert await client.is_model_ready("test")
            answers = await asyncio.gather(*(client.infer("test", inputs, request_id=str(i)) for i in range(10)))
            with pytest.raises(InferenceServerException, match=r"\[2011\] no model"):
                await client.infer("nothing", inputs)
            return [float(answer.as_numpy("y")[0, 0]) for answer in answers]
        finally:
            await client.close()

    assert asyncio.run(ask(triton_http_aio, serving.http)) == [6.0] * 10
    assert asyncio.run(ask(triton_grpc_aio, serving.grpc)) == [6.0] * 10


def test_a_stream_answers_in_order_and_an_error_does_not_end_it(serving: Serving) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton_grpc.InferenceServerClient(serving.grpc) as asking:
        asking.start_stream(lambda result, error: answers.put((result, error)))
        for number, width in enumerate((4, 5, 4)):
            inputs = [tensor(triton_grpc, "x", np.full((1, width), number, np.float32))]
            asking.async_stream_infer("test", inputs, request_id=str(number))
        found = [answers.get(timeout=60) for _ in range(3)]
        asking.stop_stream()
    assert [error is None for _, error in found] == [True, False, True]
    assert "[2003]" in found[1][1].message()
    assert found[2][0].as_numpy("y")[0, 0] == 4.0
    assert [result.get_response().id for result, error in found if error is None] == ["0", "2"]


def test_unload_and_load(client: Client) -> None:
    module, asking = client
    inputs = echo_inputs(module)[1]
    asking.unload_model("echo")
    assert not asking.is_model_ready("echo")
    assert not asking.is_server_ready()
    assert "is not loaded" in refusal(client, "echo", inputs)[1]
    asking.load_model("echo")
    assert asking.is_server_ready()
    asking.load_model("echo")  # of a loaded one: reads it again, in place
    assert asking.infer("echo", inputs).as_numpy("out_int8").shape == (2, 3)
    with pytest.raises(InferenceServerException, match="can't send a model"):
        asking.load_model("echo", config="{}")
    with pytest.raises(InferenceServerException, match="no model"):
        asking.load_model("nothing")
