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
import numpy as np
import numpy.typing as npt

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
    return _served(Request(data=data, limits=limits))


def pdf_image(data: bytes, number: int, *, dpi: float = 100) -> npt.NDArray[np.uint8]:
    """Renders a page.

    Args:
        number: Of the page, from 0.
        dpi: Resolution; less where the page would have more than 6 megapixels.

    Returns:
        ``(H, W) uint8`` grey.

    Raises:
        DocumentError: It is encrypted, damaged, beyond a limit, or has no such page.
        MissingExtraError: PDFium is not installed.
    """
    request = Request(data=data, limits=DocumentLimits(), images=(number,), dpi=dpi)
    for page in _served(request):
        return page_image(page)
    raise DocumentError("no such page", expected="a page of the PDF", actual=f"page {number + 1}", action="")


def page_image(page: PdfPage) -> npt.NDArray[np.uint8]:
    """Returns the image of a page that was rendered, ``(H, W) uint8`` grey.

    Raises:
        DocumentError: It has none, or not as many pixels as it says.
    """
    width, height = page.image_size
    if not page.image or width * height != len(page.image):
        raise DocumentError("a page could not be rendered", expected="an image", actual=f"page {page.number + 1}")
    return np.frombuffer(page.image, np.uint8).reshape(height, width)


def _served(request: Request) -> Iterator[PdfPage]:
    limits = request.limits
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
        yield from _answers(process, request)
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
