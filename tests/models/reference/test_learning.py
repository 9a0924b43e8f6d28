from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lineside_models.frame import Frame
from lineside_models.golden import replay
from lineside_models.inspector import Inspector
from lineside_models.reference.learning import LearnedReference, ReferenceOptions, learn_reference
from lineside_models.reference.network import DIFFERENCE_CHANNEL
from lineside_models.reference.packaging import write_bundle
from lineside_models.vision import ImageInspector
from lineside_runtime.bundle import Bundle, Reference, open_bundle, write_manifest
from lineside_runtime.config import Config
from lineside_runtime.errors import BundleIntegrityError, ConfigError, InputError, RegistrationError
from lineside_runtime.session import Session
from lineside_runtime.tensors import TensorSpec
from tests.models.reference.boards import SIDE, board, motion, photo, with_defect
from tests.models.small_detector import detector, detector_bundle


def good_frames(seed: int, count: int, *, first: int = 0) -> list[Frame]:
    """Returns photos of one design, displaced by up to ±5 px and ±2°, in light of 90 to 110 %."""
    random = np.random.default_rng([seed, first])
    return [
        Frame(
            image=photo(
                board(seed),
                motion(tuple(random.uniform(-5, 5, 2)), random.uniform(-2, 2)),
                light=random.uniform(0.9, 1.1),
                seed=first + number,
            ),
            part_id=f"good-{first + number}",
        )
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def learned() -> LearnedReference:
    return learn_reference(good_frames(3, 16))


@pytest.fixture(scope="module")
def bundle(learned: LearnedReference, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(learned, tmp_path_factory.mktemp("reference") / "board-3", name="board-3", source="drawn")


@pytest.fixture(scope="module")
def inspector(bundle: Bundle) -> Iterator[Inspector]:
    with Session(bundle, Config(threads=1)) as session:
        yield Inspector(session)


def test_good_parts_that_were_not_learned_pass(inspector: Inspector) -> None:
    verdicts = [inspector.inspect(frame) for frame in good_frames(3, 20, first=100)]
    assert sum(not verdict.passed for verdict in verdicts) <= 1


@pytest.mark.parametrize(
    ("shift", "rotation_deg", "light"), [((0, 0), 0, 1), ((5, -5), 2, 0.9), ((-5, 5), -2, 1.1), ((4.4, 0.3), 0.7, 1.1)]
)
def test_a_defect_is_found_where_it_is(
    inspector: Inspector, shift: tuple[float, float], rotation_deg: float, light: float
) -> None:
    corner, side = (150, 140), 10
    true = motion(shift, rotation_deg)
    verdict = inspector.inspect(Frame(image=photo(with_defect(board(3), corner, side), true, light=light)))
    assert verdict.verdict == "bad"
    (found,) = verdict.detections
    middle = true @ [corner[0] + side / 2, corner[1] + side / 2, 1]
    x1, y1, x2, y2 = found.box
    assert found.type == "difference"
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx(tuple(middle), abs=3)
    assert side <= max(x2 - x1, y2 - y1) <= side + 2 * ReferenceOptions().grow_px + 8


def test_frames_that_cannot_be_compared_raise_and_the_others_keep_their_verdicts(bundle: Bundle) -> None:
    frames = [photo(board(3)), photo(board(4)), photo(with_defect(board(3))), photo(board(3))[:200]]
    with ImageInspector(bundle.path) as inspector:
        examined = list(inspector.examine(frames))
        with pytest.raises(RegistrationError, match="does not show the reference"):
            inspector.predict(frames[1])
        heat = inspector.heat_map(frames[2])
    assert [each.inspection and each.inspection.passed for each in examined] == [True, None, False, None]
    assert [type(each.error) for each in examined] == [type(None), RegistrationError, type(None), RegistrationError]
    assert heat.shape == (SIDE, SIDE)
    assert heat[140:152, 150:162].min() > 0.5 > np.median(heat)


def test_the_references_travel_in_the_bundle_and_are_verified(bundle: Bundle, tmp_path: Path) -> None:
    reference = bundle.manifest.preprocess.reference
    assert isinstance(reference, Reference)
    assert set(reference.images[0].files) <= bundle.manifest.files.keys()
    with Session(bundle, Config(threads=1)) as session:
        assert replay(session, bundle).cosine["difference"] > 0.999
    file = bundle.file(reference.images[0].brightest)
    content = file.read_bytes()
    try:
        file.write_bytes(content[:-1] + b"\0")
        with pytest.raises(BundleIntegrityError):
            open_bundle(bundle.path)
    finally:
        file.write_bytes(content)


def test_several_products_in_one_bundle(tmp_path: Path) -> None:
    frames = good_frames(3, 8) + good_frames(4, 8)
    learned = learn_reference(frames, [board(3), board(4)])
    assert learned.frames == (8, 8)
    bundle = write_bundle(learned, tmp_path / "both", name="both")
    with ImageInspector(bundle.path) as inspector:
        passed = [each.passed for each in inspector.predict([each.image for each in good_frames(4, 3, first=50)])]
        assert passed == [True] * 3
        assert not inspector.predict(photo(with_defect(board(4), (100, 60))))[0].passed


def test_without_edges_that_may_move_more_good_parts_would_be_rejected() -> None:
    frames = good_frames(3, 12)
    strict = learn_reference(frames, options=ReferenceOptions(edge_px=0))
    assert np.mean(strict.scores) > np.mean(learn_reference(frames, options=ReferenceOptions(edge_px=2)).scores)


def test_frames_of_another_product_among_the_good_ones_are_named(learned: LearnedReference) -> None:
    mixed = learn_reference([*good_frames(3, 8), Frame(image=photo(board(4)), part_id="other")])
    assert [name.partition(":")[0] for name in mixed.unregistered] == ["other"]
    assert "could not be registered" in mixed.warning
    assert "few" not in learned.warning
    with pytest.raises(InputError, match="too few good frames"):
        learn_reference(good_frames(3, 4))
    with pytest.raises(InputError, match="can be registered"):
        learn_reference(good_frames(3, 8), [board(4)])
    for wrong in (ReferenceOptions(quantile=0.3), ReferenceOptions(edge_px=40), ReferenceOptions(grow_px=-1)):
        with pytest.raises(ConfigError):
            learn_reference(good_frames(3, 8), options=wrong)


def grey_detector_that_compares(folder: Path) -> Bundle:
    """Writes the bundle of a detector that finds bright cells of the difference; its references are given elsewhere."""
    nodes = [
        helper.make_node(
            "Constant", [], ["at"], value=numpy_helper.from_array(np.array([DIFFERENCE_CHANNEL], np.int64), "at")
        ),
        helper.make_node("Gather", ["composed", "at"], ["image"], axis=1),
    ]
    own = onnx.load_from_string(detector())
    own.graph.input[0].name = "composed"
    own.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    for number, node in enumerate(nodes):
        own.graph.node.insert(number, node)
    bundle = detector_bundle(folder)
    (folder / "onnx" / "model.onnx").write_bytes(own.SerializeToString())
    how = msgspec.structs.replace(
        bundle.manifest.preprocess, input="composed", colour="bgr", max_side=SIDE, reference=Reference()
    )
    takes = (TensorSpec(name="composed", shape=(-1, 3, -1, -1), layout="NCHW"),)
    return write_manifest(folder, msgspec.structs.replace(bundle.manifest, preprocess=how, inputs=takes))


def test_a_network_judges_in_place_of_the_difference(learned: LearnedReference, tmp_path: Path) -> None:
    network = grey_detector_that_compares(tmp_path / "network")
    with pytest.raises(ConfigError, match="has none"):
        ImageInspector(network.path)
    bad = photo(with_defect(board(3), (152, 144), 24), motion((3, 2), 1))
    with ImageInspector(network.path, reference=board(3)) as inspector:
        (given,) = inspector.predict(bad)
    bundle = write_bundle(learned, tmp_path / "with-network", name="with-network", network=network)
    assert bundle.manifest.golden is not None
    with Session(bundle, Config(threads=1)) as session:
        replay(session, bundle)
    with ImageInspector(bundle.path) as inspector:
        (found,) = inspector.predict(bad)
        (good,) = inspector.predict(photo(board(3), motion((3, 2), 1)))
    for verdict in (given, found):
        bright = [each.box for each in verdict.detections if each.type == "bright"]
        assert bright
        assert all(140 < box[0] < 185 for box in bright)
    assert "bright" not in {each.type for each in good.detections}
