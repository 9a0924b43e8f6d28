"""``lineside agent mark``."""

from __future__ import annotations

import argparse

from lineside.console import inform, print_json
from lineside.options import Actions, add_agent_config, add_json


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    mark = actions.add_parser(
        "mark",
        help="mark the last verdict on a part as wrong, so that a person corrects it",
        description="Marks the last record of a part on this machine; the agent reports it to the hub, whose next "
        "`lineside relabel export` selects it. The agent must have kept its frame.",
    )
    mark.add_argument("part", metavar="PART_ID")
    add_agent_config(mark)
    which = mark.add_mutually_exclusive_group(required=True)
    which.add_argument("--wrong", action="store_true", help="the verdict is wrong")
    which.add_argument("--right", action="store_true", help="the verdict is right: remove the mark")
    mark.add_argument("--note", default="", help="for the person who corrects it")
    add_json(mark)
    mark.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Marks the verdict, and reports whether its frame was kept."""
    from lineside_agent.config import read_config
    from lineside_agent.storage.images import ImageArchive
    from lineside_agent.storage.verdict_marks import add as add_mark

    config = read_config(options.config)
    marked = add_mark(config.folder, options.part, wrong=options.wrong, note=options.note)
    has_frame = ImageArchive(config.folder, config.store).path(marked.source, marked.sequence).is_file()
    if options.json:
        print_json({"marked": marked, "has_frame": has_frame, "hub": config.link is not None})
        return 0
    inform(f"{marked.verdict} on part {marked.part_id} is {'wrong' if options.wrong else 'right'}")
    if not has_frame:
        inform("its frame is not on this device: it was not kept (see keep_images under [store]), or was deleted since")
    if config.link is None:
        inform("this agent has no hub to report to")
    return 0
