"""Verdicts over a serial line: a real pty pair, with the line's side read here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside_agent.config import SerialLineConfig as SerialConfig
from lineside_agent.line_io import LineOutput, Signal, open_output
from lineside_agent.line_io.events import Code, DefectSummary, Fault, LineState, Verdict
from lineside_agent.line_io.serial_ import line_of
from tests.agent.line_io.serial_peer import SerialPeer
from tests.peers.waiting import wait_for


@pytest.fixture
def output(peer: SerialPeer) -> Iterator[LineOutput]:
    made = open_output(SerialConfig(port=str(peer.path), timeout_s=0.2))
    yield made
    made.close()


def test_line_hears_each_verdict_in_order(peer: SerialPeer, output: LineOutput) -> None:
    verdicts: tuple[Verdict, ...] = ("pass", "reject", "fault")
    for sequence, verdict in enumerate(verdicts):
        assert output.signal(Signal(sequence, f"part-{sequence}", verdict))
    wait_for(lambda: len(peer.heard()) == 3)
    assert peer.heard() == [b"V 0 PASS part-0", b"V 1 REJECT part-1", b"V 2 FAULT part-2"]
    assert (output.sent, output.missed) == (3, 0)


def test_name_of_a_part_cannot_forge_a_line() -> None:
    assert line_of(Signal(4, "a b\nV 5 PASS é", "reject")) == b"V 4 REJECT a_b_V_5_PASS__\n"


def test_line_of_a_part_says_what_was_found_where_it_is_configured() -> None:
    found = DefectSummary("rolled in\nscale", 3, 2, 0.934, "kamera oben")
    signal = Signal(4, "A-1", "reject", Code.REJECT, defects=found)
    assert line_of(signal) == b"V 4 REJECT A-1\n"
    assert line_of(signal, defects=True) == b"V 4 REJECT A-1 REJECT rolled_in_scale 2 0.93 kamera_oben\n"
    assert line_of(Signal(5, "", "fault", Code.LATE), defects=True) == b"V 5 FAULT - LATE - 0 0.00 -\n"


def test_port_that_is_not_there_is_counted_and_tried_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    output = open_output(SerialConfig(port=str(tmp_path / "none")))
    assert not any(output.signal(Signal(n, "p", "pass")) for n in range(100))
    assert output.missed == 100
    assert len([record for record in caplog.records if "tried again" in record.message]) == 1


def test_lost_port_is_opened_again(peer: SerialPeer, output: LineOutput) -> None:
    assert output.signal(Signal(0, "p", "pass"))
    peer.unplug()
    wait_for(lambda: not output.signal(Signal(1, "p", "pass")))
    peer.plug_in()
    wait_for(lambda: output.signal(Signal(2, "p", "reject")))
    wait_for(lambda: b"V 2 REJECT p" in peer.heard())
    assert output.missed >= 1
    assert peer.heard()[0] == b"", "what the loss has torn is ended, or the next line would be glued to it"


def test_port_that_a_verdict_opens_again_is_told_the_levels_first(peer: SerialPeer, output: LineOutput) -> None:
    output.show(LineState(ready=True, recipe="A"))
    assert output.signal(Signal(0, "p", "pass"))
    output.show(LineState(busy=True, recipe="A"))
    peer.unplug()
    wait_for(lambda: not output.signal(Signal(1, "p", "pass")))
    output.show(LineState(fault=Fault.LATE, recipe="B"))
    peer.plug_in()
    wait_for(lambda: output.signal(Signal(2, "p", "reject")))
    wait_for(lambda: b"V 2 REJECT p" in peer.heard())
    assert peer.heard()[:4] == [b"", b"P B", b"S WAIT 1 0", b"V 2 REJECT p"]


def test_port_that_takes_nothing_when_it_is_opened_again_is_opened_once_more(
    peer: SerialPeer, output: LineOutput, caplog: pytest.LogCaptureFixture
) -> None:
    wait_for(lambda: not output.signal(Signal(0, "p" * 200, "pass")), what="a full line")
    failures = len(caplog.records)
    wait_for(lambda: not output.signal(Signal(1, "p", "pass")) and len(caplog.records) > failures)

    def takes() -> bool:
        peer.heard()
        return output.signal(Signal(2, "p", "reject"))

    wait_for(takes, what="a line that reads again")


def test_line_that_reads_nothing_is_given_up(output: LineOutput) -> None:
    told = [output.signal(Signal(sequence, "p" * 200, "pass")) for sequence in range(400)]
    assert told[0] and not told[-1]
    assert output.missed == told.count(False)
