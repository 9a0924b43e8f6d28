"""Contract of import-linter: what a component keeps private is imported by no other component.

A module is public if every package above it, up to the component, lists it in ``__all__``.
"""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class PublicModules(Contract):
    """Other components import only public modules of ``components``."""

    components = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002, RUF100 - the interface's
        found = []
        for component in self.components:  # type: ignore[attr-defined]  # a field is its value on an instance
            for module in sorted(graph.find_descendants(component)):
                importers = graph.find_modules_that_directly_import(module)
                outside = sorted(name for name in importers if name.split(".")[0] != component)
                if outside and not is_public(module):
                    found += [(importer, module) for importer in outside]
        return ContractCheck(kept=not found, metadata={"found": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for importer, module in check.metadata["found"]:
            output.print_error(f"{importer} imports {module}, which is private")


def is_public(module: str) -> bool:
    """Whether ``__all__`` of each package above a module lists the next name on the way to it."""
    parts = module.split(".")
    return all(parts[depth] in exported(".".join(parts[:depth])) for depth in range(1, len(parts)))


def exported(package: str) -> list[str]:
    """Returns ``__all__`` of a package, without importing it."""
    spec = importlib.util.find_spec(package.split(".")[0])
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(package)
    path = Path(spec.origin).parent.joinpath(*package.split(".")[1:], "__init__.py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    return []
