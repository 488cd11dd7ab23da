"""A tier or the feature database is away for a while: no attempt is burnt, and all goes on by itself."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.control.caller import READ_TIMEOUT_S
from harmonicio.core.errors import HandlerFailed
from harmonicio.core.stream import StreamDeclaration
from harmonicio.haste import master_extension
from harmonicio.haste.feature_db.base import RowFilter
from harmonicio.haste.feature_db.master import MasterFeatureDatabase
from harmonicio.stream_connector import Delivery, StreamConnector
from harmonicio.testing.waiting import wait_until

Write = Callable[[str, str], Path]
Connect = Callable[..., StreamConnector]
Trouble = Callable[[Path], AbstractContextManager[None]]

COUNTS = """
    import time
    from pathlib import Path
    from harmonicio.engine import handler

    @handler
    def features(message):
        with open(Path(__file__).with_name("executed.txt"), "a") as file:
            file.write("x")
        time.sleep(message.metadata.get("sleeps_s", 0))
        return {"focus": message.metadata.get("focus", 0.8)}
"""

#: A tier that neither writes nor fails while a file says so, as one on a hard-mounted share that is away.
HANGS = """
    from harmonicio.haste.tiers.file import FileTier

    HANGS = Path(__file__).with_name("hangs")
    write = FileTier.write

    def write_later(*given):
        while HANGS.exists():
            time.sleep(0.05)
        return write(*given)

    FileTier.write = write_later
"""


@contextmanager
def in_the_way(tier: Path) -> Iterator[None]:
    """Where the tier's folder was, there is a file: nothing can be written, whoever tries."""
    away = tier.with_name("away")
    tier.rename(away)
    tier.touch()
    yield
    tier.unlink()
    away.rename(tier)


@contextmanager
def full(tier: Path) -> Iterator[None]:
    """No room is left on the tier's volume."""
    ballast = tier / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    yield
    ballast.unlink()


@contextmanager
def read_only(tier: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", str(tier)], check=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw", str(tier)], check=True)


@contextmanager
def locked(tier: Path) -> Iterator[None]:
    """Somebody else has the master's feature database for himself."""
    with sqlite3.connect(tier.parent / "cluster" / "master" / "features.sqlite", isolation_level=None) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield
        database.execute("ROLLBACK")
    database.close()


@contextmanager
def hanging(tier: Path) -> Iterator[None]:
    """Who writes into the tier waits for ever."""
    hangs = tier.with_name("hangs")
    hangs.touch()
    yield
    hangs.unlink()


@pytest.fixture
def tier(tmp_path: Path) -> Iterator[Path]:
    """A tier's folder; where tests may mount, a volume of its own of 1 MiB."""
    folder = tmp_path / "tier"
    folder.mkdir()
    if os.geteuid():
        yield folder
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def declare(cluster: LocalCluster, handler: Path, tier: Path, engines: int = 2, timeout_s: float = 600.0) -> None:
    haste = {
        "function": {"name": "feature", "feature": "focus"},
        "policy": {"intervals": [[0, 1, "A"]]},
        "tiers": {name: {"folder": str(tier / name)} for name in ("A", "unscored")},
    }
    declaration = StreamDeclaration(
        "s", str(handler), engines=engines, max_attempts=2, timeout_s=timeout_s, plugins={"haste": haste}
    )
    cluster.declare(declaration)
    cluster.wait_for_engines("s", engines)


def test_storage_that_is_away_for_a_while_burns_no_attempts_and_is_used_again_by_itself(
    cluster: LocalCluster, write_handler: Write, connect: Connect, tmp_path: Path, tier: Path
) -> None:
    declare(cluster, write_handler("features", COUNTS), tier)
    # A folder that is mounted cannot be renamed, and one that is not cannot be filled.
    troubles = (locked, in_the_way) if os.geteuid() else (locked, full, read_only)
    executed, sent = tmp_path / "executed.txt", []
    with connect("s") as by_engines, connect("s", patience_s=0.0) as by_backlog:
        sent.append(by_engines.send(b"before"))
        sent[0].result(timeout_s=20)
        for number, trouble in enumerate(troubles):
            with trouble(tier):
                before = executed.stat().st_size
                sent += [each.send(bytes(100) + b"%d" % number) for each in (by_engines, by_backlog) for _ in range(5)]
                # Each would have been a dead letter after two.
                tried = 20 if trouble is not locked else 2
                wait_until(lambda: executed.stat().st_size >= before + tried, 30, what="attempts")  # noqa: B023
                assert [each.dead for each in cluster.client.backlog()] == [0]
            for each in sent:
                each.result(timeout_s=40)
    check_each_was_kept_once(cluster, sent, tier)


