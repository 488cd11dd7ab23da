"""The disk of the backlog is full, and not by its own measure: sources are slowed, nothing is lost, and it passes.

The master gets a small disk of its own, and settings that allow far more. CI sends twice what a disk of 30 MB takes;
``make fill-disk`` twice what one of 200 MB takes, and prints what was counted.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from benches import small_disk
from benches.plates import STREAM, Plates, Source
from benches.roles import Roles
from harmonicio.control.client import MasterClient
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until

IS_FULL = os.environ.get("FILL_DISK") == "full"
DISK_MB = 200 if IS_FULL else 30
SENT_MB = 2 * DISK_MB
#: So long nothing more may get in before the disk counts as full.
STILL_FOR_S = 3.0 if IS_FULL else 1.5
HOT_CACHE_BYTES = 8_000_000
#: A master with an empty backlog, what it receives and what waits to be written.
MASTER_MAX_MB = 400

pytestmark = pytest.mark.timeout(600 if IS_FULL else 120)


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent, and whether engines, slow ones, are there from the start."""

    size_bytes: int
    has_engines: bool


CASES = {
    "large messages, which are files": Case(DISK_MB * 10_000, has_engines=False),
    "small messages, so that commits fail": Case(60_000, has_engines=False),
    "a slow consumer": Case(DISK_MB * 10_000, has_engines=True),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_source_is_slowed_while_the_disk_is_full_and_all_is_processed_in_the_end(
    tmp_path: Path, free_ports: tuple[int, int], case: Case
) -> None:
    small_disk.check_mounts()
    home = tmp_path / "home"
    roles = Roles(home, *free_ports, MASTER_BACKLOG_HOT_CACHE_BYTES=str(HOT_CACHE_BYTES))
    plates = Plates(tmp_path, size_bytes=case.size_bytes, pause_s=0.5)
    messages = SENT_MB * 1_000_000 // case.size_bytes
    disk = small_disk.program(f"{DISK_MB}m", home / "master" / "backlog")
    with roles.running("master", through=disk) as master:
        wait_until(roles.is_up, 20)
        with roles.client() as client, roles.running("worker"):
            client.declare_stream(plates.declaration(engines=2 if case.has_engines else 0))
            connector = StreamConnector(
                stream=STREAM, master=roles.url, token=roles.token("source"), byte_budget_bytes=4_000_000
            )
            with connector, Source(plates, connector, messages=messages) as source:
                if case.has_engines:  # They go on taking some, so there is no standstill.
                    wait_until(lambda: len(plates.deliveries) > 0.45 * messages, 300, what="a disk that is full")
                else:
                    _wait_until_still(plates)
                sent, received_mb = len(plates.deliveries), _received_mb(roles)
                stored = client.stream(STREAM).backlog
                time.sleep(STILL_FOR_S)
                again_mb = _received_mb(roles) - received_mb
                peak_mb = _peak_mb(master.pid)
                client.scale_stream(STREAM, 2)
                plates.hurry()
                wait_until(lambda: len(plates.deliveries) == messages, 300, what="all to be sent")
                connector.flush("processed", timeout_s=300)
            assert source.error is None
            figures = client.stream(STREAM).backlog
            assert (figures.ready, figures.reserved, figures.dead) == (0, 0, 0)
        peak_mb = max(peak_mb, _peak_mb(master.pid))
    auditor = plates.audit(home / "master")
    sys.stdout.write(
        f"\nA disk of {DISK_MB} MB, {messages} messages of {case.size_bytes / 1e6:g} MB: {sent} were sent when it was "
        f"full, with {stored.ready + stored.reserved} stored; {again_mb:.0f} MB were sent to it in vain in "
        f"{STILL_FOR_S:g} s; the master used {peak_mb:.0f} MB of memory.\n"
        f"{', '.join(f'{name}: {count}' for name, count in auditor.figures().items())}\n"
        f"violations: {auditor.violations()}\n"
    )
    assert auditor.violations() == []
    assert auditor.figures()["processed"] == messages > sent
    assert peak_mb < MASTER_MAX_MB
    assert again_mb < DISK_MB


@pytest.mark.parametrize("is_ballast_held", [True, False], ids=["the ballast is held", "there is no ballast"])
def test_a_master_that_was_killed_starts_again_on_a_full_disk_and_empties_it(
    tmp_path: Path, free_ports: tuple[int, int], is_ballast_held: bool
) -> None:
    small_disk.check_mounts()
    home = tmp_path / "home"
    roles = Roles(home, *free_ports)
    plates = Plates(tmp_path, size_bytes=1_000_000, pause_s=0.0)
    with small_disk.Disk("30m", home / "master") as disk:
        ballast = disk.seen_from_outside / "backlog" / "ballast"
        with roles.running("master", on=disk.on) as master:
            wait_until(roles.is_up, 20)
            shutil.copytree(disk.seen_from_outside / "tokens", home / "master" / "tokens")
            with roles.client() as client:
                client.declare_stream(plates.declaration(engines=0 if is_ballast_held else 2))
            connector = StreamConnector(stream=STREAM, master=roles.url, token=roles.token("source"))
            for _ in range(10):
                plates.send(connector)
            connector.flush("safe", timeout_s=20)
            master.kill()
            master.wait()
        if not is_ballast_held:
            ballast.unlink()
        disk.fill()
        with connector, roles.running("master", on=disk.on), roles.client() as client:
            wait_until(roles.is_up, 20)
            refused = plates.send(connector)
            with roles.running("worker"):
                if is_ballast_held:
                    client.scale_stream(STREAM, 2)
                else:
                    wait_until(lambda: len(plates.handled) > 1, 20, what="messages to be given out")
                    assert _held(client) == 10
                    assert not refused.is_safe
                    disk.free()
                connector.flush("processed", timeout_s=60)
            if is_ballast_held:
                disk.free()
            plates.send(connector)
            wait_until(lambda: client.stream(STREAM).backlog.ready == 1, 20, what="messages to be taken again")
            wait_until(ballast.exists, 20, what="the ballast to be held again")
        shutil.copytree(disk.seen_from_outside, tmp_path / "left")
    auditor = plates.audit(tmp_path / "left")
    assert auditor.violations() == []
    assert auditor.figures()["processed"] == 11


def _held(client: MasterClient) -> int:
    """Return how many messages the backlog has, by one look: they come back from engines meanwhile."""
    figures = client.stream(STREAM).backlog
    return figures.ready + figures.reserved


def _wait_until_still(plates: Plates) -> None:
    """Wait until the source has come no further for a while."""
    seen = [(-1, 0.0)]

    def is_still() -> bool:
        count, now = len(plates.deliveries), time.monotonic()
        if count != seen[-1][0]:
            seen.append((count, now))
        return now - seen[-1][1] > STILL_FOR_S

    wait_until(is_still, 300, what="a source that is held up")


def _received_mb(roles: Roles) -> float:
    with roles.client() as client:
        return client.status().data_received_bytes / 1e6


def _peak_mb(pid: int) -> float:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024
