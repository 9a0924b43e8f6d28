"""Names, sizes and imports of the product's code."""

from __future__ import annotations

import pytest

from tests.ci.import_cycles import cycle_in
from tests.ci.structure import FILE_LINES, FUNCTION_LINES, PACKAGE_FILES, problems


def test_long_functions_long_files_crowded_packages_and_double_names_are_found() -> None:
    body = "\n".join("    x = 1" for _ in range(FUNCTION_LINES))
    files = [
        ("hub/lineside_hub/one.py", f"class Twice: ...\ndef long():\n{body}\n"),
        ("agent/lineside_agent/two.py", "class Twice: ...\nclass _Private: ...\n" + "\n" * FILE_LINES),
        ("link/lineside_link/three.py", "class _Private: ...\n"),
        *((f"link/lineside_link/crowded/m{i}.py", "") for i in range(PACKAGE_FILES + 1)),
    ]
    found = problems(iter(files))
    assert len(found) == 4
    assert found[0].startswith("hub/lineside_hub/one.py:2: long has 61 lines")
    assert found[1].startswith("agent/lineside_agent/two.py: 602 lines")
    assert "Twice" in found[2]
    assert "crowded" in found[3]


def test_public_subclasses_of_one_base_name_are_allowed_where_they_resolve_shipped_bundles() -> None:
    text = "class Session: ...\n"
    assert not problems(iter([("lineside/shipped.py", text), ("runtime/lineside_runtime/session.py", text)]))


def test_modules_that_only_import_downwards_have_no_cycle() -> None:
    assert cycle_in({"top": {"left", "right"}, "left": {"low"}, "right": {"low"}, "low": set()}) == []


@pytest.mark.parametrize("lonely", [{}, {"other": {"a"}}])
def test_cycle_is_named_with_each_module_importing_the_next(lonely: dict[str, set[str]]) -> None:
    imports = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set[str](), **lonely}
    cycle = cycle_in(imports)
    assert sorted(cycle) == ["a", "b", "c"]
    assert all(after in imports[module] for module, after in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
