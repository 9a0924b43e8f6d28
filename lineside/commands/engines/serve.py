"""``lineside serve``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lineside import __version__
from lineside.console import print_json, show
from lineside.extras import needs
from lineside.options import add_json, bundle_path
from lineside_runtime.cache.config import CacheConfig

_DESCRIPTION = """\
Serves bundles over the Open Inference Protocol (KServe v2): REST under /v2, gRPC, and Prometheus' /metrics,
for tritonclient and other clients of that protocol.

Listens on this machine only, unless --host says otherwise and --token-file protects it.
"""
_EPILOG = """\
example:
  lineside serve surface-12
  curl localhost:8000/v2/models/surface-12
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "bundles",
        nargs="+",
        type=bundle_path,
        metavar="BUNDLE",
        help="a bundle's folder, a .lsb file, or the name of a shipped bundle",
    )
    where = parser.add_argument_group("addresses")
    where.add_argument("--host", default="127.0.0.1", help="name or address to listen on (default: %(default)s)")
    where.add_argument("--http-port", type=int, default=8000, help="0 for any free one (default: %(default)s)")
    where.add_argument("--grpc-port", type=int, default=8001, help="0 for any free one (default: %(default)s)")
    who = parser.add_argument_group("access")
    who.add_argument(
        "--token-file", type=Path, metavar="FILE", help="clients must send its line as: Authorization: Bearer LINE"
    )
    who.add_argument("--tls-key", type=Path, metavar="FILE", help="private key in PEM")
    who.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain in PEM")
    who.add_argument("--model-control", action="store_true", help="clients may reload, unload and load these bundles")
    _add_limits(parser.add_argument_group("limits"))
    engine = parser.add_argument_group("engines")
    engine.add_argument("--engine", action="append", metavar="NAME", help="use these engines only; repeatable")
    engine.add_argument("--fallback", default="sequential", choices=["sequential", "fastest", "error"])
    engine.add_argument("--threads", type=int, metavar="N", help="threads of one call on a CPU")
    kept = parser.add_argument_group("cache of results, for frames that are identical")
    kept.add_argument(
        "--cache-mb", type=int, default=0, metavar="MIB", help="in memory, for each model (default: none)"
    )
    kept.add_argument("--cache-sqlite", type=Path, metavar="FILE", help="shared by the processes of this machine")
    kept.add_argument(
        "--cache-redis", action="append", metavar="URL", help="shared across hosts; repeatable for a cluster's nodes"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def _add_limits(how: argparse._ArgumentGroup) -> None:
    how.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), help="calls that run at once (default: one a core)"
    )
    how.add_argument(
        "--max-in-flight",
        type=int,
        default=32,
        help="calls that run or wait; further ones get 503 (default: %(default)s)",
    )
    how.add_argument(
        "--max-body-mb", type=int, default=64, metavar="MIB", help="largest request (default: %(default)s)"
    )
    how.add_argument(
        "--timeout-s", type=float, default=30.0, metavar="S", help="longest time of a call (default: %(default)s)"
    )
    how.add_argument(
        "--header-timeout-s",
        type=float,
        default=10.0,
        metavar="S",
        help="for a request's header (default: %(default)s)",
    )
    how.add_argument(
        "--drain-s",
        type=float,
        default=1.0,
        metavar="S",
        help="answer so long after SIGTERM while not ready (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT."""
    with needs("serve"):
        from lineside_runtime.server.access import read_token, resolve
        from lineside_runtime.server.limits import MIB, ServerLimits
        from lineside_runtime.server.process import Binding, Running, serve
        from lineside_runtime.server.repository import ModelRepository
        from lineside_runtime.server.service import Service
    from lineside_models.recommendation.inference_interface import interface_of
    from lineside_runtime.config import Config

    token = read_token(options.token_file) if options.token_file is not None else None
    resolve(options.host, token)  # before the models are loaded, which takes long
    limits = ServerLimits(
        workers=options.workers,
        max_in_flight=max(options.max_in_flight, options.workers),
        max_body_bytes=options.max_body_mb * MIB,
        request_timeout_s=options.timeout_s,
        header_timeout_s=options.header_timeout_s,
    )
    config = Config(
        engines=options.engine,
        fallback_strategy=options.fallback,
        threads=options.threads,
        submit_workers=limits.workers,
        submit_queue=limits.max_in_flight,
        cache=_cache(options),
    )
    repository = ModelRepository(options.bundles, config, interface_of)
    service = Service(repository, limits, version=__version__, model_control=options.model_control)

    def announce(running: Running) -> None:
        models = [model.manifest.identity for model in repository.models]
        if options.json:
            print_json({"http": running.http, "grpc": running.grpc, "models": models})
        else:
            show(f"serving {', '.join(models)} at {running.http}/v2 and grpc://{running.grpc}", flush=True)

    binding = Binding(
        host=options.host,
        http_port=options.http_port,
        grpc_port=options.grpc_port,
        token=token,
        tls_key=options.tls_key,
        tls_certificate=options.tls_cert,
    )
    serve(service, binding, on_started=announce, drain_s=options.drain_s)
    return 0


def _cache(options: argparse.Namespace) -> CacheConfig | None:
    if not (options.cache_mb or options.cache_sqlite or options.cache_redis):
        return None
    return CacheConfig(
        memory_bytes=options.cache_mb << 20, sqlite=options.cache_sqlite, redis=tuple(options.cache_redis or ())
    )
