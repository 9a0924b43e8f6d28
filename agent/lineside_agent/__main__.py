"""``python -m lineside_agent --config agent.toml``: ``lineside agent run`` without its console output."""

from __future__ import annotations

import argparse
import sys

from lineside_agent.daemon import run
from lineside_runtime.errors import LinesideError


def main() -> int:
    """Runs the agent."""
    parser = argparse.ArgumentParser(prog="lineside_agent")
    parser.add_argument("--config", required=True, metavar="FILE", help="agent.toml")
    try:
        return run(parser.parse_args().config)
    except LinesideError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
