"""What all tests share."""

import pytest

pytest_plugins = ["tests.peers"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files that hold a slow test first, so that none of them runs alone at the end of a parallel run."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
