"""Choose the cut at which the slower of both stages is fastest, as measured."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx

from lineside_converters.split.graph import Cut, cut_in_two, find_cuts
from lineside_converters.split.timing import Feed, StagePlace, StageWork, time_together
from lineside_runtime.errors import DeviceError, GraphError, SpeedGateError, UnsupportedModelError
from lineside_runtime.progress import TextListener

GRID = 9
"""Cuts that are measured first, spread over the graph; after that ever closer to the best of them."""

MIN_GAIN = 1.05
"""How many times the frames of the best device alone the stages must pass; below that cutting isn't worth it."""


@dataclasses.dataclass(frozen=True, slots=True)
class MeasuredCut:
    """A cut, with the times of its stages.

    Attributes:
        places: Places of the first and the second stage.
        stage_ms: What a call of each takes while the other one runs too.
    """

    cut: Cut
    places: tuple[StagePlace, StagePlace]
    stage_ms: tuple[float, float]

    @property
    def slowest_ms(self) -> float:
        """Time of the slower stage, which decides the throughput."""
        return max(self.stage_ms)


@dataclasses.dataclass(frozen=True, slots=True)
class CutChoice:
    """The best cut, and those that it was compared with.

    Attributes:
        best: The cut with the fastest slower stage.
        whole_ms: What the whole model takes on each place alone, by the place's name.
        share: The first stage's share of the compute, measured with both stages at the first place.
    """

    best: MeasuredCut
    tried: tuple[MeasuredCut, ...]
    whole_ms: dict[str, float]
    share: float

    @property
    def gain(self) -> float:
        """Throughput of the stages in terms of the best place alone."""
        return min(self.whole_ms.values()) / self.best.slowest_ms


class CutSearch:
    """Measures cuts of one model at two places."""

    def __init__(
        self, model: Path, precision: str, feed: Feed, places: Sequence[StagePlace], report: TextListener
    ) -> None:
        """Takes the model.

        Args:
            precision: ``int8`` or a float type.
            feed: Input of one frame.
            places: The two places; both orders are tried.
        """
        self._model = model
        self._precision = precision
        self._feed = feed
        self._places = places
        self._report = report
        self._measured: dict[tuple[Cut, bool], MeasuredCut | None] = {}

    def choose(self, *, must_gain: bool = True) -> CutChoice:
        """Returns the best cut.

        Args:
            must_gain: Whether to refuse a cut that doesn't pass more frames than the best place does alone.
        """
        cuts = find_cuts(onnx.load(self._model))
        whole_ms = {str(place): self._time_whole(place) for place in self._places}
        for name, taken_ms in whole_ms.items():
            self._report(f"whole on {name}: {taken_ms:.2f} ms")
        for turned in (False, True):
            self._search(cuts, turned=turned)
        tried = tuple(one for one in self._measured.values() if one is not None)
        if not tried:
            raise GraphError("no engine here runs the pieces of this graph", action="Leave this model whole.")
        best = min(tried, key=lambda one: one.slowest_ms)
        chosen = CutChoice(best, tried, whole_ms, self._share(best))
        if must_gain and chosen.gain < MIN_GAIN:
            raise SpeedGateError(
                "no cut makes it worth while",
                expected=f"{MIN_GAIN} times the frames of the best device alone",
                actual=f"{chosen.gain:.2f} times: slower stage {best.slowest_ms:.2f} ms, whole {whole_ms}",
                action="Leave this model whole, or name devices that are nearer to each other in speed.",
            )
        return chosen

    def _search(self, cuts: Sequence[Cut], *, turned: bool) -> None:
        """Measures a grid of cuts, then finer ones near the best.

        Not by bisection, although the first stage only grows along the graph: on a busy machine one wrong turn there
        is never made good.
        """
        last = len(cuts) - 1
        numbers = sorted({round(last * step / (GRID - 1)) for step in range(GRID)})
        step = max(1, last // (GRID - 1))
        while True:
            times = {number: self._slowest_ms(cuts[number], turned=turned) for number in numbers}
            best = min(times, key=times.__getitem__)
            if step == 1:
                return
            step = (step + 1) // 2
            numbers = [number for number in (best - step, best, best + step) if 0 <= number <= last]

    def _slowest_ms(self, cut: Cut, *, turned: bool) -> float:
        found = self._measure(cut, turned=turned)
        return float("inf") if found is None else found.slowest_ms

    def _measure(self, cut: Cut, *, turned: bool) -> MeasuredCut | None:
        if (cut, turned) not in self._measured:
            self._measured[cut, turned] = self._time(cut, turned=turned)
        return self._measured[cut, turned]

    def _time(self, cut: Cut, *, turned: bool) -> MeasuredCut | None:
        places = (self._places[1], self._places[0]) if turned else (self._places[0], self._places[1])
        try:
            with self._pieces(cut, places) as works:
                times = time_together(works)
        except (GraphError, UnsupportedModelError, DeviceError) as error:
            self._report(f"cut at {cut} left out: {error.message}")
            return None
        found = MeasuredCut(cut, places, (times[0], times[1]))
        self._report(f"{places[0]} {times[0]:.2f} ms, {places[1]} {times[1]:.2f} ms, cut at {cut}")
        return found

    def _time_whole(self, place: StagePlace) -> float:
        with contextlib.closing(place.load(self._model, self._precision)) as executable:
            return time_together([StageWork(place, executable, self._feed)])[0]

    def _share(self, measured: MeasuredCut) -> float:
        place = self._places[0]
        with self._pieces(measured.cut, (place, place)) as works:
            first, second = (time_together([work])[0] for work in works)
        return first / (first + second)

    @contextlib.contextmanager
    def _pieces(self, cut: Cut, places: Sequence[StagePlace]) -> Iterator[list[StageWork]]:
        with tempfile.TemporaryDirectory(prefix="lineside-split-") as folder, contextlib.ExitStack() as stack:
            files = Path(folder) / "first.onnx", Path(folder) / "second.onnx"
            cut_in_two(self._model, cut, *files)
            first, second = (
                stack.enter_context(contextlib.closing(place.load(file, self._precision)))
                for place, file in zip(places, files, strict=True)
            )
            crossing = first.run(self._feed)
            feed = {name: crossing[name] for name in cut.tensors}
            yield [StageWork(places[0], first, self._feed), StageWork(places[1], second, feed)]
