from __future__ import annotations

import pytest
from packaging.specifiers import SpecifierSet

from lineside_runtime.backends.common.versions import allows
from lineside_runtime.errors import BundleFormatError

RANGES = (
    "",
    ">=1.20",
    ">=1.20,<2",
    "<1.20.0",
    ">1.20",
    "<=1.20",
    " >= 1.20 , < 2 ",
    "==1.20",
    "!=1.20",
    "~=1.20",
    "==1.*",
)
VERSIONS = ("1.20", "1.20.0", "1.20.1", "1.9", "2", "2.0", "2.0.0.1", "1.20rc1", "1.20.post1", "0", "1.20+local")


@pytest.mark.parametrize("wanted", RANGES)
@pytest.mark.parametrize("version", VERSIONS)
def test_it_says_what_packaging_says(wanted: str, version: str) -> None:
    assert allows(wanted, version) == SpecifierSet(wanted).contains(version, prereleases=True)


@pytest.mark.parametrize("wanted", ["newest", ">=", "1.20", ">=1.20,", ">=1.20;<2"])
def test_what_is_no_range_is_refused(wanted: str) -> None:
    try:
        SpecifierSet(wanted)
    except ValueError:
        with pytest.raises(BundleFormatError, match="requires"):
            allows(wanted, "1.20")
    else:
        assert allows(wanted, "1.20")
