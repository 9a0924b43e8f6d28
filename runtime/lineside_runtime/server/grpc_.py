"""The protocol over gRPC: messages to calls, answers to messages, our errors to status codes.

A call runs in gRPC's own worker thread, so that nothing is handed over on the way to the engine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from lineside_runtime.errors import ConfigError, LinesideError, OverloadedError, RequestError
from lineside_runtime.server.access import Access
from lineside_runtime.server.calls import (
    SHARED_MEMORY,
    SHARED_MEMORY_ACTION,
    InferAnswer,
    InferRequest,
    refuse_tensor_parameters,
    timeout_of,
)
from lineside_runtime.server.metrics import Metrics
from lineside_runtime.server.proto import SERVICE, message, methods, number_of
from lineside_runtime.server.repository import ServedModel, configuration_of, index_of, metadata_of
from lineside_runtime.server.service import Cancelled, Service, status_of
from lineside_runtime.server.wire import GivenTensor, datatype_of, to_bytes

STREAMS_MAX = 8
"""Streams that may be open at once: each holds a thread."""

SPARE_THREADS = 4
"""So that health and metadata are answered, and calls refused, while every call that may be in flight is."""

HANDSHAKE_TIMEOUT_MS = 10_000
PORT_MAX = 65_535

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.RESOURCE_EXHAUSTED,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where typed elements stand; FP16 and BF16 can only be sent raw."""

_PARAMETER_FIELDS = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}


class GrpcApi:
    """The service's methods by their names in the protocol."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._streams = threading.BoundedSemaphore(STREAMS_MAX)

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """Returns what gRPC calls."""
        functions: dict[str, Callable[[Any, grpc.ServicerContext], Any]] = {
            "ServerLive": lambda request, context: message("ServerLiveResponse")(live=True),
            "ServerReady": lambda request, context: message("ServerReadyResponse")(ready=self._service.ready),
            "ModelReady": self._model_ready,
            "ServerMetadata": lambda request, context: message("ServerMetadataResponse")(**self._service.metadata()),
            "ModelMetadata": lambda request, context: _metadata(self._named(request)),
            "ModelConfig": lambda request, context: _configuration(self._named(request)),
            "ModelInfer": self._infer,
            "ModelStreamInfer": self._stream,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        found = {}
        for method in methods():
            function, kind = functions[method.name], message(method.input_type.name)
            written = message(method.output_type.name).SerializeToString
            if method.client_streaming:
                handler = grpc.stream_stream_rpc_method_handler(
                    _reading_all(function, kind), response_serializer=written
                )
            else:
                handler = grpc.unary_unary_rpc_method_handler(_answering(function, kind), response_serializer=written)
            found[method.name] = handler
        return [grpc.method_handlers_generic_handler(SERVICE, found), _NotServed()]

    def _named(self, request: Any) -> ServedModel:
        return self._service.repository.get(request.name, request.version)

    def _model_ready(self, request: Any, context: grpc.ServicerContext) -> Any:
        ready = self._service.accepting and self._named(request).session is not None
        return message("ModelReadyResponse")(ready=ready)

    def _infer(self, request: Any, context: grpc.ServicerContext) -> Any:
        arrived_s = time.perf_counter()
        with self._service.counted(request.model_name, "grpc"):
            self._service.gate.enter()
            try:
                call = parse_request(request, context.time_remaining())
                return encode_answer(self._service.infer(call, arrived_s=arrived_s, wanted=context.is_active))
            finally:
                self._service.gate.leave()

    def _stream(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        """Answers one call after the other, in their order; an error answers its call and ends nothing."""
        if not self._streams.acquire(blocking=False):
            raise OverloadedError("too many streams are open", expected=f"at most {STREAMS_MAX}")
        try:
            for request in requests:
                yield self._streamed(request, context)
        except Cancelled:
            return
        finally:
            self._streams.release()

    def _streamed(self, request: Any, context: grpc.ServicerContext) -> Any:
        response = message("ModelStreamInferResponse")
        try:
            return response(infer_response=self._infer(request, context))
        except LinesideError as error:
            # with the id, so that the client knows which call it was
            return response(error_message=str(error), infer_response={"id": request.id})

    def _index(self, request: Any, context: grpc.ServicerContext) -> Any:
        models = index_of(self._service.repository.models, only_ready=request.ready)
        return message("RepositoryIndexResponse")(models=models)

    def _load(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._service.control()
        self._service.refuse_load_parameters(request.parameters)
        self._service.repository.get(request.model_name).load()
        return message("RepositoryModelLoadResponse")()

    def _unload(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._service.control()
        self._service.repository.get(request.model_name).unload()
        return message("RepositoryModelUnloadResponse")()


def parse_request(request: Any, time_remaining_s: float | None) -> InferRequest:
    """Reads a ``ModelInferRequest``.

    Raises:
        RequestError: The message breaks the protocol.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestError(
            "raw_input_contents", expected=f"one for each of {len(request.inputs)} inputs", actual=len(raw)
        )
    for output in request.outputs:
        refuse_tensor_parameters(output.name, _plain(output.parameters))
    times = [time for time in (timeout_of(_plain(request.parameters)), time_remaining_s) if time is not None]
    return InferRequest(
        model=request.model_name,
        version=request.model_version,
        id=request.id,
        inputs=tuple(_given(tensor, raw[i] if raw else None) for i, tensor in enumerate(request.inputs)),
        outputs=tuple(output.name for output in request.outputs),
        timeout_s=min(times) if times else None,
        protocol="grpc",
    )


