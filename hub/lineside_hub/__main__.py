"""``python -m lineside_hub``: the hub and the embedded broker without the whole command line."""

from __future__ import annotations

import argparse
import logging
import sys

from lineside_hub.broker import run_broker
from lineside_hub.server import run
from lineside_runtime.errors import LinesideError


def main() -> int:
    """Runs one of the two processes."""
    parser = argparse.ArgumentParser(prog="lineside_hub")
    parser.add_argument("--log-level", default="info")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run").add_argument("--config", required=True)
    broker = commands.add_parser("broker")
    broker.add_argument("--host", default="127.0.0.1")
    broker.add_argument("--port", type=int, default=1883)
    options = parser.parse_args()
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return run(options.config) if options.command == "run" else run_broker(options.host, options.port)
    except LinesideError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
