"""``tests/conformance/tuf-client``, our updater over MQTT, before the cases of the TUF project's conformance suite.

The suite itself is run where a checkout of it is at hand::

    git clone https://github.com/theupdateframework/tuf-conformance
    TUF_CONFORMANCE=tuf-conformance python -m pytest tests/system/test_tuf_client.py -k the_whole_suite

It is not on PyPI. What is below is written anew from its documented cases, with a repository of our own, so that they
are run in any case; it is no substitute for somebody else's test.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # public by its documentation
from tuf.api.metadata import Metadata, Timestamp

from tests.system.tuf_simulator import CLIENT, TOP, Client, Simulator, days

ALL = {"root": 1, "snapshot": 1, "targets": 1, "timestamp": 1}


@pytest.fixture
def repo() -> Iterator[Simulator]:
    simulator = Simulator()
    yield simulator
    simulator.close()


@pytest.fixture
def client(repo: Simulator, tmp_path: Path) -> Client:
    made = Client(tmp_path, repo)
    assert made.init(repo.files["metadata/1.root.json"]) == 0
    assert made.trusted() == {"root": 1}
    assert repo.asked == [], "no request is made by init"
    return made


def test_refresh_asks_for_each_role_once_and_in_order(repo: Simulator, client: Client) -> None:
    assert client.refresh() == 0
    assert repo.metadata_asked() == ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]
    assert client.trusted() == ALL
    assert client.refresh() == 0
    assert repo.metadata_asked()[4:] == ["2.root.json", "timestamp.json"]


def test_download_refreshes_first_and_fails_for_what_is_not_there(repo: Simulator, client: Client) -> None:
    assert client.download("nonexistent artifact") == 1
    assert repo.metadata_asked() == ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]
    assert client.trusted() == ALL


@pytest.mark.parametrize("damage", ["version", "signature"])
def test_a_bad_first_root_asks_for_nothing(repo: Simulator, tmp_path: Path, damage: str) -> None:
    root = json.loads(repo.files["metadata/1.root.json"])
    if damage == "version":
        del root["signed"]["version"]
    else:
        root["signatures"][0]["sig"] = "00" * 64
    made = Client(tmp_path / "bad", repo)
    made.init(json.dumps(root).encode())
    assert made.refresh() == 1
    assert repo.asked == []


@pytest.mark.parametrize(
    ("role", "trusted"),
    [
        ("root", {"root": 1}),
        ("timestamp", {"root": 1}),
        ("snapshot", {"root": 1, "timestamp": 2}),
        ("targets", {"root": 1, "timestamp": 2, "snapshot": 2}),
    ],
)
def test_what_is_not_signed_ends_the_walk_there(
    repo: Simulator, client: Client, role: str, trusted: dict[str, int]
) -> None:
    repo.signers[role] = []
    repo.publish(*(("root",) if role == "root" else TOP))
    assert client.refresh() == 1
    assert client.trusted() == trusted


def test_a_timestamp_that_changes_without_a_new_version_is_not_looked_at(repo: Simulator, client: Client) -> None:
    assert client.refresh() == 0
    repo.signed("timestamp").snapshot_meta.version = 100
    repo.store("timestamp")
    assert client.refresh() == 0
    assert repo.metadata_asked()[-1] == "timestamp.json"
    kept = Metadata[Timestamp].from_file(str(client.metadata / "timestamp.json"))
    assert kept.signed.snapshot_meta.version == 1


def test_hashes_of_metadata_are_checked(repo: Simulator, client: Client) -> None:
    repo.hashes = True
    repo.publish(*TOP)
    assert client.refresh() == 0
    repo.publish("targets")
    repo.signed("snapshot").meta["targets.json"].hashes["sha256"] = "46" * 32
    repo.publish("snapshot", "timestamp")
    assert client.refresh() == 1
    assert (client.version("snapshot"), client.version("targets")) == (3, 2)


def test_unknown_fields_belong_to_what_is_signed(repo: Simulator, client: Client) -> None:
    repo.signed("root").unrecognized_fields["custom"] = {"a": 1}
    next(iter(repo.signed("root").keys.values())).unrecognized_fields["extra"] = [1]
    repo.publish("root")
    assert client.refresh() == 0
    assert client.version("root") == 2


def test_metadata_is_kept_byte_for_byte(repo: Simulator, client: Client) -> None:
    assert client.refresh() == 0
    for role, name in (
        ("root", "1.root"),
        ("timestamp", "timestamp"),
        ("snapshot", "1.snapshot"),
        ("targets", "1.targets"),
    ):
        assert (client.metadata / f"{role}.json").read_bytes() == repo.files[f"metadata/{name}.json"]


# Rollback and the way back from a fast-forward attack.


@pytest.mark.parametrize("hashes", [False, True])
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_older_versions_are_refused(repo: Simulator, client: Client, role: str, hashes: bool) -> None:
    repo.hashes = hashes
    repo.publish(*TOP)
    repo.publish(*TOP)
    assert client.refresh() == 0
    repo.signed(role).version = 0
    repo.publish(*TOP[TOP.index(role) :])
    assert client.refresh() == 1
    assert client.version(role) == 3


@pytest.mark.parametrize(
    ("ahead", "rotated"),
    [("timestamp", ("timestamp",)), ("snapshot", ("snapshot", "timestamp")), ("targets", ("snapshot",))],
)
def test_new_keys_lead_back_from_versions_far_ahead(
    repo: Simulator, client: Client, ahead: str, rotated: tuple[str, ...]
) -> None:
    repo.signed(ahead).version = 99998
    repo.publish(*TOP[TOP.index(ahead) :])
    assert client.refresh() == 0
    assert client.version(ahead) == 99999
    for role in rotated:
        repo.set_keys(role, [CryptoSigner.generate_ed25519()])
    repo.publish("root")
    repo.signed(ahead).version = 0
    repo.publish(*TOP[TOP.index(ahead) :])
    assert client.refresh() == 0
    assert client.version(ahead) == 1


def test_a_snapshot_of_another_version_than_the_timestamp_names(repo: Simulator, client: Client) -> None:
    repo.signed("snapshot").version = 7
    repo.store("snapshot")
    repo.files["metadata/1.snapshot.json"] = repo.files.pop("metadata/7.snapshot.json")
    assert client.refresh() == 1
    assert client.trusted() == {"root": 1, "timestamp": 1}
    assert repo.metadata_asked()[-1] == "1.snapshot.json"


# Expiry.


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_what_has_expired_is_refused(repo: Simulator, client: Client, role: str) -> None:
    assert client.refresh() == 0
    repo.signed(role).expires = days(-5)
    repo.publish(*(("root",) if role == "root" else TOP[TOP.index(role) :]))
    assert client.refresh() == 1
    assert client.version(role) == (2 if role == "root" else 1), "an expired root is kept: it may lead on"


@pytest.mark.skipif(shutil.which("faketime") is None, reason="Debian's faketime is not installed")
def test_expired_local_metadata_leads_on_to_what_is_new(repo: Simulator, client: Client) -> None:
    repo.signed("timestamp").expires = days(7)
    repo.publish("timestamp")
    assert client.refresh() == 0
    assert client.refresh(at=days(18)) == 1, "nothing newer there"
    repo.publish("targets", "snapshot")
    repo.signed("timestamp").expires = days(21)
    repo.publish("timestamp")
    assert client.refresh(at=days(18)) == 0
    assert (client.version("targets"), client.version("snapshot"), client.version("timestamp")) == (2, 2, 3)


@pytest.mark.skipif(shutil.which("faketime") is None, reason="Debian's faketime is not installed")
def test_a_delegated_role_that_has_expired_is_not_used(repo: Simulator, client: Client) -> None:
    repo.delegate("targets", "old", ["old/*"], expires=-1)
    repo.delegate("targets", "new", ["new/*"], expires=7)
    for role in ("old", "new"):
        repo.add_target(role, f"{role}/a", role.encode())
    repo.add_target("new", "new/b", b"second")
    repo.publish("old", "new", *TOP)
    assert client.refresh() == 0
    assert client.download("old/a") == 1
    assert client.download("new/a") == 0
    assert client.download("new/b", at=days(18)) == 1
    assert client.downloaded() == [b"new"]
    repo.signed("new").expires = days(21)
    repo.publish("new", "snapshot", "timestamp")
    assert client.download("new/b", at=days(18)) == 0


# Keys and thresholds.

KEYS = [CryptoSigner.generate_ed25519() for _ in range(8)]

# Versions of the root as (keys, threshold, keys that sign), and whether a client takes the last of them.
ROOTS: dict[str, tuple[list[tuple[tuple[int, ...], int, tuple[int, ...]]], bool]] = {
    "replaced": ([((1,), 1, (1,)), ((2,), 1, (1, 2)), ((2,), 1, (2,))], True),
    "signatures of strangers": ([((1,), 1, (1, 5)), ((2,), 1, (6, 2, 1, 5))], True),
    "one of three changes": ([((0, 1, 2), 2, (0, 1)), ((0, 1, 3), 2, (0, 1))], True),
    "all change": ([((0, 1, 2), 2, (0, 2)), ((3, 4, 5), 2, (0, 2, 3, 5)), ((3, 4, 5), 2, (4, 5))], True),
    "the threshold rises": ([((1, 2, 3), 1, (1,)), ((1, 2, 3), 2, (1, 2))], True),
    "the threshold falls": ([((1, 2, 3), 2, (1, 2)), ((1, 2, 3), 1, (1, 2)), ((1, 2, 3), 1, (3,))], True),
    "not by the old": ([((1,), 1, (1,)), ((2,), 1, (2, 3))], False),
    "not by the new": ([((1,), 1, (1,)), ((2,), 1, (1, 3))], False),
    "too few of the new": ([((0, 1, 2), 2, (0, 1)), ((0, 3, 4), 2, (0, 1))], False),
    "too few of the old": ([((0, 1, 2), 2, (0, 1)), ((0, 3, 4), 2, (0, 3))], False),
    "the new threshold is not met": ([((1, 2, 3), 1, (1,)), ((1, 2, 3), 2, (2,))], False),
    "the old threshold is not met": ([((1, 2, 3), 2, (1, 2)), ((1, 2, 3), 1, (1,))], False),
}


@pytest.mark.parametrize("case", ROOTS)
def test_a_chain_of_roots(repo: Simulator, tmp_path: Path, case: str) -> None:
    versions, good = ROOTS[case]
    repo.signed("root").version = 0
    for keys, threshold, signing in versions:
        repo.set_keys(
            "root", [KEYS[key] for key in keys], threshold=threshold, sign_with=[KEYS[key] for key in signing]
        )
        repo.publish("root")
    made = Client(tmp_path / "client", repo)
    assert made.init(repo.files["metadata/1.root.json"]) == 0
    assert made.refresh() == (0 if good else 1)
    last = len(versions) - (not good)
    assert (made.metadata / "root.json").read_bytes() == repo.files[f"metadata/{last}.root.json"]


@pytest.mark.parametrize("role", TOP)
@pytest.mark.parametrize(
    ("keys", "threshold", "signing", "good"),
    [
        ((2,), 1, (2,), True),
        ((1,), 1, (3, 1, 4), True),
        ((2,), 1, (1, 3), False),
        ((0, 1, 2), 2, (0, 2), True),
        ((0, 1, 2), 3, (0, 2), False),
        ((0, 1, 3), 3, (0, 2, 4), False),
    ],
)
def test_thresholds_of_the_other_roles(
    repo: Simulator,
    client: Client,
    role: str,
    keys: tuple[int, ...],
    threshold: int,
    signing: tuple[int, ...],
    good: bool,
) -> None:
    repo.set_keys(role, [KEYS[key] for key in keys], threshold=threshold, sign_with=[KEYS[key] for key in signing])
    repo.publish("root", *TOP)
    assert client.refresh() == (0 if good else 1)
    assert client.version(role) == (2 if good else None)


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_kinds_of_keys(repo: Simulator, client: Client, kind: str) -> None:
    key = getattr(CryptoSigner, f"generate_{kind}")()
    for role in TOP:
        repo.set_keys(role, [key])
    repo.publish("root", *TOP)
    assert client.refresh() == 0


def test_the_same_key_twice_counts_once(repo: Simulator, client: Client) -> None:
    repo.set_keys("snapshot", KEYS[:2], threshold=2, sign_with=[KEYS[0]])
    repo.publish("root", *TOP)
    data = json.loads(repo.files["metadata/2.snapshot.json"])
    data["signatures"].append({**data["signatures"][0], "keyid": KEYS[1].public_key.keyid})
    repo.files["metadata/2.snapshot.json"] = json.dumps(data).encode()
    assert client.refresh() == 1


# Delegations and targets.

TREES: dict[str, tuple[list[tuple[str, str, list[str], bool]], list[str]]] = {
    "one": ([("targets", "A", ["*"], False)], ["A"]),
    "two in order": ([("targets", "A", ["*"], False), ("targets", "B", ["*"], False)], ["A", "B"]),
    "depth first": (
        [
            ("targets", "A", ["*"], False),
            ("targets", "B", ["*"], False),
            ("A", "C", ["*"], False),
            ("C", "D", ["*"], False),
        ],
        ["A", "C", "D", "B"],
    ),
    "terminating": (
        [
            ("targets", "A", ["*"], False),
            ("targets", "B", ["*"], False),
            ("A", "C", ["*"], True),
            ("A", "D", ["*"], False),
        ],
        ["A", "C"],
    ),
    "paths that don't match": ([("targets", "A", ["*.py"], False), ("targets", "B", ["*"], False)], ["B"]),
    "a circle": (
        [("targets", "A", ["*"], False), ("A", "B", ["*"], False), ("B", "A", ["*"], False)],
        ["A", "B"],
    ),
    "two ways to one": (
        [
            ("targets", "A", ["*"], False),
            ("targets", "B", ["*"], False),
            ("B", "C", ["*"], False),
            ("A", "C", ["*"], False),
        ],
        ["A", "C", "B"],
    ),
}


@pytest.mark.parametrize("tree", TREES)
def test_delegations_are_walked_in_order(repo: Simulator, client: Client, tree: str) -> None:
    delegations, order = TREES[tree]
    for by, role, paths, terminating in delegations:
        repo.delegate(by, role, paths, terminating=terminating)
    repo.publish(*dict.fromkeys(role for _, role, _, _ in delegations), *TOP)
    assert client.download("missing") == 1
    assert repo.metadata_asked()[4:] == [f"1.{role}.json" for role in order]


@pytest.mark.parametrize(
    ("path", "found", "walked"),
    [
        ("top", True, []),
        ("README.md", True, ["A"]),
        ("releases/x/v1", True, ["B", "C"]),
        ("releases/z/v1.zip", False, ["B"]),
    ],
)
def test_a_target_is_found_only_along_the_delegations(
    repo: Simulator, client: Client, path: str, found: bool, walked: list[str]
) -> None:
    repo.delegate("targets", "A", ["*.md"])
    repo.delegate("targets", "B", ["releases/*/*"])
    repo.delegate("B", "C", ["releases/x/*"])
    for role, name in (("targets", "top"), ("A", "README.md"), ("C", "releases/x/v1"), ("C", "releases/z/v1.zip")):
        repo.add_target(role, name, name.encode())
    repo.publish("A", "B", "C", *TOP)
    assert client.download(path) == (0 if found else 1)
    assert client.downloaded() == ([path.encode()] if found else [])
    assert repo.metadata_asked()[4:] == [f"1.{role}.json" for role in walked]


@pytest.mark.parametrize("role", ["?", "#", "/delegatedrole", "../delegatedrole", "."])
def test_odd_names_of_roles_are_quoted(repo: Simulator, client: Client, role: str) -> None:
    import urllib.parse

    repo.delegate("targets", role, ["*"])
    repo.publish(role, *TOP)
    assert client.download("nothing") == 1
    assert f"1.{urllib.parse.quote(role, '')}.json" in repo.metadata_asked()
    assert len(client.trusted()) == 5
    assert not (client.metadata.parent / "delegatedrole.json").exists()


def test_a_target_is_downloaded_once_and_again_when_it_changes(repo: Simulator, client: Client) -> None:
    repo.add_target("targets", "path/to/a.txt", b"first")
    repo.publish(*TOP)
    assert client.download("path/to/a.txt") == 0
    assert client.downloaded() == [b"first"]
    count = len([name for name in repo.asked if name.startswith("targets/")])
    [written_at_ns] = client.written_at_ns()
    assert client.download("path/to/a.txt") == 0
    assert len([name for name in repo.asked if name.startswith("targets/")]) == count, "it is cached"
    assert client.written_at_ns() == [written_at_ns], "and not written again"
    repo.add_target("targets", "path/to/a.txt", b"second")
    repo.publish(*TOP)
    assert client.download("path/to/a.txt") == 0
    assert client.downloaded() == [b"second"]


def test_another_content_than_was_signed_is_not_kept(repo: Simulator, client: Client) -> None:
    repo.add_target("targets", "a.txt", b"genuine")
    repo.add_target("targets", "b.txt", b"genuine too")
    repo.publish(*TOP)
    assert client.download("a.txt") == 0
    repo.replace_content("a.txt", b"malicious")
    repo.replace_content("b.txt", b"malicious - longer")
    client.download("a.txt")
    assert client.download("b.txt") == 1
    assert client.downloaded() == [b"genuine"]


@pytest.mark.timeout(3600)
@pytest.mark.skipif("TUF_CONFORMANCE" not in os.environ, reason="TUF_CONFORMANCE names no checkout of the suite")
def test_the_whole_suite() -> None:
    """In the suite's own environment, if it has one (``env`` or ``.venv`` in the checkout), else in this one."""
    checkout = Path(os.environ["TUF_CONFORMANCE"]).resolve()
    own = [found for name in ("env", ".venv") if (found := checkout / name / "bin" / "python").is_file()]
    command = [str(own[0]) if own else sys.executable, "-m", "pytest", "tuf_conformance", "-q"]
    command += ["-p", "no:cacheprovider", "--entrypoint", f"{sys.executable} {CLIENT}"]
    assert subprocess.run(command, cwd=checkout, timeout=3000, check=False).returncode == 0
