from __future__ import annotations

import hashlib
import queue
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lineside_hub.repository.pacing import DEVICE_WAITING_MAX, FairQueue
from lineside_hub.repository.repository import Repository
from lineside_hub.repository.responder import Responder
from lineside_link.messages import RepoRequest, RepoResponse, decode_framed, encode
from lineside_runtime.bundle import CHUNK_BYTES, Bundle
from lineside_runtime.errors import BadInputFormatError

GROUP = "line-a"


@pytest.fixture
def responder(repository: Repository) -> Responder:
    return Responder(repository, lambda _device, _head, _body: True)


def ask(responder: Responder, kind: str, path: str, part: int = 0) -> tuple[RepoResponse, bytes]:
    return responder.respond(RepoRequest(id="1", kind=kind, path=path, part=part))  # type: ignore[arg-type]  # also kinds that there are not


def test_metadata_manifests_and_chunks_are_served(
    responder: Responder, repository: Repository, make_bundle: Callable[..., Bundle]
) -> None:
    bundle = make_bundle("1.0.0")
    ref = repository.publish(bundle, GROUP)
    head, body = ask(responder, "metadata", "1.root.json")
    assert (head.status, head.parts, head.size) == (200, 1, len(body))
    assert body == repository.root_bytes()
    assert ask(responder, "metadata", "timestamp.json")[0].status == 200
    assert ask(responder, "metadata", "2.line-a.json")[0].status == 200
    head, body = ask(responder, "target", f"{GROUP}/{ref.sha256}.surface-1.0.0.json")
    assert hashlib.sha256(body).hexdigest() == ref.sha256
    digest = bundle.manifest.files["onnx-int8/model.onnx"].chunks[0]
    assert ask(responder, "chunk", digest)[1] == b"model"


def test_a_large_manifest_comes_in_parts(
    responder: Responder, repository: Repository, make_bundle: Callable[..., Bundle]
) -> None:
    content = random.Random(5).randbytes(CHUNK_BYTES * 1200 // 8)
    bundle = make_bundle("1.0.0", content=content)
    folder = repository.folder / "targets" / GROUP
    folder.mkdir(parents=True, exist_ok=True)
    whole = content[: CHUNK_BYTES * 2 + 5]
    name = f"{'a' * 64}.surface-1.0.0.json"
    (folder / name).write_bytes(whole)
    answers = [ask(responder, "target", f"{GROUP}/{name}", part) for part in range(3)]
    assert [head.parts for head, _ in answers] == [3, 3, 3]
    assert b"".join(body for _, body in answers) == whole
    assert ask(responder, "target", f"{GROUP}/{name}", 3)[0].status == 404
    assert ask(responder, "target", f"{GROUP}/{name}", -1)[0].status == 404
    assert bundle.manifest.size_bytes > 0


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("metadata", "../keys/root.pem"),
        ("metadata", "../online/timestamp.pem"),
        ("metadata", "1.root.json/../../keys/root.pem"),
        ("metadata", "/etc/passwd"),
        ("metadata", "1.root.json\n"),
        ("metadata", "1.root.json\0"),
        ("metadata", "../hub.db"),
        ("metadata", "0.root.json"),
        ("metadata", "99.root.json"),
        ("metadata", ""),
        ("metadata", "."),
        ("target", f"../{'a' * 64}.x.json"),
        ("target", f"{GROUP}/../../keys/{'a' * 64}.x.json"),
        ("target", f"{GROUP}/{'a' * 64}.x.json"),
        ("target", f"./{'a' * 64}.x.json"),
        ("chunk", "../../keys/root.pem"),
        ("chunk", "A" * 64),
        ("chunk", "0" * 64),
        ("chunk", "0" * 63 + "/"),
        ("chunk", ""),
    ],
)
def test_nothing_outside_is_reached(responder: Responder, repository: Repository, kind: str, path: str) -> None:
    (repository.folder / "targets" / GROUP).mkdir(parents=True, exist_ok=True)
    head, body = ask(responder, kind, path)
    assert (head.status, body) == (404, b"")
    assert responder.counters["not_found"] == 1


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(["metadata", "target", "chunk"]), st.text(alphabet="./\\ab0139.json-line\0\n%~*", max_size=40))
def test_no_name_at_all_reaches_a_key_or_raises(responder: Responder, kind: str, path: str) -> None:
    assert b"PRIVATE KEY" not in ask(responder, kind, path)[1]


Answers = queue.Queue[tuple[str, bytes]]


def into(answers: Answers) -> Callable[[str, bytes, bytes], bool]:
    """Returns what publishes answers into a queue."""

    def publish(device: str, head: bytes, body: bytes) -> bool:
        answers.put((device, head + body))
        return True

    return publish


