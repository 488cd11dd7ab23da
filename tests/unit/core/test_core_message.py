"""Message ids, outcomes and errors."""

from __future__ import annotations

import pytest

from harmonicio.core import errors
from harmonicio.core.errors import HarmonicIOError
from harmonicio.core.lease import Address
from harmonicio.core.message import MessageIds, RejectReason


def test_ids_of_one_connector_count_up() -> None:
    ids = MessageIds(bytes(range(8)))
    assert [ids.draw(), ids.draw()] == ["00010203040506070000000000000000", "00010203040506070000000000000001"]


def test_two_connectors_draw_different_ids() -> None:
    assert len({MessageIds().draw() for _ in range(1000)}) == 1000


def test_a_rejection_is_final_when_every_repeat_must_fail() -> None:
    assert {reason for reason in RejectReason if reason.is_final} == {RejectReason.TOO_LARGE, RejectReason.ID_CONFLICT}


@pytest.mark.parametrize(
    ("address", "text"),
    [(Address("127.0.0.1", 80), "127.0.0.1:80"), (Address("::1", 80), "[::1]:80"), (Address("host", 0), "host:0")],
)
def test_an_address_reads_as_in_a_url(address: Address, text: str) -> None:
    assert str(address) == text


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.0.9", True),
        ("::1", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
    ],
)
def test_only_what_never_leaves_the_host_is_loopback(host: str, is_loopback: bool) -> None:
    assert Address(host, 80).is_loopback is is_loopback


def every_error() -> list[type[HarmonicIOError]]:
    found, todo = [], [HarmonicIOError]
    while todo:
        kind = todo.pop()
        found.append(kind)
        todo += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ == errors.__name__]


def test_every_error_has_a_code_of_its_own() -> None:
    kinds = every_error()
    assert len({kind.code for kind in kinds}) == len(kinds) > 20


def test_an_error_reads_as_its_text_and_its_hint() -> None:
    error = errors.Unavailable("The backlog is full.", hint="Try again later.", retry_after_s=3.0)
    assert str(error) == "The backlog is full. Try again later."
    assert str(errors.Conflict("It exists.")) == "It exists."
    assert error.retryable and error.retry_after_s == 3.0
