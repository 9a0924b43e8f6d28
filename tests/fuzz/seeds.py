"""What the fuzzer starts from: one good message for each entry, so that it needn't invent JSON first."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from lineside_converters.certificates.pdf_writer import PdfCanvas, write_pdf
from lineside_link.client.packets import publish_head
from lineside_link.messages import (
    BundleRef,
    CertificateAnswer,
    CertificateRequest,
    ConfigRef,
    Deltas,
    Desired,
    DeviceAlarms,
    FrameAnswer,
    FramePiece,
    InteractionRow,
    InteractionRows,
    LogAnswer,
    LogCommand,
    Multicast,
    OpenAlarm,
    Patch,
    Problem,
    RecipeAnswer,
    RecipeCommand,
    RepoRequest,
    RepoResponse,
    Reported,
    ResultRow,
    Results,
    ResultsAck,
    TimeAnswer,
    TimeCommand,
    Up,
    VariantTimes,
    encode,
    encode_framed,
)
from lineside_link.transfer import deltas

_BUNDLE = BundleRef(name="surface", version="1.0.0", target="line/surface-1.0.0.json", sha256="0" * 64)
_CONFIG = ConfigRef(target="line/config-0.toml", sha256="0" * 64)
_PROBLEM = Problem(code=3003, error="SignatureError", message="m")
_DESIRED = encode(Desired(epoch=1, gen=2, bundle=_BUNDLE, config=_CONFIG, rollout="r"))
_ROW = ResultRow(seq=1, part_id="p", verdict="reject", detections=(("scratch", 0.5, 1.0, 2.0, 3.0, 4.0),))
_PIECE = FramePiece(epoch="e", seq=1, sha256="0" * 64, size=3)
_PATCH = Patch(file="0" * 64, base="1" * 64, format="zstd", size=9, sha256="2" * 64, chunks=("2" * 64,))
_OLD = bytes(range(256)) * 16
_NEW = _OLD[:2000] + b"another" + _OLD[2007:]
_CONTROL = b"".join(value.to_bytes(8, "little") for value in (4096, 0, 0))

_CANVAS = PdfCanvas(200, 100)
_CANVAS.text(10, 20, "Heat No. A2B347")
_CANVAS.line(0, 30, 200, 30)
_PDF = write_pdf([_CANVAS])

SEEDS: dict[str, tuple[bytes, ...]] = {
    "group_desired": (_DESIRED,),
    "device_desired": (_DESIRED,),
    "reported": (encode(Reported(device="cam-1", state="failed", installed=_BUNDLE, error=_PROBLEM)),),
    "log_command": (encode(LogCommand(id="1", lines=3)),),
    "log_answer": (encode(LogAnswer(id="1", text="a line")),),
    "recipe_command": (encode(RecipeCommand(id="1", recipe="b")),),
    "recipe_answer": (encode(RecipeAnswer(id="1", recipe="a", error=_PROBLEM)),),
    "time_command": (encode(TimeCommand(id="1", bundle=_BUNDLE)), encode(TimeCommand(id="2"))),
    "time_answer": (
        encode(
            TimeAnswer(id="1", state="done", variants=(VariantTimes(variant="a", device="d", rounds_ms=((1.0,),)),))
        ),
    ),
    "up": (encode(Up(device="cam-1", up=True, boot_id="b", devices=("ort/cpu:0",), engines={"ort": "1"})),),
    "repo_get": tuple(
        encode(RepoRequest(id="1", kind=kind, path=path))  # type: ignore[arg-type]  # kinds as text
        for kind, path in (
            ("metadata", "timestamp.json"),
            ("target", "line/" + "0" * 64 + ".a.json"),
            ("chunk", "0" * 64),
        )
    ),
    "repo_response": (encode_framed(RepoResponse(id="1-1-1", status=200, size=3), b"abc"),),
    "stream": (
        publish_head(b"a/b", 3)
        + b"abc"
        + b"\xd0\x00"
        + b"\x32\x06\x00\x01t\x00\x07x"
        + publish_head(b"c", 200)
        + bytes(200),
        b"\x20\x02\x00\x00\x90\x03\x00\x01\x00\x30\xff\xff\xff\xff\x7f",
    ),
    "described_patches": (encode(Deltas(patches=(_PATCH,))),),
    "described_multicast": (encode(Multicast(id="1", chunks=3, bytes_s=9)),),
    "patch_zstd": (deltas.make("zstd", _OLD, _NEW), deltas.make("zstd", b"", _NEW)),
    "patch_bsdiff4": (deltas.make("bsdiff4", _OLD, _NEW), _CONTROL + b"|" + bytes(4096) + b"|"),
    "results": (encode(Results(epoch="e", rows=(_ROW,), after=0, through=1)), b'{"epoch":"e","rows":[{"seq":1}]}'),
    "results_ack": (encode(ResultsAck(epoch="e", seq=1)),),
    "interactions": (
        encode(
            InteractionRows(
                epoch="e",
                rows=(
                    InteractionRow(seq=1, user_id="u", item_id="i", at_ns=5, label=0, answer=1, propensity=0.5),
                    InteractionRow(seq=2, user_id="u", item_id="i", at_ns=6, label=1, answer=1),
                ),
                after=0,
                through=2,
            )
        ),
        b'{"epoch":"e","rows":[{"seq":1}]}',
    ),
    "interactions_ack": (encode(ResultsAck(epoch="e", seq=1)),),
    "frame": (encode_framed(_PIECE), encode_framed(msgspec.structs.replace(_PIECE, offset=0), b"abc")),
    "frame_ack": (encode(FrameAnswer(epoch="e", seq=1, sha256="0" * 64, status="refused", error=_PROBLEM)),),
    "certificate_request": (encode(CertificateRequest(device="cam-1", csr="x", signer="token:a", signature="AA==")),),
    "alarms": (
        encode(
            DeviceAlarms(
                device="cam-1",
                alarms=(OpenAlarm(id=1, rule="drift", priority="low", state="active", value=1.0, raised_at_ns=1),),
            )
        ),
    ),
    "certificate": (encode(CertificateAnswer(device="cam-1", request="0", status="refused", error=_PROBLEM)),),
    "group_chunks": (b'{"schema":1,"name":"a","version":"1","files":{}}',),
    "settings": (
        b"[inspect]\nconfidence_threshold = 0.5\nthreads = 2\n[store]\nkeep_images = 'all'\n",
        b"[inspect]\nthresholds = {a = 0.5}\nslicing = {side_px = 640}\n"
        b"[[inspect.regions]]\nkind = 'ignore'\nmask = 'iVBORw0KGgo='\n",
    ),
    "archive": (_DESIRED,),
    "document_text": (
        b"Heat No.: A2B347\tGrade\tS355J2\nElement\tC\tMn\nmin.\t-\t0,8\nHeat\t0,17\t1,42\nDate: 3 Mar 2026\n",
        "This Agreement is made as of March 3, 2026. The laws of the State of Ohio apply. Rm\t≥ 355 MPa\n".encode(),
    ),
    "document_docx": (
        b'<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:tbl><w:tr><w:tc><w:p><w:r>'
        b"<w:t>C</w:t><w:tab/></w:r></w:p></w:tc></w:tr></w:tbl></w:document>",
    ),
    "document_pdf": (_PDF,),
    "document_schema": (
        b'name = "a"\n[[fields]]\nname = "b"\nkind = "number"\nlabels = ["B"]\nunits = ["kg"]\nmin = 0\n'
        b'[[tables]]\nname = "t"\nquantities = [{name = "q", units = ["%"]}]\nlimits = {q = {max = 1.0}}\n',
    ),
    "root_draft": (b'{"signatures":[],"signed":{"_type":"root","version":1,"keys":{},"roles":{}}}',),
}


def write_seeds(name: str, folder: Path) -> None:
    """Puts the seeds of an entry into a corpus."""
    for data in SEEDS.get(name, ()):
        (folder / f"seed-{hashlib.sha1(data).hexdigest()[:12]}").write_bytes(data)
