"""What registers mean, and that ``docs/reference/modbus.md`` says the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside_agent.config.line_io import ModbusTcpClientConfig
from lineside_agent.line_io.base import Signal
from lineside_agent.line_io.events import (
    ChallengeRequested,
    Code,
    DefectSummary,
    Encoder,
    Fault,
    LineState,
    PartAcknowledged,
    ResetPressed,
    SelectRecipe,
    TriggerAnswer,
    Triggered,
)
from lineside_agent.line_io.modbus.register_map import (
    COILS,
    CONTROL_BITS,
    FIRST_REGISTERS,
    IN_FIELDS,
    IN_REGISTERS,
    OUT_FIELDS,
    OUT_REGISTERS,
    STATUS_BITS,
    InBlock,
    OutBlock,
    text_of,
    text_registers,
)

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "modbus.md"


def triggers(events: list[object]) -> list[tuple[int, bool]]:
    return [(event.tag & 0xFFFF, event.missed) for event in events if isinstance(event, Triggered)]


def test_first_count_is_one_trigger_whatever_it_was_before() -> None:
    block = InBlock("x")
    assert triggers([*block.write_registers(0, [537])]) == [(537, False)]
    assert triggers([*block.write_registers(0, [537])]) == []
    assert triggers([*block.write_registers(0, [538])]) == [(538, False)]


def test_counter_that_jumps_missed_the_parts_before_the_last() -> None:
    block = InBlock("x")
    block.write_registers(0, [65534])
    assert triggers([*block.write_registers(0, [1])]) == [(65535, True), (0, True), (1, False)]


def test_counter_that_begins_anew_is_one_trigger() -> None:
    block = InBlock("x")
    block.write_registers(0, [500])
    assert triggers([*block.write_registers(0, [1])]) == [(1, False)]


def test_answers_from_before_a_restart_of_the_plc_bear_none_of_its_new_counts() -> None:
    requests = InBlock("plc")
    block = OutBlock(requests)
    for count in (500, 1):
        (trigger,) = [event for event in requests.write_registers(0, [count]) if isinstance(event, Triggered)]
        block.add_result(Signal(count, "p", "pass", Code.PASS, "plc", trigger.tag))
        if count == 500:
            assert block.registers()[44] == 500
    assert [block.registers()[at] for at in (44, 48)] == [0, 1]
    requests.adopt_again([40_000, *[0] * (IN_REGISTERS - 1)])
    assert [block.registers()[at] for at in (44, 48)] == [0, 0]


def test_what_was_counted_without_a_connection_is_missed() -> None:
    block = InBlock("x")
    block.adopt([7, *[0] * (IN_REGISTERS - 1)])
    assert triggers([*block.adopt_again([9, *[0] * (IN_REGISTERS - 1)])]) == [(8, True), (9, True)]
    assert triggers([*block.adopt_again([0, *[0] * (IN_REGISTERS - 1)])]) == []
    assert triggers([*block.write_registers(0, [1])]) == [(1, False)]


def test_recipe_is_asked_for_by_a_write_of_its_own_by_a_change_and_at_the_first_look() -> None:
    block, wish = InBlock("x"), SelectRecipe(7, "x")
    assert block.write_registers(20, [7]) == [wish]
    assert block.write_registers(20, [7]) == [wish]  # alone: also if it stood there
    registers = [1, *[0] * 19, 7]
    assert block.write_registers(0, registers) == [Encoder(0), Triggered("x", "", 1)]
    assert block.write_registers(0, [2, *[0] * 19, 8]) == [SelectRecipe(8, "x"), Encoder(0), Triggered("x", "", 2)]
    assert block.write_registers(20, [0]) == []
    assert InBlock("x").adopt(registers) == [wish]
    assert wish in block.adopt_again(registers)


def test_one_write_brings_name_count_and_trigger_in_the_right_order() -> None:
    events = InBlock("x").write_registers(0, [1, 0, 1, 5, *text_registers("A-7")])
    assert events == [Encoder(65541), Triggered("x", "A-7", 1)]


def test_levels_of_registers_and_coils_are_edges() -> None:
    block = InBlock("x")
    assert block.write_registers(1, [0b111]) == [PartAcknowledged(True), ResetPressed(), ChallengeRequested()]
    assert block.write_registers(1, [0b110]) == [PartAcknowledged(False)]
    assert block.write_coils(0, [True, True, True, True]) == [
        Triggered("x", edge=True),
        PartAcknowledged(True),
        ResetPressed(),
        ChallengeRequested(),
    ]
    assert block.write_coils(1, [False]) == [PartAcknowledged(False)]
    assert block.write_coils(0, [True]) == []


@given(st.integers(0, IN_REGISTERS - 1), st.lists(st.integers(0, 65535), min_size=1, max_size=IN_REGISTERS))
def test_no_write_breaks_the_block(address: int, values: list[int]) -> None:
    block = InBlock("x")
    events = block.write_registers(address, values)
    assert len(block.registers) == IN_REGISTERS
    assert sum(isinstance(event, Triggered) and not event.missed for event in events) <= 1


@given(st.text(max_size=60))
def test_text_survives_as_ascii(text: str) -> None:
    registers = text_registers(text)
    assert len(registers) == 16
    expected = text.encode("ascii", "replace")[:32].split(b"\0")[0].decode().strip()
    assert text_of(registers) == expected


def test_block_holds_the_levels_the_last_result_and_the_ring() -> None:
    block = OutBlock(InBlock("plc"))
    answer = TriggerAnswer(70000, "A-7", "plc", 9, Code.REJECT, 0.0, 1.0, 0.0123)
    block.show(LineState(result_valid=True, fault=Fault.LATE, result=answer, recipe="b", recipe_number=7))
    for number in range(20):
        block.add_result(
            Signal(
                number, "p", "pass" if number % 2 else "fault", Code.PASS if number % 2 else Code.LATE, "plc", number
            )
        )
    block.beat()
    found = block.registers()
    assert len(found) == OUT_REGISTERS
    assert found[:4] == [1, 1, 0b10010100, 1]
    assert found[4:10] == [1, 4464, 9, 2, 123, 7]
    assert [found[at + 1] for at in range(10, 20, 2)] == [20, 10, 0, 10, 10]
    assert text_of(found[24:40]) == "A-7"
    assert found[40:42] == [0, 20]
    assert [found[42 + 4 * (number % 16) + 1] for number in range(4, 20)] == list(range(4, 20))


def test_an_unsure_part_is_a_reject_with_a_code_and_a_count_of_its_own() -> None:
    block = OutBlock(InBlock("plc"))
    block.add_result(Signal(3, "p", "reject", Code.UNSURE, "plc", 7))
    block.add_result(Signal(4, "p", "reject", Code.REJECT, "plc", 8))
    found = block.registers()
    assert found[14:16] == [0, 2]
    assert found[22:24] == [0, 1]
    assert found[42:50] == [0, 3, 7, 10, 0, 4, 8, 2]


def test_block_tells_the_defects_of_the_result_and_of_each_part_in_the_ring() -> None:
    block = OutBlock(InBlock("plc"))
    found = DefectSummary("scratches", 3, 2, 0.93456, "top", 2)
    block.show(LineState(result=TriggerAnswer(20, "A-7", "plc", 9, Code.REJECT, 0.0, 1.0, 0.01, defects=found)))
    for number in range(21):
        defects = DefectSummary("x", number + 1, 1, 1.0) if number % 3 else DefectSummary()
        block.add_result(Signal(number, "p", "reject", Code.REJECT, defects=defects))
    registers = block.registers()
    assert registers[106:110] == [3, 2, 9346, 2]
    told = [registers[110 + number % 16 // 2] >> (0 if number % 2 else 8) & 0xFF for number in range(5, 21)]
    assert told == [number + 1 if number % 3 else 0 for number in range(5, 21)]


def test_all_registers_fit_into_one_request() -> None:
    assert OUT_REGISTERS <= 123  # function 16 writes no more at once (Modbus Application Protocol 1.1b3, 6.12)


def test_pass_that_was_not_written_in_time_is_late_in_the_ring_the_result_and_the_counts() -> None:
    block = OutBlock(InBlock("plc"))
    for number, deadline_s in ((0, 1.0), (1, 1.0), (2, 9.0)):
        block.add_result(Signal(number, "p", "pass", Code.PASS, "plc", number, deadline_s=deadline_s))
    result = TriggerAnswer(1, "p", "plc", 1, Code.PASS, 0.0, 1.0, 0.01)
    block.show(LineState(result_valid=True, passed=True, result=result))
    assert (block.registers()[2] & 8, block.registers()[7]) == (8, 1)
    assert [signal.sequence for signal in block.expire(1, 5.0)] == [1]
    found = block.registers()
    assert [found[at] for at in (45, 49, 53)] == [Code.PASS, Code.LATE, Code.PASS]
    assert (found[2] & 8, found[7]) == (0, Code.LATE)
    assert [found[OUT_FIELDS[name] + 1] for name in ("answered", "passed", "faults", "late")] == [3, 2, 1, 1]
    assert not block.expire(1, 5.0)


def test_configuration_knows_the_sizes_of_the_blocks() -> None:
    for defects, written in ((False, FIRST_REGISTERS), (True, OUT_REGISTERS)):
        config = ModbusTcpClientConfig(host="plc", defects=defects)
        assert (len(config.written), len(config.read)) == (written, IN_REGISTERS)


@pytest.mark.parametrize("count", [5, 60_000])
def test_level_that_changed_while_the_connection_was_lost_counts_and_one_that_stayed_does_not(count: int) -> None:
    block = InBlock("x")
    block.adopt([5, 0b000, *[0] * (IN_REGISTERS - 2)])
    again = [count, 0b001, *[0] * (IN_REGISTERS - 2)]
    assert block.adopt_again(again) == [PartAcknowledged(True)]
    assert block.adopt_again(again) == []
    assert block.write_registers(1, [0b010]) == [PartAcknowledged(False), ResetPressed()]


def test_tag_of_another_line_is_not_given_back() -> None:
    block = OutBlock(InBlock("plc"))
    block.add_result(Signal(3, "p", "pass", Code.PASS, "local", 7))
    assert block.registers()[42:46] == [0, 3, 0, 1]


def test_count_that_wraps_around_to_0_is_never_the_tag_of_another_lines_part() -> None:
    requests = InBlock("plc")
    block = OutBlock(requests)
    requests.write_registers(0, [0xFFFF])
    block.add_result(Signal(3, "p", "pass", Code.PASS, "local", 7))
    requests.write_registers(0, [0])
    assert block.registers()[42:46] == [0, 3, 0x8000, 1]
    block.add_result(Signal(4, "p", "reject", Code.REJECT, "plc", 0))
    assert block.registers()[46:50] == [0, 4, 0, 2]
    requests.write_registers(0, [1])
    assert block.registers()[42:46] == [0, 3, 0, 1]


def test_first_count_0_of_a_plc_that_began_anew_is_no_earlier_parts_tag() -> None:
    requests = InBlock("plc")
    block = OutBlock(requests)
    (trigger,) = requests.write_registers(0, [5])
    assert isinstance(trigger, Triggered)
    block.add_result(Signal(3, "p", "pass", Code.PASS, "plc", trigger.tag))
    requests.write_registers(0, [0])
    assert block.registers()[44] != 0


@pytest.mark.parametrize(
    ("heading", "fields"),
    [("## What the PLC reads", OUT_FIELDS), ("## What the PLC writes", IN_FIELDS)],
)
def test_page_names_each_register(heading: str, fields: dict[str, int]) -> None:
    section = PAGE.read_text().split(heading)[1].split("\n#")[0]
    rows = re.findall(r"^\| (\d+)(?: – \d+)? \| `(\w+)`", section, re.M)
    assert {name: int(address) for address, name in rows} == fields


def test_page_names_each_bit_and_code() -> None:
    page = PAGE.read_text()
    for names, heading in ((STATUS_BITS, "### Status bits"), (COILS, "### Coils"), (CONTROL_BITS, "### Control bits")):
        section = page.split(heading)[1].split("\n#")[0]
        assert re.findall(r"^\| \d+ \| `(\w+)`", section, re.M) == list(names)
    for codes, heading in ((Code, "### Result codes"), (Fault, "### Fault codes")):
        section = page.split(heading)[1].split("\n#")[0]
        assert re.findall(r"^\| (\d+) \| `(\w+)`", section, re.M) == [(str(int(code)), code.name) for code in codes]
