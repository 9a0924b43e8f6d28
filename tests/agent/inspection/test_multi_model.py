"""A bundle of several models on an agent: placement of each, shares of the compute, deployment as one signed unit."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import pytest
import tomli_w

from lineside.cli import main
from lineside_agent.config import (
    CameraConfig,
    InspectConfig,
    RecipeConfig,
    inspect_of,
    model_inspect,
    parse_config,
    read_settings,
)
from lineside_agent.config.cameras import FolderCameraConfig
from lineside_agent.inspection.compute_share import compute_shares
from lineside_agent.inspection.loaded_bundle import load
from lineside_converters.bundles.combination import read_combination
from lineside_models.frame import Frame
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import (
    BundleFormatError,
    BundleIntegrityError,
    ConfigError,
    PartNotFoundError,
    UnsupportedModelError,
)
from lineside_runtime.session import Session
from tests.peers.waiting import wait_for
from tests.runtime.conftest import numpy_engine as numpy_engine
from tests.runtime.onnx_models import make_bundle as make_scaler
from tests.runtime.onnx_models import scaler
from tests.worlds.bundles import break_golden, bright, dark, make_bundle, make_shade_classifier
from tests.worlds.drawn_codes import HEAT, LABEL, coil
from tests.worlds.site import TIMEOUT_S, Site

ORT, OTHER = "ort/cpu:0", "openvino/cpu:0"
SPOTS = {"name": "spots", "bundle": "spots"}
SHADE = {"name": "shade", "bundle": "shade", "of": "spots", "boxes_min": 0, "boxes_max": 64}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    make_bundle(folder / "spots")
    make_bundle(folder / "fragile", fragile=True)
    make_shade_classifier(folder / "shade")
    break_golden(make_shade_classifier(folder / "broken", version="1.1.0"))
    return folder


def combined(parts: Path, out: Path, *models: dict[str, Any], version: str = "1.0.0") -> Bundle:
    file = parts / f"{out.name}.toml"
    file.write_text(tomli_w.dumps({"name": "line", "version": version, "model": list(models)}))
    assert main(["bundle", "combine", str(file), str(out)]) == 0
    return open_bundle(out)


def used(bundle: Bundle, config: InspectConfig) -> str:
    loaded = load("a", bundle, config)
    try:
        return loaded.inspect(Frame(image=bright())).used_device
    finally:
        loaded.close()


def test_each_model_runs_where_bundle_and_device_say(parts: Path, tmp_path: Path) -> None:
    bundle = combined(parts, tmp_path / "made", SPOTS, {**SHADE, "inspect": {"engines": ["openvino"]}})
    assert bundle.manifest.labels == ("grey", "good")
    assert used(bundle, InspectConfig()) == f"{ORT}+{OTHER}"
    assert used(bundle, InspectConfig(engines=("openvino",))) == f"{OTHER}+{OTHER}"
    own = InspectConfig(engines=("openvino",), models={"shade": {"engines": ["ort"]}})
    assert used(bundle, own) == f"{OTHER}+{ORT}"
    loaded = load("a", bundle, InspectConfig())
    assert loaded.inspect(Frame(image=dark())).passed
    spots, shade = loaded.models_status()
    loaded.close()
    assert (spots["used_device"], shade["bundle"]) == (ORT, "shade@1.0.0")
    assert spots["compute_share"] > 0.5 > shade["compute_share"], "no box, so that the second model had nothing to do"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (InspectConfig(confidence_threshold=0.5), r"\$\.inspect\.confidence_threshold is for one model"),
        (InspectConfig(variant="onnx-fp32"), r"\$\.inspect\.variant is for one model"),
        (InspectConfig(models={"shad": {"threads": 1}}), r"\$\.inspect\.models\.shad: line@1\.0\.0 has no such model"),
        (InspectConfig(models={"shade": {"workers": 2}}), r"\$\.inspect\.models\.shade\.workers is no key of one"),
        (
            InspectConfig(models={"shade": {"thresholds": {"gray": 0.5}}}),
            r"\$\.inspect\.models\.shade\.thresholds: .*gray",
        ),
        (
            InspectConfig(models={"shade": {"read": [{"name": "heat", "type": "code", "agrees_with": "heat_number"}]}}),
            r"\$\.inspect\.models\.shade\.read: the rule heat .* expected \$\.inspect\.models\.shade\.expected_values",
        ),
        (
            InspectConfig(models={"spots": {"brightness": [40, 220]}, "shade": {"brightness": [40, 220]}}),
            r"\$\.inspect\.models\.shade\.brightness: shade takes boxes of spots; .*whole frames",
        ),
        (InspectConfig(models={"shade": {"variant": "int8"}}), r"\$\.inspect\.models\.shade\.variant: .*'int8'"),
    ],
)
def test_what_fits_none_or_only_one_of_the_models_is_refused(
    parts: Path, tmp_path: Path, config: InspectConfig, message: str
) -> None:
    bundle = combined(parts, tmp_path / "made", SPOTS, SHADE)
    with pytest.raises(ConfigError, match=message):
        load("a", bundle, config)


def test_a_rule_of_a_model_is_named_where_it_stands_in_the_bundle_or_in_a_recipe(parts: Path, tmp_path: Path) -> None:
    wrong = {"thresholds": {"gray": 0.5}}
    bundle = combined(parts, tmp_path / "made", SPOTS, {**SHADE, "inspect": wrong})
    with pytest.raises(ConfigError, match=r"\$\.models\[shade\]\.inspect\.thresholds: .*gray"):
        load("a", bundle, InspectConfig())
    recipe = RecipeConfig(name="small", inspect={"models": {"shade": wrong}})
    with pytest.raises(ConfigError, match=r"\$\.recipe\[small\]\.inspect\.models\.shade\.thresholds: .*gray"):
        load("a", bundle, inspect_of(InspectConfig(), recipe), recipe=recipe)


def test_rules_of_one_camera_and_a_plain_session_are_refused(parts: Path, tmp_path: Path) -> None:
    bundle = combined(parts, tmp_path / "made", SPOTS, SHADE)
    camera: CameraConfig = FolderCameraConfig(path=tmp_path, name="top", inspect={"confidence_threshold": 0.5})
    with pytest.raises(ConfigError, match=r"\$\.camera\[top\]\.inspect is for one model"):
        load("a", bundle, InspectConfig(), cameras=[camera])
    with pytest.raises(UnsupportedModelError, match="bundle of several models"):
        Session(bundle)


def test_one_verdict_of_several_models_is_evaluated_on_good_and_bad_parts(
    parts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = combined(parts, tmp_path / "made", SPOTS, {**SHADE, "boxes_max": 1})
    for kind, images in (("good", [dark(), bright()]), ("spot", [bright(), bright(), dark()])):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for number, image in enumerate(images):
            assert cv2.imwrite(str(tmp_path / "data" / kind / f"{number}.png"), image)
    page = tmp_path / "page.html"
    command = ["evaluate", str(bundle.path), "--data", str(tmp_path / "data")]
    assert main([*command, "--json", "--html", str(page)]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (result["task"], result["models"], result["frames"]) == ("combination", ["spots", "shade"], 5)
    assert result["faults"] == 3, "more boxes than the second model takes"
    assert result["good_or_bad"]["recall"]["rejected"] == 2, "a dark part has no spot, so that it passes"
    assert result["good_or_bad"]["false_rejects"][0]["rejected"] == 1
    assert result["per_class"] == {"spot": {"recall": pytest.approx(2 / 3), "support": 3}}
    assert {one["file"] for one in result["worst_frames"]} == {"good/1.png", "spot/2.png"}
    assert page.read_text().count("data:image/jpeg;base64,") == 4
    assert main([*command, "--max-frames", "2"]) == 0
    assert [line.split(":")[0] for line in capfd.readouterr().out.splitlines()[1:3]] == ["faults", "escapes"]
    assert main([*command, "--variant", "onnx-fp32"]) == 1
    assert "expected a bundle of one model" in capfd.readouterr().err


def test_tables_of_models_are_checked_when_the_file_is_read_and_a_hub_names_no_file(tmp_path: Path) -> None:
    head = 'device = "cam-1"\nfolder = "s"\nbundle = "b"\n[camera]\ntype = "folder"\npath = "f"\n'
    with pytest.raises(ConfigError, match=r"\$\.inspect\.models\.find\.thread"):
        parse_config(f"{head}[inspect.models.find]\nthread = 2\n".encode(), tmp_path)
    found = parse_config(f'{head}[inspect.models.find.cache]\nsqlite = "r.db"\n'.encode(), tmp_path)
    assert found.inspect.models["find"]["cache"]["sqlite"] == str(tmp_path / "r.db")
    read_settings(b'[inspect.models.find]\nengines = ["ort"]\n')
    with pytest.raises(ConfigError, match=r"\$\.inspect\.models\.find\.cache\.sqlite can't be set by a hub"):
        read_settings(b'[inspect.models.find.cache]\nsqlite = "/etc/passwd"\n')


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([SPOTS], "two or more"),
        ([SHADE, SPOTS], "a model before it"),
        ([SPOTS, {**SPOTS}], "got 'spots'. Correct the [[model]] tables."),
        ([SPOTS, {**SHADE, "types": ["bird"]}], "no type 'bird'"),
        ([SPOTS, {**SHADE, "boxes_min": 9, "boxes_max": 3}], "boxes_min"),
        ([SPOTS, {**SHADE, "inspect": {"cache": {"sqlite": "/tmp/x"}}}], "can't be set by a bundle"),
        ([SPOTS, {**SHADE, "inspect": {"threads": 0}}], "threads"),
        ([SPOTS, {**SHADE, "inspect": {"engines": ["ort", "tpu9"]}}], "engines; expected some of tensorrt, hailo,"),
        ([SPOTS, {**SHADE, "inspect": {"stage_engines": ["ort/cpu:0", "tpu9/npu:0"]}}], "got tpu9/npu:0"),
        ([SPOTS, {**SHADE, "bundle": "nothing/here"}], "nothing/here"),
    ],
)
def test_what_does_not_fit_together_is_no_bundle(
    parts: Path, tmp_path: Path, models: list[dict[str, Any]], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = parts / "wrong.toml"
    file.write_text(tomli_w.dumps({"name": "line", "model": models}))
    assert main(["bundle", "combine", str(file), str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_changed_inside_the_bundle_is_found(parts: Path, tmp_path: Path) -> None:
    bundle = combined(parts, tmp_path / "made", SPOTS, SHADE)
    inner = bundle.path / "models" / "shade" / "manifest.json"
    inner.write_bytes(inner.read_bytes().replace(b'"good"', b'"gray"'))
    with pytest.raises(BundleIntegrityError, match=r"manifest\.json has another hash"):
        open_bundle(bundle.path)
    inner.unlink()
    with pytest.raises(BundleFormatError):
        bundle.open_model(bundle.manifest.several[1])


def test_the_example_is_read() -> None:
    combination = read_combination(Path(__file__).parents[3] / "examples" / "combination.toml")
    assert [model.name for model in combination.model] == ["known", "unusual"]
    for model in combination.model:
        model_inspect(InspectConfig(), model.entry)


def test_the_share_is_measured_and_decides_between_npu_and_gpu(tmp_path: Path, numpy_engine: ModuleType) -> None:
    quick, slow = (
        make_scaler(tmp_path / name, scaler(factor), device_kinds=("npu", "gpu"))
        for name, factor in (("quick", 2.0), ("slow", 3.0))
    )
    settings = Config(engines=("numpy",), npu_threshold=0.2)
    run = numpy_engine.NumpyExecutable._run

    def costly(self: Any, inputs: Any) -> Any:
        for _ in range(1 if float(self._factor[0]) == 2.0 else 200):
            outputs = run(self, inputs)
        return outputs

    numpy_engine.NumpyExecutable._run = costly
    try:
        shares = compute_shares([(quick, settings), (slow, settings)])
    finally:
        numpy_engine.NumpyExecutable._run = run
    assert compute_shares([(quick, settings), (slow, settings)], known_ms=[3.0, 1.0]) == [0.75, 0.25]
    assert sum(shares) == pytest.approx(1.0)
    assert shares[0] < 0.2 < shares[1]
    for bundle, share, device in ((quick, shares[0], "npu:0"), (slow, shares[1], "gpu:0")):
        with Session(bundle, settings, compute_share=share) as session:
            assert session.requested_device == device


def test_where_no_share_decides_nothing_is_measured(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lineside_agent.inspection.compute_share.time_variant", None)
    spots = open_bundle(parts / "spots")
    assert compute_shares([(spots, Config()), (spots, Config(engines=("openvino",)))]) == [1.0, 1.0]


def test_a_part_of_which_two_models_read_different_ids_is_a_fault(parts: Path, tmp_path: Path) -> None:
    image = coil("C1", "C2")
    (tmp_path / "orders.csv").write_text("part_id,heat_number\nC1,C2\nP,X\n")
    config = InspectConfig(expected_values=str(tmp_path / "orders.csv"))
    other = {**HEAT, "part_id": True, "agrees_with": ""}
    found = []
    for name, rule in (("ids", other), ("heat", HEAT)):
        again = {**SPOTS, "name": "again", "inspect": {"read": [rule]}}
        bundle = combined(parts, tmp_path / name, {**SPOTS, "inspect": {"read": [LABEL]}}, again)
        loaded = load("a", bundle, config)
        one = loaded.inspect(Frame(image=image, part_id="P"))
        loaded.close()
        found.append((one.part_id, one.verdict, one.fault))
    assert found[0][:2] == ("P", "unsure") and "label C1: different part ids were read: C1, C2" in found[0][2]
    assert found[1] == ("C1", "good", ""), "the second model finds the heat by the id that the first one has read"


def test_photos_are_inspected_by_hand_with_the_verdicts_of_the_agent(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = combined(parts, tmp_path / "made", SPOTS, {**SHADE, "boxes_min": 1})
    capsys.readouterr()
    photos, drawn = tmp_path / "photos", tmp_path / "drawn"
    photos.mkdir()
    for name, image in (("a-none.png", dark()), ("b-white.png", bright()), ("c-grey.png", bright() // 2 + 43)):
        cv2.imwrite(str(photos / name), image)
    rules = tmp_path / "rules.toml"
    rules.write_text('[inspect.models.shade]\nengines = ["openvino"]\n')
    given = ["inspect", str(photos), "--model", str(bundle.path), "--rules", str(rules), "--draw", str(drawn), "--json"]
    assert main(given) == 1
    told = json.loads(capsys.readouterr().out)
    assert {one["part_id"]: one["verdict"] for one in told["inspections"]} == {"b-white": "good", "c-grey": "bad"}
    assert {one["used_device"] for one in told["inspections"]} == {f"{ORT}+{OTHER}"}
    assert [one["error"]["code"] for one in told["unreadable"]] == [PartNotFoundError.code]
    assert len(list(drawn.iterdir())) == 2
    assert main([*given, "--threshold", "0.5"]) == 1
    assert "confidence_threshold is for one model" in capsys.readouterr().err


def test_models_are_deployed_and_rolled_back_as_one_signed_unit(parts: Path, tmp_path: Path) -> None:
    good = combined(parts, tmp_path / "good", SPOTS, {**SHADE, "inspect": {"engines": ["openvino"]}})
    broken = combined(parts, tmp_path / "broken", SPOTS, {**SHADE, "bundle": "broken"}, version="1.1.0")
    fragile = {"name": "fine", "bundle": "fragile"}
    failing = combined(parts, tmp_path / "failing", SPOTS, SHADE, fragile, version="1.2.0")
    site = Site(tmp_path, frames=1200, rate_hz=10.0)
    for number in range(site.frames):  # of a size at which the last model fails
        image = bright(64, 96) if number % 2 else dark(64, 96)
        cv2.imwrite(str(tmp_path / "frames" / f"{number:04d}.png"), image)
    try:
        site.start()
        site.push(good)
        site.wait_installed("line@1.0.0")
        site.wait_inspected(4)
        site.wait_state("rolled_back", site.push(broken))
        site.wait_state("rolled_back", site.push(failing))

        def is_back() -> bool:
            seen = [bundle for _, _, bundle in site.results()]
            return "line@1.2.0" in seen and seen[-1] == "line@1.0.0"

        wait_for(is_back, TIMEOUT_S, what="results of the bundle that came back, behind those of the failing one")
        wait_for(lambda: len(site.agent.status["models"]) == 2, TIMEOUT_S, what="its models in the status file")
        status = site.agent.status
        site.end()
        rows = site.agent.rows()
    finally:
        site.end()
    assert status["installed"] == "line@1.0.0"
    assert [model["name"] for model in status["models"]] == ["spots", "shade"]
    assert {row.bundle for row in rows[:4]} == {rows[-1].bundle} == {"line@1.0.0"}
    judged = [row for row in rows if row.bundle == "line@1.0.0"]
    assert {row.verdict for row in judged} == {"pass"}, "each bright spot is of the class of good ones"
    assert {row.used_device for row in judged} == {ORT, f"{ORT}+{OTHER}"}
    assert {row.used_variant for row in judged} == {"onnx-fp32+onnx-fp32"}
