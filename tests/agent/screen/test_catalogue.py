"""The texts of the operator screen: none is missing in a language, and none is unused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import lineside_agent.screen
from lineside_agent.screen import alarms

STATIC = Path(lineside_agent.screen.__file__).with_name("static")
PLACES = {"regions": ("device", "hub", "file"), "toml": ("hub", "file")}
"""Where regions of the editor go, as `lineside_agent.screen.set_up.region_editor.Place`."""

TEXTS: dict[str, dict[str, str]] = json.loads((STATIC / "strings.json").read_text())


def test_every_language_has_every_text_with_the_same_values() -> None:
    for language, texts in TEXTS.items():
        assert texts.keys() == TEXTS["en"].keys(), language
        for key, text in texts.items():
            assert text.strip(), (language, key)
            assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", TEXTS["en"][key])), (language, key)


def test_every_text_of_page_and_alarms_is_in_the_catalogue_and_used() -> None:
    script = "".join(path.read_text() for path in sorted(STATIC.glob("*.js")))
    page = (STATIC / "index.html").read_text()
    python = Path(alarms.__file__).read_text()
    raised = set(re.findall(r'_condition\("(\w+)"', python)) | set(
        re.findall(r'\("([a-z_]+)", (?:"\w*", "[FCSM]", |"\w*state", )', python)
    )
    raised |= set(alarms.REFUSALS.values())
    used = {f"alarm_{key}" for key in raised} | {f"component_{name}" for name in alarms.COMPONENTS}
    used |= set(re.findall(r'data-(?:t|label)="(\w+)"', page))
    used |= {key for key in TEXTS["en"] if re.search(rf'"{key}"', script)}
    used |= {f"{prefix}_{name}" for prefix, names in PLACES.items() for name in names}
    used |= {f"verdict_{name}" for name in ("pass", "reject", "unsure", "fault")}
    used |= {f"theme_{name}" for name in ("auto", "light", "dark")} | {
        f"do_{name}" for name in ("trigger", "reset", "challenge")
    }
    assert used == TEXTS["en"].keys()
    assert set(re.findall(r'\bt\("(\w+)"', script)) <= used
