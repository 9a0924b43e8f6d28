"""The installer of the development environment: what it tells uv, and when it leaves the work to pip."""

from __future__ import annotations

import pytest

from tests.ci.install import uv_environment

SETTINGS = """\
:env:.disable-pip-version-check='1'
:env:.find-links='/opt/wheels'
global.cert='/etc/ssl/ca.crt'
global.constraint='/etc/constraints.txt'
global.find-links='/other'
global.index-url='https://index.example/simple'
"""


def test_uv_is_told_what_pips_configuration_says_and_variables_come_first() -> None:
    assert uv_environment(SETTINGS) == {
        "SSL_CERT_FILE": "/etc/ssl/ca.crt",
        "UV_CONSTRAINT": "/etc/constraints.txt",
        "UV_DEFAULT_INDEX": "https://index.example/simple",
        "UV_FIND_LINKS": "/opt/wheels",
    }
    assert uv_environment("") == {}


@pytest.mark.parametrize(
    "setting",
    ["global.extra-index-url='https://x.example'", "install.no-binary=':all:'", "global.find-links='/a\\n/b'"],
)
def test_what_uv_cannot_be_told_is_left_to_pip(setting: str) -> None:
    assert uv_environment(SETTINGS + setting if "find" not in setting else setting) is None
