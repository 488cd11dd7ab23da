"""Addresses of data ports."""

from __future__ import annotations

import pytest

from harmonicio.core.lease import Address


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.0.3", True),
        ("localhost", True),
        ("::1", True),
        ("128.0.0.1", False),
        ("172.17.0.1", False),
        ("microscope-7", False),
        ("::", False),
        ("127.example.org", False),
    ],
)
def test_an_address_says_whether_it_is_on_this_host_for_whoever_dials_it(host: str, is_loopback: bool) -> None:
    assert Address(host, 8711).is_loopback is is_loopback
