"""``lineside config``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from lineside.config_schema import described, schema_of
from lineside.extras import needs
from lineside_runtime.errors import InputError

SCHEMAS = (
    "agent",
    "hub",
    "messages",
    "model",
    "train-detector",
    "train-classifier",
    "train-segmenter",
    "train-recommender",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    schema = actions.add_parser(
        "schema",
        help="print the JSON Schema of a configuration file, of a model's .toml, or of the MQTT messages",
        description="Prints the JSON Schema of a configuration file, of the .toml beside a bare model (model), or of "
        "the MQTT messages.",
    )
    schema.add_argument("of", choices=SCHEMAS, nargs="?", default="agent", help="which (default: %(default)s)")
    schema.set_defaults(run=run)
    mask = actions.add_parser(
        "mask",
        help="convert a PNG mask into a region for agent.toml",
        description="Prints a PNG mask, white on black, as TOML of a region to inspect or to ignore, for agent.toml or "
        "`lineside push --config`.",
    )
    mask.add_argument("png", type=Path, help="the mask; it is stretched over the whole frame")
    mask.add_argument("--kind", choices=("inspect", "ignore"), required=True, help="meaning of its white part")
    mask.add_argument(
        "--types", nargs="+", default=[], metavar="TYPE", help="defect types of the region (default: all)"
    )
    mask.set_defaults(run=run_mask)


def run(options: argparse.Namespace) -> int:
    """Prints a JSON Schema on stdout."""
    print(json.dumps(_schema(options.of), indent=2))
    return 0


def run_mask(options: argparse.Namespace) -> int:
    """Prints a region as TOML on stdout, checked against the size limit of pushed settings."""
    from lineside_agent.config import read_settings
    from lineside_models.verdict.regions import Region

    region = Region.from_png(options.png, options.kind, types=options.types)
    with needs("convert"):
        text = msgspec.toml.encode({"inspect": {"regions": [region]}})
    read_settings(text)
    sys.stdout.write(text.decode())
    return 0


def _schema(of: str) -> dict[str, Any]:
    if of == "agent":
        from lineside_agent.config import AgentConfig

        return schema_of(AgentConfig)
    if of == "hub":
        from lineside_hub.config import HubConfig

        return schema_of(HubConfig)
    if of == "messages":
        from lineside_link import messages

        return described(messages.schema(), messages.KINDS)
    if of == "model":
        from lineside_models.vision.model_facts import ModelFacts

        return schema_of(ModelFacts)
    if of == "train-detector":
        from lineside_converters.training.detection.config import DetectorConfig

        return schema_of(DetectorConfig)
    if of == "train-recommender":
        from lineside_converters.training.recommendation.config import RecommenderConfig

        return schema_of(RecommenderConfig)
    if of == "train-classifier":
        from lineside_converters.training.classification.config import ClassifierConfig

        return schema_of(ClassifierConfig)
    if of == "train-segmenter":
        from lineside_converters.training.segmentation.config import SegmenterConfig

        return schema_of(SegmenterConfig)
    raise InputError(f"no schema of {of!r}", expected=", ".join(SCHEMAS))
