from __future__ import annotations

from typing import Any

import pytest

from lineside_hub.config import HubConfig
from lineside_hub.fleet.status import _device_warnings
from lineside_hub.fleet.timeline import FleetTimeline, read_message
from lineside_hub.results.database import EVENTS_STEP, Database, TimelineEvent
from lineside_link.config import LinkConfig
from lineside_link.messages import (
    BundleRef,
    ConfigRef,
    ConfigReport,
    DegradationReport,
    DriftAlarm,
    DriftReport,
    PlacementReport,
    Problem,
    Reported,
    Up,
    encode,
)
from lineside_runtime.errors import BadInputFormatError

OLD = BundleRef(name="surface", version="1.0.0", target="a/surface-1.0.0.json", sha256="0" * 64)
NEW = BundleRef(name="surface", version="2.0.0", target="a/surface-2.0.0.json", sha256="1" * 64)


def report(database: Database, **fields: Any) -> None:
    message = Reported(device="cam-01", **fields)
    with database.transaction():
        FleetTimeline(database).write_reported(read_message("cam-01", encode(message), Reported))


def up(database: Database, present: bool, boot: str) -> None:
    message = Up(device="cam-01", up=present, boot_id=boot)
    with database.transaction():
        FleetTimeline(database).write_up(read_message("cam-01", encode(message), Up))


def told(database: Database) -> list[tuple[str, str, int | None]]:
    return [(event.kind, event.bundle, event.code) for event in database.events()]


def test_each_state_is_told_once_however_often_it_is_reported(database: Database) -> None:
    for state in ("fetching", "verifying", "staged", "switching", "health_check"):
        for progress in (0.0, 0.5, 1.0):
            report(database, gen=1, state=state, wanted=NEW, installed=OLD, progress=progress)
    report(database, gen=1, state="active", wanted=NEW, installed=NEW, previous=OLD)
    report(database, gen=1, state="active", wanted=NEW, installed=NEW, previous=OLD, free_bytes=5)
    states = ["fetching", "verifying", "staged", "switching", "health_check", "active"]
    assert told(database) == [(state, "surface@2.0.0", None) for state in states]


