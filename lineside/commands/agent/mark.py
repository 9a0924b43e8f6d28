"""``lineside agent mark``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lineside.console import print_json, say
from lineside.options import add_json


def add(actions: Any) -> None:
    """Adds the action."""
    mark = actions.add_parser(
        "mark",
        help="say that the last verdict on a part was wrong, so that a person looks at it",
        description="Marks the last record of a part on this machine; the agent tells the hub, whose next `lineside "
        "relabel export` selects it. Its frame must be among those that the agent keeps.",
    )
    mark.add_argument("part", metavar="PART_ID")
    mark.add_argument("--config", type=Path, required=True, metavar="FILE", help="agent.toml")
    which = mark.add_mutually_exclusive_group(required=True)
    which.add_argument("--wrong", action="store_true", help="the verdict is wrong")
    which.add_argument("--right", action="store_true", help="it is right: takes the mark back")
    mark.add_argument("--note", default="", help="for whoever corrects it")
    add_json(mark)
    mark.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Marks it, and says whether there is a frame to look at."""
    from lineside_agent.config import read_config
    from lineside_agent.storage.images import ImageArchive
    from lineside_agent.storage.verdict_marks import add as say_so

    config = read_config(options.config)
    marked = say_so(config.folder, options.part, wrong=options.wrong, note=options.note)
    has_frame = ImageArchive(config.folder, config.store).path(marked.source, marked.sequence).is_file()
    if options.json:
        print_json({"marked": marked, "has_frame": has_frame, "hub": config.link is not None})
        return 0
    say(f"{marked.verdict} on part {marked.part_id} is {'wrong' if options.wrong else 'right'}")
    if not has_frame:
        say("its frame is not on this device: it wasn't kept (see keep_images under [store]), or has made way")
    if config.link is None:
        say("this agent has no hub to tell")
    return 0
