"""A master that is told to end: what it waits for."""

from __future__ import annotations

from pathlib import Path

import pytest

from benches.backlog import DONE, FATAL, HeldStore, message, reserve_one
from benches.master import PLATES, run_master
from harmonicio.core.message import Outcome, OutcomeKind
from harmonicio.master import service as service_module


def test_a_master_that_drains_waits_until_the_outcomes_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = HeldStore()
    store.is_holding = False
    monkeypatch.setattr(service_module, "create_store", lambda *_: store)
    with run_master(tmp_path) as service:
        backlog = service.master.backlog
        backlog.declare(PLATES)
        for message_id, outcome in (("done", DONE), ("dead", Outcome(OutcomeKind.FAILED, failure=FATAL))):
            store.is_holding = False
            backlog.put("plates", message(message_id, b"cells"), None, lambda _: None)
            reservation = reserve_one(backlog, "plates", "e1#1", 0.0)
            assert reservation is not None
            store.is_holding = True
            backlog.settle([reservation], outcome)
            assert not service.drain(0.05), "the outcome is not written, and the message would run again"
            store.release()
            assert service.drain(5.0)
