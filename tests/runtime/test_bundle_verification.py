"""Files are compared with the manifest in a thread, and nothing is believed of one that was not."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineside_runtime.bundle import Bundle, write_manifest
from lineside_runtime.bundle.folder import open_while_loading
from lineside_runtime.bundle.verification import BundleVerification
from lineside_runtime.errors import BundleFormatError, BundleIntegrityError
from tests.runtime.onnx_models import make_bundle, scaler

MODEL = "level0/model.onnx"
OTHERS = ("a.txt", "b.txt", "z.txt")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    made = make_bundle(tmp_path / "b", scaler(2.0))
    for name in OTHERS:
        (made.path / name).write_text(name)
    return write_manifest(made.path, made.manifest)


def verification_of(bundle: Bundle) -> BundleVerification:
    verification = open_while_loading(bundle.path).verification
    assert verification is not None
    return verification


def test_a_whole_bundle_is_compared_with_and_without_a_thread(bundle: Bundle) -> None:
    verification_of(bundle).finish()
    verification = verification_of(bundle)
    verification.begin([MODEL])
    verification.begin([MODEL])
    verification.finish()
    verification.finish()


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("begun", [True, False])
def test_the_end_refuses_what_the_thread_met(bundle: Bundle, name: str, begun: bool) -> None:
    (bundle.path / name).write_text("!" * len(name))
    verification = verification_of(bundle)
    if begun:
        verification.begin([MODEL])
    for _ in range(2):
        with pytest.raises(BundleIntegrityError, match=name):
            verification.finish()


def test_what_an_engine_is_about_to_read_is_compared_first(bundle: Bundle) -> None:
    (bundle.path / MODEL).write_bytes(b"!" * bundle.manifest.files[MODEL].size)
    verification = verification_of(bundle)
    with pytest.raises(BundleIntegrityError):
        verification.begin([MODEL])
    with pytest.raises(BundleIntegrityError):
        verification.finish()


def test_a_file_that_the_manifest_does_not_name_is_refused_at_once(bundle: Bundle) -> None:
    (bundle.path / "more.txt").write_text("")
    with pytest.raises(BundleFormatError, match=r"more\.txt"):
        verification_of(bundle)
