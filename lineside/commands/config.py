"""``lineside config schema``."""

from __future__ import annotations

import argparse
import json
from typing import Any

import msgspec

from lineside_runtime.errors import InputError

SCHEMAS = ("agent", "hub", "messages", "train-detector", "train-classifier", "train-segmenter")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the one action."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    schema = actions.add_parser(
        "schema",
        help="the JSON Schema of a configuration file or of the link's messages",
        description="Prints the JSON Schema of a configuration file or of the link's messages.",
    )
    schema.add_argument("of", choices=SCHEMAS, nargs="?", default="agent", help="which (default: %(default)s)")
    schema.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints a JSON Schema on stdout."""
    print(json.dumps(_schema(options.of), indent=2))
    return 0


def _schema(of: str) -> dict[str, Any]:
    if of == "agent":
        from lineside_agent.config import AgentConfig

        return msgspec.json.schema(AgentConfig)
    if of == "hub":
        from lineside_hub.config import HubConfig

        return msgspec.json.schema(HubConfig)
    if of == "messages":
        from lineside_link import messages

        return messages.schema()
    if of == "train-detector":
        from lineside_converters.training.config import TrainConfig

        return msgspec.json.schema(TrainConfig)
    if of == "train-classifier":
        from lineside_converters.training.config_classifier import ClassifierConfig

        return msgspec.json.schema(ClassifierConfig)
    if of == "train-segmenter":
        from lineside_converters.training.config_segmenter import SegmenterConfig

        return msgspec.json.schema(SegmenterConfig)
    raise InputError(f"no schema of {of!r}", expected=", ".join(SCHEMAS))
