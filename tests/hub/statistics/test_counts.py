"""What the tables of hours say is what counting the results says: repeats, hostile texts and old databases included."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from lineside_hub.relabel.reviews import Reviews
from lineside_hub.results.frames.rows import FrameRows, ResultKey, StoredFrame
from lineside_hub.results.queries import Query, count_by_device, results
from lineside_hub.results.search import ResultCursor, search
from lineside_hub.statistics.comparison import compare, compare_rates
from lineside_hub.statistics.counts import HOUR_NS, CountFilter, pareto, totals, totals_by, trend
from lineside_hub.statistics.reviews import review_rates
from lineside_link.messages import MeasuredValue, ReadMark, ResultRow, View
from tests.hub.statistics.conftest import Hub

BEGIN_NS = 480_000 * HOUR_NS
TYPES = ("scratch", "dent", "burr")


def row(seq: int, verdict: str = "pass", types: tuple[str, ...] = (), *, hour: float = 0, **more: object) -> ResultRow:
    return ResultRow(
        seq=seq,
        part_id=f"p{seq}",
        captured_at_ns=BEGIN_NS + int(hour * HOUR_NS) + seq,
        verdict=verdict,  # type: ignore[arg-type]
        detections=tuple((name, 0.9, 1.0, 2.0, 3.0, 4.0) for name in types),
        **{"bundle": "surface@1.0.0", **more},  # type: ignore[arg-type]
    )


def fill(hub: Hub) -> None:
    """Two devices, 300 results each over six hours, two bundles, three recipes."""
    draw = random.Random(7)
    for device in ("cam-1", "cam-2"):
        rows = []
        for seq in range(1, 301):
            bad = draw.random() < (0.1 if device == "cam-1" else 0.3)
            types = tuple(draw.choices(TYPES, weights=(6, 3, 1), k=draw.choice((1, 2)))) if bad else ()
            rows.append(
                row(
                    seq,
                    "reject" if bad else "pass",
                    types,
                    hour=draw.random() * 6,
                    bundle=f"surface@{draw.choice('12')}.0.0",
                    recipe=draw.choice(("", "a", "b")),
                    unsure=bad and draw.random() < 0.2,
                )
            )
        hub.add(device, *rows)


def test_challenge_parts_are_no_production(hub: Hub) -> None:
    known_bad = msgspec.structs.replace(row(2, "reject", ("dent",)), part_id="challenge:master-1")
    hub.add("cam-1", row(1), known_bad, row(3, "reject", ("scratch",)))
    counts = totals(hub.run, CountFilter())
    assert (counts.passed, counts.rejected) == (1, 1)
    assert [found.type for found in pareto(hub.run, CountFilter())] == ["scratch"]
    Reviews(hub.run).mark(ResultKey("cam-1", "e", 2), wrong=True, note="", by="Ann")
    assert review_rates(hub.run, CountFilter()).rejects == 0
    assert count_by_device(hub.config)["cam-1"].results == 3


def test_defect_types_of_all_cameras_of_a_part_count_and_are_found(hub: Hub) -> None:
    seen = (
        View(source="top", verdict="reject", detections=(("dent", 0.9, 1.0, 2.0, 3.0, 4.0),)),
        View(source="left", verdict="reject", detections=(("burr", 0.9, 1.0, 2.0, 3.0, 4.0),) * 2),
        View(
            source="right",
            verdict="reject",
            measurements=(
                MeasuredValue(name="length", value=2.0),
                MeasuredValue(name="width", value=1.0, in_tolerance=True),
            ),
            readings=(ReadMark(name="serial", failure="reject"),),
        ),
    )
    hub.add("cam-1", row(1, "reject", ("dent",), views=seen), row(2, "reject", ("dent",)))
    counted = {found.type: found.results for found in pareto(hub.run, CountFilter())}
    assert counted == {"dent": 2, "burr": 1, "length": 1, "serial": 1}
    for name, count in counted.items():
        assert len(list(results(hub.config, Query(defect=name)))) == count
    assert not list(results(hub.config, Query(defect="width")))


def test_counts_trends_and_pareto_are_those_of_the_results_themselves(hub: Hub) -> None:
    fill(hub)
    stored = [
        dict(zip(("device", "verdict"), (found[0], found[7]), strict=True)) for found in results(hub.config, Query())
    ]
    for device in ("cam-1", "cam-2"):
        counts = totals(hub.run, CountFilter(devices=(device,)))
        verdicts = [one["verdict"] for one in stored if one["device"] == device]
        assert (counts.passed, counts.rejected, counts.unsure) == tuple(
            map(verdicts.count, ("pass", "reject", "unsure"))
        )
        assert totals_by(hub.run, CountFilter(), "device")[device] == counts
    points = trend(hub.run, CountFilter(bundle="surface", recipe="a"), step_h=1)
    assert [point.at_ns for point in points] == [BEGIN_NS + hour * HOUR_NS for hour in range(6)]
    assert sum(point.counts.inspected for point in points) == len(list(results(hub.config, Query(recipe="a"))))
    rows = pareto(hub.run, CountFilter(devices=("cam-2",)))
    for found in rows:
        assert found.results == len(list(results(hub.config, Query(device="cam-2", defect=found.type))))
    assert [found.type for found in rows] == list(TYPES)
    assert rows[-1].cumulative == 1.0
    assert count_by_device(hub.config)["cam-1"].results == 300
    only = CountFilter(since_ns=BEGIN_NS + 2 * HOUR_NS, until_ns=BEGIN_NS + 4 * HOUR_NS)
    assert totals(hub.run, only).inspected == sum(
        point.counts.inspected for point in trend(hub.run, CountFilter(), step_h=1)[2:4]
    )


def test_a_repeat_is_counted_once_and_an_unknown_number_never(hub: Hub) -> None:
    rows = [row(1), row(2, "reject", ("dent", "dent")), row(3, "fault", unknown=True)]
    hub.add("cam-1", *rows)
    hub.add("cam-1", *rows, row(4, "reject", ("dent",)))
    counts = totals(hub.run, CountFilter())
    assert (counts.passed, counts.rejected, counts.faults) == (1, 2, 0)
    assert [(found.type, found.results) for found in pareto(hub.run, CountFilter())] == [("dent", 2)]


def test_measured_values_and_marks_count_and_no_text_of_a_device_stops_the_hub(hub: Hub) -> None:
    more: dict[str, Any] = {
        "measurements": (MeasuredValue(name="gap"), MeasuredValue(name="width", in_tolerance=True)),
        "readings": (ReadMark(name="serial"), ReadMark(name="lot", accepted=True)),
    }
    hostile = ("a\0b", "\\u0000", "'; DROP TABLE results; --", "%s :name", "√", "[")
    hub.add("cam-1", row(1, "reject", ("dent",), **more))
    hub.add("cam-1", *(row(2 + number, "reject", (text,)) for number, text in enumerate(hostile)))
    found = {one.type: one.results for one in pareto(hub.run, CountFilter())}
    assert {"dent": 1, "gap": 1, "serial": 1}.items() <= found.items()
    assert set(hostile[2:]) <= set(found)
    stored = totals(hub.run, CountFilter()).rejected
    quarantined = hub.run("SELECT count(*) FROM quarantine", {})[0][0]  # PostgreSQL cannot hold the first one
    assert (stored, quarantined) == ((7, 0) if not hub.config.results.url else (6, 1))


def test_pages_together_are_all_results_newest_first_and_each_once(hub: Hub) -> None:
    fill(hub)
    hub.add("cam-3", row(1, "reject", ("rare",), hour=-2000), row(2, "reject", ("rare",), hour=-1000))
    last_hour = BEGIN_NS + 5 * HOUR_NS
    for query in (
        Query(),
        Query(device="cam-1", verdict="reject"),
        Query(defect="burr"),
        Query(defect="rare"),
        Query(bundle="surface", recipe="b", since_ns=BEGIN_NS + HOUR_NS, until_ns=last_hour + HOUR_NS // 2),
        Query(verdict="unsure", defect="dent"),
        Query(part_id="p7"),
    ):
        expected = [tuple(found[:3]) for found in results(hub.config, query)][::-1]
        found, after = [], None
        while True:
            page = search(hub.run, query, after=after, rows=7)
            found += [tuple(one.key) for one in page.results]
            if page.after is None:
                break
            after = ResultCursor.decode(page.after.encode())
        assert found == expected, query
        assert expected


def test_false_rejects_and_escapes_come_from_what_people_decided(hub: Hub) -> None:
    verdicts = ["reject"] * 5 + ["pass"] * 3
    hub.add("cam-1", *(row(seq, verdict) for seq, verdict in enumerate(verdicts, 1)))
    reviews, frames = Reviews(hub.run), FrameRows(hub.run, lambda: None)
    keys = [ResultKey("cam-1", "e", seq) for seq in range(1, 9)]
    for number, key in enumerate(keys):
        frames.add(StoredFrame(key, f"{number:064x}", 1), 1)

    def correct(number: int, boxes: str) -> None:
        reviews.correct(f"{number:064x}", boxes=boxes, by="ann", at_ns=2**62)

    box = '[["dent",1.0,2.0,3.0,4.0]]'
    correct(0, "[]")  # a good part was rejected
    correct(1, box)  # rightly rejected
    reviews.mark(keys[2], wrong=True, note="", by="ann")  # marked as wrong: a false reject
    reviews.mark(keys[3], wrong=True, note="not sure", by="ann")
    reviews.mark(keys[4], wrong=True, note="", by="ann")
    reviews.mark(keys[4], wrong=False, note="", by="ann")  # withdrawn
    correct(5, box)  # an escape
    correct(6, "[]")
    rates = review_rates(hub.run, CountFilter(devices=("cam-1",), since_ns=BEGIN_NS))
    assert (rates.rejects, rates.false_rejects, rates.passes, rates.escapes) == (3, 2, 2, 1)


def test_two_lines_are_compared_by_intervals(hub: Hub) -> None:
    fill(hub)
    found = compare(hub.run, CountFilter(devices=("cam-1",)), CountFilter(devices=("cam-2",)))
    assert found.rejects.is_different
    assert found.rejects.of == (300, 300)
    assert next(iter(found.types)) == "scratch"
    same = compare(hub.run, CountFilter(bundle="surface@1.0.0"), CountFilter(bundle="surface@1.0.0"))
    assert not same.rejects.is_different


def test_the_interval_of_a_difference_is_newcombes() -> None:
    """R. G. Newcombe, Statistics in Medicine 17 (1998) 873, table II, method 10."""
    first = compare_rates((48, 80), (56, 70))
    assert abs(first.difference - 0.2) < 1e-9
    assert [round(end, 4) for end in first.interval] == [0.0524, 0.3339]
    assert [round(end, 4) for end in compare_rates((0, 10), (0, 10)).interval] == [-0.2775, 0.2775]
