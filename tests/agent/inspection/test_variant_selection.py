"""A bundle of unproven speed is timed on the device."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import msgspec
import pytest

from lineside.inspection.agent_inspector import AgentInspector
from lineside_agent.config import InspectConfig
from lineside_agent.inspection.loaded_bundle import load
from lineside_agent.inspection.variant_selection import SUFFIX, TimedVariant, best_of, fastest_first
from lineside_runtime.bundle import Bundle, Variant, write_manifest
from lineside_runtime.config import Config
from lineside_runtime.devices import DeviceKind
from lineside_runtime.errors import ConfigError, NoDeviceError
from lineside_runtime.planning import AS_CONFIGURED
from lineside_runtime.session import Session
from tests.converters import nets

CONFIG = Config(threads=1)


def two_forms(folder: Path, *, speed: str = "unproven", kinds: tuple[DeviceKind, ...] = ("cpu",)) -> Bundle:
    """A network of 40 layers, which comes first, and one of 1 layer.

    A call takes about 3 and 0.1 ms: far apart, since other tests run beside it while both are timed.
    """
    variants = []
    for name, depth, channels in (("deep", 40, 64), ("shallow", 1, 32)):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.onnx").write_bytes(nets.convnet(depth=depth, channels=channels))
        variants.append(
            Variant(name=name, format="onnx", file=f"{name}/model.onnx", level=1, precision="fp32", device_kinds=kinds)
        )
    manifest = msgspec.structs.replace(nets.manifest(), variants=tuple(variants), speed=speed, files={})
    return write_manifest(folder, manifest)


def names(bundle: Bundle) -> list[str]:
    return [variant.name for variant in bundle.manifest.variants]


def test_the_faster_form_is_found_used_and_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = two_forms(tmp_path / "bundle")
    with caplog.at_level(logging.WARNING, "lineside.agent"):
        chosen, plan = fastest_first(bundle, CONFIG)
    assert plan == AS_CONFIGURED
    assert names(chosen) == ["shallow", "deep"]
    assert chosen.digest == bundle.digest
    with Session(chosen, CONFIG) as session:
        assert session.variant == "shallow"
    found = json.loads((tmp_path / f"bundle{SUFFIX}").read_text())
    assert found["chosen"] == "shallow"
    assert found["timed"][0]["ms"] < found["timed"][1]["ms"]
    assert "measured here" in caplog.text and "shallow is used" in caplog.text


def test_times_of_a_bundle_that_lies_elsewhere_are_kept_where_the_agent_may_write(tmp_path: Path) -> None:
    bundle = two_forms(tmp_path / "shipped" / "bundle")
    (tmp_path / "state").mkdir()
    load("factory", bundle, InspectConfig(), measured=tmp_path / "state").close()
    assert [path.name for path in (tmp_path / "state").iterdir()] == [f"bundle{SUFFIX}"]
    assert [path.name for path in (tmp_path / "shipped").iterdir()] == ["bundle"]
    load("factory", bundle, InspectConfig(), measured=tmp_path / "not there").close()  # measured, and not kept


def test_times_of_lineside_inspect_are_kept_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = two_forms(tmp_path / "bundles" / "bundle")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    AgentInspector(bundle, InspectConfig()).close()
    assert [path.name for path in (tmp_path / "bundles").iterdir()] == ["bundle"]
    assert [path.name for path in (tmp_path / "cache" / "lineside").iterdir()] == [f"bundle{SUFFIX}"]


def test_what_was_measured_is_kept_for_this_very_bundle(tmp_path: Path) -> None:
    bundle = two_forms(tmp_path / "bundle")
    place = tmp_path / f"bundle{SUFFIX}"
    fastest_first(bundle, CONFIG)
    other = json.loads(place.read_text())
    other["timed"].reverse()
    place.write_text(json.dumps(other))
    assert names(fastest_first(bundle, CONFIG)[0]) == ["deep", "shallow"]  # believed, not measured again
    place.write_text(json.dumps({**other, "digest": "0" * 64}))
    assert names(fastest_first(bundle, CONFIG)[0]) == ["shallow", "deep"]
    place.write_text("rubbish")
    assert names(fastest_first(bundle, CONFIG)[0]) == ["shallow", "deep"]


@pytest.mark.parametrize(("ms", "chosen"), [(9.5, "deep"), (9.0, "shallow")])
def test_among_the_forms_of_a_level_a_small_gain_changes_nothing(
    tmp_path: Path, ms: float, chosen: str, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = two_forms(tmp_path / "bundle", speed="by_level")
    able = [TimedVariant(variant="shallow", ms=ms), TimedVariant(variant="deep", ms=10.0)]
    assert best_of(bundle.manifest, able).variant == chosen
    assert names(fastest_first(bundle, CONFIG)[0]) == ["shallow", "deep"]  # 40 layers against one
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING], "it is the usual choice"


def test_a_form_of_another_level_is_neither_timed_nor_moved(tmp_path: Path) -> None:
    bundle = two_forms(tmp_path / "bundle", speed="by_level")
    deep, shallow = bundle.manifest.variants
    of_levels = (deep, msgspec.structs.replace(shallow, level=2))
    bundle = write_manifest(tmp_path / "bundle", msgspec.structs.replace(bundle.manifest, variants=of_levels))
    assert fastest_first(bundle, CONFIG)[0] is bundle
    assert not (tmp_path / f"bundle{SUFFIX}").exists()


def test_a_measured_bundle_keeps_its_makers_order(tmp_path: Path) -> None:
    bundle = two_forms(tmp_path / "bundle", speed="measured")
    assert fastest_first(bundle, CONFIG)[0] is bundle
    assert not (tmp_path / f"bundle{SUFFIX}").exists()


def test_a_form_that_does_not_run_here_comes_last_with_its_reason(tmp_path: Path) -> None:
    bundle = two_forms(tmp_path / "bundle")
    (tmp_path / "bundle" / "shallow" / "model.onnx").write_bytes(b"not a model")
    bundle = write_manifest(tmp_path / "bundle", bundle.manifest)
    assert names(fastest_first(bundle, CONFIG)[0]) == ["deep", "shallow"]
    assert json.loads((tmp_path / f"bundle{SUFFIX}").read_text())["timed"][1]["why"]


def test_where_nothing_runs_it_says_so(tmp_path: Path) -> None:
    bundle = two_forms(tmp_path / "bundle", kinds=("npu",))
    with pytest.raises(NoDeviceError, match="nothing here runs"):
        fastest_first(bundle, Config(threads=1, engines=("hailo",)))


def test_the_variant_that_the_configuration_names_judges(tmp_path: Path) -> None:
    bundle = two_forms(tmp_path / "bundle")
    for name in ("shallow", "deep"):
        made = load("a", bundle, InspectConfig(variant=name))
        assert made.session.variant == name
        made.close()
    assert not (tmp_path / f"bundle{SUFFIX}").exists(), "who names one has nothing measured"
    with pytest.raises(ConfigError, match=r"\$\.inspect\.variant"):
        load("a", bundle, InspectConfig(variant="steep"))