def check_each_was_kept_once(cluster: LocalCluster, sent: list[Delivery], tier: Path) -> None:
    (figures,) = cluster.client.backlog()
    assert (figures.dead, figures.ready, figures.reserved) == (0, 0, 0)
    rows = list(MasterFeatureDatabase(cluster.client).rows(RowFilter("s")))
    assert sorted(row.message_id for row in rows) == sorted(each.message_id for each in sent)
    assert {row.attempt for row in rows} == {1}, "no attempt was burnt"
    kept = [path for path in (tier / "A").rglob("*") if path.is_file()]
    assert len(kept) == len(sent), "one copy of each"


@pytest.mark.parametrize("trouble", [hanging, locked])
def test_storage_that_hangs_for_longer_than_the_time_out_burns_no_attempts_and_is_used_again_by_itself(
    cluster: LocalCluster,
    write_handler: Write,
    connect: Connect,
    tmp_path: Path,
    tier: Path,
    trouble: Trouble,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("harmonicio.core.stream.KEEPING_AT_LEAST_S", 1.0)  # The worker's: engines would try longer.
    declare(cluster, write_handler("features", COUNTS + HANGS), tier, timeout_s=1.0)
    executed = tmp_path / "executed.txt"
    with connect("s") as by_engines, connect("s", patience_s=0.0) as by_backlog:
        sent = [by_engines.send(b"before")]
        sent[0].result(timeout_s=20)
        with trouble(tier):
            before = executed.stat().st_size
            sent += [each.send(bytes(100) + b"%d" % number) for each in (by_engines, by_backlog) for number in range(2)]
            # Nine executions of four messages: at least one of them had three, and two would have been its end.
            wait_until(lambda: executed.stat().st_size >= before + 9, 60, what="engines that were killed")
            assert [each.dead for each in cluster.client.backlog()] == [0]
        for each in sent:
            each.result(timeout_s=40)
    check_each_was_kept_once(cluster, sent, tier)


def test_a_handler_that_hangs_itself_uses_up_its_attempts_behind_a_plugin_too(
    cluster: LocalCluster, write_handler: Write, connect: Connect, tier: Path
) -> None:
    declare(cluster, write_handler("features", COUNTS), tier, timeout_s=1.0)
    with connect("s") as connector, pytest.raises(HandlerFailed, match=r"TimedOut.*2 attempts are used up"):
        connector.send(b"pixels", metadata={"sleeps_s": 600}).result(timeout_s=40)


def test_a_feature_database_that_is_locked_for_longer_than_anybody_waits_delays_its_messages_and_nobody_else(
    tmp_path: Path, write_handler: Write, tier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(master_extension, "MAX_COMMITS", 8)  # This host has no room for many more engines.
    engines, asked_s = master_extension.MAX_COMMITS + 2, []
    with LocalCluster(tmp_path / "cluster", max_engines=engines) as cluster:
        declare(cluster, write_handler("features", COUNTS), tier, engines)
        source = {"master": cluster.url, "token": cluster.source_token}
        with StreamConnector("s", **source) as by_engines, StreamConnector("s", patience_s=0.0, **source) as by_backlog:
            with locked(tier):
                sent = [each.send(b"%d" % n) for n in range(20) for each in (by_engines, by_backlog)]
                until = time.monotonic() + READ_TIMEOUT_S + 2.0
                while time.monotonic() < until:
                    begun = time.monotonic()
                    assert [each.dead for each in cluster.client.backlog()] == [0]
                    cluster.client.status()
                    asked_s.append(time.monotonic() - begun)
                    time.sleep(0.1)
                assert list(MasterFeatureDatabase(cluster.client).rows(RowFilter("s"))) == []
            for each in sent:
                each.result(timeout_s=60)
        assert max(asked_s) < READ_TIMEOUT_S / 3
        check_each_was_kept_once(cluster, sent, tier)
