"""Settings of trainings that can train several widths at once."""

from __future__ import annotations

from pathlib import Path

from lineside_converters.training.settings import TrainingSettings

WIDTHS_MAX = 6


class SlimmableSettings(TrainingSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of a training of one network or of several widths of it.

    Attributes:
        widths: Shares of the channels, 0.1 to 1, falling: one training gives a network of each, with shared weights.
            One width alone trains the narrower network by itself. Empty: the whole network.
    """

    widths: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        falling = all(a > b for a, b in zip(self.widths, self.widths[1:], strict=False))
        good = len(self.widths) <= WIDTHS_MAX and falling and all(0.1 <= width <= 1 for width in self.widths)
        self._check("widths", good, f"at most {WIDTHS_MAX} shares, 0.1 to 1, falling, such as 1.0,0.75,0.5,0.35")


def graph_of(width: float, widest: float) -> str:
    """Returns the name of a width's graph in a run folder; the widest network's is ``float.onnx``."""
    return "float.onnx" if width == widest else f"float-{width:g}.onnx"


def graphs_of_run(run: Path, widths: list[float]) -> dict[float, Path]:
    """Returns the graph of each width of a finished run, the widest first."""
    return {width: run / graph_of(width, widths[0]) for width in widths}
