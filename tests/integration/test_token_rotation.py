"""Tokens are changed while everything runs: another one in the file, the old one revoked, and nothing is restarted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benches.worker import obedient, worker_options
from harmonicio.control.client import MasterClient
from harmonicio.control.private_files import write_private_file
from harmonicio.core.errors import NotAllowed
from harmonicio.core.roles import Role
from harmonicio.master.service import MasterOptions, MasterService
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.service import WorkerService


def test_worker_and_source_go_on_with_the_token_that_takes_the_place_of_the_revoked_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {role: tmp_path / f"{role}.token" for role in (Role.WORKER, Role.SOURCE)}
    monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path))
    monkeypatch.setenv("HARMONICIO_CLIENT_TOKEN_FILE", str(files[Role.SOURCE]))
    with MasterService(MasterOptions(tmp_path / "master", port=0, data_port=0, settle_s=0.0)) as service:
        old = {role: service.token_file(role).read_text() for role in files}
        for role, file in files.items():
            write_private_file(file, old[role])
        worker = WorkerService(
            worker_options(tmp_path), MasterClient(service.url, lambda: files[Role.WORKER].read_text())
        )
        worker.start()
        try:
            with MasterClient(service.url, service.token_file(Role.ADMIN).read_text()) as admin:
                admin.declare_stream(replace(obedient(tmp_path), engines=1))
                wait_until(lambda: admin.stream("images").running == 1, 30, what="an engine")
                with StreamConnector("images", master=service.url) as connector:
                    assert connector.send(b"before").result(30) == "before"
                    before = admin.workers()[0]
                    for role, file in files.items():
                        write_private_file(file, admin.create_token(f"{role}-2", role).secret)
                        admin.revoke_token(role)
                    for secret in old.values():
                        with MasterClient(service.url, secret) as stranger, pytest.raises(NotAllowed):
                            stranger.status()
                    admin.revoke_all_leases()  # So that the connector must ask again.
                    assert connector.send(b"after").result(30) == "after"
                    wait_until(
                        lambda: (
                            (now := admin.workers()[0]).last_report_age_s < 2 and now.engines == before.engines == 1
                        ),
                        20,
                        what="the worker to report",
                    )
                    assert admin.scale_stream("images", 2)
                    wait_until(lambda: admin.stream("images").running == 2, 30, what="an engine that came later")
        finally:
            worker.stop(5.0)
