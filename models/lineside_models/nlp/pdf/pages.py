"""Pages of a PDF, read by PDFium in a process of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Iterator

import msgspec

from lineside_models.nlp.limits import DocumentLimits
from lineside_models.nlp.pdf.messages import Answer, Finished, PdfPage, Refused, Request, receive, send
from lineside_runtime.errors import DocumentError, MissingExtraError

_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from lineside_models.nlp.pdf.child import main; main()"
)
"""Isolated mode (``-I``) keeps the working folder out of the search path."""


def pdf_pages(data: bytes, limits: DocumentLimits) -> Iterator[PdfPage]:
    """Yields the pages in their order; the process ends with the iterator.

    Raises:
        DocumentError: It is encrypted, damaged, or beyond a limit.
        MissingExtraError: PDFium is not installed.
    """
    if importlib.util.find_spec("pypdfium2") is None:
        raise MissingExtraError(
            "reading a PDF needs the package 'pypdfium2'", action="Run: pip install 'lineside[documents]'"
        )
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", _START, json.dumps([entry for entry in sys.path if entry])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(limits.seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield from _answers(process, Request(data=data, limits=limits))
    except (EOFError, BrokenPipeError, ValueError, msgspec.DecodeError) as error:
        process.kill()
        status = process.wait()
        raise _gone(limits, status, late=late.is_set()) from error
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]  # both are pipes


def _answers(process: subprocess.Popen[bytes], request: Request) -> Iterator[PdfPage]:
    if process.stdin is None or process.stdout is None:
        raise EOFError
    send(process.stdin, request)  # type: ignore[arg-type]  # IO[bytes]
    process.stdin.close()
    decoder = msgspec.msgpack.Decoder(Answer)
    while True:
        answer = receive(process.stdout, decoder)  # type: ignore[arg-type]
        if isinstance(answer, Finished):
            return
        if isinstance(answer, Refused):
            raise DocumentError(answer.message, expected=answer.expected, actual=answer.actual, action=answer.action)
        yield answer


def _gone(limits: DocumentLimits, status: int, *, late: bool) -> DocumentError:
    if late:
        return too_slow(limits)
    return DocumentError(
        "the PDF could not be read: the process that reads it has ended",
        expected=f"a PDF that needs at most {limits.memory_mb} MiB and breaks nothing",
        actual=f"exit status {status}",
        action="Print the file as a new PDF and read that.",
    )


def too_slow(limits: DocumentLimits) -> DocumentError:
    """Returns the error of a document that takes too long."""
    return DocumentError(
        "reading the document takes too long",
        expected=f"at most {limits.seconds:g} s",
        actual="more",
        action="Split the file, or raise DocumentLimits(seconds=…), `--seconds` of lineside read.",
    )
