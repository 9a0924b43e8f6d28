from __future__ import annotations

import pytest

from tests.ci.import_cycles import cycle_in


def test_modules_that_only_import_downwards_have_no_cycle() -> None:
    assert cycle_in({"top": {"left", "right"}, "left": {"low"}, "right": {"low"}, "low": set()}) == []


@pytest.mark.parametrize("lonely", [{}, {"other": {"a"}}])
def test_cycle_is_named_with_each_module_importing_the_next(lonely: dict[str, set[str]]) -> None:
    imports = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set[str](), **lonely}
    cycle = cycle_in(imports)
    assert sorted(cycle) == ["a", "b", "c"]
    assert all(after in imports[module] for module, after in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
