"""Prove that no component has an import cycle between its modules: ``python -m tests.ci.import_cycles``.

Imports under ``TYPE_CHECKING`` and inside functions count. What two modules need of each other belongs into a module
below both, or the upper one hands itself down as a callback.
"""

from __future__ import annotations

import graphlib
import itertools
import sys

import grimp

COMPONENTS = (
    "lineside",
    "lineside_agent",
    "lineside_boards",
    "lineside_converters",
    "lineside_hub",
    "lineside_link",
    "lineside_models",
    "lineside_runtime",
)


def cycle_in(imports: dict[str, set[str]]) -> list[str]:
    """Returns the modules of a cycle, each importing the next and the last the first; none if there is no cycle."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))[1:]
    return []


def report(component: str) -> str:
    """Returns a cycle of a component with the lines that import, for people; an empty text if it has none."""
    graph = grimp.build_graph(component, cache_dir=None)
    cycle = cycle_in({module: graph.find_modules_directly_imported_by(module) for module in graph.modules})
    lines = []
    for importer, imported in itertools.pairwise([*cycle, *cycle[:1]]):
        found = graph.get_import_details(importer=importer, imported=imported)[0]
        lines.append(f"  {importer}:{found['line_number']}: {found['line_contents']}")
    return "\n".join(lines)


def main() -> int:
    """Prints a cycle of each component that has one; returns 1 if there is any."""
    cycles = {component: text for component in COMPONENTS if (text := report(component))}
    for component, text in cycles.items():
        sys.stderr.write(f"{component}: these modules import each other in a circle\n{text}\n")
    if cycles:
        sys.stderr.write("Move what both need into a module below both, or pass a callback down.\n")
    return 1 if cycles else 0


if __name__ == "__main__":
    sys.exit(main())
