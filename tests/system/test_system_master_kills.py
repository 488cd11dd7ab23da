"""The master is killed again and again at random while messages wait, arrive and leave: nothing is lost or kept twice.

CI has the short form. ``make kill-master`` has the full one, 20 kills with 1,000 messages of 2 MB in the backlog, and
prints what was counted, all of it from outside: from the source, the handlers' notes, the tiers and the databases.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from benches.plates import STREAM, Plates, Source
from benches.roles import Roles
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until

SEED = int(os.environ.get("KILL_SEED", "20180712"))


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done: messages in the backlog before the first kill, kills, what is sent meanwhile."""

    messages: int
    size_bytes: int
    kills: int
    longest_s: float
    sent_per_s: float
    handler_s: float
    timeout_s: float


SHORT = Plan(60, 2_000_000, 5, 1.5, 5, 0.2, 100)
FULL = Plan(1_000, 2_000_000, 20, 5.0, 8, 0.3, 1_500)
PLAN = FULL if os.environ.get("KILL_MASTER") == "full" else SHORT
#: A backlog that is full of large messages.
LARGE_BYTES, LARGE_MESSAGES = 5_000_000, 1_000 if PLAN is FULL else 20


@pytest.mark.timeout(PLAN.timeout_s + 60)
def test_a_master_that_is_killed_again_and_again_loses_nothing_and_has_nothing_kept_twice(
    tmp_path: Path, free_ports: tuple[int, int]
) -> None:
    chance = random.Random(SEED)
    roles = Roles(tmp_path / "home", *free_ports)
    plates = Plates(tmp_path, size_bytes=PLAN.size_bytes, pause_s=PLAN.handler_s)
    waiting: list[int] = []
    away_s: list[float] = []
    with ExitStack() as masters:
        master = _start(roles, masters)
        with roles.client() as client:
            client.declare_stream(plates.declaration())
        connector = StreamConnector(stream=STREAM, master=roles.url, token=roles.token("source"))
        with connector, roles.running("worker"):
            for _ in range(PLAN.messages):
                plates.send(connector)
            connector.flush("safe", timeout_s=PLAN.timeout_s)
            with roles.client() as client:
                client.scale_stream(STREAM, 2)
            wait_until(lambda: plates.handled, 60, what="an engine at work")
            with Source(plates, connector, PLAN.sent_per_s) as source:
                for _ in range(PLAN.kills):
                    waiting.append(_depth(roles))
                    time.sleep(chance.uniform(0.1, PLAN.longest_s))
                    master.kill()
                    master.wait()
                    killed_at = time.monotonic()
                    master = _start(roles, masters)
                    away_s.append(time.monotonic() - killed_at)
            assert source.error is None
            plates.hurry()
            connector.flush("processed", timeout_s=PLAN.timeout_s)
            wait_until(lambda: _depth(roles) == 0, 60, what="an empty backlog")
    auditor = plates.audit(tmp_path / "home" / "master")
    sys.stdout.write(
        f"\n{PLAN.kills} kills of the master (seed {SEED}); {min(waiting)} to {max(waiting)} messages of "
        f"{PLAN.size_bytes / 1e6:g} MB were waiting at them; it was back after {max(away_s):.1f} s at most.\n"
        f"{', '.join(f'{name}: {count}' for name, count in auditor.figures().items())}\n"
        f"violations: {auditor.violations()}\n"
    )
    assert auditor.violations() == []
    assert auditor.figures()["processed"] == len(plates.deliveries) > PLAN.messages
    assert len(waiting) == PLAN.kills and min(waiting) > 0


@pytest.mark.timeout(PLAN.timeout_s)
def test_a_full_backlog_is_given_out_in_its_order_after_the_master_was_killed(
    tmp_path: Path, free_ports: tuple[int, int]
) -> None:
    room = {"MASTER_BACKLOG_MAX_DISK_BYTES": str((LARGE_MESSAGES + 1) * LARGE_BYTES - 1)}
    roles = Roles(tmp_path / "home", *free_ports, **room)
    plates = Plates(tmp_path, size_bytes=LARGE_BYTES, pause_s=0.0)
    priorities = random.Random(SEED).choices((-1, 0, 7), k=LARGE_MESSAGES)
    with ExitStack() as masters:
        master = _start(roles, masters)
        with roles.client() as client:
            client.declare_stream(plates.declaration(engines=1))
        with StreamConnector(stream=STREAM, master=roles.url, token=roles.token("source")) as connector:
            sent = [plates.send(connector, priority).message_id for priority in priorities]
            connector.flush("safe", timeout_s=PLAN.timeout_s)
            one_too_many = plates.send(connector)
            assert not connector.wait_until_safe([one_too_many], timeout_s=2.0)
            master.kill()
            master.wait()
            _start(roles, masters)
            assert _depth(roles) == LARGE_MESSAGES
            with roles.running("worker"):
                connector.flush("processed", timeout_s=PLAN.timeout_s)
    handled = [line.split()[0] for line in plates.handled if line.split()[0] != one_too_many.message_id]
    places = sorted(range(LARGE_MESSAGES), key=lambda place: (-priorities[place], place))
    assert handled == [sent[place] for place in places]
    assert plates.audit(tmp_path / "home" / "master").violations() == []


def _start(roles: Roles, masters: ExitStack) -> subprocess.Popen[bytes]:
    master = masters.enter_context(roles.running("master"))
    wait_until(roles.is_up, 60, what="a master that answers")
    return master


def _depth(roles: Roles) -> int:
    with roles.client() as client:
        figures = client.stream(STREAM).backlog
        return figures.ready + figures.reserved
