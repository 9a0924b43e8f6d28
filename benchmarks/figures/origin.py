"""The line under a table: result file, date, machine, load, commit, and whether the measured code has changed since."""

from __future__ import annotations

from pathlib import Path

from benchmarks.figures.forms import fixed
from benchmarks.figures.results import Value, path_of
from benchmarks.provenance import sources_sha256

INSTRUCTIONS = {
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX VNNI",
    "amx_int8": "AMX INT8",
    "asimddp": "NEON dot product",
    "i8mm": "NEON I8MM",
}


class Origins:
    """Writes source lines; compares the same sources once.

    Attributes:
        root: Of the repository, whose sources are compared with those that were measured.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sha256: dict[tuple[str, ...], str] = {}

    def line(self, name: str, result: Value, *, ages: bool) -> str:
        """Returns the line about one result file.

        Args:
            name: Of the result file.
            ages: Say whether the measured code has changed since.
        """
        where = f"Source: `{path_of(name)}`"
        if "provenance" not in result:
            machine = f", {result['machine']['cpu'].text}, {_cores(result['machine'])}" if "machine" in result else ""
            return f"{where}{machine}; date, instructions, load and commit not recorded, **stale**."
        found = result["provenance"]
        load = fixed(found["load_average"].numbers[0], 1)
        commit = f"commit `{found['commit'].text[:7]}`" if found["commit"].text else "no commit"
        changed = " with changes" if found["dirty"].truth else ""
        stale = ages and self._is_stale(found["sources"])
        return (
            f"{where}, {found['date'].text[:10]}, {_processor(found)}, {_cores(found)}, load {load} before it began, "
            f"{commit}{changed}{', **stale**: the measured code has changed since' if stale else ''}."
        )

    def _is_stale(self, sources: Value) -> bool:
        paths = tuple(each.text for each in sources["paths"].values())
        if paths not in self._sha256:
            self._sha256[paths] = sources_sha256(paths, root=self.root)
        return self._sha256[paths] != sources["sha256"].text


def _cores(machine: Value) -> str:
    count = machine["cores"].number
    return f"{count:.0f} core{'' if count == 1 else 's'}"


def _processor(provenance: Value) -> str:
    flags = [each.text for each in provenance["instructions"].values()]
    known = [INSTRUCTIONS[flag] for flag in flags if flag in INSTRUCTIONS]
    return f"{provenance['processor'].text} ({', '.join(known) or 'no INT8 dot product'})"