def test_a_device_is_sent_no_more_than_its_rate(repository: Repository) -> None:
    answers: Answers = queue.Queue()
    turns = FairQueue(device_bytes_s=1.0)  # the first answer fills an hour
    responder = Responder(repository, into(answers), queue=turns)
    responder.start()
    for number in range(2):
        responder.offer("cam-01", encode(RepoRequest(id=str(number), kind="metadata", path="1.root.json")))
        assert answers.get(timeout=60) if number == 0 else True
    with pytest.raises(queue.Empty):
        answers.get(timeout=0.3)
    responder.close()


def test_requests_are_answered_in_threads_and_too_many_are_told_so(repository: Repository) -> None:
    answers: Answers = queue.Queue()
    responder = Responder(repository, into(answers))
    for number in range(DEVICE_WAITING_MAX + 3):
        responder.offer("cam-01", encode(RepoRequest(id=str(number), kind="metadata", path="1.root.json", part=number)))
    statuses = [decode_framed(answers.get(timeout=60)[1], RepoResponse)[0].status for _ in range(3)]
    assert statuses == [503, 503, 503]
    assert responder.counters["busy"] == 3
    responder.start()
    responder.close()
    heads = dict(decode_framed(answers.get_nowait()[1], RepoResponse) for _ in range(DEVICE_WAITING_MAX))
    assert sorted(head.status for head in heads) == [200] + [404] * (DEVICE_WAITING_MAX - 1)
    assert repository.root_bytes() in heads.values()


def test_what_is_asked_again_while_it_waits_is_answered_once_under_the_newest_id(repository: Repository) -> None:
    answers: Answers = queue.Queue()
    responder = Responder(repository, into(answers))
    for number in range(5):
        responder.offer("cam-01", encode(RepoRequest(id=str(number), kind="metadata", path="1.root.json")))
    responder.start()
    responder.close()
    assert decode_framed(answers.get_nowait()[1], RepoResponse)[0].id == "4"
    assert answers.empty()


def test_several_requests_share_a_message(repository: Repository) -> None:
    answers: Answers = queue.Queue()
    responder = Responder(repository, into(answers))
    requests = [RepoRequest(id=str(number), kind="metadata", path="1.root.json", part=number) for number in range(3)]
    with pytest.raises(BadInputFormatError):
        responder.offer("cam-01", b"\n".join([*map(encode, requests), b"{}", encode(requests[0])]))
    responder.start()
    responder.close()
    heads = [decode_framed(answers.get_nowait()[1], RepoResponse)[0] for _ in requests]
    assert [(head.id, head.status) for head in sorted(heads, key=lambda head: head.id)] == [
        ("0", 200),
        ("1", 404),
        ("2", 404),
    ]
    assert answers.empty()


def test_what_is_no_request_has_a_code(responder: Responder) -> None:
    for payload in (b"", b"{}", b'{"id": "1", "kind": "key", "path": "x"}'):
        with pytest.raises(BadInputFormatError):
            responder.offer("cam-01", payload)
    assert responder.counters["malformed"] == 3


def test_an_answer_that_could_not_be_sent_is_counted(repository: Repository) -> None:
    responder = Responder(repository, lambda _device, _head, _body: False)
    responder.start()
    responder.offer("cam-01", encode(RepoRequest(id="1", kind="metadata", path="1.root.json")))
    responder.close()
    assert responder.counters["not_sent"] == 1


def test_an_enrolled_device_gets_no_file_of_another_group(tmp_path: Path, make_bundle: Callable[..., Bundle]) -> None:
    repository = Repository.create(tmp_path / "two-groups", groups=[GROUP, "line-b"])
    ref, own = (repository.publish(make_bundle("1.0.0"), group) for group in (GROUP, "line-b"))
    answers: queue.Queue[RepoResponse] = queue.Queue()

    def answer(_device: str, head: bytes, body: bytes) -> bool:
        answers.put(decode_framed(head + body, RepoResponse)[0])
        return True

    responder = Responder(repository, answer, group_of={"cam-2": "line-b"}.get)
    responder.start()

    def status_of(device: str, kind: str, path: str) -> int:
        responder.offer(device, encode(RepoRequest(id="1", kind=kind, path=path)))  # type: ignore[arg-type]
        return answers.get(timeout=60).status

    try:
        manifest = f"{GROUP}/{ref.sha256}.surface-1.0.0.json"
        assert status_of("cam-2", "target", manifest) == 404
        assert status_of("cam-2", "metadata", f"2.{GROUP}.json") == 404
        assert responder.counters["foreign"] == 2
        assert status_of("cam-2", "target", f"line-b/{own.sha256}.surface-1.0.0.json") == 200
        assert status_of("cam-2", "metadata", "1.root.json") == 200
        assert status_of("not-enrolled", "target", manifest) == 200
    finally:
        responder.close()
