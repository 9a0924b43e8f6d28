"""A recommender from its interactions to the device, on drawn users with a planted taste.

A user buys within a group of items for a while and changes the group now and then: what comes next follows from the
last item, not from all. Items of a group share an attribute.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lineside.cli import main  # noqa: E402
from lineside_converters.gates.baseline import shortfall_of  # noqa: E402
from lineside_converters.levels import LEVELS  # noqa: E402
from lineside_converters.training.recommendation.interactions import (  # noqa: E402
    collect,
    read_interactions,
    write_interactions,
)
from lineside_converters.training.recommendation.model import DINModel  # noqa: E402
from lineside_link.table_export import export_table  # noqa: E402
from lineside_models.recommendation import Recommender  # noqa: E402
from lineside_runtime.bundle import open_bundle  # noqa: E402
from lineside_runtime.cache.config import CacheConfig  # noqa: E402
from lineside_runtime.config import Config  # noqa: E402
from lineside_runtime.errors import (  # noqa: E402
    BadInputFormatError,
    ConfigError,
    DatasetError,
    InputError,
    TrainingError,
    UnsupportedModelError,
)

pytestmark = pytest.mark.torch

GROUPS, SIZE, USERS = 6, 8, 250


def drawn(rng: np.random.Generator) -> Iterator[tuple[str, str, int, int, list[str]]]:
    for user in range(USERS):
        group = int(rng.integers(GROUPS))
        for time in range(12):
            if rng.random() < 0.15:
                group = int(rng.integers(GROUPS))
            yield f"u{user}", f"i{group}-{rng.integers(SIZE)}", time, 1, [f"group-{group}"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DINModel:
    found = DINModel(32, 16, 4, out=tmp_path_factory.mktemp("run"), batch=64, learning_rate=0.01)
    held = found.train(drawn(np.random.default_rng(0)), epochs=12)
    assert min(held.values()) > 0.8
    return found


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What was said while `bundle` was made."""
    return []


