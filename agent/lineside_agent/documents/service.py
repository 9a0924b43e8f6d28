"""Documents for programs on the same machine: a socket in the state folder.

One JSON object a line each way; a connection may bring many. The content travels, not a path: a program may read with
the agent only what it could read itself::

    {"name": "contract.pdf", "content": "JVBERi0…"}
        ->  {"source": "contract.pdf", "bundle": "contracts@1.0.1", "entities": […], "relations": […], "review": […]}

``content`` is in base64. The answer is that of `ContractParser`. Who may write to the socket is the agent's user and
group.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, Any

import msgspec

from lineside_agent.config import DocumentsConfig
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.service.line_socket import LineServer, ask_line
from lineside_models.nlp.document import DocumentReport
from lineside_models.nlp.extraction.contract_parser import ContractParser
from lineside_models.nlp.limits import DocumentLimits
from lineside_models.nlp.reading import read_document
from lineside_runtime.errors import RequestError
from lineside_runtime.session import Session

NAME = "documents.sock"

CONTENT_MAX = 32 << 20
"""Bytes of a document."""

LINE_MAX = 4 * CONTENT_MAX // 3 + 4096


class DocumentRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Request of a program.

    Attributes:
        name: Of the file, for the report.
        content: Of the file; base64 in JSON.
    """

    name: Annotated[str, msgspec.Meta(max_length=255)] = ""
    content: bytes


class DocumentService:
    """Reads documents by the active bundle, one at a time."""

    def __init__(self, folder: Path, config: DocumentsConfig, active: ActiveBundle, stop: threading.Event) -> None:
        self._config, self._active = config, active
        self._limits = DocumentLimits(bytes_max=CONTENT_MAX, pages_max=config.pages_max, seconds=config.seconds)
        self._server = LineServer(folder / NAME, DocumentRequest, self.ask, line_max=LINE_MAX)
        self._stop = stop
        self._reading = threading.Lock()
        self._parser: tuple[Session, ContractParser] | None = None

    def run(self) -> None:
        """Serves in the caller's thread until stopped."""
        self._server.run_until(self._stop)

    def ask(self, request: DocumentRequest) -> DocumentReport:
        """Reads a document.

        Raises:
            RequestError: The active bundle reads no documents.
            LinesideError: As `read_document` and `ContractParser.report`.
        """
        with self._reading, self._active.use() as loaded:
            if loaded is None or not loaded.bundle.manifest.preprocess.text:
                raise RequestError(
                    "no document bundle runs here",
                    actual="no bundle" if loaded is None else loaded.bundle.manifest.identity,
                    action="Push a document bundle to this device.",
                )
            if self._parser is None or self._parser[0] is not loaded.session:
                self._parser = loaded.session, ContractParser(self._config.legal_terms or None, bundle=loaded.session)
            document = read_document(request.content, limits=self._limits)
            return msgspec.structs.replace(self._parser[1].report(document), source=request.name)


def ask(folder: Path, request: DocumentRequest) -> dict[str, Any]:
    """Sends a document to the agent with this state folder: the other end of the socket.

    Raises:
        InputNotFoundError: No agent listens there.
        RequestError: It can't read the document, or has ended meanwhile.
    """
    action = "Start the agent with `lineside agent run`; its configuration needs a [documents] table."
    return ask_line(folder / NAME, msgspec.json.encode(request), action=action)