def _given(tensor: Any, raw: bytes | None) -> GivenTensor:
    refuse_tensor_parameters(tensor.name, _plain(tensor.parameters))
    if raw is not None and tensor.HasField("contents"):
        raise RequestError(f"input {tensor.name[:100]!r}", expected="raw or typed contents", actual="both")
    field = _CONTENTS.get(tensor.datatype)
    data = raw if raw is not None else list(getattr(tensor.contents, field)) if field else []
    return GivenTensor(tensor.name, tensor.datatype, tuple(tensor.shape), data)


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in parameters.items():
        field = value.WhichOneof("parameter_choice")
        found[name] = getattr(value, field) if field else None
    return found


def encode_answer(answer: InferAnswer) -> Any:
    """Returns the answer as a ``ModelInferResponse``, its elements raw."""
    response = message("ModelInferResponse")(
        model_name=answer.request.model, model_version=answer.version, id=answer.request.id
    )
    for key, value in answer.parameters.items():
        setattr(response.parameters[key], _PARAMETER_FIELDS[type(value)], value)
    for name in answer.outputs:
        array = answer.prediction.outputs[name]
        response.outputs.add(name=name, datatype=datatype_of(array.dtype.name), shape=array.shape)
        response.raw_output_contents.append(to_bytes(array))
    return response


def _metadata(model: ServedModel) -> Any:
    return message("ModelMetadataResponse")(**metadata_of(model))


def _configuration(model: ServedModel) -> Any:
    found = configuration_of(model)
    for tensor in (*found["input"], *found["output"]):
        tensor["data_type"] = number_of("DataType", tensor["data_type"])
    return message("ModelConfigResponse")(config=found)


def code_of(error: LinesideError) -> grpc.StatusCode:
    """Returns the gRPC status that an error is answered with."""
    return _CODES.get(status_of(error), grpc.StatusCode.INTERNAL)


def _read(data: bytes, kind: Any) -> Any:
    """Parses a message; gRPC's own way would answer a damaged one with INTERNAL, and log a traceback."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise RequestError(f"the message is no {kind.DESCRIPTOR.name}: {error}") from error


def _reading_all(
    function: Callable[[Iterator[Any], grpc.ServicerContext], Iterator[Any]], kind: Any
) -> Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[Any]]:
    def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            yield from function((_read(data, kind) for data in requests), context)
        except LinesideError as error:
            _abort(context, error)

    return answer


def _answering(
    function: Callable[[Any, grpc.ServicerContext], Any], kind: Any
) -> Callable[[bytes, grpc.ServicerContext], Any]:
    def answer(data: bytes, context: grpc.ServicerContext) -> Any:
        try:
            return function(_read(data, kind), context)
        except LinesideError as error:
            _abort(context, error)
        except Cancelled:
            context.abort(grpc.StatusCode.CANCELLED, "the client went away")

    return answer


def _abort(context: grpc.ServicerContext, error: LinesideError) -> NoReturn:
    if isinstance(error, OverloadedError):
        context.set_trailing_metadata((("retry-after", "1"),))
    context.abort(code_of(error), str(error))
    raise error  # never reached: `abort` raises


class _NotServed(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Says why, where a client asks for an extension that there isn't."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Returns a handler for the methods of the shared-memory extensions, and ``None`` for others."""
        name = handler_call_details.method.rpartition("/")[2]
        if not name.startswith(("SystemSharedMemory", "CudaSharedMemory")):
            return None
        return _refusing(RequestError(SHARED_MEMORY, status=501, action=SHARED_MEMORY_ACTION))


class _Guard(grpc.ServerInterceptor):  # type: ignore[misc]
    """Checks the token before the message is read."""

    def __init__(self, access: Access, metrics: Metrics) -> None:
        self._access = access
        self._metrics = metrics

    def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        """Passes a call on, or answers it with the error."""
        found = {key: value for key, value in handler_call_details.invocation_metadata or () if key == "authorization"}
        try:
            self._access.check(str(found.get("authorization", "")), "")
        except RequestError as error:
            self._metrics.access_refused("grpc")
            return _refusing(error)
        return continuation(handler_call_details)


def _refusing(error: LinesideError) -> grpc.RpcMethodHandler:
    """Returns a handler for any kind of method that ends it with an error."""

    def refuse(requests: Iterator[bytes], context: grpc.ServicerContext) -> NoReturn:
        _abort(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)


def make_server(service: Service, access: Access) -> grpc.Server:
    """Returns a gRPC server that isn't bound to an address yet."""
    threads = service.limits.max_in_flight + STREAMS_MAX + SPARE_THREADS
    return grpc.server(
        ThreadPoolExecutor(threads, "lineside-grpc"),
        handlers=GrpcApi(service).handlers(),
        interceptors=(_Guard(access, service.metrics),),
        maximum_concurrent_rpcs=2 * threads,
        options=(
            ("grpc.max_receive_message_length", service.limits.max_body_bytes),
            ("grpc.so_reuseport", 0),  # else a second server on the same port would take half of the calls
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
        ),
    )


def bind(server: grpc.Server, address: str, tls: tuple[bytes, bytes] | None) -> int:
    """Binds a server.

    Args:
        address: ``host:port``; port 0 for any.
        tls: Key and certificate chain in PEM; ``None`` for none.

    Returns:
        The port.

    Raises:
        ConfigError: The port is taken or may not be used.
    """
    try:
        if not 0 <= int(address.rpartition(":")[2]) <= PORT_MAX:  # gRPC takes -1 for 65535
            raise ValueError("no port")
        if tls is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, grpc.ssl_server_credentials([tls])))
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            "--grpc-port", expected="a free port", actual=address, action="Choose another port."
        ) from error
