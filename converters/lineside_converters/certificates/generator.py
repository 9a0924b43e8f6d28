"""Synthetic inspection certificates (EN 10204 3.1) with their true values: no open set of real ones exists.

Values and limits are drawn around those of common steel grades; makers, numbers and layouts are invented. There are
`LAYOUTS`, of which `HELD_OUT` are for judging only: no rule, label or threshold may be chosen on them. Everything
follows from the seed.
"""

from __future__ import annotations

import dataclasses
import datetime
import random
from typing import Any

from lineside_converters.certificates.layouts import LAYOUTS, Certificate, CertifiedValue, Language, draw
from lineside_converters.certificates.pdf_writer import write_pdf

__all__ = ["HELD_OUT", "LAYOUTS", "TUNED_ON", "Certificate", "make_certificate", "truth"]

HELD_OUT = ("m-ledger", "n-framed", "o-dual", "p-compact")
"""Layouts that extraction is judged on."""

TUNED_ON = tuple(name for name in LAYOUTS if name not in HELD_OUT)

_GRADES = {
    "S235JR": "C -0.17, Mn -1.4, P -0.035, S -0.035, N -0.012, Cu -0.55; ReH 235-, Rm 360-510, A 26-",
    "S355J2+N": "C -0.2, Si -0.55, Mn -1.6, P -0.025, S -0.025, Cu -0.55; ReH 355-, Rm 470-630, A 22-, KV 27-",
    "S355MC": "C -0.12, Si -0.5, Mn -1.5, P -0.025, S -0.02, Al 0.015-, Nb -0.09, V -0.2, Ti -0.15; "
    "ReH 355-, Rm 430-550, A 19-",
    "DC04": "C -0.08, Mn -0.4, P -0.03, S -0.03; Rp02 140-210, Rm 270-350, A 38-",
    "HC340LA": "C -0.12, Si -0.5, Mn -1.5, P -0.03, S -0.025, Al 0.015-, Nb -0.09, Ti -0.15; "
    "Rp02 340-420, Rm 410-510, A 21-",
    "P265GH": "C -0.2, Si -0.4, Mn 0.8-1.4, P -0.025, S -0.01, Al 0.02-, Cr -0.3, Cu -0.3, Mo -0.08, Ni -0.3; "
    "ReH 265-, Rm 410-530, A 22-, KV 40-",
    "42CrMo4": "C 0.38-0.45, Si -0.4, Mn 0.6-0.9, P -0.025, S -0.035, Cr 0.9-1.2, Mo 0.15-0.3; "
    "Rp02 750-, Rm 1000-1200, A 11-, KV 35-",
    "C45E": "C 0.42-0.5, Si -0.4, Mn 0.5-0.8, P -0.03, S -0.035, Cr -0.4, Mo -0.1, Ni -0.4; "
    "ReH 370-, Rm 630-780, A 17-",
    "1.4301": "C -0.07, Si -1.0, Mn -2.0, P -0.045, S -0.015, Cr 17.5-19.5, Ni 8.0-10.5, N -0.1; "
    "Rp02 210-, Rm 520-720, A 45-, HB -215",
    "1.4404": "C -0.03, Si -1.0, Mn -2.0, P -0.045, S -0.015, Cr 16.5-18.5, Ni 10.0-13.0, Mo 2.0-2.5, N -0.1; "
    "Rp02 220-, Rm 520-680, A 40-",
}
"""Limits ``least-most`` of the heat analysis in percent, then of the tests in MPa, %, J and HBW, after EN 10025, 10028,
10083, 10088, 10130, 10149 and 10268."""

Limits = dict[str, tuple[float | None, float | None]]

_TRACES = ("Al", "Cr", "Ni", "Mo", "Cu", "V", "Nb", "Ti", "N")
_LETTERS = "ABCDEFGHKLMNPRSTUVWXYZ"


def make_certificate(seed: int, layout: str) -> tuple[Certificate, bytes]:
    """Makes one certificate.

    Args:
        seed: Of everything that is drawn.
        layout: One of `LAYOUTS`.

    Returns:
        The true values, and the PDF.
    """
    chance = random.Random(f"{layout}/{seed}")
    certificate = _values(chance, LAYOUTS[layout].languages)
    return certificate, write_pdf([draw(certificate, LAYOUTS[layout], chance)])


def truth(certificate: Certificate, layout: str) -> tuple[dict[str, str], set[tuple[str, str, str]]]:
    """Returns the true values and relations of a certificate.

    Returns:
        The values by `Entity.type`, and the relations as (type, quantity, normalised limit).
    """
    shown = LAYOUTS[layout].fields
    fields = {
        "heat_number": certificate.heat_number,
        "certificate_number": certificate.certificate_number,
        "order_number": certificate.order_number,
        "grade": certificate.grade,
        "net_weight": str(certificate.net_weight_kg),
        "date": certificate.date.isoformat(),
    }
    values = {name: value for name, value in fields.items() if name in shown}
    relations: set[tuple[str, str, str]] = set()
    for table, measured in (("chemistry", certificate.chemistry), ("mechanical", certificate.mechanical)):
        for one in measured:
            values[f"{table}.{one.name}"] = f"{one.value:.{one.decimals}f}"
            for role, limit in (("min", one.least), ("max", one.most)):
                if limit is not None:
                    relations.add((f"{role}_of", f"{table}.{one.name}", f"{limit:.{one.decimals}f}"))
    return values, relations


