"""``lineside read``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.console import inform, print_json, show
from lineside.options import add_json, bundle_path, positive
from lineside_runtime.errors import ConfigError, InputNotFoundError
from lineside_runtime.wording import counted

if TYPE_CHECKING:
    from lineside_models.nlp.document import Document, DocumentReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a PDF, DOCX, text file, or an image of a page")
    parser.add_argument(
        "--schema",
        metavar="NAME|FILE",
        help="contract, certificate, delivery-note, label, or a TOML file of your own (default: the bundle's, else "
        "contract)",
    )
    parser.add_argument(
        "--bundle", type=bundle_path, metavar="BUNDLE", help="a document bundle (default: the rules of the schema)"
    )
    parser.add_argument(
        "--legal-terms",
        metavar="FILE",
        help="a JSON file of terms, which proposes where values stand and gives them their normal form; law_dict.json "
        "is the shipped one",
    )
    parser.add_argument(
        "--agent",
        type=Path,
        metavar="DIR",
        help="let the agent with this state folder read it, by the document bundle that was deployed to it",
    )
    parser.add_argument("--text", action="store_true", help="print the text in reading order, and find nothing in it")
    parser.add_argument(
        "--format", choices=("json", "csv", "html"), help="print the report in this format (default: a table)"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the boxes of the values")
    parser.add_argument("--pages-max", type=positive, metavar="N", help="refuse a PDF with more pages (default: 200)")
    parser.add_argument("--seconds", type=positive, metavar="N", help="give up after so many seconds (default: 300)")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from lineside_models.nlp.extraction.contract_parser import ContractParser
    from lineside_runtime.files import ensure_writable
    from lineside_runtime.system import heap

    heap.save_memory()
    if options.json and options.format not in (None, "json"):
        raise ConfigError("--json and --format", expected="one of them", action="")
    if options.text and (options.format or options.html is not None):
        other = "--format" if options.format else "--html"
        raise ConfigError(f"--text and {other}", expected="one of them: --text finds no values", action="")
    if options.html is not None:
        ensure_writable(options.html)
    if options.text:
        text = _document(options).text
        if options.json:
            print_json({"source": str(options.file), "text": text})
        else:
            show(text)
        return 0
    if options.agent is not None:
        document, report = _document(options), _by_agent(options)
    else:
        with ContractParser(options.legal_terms, schema=options.schema, bundle=options.bundle) as parser:
            document = _document(options)
            report = parser.report(document)
    _give(options, report, document)
    return 0


def _by_agent(options: argparse.Namespace) -> DocumentReport:
    import msgspec

    from lineside_agent.documents.service import DocumentRequest, ask
    from lineside_models.nlp.document import DocumentReport

    for name in ("schema", "bundle", "legal_terms"):
        if getattr(options, name) is not None:
            given = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{given} and --agent", expected="one of them: the agent has its own", action="")
    try:
        request = DocumentRequest(name=options.file.name, content=options.file.read_bytes())
    except OSError as error:
        raise InputNotFoundError(f"{options.file}: {error.strerror}") from error
    return msgspec.convert(ask(options.agent, request), DocumentReport)


def _give(options: argparse.Namespace, report: DocumentReport, document: Document) -> None:
    from lineside_models.nlp.report_writer import write_report
    from lineside_runtime.files import write_atomic

    if options.html is not None:
        write_atomic(options.html, write_report(report, document, "html", source=options.file).encode())
        inform(f"wrote {options.html}")
    if options.json:
        print_json(report)
    elif options.format:
        sys.stdout.write(write_report(report, document, options.format, source=options.file))
    else:
        _show(report)
        if options.schema is options.bundle is options.agent is None:
            inform("read as a contract; --schema certificate, delivery-note, label or FILE reads another kind")


def _document(options: argparse.Namespace) -> Document:
    from lineside_models.nlp.reading import DocumentLimits, read_document

    given = {"pages_max": options.pages_max, "seconds": options.seconds}
    limits = DocumentLimits(**{name: value for name, value in given.items() if value is not None})
    progress = sys.stderr.isatty()

    def on_page(number: int) -> None:
        if progress:
            print(f"\rpage {number + 1} read", end="", file=sys.stderr, flush=True)

    document = read_document(options.file, limits=limits, on_page=on_page)
    if progress:
        print(file=sys.stderr)
    return document


def _show(report: DocumentReport) -> None:
    """Prints the values, then the findings that a person must check."""
    for one in report.entities:
        where = "" if one.page is None else f"page {one.page + 1}"
        value = f"{one.value or one.text} {one.unit}".rstrip()
        show(f"{one.type:<24} {value:<28} {one.score:4.2f}  {where}".rstrip())
    for item in report.review:
        show(f"LOOK AT  {item.field}: {item.reason.replace('_', ' ')}: {item.text}")
    found = f"{counted(len(report.entities), 'value')}, {counted(len(report.relations), 'relation')}"
    inform(f"{found}, {len(report.review)} to look at")
