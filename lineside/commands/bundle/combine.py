"""``lineside bundle combine``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.console import print_json, show
from lineside.extras import needs
from lineside.options import Actions, add_json, add_overwrite
from lineside_runtime.errors import ConfigError

if TYPE_CHECKING:
    from lineside_runtime.config import Config


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "combine",
        help="make one bundle of several that inspect one part",
        description="Writes a bundle of several models with one verdict, such as one that finds the part and one that "
        "inspects it. The file lists them as [[model]] with name and bundle; of = NAME inspects the boxes of a model "
        "before it instead of the frame, and [model.inspect] says where the model runs and what counts as a defect. "
        "The bundle is pushed, tried and rolled back as a whole. See examples/combination.toml.",
    )
    parser.add_argument("file", type=Path, help="TOML with name, version and [[model]] tables")
    parser.add_argument("out", type=Path, help="the new folder")
    add_overwrite(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Combines, and prints the folder."""
    with needs("convert"):
        from lineside_converters.bundles.combination import combine, read_combination
    from lineside_agent.config import InspectConfig, engine_settings, model_inspect

    combination = read_combination(options.file)
    for model in combination.model:
        _check_engines(engine_settings(model_inspect(InspectConfig(), model.entry)), f"$.model[{model.name}].inspect")
    bundle = combine(combination, options.file.resolve().parent, options.out, overwrite=options.overwrite)
    if options.json:
        print_json({"bundle": bundle.path, "digest": bundle.digest, "models": bundle.manifest.several})
        return 0
    show(bundle.path)
    return 0


def _check_engines(config: Config, path: str) -> None:
    """Refuses engines that do not exist: a device takes them for missing ones, and runs the model elsewhere."""
    from lineside_runtime import registry

    known = (*registry.names(), *registry.BY_NAME_ONLY)
    for key in ("engines", "isolate", "stage_engines"):
        for given in getattr(config, key) or ():
            if given.partition("/")[0] not in known:
                raise ConfigError(
                    f"{path}.{key}",
                    expected=f"some of {', '.join(known)}",
                    actual=given,
                    action="Correct the name; an engine of another package must be installed here, too.",
                )
