"""What every engine must do, as checks that any engine can be put through; cameras and lines use the same kit.

From the command line, on the board::

    lineside conformance hailo --model conv_int8=conv_int8.hef
    python -m lineside_runtime.conformance ncnn --device gpu:0 --json

And in the tests of a package that adds an engine::

    SUBJECT = subject("mine")

    @pytest.mark.parametrize("check", CHECKS, ids=title)
    def test_it_conforms(check):
        try:
            check(SUBJECT)
        except NotApplicable as reason:
            pytest.skip(str(reason))
"""

from __future__ import annotations

from lineside_runtime.conformance.checks import CHECKS, Check
from lineside_runtime.conformance.kit import CheckFailed, CheckOutcome, NotApplicable, title
from lineside_runtime.conformance.models import FOLDER, ConformanceModel
from lineside_runtime.conformance.networks import NETWORKS, ConformanceNetwork
from lineside_runtime.conformance.report import ConformanceReport, run
from lineside_runtime.conformance.subject import EngineSubject, subject

__all__ = [
    "CHECKS",
    "FOLDER",
    "NETWORKS",
    "Check",
    "CheckFailed",
    "CheckOutcome",
    "ConformanceModel",
    "ConformanceNetwork",
    "ConformanceReport",
    "EngineSubject",
    "NotApplicable",
    "run",
    "subject",
    "title",
]
