"""What is fuzzed: every place where a payload from the broker, or a file from a stick, is read.

Each entry takes bytes and must return, or raise a `LinesideError`; anything else is a finding. The handlers are
the product's own, not copies: the hub's inbox, responder and registrar, the agent's wishes, answers and sticks.
"""

from __future__ import annotations

import bz2
import collections
import contextlib
import io
import logging
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

from lineside_agent.config import InspectConfig, RecipeConfig, read_settings
from lineside_agent.deployment.events import DesiredChanged
from lineside_agent.deployment.machine import BundleMachine, step
from lineside_agent.deployment.offline_import import OfflineArchive
from lineside_agent.hub_client.log_commands import LogCommands, RecentLog
from lineside_agent.hub_client.recipe_commands import RecipeCommands
from lineside_agent.hub_client.timing_commands import TimeCommands
from lineside_agent.inspection.recipes import Recipes
from lineside_hub.config import HubConfig
from lineside_hub.fleet.timeline import FleetTimeline, read_message
from lineside_hub.identity.registrar import Registrar
from lineside_hub.repository import root_ceremony
from lineside_hub.repository.repository import Repository
from lineside_hub.repository.responder import Responder
from lineside_hub.results.database import Database
from lineside_hub.results.frames.inbox import FrameWorker
from lineside_hub.results.frames.rows import open_rows
from lineside_hub.results.frames.storage import frame_blobs
from lineside_hub.results.streams import INTERACTIONS, RowBatch, read_batch
from lineside_hub.results.writer import ResultsSink
from lineside_link.client.client import LinkClient
from lineside_link.client.packets import split_publish
from lineside_link.client.read_ahead import ReadAhead
from lineside_link.config import LinkConfig
from lineside_link.messages import (
    CertificateAnswer,
    CertificateRequest,
    Deltas,
    Desired,
    DeviceAlarms,
    FrameAnswer,
    LogAnswer,
    Multicast,
    PatchFormat,
    RecipeAnswer,
    RepoRequest,
    RepoResponse,
    Reported,
    ResultsAck,
    TimeAnswer,
    Up,
    decode,
    decode_framed,
)
from lineside_link.topics import Topics
from lineside_link.transfer import deltas
from lineside_link.transfer.repository_client import RepoClient
from lineside_models.nlp.limits import DocumentLimits
from lineside_models.nlp.pdf.child import read_pdf
from lineside_models.nlp.pdf.messages import Request
from lineside_models.nlp.reading import read_document
from lineside_models.nlp.rules import extract_by_rules
from lineside_models.nlp.schemas import load_schema
from lineside_runtime.bundle import parse_manifest
from lineside_runtime.errors import LinesideError

TOPICS = Topics("t0")
PATCHED_BYTES = 4096
"""What every fuzzed patch claims to make."""

Entry = Callable[[bytes], None]


