"""What the records of the control plane, and of the settings, show of themselves: a repr may come into a log."""

from __future__ import annotations

from typing import Any

import pytest

from harmonicio.control.engine_messages import EngineConfiguration
from harmonicio.control.messages import BacklogAccess, Lease, LeaseGrant, TokenView, WorkerWelcome
from harmonicio.core.lease import Address
from harmonicio.core.settings import ClientSettings, Settings
from harmonicio.core.stream import StreamDeclaration
from harmonicio.wire.events import Hello, Role

SECRET = "not for a log"
ADDRESS = Address("127.0.0.1", 1)
BACKLOG = BacklogAccess(ADDRESS, SECRET, 60.0)
LEASE = Lease("l-1", "e-1", ADDRESS, SECRET, 60.0)
GIVEN = (SECRET, SECRET, "http://127.0.0.1:1", ADDRESS, "control.sock", "127.0.0.1", "scratch", 1, 1.0)


@pytest.mark.parametrize(
    "record",
    [
        WorkerWelcome(1.0, SECRET, ADDRESS),
        EngineConfiguration("e-1", "w-1", StreamDeclaration("cells", handler="mine.py"), *GIVEN),
        LeaseGrant((LEASE,), BACKLOG, "engine", 1.0),
        TokenView("scope", "source", 0.0, SECRET),
        Hello(Role.CONNECTOR, "cells", SECRET),
        Settings(client=ClientSettings(token=SECRET)),
    ],
    ids=lambda record: type(record).__name__,
)
def test_a_record_does_not_show_what_proves_a_right(record: Any) -> None:
    assert SECRET not in repr(record)