def test_a_line_that_changes_its_recipe_with_each_part_fills_no_disk_and_hides_no_deployment(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineside_hub.results.database.EVENTS_MAX", 50)
    report(database, gen=1, state="active", wanted=NEW, installed=NEW)
    for number in range(400):
        report(database, gen=1, state="active", wanted=NEW, installed=NEW, recipe=f"housing-{number}")
    kept = [event.detail for event in database.events(kind="recipe")]
    assert 50 <= len(kept) <= 50 + EVENTS_STEP
    assert kept[-1] == "housing-399"
    assert len(database.events(kind="active")) == 1


def test_a_bundle_that_was_made_at_the_device_names_who_made_it(database: Database) -> None:
    made = BundleRef(name="learned-cam-01", version="1", target="local:Sara", sha256="2" * 64)
    report(database, gen=4, state="active", wanted=made, installed=made, previous=OLD)
    report(database, gen=5, state="active", wanted=OLD, installed=OLD, previous=made)
    assert [event.detail for event in database.events()] == [
        "desired state 4, made at the device by Sara",
        "desired state 5",
    ]


def test_a_rollback_names_the_refused_bundle_its_code_and_reason(database: Database) -> None:
    problem = Problem(code=5001, error="GoldenMismatchError", message="outputs differ")
    report(database, gen=2, state="rolled_back", wanted=NEW, installed=OLD, error=problem)
    assert told(database) == [("rolled_back", "surface@2.0.0", 5001)]
    assert database.events()[0].detail == "outputs differ"


def test_the_last_report_is_kept_whole(database: Database) -> None:
    report(database, gen=3, state="active", installed=OLD, free_bytes=77)
    row = database.query("SELECT * FROM devices")[0]
    assert read_message("cam-01", row["reported"].encode(), Reported).free_bytes == 77
    assert row["up"] is None


def test_a_drift_alarm_is_told_when_it_begins_and_when_it_ends(database: Database) -> None:
    blurred = DriftAlarm(name="sharpness-low", since_ns=5, text="sharpness-low: sharpness is -1.7, learned was -1.1")
    wave = DriftAlarm(name="type:pits", since_ns=6)
    for alarms in ((), (blurred,), (blurred,), (blurred, wave), (wave,)):
        report(database, state="idle", drift=DriftReport(alarms=alarms))
    report(database, state="idle")
    details = [event.detail for event in database.events(kind="drift")]
    assert details == [blurred.text, "type:pits", "over: sharpness-low", "over: type:pits"]


def test_another_product_and_what_is_given_up_are_told_when_they_change(database: Database) -> None:
    hot = DegradationReport(steps=("images",), reason="79 °C, hot from 75 °C on")
    for recipe, degradation in (("a", None), ("a", hot), ("b", hot), ("b", DegradationReport())):
        report(database, state="idle", recipe=recipe, degradation=degradation)
        report(database, state="idle", recipe=recipe, degradation=degradation)
    assert [event.detail for event in database.events(kind="recipe")] == ["a", "b"]
    assert [event.detail for event in database.events(kind="degraded")] == [f"images: {hot.reason}", "over"]


def test_another_device_for_the_model_is_told_with_its_reason_and_the_way_back(database: Database) -> None:
    usual = PlacementReport(requested_device="cpu:0", used_device="ort/cpu:0")
    away = PlacementReport(requested_device="cpu:0", used_device="openvino/cpu:0", problem="ort/cpu:0 failed: [3003]")
    for placement in (None, usual, usual, away, away, usual):
        report(database, state="idle", placement=placement)
    assert [event.detail for event in database.events(kind="placement")] == [
        "openvino/cpu:0 runs the model: ort/cpu:0 failed: [3003]",
        "ort/cpu:0 runs the model: as requested again",
    ]


def test_a_configuration_is_told_when_it_is_active_and_when_it_is_refused(database: Database) -> None:
    first, second = (ConfigRef(target=f"a/config-{digit}.toml", sha256=digit * 64) for digit in "01")
    typo = Problem(
        code=2001, error="ConfigError", expected="of dent", message="$.thresholds: the bundle has no type 'dentt'"
    )
    for configuration in (
        None,
        ConfigReport(gen=1, installed=first, wanted=first),
        ConfigReport(gen=1, installed=first, wanted=first),
        ConfigReport(gen=2, installed=first, wanted=second, error=typo),
        ConfigReport(gen=2, installed=first, wanted=second, error=typo),
        ConfigReport(gen=3, installed=first, wanted=first),
        ConfigReport(gen=4, installed=None, wanted=None),
    ):
        report(database, state="active", configuration=configuration)
    assert [(event.bundle, event.code, event.detail) for event in database.events(kind="configuration")] == [
        (first.identity, None, "active"),
        (second.identity, 2001, f"{typo.message}; expected of dent"),
        ("", None, "agent.toml alone"),
    ]


def test_coming_and_going_is_told_by_boot(database: Database) -> None:
    up(database, False, "b0")
    up(database, True, "b1")
    up(database, True, "b1")
    up(database, True, "b2")
    up(database, False, "b2")
    up(database, False, "b2")
    assert [event.kind for event in database.events()] == ["up", "up", "down"]
    assert database.query("SELECT up FROM devices")[0]["up"] == 0
    up(database, True, "b2")
    config = HubConfig(folder="", link=LinkConfig("mqtt://127.0.0.1", "t"))
    assert _device_warnings(database, config) == []
    up(database, True, "b1")
    assert "two agents connect as cam-01 in turn" in _device_warnings(database, config)[0]


def test_what_a_broker_repeats_of_a_device_that_is_away_is_no_sign_of_life(database: Database) -> None:
    """A hub that starts again hears the retained messages; an alarm on a silent device must not end by that."""

    def seen() -> tuple[int, int]:
        [row] = database.query("SELECT up_at_ns, reported_at_ns FROM devices")
        return row["up_at_ns"], row["reported_at_ns"]

    up(database, True, "b1")
    report(database, gen=1, state="active", installed=OLD)
    up(database, False, "b1")
    gone = seen()
    up(database, False, "b1")
    report(database, gen=1, state="active", installed=OLD)
    assert seen() == gone
    up(database, True, "b1")
    report(database, gen=1, state="active", installed=OLD)
    back = seen()
    assert back[0] > gone[0] and back[1] > gone[1], "a connected device repeats both"


def test_nobody_speaks_for_another_device(database: Database) -> None:
    with pytest.raises(BadInputFormatError, match="cam-02"):
        read_message("cam-01", encode(Up(device="cam-02", up=True, boot_id="b")), Up)
    with pytest.raises(BadInputFormatError):
        read_message("cam-01", encode(Reported(device="cam-02")), Reported)


def test_an_event_reads_back_as_it_was(database: Database) -> None:
    event = TimelineEvent(at_ns=1, device="cam-01", kind="failed", bundle="x@1", code=3003, detail="why")
    with database.transaction():
        database.add_event(event)
    assert database.events() == [event]


def test_a_device_that_follows_an_epoch_that_the_hub_never_issued_is_told_of_once(database: Database) -> None:
    report(database, epoch=database.epoch, gen=1, state="active")
    for progress in (0.0, 0.5):
        report(database, epoch=2**62, gen=1, state="active", progress=progress)
    (event,) = database.events(kind="security")
    assert event.device == "cam-01"
    assert str(2**62) in event.detail