@pytest.fixture(scope="module")
def bundle(model: DINModel, said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.optimize(tmp_path_factory.mktemp("bundles") / "parts", on_progress=said.append).path


def test_a_bundle_that_ranks_well_passes_the_baseline_gate_and_only_files_that_stay_are_named(
    bundle: Path, said: list[str]
) -> None:
    assert said and not [text for text in said if tempfile.gettempdir() in text and str(bundle) not in text]
    report = json.loads((bundle / "report.json").read_text())
    (gate,) = (one for one in report["gates"] if one["name"] == "baseline")
    assert (gate["status"], gate["limit"]) == ("passed", 0.6)
    assert gate["value"] > 0.8
    assert shortfall_of(open_bundle(bundle)) == ""


def test_a_network_that_stays_float_is_not_judged_by_its_time(
    model: DINModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for level in (0, 1):
        monkeypatch.setitem(LEVELS, level, dataclasses.replace(LEVELS[level], max_slowdown=1e-6))  # nothing passes
    (variant,) = model.optimize(tmp_path / "float").manifest.variants
    assert variant.precision == "fp32"


def test_one_that_ranks_no_better_than_chance_does_not_and_users_who_chose_everything_are_trained_on(
    tmp_path: Path,
) -> None:
    found = DINModel(8, 8, 2, out=tmp_path / "run")
    rng = np.random.default_rng(1)
    found.train([(f"u{user}", f"i{rng.integers(60)}", time) for user in range(120) for time in range(5)], epochs=1)
    assert "nobody has shown" in shortfall_of(found.optimize(tmp_path / "random"))
    rows = [(f"u{user}", item) for user in range(30) for item in "abcab"]
    held = DINModel(8, 4, 2, out=tmp_path / "all").train(rows, epochs=1)
    assert all(0 <= value <= 1 for value in held.values())


def group_of(item: str) -> str:
    return item[1]


def test_users_that_it_never_saw_are_ranked_by_their_history(model: DINModel) -> None:
    figures = model.evaluate(drawn(np.random.default_rng(1)), negatives=20)
    assert figures["uniform"].gauc > 0.8
    assert figures["popular"].gauc > 0.8
    history = ["i0-1", "i0-2", "i0-3", "i3-1", "i3-2"]
    assert [group_of(one.item) for one in model.recommend(history, top=4)] == ["3"] * 4
    assert not {one.item for one in model.recommend(history, top=100)} & set(history)


def test_the_device_answers_as_the_host_does(model: DINModel, bundle: Path) -> None:
    history = ["i1-1", "i5-2", "unheard of"]
    with Recommender(bundle, Config(cache=CacheConfig())) as recommender:
        mine = recommender.recommend(history, top=48)
        host = {one.item: one.score for one in model.recommend(history, top=48)}
        assert {one.item for one in mine} == set(host)
        scores = np.array([[one.score, host[one.item]] for one in mine])
        assert np.corrcoef(scores.T)[0, 1] > 0.999
        assert recommender.recommend(history, top=48) == mine
        stats = recommender.session.cache_stats
        assert stats is not None and stats.hits == 1
        assert recommender.recommend([], top=3)  # a user without a history
        assert recommender.recommend(["i1-1"], ["i1-1"]) == []
        assert recommender.recommend(["i1-1"] * 500, ["i1-1"], repeat=True)[0].item == "i1-1"


def test_a_new_item_is_ranked_by_its_attributes_and_exploration_is_drawn_with_its_propensity(bundle: Path) -> None:
    with Recommender(bundle, seed=1) as recommender:
        found = recommender.recommend(
            ["i4-1", "i4-2"], ["new", "other"], attributes={"new": ["group-4"], "other": ["group-2"]}
        )
        assert [one.item for one in found] == ["new", "other"]
        best = recommender.recommend(["i4-1"], top=5)
        drawn_ = [recommender.recommend(["i4-1"], top=5, exploration=2.0) for _ in range(5)]
    assert all(one.propensity == 1 for one in best)
    assert any(found != best for found in drawn_)
    assert all(0 < one.propensity < 1 for found in drawn_ for one in found)
    assert {"tables/item_vectors.npy", "tables/items.npy"} <= open_bundle(bundle).manifest.files.keys()


def test_bad_requests_are_named(bundle: Path, model: DINModel, tmp_path: Path) -> None:
    with Recommender(bundle) as recommender:
        for history in ("i1-1", [3]):
            with pytest.raises(BadInputFormatError):
                recommender.recommend(history)  # type: ignore[arg-type]
        with pytest.raises(ConfigError):
            recommender.recommend([], top=0)
    with pytest.raises(UnsupportedModelError):
        Recommender(Path("models/lineside_models/zoo/surface-12"))
    with pytest.raises(BadInputFormatError):
        model.recommend("nobody")
    with pytest.raises(InputError):
        model.train(drawn(np.random.default_rng(0)))  # a run stands there
    with pytest.raises(TrainingError):
        DINModel(out=tmp_path / "none").recommend(["i1-1"])
    with pytest.raises(TrainingError):
        DINModel(user_features=100)


def test_a_daily_update_changes_only_the_rows_of_what_was_chosen(model: DINModel, bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(model.config.out, tmp_path / "run")
    later = DINModel.load(tmp_path / "run")
    rows = [(f"u{user}", "i2-new", None, 1, ["group-2"]) for user in range(40)]
    assert later.update([*rows, ("u50", "i3-1"), ("stranger", "i3-2")], epochs=20) == 41
    updated = later.optimize(tmp_path / "parts", version="1.0.1", previous=bundle).path
    with Recommender(bundle) as before, Recommender(updated) as after:
        shared = [item for item in model_items(before) if item != "i3-1"]
        rows_before, rows_after = before.tables.rows_of(shared), after.tables.rows_of(shared)
        for name in ("item_vectors", "item_scales", "item_bias"):
            assert np.array_equal(before.tables._arrays[name][rows_before], after.tables._arrays[name][rows_after])
        place = before.tables.rows_of(["i3-1"]), after.tables.rows_of(["i3-1"])
        assert not np.array_equal(before.tables.vectors(place[0])[0], after.tables.vectors(place[1])[0])
        assert after.recommend(["i2-1"], ["i2-new", "i0-1"])[0].item == "i2-new"
    network, same = (
        open_bundle(path).manifest.variants[0].name for path in (bundle, updated)
    )  # INT8, if it was faster
    assert same == network
    assert (bundle / network / "model.onnx").read_bytes() == (updated / network / "model.onnx").read_bytes()


def model_items(recommender: Recommender) -> list[str]:
    return [item.decode() for item in recommender.tables.ids]


def test_training_ends_when_it_gets_no_better(model: DINModel, tmp_path: Path) -> None:
    seen = []
    other = DINModel(8, 4, 2, out=tmp_path / "run", batch=1500, learning_rate=1e-6, patience=1)
    other.train(model.config.data[0], epochs=50, on_progress=lambda progress: seen.append(progress.epoch))
    assert seen[-1] < 49


def test_interactions_are_read_in_every_form(tmp_path: Path) -> None:
    rows = [("u", "a", 3, 1, ["x"]), ("u", "b", 1), ("u", "c", 2, 0), ("", "d", None, None, "y|z")]
    data = collect(rows)
    assert [data.items[row] for row in data.chosen[0]] == ["b", "a"]
    assert data.items[data.shown[0][1, 0]] == "c"  # shown before "a" was chosen
    write_interactions(data, tmp_path / "written.csv")
    (tmp_path / "written.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "written.csv").read_bytes())  # as Excel does
    again = read_interactions(tmp_path)
    assert again.items == data.items
    assert np.array_equal(again.attribute_rows, data.attribute_rows)
    assert np.array_equal(again.shown[0], data.shown[0])
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "shop.txt").write_text("1 a b c\n2 c a\n")
    (tmp_path / "s" / "shop_item2attributes.json").write_text(json.dumps({"a": [4, "q"]}))
    shop = read_interactions(tmp_path / "s" / "shop.txt")
    assert (shop.count, shop.attributes) == (5, ("4", "q"))
    (tmp_path / "s" / "shop_item2attributes.json").write_bytes(b'{"a": \xff}')
    with pytest.raises(DatasetError, match="shop_item2attributes"):
        read_interactions(tmp_path / "s" / "shop.txt")


@pytest.mark.parametrize("item", [None, float("nan"), ""], ids=repr)
def test_a_row_without_an_item_is_refused_and_one_without_a_user_describes_its_item(item: object) -> None:
    with pytest.raises(DatasetError, match="the data, row 2 breaks the format"):
        collect([("u", "a"), ("u", item), ("u", "b")])
    for missing in (None, float("nan"), ""):
        data = collect([("u", "a"), ("u", "b"), (missing, "c", None, None, "x"), ("v", "a"), ("v", "c", 1, 1, missing)])
        assert (data.users, data.attributes) == (("u", "v"), ("x",))


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item\nu,a\n\nu,b\n\n")
    (tmp_path / "b.jsonl").write_text('{"user": "u", "item": "a"}\n\n{"user": "u", "item": "b"}\n\n')
    (tmp_path / "short.csv").write_text("user,item\nu,a\nu\nu,b\n")
    assert [read_interactions(tmp_path / name).items for name in ("a.csv", "b.jsonl")] == [("a", "b")] * 2
    with pytest.raises(DatasetError, match=r"short\.csv, row 2"):
        read_interactions(tmp_path / "short.csv")


def test_parquet_and_json_lines_are_read_as_csv_is(tmp_path: Path) -> None:
    rows = [("u", "a", 3.0, 1, "x", None), ("u", "b", 1.0, 1, "", 0.5), ("u", "c", 2.0, 0, "", 0.25)]
    types = {"user": str, "item": str, "time": float, "label": int, "attributes": str, "propensity": float}
    read = []
    for suffix in (".csv", ".parquet", ".jsonl"):
        export_table(iter(rows), tmp_path / f"home{suffix}", types)
        read.append(read_interactions(tmp_path / f"home{suffix}"))
    for each in read:
        assert [each.items[row] for row in each.chosen[0]] == ["b", "a"]
        assert each.attributes == ("x",)
        assert each.items[each.shown[0][1, 0]] == "c"
    (tmp_path / "bad.jsonl").write_text('{"user": "u"\n')
    (tmp_path / "bad.parquet").write_bytes(b"no")
    for name in ("bad.jsonl", "bad.parquet"):
        with pytest.raises(DatasetError, match=name.replace(".", r"\.")):
            read_interactions(tmp_path / name)


def test_the_worked_example_is_generated_alike_each_time(tmp_path: Path) -> None:
    script = Path("examples/countermeasures.py")
    for name in ("one.csv", "two.csv"):
        subprocess.run([sys.executable, str(script), str(tmp_path / name)], check=True)
    data = read_interactions(tmp_path / "one.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    tried = [data.items[row] for shown in data.shown for row in shown.ravel() if row >= 0]
    assert tried and all(item.startswith("measure:") for item in tried)


@pytest.mark.parametrize(
    "text", ["user,thing\nu,a\n", "user,item,time\nu,a,soon\n", "user,item\nu,a\n", "", "user,item\n" + "x" * 200_000]
)
def test_a_file_that_breaks_the_format_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(DatasetError, match=r"bad\.csv"):
        read_interactions(tmp_path / "bad.csv")


def test_the_command_line_trains_and_recommends(
    model: DINModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["--user-features", "16", "--item-features", "8", "--attention-heads", "2", "--batch", "500"]
    data = str(model.config.data[0])
    assert main(["train", "recommender", "--data", data, "--epochs", "1", "--out", str(out), *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["held_gauc"].keys() == {"gauc_uniform", "gauc_popular"}
    assert main(["recommend", str(out), "--history", "i1-1", "--top", "1"]) == 0  # the run's folder
    capsys.readouterr()
    assert main(["recommend", str(out / "bundle"), "--history", "i1-1", "nix", "--top", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["recommendations"]) == 2
    assert found["unknown"] == ["nix"]
    described = ("--candidates", "i1-2", "new", "typo", "--attributes", "new=a")
    assert main(["recommend", str(out / "bundle"), "--history", "i1-1", *described, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unknown"] == ["typo"]
