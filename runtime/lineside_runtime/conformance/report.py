"""Put an engine through the checks, and report it as a table or as JSON."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence

import msgspec

from lineside_runtime.conformance.checks import CHECKS, Check
from lineside_runtime.conformance.kit import CheckOutcome, Verdict, run_checks
from lineside_runtime.conformance.subject import EngineSubject

MARKS: dict[Verdict, str] = {"passed": "ok  ", "failed": "FAIL", "not applicable": "n/a "}


class ConformanceReport(msgspec.Struct, frozen=True):
    """How an engine did on one device.

    Attributes:
        device: Such as ``gpu:0``.
        device_name: What the engine calls it.
        emulated: Whether the device is an emulation that computes on the CPU.
        machine: Processor architecture.
        networks: Network to the file that it was tried with.
        refused: Network to the reason why the engine doesn't read it.
        outcomes: The checks, in the order in which they ran.
    """

    engine: str
    version: str
    device: str
    device_name: str
    emulated: bool
    machine: str
    system: str
    python: str
    networks: dict[str, str]
    refused: dict[str, str]
    outcomes: tuple[CheckOutcome, ...]

    def count(self, verdict: Verdict) -> int:
        """Returns how many checks went like this."""
        return sum(outcome.verdict == verdict for outcome in self.outcomes)

    @property
    def conforms(self) -> bool:
        """Whether no check failed."""
        return not self.count("failed")


def run(
    subject: EngineSubject,
    checks: Sequence[Check] = CHECKS,
    *,
    on_outcome: Callable[[CheckOutcome], None] | None = None,
) -> ConformanceReport:
    """Runs the checks one after the other, in this process."""
    outcomes: list[CheckOutcome] = []
    for outcome in run_checks(subject, checks):
        outcomes.append(outcome)
        if on_outcome is not None:
            on_outcome(outcome)
    return ConformanceReport(
        engine=subject.backend.name,
        version=subject.backend.version,
        device=str(subject.device),
        device_name=subject.device.name,
        emulated=subject.device.emulated,
        machine=platform.machine(),
        system=platform.platform(),
        python=platform.python_version(),
        networks={model.network.name: model.file.name for model in subject.models},
        refused=dict(subject.refused),
        outcomes=tuple(outcomes),
    )


def line(outcome: CheckOutcome) -> str:
    """Returns the line of the table for one check."""
    return f"{MARKS[outcome.verdict]} {outcome.check:<52} {outcome.detail}"


def head(subject: EngineSubject) -> str:
    """Returns the line above the table."""
    emulated = ", emulated on the CPU" if subject.device.emulated else ""
    text = f"{subject.backend.name} {subject.backend.version} on {subject.device} ({subject.device.name}{emulated})"
    return "\n".join([text, *(f"     does not read {name}: {why}" for name, why in subject.refused.items())])


def foot(report: ConformanceReport) -> str:
    """Returns the line below the table."""
    counts = ", ".join(f"{report.count(verdict)} {verdict}" for verdict in MARKS)
    return f"{report.engine}/{report.device} {'conforms' if report.conforms else 'DOES NOT CONFORM'}: {counts}"