class Peers:
    """One hub and one device without a broker between them."""

    def __init__(self, folder: Path) -> None:
        logging.disable(logging.CRITICAL)
        self.folder = folder
        self.repository = Repository.create(folder / "hub", groups=["line"])
        self.database = Database.open(self.repository.folder)
        self.sink = ResultsSink(self.database)
        self.interaction_sink = ResultsSink(self.database, INTERACTIONS)
        self.fleet = FleetTimeline(self.database)
        self.responder = Responder(self.repository, lambda _device, _head, _body: True)
        config = HubConfig(folder=str(self.repository.folder), link=LinkConfig("mqtt://127.0.0.1:1", "t0"))
        self.frames = FrameWorker(
            config,
            open_rows(config, self.database),
            self.database,
            blobs=frame_blobs(config),
            counters=collections.Counter(),
            answer=lambda _device, _answer: None,
        )
        self.registrar = Registrar(folder / "no-authority", lambda _device, _payload: True)
        self.repo = RepoClient(LinkClient(LinkConfig("mqtt://127.0.0.1:1", "t0"), "cam-1"), TOPICS, "cam-1")
        self.machine = BundleMachine()
        recipes = Recipes(folder, (RecipeConfig(name="a"), RecipeConfig(name="b")))
        self.recipes = RecipeCommands(recipes, allowed=True, publish=lambda _: None)
        self.log_reader = LogCommands(RecentLog(), allowed=True, publish=lambda _: None)
        self.timing = TimeCommands(
            folder,
            allowed=True,
            board="",
            inspect=InspectConfig(),
            fetch=lambda *_: None,
            publish=lambda _: None,
        )
        self.schemas = [load_schema(name) for name in ("certificate", "contract")]
        self.limits = DocumentLimits(pages_max=3, characters_max=20_000)
        self.stick = folder / "fuzzed.lsb"
        self.base = folder / "base.bin"
        self.base.write_bytes(bytes(range(256)) * (PATCHED_BYTES // 256))

    def close(self) -> None:
        """Closes the hub's database, and lets the log speak again."""
        self.database.close()
        logging.disable(logging.NOTSET)

    def desired(self, data: bytes) -> None:
        """``g/<group>/desired``, ``d/<device>/desired``: decoded, and through the update machine."""
        for origin in ("group", "device"):
            self.machine, _ = step(self.machine, DesiredChanged(origin, decode(data, Desired)))

    def reported(self, data: bytes) -> None:
        """``d/<device>/reported``."""
        message = read_message("cam-1", data, Reported)
        with self.database.transaction():
            self.fleet.write_reported(message)

    def up(self, data: bytes) -> None:
        """``d/<device>/up``."""
        message = read_message("cam-1", data, Up)
        with self.database.transaction():
            self.fleet.write_up(message)

    def recipe_command(self, data: bytes) -> None:
        """``d/<device>/cmd/recipe``: asked for of the recipes themselves."""
        self.recipes.received("", data)

    def recipe_answer(self, data: bytes) -> None:
        """``d/<device>/cmd/recipe/ack``."""
        decode(data, RecipeAnswer)

    def alarms(self, data: bytes) -> None:
        """``alarms/<device>``: for other programs; no device reads it."""
        decode(data, DeviceAlarms)

    def log_command(self, data: bytes) -> None:
        """``d/<device>/cmd/log``."""
        self.log_reader.received("", data)

    def log_answer(self, data: bytes) -> None:
        """``d/<device>/cmd/log/ack``."""
        decode(data, LogAnswer)

    def time_command(self, data: bytes) -> None:
        """``d/<device>/cmd/time``: taken, and never carried out here."""
        self.timing.received("", data)

    def time_answer(self, data: bytes) -> None:
        """``d/<device>/cmd/time/ack``."""
        decode(data, TimeAnswer)

    def repo_get(self, data: bytes) -> None:
        """``repo/get/<device>``: no request reaches outside the three folders."""
        self.responder.respond(decode(data, RepoRequest))

    def repo_response(self, data: bytes) -> None:
        """``d/<device>/repo/rsp``."""
        decode_framed(data, RepoResponse)
        self.repo._receive("", data)

    def stream(self, data: bytes) -> None:
        """What a broker writes into the socket, before any topic is known: divided between paho and us."""
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            far.sendall(data)
            far.close()
            ahead = ReadAhead(near)
            seen = 0
            while seen <= len(data):
                packet = ahead.take()
                if packet is not None:
                    seen += 2 + len(packet)
                    with contextlib.suppress(ValueError):  # ends the connection
                        split_publish(packet)
                elif ahead.for_paho and (piece := ahead.recv(1000)):
                    seen += len(piece)
                else:
                    return
            raise ValueError("more was read than was written")

    def described_patches(self, data: bytes) -> None:
        """What the hub says of the patches that it has: in ``d/<device>/repo/rsp``."""
        for patch in decode(data, Deltas).patches:
            deltas.fits(patch, PATCHED_BYTES, PATCHED_BYTES)

    def described_multicast(self, data: bytes) -> None:
        """What the hub says that it will send to all: in ``d/<device>/repo/rsp``."""
        decode(data, Multicast)

    def patch_zstd(self, data: bytes) -> None:
        """A patch by zstd, which the hub sends and nobody has signed."""
        self._apply("zstd", data)

    def patch_bsdiff4(self, data: bytes) -> None:
        """A patch by bsdiff4: as it is, and the bytes as its three parts, so that bzip2 doesn't stop most of them."""
        parts = [*data.split(b"|", 2), b"", b"", b""]
        packed = [bz2.compress(part) for part in parts[:3]]
        sizes = (len(packed[0]), len(packed[1]), PATCHED_BYTES)
        head = b"BSDIFF40" + b"".join(size.to_bytes(8, "little") for size in sizes)
        try:
            self._apply("bsdiff4", data)
        except LinesideError:
            self._apply("bsdiff4", head + b"".join(packed))

    def _apply(self, kind: PatchFormat, data: bytes) -> None:
        made = sum(len(block) for block in deltas.apply(kind, self.base, data, PATCHED_BYTES))
        if made != PATCHED_BYTES:
            raise ValueError(f"a patch made {made} bytes")

    def results(self, data: bytes) -> None:
        """``d/<device>/res``: read and written, and undone so that the database stays small."""
        self._write_rows(self.sink, read_batch("cam-1", data))

    def interactions(self, data: bytes) -> None:
        """``d/<device>/interactions``: as `results`."""
        self._write_rows(self.interaction_sink, read_batch("cam-1", data, INTERACTIONS))

    def _write_rows(self, sink: ResultsSink, batch: RowBatch) -> None:
        try:
            with self.database.transaction():
                sink.write([batch])
                raise _UndoneError
        except _UndoneError:
            sink.forget()

    def results_ack(self, data: bytes) -> None:
        """``d/<device>/res/ack`` and ``d/<device>/interactions/ack``."""
        decode(data, ResultsAck)

    def frame(self, data: bytes) -> None:
        """``d/<device>/frame``."""
        self.frames.take("cam-1", data)

    def frame_ack(self, data: bytes) -> None:
        """``d/<device>/frame/ack``."""
        decode(data, FrameAnswer)

    def certificate_request(self, data: bytes) -> None:
        """``d/<device>/csr``."""
        self.registrar._answer("cam-1", decode(data, CertificateRequest))

    def certificate(self, data: bytes) -> None:
        """``d/<device>/cert``."""
        decode(data, CertificateAnswer)

    def group_chunks(self, data: bytes) -> None:
        """``chunk/<target>/<sha256>``: bytes that only their hash makes true; the manifest that names them."""
        parse_manifest(data)

    def settings(self, data: bytes) -> None:
        """A configuration from the hub."""
        read_settings(data)

    def archive(self, data: bytes) -> None:
        """A stick's archive, as it is and as a zip around the payload."""
        self.stick.write_bytes(data)
        try:
            OfflineArchive(self.stick).desired()
        except LinesideError:
            with zipfile.ZipFile(self.stick, "w") as made:
                made.writestr("tuf/desired.json", data)
            OfflineArchive(self.stick).desired()

    def document_text(self, data: bytes) -> None:
        """A document of text, and the rules of two schemas on it."""
        document = read_document(b"\n" + data.replace(b"\0", b""))
        for schema in self.schemas:
            extract_by_rules(document, schema)

    def document_docx(self, data: bytes) -> None:
        """A DOCX: as it is, and as the text part of one."""
        try:
            read_document(b"PK\x03\x04" + data)
        except LinesideError:
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as made:
                made.writestr("word/document.xml", data)
            read_document(packed.getvalue())

    def document_pdf(self, data: bytes) -> None:
        """A PDF, as the process that reads one does."""
        read_pdf(Request(data=data, limits=self.limits), io.BytesIO())

    def document_schema(self, data: bytes) -> None:
        """A schema of the user's own."""
        self.stick.write_bytes(data)
        load_schema(self.stick)

    def root_draft(self, data: bytes) -> None:
        """A draft of the root that is carried around."""
        self.stick.write_bytes(data)
        root_ceremony.read(self.stick)


class _UndoneError(Exception):
    pass


def entries(peers: Peers) -> dict[str, Entry]:
    """Returns every entry by name; those of topics are named as the methods of `Topics`."""
    topics = {
        "group_desired": peers.desired,
        "device_desired": peers.desired,
        "reported": peers.reported,
        "up": peers.up,
        "repo_get": peers.repo_get,
        "repo_response": peers.repo_response,
        "results": peers.results,
        "results_ack": peers.results_ack,
        "interactions": peers.interactions,
        "interactions_ack": peers.results_ack,
        "frame": peers.frame,
        "frame_ack": peers.frame_ack,
        "certificate_request": peers.certificate_request,
        "certificate": peers.certificate,
        "alarms": peers.alarms,
        "group_chunks": peers.group_chunks,
        "recipe_command": peers.recipe_command,
        "recipe_answer": peers.recipe_answer,
        "log_command": peers.log_command,
        "log_answer": peers.log_answer,
        "time_command": peers.time_command,
        "time_answer": peers.time_answer,
    }
    patches: dict[str, Entry] = {
        "stream": peers.stream,
        "described_patches": peers.described_patches,
        "described_multicast": peers.described_multicast,
        "patch_zstd": peers.patch_zstd,
        "patch_bsdiff4": peers.patch_bsdiff4,
    }
    files: dict[str, Entry] = {
        "settings": peers.settings,
        "archive": peers.archive,
        "root_draft": peers.root_draft,
        "document_text": peers.document_text,
        "document_docx": peers.document_docx,
        "document_pdf": peers.document_pdf,
        "document_schema": peers.document_schema,
    }
    return topics | patches | files


def guarded(entry: Entry, data: bytes) -> None:
    """Runs an entry: a refusal with a code is what is wanted; anything else gets out."""
    try:
        entry(data)
    except LinesideError as error:
        if not error.code:
            raise
