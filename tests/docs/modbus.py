"""The reference of the Modbus registers: addresses and names from the code, meanings from here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lineside_agent.line_io.events import Code, Fault
from lineside_agent.line_io.modbus.register_map import (
    COILS,
    CONTROL_BITS,
    IN_FIELDS,
    IN_REGISTERS,
    OUT_FIELDS,
    OUT_REGISTERS,
    STATUS_BITS,
)
from tests.docs.tables import table

READS = {
    "version": ("uint16", "version of this map: 1"),
    "heartbeat": ("uint16", "increases ten times a second while the handshake is alive, and wraps around"),
    "status": ("bits", "see [status bits](#status-bits)"),
    "fault": ("uint16", "see [fault codes](#fault-codes)"),
    "result_number": ("uint32", "number of the trigger that the result belongs to; the same as in the record"),
    "result_tag": ("uint16", "the PLC's trigger counter of this part; 0 if the PLC did not trigger it by its counter"),
    "result_code": ("uint16", "see [result codes](#result-codes)"),
    "result_took": ("uint16", "time from trigger to result, in 0.1 ms; 65535 for longer"),
    "recipe": ("uint16", "number of the active recipe; 0 on a line without recipes"),
    "answered": ("uint32", "parts answered since the agent started"),
    "passed": ("uint32", "answered parts that passed"),
    "rejected": ("uint32", "answered parts with a defect or an unsure verdict"),
    "faults": ("uint32", "answered parts that were not judged"),
    "late": ("uint32", "faults without a verdict by the deadline, or whose pass could not be written by then"),
    "refused": ("uint32", "faults refused at the trigger: busy, not ready or at fault"),
    "unsure": ("uint32", "rejected parts without a defect that a person is to look at"),
    "result_part_id": ("text, 32", "the part's name, as the line gave it"),
    "ring_count": ("uint32", "number of answers that were written to the ring"),
    "ring": ("16 × 4", "the last 16 answers: number (uint32), tag, result code. Answer n is at 42 + 4 × (n mod 16)"),
    "result_defect": ("uint16", "defect number of the defect with the highest score; 0 if nothing was found"),
    "result_defects": ("uint16", "number of defects in the images of all cameras"),
    "result_score": ("uint16", "highest score, in 0.0001"),
    "result_camera": (
        "uint16",
        "camera that saw the defect with the highest score: its position in `agent.toml`, from 1; 0 if none",
    ),
    "ring_defect": (
        "16 × uint8",
        "defect number of each answer in the ring, two a register. Answer n: register 110 + (n mod 16) / 2, in the "
        "high byte if n is even",
    ),
}
WRITES = {
    "trigger_counter": (
        "uint16",
        "each increase is a part. Write it only to trigger; writing the same value again is no trigger",
    ),
    "control": ("bits", "see [control bits](#control-bits)"),
    "encoder": ("uint32", "count of the encoder, for a gate in counts; may wrap around"),
    "part_id": ("text, 32", "name of the part that the next trigger belongs to"),
    "recipe": ("uint16", "number of the recipe to change to; 0 for no change. See [changeover](#changeover)"),
}
STATUS = {
    "ready": "a part may come and will be judged",
    "busy": "a part is being inspected",
    "result_valid": "the result registers belong together; off at the next trigger, or at `acknowledge` if configured",
    "passed": "the part is good. **Everything else means reject, also when no result comes**",
    "fault": "the operator must look and reset",
    "gate": "the reject gate should be open (with a `[gate]` table)",
    "challenge": "known bad parts are expected: trigger them although `ready` is off",
    "heartbeat": "lowest bit of the heartbeat",
}
RESULT_CODES = {
    Code.NONE: "no result yet",
    Code.PASS: "good, and reported in time",
    Code.REJECT: "a defect was found",
    Code.NOT_JUDGED: "the engine failed on this part",
    Code.LATE: "no verdict by the deadline",
    Code.BUSY: "the trigger came while another part was inspected",
    Code.NOT_READY: "the agent is at fault or has no bundle or camera, or the trigger was reported too late",
    Code.NO_FRAME: "the camera gave a damaged image, no image before the next trigger, or has ended",
    Code.CHALLENGE_PASSED: "a known bad part passed",
    Code.STOPPED: "the agent is stopping",
    Code.UNSURE: "no defect was found, but a candidate is in the unsure band: reject, and a person is to look",
    Code.BAD_TRIGGER: "the trigger is malformed, or its part id is not printable or longer than 128 characters: reject",
}
FAULT_CODES = {
    Fault.NONE: "no fault",
    Fault.LATE: "`late_max` parts in a row were late",
    Fault.CHALLENGE: "a challenge part passed",
    Fault.RESULTS_NOT_TAKEN: "64 results wait to be acknowledged",
    Fault.RECIPE: "the requested recipe cannot run; see [changeover](#changeover)",
    Fault.ENCODER: "the encoder has jumped with parts on their way to the gate, or stood still over three parts",
    Fault.GATE: "the gate opened later than a pulse after its part: the log names the parts to be taken off by hand",
}
CONTROL = {
    "acknowledge": "the result is taken; set it off again before the next result is shown",
    "reset": "rising edge: the operator's reset of a fault",
    "challenge": "rising edge: a shift begins",
}
COIL_MEANINGS = {
    "trigger": "rising edge: a part is in front of the camera",
    "acknowledge": "as control bit 0",
    "reset": "as control bit 1",
    "challenge": "as control bit 2",
}


def render_reads() -> str:
    """Returns the registers that a PLC reads."""
    return _registers(OUT_FIELDS, OUT_REGISTERS, READS)


def render_writes() -> str:
    """Returns the registers that a PLC writes."""
    return _registers(IN_FIELDS, IN_REGISTERS, WRITES)


def render_status_bits() -> str:
    """Returns the bits of the status register."""
    return _numbered("bit", enumerate(STATUS_BITS), STATUS)


def render_control_bits() -> str:
    """Returns the bits of the control register."""
    return _numbered("bit", enumerate(CONTROL_BITS), CONTROL)


def render_coils() -> str:
    return _numbered("coil", enumerate(COILS), COIL_MEANINGS)


def render_result_codes() -> str:
    return _numbered(
        "code", ((int(each), each.name) for each in Code), {each.name: RESULT_CODES[each] for each in Code}
    )


def render_fault_codes() -> str:
    return _numbered(
        "code", ((int(each), each.name) for each in Fault), {each.name: FAULT_CODES[each] for each in Fault}
    )


def _registers(fields: Mapping[str, int], count: int, meanings: Mapping[str, tuple[str, str]]) -> str:
    ends = [*list(fields.values())[1:], count]
    rows = []
    for (name, begin), end in zip(fields.items(), ends, strict=True):
        addresses = str(begin) if end == begin + 1 else f"{begin} – {end - 1}"
        rows.append((addresses, f"`{name}`", *meanings[name]))
    return table(("address", "name", "type", "meaning"), rows)


def _numbered(head: str, names: Iterable[tuple[int, str]], meanings: Mapping[str, str]) -> str:
    return table((head, "name", "meaning"), ((str(number), f"`{name}`", meanings[name]) for number, name in names))