def _values(chance: random.Random, languages: tuple[Language, ...]) -> Certificate:
    grade = chance.choice(sorted(_GRADES))
    chemistry, mechanical = map(_limits, _GRADES[grade].split(";"))
    return Certificate(
        heat_number=_identifier(chance, chance.choice(("LdLddd", "dddddd", "Ldddddd", "dddddL", "Ld-dddd", "LLddddd"))),
        certificate_number=_identifier(chance, chance.choice(("dddddd/dd", "LL-ddddddd", "dddddddd"))),
        order_number=_identifier(chance, chance.choice(("4500dddddd", "PO-ddddd", "ddddd-dd"))),
        grade=grade,
        dimensions=f"{chance.choice((0.8, 1.5, 2.0, 3.0, 6.0, 12.0))} x {chance.choice((1000, 1250, 1500, 2000))}",
        net_weight_kg=chance.randrange(3000, 26000, 10),
        date=datetime.date(2025, 1, 1) + datetime.timedelta(days=chance.randrange(700)),
        language=chance.choice(languages),
        comma=chance.random() < 0.6,
        chemistry=_chemistry(chance, chemistry),
        mechanical=tuple(
            _measurement(chance, name, limits, decimals=0 if name != "A" else chance.choice((0, 1)))
            for name, limits in mechanical.items()
        ),
    )


def _limits(text: str) -> Limits:
    found: Limits = {}
    for one in text.split(","):
        name, bounds = one.split()
        least, _, most = bounds.partition("-")
        found[name] = (float(least) if least else None, float(most) if most else None)
    return found


def _identifier(chance: random.Random, form: str) -> str:
    return "".join({"L": chance.choice(_LETTERS), "d": chance.choice("0123456789")}.get(one, one) for one in form)


def _chemistry(
    chance: random.Random, limits: dict[str, tuple[float | None, float | None]]
) -> tuple[CertifiedValue, ...]:
    traces = [one for one in _TRACES if one not in limits and chance.random() < 0.35]
    all_limits: Limits = {**limits, **dict.fromkeys(traces, (None, None))}
    decimals = chance.choice((3, 3, 2))
    found = []
    for name in ("C", "Si", "Mn", "P", "S", *_TRACES):
        if name in all_limits:
            small = name in ("P", "S", "N", "Al", "Nb", "V", "Ti") or decimals == 3
            found.append(_measurement(chance, name, all_limits[name], decimals=3 if small else 2))
    return tuple(found)


def _measurement(
    chance: random.Random, name: str, limits: tuple[float | None, float | None], *, decimals: int
) -> CertifiedValue:
    least, most = limits
    if least is not None and most is not None:
        value = chance.uniform(least, most)
    elif least is not None:
        value = least * chance.uniform(1.02, 1.35)
    else:
        value = (0.08 if most is None else most) * chance.uniform(0.15, 0.95)
    return CertifiedValue(name, max(round(value, decimals), 10**-decimals), least, most, decimals)


@dataclasses.dataclass(frozen=True, slots=True)
class ScanNoise:
    """How a printed page is scanned.

    Attributes:
        skew_deg: Largest angle to either side.
        blur: Largest standard deviation in pixels.
        noise: Standard deviation in grey levels.
        specks: Dark and white specks a megapixel, as of a copier.
        fade: How much darkest and brightest grey approach each other, 0 to 1.
    """

    dpi: int = 200
    skew_deg: float = 1.0
    blur: float = 0.8
    noise: float = 6.0
    jpeg: int = 75
    specks: int = 20
    fade: float = 0.15


SCAN = ScanNoise()
COPY = ScanNoise(skew_deg=1.5, blur=1.2, noise=14.0, jpeg=50, specks=300, fade=0.35)
"""A copy of a copy."""


def scan(pdf: bytes, seed: int, how: ScanNoise = SCAN) -> bytes:
    """Prints and scans the first page of a PDF.

    Returns:
        A JPEG.

    Raises:
        MissingExtraError: PDFium is not installed.
    """
    import cv2
    import numpy as np

    from lineside_models.nlp.pdf.pages import pdf_image

    chance = np.random.default_rng(seed)
    page = pdf_image(pdf, 0, dpi=how.dpi).astype(np.float32)
    height, width = page.shape
    turn: Any = cv2.getRotationMatrix2D((width / 2, height / 2), float(chance.uniform(-1, 1) * how.skew_deg), 1.0)
    page = cv2.warpAffine(page, turn, (width, height), flags=cv2.INTER_CUBIC, borderValue=(255,))
    page = cv2.GaussianBlur(page, (0, 0), max(0.3, float(chance.uniform(0.4, 1) * how.blur)))
    for grey in (20.0, 255.0):
        count = int(how.specks * height * width / 1e6)
        for x, y in zip(chance.integers(0, width, count), chance.integers(0, height, count), strict=True):
            cv2.circle(page, (int(x), int(y)), int(chance.integers(1, 3)), (grey,), -1)
    light = 1 - 0.08 * chance.random() * np.linspace(0, 1, width, dtype=np.float32)
    page = (255 * how.fade * 0.4 + page * (1 - how.fade * 0.6)) * light
    page += chance.normal(0, how.noise, page.shape).astype(np.float32)
    return bytes(cv2.imencode(".jpg", np.clip(page, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, how.jpeg])[1])
