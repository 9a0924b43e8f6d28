from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside_link.topics import NAME, Topics, check_name
from lineside_runtime.errors import ConfigError

names = st.from_regex(NAME, fullmatch=True)

OF_DEVICE = [
    name
    for name, make in inspect.getmembers(Topics, inspect.isfunction)
    if [*inspect.signature(make).parameters][1:] == ["device"]
]
"""Methods that make a topic of one device."""


@given(site=names, device=names)
def test_a_device_is_found_in_each_of_its_topics(site: str, device: str) -> None:
    for name in set(OF_DEVICE) - {"alarms"}:  # which is only published, and never taken apart
        topic = getattr(Topics(site), name)(device)
        assert topic.startswith(f"ls/v1/{site}/")
        assert Topics(site).device_of(topic) == device


@given(site=names, other=names, device=names)
def test_a_topic_of_another_site_or_of_a_group_has_no_device(site: str, other: str, device: str) -> None:
    assert Topics(site).device_of(Topics(site).group_desired(device)) == ""
    if site != other:
        assert Topics(site).device_of(Topics(other).up(device)) == ""


@pytest.mark.parametrize("name", ["cam-07", "a", "A.b_c-9", "1", "x" * 64])
def test_a_good_name_is_returned(name: str) -> None:
    assert check_name(name, "device") == name


@pytest.mark.parametrize(
    "name", ["", "+", "#", "a/b", "a b", "-a", ".hidden", "..", "ä", "x" * 65, "a\n", "$SYS", "%u", "a\x00"]
)
def test_what_topics_files_and_certificates_treat_specially_is_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_name(name, "device")
    assert caught.value.code == 2001
    assert "device" in str(caught.value)


def test_a_site_is_checked_when_it_is_made() -> None:
    with pytest.raises(ConfigError):
        Topics("plant/1")


def test_no_two_kinds_of_topic_are_the_same() -> None:
    makers = ("group_desired", *OF_DEVICE)
    assert len({getattr(Topics("s"), name)("n") for name in makers}) == len(makers)
