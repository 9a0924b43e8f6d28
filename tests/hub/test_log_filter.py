"""A device that sends what can't be read, thousands of times, fills no log; its text begins no line of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from lineside_link import log_filter
from lineside_link.log_filter import KINDS_MAX, SHOWN, LogFilter
from tests.peers import Broker, wait_for
from tests.worlds.hub import HubProcess
from tests.worlds.results_device import ResultsDevice


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    monkeypatch.setattr(log_filter, "WINDOW_S", 0.2)
    written: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: written.append(record.getMessage())  # type: ignore[method-assign]
    handler.addFilter(LogFilter())
    logger = logging.getLogger("test.flood")
    logger.addHandler(handler)
    logger.propagate = False
    yield written
    logger.removeHandler(handler)


def test_repeats_are_counted_and_the_next_window_says_how_many(lines: list[str]) -> None:
    logger = logging.getLogger("test.flood")
    for number in range(50):
        logger.error("%s: %s", "repo/get/cam-1", number)
        logger.error("%s: %s", "repo/get/cam-2", number)
    assert len(lines) == 2 * SHOWN

    def said() -> bool:
        logger.error("%s: %s", "repo/get/cam-1", "late")
        return any("more like this were left out" in line for line in lines)

    wait_for(said, what="the next window")
    [counted] = [line for line in lines if "left out" in line]
    assert int(counted.rpartition("(")[2].split()[0]) >= 50 - SHOWN


def test_text_with_control_characters_stays_on_its_line(lines: list[str]) -> None:
    logging.getLogger("test.flood").error("%s: %s", "up", "x\n2026-01-01 INFO all is well \x1b[2J\x9b2J")
    assert lines == ["up: x\\x0a2026-01-01 INFO all is well \\x1b[2J\\x9b2J"]


def test_kinds_without_end_are_one_kind(lines: list[str]) -> None:
    logger = logging.getLogger("test.flood")
    for number in range(KINDS_MAX + 1000):
        logger.error("%s is unknown", f"cam-{number}")
    assert len(lines) <= KINDS_MAX + SHOWN * 100


def test_new_kinds_are_shown_again_when_a_flood_is_long_over(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("test.flood")
    for number in range(KINDS_MAX + 1000):
        logger.error("%s is unknown", f"cam-{number}")
    monkeypatch.setattr(log_filter, "FORGOTTEN_AFTER_S", 0.0)
    for number in range(10):
        logger.error("%s is new", number)
    assert [line for line in lines if line.endswith("is new")] == [f"{number} is new" for number in range(10)]


@pytest.mark.parametrize("broker", ["mosquitto"], indirect=True)
def test_malformed_requests_fill_no_log(hub_process: HubProcess, device: ResultsDevice, broker: Broker) -> None:
    wait_for(lambda: device.send(1, 1) and device.acked == 1, what="the hub")
    for _ in range(2000):
        device.link.publish(f"ls/v1/test/repo/get/{device.name}", b"{broken")
    wait_for(lambda: device.send(2, 2) and device.acked == 2, what="the messages before")
    assert 1 <= hub_process.log.count("RepoRequest") <= 3 * SHOWN, hub_process.log[-2000:]
