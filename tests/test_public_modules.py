"""What components say is public is there, and nothing else is."""

from __future__ import annotations

import importlib
import importlib.util

import pytest

from tests.public_modules import exported, is_public


@pytest.mark.parametrize(
    ("module", "public"),
    [
        ("lineside_agent.cameras.probe", True),
        ("lineside_agent.cameras.child", False),
        ("lineside_link.messages", True),
        ("lineside_link.messages.results", False),
        ("lineside_link.client.client", True),
        ("lineside_link.client.packets", False),
        ("lineside_converters.optimizer", True),
        ("lineside_converters.gates.runner", False),
        ("lineside_hub.rollouts.push", True),
        ("lineside_hub.results.frames.rows", False),
    ],
)
def test_a_module_is_public_if_every_package_above_it_lists_it(module: str, public: bool) -> None:
    assert is_public(module) == public


@pytest.mark.parametrize("component", ["lineside_agent", "lineside_converters", "lineside_hub", "lineside_link"])
def test_every_listed_module_is_there(component: str) -> None:
    packages = [component]
    for package in packages:
        for name in exported(package):
            full = f"{package}.{name}"
            spec = importlib.util.find_spec(full)
            assert spec is not None or hasattr(importlib.import_module(package), name), full
            if spec is not None and spec.submodule_search_locations is not None and full != "lineside_link.messages":
                packages.append(full)
