"""What the inference server is measured against: the same HTTP and gRPC stacks, which send fixed bytes.

python -m benchmarks.runtime.bare_server ANSWER_BYTES
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

METHOD = "/bare.Bare/Answer"


class _Bare(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self._answer)


def main(answer_bytes: int) -> None:
    """Serves until it is killed; prints both ports first."""
    answer = bytes(answer_bytes)

    async def respond(request: Request) -> Response:
        await request.body()
        return Response(answer)

    server = grpc.server(ThreadPoolExecutor(8), handlers=[_Bare(answer)])
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    app = Starlette(routes=[Route("/", respond, methods=["POST"])])
    config = uvicorn.Config(
        app, http="h11", loop="asyncio", lifespan="off", log_config=None, access_log=False, timeout_keep_alive=75
    )
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # so that asyncio sets TCP_NODELAY
    listener.bind(("127.0.0.1", 0))
    print(json.dumps({"http": listener.getsockname()[1], "grpc": grpc_port}), flush=True)
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    main(int(sys.argv[1]))
